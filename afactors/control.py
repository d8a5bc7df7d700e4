"""The socket by which the command line reaches a server that runs: in the state folder, for its owner alone.

One request a connection, then answers, line by line; see `errands`. It can do what the commands need and nothing else.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import struct
import sys
from contextlib import aclosing
from pathlib import Path

import trio

from afactors_channels import BadRequest, HostError

from .deliveries import Deliveries
from .errands import Actors, Asked, answers, failure, line

logger = logging.getLogger("afactors.control")

FILE = "control.sock"
LONGEST_PATH = 107
"""Bytes that the system has for a socket's path, but for its end."""

LONGEST_REQUEST = 1024 * 1024
_PATIENCE = 10.0  # seconds for a request to come, and for a line to be taken
_AT_ONCE = 8
_ROOT = 0
_CREDENTIALS = struct.Struct("3i")


async def serve_control(
    folder: Path,
    deliveries: Deliveries,
    actors: Actors | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer commands until cancelled; at once done if there can be no socket, which the log then says.

    Args:
        folder: The state folder, which this process owns: a socket that is there already is a dead one's.
        deliveries: What commands are about.
        actors: As well.
        task_status: Told once it listens.
    """
    path = folder / FILE
    place = path.absolute()  # the process may go elsewhere
    listener = _listen(path)
    if listener is None:
        task_status.started()
        return
    room = trio.CapacityLimiter(_AT_ONCE)

    async def serve(stream: trio.SocketStream) -> None:
        async with room:
            await _serve(stream, deliveries, actors)

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, [trio.SocketListener(listener)])
            task_status.started()
    finally:
        listener.close()
        place.unlink(missing_ok=True)


def _listen(path: Path) -> trio.socket.SocketType | None:
    name = os.fsencode(path)
    if len(name) > LONGEST_PATH:
        told = "%s is longer than the %d bytes that a socket's path may have; commands cannot reach this process"
        logger.warning(told, path, LONGEST_PATH)
        return None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError("something that is no socket has its name")
        path.unlink(missing_ok=True)
        os.fchmod(listener.fileno(), 0o600)  # so that it is made like that
        listener.bind(name)
        path.chmod(0o600)
        listener.listen(_AT_ONCE)
    except OSError as exc:
        listener.close()
        logger.warning("there is no control socket at %s: %s; commands cannot reach this process", path, exc)
        return None
    return trio.socket.from_stdlib_socket(listener)


async def _serve(stream: trio.SocketStream, deliveries: Deliveries, actors: Actors | None) -> None:
    """One connection. Whatever goes wrong with it is its own matter."""
    try:
        async with stream:
            if _is_ours(stream.socket):
                await _answer(stream, deliveries, actors)
    except (trio.BrokenResourceError, trio.TooSlowError):
        logger.debug("a command left before its answer")
    except Exception:
        logger.exception("a command failed")


async def _answer(stream: trio.SocketStream, deliveries: Deliveries, actors: Actors | None) -> None:
    try:
        asked = Asked.decode(await _request(stream))
        logger.info("a command: %s", asked.do)
        async with aclosing(answers(asked, deliveries, actors)) as each:
            async for answer in each:
                await _send(stream, line(answer))
    except HostError as exc:
        await _send(stream, line(failure(exc)))
    except (trio.BrokenResourceError, trio.TooSlowError):
        raise
    except Exception:
        await _send(stream, line(failure(HostError("The server could not do this; its log says why."))))
        raise


async def _request(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    with trio.fail_after(_PATIENCE):
        while not received.endswith(b"\n"):
            more = await stream.receive_some(64 * 1024)
            received += more
            if not more or len(received) > LONGEST_REQUEST:
                raise BadRequest("This is no request.", code="unknown_request")
    return bytes(received)


async def _send(stream: trio.SocketStream, data: bytes) -> None:
    with trio.fail_after(_PATIENCE):
        await stream.send_all(data)


def _is_ours(connection: trio.socket.SocketType) -> bool:
    """Whether the other end is this user's, or root's; its rights say so already, where systems look at them."""
    if sys.platform != "linux":
        return True
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return user in (_ROOT, os.getuid())


async def connected(folder: Path) -> trio.SocketStream:
    """A connection to the server that owns a state folder.

    Raises:
        OSError: There is none, or it has no control socket.
    """
    return await trio.open_unix_socket(os.fspath(folder / FILE))
