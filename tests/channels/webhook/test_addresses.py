"""Which addresses are anybody's on the internet."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afactors_channels.webhook.addresses import is_public

PRIVATE4 = [
    "0.0.0.0",  # noqa: S104 - refused
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
]
PUBLIC4 = ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.255.255", "172.32.0.1", "192.0.1.1"]
PUBLIC4 += ["9.255.255.255", "11.0.0.1", "126.255.255.255", "168.63.129.17", "198.20.0.1", "223.255.255.255"]


@pytest.mark.parametrize("address", PRIVATE4)
def test_private(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC4)
def test_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "::",
        "::1",
        "::7f00:1",  # the old "compatible" form
        "::ffff:0:127.0.0.1",
        "64:ff9b:1::7f00:1",  # a network's own NAT64
        "100::1",
        "1fff::1",
        "2001::1",
        "2001:0:7f00:1::",  # Teredo
        "2001:1::1",
        "2001:db8::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::",
        "fe80::1%1",
        "fec0::1",
        "ff02::1",
        "2606:4700::1111%1",
    ],
)
def test_private_by_the_new_numbers(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "2620:fe::fe"])
def test_public_by_the_new_numbers(address: str):
    assert is_public(address)


def embedded(address: str) -> list[str]:
    number = int(IPv4Address(address))
    return [
        f"::ffff:{address}",
        str(IPv6Address(int(IPv6Address("64:ff9b::")) | number)),
        str(IPv6Address(int(IPv6Address("2002::")) | number << 80 | 1)),
    ]


@pytest.mark.parametrize("address", PRIVATE4)
def test_what_stands_for_a_private_one_is_private(address: str):
    assert [one for one in embedded(address) if is_public(one)] == []


@pytest.mark.parametrize("address", PUBLIC4)
def test_what_stands_for_a_public_one_is_public(address: str):
    assert [one for one in embedded(address) if not is_public(one)] == []


def test_well_known_spellings():
    assert not any(map(is_public, ["::ffff:127.0.0.1", "::ffff:7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::"]))


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.1", "0x7f.0.0.1", "017700000001", "2130706433", "8.8.8.8/32", "[::1]"]
)
def test_what_is_no_address_is_not_public(text: str):
    assert not is_public(text)


@given(st.ip_addresses())
def test_what_python_knows_to_be_private_is(address: object):
    """Our tables are stricter than `ipaddress`, but for what stands for another address."""
    parsed = ip_address(str(address))
    public = is_public(str(address))
    if parsed.is_multicast or parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified:
        assert not public
    if isinstance(parsed, IPv4Address) and parsed.is_private:
        assert not public
