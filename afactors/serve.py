"""Stand-alone HTTP: the address, the signals, and the way down."""

from __future__ import annotations

import errno
import logging
import signal
import socket
from collections.abc import Callable
from typing import Protocol

import trio
from hypercorn.config import Config

from afactors_channels import Endpoint

from .embedding import Opening
from .limits import Limits
from .reports import DrainReport
from .worker import serving

BACKLOG = 4096
_KEEP_ALIVE_SECONDS = 75.0


class AddressUnavailable(Exception):
    """The address cannot be listened on. The message says why and what to do."""


class Servable(Opening, Protocol):
    """What is served: a runtime."""

    limits: Limits

    def asgi(self) -> Endpoint:
        """Its ASGI callable."""
        ...

    async def drain(self) -> DrainReport:
        """Take no more work, and let what runs finish; again, the same report."""
        ...

    def hurry(self) -> None:
        """Shorten a drain that is under way."""
        ...


async def serve(
    runtime: Servable,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    started: Callable[[str], None] | None = None,
    signals: bool = True,
) -> DrainReport:
    """Open the runtime, serve it until SIGINT or SIGTERM, drain it, and close.

    The drain comes first, while the server still answers (503 for new work), and the server's own shutdown after it.
    A second signal cancels what still runs at once.

    Args:
        runtime: A runtime that is not open yet.
        host: Address to listen on.
        port: Port; 0 lets the system choose.
        started: Called with the base URL once requests are served.
        signals: Whether to handle SIGINT and SIGTERM; without, cancel the call to stop it.

    Raises:
        AddressUnavailable: The port is taken, or the address is not ours.
    """
    async with runtime:
        with listen(host, port) as listener:
            async with serving(runtime.asgi(), listener, _config(runtime.limits)):
                if started is not None:
                    started(base_url(listener))
                try:
                    await _signalled(runtime, signals=signals)
                finally:
                    with trio.CancelScope(shield=True):
                        await runtime.drain()
            return await runtime.drain()


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen, never with SO_REUSEPORT: a second process must not take the port silently.

    Raises:
        AddressUnavailable: The port is taken, or the address is not ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise AddressUnavailable(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        reason = exc.strerror or str(exc)
        which = "--host" if exc.errno == errno.EADDRNOTAVAIL else "--port"
        raise AddressUnavailable(f"cannot listen on {host}:{port}: {reason}; choose another {which}") from exc
    return listener


def base_url(listener: socket.socket) -> str:
    """The URL that a client on this machine can use."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - it is compared, not bound
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _config(limits: Limits) -> Config:
    config = Config()
    # Beyond what the dispatcher refuses, so that it is refused in the protocol's own words.
    config.websocket_max_message_size = 2 * limits.max_body
    config.keep_alive_timeout = _KEEP_ALIVE_SECONDS
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")
    config.errorlog.setLevel(logging.WARNING)
    return config


async def _signalled(runtime: Servable, *, signals: bool) -> None:
    """Wait for the first signal; from then on, a second one makes the drain hurry."""
    if not signals:
        await trio.sleep_forever()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        await anext(received)
        async with trio.open_nursery() as nursery:

            async def hurry() -> None:
                await anext(received)
                runtime.hurry()

            nursery.start_soon(hurry)
            await runtime.drain()
            nursery.cancel_scope.cancel()
