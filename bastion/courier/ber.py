"""Cuts a stream into LDAP messages, and lets through only what a decoder can be given. Pure.

RFC 4511 section 5.1 allows less than BER: definite lengths, and octet strings in one piece. LDAP has no tag number
above 30, so an attacker's tag of a megabyte, which takes a decoder minutes, ends here.
"""

from typing import Final

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Bytes of one message, which is one entry: what OpenLDAP lets a person write at once. A group of 40,000 fits."""
MAX_DEPTH: Final = 16
"""Constructed values within each other; the deepest answer that LDAP has nests six."""

_CONSTRUCTED: Final = 0x20
_LONG_TAG: Final = 0x1F
_SEQUENCE: Final = 0x30


class BadAnswer(ValueError):
    """What the other side said is no LDAP; the text is for people, and quotes nothing of it."""


def first_message(data: bytes | bytearray) -> int:
    """Length of the message that `data` begins with, 0 while it is not whole. BadAnswer if it cannot become one."""
    if data and data[0] != _SEQUENCE:
        raise BadAnswer("gave no proper LDAP answer")
    header = _header(data, 0, len(data))
    if header is None:
        return 0
    start, size = header
    if size > MAX_MESSAGE:
        raise BadAnswer(f"sent an entry of more than {MAX_MESSAGE // 1024 // 1024} MiB")
    if start + size > len(data):
        return 0
    _check(data, start, start + size)
    return start + size


def _check(data: bytes | bytearray, at: int, end: int) -> None:
    """Every value lies within the one that holds it."""
    ends = [end]
    while ends:
        if at == ends[-1]:
            ends.pop()
            continue
        header = _header(data, at, ends[-1])
        if header is None or header[0] + header[1] > ends[-1] or len(ends) > MAX_DEPTH:
            raise BadAnswer("gave no proper LDAP answer")
        if data[at] & _CONSTRUCTED:
            ends.append(header[0] + header[1])
            at = header[0]
        else:
            at = header[0] + header[1]


def _header(data: bytes | bytearray, at: int, end: int) -> tuple[int, int] | None:
    """Where the value begins, and its length; None if the header is not whole. BadAnswer for what LDAP has not."""
    if end - at < 2:
        return None
    first = data[at + 1]
    if data[at] & _LONG_TAG == _LONG_TAG or first == 0x80 or first > 0x84:
        raise BadAnswer("gave no proper LDAP answer")
    start = at + 2 + (first & 0x7F if first > 0x80 else 0)
    if start > end:
        return None
    return start, int.from_bytes(data[at + 2 : start], "big") if first > 0x80 else first
