"""The data types of SSH (RFC 4251 section 5): string, uint32, uint64, mpint. Pure.

Everything read here comes from a stranger. Whatever the bytes are, `BadKey` is the only error.
"""

import struct
from typing import Final

MAX_BLOB: Final = 16 * 1024
"""Bytes of a key, certificate or signature. A certificate on an 8192-bit RSA key by such a CA takes 3.5 KiB."""

MAX_MPINT_BITS: Final = 8192
"""Larger integers are refused by length, before any arithmetic (CVE-2026-39829: a verification of minutes)."""


class BadKey(ValueError):
    """Bytes that are no usable key, certificate or signature. The text is fit for logs: it quotes no raw bytes."""


class Reader:
    """Takes data types off the front of `data`; each read names what it wanted in its error."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def take(self, count: int, what: str) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise BadKey(f"{what} is cut short")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what))

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what))

    def string(self, what: str) -> bytes:
        return self.take(self.u32(what), what)

    def ascii(self, what: str) -> str:
        """A string of printable ASCII, as all names of algorithms are (RFC 4250 section 4.6.1)."""
        return printable(self.string(what), what)

    def mpint(self, what: str) -> int:
        """A positive integer in its one shortest form; other forms would give one key many fingerprints."""
        data = self.string(what)
        if len(data) > MAX_MPINT_BITS // 8 + 1:
            raise BadKey(f"{what} has {len(data)} bytes, want at most {MAX_MPINT_BITS} bits")
        if not data or data[0] & 0x80:
            raise BadKey(f"{what} is not above zero")
        if data[0] == 0 and (len(data) == 1 or not data[1] & 0x80):
            raise BadKey(f"{what} is not in its shortest form")
        return int.from_bytes(data)

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position, "rest")

    def more(self) -> bool:
        return self._position < len(self._data)

    def end(self, what: str) -> None:
        if self.more():
            raise BadKey(f"{len(self._data) - self._position} bytes after the end of the {what}")


def printable(data: bytes, what: str) -> str:
    """Printable ASCII as text."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise BadKey(f"{what} is not ASCII") from None
    if not text.isprintable():
        raise BadKey(f"{what} holds a control character")
    return text


def string(data: bytes | str) -> bytes:
    """RFC 4251 `string`."""
    raw = data.encode() if isinstance(data, str) else data
    return struct.pack(">I", len(raw)) + raw


def mpint(value: int) -> bytes:
    """RFC 4251 `mpint` of a positive integer."""
    return string(value.to_bytes(value.bit_length() // 8 + 1))
