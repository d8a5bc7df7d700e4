"""What the tests of the channel's shell share: a Bot API in memory, the runtime's side in memory, and a bot at work."""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from email.parser import BytesParser
from email.policy import HTTP
from itertools import count
from typing import Any

import httpx
import trio
import trio.testing
from agent_framework import AgentResponse, AgentResponseUpdate, Content, Message

from afactors_channels import (
    ChannelContribution,
    ChannelIdentity,
    ChannelRequest,
    ContinuationToken,
    HostedRun,
    HostedSession,
    HostError,
    NotFound,
    Overloaded,
    Question,
    Restarted,
)
from afactors_channels.pushes import Push
from afactors_channels.telegram import TelegramChannel
from afactors_channels.telegram.transcript import TelegramTranscript

TOKEN = "4242:the-token_of-a-bot"
SECRET = "the-secret"
ANN = {"id": 7, "first_name": "Ann", "last_name": "Lee", "username": "ann", "language_code": "en", "is_bot": False}
BOB = {"id": 8, "first_name": "Bob", "is_bot": False}
ME = {"id": 4242, "username": "the_bot", "first_name": "Bot", "is_bot": True}
GROUP = {"id": -100, "type": "supergroup", "title": "Group"}

_updates = count(1000)
_messages = count(1)


def message(
    text: str | None = None, *, sender: Mapping[str, Any] = ANN, chat: Any = None, **more: Any
) -> dict[str, Any]:
    """An update with a message; by default from Ann, in private."""
    said = {"message_id": next(_messages), "from": sender, "date": 1, **more}
    said["chat"] = chat or {"id": sender["id"], "type": "private"}
    if text is not None:
        said["text"] = text
    return {"update_id": next(_updates), "message": said}


def press(data: str, *, sender: Mapping[str, Any] = ANN, chat: Any = None, message_id: int = 5) -> dict[str, Any]:
    """An update with a button that was pressed."""
    at = {"message_id": message_id, "date": 1, "chat": chat or {"id": sender["id"], "type": "private"}}
    return {"update_id": next(_updates), "callback_query": {"id": "q", "from": sender, "data": data, "message": at}}


def response(*contents: Content | str) -> AgentResponse[Any]:
    """A reply."""
    made = [Content.from_text(one) if isinstance(one, str) else one for one in contents]
    return AgentResponse(messages=[Message("assistant", made)])


def failure(code: str) -> AgentResponse[Any]:
    """What the runtime delivers of a run that failed."""
    told = Message("assistant", ["internals"], additional_properties={"hosting": {"error": code}})
    return AgentResponse(messages=[told])


def refused(code: int, description: str = "", headers: Any = None, **parameters: Any) -> httpx.Response:
    """A refusal as the Bot API has it."""
    body = {"ok": False, "error_code": code, "description": description}
    if parameters:
        body["parameters"] = parameters
    return httpx.Response(code, json=body, headers=headers)


Answer = httpx.Response | Exception | Callable[[Mapping[str, Any]], Any]


class Server:
    """A Bot API.

    Attributes:
        calls: What was called: (method, parameters).
        files: What was uploaded: (parameter, file name, media type, content).
        script: What the next calls of a method are answered with; afterwards it goes well.
        unknown: Methods that it does not know.
        pending: Updates that are not confirmed.
        stored: Files that can be fetched, by their ids.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.times: list[float] = []
        self.files: list[tuple[str, str, str, bytes]] = []
        self.script: dict[str, deque[Answer]] = defaultdict(deque)
        self.unknown: set[str] = set()
        self.pending: list[dict[str, Any]] = []
        self.stored: dict[str, bytes] = {}
        self.urls: list[str] = []
        self.messages: dict[int, str] = {}
        self._numbers = count(500)
        self._news = trio.Event()

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._serve)

    def of(self, *methods: str) -> list[dict[str, Any]]:
        """The parameters of all calls of some methods."""
        return [params for method, params in self.calls if method in methods]

    @property
    def texts(self) -> list[str]:
        """What was sent."""
        return [params["text"] for params in self.of("sendMessage")]

    def post(self, *updates: dict[str, Any]) -> None:
        """Have updates fetched."""
        self.pending += updates
        news, self._news = self._news, trio.Event()
        news.set()

    async def _serve(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        self.urls.append(str(request.url))
        path = request.url.path
        if path.startswith(f"/file/bot{TOKEN}/"):
            data = self.stored.get(path.rsplit("/", 1)[1])
            return httpx.Response(404) if data is None else httpx.Response(200, content=data)
        found = re.fullmatch(rf"/bot{TOKEN}/(\w+)", path)
        assert found is not None, path
        method, params = found[1], self._params(request)
        self.calls.append((method, params))
        self.times.append(trio.current_time())
        if method in self.unknown:
            return refused(404, "Not Found")
        answer: Any = self.script[method].popleft() if self.script[method] else self._usual(method, params)
        if callable(answer):
            answer = answer(params)
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        self._note(method, params, answer)
        return httpx.Response(200, json={"ok": True, "result": answer})

    def _note(self, method: str, params: Mapping[str, Any], result: Any) -> None:
        if method == "editMessageText":
            self.messages[params["message_id"]] = params["text"]
        elif method == "deleteMessage":
            self.messages.pop(params["message_id"], None)
        elif isinstance(result, Mapping) and "message_id" in result:
            self.messages[result["message_id"]] = params.get("text", "")

    @property
    def visible(self) -> list[str]:
        """What can be seen: messages as they were sent and edited."""
        return list(self.messages.values())

    def _params(self, request: httpx.Request) -> dict[str, Any]:
        kind = request.headers["content-type"]
        if kind == "application/json":
            return dict(json.loads(request.content))
        parts = BytesParser(policy=HTTP).parsebytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + request.content)
        params = {}
        for part in parts.iter_parts():
            name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
            if part.get_filename() is None:
                params[name] = content.decode()
            else:
                self.files.append((name, part.get_filename(), part.get_content_type(), content))
        return params

    def _usual(self, method: str, params: Mapping[str, Any]) -> Any:
        if method == "getMe":
            return ME
        if method == "getFile":
            return {"file_id": params["file_id"], "file_path": f"files/{params['file_id']}"}
        if method == "getUpdates":
            return self._fetched(params)
        if method.startswith("send") and method not in ("sendMessageDraft", "sendChatAction"):
            return {"message_id": next(self._numbers), "chat": {"id": params["chat_id"]}}
        return True

    async def _fetched(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        offset = params.get("offset") or 0
        self.pending = [one for one in self.pending if one.get("update_id", offset) >= offset]
        with trio.move_on_after(params["timeout"]):
            while not self.pending:
                await self._news.wait()
        return self.pending[: params["limit"]]


class Run:
    """One run of the fake runtime."""

    def __init__(self, number: int, request: ChannelRequest) -> None:
        self.token, self.run_id = ContinuationToken(f"token{number}"), f"run{number}"
        self.request = request
        self.state: Any = "running"
        self.error: tuple[str, str] | None = None
        self.left: HostError | None = None
        self.over = trio.Event()
        self.readers: list[trio.MemorySendChannel[Any]] = []
        self.begin()

    def begin(self) -> None:
        """Begin (again)."""
        self.rows: list[bytes] = []
        self.transcript = TelegramTranscript(self.request, created=0.0, first=0)

    def say(self, *words: str, message_id: str = "m") -> None:
        """Stream some text."""
        contents = [Content.from_text(word) for word in words]
        self._write(
            self.transcript.fed([AgentResponseUpdate(contents=contents, role="assistant", message_id=message_id)])
        )

    def restart(self) -> None:
        """The run began again."""
        self.begin()
        for reader in self.readers:
            reader.send_nowait(Restarted("again"))
        self.readers.clear()

    def end(self) -> None:
        """It went well."""
        self.state = "completed"
        self._close(self.transcript.completed(response("whatever"), 0.0)[0])

    def fail(self, state: Any = "failed", code: str = "server_error") -> None:
        """It did not."""
        self.state, self.error = state, (code, "no")
        self._close(self.transcript.failed(state, code, "no")[0])

    def leave(self) -> None:
        """The host stops; the next process goes on with it."""
        self.left = Overloaded("The server is stopping.", code="draining", status=503)
        for reader in self.readers:
            reader.send_nowait(self.left)
        self.over.set()

    def _close(self, rows: Sequence[bytes]) -> None:
        self._write(rows)
        for reader in self.readers:
            reader.close()
        self.over.set()

    def _write(self, rows: Sequence[bytes]) -> None:
        self.rows += rows
        for reader in self.readers:
            reader.send_nowait(rows)

    @property
    def seen(self) -> HostedRun:
        ended = 1.0 if self.over.is_set() else None
        return HostedRun(self.token, self.run_id, "key", "s", self.state, 0.0, ended=ended, error=self.error)


class Context:
    """What the runtime gives the channel, in memory.

    Attributes:
        runs: What was accepted, in this order.
        offered: Everything that was submitted, also what was refused.
        refusals: What the next submits are refused with; None lets one pass.
        full: What chats (by their users' names) are refused with, when nothing else is said.
        slow: Chats (by their users' names) whose submits wait for their event.
        questions: What every session waits for.
        resets, cancels: The keys of commands.
        forbidden: What the policy says to commands.
        admitted: The commands that it let in.
        dealt_with: Idempotency keys of what the channel dealt with by itself.
        stops: The host begins to stop.
        on_submit: Called with every run that is accepted.
    """

    target_name = "the-agent"

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.offered: list[ChannelRequest] = []
        self.raws: list[Any] = []
        self.refusals: deque[Exception | None] = deque()
        self.full: dict[str, Exception] = {}
        self.slow: dict[str, trio.Event] = {}
        self.questions: Sequence[Question] | None = None
        self.asked_about: list[ChannelRequest] = []
        self.resolved: list[ChannelIdentity] = []
        self.resets: list[str] = []
        self.cancels: list[str] = []
        self.cancelled = 1
        self.denied: HostError | None = None
        self.forbidden: HostError | None = None
        self.admitted: list[ChannelRequest] = []
        self.dealt_with: set[str] = set()
        self.stops = trio.Event()
        self.on_submit: Callable[[Run], object] = lambda _: None
        self._keys: dict[str, Run] = {}

    @property
    def inputs(self) -> list[Any]:
        """What was accepted: the one message of each request."""
        return [run.request.input[0] for run in self.runs]

    @property
    def said(self) -> list[str]:
        """The texts that were accepted."""
        return [one["contents"][0].get("text", "") for one in self.inputs]

    async def submit(self, request: ChannelRequest, *, protocol_request: Any = None) -> ContinuationToken:
        await trio.lowlevel.checkpoint()
        self.offered.append(request)
        self.raws.append(protocol_request)
        assert request.identity is not None
        if request.identity.native_id in self.slow:
            await self.slow[request.identity.native_id].wait()
        refusal = self.refusals.popleft() if self.refusals else self.full.get(request.identity.native_id)
        if refusal is not None:
            raise refusal
        assert request.idempotency_key is not None
        if request.idempotency_key in self.dealt_with:
            return ContinuationToken("")
        if request.idempotency_key in self._keys:
            return self._keys[request.idempotency_key].token
        run = self._keys[request.idempotency_key] = Run(len(self.runs), request)
        self.runs.append(run)
        self.on_submit(run)
        return run.token

    async def resolve(self, identity: ChannelIdentity) -> str:
        await trio.lowlevel.checkpoint()
        if self.denied is not None:
            raise self.denied
        self.resolved.append(identity)
        return f"{identity.channel}:{identity.native_id}"

    async def admit(self, request: ChannelRequest) -> bool:
        await trio.lowlevel.checkpoint()
        if self.forbidden is not None:
            raise self.forbidden
        self.admitted.append(request)
        assert request.idempotency_key is not None
        return request.idempotency_key not in self.dealt_with and request.idempotency_key not in self._keys

    async def dealt(self, request: ChannelRequest) -> None:
        await trio.lowlevel.checkpoint()
        assert request.idempotency_key is not None
        if request.idempotency_key not in self._keys:
            self.dealt_with.add(request.idempotency_key)

    async def reset_session(self, isolation_key: str) -> str:
        self.resets.append(isolation_key)
        return "next"

    async def cancel_running(self, isolation_key: str) -> int:
        self.cancels.append(isolation_key)
        return self.cancelled

    async def get_session(self, request: ChannelRequest) -> HostedSession:
        self.asked_about.append(request)
        if self.questions is None:
            raise NotFound("no")
        return HostedSession("s", 0.0, questions=self.questions)

    def _run(self, token: str) -> Run:
        return next(run for run in self.runs if run.token == token)

    async def get_continuation(self, token: str, *, partition: str | None = None, wait: bool = False) -> HostedRun:
        await trio.lowlevel.checkpoint()
        run = self._run(token)
        if wait:
            await run.over.wait()
        if run.left is not None:
            raise run.left
        return run.seen

    @asynccontextmanager
    async def subscribe(self, token: str, *, after: Any = None, partition: Any = None) -> AsyncIterator[Any]:
        run = self._run(token)
        send, receive = trio.open_memory_channel[Any](1000)
        send.send_nowait(list(run.rows))
        run.readers.append(send)
        if run.over.is_set():
            send.close()
        yield _batches(receive)

    async def stopping(self) -> None:
        await self.stops.wait()


async def _batches(receive: trio.MemoryReceiveChannel[Any]) -> AsyncIterator[Sequence[bytes]]:
    async for rows in receive:
        if isinstance(rows, Exception):
            raise rows
        yield rows


class Bot:
    """A channel at work."""

    def __init__(self, server: Server, context: Context, nursery: trio.Nursery) -> None:
        self.server = server
        self.context = context
        self.nursery = nursery
        self.contribution: ChannelContribution

    async def start(self, *, polls: bool = False, **options: Any) -> None:
        """Set the channel to work; by default at a webhook that somebody else registered."""
        if not polls:
            options = {"polling": False, "secret": SECRET} | options
        channel = TelegramChannel(TOKEN, transport=self.server.transport, **options)
        self.contribution = channel.contribute(self.context)  # type: ignore[arg-type]
        assert self.contribution.task is not None
        self.nursery.start_soon(self.contribution.task)
        await self.quiet()

    async def quiet(self) -> None:
        """Wait until nothing happens any more but the passing of time."""
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def hook(
        self, update: Any, *, secret: str | None = SECRET, body: bytes | None = None
    ) -> tuple[int, dict[str, str]]:
        """Send an update to the webhook; returns status and headers."""
        (route,) = self.contribution.routes
        headers = [] if secret is None else [(b"x-telegram-bot-api-secret-token", secret.encode())]
        sent: list[Mapping[str, Any]] = []

        async def receive() -> Mapping[str, Any]:
            return {"type": "http.request", "body": json.dumps(update).encode() if body is None else body}

        async def send(part: Mapping[str, Any]) -> None:
            sent.append(part)

        await route.endpoint({"type": "http", "headers": headers}, receive, send)
        return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}

    async def hear(self, *updates: dict[str, Any]) -> None:
        """Have updates taken, and everything done that follows at once."""
        for update in updates:
            assert (await self.hook(update))[0] == 200
        await self.quiet()

    async def push(self, reply: AgentResponse[Any] | str, **more: Any) -> None:
        """Deliver a reply, by default to Ann in private."""
        assert self.contribution.push is not None
        made = response(reply) if isinstance(reply, str) else reply
        identity = ChannelIdentity("telegram", "7", conversation=more.pop("conversation", "7"))
        given = {"delivery_id": "d1", "identity": identity, "kind": "reply", "response": made, "created": 0.0} | more
        await self.contribution.push(Push(**given))
