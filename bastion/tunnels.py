"""Where forwarded connections go, as it stands in openings and global requests (RFC 4254 section 7). Pure.

Every reader takes a whole body and ValueError is its answer to one that is cut short, carries more than it says, or
names what no network knows: what stands behind a body would pass unrecorded, and what is written down is one event.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Final

from bastion.requests import string, strings
from policy.model import ChannelKind

MAX_HOST: Final = 255
"""Bytes of a name in DNS."""
MAX_PATH: Final = 1024
"""Bytes of a socket's path; Linux takes 108."""
MAX_PORT: Final = 0xFFFF

_U32: Final = Struct(">I")
_ANY: Final = frozenset({b"", b"*", b"0.0.0.0", b"::"})
_LOCAL: Final = frozenset({b"localhost", b"127.0.0.1", b"::1"})


@dataclass(frozen=True, slots=True)
class Way:
    """Where a forwarded connection goes: as it is recorded and asked about, and as it is said to the other side."""

    where: bytes  # HOST:PORT or a path
    origin: bytes  # HOST:PORT; empty for sockets
    body: bytes
    host: bytes = b""
    port: int = 0


def tcp(rest: bytes) -> Way:
    """direct-tcpip, forwarded-tcpip."""
    host, port, at = _host_and_port(rest, 0)
    source, source_port, at = _host_and_port(rest, at)
    _end(rest, at)
    if not host or not 0 < port <= MAX_PORT:
        raise ValueError(f"no port {port} of any host")
    return Way(b"%s:%d" % (host, port), b"%s:%d" % (source, source_port), rest, host, port)


def to_socket(rest: bytes) -> Way:
    """direct-streamlocal@openssh.com; its two reserved fields carry nothing."""
    path, at = _path(rest)
    _, at = string(rest, at)
    _end(rest, at + 4)
    return Way(path, b"", strings(path, b"") + bytes(4))


def from_socket(rest: bytes) -> Way:
    """forwarded-streamlocal@openssh.com; its reserved field carries nothing."""
    path, at = _path(rest)
    _, at = string(rest, at)
    _end(rest, at)
    return Way(path, b"", strings(path, b""))


def from_display(rest: bytes) -> Way:
    """x11."""
    source, port, at = _host_and_port(rest, 0)
    _end(rest, at)
    return Way(b"", b"%s:%d" % (source, port), rest)


def from_agent(rest: bytes) -> Way:
    """auth-agent@openssh.com."""
    _end(rest, 0)
    return Way(b"", b"", b"")


@dataclass(frozen=True, slots=True)
class Listening:
    """What a person asks a target to listen on for them; `port` 0 is one that the target chooses."""

    kind: ChannelKind
    name: bytes  # host, or path
    port: int = 0

    @property
    def where(self) -> bytes:
        """As it is asked about."""
        return self.name if self.kind is ChannelKind.FORWARD_SOCKET else b"%s:%d" % (self.name, self.port)

    @property
    def body(self) -> bytes:
        """Of the global request, and of the one that ends it."""
        return strings(self.name) + (b"" if self.kind is ChannelKind.FORWARD_SOCKET else _U32.pack(self.port))


def listening(kind: ChannelKind, rest: bytes) -> Listening:
    """tcpip-forward, streamlocal-forward@openssh.com and their cancels."""
    if kind is ChannelKind.FORWARD_SOCKET:
        path, at = _path(rest)
        _end(rest, at)
        return Listening(kind, path)
    host, port, at = _host_and_port(rest, 0)
    _end(rest, at)
    if port > MAX_PORT:
        raise ValueError(f"no port {port}")
    return Listening(kind, host, port)


def chosen_port(said: bytes) -> int | None:
    """The port in a target's answer, where it had to choose one (RFC 4254 section 7.1); None if it names none."""
    port = int(_U32.unpack_from(said)[0]) if len(said) >= _U32.size else 0
    return port if 0 < port <= MAX_PORT else None


def asked_for(ways: Iterable[Listening], kind: ChannelKind, way: Way) -> bool:
    """Did the person ask for what the target opens? RFC 4254 section 7.2: other channels must be rejected.

    The same port, and the same name or one that means it: servers say `127.0.0.1` where `localhost` was asked for.
    """
    if kind is ChannelKind.FORWARD_SOCKET:
        return any(asked.kind is kind and asked.name == way.where for asked in ways)
    return any(
        asked.kind is kind and asked.port in (0, way.port) and means(asked.name, way.host) for asked in ways
    )  # fmt: skip


def means(asked: bytes, said: bytes) -> bool:
    """Is `said` a name of what was asked for?"""
    return said == asked or asked in _ANY or (asked in _LOCAL and said in _LOCAL)


def _host_and_port(rest: bytes, at: int) -> tuple[bytes, int, int]:
    host, at = string(rest, at)
    if len(host) > MAX_HOST or b"\0" in host:
        raise ValueError("host is too long, or has a NUL in it")
    if at + _U32.size > len(rest):
        raise ValueError("port is cut short")
    return host, int(_U32.unpack_from(rest, at)[0]), at + _U32.size


def _path(rest: bytes) -> tuple[bytes, int]:
    path, at = string(rest, 0)
    if not 0 < len(path) <= MAX_PATH or b"\0" in path:
        raise ValueError("path is empty, too long, or has a NUL in it")
    return path, at


def _end(rest: bytes, at: int) -> None:
    if at != len(rest):
        raise ValueError("body is not as long as it says")
