"""RADIUS (RFC 2865) as far as an Access-Request and its answer go, with Message-Authenticator (RFC 2869). Pure.

Not pyrad: of a dictionary, proxies, accounting and servers we need two packets, and of what comes back every byte is
hostile until its authenticator holds.

    code(1) | identifier(1) | length(2) | authenticator(16) | attributes: type(1) | length(1) | value

INVARIANT: an answer counts only with a Message-Authenticator of its own. The Response Authenticator alone is a bare
MD5, and who sits on the way can make another answer with the same one (CVE-2024-3596, BlastRADIUS).
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

REQUEST: Final = 1
ACCEPT: Final = 2
REJECT: Final = 3
CHALLENGE: Final = 11

USER_NAME: Final = 1
USER_PASSWORD: Final = 2
REPLY_MESSAGE: Final = 18
STATE: Final = 24
NAS_IDENTIFIER: Final = 32
MESSAGE_AUTHENTICATOR: Final = 80

HEADER: Final = 20
MAX_PACKET: Final = 4096
"""RFC 2865 section 3."""
MAX_VALUE: Final = 253
MAX_PASSWORD: Final = 128
"""RFC 2865 section 5.2."""
MAX_ATTRIBUTES: Final = 64
"""More than any server sends with an answer about a code."""
AUTHENTICATOR: Final = 16


class BadPacket(Exception):
    """What is wrong with an answer, for the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    code: int
    message: str = ""  # Reply-Message, all of them
    state: bytes = b""


def access_request(
    identifier: int, authenticator: bytes, secret: bytes, *, user: str, password: bytes, nas: str, state: bytes = b""
) -> bytes:
    """The packet; ValueError if something does not fit into it. `authenticator`: 16 random bytes, never used again."""
    if len(authenticator) != AUTHENTICATOR:
        raise ValueError(f"got {len(authenticator)} bytes of authenticator, want {AUTHENTICATOR}")
    # First, as RFC 9765 and the makers of servers ask: what comes before it could be made to collide.
    attributes = _attribute(MESSAGE_AUTHENTICATOR, bytes(AUTHENTICATOR))
    attributes += _attribute(USER_NAME, user.encode())
    attributes += _attribute(USER_PASSWORD, hide(password, secret, authenticator))
    attributes += _attribute(NAS_IDENTIFIER, nas.encode())
    if state:
        attributes += _attribute(STATE, state)
    packet = bytes([REQUEST, identifier]) + (HEADER + len(attributes)).to_bytes(2) + authenticator + attributes
    return _signed(packet, HEADER + 2, secret)


def read_answer(data: bytes, request: bytes, secret: bytes) -> Answer:
    """What a server that knows the secret says to this very request; BadPacket for anything else."""
    if not HEADER <= len(data) <= MAX_PACKET:
        raise BadPacket(f"answer of {len(data)} bytes")
    length = int.from_bytes(data[2:4])
    if not HEADER <= length <= len(data):
        raise BadPacket(f"answer says {length} bytes and has {len(data)}")
    data = data[:length]  # RFC 2865 section 3: what follows is padding
    if data[1] != request[1]:
        raise BadPacket("answer to another request")
    asked = request[4:HEADER]
    expected = hashlib.md5(data[:4] + asked + data[HEADER:] + secret, usedforsecurity=False).digest()
    if not hmac.compare_digest(expected, data[4:HEADER]):
        raise BadPacket("answer does not fit the secret")
    found = _attributes(data)
    signatures = [(at, value) for at, kind, value in found if kind == MESSAGE_AUTHENTICATOR]
    # per invariant: demanded, once, and right
    if len(signatures) != 1 or len(signatures[0][1]) != AUTHENTICATOR:
        raise BadPacket("answer without one Message-Authenticator")
    at, signature = signatures[0]
    if not hmac.compare_digest(_signature(data[:4] + asked + data[HEADER:], at, secret), signature):
        raise BadPacket("answer with a wrong Message-Authenticator")
    if data[0] not in (ACCEPT, REJECT, CHALLENGE):
        raise BadPacket(f"answer of code {data[0]}")
    states = [value for _, kind, value in found if kind == STATE]
    if len(states) > 1:
        raise BadPacket("answer with two states")
    message = b"".join(value for _, kind, value in found if kind == REPLY_MESSAGE).decode("utf-8", "replace")
    return Answer(code=data[0], message=message, state=states[0] if states else b"")


def hide(password: bytes, secret: bytes, authenticator: bytes) -> bytes:
    """User-Password (RFC 2865 section 5.2); ValueError if it is too long."""
    if not 0 < len(password) <= MAX_PASSWORD:
        raise ValueError(f"password of {len(password)} bytes")
    padded = password + bytes(-len(password) % AUTHENTICATOR)
    hidden, before = b"", authenticator
    for at in range(0, len(padded), AUTHENTICATOR):
        key = hashlib.md5(secret + before, usedforsecurity=False).digest()
        before = bytes(a ^ b for a, b in zip(padded[at : at + AUTHENTICATOR], key, strict=True))
        hidden += before
    return hidden


def _attribute(kind: int, value: bytes) -> bytes:
    if not 0 < len(value) <= MAX_VALUE:
        raise ValueError(f"attribute {kind} of {len(value)} bytes")
    return bytes([kind, len(value) + 2]) + value


def _attributes(data: bytes) -> list[tuple[int, int, bytes]]:
    """(where the value begins, type, value) of each."""
    found: list[tuple[int, int, bytes]] = []
    at = HEADER
    while at < len(data):
        if len(data) - at < 2 or not 2 <= data[at + 1] <= len(data) - at or len(found) == MAX_ATTRIBUTES:
            raise BadPacket("answer with attributes that do not add up")
        found.append((at + 2, data[at], data[at + 2 : at + data[at + 1]]))
        at += data[at + 1]
    return found


def _signature(packet: bytes, at: int, secret: bytes) -> bytes:
    """RFC 2869 section 5.14: over the packet with zeros in its place."""
    return hmac.digest(secret, packet[:at] + bytes(AUTHENTICATOR) + packet[at + AUTHENTICATOR :], "md5")


def _signed(packet: bytes, at: int, secret: bytes) -> bytes:
    return packet[:at] + _signature(packet, at, secret) + packet[at + AUTHENTICATOR :]
