"""The Responses channel: its options, and which endpoint serves what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version

from agent_framework import CompactionStrategy

from ..contract import ChannelContext, ChannelContribution, Route
from ..credentials import Credentials
from ..outcomes import ChannelResponseHook, ChannelRunHook
from ..requests import OnDisconnect, OverlapPolicy, SessionMode
from . import conversing, reading
from .compacting import Compaction
from .creating import Creation
from .exchange import Door, Exchange, Work
from .openapi import openapi_document
from .sockets import Sockets
from .transcript import ResponseTranscript

PREFIXES = ("/v1", "/responses/v1")


class ResponsesChannel:
    """The OpenAI Responses API, under `/v1` and `/responses/v1`.

    Args:
        name: Unique among the runtime's channels.
        api_keys: Keys that callers must send as bearer tokens: a sequence, or a mapping from a lasting name to each
            key. A key's conversations are partitioned under its name (or, without one, under its digest), so with
            names a key can be exchanged and its conversations stay. None and empty: everybody may call.
        session_mode: What to do about sessions; see `SessionMode`.
        on_disconnect: What a client that leaves does to its turn. The protocol says ``cancel``.
        overlap: What to do with a message to a conversation that is busy; None leaves it to the runtime.
        run_hook: Rewrites or refuses requests; see `ChannelRunHook`. Its `protocol_request` is the request's body.
        response_hook: Rewrites results; see `ChannelResponseHook`.
        compaction: The framework's strategy behind `POST /responses/compact`; by default the one for a context window
            of 128,000 tokens.
        trust_isolation_headers: Whether to believe `x-agent-user-isolation-key` and `x-agent-chat-isolation-key`. Only
            behind a platform that sets them itself, and removes them from what callers send.
    """

    def __init__(
        self,
        *,
        name: str = "responses",
        api_keys: Sequence[str] | Mapping[str, str] = (),
        session_mode: SessionMode = "auto",
        on_disconnect: OnDisconnect = "cancel",
        overlap: OverlapPolicy | None = None,
        run_hook: ChannelRunHook | None = None,
        response_hook: ChannelResponseHook | None = None,
        compaction: CompactionStrategy | None = None,
        trust_isolation_headers: bool = False,
    ) -> None:
        self._name = name
        self._credentials = Credentials(api_keys)
        self._door = Door(name, self._credentials, trust_isolation_headers=trust_isolation_headers)
        self._creation = Creation(session_mode, on_disconnect)
        self._compaction = Compaction(compaction)
        self._overlap: OverlapPolicy | None = overlap
        self._run_hook = run_hook
        self._response_hook = response_hook

    @property
    def name(self) -> str:
        """Unique among the runtime's channels."""
        return self._name

    def contribute(self, context: ChannelContext) -> ChannelContribution:
        """The channel's routes, its hooks and its way of writing runs down."""
        sockets = Sockets(self._name, self._door, self._creation, context)
        routes = []
        for prefix in PREFIXES:
            for (method, path), work in self._works(prefix).items():
                routes.append(Route(method, prefix + path, self._door.endpoint(context, work)))
            routes.append(Route("WEBSOCKET", f"{prefix}/responses", sockets.create))
            routes.append(Route("WEBSOCKET", f"{prefix}/responses/{{response_id}}", sockets.follow))
        return ChannelContribution(
            routes,
            run_hook=self._run_hook,
            response_hook=self._response_hook,
            overlap=self._overlap,
            transcriber=ResponseTranscript,
        )

    def _works(self, prefix: str) -> Mapping[tuple[str, str], Work]:
        @cache
        def document() -> Mapping[str, object]:
            return openapi_document(
                version=version("afactors"), server_prefix=prefix, authenticated=self._credentials.required
            )

        async def describe(exchange: Exchange) -> None:
            await exchange.answer.json(document())

        response, conversation = "/responses/{response_id}", "/conversations/{conversation_id}"
        return {
            ("POST", "/responses"): self._creation.serve,
            ("POST", "/responses/compact"): self._compaction.serve,
            ("POST", "/responses/input_tokens"): reading.count_input,
            ("GET", response): reading.fetch,
            ("DELETE", response): reading.delete,
            ("POST", f"{response}/cancel"): reading.cancel,
            ("GET", f"{response}/input_items"): reading.list_input,
            ("POST", "/conversations"): conversing.create,
            ("GET", conversation): conversing.fetch,
            ("POST", conversation): conversing.update,
            ("DELETE", conversation): conversing.delete,
            ("GET", f"{conversation}/items"): conversing.list_items,
            ("POST", f"{conversation}/items"): conversing.add_items,
            ("GET", f"{conversation}/items/{{item_id}}"): conversing.fetch_item,
            ("DELETE", f"{conversation}/items/{{item_id}}"): conversing.delete_item,
            ("GET", "/openapi.json"): describe,
        }
