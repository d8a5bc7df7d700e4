"""Connections that go only where they may."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import Any

import httpcore
import pytest
import trio

from afactors_channels.webhook.connecting import MAX_ADDRESSES, AddressRefused, GuardedBackend
from afactors_channels.webhook.delivering import DeliveryFailed

PUBLIC = "93.184.215.14"


class Resolver(trio.abc.HostnameResolver):
    """Answers every question by the next answer, the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[Sequence[str]] = [["127.0.0.1"]]
        self.asked: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host if isinstance(host, str) else host.decode())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await trio.lowlevel.checkpoint()
        if not answer:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        kinds = [(socket.AF_INET6 if ":" in one else socket.AF_INET) for one in answer]
        return [
            (kind, socket.SOCK_STREAM, 6, "", (one, port, 0, 0) if ":" in one else (one, port))
            for kind, one in zip(kinds, answer, strict=True)
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
async def resolver() -> Resolver:
    made = Resolver()
    trio.socket.set_custom_hostname_resolver(made)
    return made


class Dialled:
    """What would have been connected to; nobody leaves this machine."""

    def __init__(self) -> None:
        self.addresses: list[tuple[str, int]] = []
        self.silent: set[str] = set()
        self.closed: set[str] = set()

    async def connect_tcp(self, host: str, port: int, *, timeout: float) -> Any:
        self.addresses.append((host, port))
        if host in self.silent:
            await trio.sleep(timeout)
            raise httpcore.ConnectTimeout
        if host in self.closed:
            raise httpcore.ConnectError
        return host


@pytest.fixture
def dialled() -> Dialled:
    return Dialled()


def backend(dialled: Dialled, *, allow_private: bool = False) -> GuardedBackend:
    made = GuardedBackend(allow_private=allow_private)
    made._plain = dialled  # type: ignore[assignment]
    return made


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        [PUBLIC, "10.0.0.1"],
        ["10.0.0.1", PUBLIC],
        ["2606:4700::1", "::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        [PUBLIC] * MAX_ADDRESSES + ["192.168.0.1"],
        ["fe80::1%1"],
    ],
)
async def test_a_host_with_any_address_that_is_not_public(resolver: Resolver, dialled: Dialled, answer: list[str]):
    resolver.answers = [answer]
    with pytest.raises(AddressRefused):
        await backend(dialled).connect_tcp("hook.example", 443, timeout=5)
    assert dialled.addresses == []
    assert await backend(dialled, allow_private=True).connect_tcp("hook.example", 443, timeout=5) == answer[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0", "::1", "::ffff:127.0.0.1"])
async def test_a_host_that_is_a_number(dialled: Dialled, host: str):
    with pytest.raises((AddressRefused, httpcore.ConnectError)):
        await backend(dialled).connect_tcp(host, 443, timeout=5)
    assert dialled.addresses == []


async def test_what_was_looked_at_is_what_is_connected_to(resolver: Resolver, dialled: Dialled):
    resolver.answers = [[PUBLIC], ["127.0.0.1"]]
    assert await backend(dialled).connect_tcp("rebinding.example", 8443, timeout=5) == PUBLIC
    assert dialled.addresses == [(PUBLIC, 8443)]
    assert resolver.asked == ["rebinding.example"], "it is asked once"
    with pytest.raises(AddressRefused):
        await backend(dialled).connect_tcp("rebinding.example", 8443, timeout=5)


async def test_an_address_is_not_resolved_again(resolver: Resolver, site: Any):
    """The real connection asks nobody."""
    connected = await GuardedBackend(allow_private=True).connect_tcp("hook.example", site.port, timeout=5)
    assert connected.get_extra_info("server_addr") == ("127.0.0.1", site.port)
    assert resolver.asked == ["hook.example"]
    await connected.aclose()


async def test_the_next_address_if_nobody_is_at_the_first(
    resolver: Resolver, dialled: Dialled, autojump_clock: trio.testing.MockClock
):
    resolver.answers = [["1.1.1.1", "1.1.1.2", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5"]]
    dialled.closed, dialled.silent = {"1.1.1.1"}, {"1.1.1.2"}
    began = trio.current_time()
    assert await backend(dialled).connect_tcp("hook.example", 443, timeout=9) == "1.1.1.3"
    assert trio.current_time() - began == pytest.approx(3)
    dialled.silent = {f"1.1.1.{number}" for number in range(6)}
    dialled.closed, dialled.addresses = set(), []
    with pytest.raises(httpcore.ConnectTimeout):
        await backend(dialled).connect_tcp("hook.example", 443, timeout=9)
    assert trio.current_time() - began == pytest.approx(12)
    assert len(dialled.addresses) == MAX_ADDRESSES


async def test_a_host_that_is_not_there(resolver: Resolver, dialled: Dialled):
    resolver.answers = [[]]
    with pytest.raises(httpcore.ConnectError):
        await backend(dialled).connect_tcp("nobody.example", 443, timeout=5)


async def test_a_resolver_that_is_silent(dialled: Dialled, autojump_clock: trio.testing.MockClock):
    class Silent(Resolver):
        async def getaddrinfo(self, *args: Any, **more: Any) -> list[Any]:
            await trio.sleep_forever()

    trio.socket.set_custom_hostname_resolver(Silent())
    with pytest.raises(httpcore.ConnectTimeout):
        await backend(dialled).connect_tcp("hook.example", 443, timeout=5)


# --- whole deliveries


async def test_a_delivery_to_where_it_may_not_go(site: Any, sending: Any, resolver: Resolver):
    one = sending.endpoint(site, url=f"http://hook.example:{site.port}/", allow_private=False)
    async with sending.to(one) as deliverer:
        with pytest.raises(DeliveryFailed, match="'crm': its host has an address that is not public"):
            await deliverer.push(sending.push())
    assert (site.posts, site.connections) == ([], 0)


async def test_who_may_does_not_open_the_way_for_who_may_not(site: Any, sending: Any, resolver: Resolver):
    url = f"http://hook.example:{site.port}/"
    may = sending.endpoint(site, url=url)
    may_not = sending.endpoint(site, url=url, name="other", allow_private=False)
    async with sending.to(may, may_not) as deliverer:
        await deliverer.push(sending.push())
        with pytest.raises(DeliveryFailed, match="not public"):
            await deliverer.push(sending.push(identity=type(sending.push().identity)("webhook", "other")))
    assert len(site.posts) == 1


async def test_no_proxy_is_taken_from_the_environment(
    site: Any, sending: Any, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    async with sending.to(sending.endpoint(site, url=f"http://hook.example:{site.port}/")) as deliverer:
        await deliverer.push(sending.push())
    assert site.posts[0].headers["host"] == f"hook.example:{site.port}"


# --- TLS


class Authority:
    """A certificate authority of the test's own, and servers with its certificates."""

    def __init__(self, trustme: Any) -> None:
        self._authority = trustme.CA()
        self.wanted: list[str | None] = []

    def server(self, host: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(host).configure_cert(context)
        context.sni_callback = lambda _socket, name, _context: self.wanted.append(name)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        return context


@pytest.fixture
def authority() -> Authority:
    return Authority(pytest.importorskip("trustme"))


async def test_tls_is_about_the_name(
    site: Any, sending: Any, resolver: Resolver, authority: Authority, nursery: trio.Nursery
):
    await nursery.start(site.serve, authority.server("hook.example"))
    one = sending.endpoint(site, url=f"https://hook.example:{site.port}/", allow_http=False)
    async with sending.to(one, tls=authority.client()) as deliverer:
        await deliverer.push(sending.push())
    assert authority.wanted == ["hook.example"]
    assert site.posts[0].headers["host"] == f"hook.example:{site.port}"


async def test_a_certificate_for_another_name(
    site: Any, sending: Any, resolver: Resolver, authority: Authority, nursery: trio.Nursery
):
    await nursery.start(site.serve, authority.server("other.example"))
    one = sending.endpoint(site, url=f"https://hook.example:{site.port}/?hidden", allow_http=False)
    async with sending.to(one, tls=authority.client()) as deliverer:
        with pytest.raises(DeliveryFailed, match=r"'crm': TLS failed: Hostname mismatch") as caught:
            await deliverer.push(sending.push())
    assert "hidden" not in str(caught.value)
    assert site.posts == []


async def test_a_certificate_by_nobody_who_is_known(
    site: Any, sending: Any, resolver: Resolver, authority: Authority, nursery: trio.Nursery
):
    await nursery.start(site.serve, authority.server("hook.example"))
    one = sending.endpoint(site, url=f"https://hook.example:{site.port}/", allow_http=False)
    async with sending.to(one) as deliverer:
        with pytest.raises(DeliveryFailed, match="TLS failed"):
            await deliverer.push(sending.push())
    assert site.posts == []


async def test_a_server_without_tls(site: Any, sending: Any, resolver: Resolver):
    one = sending.endpoint(site, url=f"https://hook.example:{site.port}/", allow_http=False)
    async with sending.to(one) as deliverer:
        with pytest.raises(DeliveryFailed):
            await deliverer.push(sending.push())
    assert site.posts == []
