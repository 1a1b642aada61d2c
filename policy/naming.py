"""What an operator writes, as values: names, addresses, labels, keys, passwords. Pure but for `CommandRefused`."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from policy import names
from policy.errors import PolicyError
from policy.keys import sshkeys
from policy.keys.sshwire import BadKey
from policy.model import PersonName, TargetName
from policy.names import BadName

T = TypeVar("T")

_WORD: Final = re.compile(r"[a-z0-9][a-z0-9._/-]{0,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_BRACKETED: Final = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::([0-9]{1,5}))?")
MAX_PASSWORD: Final = 1024
"""Bytes; argon2 takes longer for longer ones, and no keyboard types more."""
MAX_KEYS: Final = 32
"""Keys of one person; a client is cut off after offering six."""
MAX_LABELS: Final = 32
MAX_PINS: Final = 16
"""Host keys of one target: four types, some of them twice while they are rotated."""


class CommandRefused(PolicyError):
    """A request that is not carried out. `code` is an exit code; `need` as of Refused."""

    def __init__(self, cause: str, hint: str = "", *, code: int = 64, need: str = "") -> None:
        super().__init__(cause, hint)
        self.code = code
        self.need = need


def person_name(text: str) -> PersonName:
    return _named(names.check_person_name, text)


def target_name(text: str) -> TargetName:
    return _named(names.check_target_name, text)


def account_name(text: str) -> str:
    return _named(names.check_account_name, text)


def mail(text: str) -> str:
    """An address; "" for `none`."""
    return _named(names.check_mail, text) if text not in ("", "none") else ""


def role_name(text: str) -> str:
    return _word(text, "role")


def address(text: str) -> tuple[str, int]:
    """Host and port of `HOST[:PORT]` or `[V6][:PORT]`; 22 without a port."""
    if (bracketed := _BRACKETED.fullmatch(text)) is not None:
        host, port = bracketed[1], bracketed[2] or "22"
    elif text.count(":") > 1 and re.fullmatch(r"[0-9A-Fa-f:.]{2,45}", text):
        host, port = text, "22"
    else:
        host, _, port = text.partition(":")
        port = port or "22"
        if not _HOST.fullmatch(host) or ".." in host:
            raise CommandRefused(f"address `{_shown(text)}`, want HOST[:PORT]")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise CommandRefused(f"port `{_shown(port)}` of address `{_shown(text)}`, want 1 to 65535")
    return host, int(port)


def labels(given: dict[str, str]) -> dict[str, str]:
    if len(given) > MAX_LABELS:
        raise CommandRefused(f"{len(given)} labels, at most {MAX_LABELS}")
    for key, value in given.items():
        _word(key, "label")
        if not value.isprintable() or len(value) > 128:
            raise CommandRefused(f"label `{key}` has a value that is too long or cannot be printed")
    return dict(sorted(given.items()))


def person_keys(lines: list[str]) -> dict[str, str]:
    """authorized_keys lines by fingerprint."""
    found: dict[str, str] = {}
    for line in lines:
        try:
            key = sshkeys.parse_authorized_key(line)
        except BadKey as error:
            raise CommandRefused(f"key `{_shown(line, 40)}`: {error}") from None
        found[key.key.fingerprint] = key.line
    if len(found) > MAX_KEYS:
        raise CommandRefused(f"{len(found)} keys, at most {MAX_KEYS}")
    return found


def host_keys(lines: list[str]) -> dict[str, bytes]:
    """Public key blobs by fingerprint, from lines of known_hosts or .pub files; comments are skipped."""
    found: dict[str, bytes] = {}
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = sshkeys.parse_host_key(line)
        except BadKey as error:
            raise CommandRefused(f"host key `{_shown(line, 40)}`: {error}") from None
        found[key.fingerprint] = key.blob
    return checked_pins(found)


def checked_pins(found: dict[str, bytes]) -> dict[str, bytes]:
    if len(found) > MAX_PINS:
        raise CommandRefused(f"{len(found)} host keys, at most {MAX_PINS}")
    return found


def key_type(blob: bytes) -> str:
    """The name at the front of a blob that was checked before."""
    return blob[4 : 4 + int.from_bytes(blob[:4])].decode("ascii", "replace")


def password(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > MAX_PASSWORD:
        raise CommandRefused(f"password is longer than {MAX_PASSWORD} bytes")
    return raw


def instant(text: str) -> int:
    """Nanoseconds of an RFC 3339 time; UTC where it names no offset."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise CommandRefused(f"time `{_shown(text)}`, want RFC 3339 like 2026-11-23T14:00:00Z") from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1_000_000) * 1000


def shown_time(nanoseconds: int | None) -> str:
    """RFC 3339 in UTC, to the second; empty for None."""
    if nanoseconds is None:
        return ""
    return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _named(check: Callable[[str], T], text: str) -> T:
    try:
        return check(text)
    except BadName as error:
        raise CommandRefused(str(error)) from None


def _word(text: str, what: str) -> str:
    if not _WORD.fullmatch(text):
        raise CommandRefused(f"{what} `{_shown(text)}`, want at most 64 lower-case letters, digits and `._/-`")
    return text


def _shown(text: str, limit: int = 64) -> str:
    cut = text[:limit]
    return "".join(char if char.isprintable() and char != "`" else "?" for char in cut)
