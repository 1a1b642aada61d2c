"""The picture of one channel's terminal at any time, for seeking and for drawing anew. Pure.

A short recording is drawn by writing its output again, filtered, at once: exact, with colours. A long one is run
through `Screen`, and drawn as text; copies of the screen are kept on the way, so that the next seek starts nearby.
"""

import copy
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final

from recorder.model import Event, Kind
from replay.notes import STREAMS, geometry
from replay.safe import Filter
from replay.screen import Screen

EXACT: Final = 512 * 1024
"""Bytes of output that are written again for a seek; a terminal takes them in a blink."""

KEPT_EVERY: Final = 2 * 1024 * 1024
"""Bytes of output between two copies of the screen: a third of a second of work."""

Source = Callable[[int], Iterator[Event]]
"""Events from a time on, in order: `Recording.events`."""


class Pictures:
    """Pictures of `channel`, whose terminal began with `columns` x `rows`."""

    def __init__(self, source: Source, channel: int, columns: int, rows: int) -> None:
        self._source = source
        self._channel = channel
        self._kept: list[tuple[int, Screen]] = [(-1, Screen(columns, rows))]  # state after all events up to that time
        self._newest = (*self._kept[0], 0)  # drawn last, and bytes since the last copy: a key goes on some seconds
        self._sizes = [(-1, (columns, rows))]  # from that time on
        self._sized = -1  # time of the last event that they count

    def at(self, ms: int, clip: int) -> str:
        """What draws the picture as it was after all events up to `ms`; in `clip` rows (see Filter), 0: all."""
        exact = self._exact(ms, clip) if len(self._kept) == 1 else None
        return exact if exact is not None else paint(self.screen(ms), clip)

    def size(self, ms: int) -> tuple[int, int]:
        """Columns and rows at that time."""
        if ms > self._sized:
            for event in self._source(self._sized + 1):
                if event.ms > ms:
                    break
                self._sized = event.ms
                if event.channel == self._channel and event.kind == Kind.RESIZE and (size := geometry(event.data)):
                    self._sizes.append((event.ms, size))
        return self._sizes[bisect_right(self._sizes, ms, key=_time) - 1][1]

    def screen(self, ms: int) -> Screen:
        """The text on the screen after all events up to `ms`. It stays ours: do not draw on it."""
        at = bisect_right(self._kept, ms, key=_time) - 1
        since, screen, fed = self._newest if self._kept[at][0] < self._newest[0] <= ms else (*self._kept[at], 0)
        screen, last = copy.deepcopy(screen), since
        for event in self._source(since + 1):
            if event.ms <= since or event.channel != self._channel:
                continue
            if event.ms > ms:
                break
            if fed >= KEPT_EVERY and event.ms > last and at == len(self._kept) - 1:
                self._kept.append((last, copy.deepcopy(screen)))
                at, fed = at + 1, 0
            last = event.ms
            if event.kind in STREAMS:
                screen.feed(event.data)
                fed += len(event.data)
            elif event.kind == Kind.RESIZE and (size := geometry(event.data)):
                screen.resize(*size)
        self._newest = last, screen, fed
        return screen

    def _exact(self, ms: int, clip: int) -> str | None:
        """All output up to `ms`, filtered; None if it is too much."""
        passed = Filter(clip)
        out, total = [passed.start()], 0
        for event in self._source(0):
            if event.ms > ms:
                break
            if event.channel == self._channel and event.kind in STREAMS:
                total += len(event.data)
                if total > EXACT:
                    return None
                out.append(passed.feed(event.data))
        return "".join(out)


def _time(kept: tuple[int, object]) -> int:
    return kept[0]


def paint(screen: Screen, clip: int) -> str:
    """What draws `screen` on an auditor's terminal. All its text came through the parser: nothing in it acts."""
    out = ["\x1b[?1049h" if screen.alternate else "\x1b[?1049l", Filter(clip).start()]
    rows = min(screen.rows, clip) if clip else screen.rows
    for number, line in enumerate(screen.lines()[:rows], 1):
        if line:
            out.append(f"\x1b[{number};1H{line}")
    bottom = min(screen.bottom + 1, rows)
    if (screen.top, bottom) != (0, screen.rows):
        out.append(f"\x1b[{screen.top + 1};{bottom}r")
    out.append(f"\x1b[{min(screen.y + 1, rows)};{screen.x + 1}H{screen.colours}")
    return "".join(out)
