"""From a name to a TCP connection: looked up once, judged, and connected to the very address that was judged.

Looking it up again for the connection would let a name server answer twice (DNS rebinding).
"""

import socket
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import trio

from bastion.courier.places import Network, may_call
from bastion.courier.silent import Silent

MAX_ADDRESSES: Final = 4
"""Tried in turn; who has more than two hosts behind one name has a load balancer."""

MAX_TRUST: Final = 48 * 1024
"""Bytes of PEM in a call; a message holds no more."""


class Unreachable(Exception):
    """Why a place cannot be called, for people, after its name."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Where this courier may go: `open` networks beyond what everybody may."""

    open: tuple[Network, ...] = ()
    silent: Silent = field(default_factory=Silent, compare=False, repr=False)  # what RADIUS remembers

    async def addresses(self, host: str, port: int) -> list[str]:
        """Addresses of a host that may be called, at most MAX_ADDRESSES. Unreachable if there is none."""
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise Unreachable(f"the name `{host[:80]}` was not found") from None
        known = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [address for address in known if may_call(address, self.open)]
        if not allowed:
            # INVARIANT: no packet goes to an address that may_call refuses, whatever a name server says.
            raise Unreachable(f"`{host[:80]}` is at {known[0]}, which this bastion does not call")
        return allowed[:MAX_ADDRESSES]


@lru_cache(maxsize=64)
def tls_context(trust: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, certificate and name verified, against the system's CAs or only those in `trust` (PEM).

    Unreachable if `trust` holds no certificate.
    """
    if len(trust) > MAX_TRUST:
        raise Unreachable("its `ca` file is too long")
    try:
        context = ssl.create_default_context(cadata=trust or None)
    except (ssl.SSLError, ValueError):
        raise Unreachable("its `ca` file holds no certificate in PEM") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def tls_problem(error: BaseException | None) -> str:
    """What is wrong with the TLS of a peer, in words; "" if that was not it."""
    seen = 0
    while error is not None and seen < 10:  # a chain of causes, not a ring
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"shows a certificate that is not accepted: {error.verify_message[:120].lower().rstrip('.')}"
        if isinstance(error, ssl.SSLError):
            return f"speaks no TLS that is accepted: {(error.reason or 'no handshake').lower().replace('_', ' ')}"
        error, seen = error.__cause__ or error.__context__, seen + 1
    return ""
