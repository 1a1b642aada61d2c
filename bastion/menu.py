"""The target menu: keys in, a picture of the screen out. Pure.

Type to filter, arrows or Ctrl-N and Ctrl-P to move, Enter to go, Escape, Ctrl-C or Ctrl-D to leave.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bastion.text import neutral

MAX_FILTER: Final = 64
"""Characters typed to filter; more match nothing anyway."""

_KEYS: Final = re.compile(rb"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-D]|\x1b|[\x00-\x1f\x7f]|[^\x00-\x1f\x7f\x1b]+")
_UP: Final = {b"\x1b[A", b"\x1bOA", b"\x10"}
_DOWN: Final = {b"\x1b[B", b"\x1bOB", b"\x0e", b"\t"}
_PAGE_UP, _PAGE_DOWN = b"\x1b[5~", b"\x1b[6~"
_LEAVE: Final = {b"\x1b", b"\x03", b"\x04"}
_BACK: Final = {b"\x7f", b"\x08"}
_BOLD, _DIM, _REVERSE, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[7m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Choice:
    account: str
    target: str
    about: str = ""  # labels, or what is still needed

    @property
    def name(self) -> str:
        return f"{self.account}@{self.target}"


class Outcome(Enum):
    OPEN = "open"
    PICKED = "picked"
    LEFT = "left"


class Menu:
    """One person's. `picked` is what they chose once `key` says PICKED."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._choices = list(choices)
        self._filter = ""
        self._at = 0
        self.news = ""  # what waits for the person, on one line
        self.rest = b""  # typed behind the key that picked: for the target

    @property
    def shown(self) -> list[Choice]:
        """Those that hold every word of the filter."""
        words = self._filter.lower().split()
        return [one for one in self._choices if all(word in f"{one.name} {one.about}".lower() for word in words)]

    @property
    def picked(self) -> Choice:
        return self.shown[self._at]

    def key(self, data: bytes, page: int = 10) -> Outcome:
        """What was typed, in one piece or many keys at once."""
        for key in _KEYS.finditer(data):
            token = key.group()
            if token in _LEAVE:
                return Outcome.LEFT
            if token in (b"\r", b"\n"):
                if self.shown:
                    self.rest = data[key.end() :]
                    return Outcome.PICKED
            elif token in _UP:
                self._move(-1)
            elif token in _DOWN:
                self._move(1)
            elif token in (_PAGE_UP, _PAGE_DOWN):
                self._move(page if token == _PAGE_DOWN else -page)
            elif token in _BACK:
                self._filter, self._at = self._filter[:-1], 0
            elif token == b"\x15":
                self._filter, self._at = "", 0
            elif token[0] >= 0x20 and not token.startswith(b"\x1b"):
                self._filter = (self._filter + neutral(token.decode("utf-8", "replace")))[:MAX_FILTER]
                self._at = 0
        return Outcome.OPEN

    def _move(self, by: int) -> None:
        self._at = max(0, min(self._at + by, len(self.shown) - 1))

    def render(self, columns: int, rows: int) -> str:
        """The whole screen, cursor at the end of the filter."""
        columns, rows = max(columns, 20), max(rows, 4)
        shown = self.shown
        room = max(1, rows - 4)
        first = max(0, min(self._at - room // 2, len(shown) - room))
        title = f"bastion   {len(shown)} of {len(self._choices)}"
        lines = [f"{_BOLD}{title[:columns]}{_PLAIN}", neutral(self.news)[:columns]]
        width = min(max((len(neutral(one.name)) for one in shown), default=0), columns - 4)
        for number, one in enumerate(shown[first : first + room], first):
            name = neutral(one.name)[: columns - 4].ljust(width)
            about = neutral(one.about)[: max(0, columns - 6 - width)]
            mark, start = ("> ", _REVERSE) if number == self._at else ("  ", "")
            lines.append(f"{mark}{start}{name}{_PLAIN if start else ''}  {_DIM}{about}{_PLAIN}".rstrip())
        if not shown:
            lines.append(f"  {_DIM}nothing matches{_PLAIN}"[: columns + 12])
        hint = "type to filter, arrows, enter; ctrl-c leaves"[: columns - 2]
        body = "\r\n".join(f"{line}\x1b[K" for line in lines)
        foot = f"\r\n\x1b[J\x1b[{rows - 1};1H{_DIM}{hint}{_PLAIN}\x1b[{rows};1H> {self._filter}\x1b[K"
        return f"\x1b[H{body}{foot}"


OPENING: Final = "\x1b[?1049h\x1b[2J"
CLOSING: Final = "\x1b[?1049l"
