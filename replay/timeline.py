"""When the next event is due, at any speed, with idle time cut and pauses. Pure: the time is an argument.

Two clocks: *session time* is the whole milliseconds of events; *now* is any monotonic clock in seconds. Between the
event shown last and the next one lies a gap; what has passed of it is kept, so that speed, idle skipping and pause
can change in its middle.
"""

from dataclasses import dataclass
from typing import Final

IDLE_MS: Final = 2000
"""A longer silence is cut to this when idle time is skipped; asciinema's players use the same."""

SPEEDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

MAX_LATE_MS: Final = 1000
"""What a slow terminal is given to catch up; after more it is the recording that slips."""


@dataclass(slots=True)
class Pace:
    """Where playing stands."""

    speed: float = 1.0
    skip_idle: bool = True
    paused: bool = False
    shown_ms: int = 0  # time of the event shown last
    _passed: float = 0.0  # ms of the gap after it
    _since: float | None = None  # now, when `_passed` was true

    def due(self, next_ms: int, now: float) -> float | None:
        """Seconds until the event at `next_ms` is due, 0 if it is; None while paused."""
        self._pass(now)
        if self.paused:
            return None
        return max(0.0, (self._gap(next_ms) - self._passed) / 1000 / self.speed)

    def show(self, ms: int, now: float) -> None:
        """The event at `ms` has been shown."""
        self._pass(now)
        late = self._passed - self._gap(ms)
        self._passed = min(max(late, 0.0), MAX_LATE_MS * self.speed)
        self.shown_ms = ms

    def jump(self, ms: int, now: float) -> None:
        """Stand at `ms`, without events between there and the next."""
        self.shown_ms, self._passed, self._since = ms, 0.0, now

    def position(self, now: float, next_ms: int | None = None) -> int:
        """Session time that a person sees as "now"; never past the next event."""
        self._pass(now)
        place = self.shown_ms + int(self._passed)
        return place if next_ms is None else min(place, max(next_ms, self.shown_ms))

    def pause(self, now: float, paused: bool) -> None:
        self._pass(now)
        self.paused = paused

    def faster(self, now: float, steps: int) -> None:
        """`steps` up or down in SPEEDS; a speed from the command line counts as the nearest one below."""
        self._pass(now)
        at = max((index for index, speed in enumerate(SPEEDS) if speed <= self.speed), default=0)
        self.speed = SPEEDS[min(max(at + steps, 0), len(SPEEDS) - 1)]

    def _pass(self, now: float) -> None:
        if self._since is not None and not self.paused:
            self._passed += max(0.0, now - self._since) * 1000 * self.speed
        self._since = now

    def _gap(self, next_ms: int) -> int:
        gap = max(0, next_ms - self.shown_ms)
        return min(gap, IDLE_MS) if self.skip_idle else gap
