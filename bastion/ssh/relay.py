"""One granted session: its recording, its connection to the target, the channels between, and its end.

    ask policyd for a Grant -> start the recording -> dial -> channels, each asked about -> end

Whatever fails on the way is an error with words for the person. Whatever fails later ends the session: both legs
close, the person is told why, the recording says how (invariants 3 and 4).
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncssh
import structlog
from asyncssh.misc import ProtocolError

from bastion.errors import BastionError, PeerError, RecorderLost
from bastion.session import Session
from bastion.ssh.burst import burst
from bastion.ssh.channels import End
from bastion.ssh.endings import EXIT_OF, HINT_OF, WORDS_OF, SessionOver
from bastion.ssh.hold import Standstill
from bastion.ssh.links import Push
from bastion.ssh.recording import Recording
from bastion.ssh.upstream import TargetConnection, dial, refused
from bastion.taps import note
from bastion.text import neutral
from bastion.tunnels import Listening
from policy.messages import (
    Allowed,
    Authorize,
    EndSession,
    Freeze,
    Grant,
    OpenChannel,
    Refused,
    Report,
    SessionEnded,
    SessionStarted,
    Thaw,
    Warn,
)
from policy.model import ChannelKind
from recorder.messages import Open
from recorder.model import MAX_CHANNEL, AccessNote, Kind

if TYPE_CHECKING:
    from bastion.ssh.door import Door

UNSEEN: Final = "it begins as soon as somebody looks on"

PARTING: Final = 1.0
"""Seconds for a client to read the last words and leave by itself, with our exit code, before it is disconnected."""


class Channel(Protocol):
    """A channel of the session, as its relay knows it."""

    def finish(self) -> None:
        """Write down what is known of it; nothing more will pass."""

    def part(self, error: BastionError) -> None:
        """Tell the person, if there is a way, and close it."""

    def ends(self) -> list[End]:
        """Those of its two ends that are there, once anything can pass between them."""

    def tell(self, text: str, *, terminals_only: bool = False) -> bool:
        """A line for the person while it goes on. False if there is no way."""

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes towards the target and back."""


class Relay:
    """Owned by the person's connection. `ready` is done when channels may be opened, or says why never."""

    def __init__(self, door: "Door", grant: Grant, session: Session, recording: Recording) -> None:
        self.door = door
        self.grant = grant
        self.session = session
        self.recording = recording
        self.target: TargetConnection | None = None
        self.channels: set[Channel] = set()
        self.over = ""  # how it ended
        self.why: BastionError = PeerError("this session has ended", "log in again")
        self.remote_forwards: set[Listening] = set()  # what the person asked for and policyd allowed
        self.may_open_back: set[ChannelKind] = set()  # agent and X11, once a person asked and policyd allowed
        self.last_passed = 0
        self._gone = [0, 0]  # bytes of channels that have ended
        self._next = 0
        self.standstill = Standstill(self)
        self._reaching: asyncio.Task[TargetConnection] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.log = structlog.get_logger().bind(session=grant.session, person=grant.person)

    # --- beginning ----------------------------------------------------------------------------------

    @classmethod
    async def start(cls, door: "Door", request: Authorize) -> "Relay":
        """Authorized, recorded, connected; a BastionError with the words for the person otherwise."""
        grant = await door.policy.ask(request)
        if not isinstance(grant, Grant):
            raise refused(grant)
        relay: Relay | None = None
        session = Session(time.monotonic_ns, expires_in=grant.expires_in, idle=grant.idle)

        def lost(error: RecorderLost) -> None:
            if relay is not None:
                relay.recorder_lost(error)

        try:
            recording = await Recording.open(door.gateway.settings.run, _opening(door, grant, request), session, lost)
        except RecorderLost as error:
            await door.policy.ask(Report(session=grant.session, event="recorder-lost", detail={"why": error.cause}))
            door.policy.tell(SessionEnded(session=grant.session, reason="failed"))
            raise
        relay = cls(door, grant, session, recording)
        door.relays[grant.session] = relay
        recording.on_pressure = relay._press
        relay.record(Kind.ACCESS, note(Kind.ACCESS, AccessNote(what="granted", rule=grant.rule))[1])
        if grant.watched:  # before there is a target: not a byte passes unseen
            relay.standstill.begin(UNSEEN)
        relay._reaching = asyncio.ensure_future(relay._reach())
        try:
            target = await relay._reaching
        except BaseException as error:
            if relay.over:  # ended while it began, and said so: the target is no more of interest
                raise relay.why from None
            if isinstance(error, BastionError):
                await relay._close("target-lost", text=error.cause)
            else:
                await relay._close("failed")
            raise
        relay._connect(target)
        return relay

    async def _reach(self) -> TargetConnection:
        """The target, once it is there and policyd knows that the session has begun."""
        policy, grant = self.door.policy, self.grant
        started = asyncio.ensure_future(
            policy.ask(SessionStarted(session=grant.session, recording=self.recording.file))
        )
        target: TargetConnection | None = None
        try:
            target = await dial(policy, grant, self.door.gateway.settings.ssh, self.target_lost)
            if isinstance(reply := await started, Refused):
                raise refused(reply)
            if target.is_gone:
                raise PeerError(f"target `{grant.target}` is gone: it closed the connection", HINT_OF["target-lost"])
        except BaseException:
            started.cancel()
            if target is not None:
                target.abort()
            raise
        return target

    def _connect(self, target: TargetConnection) -> None:
        self.target = target
        target.on_open = self.door.opened_by_target
        # A peer that does not read slows the other one: bytes wait in sockets, not here.
        target.packets.on_full.append(lambda full: _pause(self.door.packets, self, full))
        self.door.feeds(target.packets)
        if self.over:
            target.abort()

    @property
    def is_live(self) -> bool:
        return not self.over and self.target is not None and not self.target.is_gone

    # --- while it lives -----------------------------------------------------------------------------

    def record(self, kind: int, data: bytes, channel: int = 0) -> None:
        with burst():
            self.recording.record(kind, channel, data)

    def next_channel(self) -> int:
        """Numbers of the recording count up and are never used twice; 0 is the session itself."""
        self._next = min(self._next + 1, MAX_CHANNEL)
        return self._next

    async def ask(self, kind: ChannelKind, detail: bytes) -> BastionError | None:
        """policyd on one more channel: None if it may be opened. Written down either way (invariant 2)."""
        await self.standstill.over()  # nothing starts meanwhile, whatever kind it is of
        if not self.is_live:
            return self.why
        shown = detail.decode("utf-8", "backslashreplace")[:4096]
        reply = await self.door.policy.ask(OpenChannel(session=self.grant.session, kind=kind.value, detail=shown))
        error = None if isinstance(reply, Allowed) else refused(reply)
        await self.standstill.over()  # it may have begun while policyd was asked
        if not self.is_live:
            # Attack: one more channel in the second that a killed session's client has to leave.
            return self.why
        what = AccessNote(
            what="denied" if error else "allowed", kind=kind.value, detail=detail[:4096],
            reason=error.cause if error else "", ref=error.ref if error else "",
        )  # fmt: skip
        self.record(Kind.ACCESS, note(Kind.ACCESS, what)[1])
        return error

    def add(self, channel: Channel) -> None:
        self.channels.add(channel)

    def remove(self, channel: Channel) -> None:
        if channel in self.channels:
            self.channels.discard(channel)
            self.standstill.forget(channel)
            sent, received = channel.passed
            self._gone[0] += sent
            self._gone[1] += received

    def passed(self) -> tuple[int, int]:
        sent, received = self._gone
        for channel in self.channels:
            one = channel.passed
            sent += one[0]
            received += one[1]
        return sent, received

    def tick(self) -> None:
        """Each second: limits, and a recorder that stalls."""
        passed = sum(self.passed())
        if passed != self.last_passed:
            self.last_passed = passed
            self.session.active()
        if reason := self.session.over():
            self.end(reason, text=WORDS_OF[reason])
        self.recording.check(self.door.gateway.settings.ssh.stall)

    def _press(self, behind: bool) -> None:
        """recorderd is slow: read from nobody until it has caught up."""
        _pause(self.door.packets, self.recording, behind)
        if self.target is not None:
            _pause(self.target.packets, self.recording, behind)

    # --- the end ------------------------------------------------------------------------------------

    def pushed(self, message: Push) -> None:
        """policyd has something to say about it."""
        match message:
            case EndSession():
                self._ended_by_policy(message)
            case Freeze(reason=reason):
                self.standstill.begin(reason)
            case Thaw():
                self.standstill.end()
            case Warn(text=text):
                self.record(Kind.ACCESS, note(Kind.ACCESS, AccessNote(what="warned", reason=text))[1])
                for channel in self.channels:
                    channel.tell(text, terminals_only=True)  # a program that reads its output is left alone

    def _ended_by_policy(self, message: EndSession) -> None:
        by = message.by
        if message.reason == "expired":  # of the two clocks that keep the limit, policyd's came first
            return self.end("expired", by=by, text=WORDS_OF["expired"])
        # An operator is a user of this machine; their number means nothing to the person.
        words = f"{'an operator' if by.startswith('operator ') else by}: {message.reason}" if by else message.reason
        self.end("killed", by=by, text=words)

    def target_lost(self, error: Exception | None) -> None:
        if self.target is not None and not self.over:
            # A target that closes after its last channel has ended well; one that leaves in between has not.
            if error is None or isinstance(error, (OSError, asyncssh.Error)):
                why = str(error).lower() if error is not None else "it closed the connection"
                verb = "broke the protocol" if isinstance(error, ProtocolError) else "is gone"
                self.end("target-lost", text=f"target `{self.grant.target}` {verb}: {why}")
            else:
                # A fault of ours; its text may quote what passed.
                self.log.error("relay-failed", error=type(error).__name__)
                self.end("failed", text="internal error of the bastion")

    def recorder_lost(self, error: RecorderLost) -> None:
        self.log.error("recorder-lost", why=error.cause)
        self.door.policy.tell(Report(session=self.grant.session, event="recorder-lost", detail={"why": error.cause}))
        self.end("failed", text=error.cause)

    def end(self, reason: str, *, by: str = "", text: str = "") -> None:
        """End it now, whatever is under way; only the first reason counts."""
        if self.over:
            return
        self.over = reason
        text = neutral(text)
        self.why = SessionOver(reason, text, self.grant.session)
        self.standstill.release()
        with burst():
            for channel in list(self.channels):
                channel.finish()
                if reason in EXIT_OF:
                    channel.part(self.why)
        if self._reaching is not None:
            self._reaching.cancel()
        if self.target is not None:
            self.target.abort()
        self._ending = asyncio.ensure_future(self._finish(reason, by, text))

    async def _finish(self, reason: str, by: str, text: str) -> None:
        try:
            await self._close(reason, by=by, text=text)
        finally:
            if reason in EXIT_OF:
                await asyncio.sleep(PARTING)
                self.door.disconnect_person(self.why.cause)

    async def _close(self, reason: str, *, by: str = "", text: str = "") -> None:
        """The recording and policyd learn how it ended."""
        self.over = self.over or reason
        self.door.relays.pop(self.grant.session, None)
        sent, received = self.passed()
        self.door.policy.tell(
            SessionEnded(session=self.grant.session, reason=text or reason, by=by, bytes_in=sent, bytes_out=received)
        )
        if self.target is not None:
            _pause(self.door.packets, self.recording, False)
            _pause(self.door.packets, self, False)
        await self.recording.end(reason, by, text)
        self.log.info("session-end", reason=reason, by=by, text=text)

    async def leave(self, reason: str) -> None:
        """End it and wait until the recording is closed."""
        self.end(reason)
        if self._ending is not None:
            await asyncio.shield(self._ending)


def _pause(packets: Any, why: object, paused: bool) -> None:
    if paused:
        packets.pause(why)
    else:
        packets.resume(why)


def _opening(door: "Door", grant: Grant, request: Authorize) -> Open:
    private = {
        "person": grant.person, "account": grant.account, "target": grant.target,
        "address": f"{grant.address}:{grant.port}", "source": grant.source, "rule": grant.rule, "via": request.via,
        "client": door.client_version, "node": door.gateway.settings.bastion.node,
        "kinds": " ".join(grant.kinds), "reason": request.reason, "ticket": request.ticket,
    }  # fmt: skip
    return Open(
        session=grant.session,
        t0_us=time.time_ns() // 1000,
        public={"protocol": "ssh"},
        private={key: value for key, value in private.items() if value},
        sync=grant.record_sync,
    )


__all__ = ["Channel", "Relay"]
