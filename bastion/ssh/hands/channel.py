"""One command of ours on a target: a session channel whose near end is a deed, recorded before a byte of it is sent."""

import asyncio
from collections import deque
from struct import Struct
from typing import Final

from bastion.requests import string, strings
from bastion.ssh.burst import burst
from bastion.ssh.channels import CLOSE, DATA, EOF, EXTENDED_DATA, FAILURE, REQUEST, SUCCESS, WINDOW_ADJUST, End, Flow
from bastion.ssh.hands.deeds import Deed, Effects, EndInput, HangUp, Scrubber, Type
from bastion.ssh.recording import Recording
from bastion.ssh.upstream import TargetConnection
from bastion.taps import exit_events, start_events
from bastion.typed import sealed
from policy.model import ChannelKind
from recorder.model import Kind, Start

OPEN: Final = 90
MAX_PACKET: Final = 32 * 1024
LEAVE_SECONDS: Final = 5.0
"""For the exit status, once we hung up or the target said that nothing more comes."""
COLUMNS, ROWS = 80, 24

_U32, _OPEN = Struct(">I"), Struct(">III")
_NO_ECHO: Final = bytes([53]) + _U32.pack(0) + b"\0"
"""Terminal modes (RFC 4254 section 8): ECHO off from the start, for who turns it off too late."""


class Flood(Exception):
    """It says more than any deed has to hear."""


class Command:
    """Owner of the one end. Its exit status is `await done`: None if it said none, Flood if it does not end."""

    def __init__(self, target: TargetConnection, recording: Recording, channel: int, deed: Deed, key: bytes) -> None:
        self.done: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.sent = self.received = 0
        self._deed = deed
        self._recording = recording
        self._channel = channel
        self._key = key
        self._seals = 0
        self._scrub = {Kind.OUTPUT: Scrubber(deed.secrets), Kind.STDERR: Scrubber(deed.secrets)}
        self._status: int | None = None
        self._room = 0  # bytes that the target still takes
        self._unsent: deque[Type | EndInput] = deque()
        self._asked: deque[bytes] = deque()  # our requests that wait for their answer
        self._leaving: asyncio.TimerHandle | None = None
        self._end = End(target, self)
        self._end.granted = deed.limit
        self._flow = Flow(self._end, recording, channel, lambda _: ())
        target.packets.send(OPEN, strings(b"session") + _OPEN.pack(self._end.number, deed.limit, MAX_PACKET))

    # --- what the target says -----------------------------------------------------------------------

    def opened(self, end: End, window: int, rest: bytes) -> None:
        self._room = window
        deed = self._deed
        start = Start(kind=ChannelKind.EXEC.value, command=deed.command)
        with burst():
            if deed.terminal:
                start.term, start.columns, start.rows = b"dumb", COLUMNS, ROWS
                size = Struct(">IIII").pack(COLUMNS, ROWS, 0, 0)
                self._ask((), b"pty-req", strings(start.term) + size + strings(_NO_ECHO))
            self._ask(start_events(start), b"exec", strings(deed.command))

    def _ask(self, events: list[tuple[int, bytes]] | tuple[()], name: bytes, rest: bytes) -> None:
        self._asked.append(name)
        self._flow.put(events, REQUEST, strings(name) + b"\1" + rest)

    def open_failed(self, end: End, code: int, reason: str) -> None:
        self._finish()

    def message(self, end: End, kind: int, payload: bytes) -> None:
        with burst():
            if kind == DATA and self._end.remote >= 0:
                self._heard(Kind.OUTPUT, payload[4:])
            elif kind == EXTENDED_DATA:
                self._heard(Kind.STDERR, payload[8:])
            elif kind == WINDOW_ADJUST:
                self._room += _U32.unpack(payload)[0]
                self._pump()
            elif kind == REQUEST:
                self._requested(payload)
            elif kind in (SUCCESS, FAILURE):
                self._answered(kind == SUCCESS)
            elif kind == EOF:
                self._leave_soon()
            elif kind == CLOSE:
                self._end.send(CLOSE)
                self._finish()

    def _heard(self, kind: Kind, data: bytes) -> None:
        self.received += len(data)
        if (shown := self._scrub[kind].feed(data)) and not self.done.done():
            self._recording.record(kind, self._channel, shown)
        if self.done.done():
            return
        if self.received >= self._deed.limit:
            # Attack: a target that talks without end fills the disk with a recording that nobody asked for.
            self._end.send(CLOSE)
            self._finish(Flood(f"it said more than {self._deed.limit} bytes"))
            return
        self._carry(self._deed.heard(data, error=kind is Kind.STDERR))

    def _requested(self, payload: bytes) -> None:
        try:
            name, at = string(payload, 0)
            want_reply, rest = payload[at] != 0, payload[at + 1 :]
            events = exit_events(name, rest)
        except (ValueError, IndexError):
            return self._finish()
        for kind, data in events:
            self._recording.record(kind, self._channel, data)
        if name == b"exit-status":
            self._status = int.from_bytes(rest)
            self._leave_soon()
        elif name == b"exit-signal":
            self._leave_soon()
        if want_reply:
            self._flow.put((), FAILURE, b"")

    def _answered(self, ok: bool) -> None:
        if not self._asked:
            return self._finish()  # nothing was asked: it does not keep to the protocol
        name = self._asked.popleft()
        if not ok:
            self._end.send(CLOSE)
            return self._finish()
        if name == b"exec":
            self._carry(self._deed.begun())

    def lost(self, end: End) -> None:
        self._finish()

    def closed(self, end: End) -> None:
        self._finish()

    # --- what is said to it -------------------------------------------------------------------------

    def _carry(self, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, HangUp):
                self._pump()
                self._flow.put((), CLOSE, b"")
                self._leave_soon()
                return
            self._unsent.append(effect)
        self._pump()

    def _pump(self) -> None:
        """What fits into the target's window, each piece behind its record."""
        while self._unsent:
            effect = self._unsent[0]
            if isinstance(effect, EndInput):
                self._unsent.popleft()
                self._flow.put((), EOF, b"")
                continue
            size = min(self._room, self._end.max_packet, len(effect.data))
            if not size or (effect.secret and size < len(effect.data)):
                return  # a secret is recorded as one commitment, so it is sent in one piece
            self._unsent.popleft()
            part, rest = effect.data[:size], effect.data[size:]
            if rest:
                self._unsent.appendleft(Type(rest))
            self._room -= size
            self.sent += size
            self._flow.put([self._event(part, effect.secret)], DATA, _U32.pack(size) + part)

    def _event(self, data: bytes, secret: bool) -> tuple[int, bytes]:
        if not secret:
            return Kind.INPUT, data
        self._seals += 1
        return sealed(self._key, self._seals - 1, data)

    # --- the end ------------------------------------------------------------------------------------

    def _leave_soon(self) -> None:
        """It is over: its last words are waited for, but not for long."""
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().call_later(LEAVE_SECONDS, self._finish)

    def _finish(self, error: Exception | None = None) -> None:
        if self.done.done():
            return
        if self._leaving is not None:
            self._leaving.cancel()
        self._flow.stop()
        for kind, scrub in self._scrub.items():
            if rest := scrub.rest():
                self._recording.record(kind, self._channel, rest)
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(self._status)
