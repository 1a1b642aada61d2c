"""What changes a secret on a target: one command there, and a talk with it. Pure: what it says in, what to say out.

    begun     the target runs the command          -> effects
    heard     it wrote something                   -> effects
    ended     it is over, with an exit status or none (the line broke) -> Result, or the next deed to try

A target is not believed: what it says decides nothing but how the order is answered, and policyd asks a fresh login.
INVARIANT: `told` is true from the first byte on that could change something.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from bastion.text import neutral
from policy.messages.rotation import REFUSED

MAX_DETAIL: Final = 300
"""Characters of what a target said, for the operator: four lines of a terminal."""
_KEPT: Final = 4096
"""Bytes of the end of what was said that may become a detail."""
_LINES: Final = 5
MAX_PASSWORD: Final = 128
"""Bytes; crypt and PAM take 511, passwd of busybox 255, AIX far fewer."""
HIDDEN: Final = b"[secret]"

_ACCOUNT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?")
_PASSWORD: Final = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_PASSWORD)


@dataclass(frozen=True, slots=True)
class Type:
    """Say this to the command; what is secret is recorded as a commitment."""

    data: bytes
    secret: bool = False

    def __repr__(self) -> str:
        return f"Type({len(self.data)} bytes)"


@dataclass(frozen=True, slots=True)
class EndInput:
    """Nothing more will be said."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """Leave: what it asks is not answered."""


Effect = Type | EndInput | HangUp
Effects = Sequence[Effect]


@dataclass(frozen=True, slots=True)
class Result:
    """As `policy.messages.rotation.Worked`."""

    outcome: str
    detail: str = ""


class Deed(Protocol):
    """One command. `command` is constant text: nothing that anybody chose is ever part of it."""

    command: bytes
    terminal: bool
    limit: int  # bytes that it may say
    told: bool
    secrets: tuple[bytes, ...]  # never recorded and never reported, also if the target says them back

    def begun(self) -> Effects: ...

    def heard(self, data: bytes, *, error: bool) -> Effects: ...

    def ended(self, status: int | None) -> "Result | Deed": ...


class BadOrder(Exception):
    """It cannot be carried out as it is; the text is for the operator. Nothing was said to anybody."""


def check_account(name: str) -> str:
    """A name that is one word for every program it is told to; BadOrder otherwise."""
    if not _ACCOUNT.fullmatch(name):
        # Attack: `-S`, or `root:x\nann`, which chpasswd reads as two lines.
        raise BadOrder(f"account `{neutral(name)[:64]}` is no name of a Unix account")
    return name


def check_password(secret: bytes, *, forbidden: bytes = b"") -> bytes:
    """Printable ASCII without spaces, so that it is one line and one word everywhere; BadOrder otherwise."""
    if not _PASSWORD.fullmatch(secret) or any(char in secret for char in forbidden):
        # Attack: a line feed in a password is the next line of what chpasswd reads: the password of anybody else.
        raise BadOrder(f"a password is 1 to {MAX_PASSWORD} printable ASCII characters without spaces and colons")
    return secret


class Hearing:
    """The end of what a command said, for a detail that is safe to show."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._scrub = Scrubber(secrets)
        self._said = b""

    def add(self, data: bytes) -> None:
        # Before it is cut: the end of a secret that was cut in two is no secret that `hide` knows.
        self._said = (self._said + self._scrub.feed(data))[-_KEPT:]

    def drop_line(self) -> None:
        """The line that is being written was a prompt, and says nothing about how it went."""
        self._said = self._said[: max(self._said.rfind(b"\n"), self._said.rfind(b"\r")) + 1]

    def detail(self, otherwise: str) -> str:
        """Its last lines, or `otherwise` if it said nothing."""
        text = (self._said + self._scrub.rest()).decode("utf-8", "replace")
        lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
        return neutral("; ".join(lines[-_LINES:]))[-MAX_DETAIL:] or otherwise


class Scrubber:
    """Output as it may be recorded: a target that says a secret back must not bring it into the recording."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = sorted((one for one in secrets if one), key=len, reverse=True)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may be recorded by now; the beginning of a secret is held until it is known to be none."""
        data = hide(self._held + data, self._secrets)
        keep = 0
        for secret in self._secrets:
            for size in range(min(len(secret) - 1, len(data)), keep, -1):
                if data.endswith(secret[:size]):
                    keep = size
                    break
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def rest(self) -> bytes:
        held, self._held = self._held, b""
        return held


def hide(data: bytes, secrets: Sequence[bytes]) -> bytes:
    """Without the secrets in it."""
    for secret in secrets:
        if secret:
            data = data.replace(secret, HIDDEN)
    return data


def refused(text: str) -> Result:
    return Result(REFUSED, text)
