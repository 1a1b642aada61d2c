"""What the auditor's keys do while a recording plays. Pure: key and time in, effect out.

space  pause, go on            left right  5 s back, forth      .  next event, then wait
+ -    faster, slower          up down     60 s forth, back     g  go to a time: 1:30 Enter
i      skip idle time or not   tab         next channel         q  quit
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from replay.text import moment
from replay.timeline import Pace

_KEYS: Final = re.compile(rb"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Za-z]|\x1b|[^\x1b]")
_NAMES: Final = {
    b" ": "space", b"\r": "enter", b"\n": "enter", b"\t": "tab", b"\x7f": "back", b"\x08": "back", b"\x03": "q",
    b"\x04": "q", b"\x1b": "escape", b"\x1b[C": "right", b"\x1b[D": "left", b"\x1b[A": "up", b"\x1b[B": "down",
    b"\x1bOC": "right", b"\x1bOD": "left", b"\x1bOA": "up", b"\x1bOB": "down", b"\x1b[H": "home", b"\x1b[1~": "home",
    b"\x1b[F": "end", b"\x1b[4~": "end",
}  # fmt: skip
_JUMPS: Final = {"left": -5_000, "right": 5_000, "down": -60_000, "up": 60_000}


def keys(data: bytes) -> list[str]:
    """What a terminal sent -> names of keys, or the character itself."""
    return [_NAMES.get(key, key.decode("latin-1")) for key in _KEYS.findall(data)]


class Do(Enum):
    """What is left for the player to do."""

    NOTHING = auto()
    STATUS = auto()  # something on the status line changed
    SEEK = auto()  # draw the picture of `Controls.target`
    STEP = auto()  # show the next event now
    CHANNEL = auto()  # play the next channel
    QUIT = auto()


@dataclass(slots=True)
class Controls:
    """`target` is where SEEK goes, in ms. `typing` is the time being typed after `g`, None outside of it."""

    pace: Pace
    duration_ms: int
    target: int = 0
    typing: str | None = None
    used: bool = False  # somebody is there: at the end, wait for what they want

    def press(self, key: str, now: float, next_ms: int | None) -> Do:
        """One key; `next_ms` is the time of the next event, None at the end."""
        self.used = True
        if self.typing is not None:
            return self._type(key, now)
        here = self.pace.position(now, next_ms)
        match key:
            case "q" | "Q":
                return Do.QUIT
            case "space":
                self.pace.pause(now, not self.pace.paused)
            case "+" | "=":
                self.pace.faster(now, 1)
            case "-" | "_":
                self.pace.faster(now, -1)
            case "i":
                self.pace.position(now, next_ms)
                self.pace.skip_idle = not self.pace.skip_idle
            case "g":
                self.typing = ""
            case ".":
                self.pace.pause(now, True)
                return Do.STEP
            case "tab":
                return Do.CHANNEL
            case "home":
                return self._seek(0, now)
            case "end":
                return self._seek(self.duration_ms, now)
            case "left" | "right" | "up" | "down":
                return self._seek(here + _JUMPS[key], now)
            case _:
                return Do.NOTHING
        return Do.STATUS

    def _type(self, key: str, now: float) -> Do:
        assert self.typing is not None
        if key == "enter":
            place, self.typing = moment(self.typing), None
            return Do.STATUS if place is None else self._seek(place, now)
        if key in ("escape", "q"):
            self.typing = None
        elif key == "back":
            self.typing = self.typing[:-1]
        elif key in "0123456789:." and len(self.typing) < 12:
            self.typing += key
        return Do.STATUS

    def _seek(self, ms: int, now: float) -> Do:
        self.target = min(max(ms, 0), self.duration_ms)
        self.pace.jump(self.target, now)
        return Do.SEEK
