"""What stands where on the auditor's terminal while a recording plays. Pure.

A channel with a terminal is a *picture*: in the top rows, as many as were recorded. Anything else is a *chronicle*:
lines that scroll. Below, where there is room, a status line; where there is none it lies over the last row while it
is needed.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from recorder.model import Event, Kind
from replay import notes
from replay.chronicle import Chronicle
from replay.facts import Channel
from replay.picture import Pictures, Source
from replay.safe import Filter
from replay.text import clock, neutral

REDRAWN: Final = 64 * 1024
"""Characters of a chronicle that are drawn again after a seek: many screens."""

TYPED: Final = 24
"""Typed characters on the status line."""


@dataclass(slots=True)
class Stage:
    """`columns` and `rows` are those of the auditor's terminal."""

    source: Source
    channel: Channel | None
    columns: int
    rows: int
    typed: bool = False
    recorded: tuple[int, int] = (80, 24)
    _typed: str = ""
    _filters: dict[int, Filter] = field(default_factory=dict)
    _chronicle: Chronicle | None = None
    _pictures: Pictures | None = None

    def __post_init__(self) -> None:
        if self.channel is not None and self.channel.start is not None and self.channel.has_terminal:
            self.recorded = (self.channel.start.columns or 80, self.channel.start.rows or 24)
            self._pictures = Pictures(self.source, self.channel.number, *self.recorded)
        self.at(0)

    @property
    def has_room(self) -> bool:
        """The status line has a row of its own."""
        return self._pictures is None or self.recorded[1] < self.rows

    @property
    def _clip(self) -> int:
        """Rows that output may use; 0: all of the terminal."""
        if self._pictures is None:
            return self.rows - 1
        return self.recorded[1] if self.recorded[1] < self.rows else 0

    def at(self, ms: int) -> str:
        """What draws the stage as it was after all events up to `ms`."""
        self._typed = ""
        if self._pictures is not None:
            self.recorded = self._pictures.size(ms)
            self._filters = {}
            return self._pictures.at(ms, self._clip)
        self._chronicle = self._new_chronicle()
        shown: deque[str] = deque()
        length = 0
        for event in self.source(0):
            if event.ms > ms:
                break
            text = self._chronicle.show(event)
            shown.append(text)
            length += len(text)
            while length > REDRAWN:
                length -= len(shown.popleft())
        return Filter(self._clip).start() + "".join(shown)

    def _new_chronicle(self) -> Chronicle:
        number = self.channel.number if self.channel is not None else None
        return Chronicle(channel=number, typed=self.typed, raw=True, rows=self._clip)

    def concerns(self, event: Event) -> bool:
        """True if `event` is of what is being played."""
        return self.channel is None or event.channel == self.channel.number

    def show(self, event: Event) -> str:
        """What draws one event after those before it."""
        if self._chronicle is not None:
            return self._chronicle.show(event)
        match event.kind:
            case Kind.OUTPUT | Kind.STDERR:
                if event.kind not in self._filters:
                    self._filters[event.kind] = Filter(self._clip)
                return self._filters[event.kind].feed(event.data)
            case Kind.RESIZE if size := notes.geometry(event.data):
                self.recorded = size
                self._filters = {}
                return f"\x1b7\x1b[1;{self._clip or self.rows}r\x1b8"
            case Kind.INPUT | Kind.REVEALED if self.typed:
                self._typed = (self._typed + neutral(event.data))[-TYPED:]
            case Kind.SEALED_INPUT if self.typed:
                self._typed = (self._typed + "•" * min(notes.sealed_length(event.data), TYPED))[-TYPED:]
        return ""

    def status(self, text: str) -> str:
        """What draws the status line, cursor and colours kept."""
        typed = f"  typed: {self._typed}" if self._typed else ""
        line = f" {self._too_small()}{text}{typed}"[: self.columns - 1]
        # ESC 7 keeps the recording's colours and cursor, ESC 8 brings them back; origin mode off to reach the row
        return f"\x1b7\x1b[?6l\x1b[{self.rows};1H\x1b(B\x0f\x1b[0;7m{line:<{self.columns - 1}}\x1b[0m\x1b[K\x1b8"

    def _too_small(self) -> str:
        columns, rows = self.recorded
        if self._pictures is None or (columns <= self.columns and rows <= self.rows):
            return ""
        return f"recorded at {columns}x{rows}: make this window larger  "


def place(position: int, duration: int, *, paused: bool, speed: float, skip_idle: bool, typing: str | None) -> str:
    """The words of the status line."""
    if typing is not None:
        return f"go to (m:ss): {typing}_"
    state = "paused " if paused else "playing"
    idle = "idle cut" if skip_idle else "real time"
    length = clock(duration)
    return f"{state} {clock(position):>{len(length)}} / {length}  {speed:g}x {idle}  space +- i <- -> . g tab q"
