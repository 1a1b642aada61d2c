"""How many connections there may be: in all, and from one user or address. Pure."""

import ipaddress
from collections import Counter
from typing import Final

MOST: Final = 512
"""Connections at once; each may hold one of policyd's 1024, and some 100 KiB here with TLS."""
MOST_OF_ONE: Final = 64
"""Of one user of this machine, or one address: an application has one or a few."""


class Crowd:
    def __init__(self, most: int = MOST, of_one: int = MOST_OF_ONE) -> None:
        self._most, self._of_one = most, of_one
        self._here: Counter[str] = Counter()
        self._all = 0

    def come(self, who: str) -> bool:
        """Whether there is room for one more; who was let in says `leave`."""
        if self._all >= self._most or self._here[who] >= self._of_one:
            return False
        self._here[who] += 1
        self._all += 1
        return True

    def leave(self, who: str) -> None:
        self._all -= 1
        self._here[who] -= 1
        if not self._here[who]:
            del self._here[who]


def host_of(address: str) -> str:
    """Whom an address counts for: an IPv6 host has a whole /64 to come from."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found)


def plain(address: str) -> str:
    """An IPv4 address that came through an IPv6 socket as what it is; without a zone."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
