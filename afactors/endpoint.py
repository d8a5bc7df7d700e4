"""A Responses API, request by request.

events      a server-sent event stream, cut into events
endpoint    one request: its events, or its answer in one piece, or one error made for reading
"""

import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

_TIMEOUT = httpx.Timeout(10, read=600)
FETCHING = httpx.Timeout(10)
HURRIED = httpx.Timeout(10, connect=2)
"""For what a person waits for, and can do without."""

UNSAID = "The turn failed; the server does not say why."


class ChatError(Exception):
    """An answer that did not come; its text is one line for the person at the terminal.

    Attributes:
        reasons: What a program may know it by: a status, a code, and the like.
    """

    def __init__(self, text: str, *reasons: object) -> None:
        super().__init__(text)
        self.reasons = set(reasons)


def split_events(buffer: bytes) -> tuple[list[str], bytes]:
    """Take the whole events off the front of a server-sent event stream.

    Returns:
        The data of each event that has any, and the bytes that wait for more.
    """
    *blocks, rest = re.split(rb"\r\n\r\n|\n\n|\r\r", buffer)
    events = []
    for block in blocks:
        lines = (line.partition(":") for line in re.split(r"\r\n|\n|\r", block.decode("utf-8", "replace")))
        data = [value.removeprefix(" ") for name, _, value in lines if name == "data"]
        if data:
            events.append("\n".join(data))
    return events, rest


@dataclass
class Endpoint:
    """Where messages are sent, and what is known of it.

    Attributes:
        client: With the key as its authorization, if there is one.
        base_url: Where `/responses` is.
        background: Whether runs go on there without a caller; nobody knows until it denies it.
    """

    client: httpx.AsyncClient
    base_url: str
    background: bool = True

    @property
    def keyed(self) -> bool:
        """Whether callers are told apart, so that a message that is sent again can be recognised."""
        return "authorization" in self.client.headers

    def url(self, path: str) -> str:
        """The address of something there, such as ``/responses``."""
        return f"{self.base_url.rstrip('/')}{path}"

    async def events(self, method: str, path: str, **more: Any) -> AsyncGenerator[dict[str, Any], None]:
        """The events of one request; the connection is closed with the iterator.

        Raises:
            ChatError: There is no server, it refused, the connection failed, or the last event was an error.
        """
        refused = None
        with self._faults():
            async with self.client.stream(method, self.url(path), timeout=_TIMEOUT, **more) as response:
                await self._check(response)
                # To the end, not to the last event: httpx does not clean up after who stops reading early.
                buffer = b""
                async for chunk in response.aiter_bytes():
                    blocks, buffer = split_events(buffer + chunk)
                    for event in filter(None, map(decoded, blocks)):
                        if event.get("type") == "error":
                            refused = told_error(event, UNSAID)
                        else:
                            yield event
        if refused is not None:
            raise refused

    async def fetch(self, method: str, path: str, timeout: httpx.Timeout) -> dict[str, Any]:
        """The answer to one request, in one piece.

        Raises:
            ChatError: There is no server, it refused, or the connection failed.
        """
        with self._faults():
            response = await self.client.request(method, self.url(path), timeout=timeout)
            await self._check(response)
        return decoded(response.text)

    async def waiting(self, conversation: str) -> list[Any]:
        """What a conversation waits for, if its server says so: items as in an output, each with an `id` to answer by.

        Raises:
            ChatError: There is no server, no such conversation, or no conversations at all.
        """
        found = await self.fetch("GET", f"/conversations/{quote(conversation, safe='')}", HURRIED)
        waiting = found.get("waiting")
        return waiting if isinstance(waiting, list) else []

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout):
            text = f"No server answers at {self.base_url}. Start one with: python -m afactors"
            raise ChatError(text, "unreached") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise ChatError(f"{self.base_url!r} is not an address such as http://127.0.0.1:8000/v1") from None
        except httpx.HTTPError as error:
            raise ChatError(f"The connection failed ({type(error).__name__}).", "broken") from None

    async def _check(self, response: httpx.Response) -> None:
        if response.status_code == httpx.codes.OK:
            return
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise ChatError(f"The server wants {'another' if self.keyed else 'an'} API key.")
        body = decoded((await response.aread()).decode("utf-8", "replace"))
        status = response.status_code
        if status == httpx.codes.NOT_FOUND and "error" not in body:
            raise ChatError(f"{response.request.url} is not there: does the address end in the right path?")
        raise told_error(body, f"The server answered with status {status}.", status)


def decoded(data: str) -> dict[str, Any]:
    """A JSON object; an empty one for anything else."""
    try:
        event = json.loads(data)
    except ValueError:  # the closing [DONE], or nothing that we know
        return {}
    return event if isinstance(event, dict) else {}


def told_error(told: Mapping[str, Any], unsaid: str, *reasons: object) -> ChatError:
    """An error, as an event or a body has it."""
    inner = told.get("error")
    error = inner if isinstance(inner, dict) else told
    message = error.get("message")
    named = (f"{name} {error[name]}" for name in ("code", "param") if error.get(name))
    return ChatError(message if isinstance(message, str) else unsaid, *reasons, *named)
