"""A command's side of the control socket."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import trio

from .control import LONGEST_REQUEST, connected
from .errands import Answer, Asked


class Unreachable(Exception):
    """No control socket answers there."""


class Unanswered(Exception):
    """The server left before it was done, and nobody knows how much of it was; or it is too much to ask for at once."""


async def remote_answers(folder: Path, asked: Asked) -> AsyncGenerator[Answer, None]:
    """Have the server that owns a state folder do something.

    Raises:
        Unreachable: No control socket answers there.
        Unanswered: The connection ended in the middle, or the request is too long.
    """
    request = asked.encode()
    if len(request) > LONGEST_REQUEST:
        raise Unanswered("this is more than a server can be told at once; nothing was done, say it in parts")
    try:
        stream = await connected(folder)
    except OSError as exc:
        raise Unreachable(str(exc)) from exc
    async with stream:
        received, ended = b"", False
        try:
            await stream.send_all(request)
            async for data in stream:
                *lines, received = (received + data).split(b"\n")
                for one in lines:
                    answer: Answer = json.loads(one)
                    ended = "done" in answer or "error" in answer
                    yield answer
        except trio.BrokenResourceError:
            ended = False
        if not ended:
            raise Unanswered("the server left before it was done; look again what is still there")
