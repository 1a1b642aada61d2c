"""Play a recording on the auditor's terminal, in its own time (trio). What to draw and when is decided elsewhere."""

import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final

import trio

from recorder.model import Event
from recorder.reader import Recording
from replay.controls import Controls, Do, keys
from replay.facts import Channel
from replay.stage import Stage, place
from replay.terminal import Terminal
from replay.timeline import Pace

TICK: Final = 0.25
"""Seconds between two looks at the status line's clock."""

LINGER: Final = 2.0
"""Seconds that a status line without a row of its own stays after a key."""

BURST: Final = 64
"""Events shown without looking at the keyboard, when many are due at once."""


@dataclass(slots=True)
class Player:
    """`channels`: what TAB goes through; None stands for everything, as a chronicle."""

    recording: Recording
    terminal: Terminal
    channels: list[Channel | None]
    pace: Pace
    typed: bool = False
    begin: int = 0  # ms
    furthest: int = 0  # ms that were shown, however they were reached
    controls: Controls = field(init=False)
    _stage: Stage = field(init=False)
    _events: Iterator[Event] = field(init=False)
    _next: Event | None = None
    _signal: int = 0
    _resized: bool = False
    _overlay: float | None = None  # until when the status line lies over the picture

    def __post_init__(self) -> None:
        self.controls = Controls(self.pace, self.recording.duration_ms)

    async def play(self) -> int:
        """Until the end, or until the auditor or a signal ends it; the terminal is then as it was. The signal, or 0."""
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH) as signals:
                with self.terminal.raw():
                    nursery.start_soon(self._watch, signals, nursery.cancel_scope)
                    await self._run()
                    nursery.cancel_scope.cancel()
        return self._signal

    async def _watch(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            if number == signal.SIGWINCH:
                self._resized = True  # seen at the next tick: only one task may write to the terminal
            else:
                self._signal = number
                scope.cancel()
                return

    async def _run(self) -> None:
        await self._open(self.begin - 1)
        while True:
            if self._resized:
                self._resized = False
                self._stage.columns, self._stage.rows = self.terminal.size()
                await self._draw(self.pace.position(trio.current_time(), self._next.ms if self._next else None))
            await self._show_due()
            if self._next is None and not self.controls.used:
                return
            data = b""
            with trio.move_on_after(self._wait()) as patience:
                data = await self.terminal.read()
            if not patience.cancelled_caught:
                if not data:
                    return
                for key in keys(data):
                    if not await self._obey(key):
                        return
                    self._overlay = trio.current_time() + LINGER
            await self._status()

    def _wait(self) -> float:
        """Seconds until something must be done without a key."""
        if self._next is None:
            return TICK
        due = self.pace.due(self._next.ms, trio.current_time())
        return TICK if due is None else min(due, TICK)

    async def _show_due(self) -> None:
        """Show the events whose time has come, a burst at most."""
        for _ in range(BURST):
            if self._next is None or self.pace.due(self._next.ms, trio.current_time()) != 0:
                return
            await self._show()
        await trio.lowlevel.checkpoint()

    async def _show(self) -> None:
        assert self._next is not None
        event = self._next
        self.furthest = max(self.furthest, event.ms)
        await self.terminal.write(self._stage.show(event))
        self.pace.show(event.ms, trio.current_time())
        self._advance()

    def _advance(self) -> None:
        self._next = next((event for event in self._events if self._stage.concerns(event)), None)

    async def _open(self, ms: int) -> None:
        """Play the first of `channels` from `ms` on, or from its beginning if that is later."""
        columns, rows = self.terminal.size()
        chosen = self.channels[0]
        self._stage = Stage(self.recording.events, chosen, columns, rows, self.typed)
        ms = max(ms, chosen.begun - 1 if chosen is not None else -1)
        self.pace.jump(max(ms, 0), trio.current_time())
        self._overlay = trio.current_time() + LINGER  # the keys, and whether the window is too small
        await self._draw(ms)

    async def _draw(self, ms: int) -> None:
        """The stage as it was at `ms`, and go on from there."""
        self.furthest = max(self.furthest, ms)
        await self.terminal.write(self._stage.at(ms))
        self._events = (event for event in self.recording.events(ms + 1) if event.ms > ms)
        self._advance()

    async def _obey(self, key: str) -> bool:
        """One key; False: it is over."""
        now = trio.current_time()
        do = self.controls.press(key, now, self._next.ms if self._next else None)
        if do == Do.QUIT:
            return False
        if do == Do.SEEK:
            if self._stage.has_room:  # the first seek far into a long recording takes a while
                await self.terminal.write(self._stage.status("seeking"))
            await self._draw(self.controls.target)
        elif do == Do.STEP and self._next is not None:
            await self._show()
        elif do == Do.CHANNEL and len(self.channels) > 1:
            self.channels.append(self.channels.pop(0))
            await self._open(self.pace.position(now))
        return True

    async def _status(self) -> None:
        now = trio.current_time()
        covers = not self._stage.has_room
        wanted = self.pace.paused or self.controls.typing is not None or self._next is None
        if covers and not wanted and (self._overlay is None or now > self._overlay):
            if self._overlay is not None:  # what lay under it is drawn anew
                self._overlay = None
                await self._draw(self.pace.position(now, self._next.ms if self._next else None))
            return
        position = self.pace.position(now, self._next.ms if self._next else self.recording.duration_ms)
        text = place(
            position, self.recording.duration_ms, paused=self.pace.paused, speed=self.pace.speed,
            skip_idle=self.pace.skip_idle, typing=self.controls.typing,
        )  # fmt: skip
        await self.terminal.write(self._stage.status("the end     " + text[8:] if self._next is None else text))
