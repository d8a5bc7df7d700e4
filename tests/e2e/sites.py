"""Somebody else's servers: real HTTP on 127.0.0.1, on trio, in a thread of their own."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import h11
import httpx
import trio

Answer = tuple[int, Any]  # a status, and what is sent as JSON

CLOSE: Answer = (0, None)
"""For an answer that never comes: the connection is closed."""


class Site:
    """A server; its subclasses say what it answers. Use it with ``with``."""

    def __enter__(self) -> Any:
        self._stop, begun = trio.Event(), threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run, begun), daemon=True)
        self._thread.start()
        assert begun.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._stop.set)
        self._thread.join(30)

    def call(self, function: Any, *given: Any) -> Any:
        """Call something where the server lives."""
        return trio.from_thread.run_sync(function, *given, trio_token=self._token)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """What a request is answered."""
        raise NotImplementedError

    async def work(self) -> None:
        """What it does beside answering."""

    async def _run(self, begun: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1"))
            self.port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(self.work)
            begun.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            async with stream:
                while await self._one(stream, connection):
                    connection.start_next_cycle()
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            pass  # the client was killed

    async def _one(self, stream: trio.SocketStream, connection: h11.Connection) -> bool:
        """Answer one request; returns whether there may be another."""
        request, body = None, b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                return False
        assert request is not None
        headers = {name.decode().lower(): value.decode() for name, value in request.headers}
        status, said = await self.answer(request.method.decode(), request.target.decode(), headers, body)
        if status == 0:
            return False
        data = json.dumps(said).encode()
        more = [(name, str(value)) for name, value in self.headers(said).items()]
        head = h11.Response(status_code=status, headers=[("content-length", str(len(data))), *more])
        parts = [connection.send(head), connection.send(h11.Data(data=data)), connection.send(h11.EndOfMessage())]
        await stream.send_all(b"".join(part or b"" for part in parts))
        return bool(connection.our_state is h11.DONE and connection.their_state is h11.DONE)

    def headers(self, said: Any) -> Mapping[str, Any]:
        """More headers for an answer."""
        return {}


TOKEN = "4242:the-token-of-the-tests"


def private(user: int) -> dict[str, Any]:
    """A user's private chat."""
    return {"id": user, "type": "private"}


class BotApi(Site):
    """A small Bot API server: updates come again until they are confirmed, as with the real one.

    Attributes:
        messages: What can be seen, by chat: each message as it is now.
        refusals: What the next calls of a method are answered instead, once each.
        twice: Every so manieth update is sent to the webhook again, although it was taken; 0 for none.
        confirms: Whether what is confirmed is gone; otherwise all of it comes again.
    """

    def __init__(self, *, twice: int = 0) -> None:
        self.messages: dict[int, list[dict[str, Any]]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refusals: dict[str, deque[Answer]] = {}
        self.twice = twice
        self.confirms = True
        self._pending: list[dict[str, Any]] = []
        self._updates, self._numbers = count(700_000_001), count(1)
        self._hook: dict[str, Any] = {}
        self._news = trio.Event()

    # -- people

    def say(self, user: int, text: str, chat: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Somebody writes, by default to the bot."""
        sender = {"id": user, "is_bot": False, "first_name": f"User {user}"}
        said = {"from": sender, "chat": chat or private(user), "date": 1, "text": text, **more}
        self.call(self._post, {"message": {"message_id": next(self._numbers), **said}})

    def press(self, user: int, message: Mapping[str, Any], choice: str) -> None:
        """Somebody presses a button of a message."""
        (row,) = message["reply_markup"]["inline_keyboard"]
        (data,) = [button["callback_data"] for button in row if button["text"] == choice]
        at = {"message_id": message["message_id"], "chat": private(message["chat_id"]), "date": 1}
        sender = {"id": user, "is_bot": False, "first_name": f"User {user}"}
        self.call(self._post, {"callback_query": {"id": "q", "from": sender, "data": data, "message": at}})

    def seen(self, chat: int) -> list[str]:
        """The texts that can be seen in a chat."""
        return [message["text"] for message in list(self.messages.get(chat, []))]

    def count(self, method: str) -> int:
        """How often a method was called."""
        return sum(name == method for name, _ in list(self.calls))

    @property
    def unconfirmed(self) -> int:
        return len(self._pending)

    def refuse(self, method: str, *answers: Answer) -> None:
        """Have the next calls of a method refused."""
        self.refusals.setdefault(method, deque()).extend(answers)

    # -- the bot

    async def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        bot, _, name = path.removeprefix("/bot").partition("/")
        if bot != TOKEN:
            return 401, {"ok": False, "error_code": 401, "description": "Unauthorized"}
        given = json.loads(body or b"{}")
        self.calls.append((name, given))
        if self.refusals.get(name):
            return self.refusals[name].popleft()
        known = getattr(self, "_" + re.sub("[A-Z]", lambda found: "_" + found[0].lower(), name), None)
        if known is None:
            return 404, {"ok": False, "error_code": 404, "description": "Not Found: method not found"}
        result = await known(given)
        return result if isinstance(result, tuple) else (200, {"ok": True, "result": result})

    async def _get_me(self, given: dict[str, Any]) -> Any:
        return {"id": 4242, "is_bot": True, "username": "the_bot", "first_name": "Bot"}

    async def _set_my_commands(self, given: dict[str, Any]) -> Any:
        return True

    async def _send_chat_action(self, given: dict[str, Any]) -> Any:
        return True

    async def _send_message_draft(self, given: dict[str, Any]) -> Any:
        return True

    async def _answer_callback_query(self, given: dict[str, Any]) -> Any:
        return True

    async def _get_updates(self, given: dict[str, Any]) -> Any:
        if self._hook:
            return refused(409, "Conflict: can't use getUpdates method while webhook is active")
        offset = given.get("offset", 0) if self.confirms else 0
        self._pending = [one for one in self._pending if one["update_id"] >= offset]
        with trio.move_on_after(given.get("timeout", 0)):
            while not self._pending:
                await self._news.wait()
        return self._pending[: given.get("limit", 100)]

    async def _set_webhook(self, given: dict[str, Any]) -> Any:
        self._hook = given
        self._tell()
        return True

    async def _delete_webhook(self, given: dict[str, Any]) -> Any:
        self._hook = {}
        return True

    async def _send_message(self, given: dict[str, Any]) -> Any:
        if not 1 <= len(given["text"].encode("utf-16-le")) // 2 <= 4096:
            return refused(400, "Bad Request: message is too long")
        message = {"message_id": next(self._numbers), **given}
        self.messages.setdefault(given["chat_id"], []).append(message)
        return {"message_id": message["message_id"], "chat": {"id": given["chat_id"]}, "date": 1}

    async def _edit_message_text(self, given: dict[str, Any]) -> Any:
        message = self._find(given)
        if message is None:
            return refused(400, "Bad Request: message to edit not found")
        if message["text"] == given["text"]:
            return refused(400, "Bad Request: message is not modified")
        message["text"] = given["text"]
        return True

    async def _delete_message(self, given: dict[str, Any]) -> Any:
        message = self._find(given)
        if message is None:
            return refused(400, "Bad Request: message to delete not found")
        self.messages[given["chat_id"]].remove(message)
        return True

    async def _edit_message_reply_markup(self, given: dict[str, Any]) -> Any:
        message = self._find(given)
        if message is None:
            return refused(400, "Bad Request: message to edit not found")
        message["reply_markup"] = given.get("reply_markup")
        return True

    def _find(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        here = self.messages.get(given["chat_id"], [])
        return next((one for one in here if one["message_id"] == given["message_id"]), None)

    # -- updates

    def _post(self, update: dict[str, Any]) -> None:
        self._pending.append({"update_id": next(self._updates), **update})
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def work(self) -> None:
        """Send updates to the webhook, in their order; one that is not taken comes again."""
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            while True:
                if not (self._hook and self._pending):
                    await self._news.wait()
                elif await self._taken(client, update := self._pending[0]):
                    if self.twice and update["update_id"] % self.twice == 0:
                        await self._taken(client, update)
                    self._pending.remove(update)
                else:
                    await trio.sleep(0.05)

    async def _taken(self, client: httpx.AsyncClient, update: Mapping[str, Any]) -> bool:
        headers = {"x-telegram-bot-api-secret-token": self._hook.get("secret_token", "")}
        try:
            return (await client.post(self._hook["url"], json=update, headers=headers)).is_success
        except httpx.HTTPError:
            return False


def refused(code: int, description: str, **parameters: Any) -> Answer:
    """A refusal as the Bot API has it."""
    more = {"parameters": parameters} if parameters else {}
    return code, {"ok": False, "error_code": code, "description": description, **more}


class Receiver(Site):
    """Somebody's webhook: notes what comes, and answers by what was prepared, or else 204.

    Attributes:
        posts: What came: path, headers, body.
        answers: What the next ones are answered.
    """

    def __init__(self, *answers: int) -> None:
        self.posts: list[tuple[str, Mapping[str, str], bytes]] = []
        self.answers: deque[int] = deque(answers)
        self.always: int | None = None

    async def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.posts.append((path, headers, body))
        if self.always is not None:
            return self.always, {}
        return (self.answers.popleft() if self.answers else 200), {}

    @property
    def events(self) -> Sequence[Any]:
        """What came, as JSON."""
        return [json.loads(body) for _, _, body in list(self.posts)]
