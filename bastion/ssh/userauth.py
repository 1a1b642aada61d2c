"""SSH_MSG_USERAUTH_REQUEST behind its user, service and method (RFC 4252): what an attempt is made of. Judges nothing.

asyncssh's ProtocolError if it is malformed; None where it is well formed and nobody here takes it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from asyncssh.misc import ProtocolError
from asyncssh.packet import SSHPacket, String

from bastion.errors import Denied

MSG_USERAUTH_INFO_RESPONSE: Final = 61

MAX_BLOB, MAX_SIGNATURE = 16 * 1024, 8 * 1024
"""Bytes of a key or certificate (16384-bit RSA: 2 KiB), which travels to policyd twice, and of what it signs."""
MAX_PASSWORD: Final = 1025
"""Bytes of a password that policyd sees; it refuses more than 1024."""

VOID_INVITATION: Final = Denied(
    "this invitation is void, or this key is somebody's already", "log in by your own name, or ask for another one"
)
BAD_TOKEN: Final = Denied(
    "this token is not known, used up or over", "ask for another: ssh bastion token ACCOUNT@TARGET"
)


@dataclass(frozen=True, slots=True)
class KeyOffer:
    """Would this key do?"""

    algorithm: bytes
    blob: bytes


@dataclass(frozen=True, slots=True)
class KeyProof:
    """A signature over `signed`: the session and the whole request, byte by byte (RFC 4252 section 7)."""

    blob: bytes
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Password:
    password: bytes


@dataclass(frozen=True, slots=True)
class Questions:
    """keyboard-interactive (RFC 4256): whatever is asked."""


Attempt = KeyOffer | KeyProof | Password | Questions


def read_attempt(method: bytes, packet: SSHPacket, session: bytes) -> Attempt | None:
    """The rest of a request; `session` is the exchange hash that signatures are bound to."""
    match method:
        case b"publickey":
            return _key(packet, session)
        case b"password":
            change, password = packet.get_boolean(), packet.get_string()
            if change:
                packet.get_string()
            packet.check_end()
            return None if change else Password(password[:MAX_PASSWORD])
        case b"keyboard-interactive":
            packet.get_string(), packet.get_string()  # language and submethods
            packet.check_end()
            return Questions()
        case _:
            packet.get_bytes(len(packet.get_remaining_payload()))
            return None


def _key(packet: SSHPacket, session: bytes) -> KeyOffer | KeyProof | None:
    with_signature, algorithm, blob = packet.get_boolean(), packet.get_string(), packet.get_string()
    signed = String(session) + packet.get_consumed_payload()
    signature = packet.get_string() if with_signature else b""
    packet.check_end()
    if len(blob) > MAX_BLOB or len(signature) > MAX_SIGNATURE:
        return None
    return KeyProof(blob, signed, signature) if with_signature else KeyOffer(algorithm, blob)


class Question:
    """The open keyboard-interactive question, to asyncssh the authentication under way: it gets messages 60 to 79."""

    def __init__(self, answered: Callable[[SSHPacket], Awaitable[None]]) -> None:
        self._answered = answered

    def process_packet(self, kind: int, _seq: int, packet: SSHPacket) -> Awaitable[None]:
        if kind != MSG_USERAUTH_INFO_RESPONSE:
            raise ProtocolError(f"message {kind} is no answer")
        return self._answered(packet)

    def log_received_packet(self, *_: object) -> None:
        """Nothing: answers are secrets."""

    def cancel(self) -> None:
        """Nothing is under way while the person thinks."""
