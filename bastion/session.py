"""One recorded session: events before bytes, within a window, until a limit. Pure.

    record        an event is numbered (`ticket`) and waits to be sent
    take          the events not yet sent, as messages for recorderd
    acknowledge   recorderd has written them: the flows that waited send what they held
    is_behind     recorderd owes too much: stop reading from both legs until `has_caught_up`
    over          expired or idle: end it
    freeze, thaw  nothing passes in between; limits go on

INVARIANT: what is recorded is sent on only when its ticket is acknowledged.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from recorder.messages import MAX_APPEND, Append
from recorder.model import MAX_EVENT_DATA

WINDOW: Final = 2 * 1024 * 1024
"""Bytes recorded and not acknowledged at which reading stops: what a stuck recorderd makes us hold at most, and
enough that 100 MB/s with 10 ms to the disk never waits."""

MAX_EVENTS: Final = 2048
"""Events in one Append: with their columns they fit beside MAX_APPEND bytes of data."""

_COLUMNS: Final = 16  # bytes an event takes in an Append beside its data

OVERHEAD: Final = 256
"""Bytes of memory that an event and the message waiting for it take beside their data: keystrokes count too."""


class Waiting(Protocol):
    def release(self, acknowledged: int) -> bool:
        """Send on what has a ticket up to this one; True if something is still held."""


class Session:
    """`clock` gives nanoseconds of a monotonic clock; `expires_in` and `idle` are seconds, None without a limit."""

    def __init__(self, clock: Callable[[], int], *, expires_in: float | None, idle: float | None) -> None:
        self._clock = clock
        self._began = clock()
        self._last_ms = 0
        self._expires = None if expires_in is None else self._began + int(expires_in * 1e9)
        self._idle = None if idle is None else int(idle * 1e9)
        self._active = self._began
        self.frozen = ""  # why nothing passes, if nothing does
        self._pending: list[tuple[int, int, int, bytes]] = []
        self._sent: deque[tuple[int, int, int]] = deque()  # seq, ticket after it, bytes
        self._seq = 0
        self._waiting: list[Waiting] = []
        self.ticket = 0
        self.acknowledged = 0
        self.owed = 0  # bytes recorded and not acknowledged, with their overhead
        self._held = 0  # bytes that wait behind those, and are not recorded

    def record(self, kind: int, channel: int, data: bytes) -> None:
        """Number an event; longer data becomes several."""
        self.write(channel, ((kind, data),))

    def write(self, channel: int, events: Sequence[tuple[int, bytes]]) -> int:
        """As `record`, for several events (kind, data) of one channel: the ticket of the last."""
        ms = self._last_ms = max(self._last_ms, (self._clock() - self._began) // 1_000_000)
        pending = self._pending
        before = len(pending)
        for kind, data in events:
            self.owed += len(data)
            if len(data) <= MAX_EVENT_DATA:
                pending.append((kind, channel, ms, data))
            else:
                pending += (
                    (kind, channel, ms, data[at : at + MAX_EVENT_DATA]) for at in range(0, len(data), MAX_EVENT_DATA)
                )
        count = len(pending) - before
        self.owed += count * OVERHEAD
        self.ticket += count
        return self.ticket

    @property
    def sent(self) -> int:
        """Number of the newest Append."""
        return self._seq

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    def take(self) -> list[Append]:
        """The events not yet sent, in messages that fit."""
        if len(self._pending) == 1:  # somebody types
            alone, self._pending = self._pending, []
            return [self._append(alone, self.ticket, len(alone[0][3]) + OVERHEAD)]
        appends: list[Append] = []
        batch: list[tuple[int, int, int, bytes]] = []
        size = total = 0
        done = self.ticket - len(self._pending)
        for event in self._pending:
            cost = len(event[3]) + _COLUMNS
            if batch and (size + cost > MAX_APPEND or len(batch) >= MAX_EVENTS):
                done += len(batch)
                appends.append(self._append(batch, done, total))
                batch, size, total = [], 0, 0
            batch.append(event)
            size += cost
            total += len(event[3]) + OVERHEAD
        if batch:
            appends.append(self._append(batch, self.ticket, total))
        self._pending = []
        return appends

    def _append(self, events: list[tuple[int, int, int, bytes]], ticket: int, size: int) -> Append:
        self._seq += 1
        self._sent.append((self._seq, ticket, size))
        return Append(seq=self._seq, events=events)

    def acknowledge(self, seq: int) -> bool:
        """recorderd has written up to `seq`. False if that was never sent: the recorder is not to be trusted."""
        if seq > self._seq:
            return False
        while self._sent and self._sent[0][0] <= seq:
            _, self.acknowledged, size = self._sent.popleft()
            self.owed -= size
        waiting, self._waiting = self._waiting, []
        for flow in waiting:
            # What is sent on may be recorded again at once, by this flow or one that was just emptied.
            if flow.release(self.acknowledged):
                self.wait(flow)
        return True

    def wait(self, flow: Waiting) -> None:
        if flow not in self._waiting:
            self._waiting.append(flow)

    def hold(self, size: int) -> None:
        """Messages that are no events wait as well, or (negative) do so no longer."""
        self._held += size

    @property
    def is_behind(self) -> bool:
        return self.owed + self._held > WINDOW

    @property
    def has_caught_up(self) -> bool:
        return self.owed + self._held <= WINDOW // 2

    # --- standing still -----------------------------------------------------------------------------

    def freeze(self, reason: str) -> bool:
        """Nothing passes from now on. False if nothing did anyway."""
        was, self.frozen = self.frozen, reason or "frozen"
        return not was

    def thaw(self) -> bool:
        """It goes on. False if it did anyway."""
        was, self.frozen = self.frozen, ""
        return bool(was)

    # --- limits -------------------------------------------------------------------------------------

    def active(self) -> None:
        """Bytes have passed."""
        self._active = self._clock()

    def over(self) -> str:
        """`expired` or `idle` when a limit is reached, or nothing."""
        now = self._clock()
        if self._expires is not None and now >= self._expires:
            return "expired"
        if self._idle is not None and now - self._active >= self._idle:
            return "idle"
        return ""

    def until_over(self) -> float | None:
        """Seconds to the nearest limit as things stand."""
        limits = [
            limit
            for limit in (self._expires, None if self._idle is None else self._active + self._idle)
            if limit is not None
        ]
        return max(0.0, (min(limits) - self._clock()) / 1e9) if limits else None
