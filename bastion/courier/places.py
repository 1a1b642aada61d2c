"""Which addresses a call may go to. Pure.

A URL in a configuration file, or a name server that lies, must not turn the courier into a way to what only this
machine can see (server-side request forgery): the metadata services of clouds give out the machine's own credentials.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

CLOSED: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # "this host" (RFC 6890): Linux connects it to loopback
        "169.254.0.0/16",  # link-local, and 169.254.169.254 of AWS, Azure, GCP, OpenStack
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "100.100.100.200/32",  # metadata of Alibaba Cloud
        "168.63.129.16/32",  # wire server of Azure
        "192.0.0.192/32",  # metadata of Oracle Cloud
        "::/128",
        "fe80::/10",
        "ff00::/8",
        "fd00:ec2::254/128",  # metadata of AWS over IPv6
        "fd20:ce::254/128",  # metadata of GCP over IPv6
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052


def may_call(text: str, configured: Iterable[Network] = ()) -> bool:
    """Whether a call may go to this address; `configured` networks of `[courier] reach` are open in any case."""
    address = plain(text)
    return any(address in network for network in configured) or not any(address in network for network in CLOSED)


def plain(text: str) -> Address:
    """The address that packets go to: without zone, and taken out of the IPv6 addresses that wrap an IPv4 one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


def networks(words: Sequence[str]) -> tuple[Network, ...]:
    """`[courier] reach`; ValueError names the word that is no network."""
    found = []
    for word in words:
        try:
            found.append(ipaddress.ip_network(word))
        except ValueError:
            raise ValueError(f"`{word[:60]}` is no network like `169.254.1.0/24`") from None
    return tuple(found)
