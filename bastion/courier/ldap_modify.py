"""The requests that change a password in a directory, as bytes, and what is answered. Pure.

sansldap knows no modify (RFC 4511 section 4.6), and for these few bytes it need not: everything in them has a length
before it, so nothing that anybody chose can be more than a value.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from bastion.courier.ber import BadAnswer

PASSWORD_MODIFY: Final = b"1.3.6.1.4.1.4203.1.11.1"
"""RFC 3062 section 2."""
MESSAGE: Final = 1000
"""Number of the one message that is sent beside those of sansldap, which count from 1."""
MAX_TEXT: Final = 200

_INTEGER, _OCTETS, _ENUMERATED, _SEQUENCE, _SET = 0x02, 0x04, 0x0A, 0x30, 0x31
_MODIFY, _MODIFIED, _EXTENDED, _EXTENDED_ANSWER = 0x66, 0x67, 0x77, 0x78


class Change(IntEnum):
    """Operation of a modification."""

    ADD = 0
    DELETE = 1
    REPLACE = 2


def value(tag: int, *content: bytes) -> bytes:
    """One BER value with a definite length (RFC 4511 section 5.1)."""
    data = b"".join(content)
    if len(data) < 0x80:
        return bytes((tag, len(data))) + data
    size = len(data).to_bytes((len(data).bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(size))) + size + data


def modify(entry: str, attribute: bytes, changes: Sequence[tuple[Change, bytes]]) -> bytes:
    """A ModifyRequest of one attribute: all of its changes, or none."""
    parts = [
        value(
            _SEQUENCE,
            value(_ENUMERATED, bytes((change,))),
            value(_SEQUENCE, value(_OCTETS, attribute), value(_SET, value(_OCTETS, new))),
        )
        for change, new in changes
    ]
    return _message(value(_MODIFY, value(_OCTETS, entry.encode()), value(_SEQUENCE, *parts)))


def unicode_password(entry: str, old: bytes, new: bytes) -> bytes:
    """As Active Directory wants it ([MS-ADTS] section 3.1.1.3.1.5): a change by its owner, or a reset without `old`."""
    changes = [(Change.DELETE, quoted(old)), (Change.ADD, quoted(new))] if old else [(Change.REPLACE, quoted(new))]
    return modify(entry, b"unicodePwd", changes)


def quoted(password: bytes) -> bytes:
    """UTF-16 of the password in quotes, which are part of it."""
    return f'"{password.decode()}"'.encode("utf-16-le")


def password_modify(entry: str, old: bytes, new: bytes) -> bytes:
    """PasswdModifyRequestValue (RFC 3062 section 2)."""
    wanted = [value(0x80, entry.encode()), *([value(0x81, old)] if old else []), value(0x82, new)]
    return _message(value(_EXTENDED, value(0x80, PASSWORD_MODIFY), value(0x81, value(_SEQUENCE, *wanted))))


def result(message: bytes) -> tuple[int, str]:
    """Result code and text of the answer; BadAnswer if it is another one. `ber.first_message` has cut it out."""
    _, at, end = _next(message, 0, len(message))
    tag, start, at = _next(message, at, end)
    if tag != _INTEGER or int.from_bytes(message[start:at]) not in (MESSAGE, 0):
        raise BadAnswer("gave another answer than one to a change of a password")
    tag, at, end = _next(message, at, end)
    if tag not in (_MODIFIED, _EXTENDED_ANSWER):
        raise BadAnswer("gave another answer than one to a change of a password")
    tag, start, at = _next(message, at, end)
    if tag != _ENUMERATED or not 1 <= at - start <= 4:
        raise BadAnswer("gave no proper LDAP answer")
    code = int.from_bytes(message[start:at])
    _, _, at = _next(message, at, end)  # matchedDN
    tag, start, at = _next(message, at, end)
    if tag != _OCTETS:
        raise BadAnswer("gave no proper LDAP answer")
    return code, message[start:at].rstrip(b"\0").decode("utf-8", "replace")[:MAX_TEXT]


def _next(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Tag, begin and end of the value at `at`."""
    if end - at < 2:
        raise BadAnswer("gave no proper LDAP answer")
    size, start = data[at + 1], at + 2
    if size > 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[at + 2 : start])
    if start + size > end:
        raise BadAnswer("gave no proper LDAP answer")
    return data[at], start, start + size


def _message(operation: bytes) -> bytes:
    return value(_SEQUENCE, value(_INTEGER, MESSAGE.to_bytes(2)), operation)
