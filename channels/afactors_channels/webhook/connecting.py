"""Connections that go only where they may.

httpcore is used without httpx above it: there is then nothing that could follow a redirect, read a proxy from the
environment, unpack a body, or write a URL into a log.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable, Sequence
from typing import cast

import httpcore
import trio

from .addresses import is_public

MAX_ADDRESSES = 4
"""How many of a host's addresses are tried, one after the other."""


class AddressRefused(Exception):
    """A host has an address that is not public."""


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a host, looks at every address that it has, and connects to those very addresses.

    A host that answers the resolver differently the next time (DNS rebinding) gains nothing: there is no next time.
    TLS is still about the host's name: what server is wanted, and what its certificate has to be for.

    Args:
        allow_private: Whether addresses that are not public will do.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        # httpcore types it as something else, too, for those who have no trio.
        self._plain = cast("httpcore.AsyncNetworkBackend", httpcore.TrioBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to one of the host's addresses.

        Raises:
            AddressRefused: One of its addresses is not public.
            httpcore.ConnectError: It has none, or nobody is there.
            httpcore.ConnectTimeout: Nobody answers.
        """
        deadline = trio.current_time() + (math.inf if timeout is None else timeout)
        try:
            with trio.fail_at(deadline):
                addresses = await _resolved(host, port)
        except trio.TooSlowError:
            raise httpcore.ConnectTimeout from None
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise AddressRefused
        return await self._first(addresses[:MAX_ADDRESSES], port, deadline)

    async def _first(self, addresses: Sequence[str], port: int, deadline: float) -> httpcore.AsyncNetworkStream:
        """The first that there is. Each gets its share of the time, so that one that is silent hides no other."""
        failure: Exception = httpcore.ConnectError("the host has no address")
        for number, address in enumerate(addresses):
            share = (deadline - trio.current_time()) / (len(addresses) - number)
            try:
                return await self._plain.connect_tcp(address, port, timeout=max(0.0, share))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        raise failure


async def _resolved(host: str, port: int) -> list[str]:
    """A host's addresses, as numbers."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise httpcore.ConnectError("the host was not found") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
