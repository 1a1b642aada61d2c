"""A session channel: the person's end at once, the target's as soon as there is one, and what passes between.

waiting   the person's end is confirmed with no window: requests come and are kept, data cannot
linked    the target's end is open: requests go through `bastion.requests`, data through flows
local     there is no target (a command of ours, the menu), or none yet because something is missing
          (a reason): requests are answered here, and replayed if a target is found after all
"""

import asyncio
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final

from bastion.answers import Malformed
from bastion.errors import BastionError, Denied, ExitCode
from bastion.requests import (
    Answer,
    Ask,
    Effect,
    Forward,
    Refuse,
    Requests,
    Resize,
    State,
    TargetRequests,
    strings,
)
from bastion.ssh.burst import burst
from bastion.ssh.channels import CLOSE, DATA, EOF, EXTENDED_DATA, FAILURE, REQUEST, SUCCESS, WINDOW_ADJUST, End, Flow
from bastion.ssh.inbox import Inbox
from bastion.ssh.local import STDERR, LocalChannel, aside, goodbye, last_words
from bastion.ssh.needs import News, find
from bastion.taps import ChannelTap, early_input, early_output, exit_events, start_events, tap_for
from policy.model import ChannelKind
from recorder.model import Kind

if TYPE_CHECKING:
    from bastion.ssh.door import Door
    from bastion.ssh.relay import Relay

OPEN, CONFIRMATION = 90, 91
MAX_PACKET: Final = 32 * 1024
"""Bytes of one data message a person may send, as OpenSSH; the target's own limit is kept by splitting."""

_U32, _CONFIRM = Struct(">I"), Struct(">III")


class SessionChannel:
    """Owner of both ends."""

    def __init__(self, door: "Door", sender: int, window: int, max_packet: int) -> None:
        self.door = door
        self.user = End(door, self)
        self.user.remote, self.user.max_packet = sender, max_packet
        self.target: End | None = None
        self.window = window  # bytes that the person still takes
        self._offered = 0  # what of that the target was told
        self._invited = 0  # bytes that the target takes and the person is told of when the command has started
        self.relay: Relay | None = None
        self.requests = Requests()
        self._asked_back = TargetRequests()
        self.local: LocalChannel | None = None
        self.channel = 0  # number in the recording
        self._inbox = Inbox()
        self._replay: list[Forward] = []
        self._events: list[tuple[int, bytes]] = []  # to be recorded before the next request goes on
        self._up: Flow | None = None  # from the person to the target
        self._down: Flow | None = None
        self._tap: ChannelTap | None = None
        self._failure: BastionError | None = None  # why there is no target
        self._linked = asyncio.get_running_loop().create_future()
        self._finished = self._switching = False
        self._news = News(door, self)
        self.user.send(CONFIRMATION, _CONFIRM.pack(self.user.number, 0, MAX_PACKET))
        self._task: asyncio.Task[None] = door.spawn(self._begin())

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
        if not relay.is_live or relay.target is None:
            self._go_local(relay.why)
            return
        self.relay = relay
        self.channel = relay.next_channel()
        relay.add(self)
        self.target = End(relay.target, self)
        self._offered = self.target.granted = self.window
        relay.target.packets.send(
            OPEN,
            strings(b"session") + _CONFIRM.pack(self.target.number, self.window, self.user.max_packet),
        )

    def opened(self, end: End, window: int, rest: bytes) -> None:
        assert self.relay is not None
        self._up = Flow(end, self.relay.recording, self.channel, early_input)
        self._down = Flow(self.user, self.relay.recording, self.channel, early_output)
        end.link(self._down)
        if self.window > self._offered:  # it grew while the target was asked
            end.send(WINDOW_ADJUST, _U32.pack(self.window - self._offered))
        self._invited = max(0, window - (self.local.granted if self.local is not None else 0))
        for kept in self._replay:
            self._up.put((), REQUEST, Forward(kept.name, False, kept.rest).message)
        self._replay.clear()
        self._linked.set_result(None)
        self._drain()

    def open_failed(self, end: End, code: int, reason: str) -> None:
        name = self.relay.grant.target if self.relay else ""
        self.target = None
        self.part(Denied(f"target `{name}` opens no session: {reason}", "ask whoever runs that machine",
                            code=ExitCode.UNREACHABLE))  # fmt: skip

    def lost(self, end: End) -> None:
        if end is self.user:
            self._task.cancel()
            if self.local is not None:
                self.local.closed()
            if self.target is not None:
                self.target.send(CLOSE)
        else:
            self.target = None  # the relay hears of it next, and tells the person

    # --- messages -----------------------------------------------------------------------------------

    def message(self, end: End, kind: int, payload: bytes) -> None:
        if end is not self.user:
            self._from_target(kind, payload)
        elif kind == WINDOW_ADJUST:
            self.window += int.from_bytes(payload[:4])
            if self.window > 0xFFFFFFFF:
                self.door.disconnect_person("the window of a channel is too large")
            elif self.target is not None and self.target.remote >= 0:
                self.target.send(WINDOW_ADJUST, payload)
            elif self.local is not None:
                self.local.window_opened()
        elif kind == CLOSE and self._up is None and self.target is None:
            self._task.cancel()
            if self.local is not None:
                self.local.closed()
            self.user.send(CLOSE)
        elif self._must_wait or self._inbox:
            if not self._inbox.put(kind, payload):
                self.door.disconnect_person("too much was sent before the channel was open")
        else:
            self._from_user(kind, payload)

    @property
    def _must_wait(self) -> bool:
        if self.requests.state is State.ASKING or self._switching:
            return True
        return self._up is None and (self.local is None or self.target is not None)

    def _drain(self) -> None:
        with burst():
            while self._inbox and not self._must_wait:
                self._from_user(*self._inbox.take())
            if not self._inbox and self.requests.state is State.STARTED and self._up is not None:
                self.user.link(self._up)  # from here on data takes the short way
                if self._invited:
                    self.user.send(WINDOW_ADJUST, _U32.pack(self._invited))
                    self._invited = 0

    def _from_user(self, kind: int, payload: bytes) -> None:
        try:
            if kind == REQUEST:
                self._carry(self.requests.read(payload))
            elif self._up is None:
                assert self.local is not None  # or it would wait
                self.local.message(kind, payload)
            elif kind == DATA:
                if not self._up.data(memoryview(payload)[4:]):
                    self._up.to.send(DATA, payload)
            elif kind in (SUCCESS, FAILURE):
                self._answer_target(self._asked_back.answered(kind == SUCCESS))
            elif kind in (EOF, CLOSE):
                self._up.put((), kind, b"")
        except Malformed as error:
            self.door.disconnect_person(str(error))

    def _answer_target(self, answers: list[bool]) -> None:
        assert self._up is not None
        for ok in answers:
            self._up.put((), SUCCESS if ok else FAILURE, b"")

    def _from_target(self, kind: int, payload: bytes) -> None:
        down = self._down
        if down is None:
            # Data for a channel that was never confirmed: a target that lies about the protocol is left.
            assert self.relay is not None
            self.relay.end("target-lost", text=f"target `{self.relay.grant.target}` broke the protocol")
            return
        try:
            if kind == REQUEST:
                asked, answers = self._asked_back.request(payload)
                self._answer_target(answers)
                if asked is not None:
                    down.put(exit_events(asked.name, asked.rest), REQUEST, asked.message)
            elif kind in (SUCCESS, FAILURE):
                self._carry(self.requests.answered(kind == SUCCESS))
                if self.requests.is_running:
                    self._news.say()
            elif kind == EXTENDED_DATA:
                if payload[:4] != STDERR or down.ended:
                    return  # of no known kind: no client shows it, no recording can say what it was
                data = payload[8:]
                down.bytes += len(data)
                down.put(self._tap.error(data) if self._tap else [(Kind.STDERR, data)], kind, payload)
            elif kind == CLOSE:
                down.put(self._closing(), CLOSE, b"")
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
                    if effect.name == b"window-change":
                        self._replay = [kept for kept in self._replay if kept.name != effect.name]
                    if self.requests.state is State.GATHERING or effect.name == b"window-change":
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
                    if self._up is not None:
                        self._events.append((Kind.RESIZE, b"%dx%d" % (columns, rows)))
                    elif self.local is not None and self.local.terminal is not None:
                        self.local.resize(columns, rows)
                case Ask(kind=kind, detail=detail):
                    self._task = self.door.spawn(self._decide(kind, detail))
                case Refuse():
                    assert self._failure is not None
                    self.part(self._failure)

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
            events += start_events(request.start)
        self._up.put(events, REQUEST, request.message)

    async def _decide(self, kind: ChannelKind, detail: bytes) -> None:
        """policyd on a request; for the start of a channel without a target, first what is to be done with it."""
        try:
            error = await self._may(kind, detail)
        except BastionError as failed:
            error = failed
        if error is _SERVED or self._finished:
            return
        with burst():
            if kind is ChannelKind.SHELL and error is None and self.requests.term:
                self.door.spawn(self._news.hear())
            if kind in (ChannelKind.AGENT, ChannelKind.X11):
                if error is None and self.relay is not None:
                    self.relay.may_open_back.add(kind)
            else:
                self._failure = error
            if self.requests.state is State.ASKING:
                self._carry(self.requests.decided(error is None))
            elif error is None:
                self._carry(self.requests.again())
                self._switching = False
                assert self._up is not None
                if self.local is not None and (typed := self.local.leave()):  # for the shell, not for the menu
                    self._up.put(self._up.tap(memoryview(typed)), DATA, strings(typed))
            else:
                self.part(error)
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
        # Before the first word of ours the client is told that its shell or command runs: only then it shows any.
        self.local.start(self._begin_local)
        relay = await find(self.door, self.local, self.requests, self._failure, kind, detail)
        if relay is None:
            self.local.finish()
            return _SERVED
        # What is typed from here on is for the shell, behind its start, and not for who asked before.
        self._switching = self.requests.state is State.STARTED
        self._failure = None
        self._link(relay)
        await self._linked
        return None

    def _begin_local(self) -> None:
        self._carry(self.requests.decided(True))
        self._drain()

    # --- endings ------------------------------------------------------------------------------------

    def _go_local(self, failure: BastionError | None) -> None:
        self._failure = failure
        self.local = LocalChannel(self.user, lambda: self.window, self._spend)
        self._drain()

    def _spend(self, size: int) -> None:
        self.window -= size

    def part(self, error: BastionError) -> None:
        """Say why, with the exit code that belongs to it, and close."""
        if self.user.close_sent:
            return
        said = last_words(error, on_terminal=bool(self.requests.term), at_prompt=self.requests.state is State.STARTED)
        self._stop()
        for answer in self.requests.give_up():
            self.user.send(SUCCESS if answer == Answer(True) else FAILURE)
        for _ in range(self._inbox.unanswered):
            self.user.send(SUCCESS)
        goodbye(self.user, said, int(error.code))
        if self.target is not None:
            self.target.send(CLOSE)
        self._gone()

    def ends(self) -> list[End]:
        if self.requests.state in (State.GATHERING, State.ASKING):
            return []  # nothing but requests passes, and the start waits in `Relay.ask`
        return [end for end in (self.user, self.target) if end is not None and end.number >= 0]

    def tell(self, text: str, *, terminals_only: bool = False) -> bool:
        """Between what the target says, if the person's window has room for it."""
        if self._up is None or self.target is None or (terminals_only and not self.requests.term):
            return False
        return aside(text, self.user, self.target, self._up, on_terminal=bool(self.requests.term))

    def _stop(self) -> None:
        for flow in filter(None, (self._up, self._down)):
            flow.stop()

    def closed(self, end: End) -> None:
        if end is self.user:
            self._gone()

    def _closing(self) -> Sequence[tuple[int, bytes]]:
        tap, self._tap = self._tap, None
        return tap.finish() if tap is not None else ()

    def finish(self) -> None:
        if self.relay is not None:
            for kind, data in self._closing():
                self.relay.recording.record(kind, self.channel, data)

    def _gone(self) -> None:
        if self._finished:
            return
        self._finished = True
        self._stop()
        self._linked.cancel()
        self.finish()
        if self.relay is not None:
            self.relay.remove(self)
        self.door.channel_closed(self)

    @property
    def passed(self) -> tuple[int, int]:
        return (self._up.bytes if self._up else 0, self._down.bytes if self._down else 0)


_SERVED: Final = BastionError("served here")
