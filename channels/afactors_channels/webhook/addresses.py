"""Which addresses are anybody's on the internet.

The tables are our own: what `ipaddress` calls global differs between Python's releases. Sources: IANA's
special-purpose address registries for IPv4 and IPv6 (RFC 6890, 8190).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_SPECIAL4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 is this machine
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT, and a cloud's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # public by its number, and what a cloud's own machines are managed by
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments, and a cloud's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays from 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# Everything but these is loopback, private (fc00::/7), link-local, multicast, or not assigned to anybody.
_GLOBAL6 = IPv6Network("2000::/3")
_SPECIAL6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments; with them Teredo, whose addresses hold others
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
# What stands for an IPv4 address, and by how many bits that is from the right: mapped, NAT64 (RFC 6052), 6to4.
_EMBEDDING = ((IPv6Network("::ffff:0:0/96"), 0), (IPv6Network("64:ff9b::/96"), 0), (IPv6Network("2002::/16"), 80))


def is_public(address: str) -> bool:
    """Whether an address (a number, as a resolver gives it) is one that anybody on the internet may be at.

    Not so: private, loopback, link-local, multicast, reserved and unspecified ones, those of carrier-grade NAT and of
    clouds' metadata services, and IPv6 addresses that stand for such a one. What is no address is not public.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return _is_public4(parsed) if isinstance(parsed, IPv4Address) else _is_public6(parsed)


def _is_public4(address: IPv4Address) -> bool:
    return not any(address in network for network in _SPECIAL4)


def _is_public6(address: IPv6Address) -> bool:
    if address.scope_id is not None:
        return False
    for network, shift in _EMBEDDING:
        if address in network:
            return _is_public4(IPv4Address(int(address) >> shift & 0xFFFFFFFF))
    return address in _GLOBAL6 and not any(address in network for network in _SPECIAL6)
