"""The login string: `[person@]account@target[#port]`, read from the right, so that a person may contain `@`.

`@` is the documented separator: it alone survives ssh, scp, sftp, rsync, git, ansible and `-J` of every OpenSSH
measured. `#`, `~`, `%` and `:` are understood for people who come from elsewhere. One word alone is a person
without a target: the menu, or a command of ours. In the place of a person a secret may stand, `ticket-...` or
`join-...`. Pure.
"""

import re
from dataclasses import dataclass
from typing import Final

from bastion.errors import MisuseError
from policy.model import MAX_LOGIN

MAX_PART: Final = 128
"""Characters of one part. Longer than any host label or account name; short enough for a log line."""

SYNONYMS: Final = "#~%:"
"""Separators of other products, understood where no `@` is."""

SECRET: Final = re.compile(r"(ticket|join)-[a-z2-7]{16,}")
"""What is taken for a secret: those there are have 40 characters, and one that was mistyped is no less to be kept."""

_HINT: Final = "use: ssh account@target@bastion"


class Secret:
    """A token in the place of a person's name. It is shown to nobody: no log, no list, no repr has it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """For policyd alone."""
        return self._value

    @property
    def joins(self) -> bool:
        """An invitation, which goes along with a key; else an access token, which goes by itself."""
        return self._value.startswith("join-")

    def __repr__(self) -> str:
        return f"{self._value.partition('-')[0]}-\N{HORIZONTAL ELLIPSIS}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a user name on the wire asks for. `person` is only a claim; who somebody is, policyd says."""

    person: str = ""
    secret: Secret | None = None  # in the place of a person
    account: str = ""
    target: str = ""  # "": no target, the menu or a command
    port: int = 0  # 0: the target's own


def parse(text: str) -> Login:
    """The parts of a login string; MisuseError names what is wrong without quoting what cannot be printed."""
    if not text:
        raise MisuseError("empty user name", _HINT)
    if len(text) > MAX_LOGIN:
        raise MisuseError(f"user name is longer than {MAX_LOGIN} characters", _HINT)
    if not text.isprintable() or any(char.isspace() for char in text):
        # Escape sequences, new lines and bidirectional overrides would forge log lines and lists (CVE-2023-28486).
        raise MisuseError("user name holds a character that cannot be printed", _HINT)
    if "@" in text:
        head, _, tail = text.rpartition("@")
        target, port = _port(tail)
        person, _, account = head.rpartition("@")
        return _checked(person, account, target, port, claimed="@" in head)
    for separator in SYNONYMS:
        if separator in text:
            return _foreign(text.split(separator))
    return _checked(text, "", "", 0, claimed=True)


def _foreign(parts: list[str]) -> Login:
    """Parts of a login string of another product: `account web1`, `alice account web1`, each with a port behind."""
    port = 0
    if len(parts) > 2 and parts[-1].isascii() and parts[-1].isdigit():
        port = _number(parts.pop())
    if len(parts) > 3:
        raise MisuseError(f"user name has {len(parts)} parts, want account and target", _HINT)
    person = parts[0] if len(parts) == 3 else ""
    return _checked(person, parts[-2], parts[-1], port, claimed=len(parts) == 3)


def _port(tail: str) -> tuple[str, int]:
    for separator in "#:":
        target, found, number = tail.partition(separator)
        if found:
            return target, _number(number)
    return tail, 0


def _number(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535:
        return int(text)
    raise MisuseError(f"port is `{text[:16]}`, want 1 to 65535", _HINT)


def _checked(person: str, account: str, target: str, port: int, *, claimed: bool) -> Login:
    for name, part, wanted in (
        ("person", person, claimed),
        ("account", account, bool(target)),
        ("target", target, bool(account) or not person),
    ):
        if wanted and not part:
            raise MisuseError(f"{name} is empty", _HINT)
        if len(part) > MAX_PART:
            raise MisuseError(f"{name} is longer than {MAX_PART} characters", _HINT)
        if part.startswith("-"):
            # Whoever hands a part to a command line must not find an option in it (CVE-2023-51385).
            raise MisuseError(f"{name} begins with `-`", _HINT)
    if not set(target) <= _TARGET:
        raise MisuseError("target is no host name", _HINT)
    secret = Secret(person) if SECRET.fullmatch(person) else None
    return Login(person="" if secret else person, secret=secret, account=account, target=target, port=port)


_TARGET: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
