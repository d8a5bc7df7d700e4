"""Calls of the Bot API, and what came of them.

A bot's token is part of every address that is called. httpx writes addresses to its log, and its errors carry them; so
it never sees one: the client calls addresses without the token, and the transport below it puts the token in.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import httpx
import trio

from .messages import Upload

_TIMEOUT = httpx.Timeout(10.0, read=30.0, write=30.0)
_FAULT = 500
# Of what stands between us and the server, these are about the call: it is too large, or comes too soon.
_PLAIN = (413, 429)
# The ways in which servers say so: also those that call it a fault of their own.
_UNKNOWN = re.compile(r"\bmethod\b.{0,80}\b(not (found|supported|implemented)|unknown)|\bunknown method", re.IGNORECASE)


class ApiRefused(Exception):
    """The server understood, and will not.

    Attributes:
        method: What was called.
        code: Like an HTTP status.
        description: The server's words.
        retry_after: Seconds that it wants us to wait.
        migrated_to: The id that the chat has now.
    """

    def __init__(
        self,
        method: str,
        code: int,
        description: str = "",
        *,
        retry_after: float | None = None,
        migrated_to: int | None = None,
    ) -> None:
        super().__init__(f"{method} was refused ({code}): {description or 'no reason given'}")
        self.method = method
        self.code = code
        self.description = description
        self.retry_after = retry_after
        self.migrated_to = migrated_to

    @property
    def unknown_method(self) -> bool:
        """Whether the server does not know the method (or, if it knows no method, the token)."""
        return self.code in (404, 405, 501) or self.says_unknown

    @property
    def says_unknown(self) -> bool:
        """Whether it says so in words."""
        return _UNKNOWN.search(self.description) is not None

    @property
    def unmodified(self) -> bool:
        """Whether an edit changed nothing, which is as good as done."""
        return "message is not modified" in self.description.lower()

    @property
    def says_nothing(self) -> bool:
        """Whether the text has nothing in it that could be seen."""
        words = self.description.lower()
        return "text is empty" in words or "text must be non-empty" in words


class ApiFailed(Exception):
    """Nobody knows whether the server heard us, or it had a fault of its own: it may pass.

    Attributes:
        method: What was called; "" if that is of no interest.
        unknown_method: Whether it looks as if the method were unknown: what nobody needs is not called again.
    """

    def __init__(self, message: str, method: str = "", *, unknown_method: bool = False) -> None:
        super().__init__(message)
        self.method = method
        self.unknown_method = unknown_method


class BotApi:
    """The Bot API, as one bot calls it. Open it with ``async with``; it can be opened again.

    Args:
        token: The bot's; it appears in no log and no error.
        api_base: Where the server is.
        transport: What carries the calls; httpx's own by default.
    """

    def __init__(self, token: str, api_base: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._token = token
        self._base = api_base.rstrip("/")
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"BotApi({self._base!r})"

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Make calls possible."""
        carrier = self._transport or httpx.AsyncHTTPTransport(retries=1, proxy=_proxy(self._base))
        keyed = _Keyed(carrier, self._token, httpx.URL(self._base).path.rstrip("/"))
        async with httpx.AsyncClient(transport=keyed, timeout=_TIMEOUT) as client:
            self._client = client
            try:
                yield
            finally:
                self._client = None

    async def call(
        self, method: str, params: Mapping[str, Any], upload: Upload | None = None, *, wait: float = 0.0
    ) -> Any:
        """Call a method; returns its result.

        Args:
            method: Its name.
            params: Its parameters; None stands for one that is not given.
            upload: A file.
            wait: Seconds for which the server may hold its answer back.

        Raises:
            ApiRefused: The server refused.
            ApiFailed: It could not be reached, or failed.
        """
        given = {name: value for name, value in params.items() if value is not None}
        timeout = httpx.Timeout(_TIMEOUT.connect, read=(_TIMEOUT.read or 0.0) + wait)
        try:
            response = await self._opened().post(f"{self._base}/bot/{method}", timeout=timeout, **_body(given, upload))
        except httpx.HTTPError as error:
            raise ApiFailed(f"{method}: the server could not be reached ({type(error).__name__})") from None
        return self._result(method, response)

    async def fetch(self, file_path: str, limit: int) -> bytes | None:
        """A file's content; None if it is longer than `limit` bytes.

        Raises:
            ApiRefused: The server refused.
            ApiFailed: It could not be reached.
        """
        data = bytearray()
        try:
            async with self._opened().stream("GET", f"{self._base}/file/bot/{quote(file_path)}") as response:
                if response.status_code != httpx.codes.OK:
                    raise ApiRefused("file", response.status_code)
                with trio.CancelScope() as reading:
                    async for chunk in response.aiter_bytes():
                        data += chunk
                        if len(data) > limit:
                            reading.cancel()  # httpx does not clean up after who just leaves
        except httpx.HTTPError as error:
            raise ApiFailed(f"file: the server could not be reached ({type(error).__name__})") from None
        return bytes(data) if len(data) <= limit else None

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            raise ApiFailed("the channel is not open")
        return self._client

    def _result(self, method: str, response: httpx.Response) -> Any:
        """The result in an answer. What is no answer of the Bot API (a gateway's page, say) may pass."""
        answer = _decoded(response.content)
        if answer.get("ok") is True and "result" in answer:
            return answer["result"]
        code = answer.get("error_code")
        code = code if isinstance(code, int) else response.status_code
        refusal = self._refusal(method, code, answer, response.headers.get("retry-after"))
        refused = answer.get("ok") is False and httpx.codes.BAD_REQUEST <= code < _FAULT
        if refused or code in _PLAIN or refusal.says_unknown:
            raise refusal
        raise ApiFailed(f"{method}: the server failed ({code})", method, unknown_method=refusal.unknown_method)

    def _refusal(self, method: str, code: int, answer: Mapping[str, Any], header: str | None) -> ApiRefused:
        given, words = answer.get("parameters"), answer.get("description") or answer.get("message")
        parameters = given if isinstance(given, Mapping) else {}
        description = words.replace(self._token, "…")[:300] if isinstance(words, str) else ""
        asked, moved = parameters.get("retry_after"), parameters.get("migrate_to_chat_id")
        return ApiRefused(
            method,
            code,
            description,
            retry_after=_seconds(asked if asked is not None else header),
            migrated_to=moved if isinstance(moved, int) else None,
        )


class _Keyed(httpx.AsyncBaseTransport):
    """Puts the token into addresses, below everything that may tell of them."""

    def __init__(self, carrier: httpx.AsyncBaseTransport, token: str, prefix: str) -> None:
        self._carrier = carrier
        self._token = token
        self._prefix = prefix

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode("ascii")
        keyed = path[len(self._prefix) :].replace("/bot/", f"/bot{self._token}/", 1)
        sent = httpx.Request(
            request.method,
            request.url.copy_with(raw_path=(self._prefix + keyed).encode("ascii")),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        return await self._carrier.handle_async_request(sent)

    async def aclose(self) -> None:
        await self._carrier.aclose()


def _proxy(base: str) -> str | None:
    """The proxy that the environment names for an address; httpx looks for it only where it carries by itself."""
    url = httpx.URL(base)
    return None if proxy_bypass(url.host) else getproxies().get(url.scheme)


def _body(params: Mapping[str, Any], upload: Upload | None) -> dict[str, Any]:
    if upload is None:
        return {"json": params}
    fields = {name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()}
    return {"data": fields, "files": {upload.parameter: (upload.name, upload.data, upload.media_type)}}


def _decoded(content: bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, Mapping) else {}


def _seconds(value: Any) -> float | None:
    """Seconds to wait, from a number or a header; None for anything else (a date, say)."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None
