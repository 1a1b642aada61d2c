"""A session channel: the person's end at once, the target's as soon as there is one, and what passes between.

waiting   the person's end is confirmed with no window: requests come and are kept, data cannot
linked    the target's end is open: requests go through `bastion.requests`, data through flows
local     there is no target (a command of ours, the menu), or none yet because something is missing
          (a reason): requests are answered here, and replayed if a target is found after all
"""

import asyncio
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Final

from bastion.errors import BastionError, Denied, ExitCode
from bastion.requests import (
    FROM_TARGET,
    Answer,
    Ask,
    Effect,
    Forward,
    Malformed,
    Refuse,
    Requests,
    Resize,
    State,
    string,
    strings,
)
from bastion.ssh.burst import burst
from bastion.ssh.channels import (
    CLOSE,
    DATA,
    EOF,
    EXTENDED_DATA,
    FAILURE,
    REQUEST,
    SUCCESS,
    WINDOW_ADJUST,
    End,
    Events,
    Flow,
)
from bastion.ssh.local import LocalChannel, Terminal
from bastion.taps import ChannelTap, exit_events, note, tap_for
from policy.model import ChannelKind
from recorder.model import Kind

if TYPE_CHECKING:
    from bastion.ssh.door import Door
    from bastion.ssh.relay import Relay

OPEN: Final = 90
CONFIRMATION: Final = 91
MAX_PACKET: Final = 32 * 1024
"""Bytes of one data message a person may send, as OpenSSH; the target's own limit is kept by splitting."""
INBOX: Final = 256
"""Messages kept before there is a target: MAX_ENV variables, and what else a client says before the start."""
INBOX_BYTES: Final = 256 * 1024
STDERR: Final = 1

_U32: Final = Struct(">I")
_CONFIRM: Final = Struct(">III")


class SessionChannel:
    """Owner of both ends."""

    def __init__(self, door: "Door", sender: int, window: int, max_packet: int) -> None:
        self.door = door
        self.user = End(door, self)
        self.user.remote, self.user.max_packet = sender, max_packet
        self.target: End | None = None
        self.window = window  # bytes that the person still takes
        self.granted = 0  # bytes that we still take, before the target says how many it takes
        self.relay: Relay | None = None
        self.requests = Requests()
        self.local: LocalChannel | None = None
        self.channel = 0  # number in the recording
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._inbox_bytes = 0
        self._replay: list[Forward] = []
        self._events: list[tuple[int, bytes]] = []  # to be recorded before the next request goes on
        self._up: Flow | None = None  # from the person to the target
        self._down: Flow | None = None
        self._tap: ChannelTap | None = None
        self._failure: BastionError | None = None  # why there is no target
        self._linked = asyncio.get_running_loop().create_future()
        self._finished = False
        self.user.send(CONFIRMATION, _CONFIRM.pack(self.user.number, 0, MAX_PACKET))
        self._task = asyncio.ensure_future(self._begin())

    async def _begin(self) -> None:
        if not self.door.has_target:
            self._go_local(None)
            return
        try:
            relay = await self.door.relay_ready()
        except BastionError as error:
            self._go_local(error)
        else:
            self._link(relay)

    # --- the target's end ---------------------------------------------------------------------------

    def _link(self, relay: "Relay") -> None:
        if self.user.close_received or self.user.close_sent:
            return
        if not relay.is_live or relay.target is None:
            self._go_local(Denied("this session has ended", "log in again", code=ExitCode.UNREACHABLE))
            return
        self.relay = relay
        self.channel = relay.next_channel()
        relay.add(self)
        self.target = End(relay.target, self)
        relay.target.packets.send(
            OPEN,
            strings(b"session") + _CONFIRM.pack(self.target.number, self.window, self.user.max_packet),
        )

    def opened(self, end: End, window: int, rest: bytes) -> None:
        assert self.relay is not None
        self._up = Flow(end, self.relay.recording, self.channel, _unexpected)
        self._down = Flow(self.user, self.relay.recording, self.channel, _early_output)
        end.flow = self._down
        if window > self.granted:
            self.user.send(WINDOW_ADJUST, _U32.pack(window - self.granted))
        for kept in self._replay:
            self._up.put((), REQUEST, strings(kept.name) + b"\0" + kept.rest)
        self._replay.clear()
        self.local = None
        self._linked.set_result(None)
        self._drain()

    def open_failed(self, end: End, code: int, reason: str) -> None:
        name = self.relay.grant.target if self.relay else ""
        self.target = None
        self._refuse(Denied(f"target `{name}` opens no session: {reason}", "ask whoever runs that machine",
                            code=ExitCode.UNREACHABLE))  # fmt: skip

    def lost(self, end: End) -> None:
        if end is self.user:
            self._task.cancel()
            if self.local is not None:
                self.local.closed()
            if self.target is not None:
                self.target.send(CLOSE)
            self._gone()
        else:
            self.target = None  # the relay hears of it next, and tells the person

    # --- messages -----------------------------------------------------------------------------------

    def message(self, end: End, kind: int, payload: bytes) -> None:
        if end is not self.user:
            self._from_target(kind, payload)
        elif kind == WINDOW_ADJUST:
            (more,) = _U32.unpack(payload[:4])
            self.window += more
            if self.target is not None and self.target.remote >= 0:
                self.target.send(WINDOW_ADJUST, payload)
            elif self.local is not None:
                self.local.window_opened()
        elif self._must_wait or self._inbox:
            self._inbox.append((kind, payload))
            self._inbox_bytes += len(payload)
            if len(self._inbox) > INBOX or self._inbox_bytes > INBOX_BYTES + self.granted:
                # A client that floods a channel which is not open yet; a window of 0 was granted.
                self.door.disconnect_person("too much was sent before the channel was open")
        else:
            self._from_user(kind, payload)

    @property
    def _must_wait(self) -> bool:
        if self.requests.state is State.ASKING:
            return True
        return self.local is None and self._up is None

    def _drain(self) -> None:
        with burst():
            while self._inbox and not self._must_wait:
                kind, payload = self._inbox.popleft()
                self._inbox_bytes -= len(payload)
                self._from_user(kind, payload)
            if not self._inbox and self.requests.state is State.STARTED and self._up is not None:
                self.user.flow = self._up  # from here on data takes the short way

    def _from_user(self, kind: int, payload: bytes) -> None:
        if kind == REQUEST:
            try:
                name, at = string(payload, 0)
                self._carry(self.requests.request(name, payload[at] != 0, payload[at + 1 :]))
            except (Malformed, IndexError, ValueError) as error:
                self.door.disconnect_person(str(error))
        elif self.local is not None:
            self.local.message(kind, payload)
            if kind == CLOSE:
                self.user.send(CLOSE)
                self._task.cancel()
        elif self._up is not None:
            if kind == DATA:
                if not self._up.data(memoryview(payload)[4:]):
                    self._up.to.send(DATA, payload)
            elif kind == CLOSE:
                self._up.put(self._closing(), CLOSE, b"")
            elif kind in (EOF, SUCCESS, FAILURE):
                self._up.put((), kind, payload)

    def _from_target(self, kind: int, payload: bytes) -> None:
        down = self._down
        if down is None:
            # Data for a channel that was never confirmed: a target that lies about the protocol is left.
            assert self.relay is not None
            self.relay.end("target-lost", text=f"target `{self.relay.grant.target}` broke the protocol")
            return
        try:
            if kind == REQUEST:
                name, at = string(payload, 0)
                if name not in FROM_TARGET:
                    if payload[at] and self.target is not None:
                        self.target.send(FAILURE)
                    return
                down.put(exit_events(name, payload[at + 1 :]), REQUEST, payload)
            elif kind in (SUCCESS, FAILURE):
                self._carry(self.requests.answered(kind == SUCCESS))
            elif kind == EXTENDED_DATA:
                data, _ = string(payload, 4)
                down.bytes += len(data)
                down.put(self._tap.error(data) if self._tap else [(Kind.STDERR, data)], kind, payload)
            elif kind == CLOSE:
                down.put(self._closing(), CLOSE, b"")
                self._gone()
            elif kind == EOF:
                down.put((), EOF, b"")
        except (Malformed, IndexError, ValueError) as error:
            assert self.relay is not None
            self.relay.end("target-lost", text=f"target `{self.relay.grant.target}` broke the protocol: {error}")

    # --- what the requests lead to ------------------------------------------------------------------

    def _carry(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Forward() if self._up is None:
                    if self.requests.state is State.GATHERING:
                        self._replay.append(effect)
                    if effect.want_reply:
                        self._carry(self.requests.answered(True))
                case Forward():
                    self._forward(effect)
                case Answer(ok=ok):
                    if self._down is not None:
                        self._down.put((), SUCCESS if ok else FAILURE, b"")
                    else:
                        self.user.send(SUCCESS if ok else FAILURE)
                case Resize(columns=columns, rows=rows):
                    self._events.append((Kind.RESIZE, b"%dx%d" % (columns, rows)))
                    if self.local is not None and self.local.terminal is not None:
                        self.local.resize(columns, rows)
                case Ask(kind=kind, detail=detail):
                    self._task = asyncio.ensure_future(self._decide(kind, detail))
                case Refuse():
                    assert self._failure is not None
                    self._refuse(self._failure)

    def _forward(self, request: Forward) -> None:
        assert self._up is not None
        assert self._down is not None
        events, self._events = self._events, []
        if request.start is not None:
            assert self.relay is not None
            grant, settings = self.relay.grant, self.door.gateway.settings.ssh
            self._tap = tap_for(
                request.start, key=grant.commitment_key, now=self.door.gateway.now,
                keep_content=grant.keep_content, hash_content=settings.hash_content,
            )  # fmt: skip
            self._up.tap, self._down.tap = self._tap.user, self._tap.target
            events.append(note(Kind.START, request.start))
        self._up.put(events, REQUEST, strings(request.name) + bytes((request.want_reply,)) + request.rest)

    async def _decide(self, kind: ChannelKind, detail: bytes) -> None:
        """policyd on a request; for the start of a channel without a target, first what is to be done with it."""
        try:
            error = await self._may(kind, detail)
        except BastionError as failed:
            error = failed
        if error is _SERVED or self._finished:
            return
        with burst():
            if kind in (ChannelKind.AGENT, ChannelKind.X11):
                if error is None and self.relay is not None:
                    self.relay.may_open_back.add(kind)
            else:
                self._failure = error
            if self.requests.state is State.ASKING:
                self._carry(self.requests.decided(error is None))
            elif error is None:
                self._carry(self.requests.again())
            else:
                self._refuse(error)
        self._drain()

    async def _may(self, kind: ChannelKind, detail: bytes) -> BastionError | None:
        if self._up is None:
            if kind in (ChannelKind.AGENT, ChannelKind.X11):
                return Denied("there is no target yet")
            if (error := await self._find_target(kind, detail)) is not None:
                return error
        assert self.relay is not None
        return await self.relay.ask(kind, detail)

    async def _find_target(self, kind: ChannelKind, detail: bytes) -> BastionError | None:
        """Serve the start ourselves, or get a target for it after all; None if there is one now."""
        assert self.local is not None
        local = self.local
        local.terminal = (
            Terminal(self.requests.term, self.requests.columns, self.requests.rows) if self.requests.term else None
        )
        local.command = None if kind is ChannelKind.SHELL else detail
        local.env = dict(self.requests.ours)
        if self._failure is not None:
            relay = await self.door.try_again(self._failure, local)
        else:
            if kind not in (ChannelKind.SHELL, ChannelKind.EXEC, ChannelKind.SCP):
                return Denied("no target is named", "use: sftp account@target@bastion", code=ExitCode.USAGE)
            local.start(lambda: self._carry(self.requests.decided(True)))
            found = await self.door.serve(local)
            if found is None:
                local.finish()
                return _SERVED
            relay = found
        self._failure = None
        self.granted = local.granted
        self._link(relay)
        await self._linked
        return None

    # --- endings ------------------------------------------------------------------------------------

    def _go_local(self, failure: BastionError | None) -> None:
        self._failure = failure
        self.local = LocalChannel(self.user, lambda: self.window, self._spend)
        self._drain()

    def _spend(self, size: int) -> None:
        self.window -= size

    def _refuse(self, error: BastionError) -> None:
        """Say why, with the exit code that belongs to it, and close."""
        end_of_line = "\r\n" if self.requests.term else "\n"
        self.part(end_of_line.join(error.lines()), int(error.code))

    def part(self, text: str, status: int) -> None:
        if self.user.close_sent:
            return
        if self._up is not None:
            self._up.stop()
        if self._down is not None:
            self._down.stop()
        end_of_line = b"\r\n" if self.requests.term else b"\n"
        said = (end_of_line if self.requests.state is State.STARTED and self.requests.term else b"") + text.encode()
        self.user.send(EXTENDED_DATA, _U32.pack(STDERR) + strings(said + end_of_line))
        self.user.send(EOF)
        self.user.send(REQUEST, strings(b"exit-status") + b"\0" + _U32.pack(status))
        self.user.send(CLOSE)
        if self.target is not None:
            self.target.send(CLOSE)
        self._gone()

    def _closing(self) -> Events:
        tap, self._tap = self._tap, None
        return tap.finish() if tap is not None else ()

    def finish(self) -> None:
        if self.relay is not None:
            for kind, data in self._closing():
                self.relay.recording.record(kind, self.channel, data)

    def _gone(self) -> None:
        if not self._finished:
            self._finished = True
            self.finish()
            if self.relay is not None:
                self.relay.remove(self)
            self.door.channel_closed(self)

    @property
    def passed(self) -> tuple[int, int]:
        return (self._up.bytes if self._up else 0, self._down.bytes if self._down else 0)


_SERVED: Final = BastionError("served here")


def _unexpected(data: memoryview) -> Events:
    """Data from a person before anything was started: kept, whatever it is."""
    return [(Kind.INPUT, bytes(data))]


def _early_output(data: memoryview) -> Events:
    return [(Kind.OUTPUT, bytes(data))]
