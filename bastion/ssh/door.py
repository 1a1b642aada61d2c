"""What a person's connection lets them open: sessions, forwards, and for `ssh -J` connections within it.

INVARIANT: every channel of every kind passes `Relay.ask`, and none is opened before there is a Relay.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import error as StructError
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from asyncssh.constants import (
    DISC_BY_APPLICATION,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
    OPEN_UNKNOWN_CHANNEL_TYPE,
)
from asyncssh.misc import ProtocolError

from bastion import notices
from bastion.config import Settings
from bastion.errors import BastionError, Denied, ExitCode, PeerError
from bastion.ssh.burst import burst
from bastion.ssh.connections import ServerConnection
from bastion.ssh.forwards import ForwardChannel
from bastion.ssh.globals import GlobalRequests
from bastion.ssh.links import Push
from bastion.ssh.needs import settle
from bastion.ssh.relay import Relay
from bastion.ssh.sessions import SessionChannel
from bastion.ssh.transport import PacketTransport
from bastion.taps import ForwardTap
from bastion.text import neutral
from bastion.tunnels import asked_for, from_agent, from_display, from_socket, tcp, to_socket
from policy.messages import Authorize, EndSession, Notices
from policy.model import ChannelKind

if TYPE_CHECKING:
    from bastion.ssh.channels import End
    from bastion.ssh.local import LocalChannel

MAX_FORWARDS: Final = 256
"""Forwarded connections open at once: a browser behind -D opens dozens; past this it is a scan."""
GOING_DOWN: Final = "the bastion is going down: log in again in a moment"

_FROM_PERSON: Final = {
    b"direct-tcpip": (ChannelKind.FORWARD_LOCAL, tcp),
    b"direct-streamlocal@openssh.com": (ChannelKind.FORWARD_SOCKET, to_socket),
}
_FROM_TARGET: Final = {
    b"forwarded-tcpip": (ChannelKind.FORWARD_REMOTE, tcp),
    b"forwarded-streamlocal@openssh.com": (ChannelKind.FORWARD_SOCKET, from_socket),
    b"auth-agent@openssh.com": (ChannelKind.AGENT, from_agent),
    b"x11": (ChannelKind.X11, from_display),
}


@dataclass(slots=True, kw_only=True)
class Gateway:
    """What all connections of one worker share."""

    settings: Settings
    doors: set["Door"] = field(default_factory=set)
    ending: set["asyncio.Task[None]"] = field(default_factory=set)  # connections gone whose sessions are not yet
    now: Callable[[], float] = time.monotonic
    stopping: bool = False

    async def tick(self) -> None:
        """Once a second, for as long as the worker lives: limits and stalled recorders."""
        while True:
            await asyncio.sleep(1)
            for door in list(self.doors):
                if (relay := door.relay) is not None:
                    try:
                        relay.tick()
                    except Exception:
                        # A fault of ours in one session ends that session: a limit that is not kept is no limit.
                        structlog.get_logger().exception("tick-failed", session=relay.grant.session)
                        relay.end("failed", text="internal error")


class Door(ServerConnection):
    """A person who has proven who they are. `account` and `target` are what this connection asks for."""

    gateway: Gateway
    policy: Any  # bastion.ssh.links.PolicyLink
    person = ""
    source = ""
    client_version = ""
    account = ""
    target = ""
    port = 0
    via = "direct"
    leads_to: tuple[str, str] | None = None  # where a token leads, and nowhere else

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.relays: dict[str, Relay] = {}  # of the person's connection and of those within it, by session
        self.relay: Relay | None = None
        self._starting: asyncio.Task[Relay] | None = None
        self._sessions: set[SessionChannel] = set()
        self._told = False
        self._watching: dict[str, asyncio.Event] = {}  # sessions that this person looks at, and that they are over
        self._trying = asyncio.Lock()
        self._forwards = 0
        self._no_more_sessions = False
        self._feeding: PacketTransport | None = None
        self._globals = GlobalRequests(self)
        self._tasks_of_ours: set[asyncio.Task[Any]] = set()

    # --- the target ---------------------------------------------------------------------------------

    @property
    def has_target(self) -> bool:
        return bool(self.target)

    def begin(self) -> None:
        """The person is in: dial at once, so that their first channel need not wait for it."""
        self.gateway.doors.add(self)
        if self.gateway.stopping:
            # They came in before the listener closed: a session begun now would be cut off without a word.
            return self.disconnect_person(GOING_DOWN)
        if self.has_target:
            self._start(self.wanted())

    def _start(self, request: Authorize) -> "asyncio.Task[Relay]":
        self._starting = asyncio.ensure_future(self._dial(request))
        # Whoever waits for it sees the error; that nobody does is no fault.
        self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._starting

    async def _dial(self, request: Authorize) -> Relay:
        try:
            relay = await Relay.start(self, request)
        except BastionError:
            raise
        except Exception as error:
            # A fault of ours must be said, too: a client that hears nothing waits for ever.
            structlog.get_logger().error("dial-failed", error=type(error).__name__)
            raise PeerError("internal error of the bastion", "tell the people who run it") from None
        if self.is_closed():
            await relay.leave("closed")
            raise PeerError("the client is gone")
        self.relay = relay
        return relay

    async def relay_ready(self) -> Relay:
        """The session with the target; the BastionError that says why there is none."""
        if self._starting is None:
            raise Denied("no target is named", "use: ssh account@target@bastion", code=ExitCode.USAGE)
        return await asyncio.shield(self._starting)

    async def try_again(self, failure: BastionError, local: "LocalChannel") -> Relay:
        """With what came with the channel (a ticket, a reason), and what the person at it says when they are asked."""
        if self.relay is not None and not self.relay.is_live:
            raise failure  # it has ended: what comes along now does not begin another one
        return await settle(self.policy, self.person, self.wanted(), failure, local, self.authorize)

    async def authorize(self, request: Authorize) -> Relay:
        """One more try; of two channels that try for the same at the same time, one dials and both have the session."""
        async with self._trying:
            relay, place = self.relay, (request.account, request.target)
            if relay is not None and relay.is_live and (relay.grant.account, relay.grant.target) == place:
                return relay
            return await asyncio.shield(self._start(request))

    async def pick(self, account: str, target: str, local: "LocalChannel") -> Relay:
        """The menu's choice."""
        self.account, self.target = account, target
        request = Authorize(account=account, target=target, via="menu")
        try:
            return await self.authorize(request)
        except BastionError as failure:
            return await settle(self.policy, self.person, request, failure, local, self.authorize)

    async def news(self) -> list[str]:
        """What waits for this person, told with the first shell of a connection."""
        if self._told or self.leads_to is not None:  # a token is for one thing, and for nothing beside it
            return []
        self._told = True
        try:
            return notices.lines(await self.policy.ask(Notices()))
        except BastionError:
            return []

    def wanted(self) -> Authorize:
        """What this connection asks for."""
        return Authorize(account=self.account, target=self.target, port=self.port, via=self.via)

    async def serve(self, local: "LocalChannel") -> Relay | None:
        """A channel without a target: a command of ours, or the menu and then the session it led to."""
        raise NotImplementedError

    def feeds(self, target: PacketTransport) -> None:
        """When the person does not take what the target sends, the target is read no more."""
        self._feeding = target
        self.packets.on_full.append(self._full)

    def _full(self, full: bool) -> None:
        if self._feeding is not None:
            (self._feeding.pause if full else self._feeding.resume)(self)

    def watch(self, session: str) -> asyncio.Event:
        """Set when a session that this person looks at is over."""
        return self._watching.setdefault(session, asyncio.Event())

    # --- channels -----------------------------------------------------------------------------------

    def open_received(self, kind: bytes, sender: int, window: int, max_packet: int, rest: bytes) -> None:
        if not self.person or self.gateway.stopping:
            return self.refuse_open(sender, OPEN_ADMINISTRATIVELY_PROHIBITED, "not now")
        if len(self._channels) + self._forwards >= MAX_FORWARDS + self.gateway.settings.ssh.channels:
            return self.refuse_open(sender, OPEN_RESOURCE_SHORTAGE, "bastion: too many channels")
        if kind == b"session":
            if self._no_more_sessions or len(self._sessions) >= self.gateway.settings.ssh.channels:
                return self.refuse_open(sender, OPEN_RESOURCE_SHORTAGE, "bastion: too many sessions")
            self._sessions.add(SessionChannel(self, sender, window, max_packet))
        elif kind not in _FROM_PERSON:
            self.refuse_open(sender, OPEN_UNKNOWN_CHANNEL_TYPE, "unknown channel type")
        elif self._forwards >= MAX_FORWARDS:
            self.refuse_open(sender, OPEN_RESOURCE_SHORTAGE, "bastion: too many forwards")
        else:
            self._forwards += 1
            self.spawn(self._open_forward(kind, sender, window, max_packet, rest))

    def channel_closed(self, channel: SessionChannel) -> None:
        self._sessions.discard(channel)

    async def _open_forward(self, kind: bytes, sender: int, window: int, max_packet: int, rest: bytes) -> None:
        channel_kind, read = _FROM_PERSON[kind]
        try:
            way = read(rest)
            if channel_kind is ChannelKind.FORWARD_LOCAL and await self.open_jump(
                way.host, way.port, sender, window, max_packet
            ):
                return
            relay = await self.relay_ready()
            if (error := await relay.ask(channel_kind, way.where)) is not None:
                raise error
            if relay.target is None or self.is_closed():
                raise relay.why
            if len(relay.channels) >= MAX_FORWARDS:
                return self.refuse_open(sender, OPEN_RESOURCE_SHORTAGE, "bastion: too many forwards")
            tap = ForwardTap(channel_kind.value, way.where, way.origin, keep_content=relay.grant.keep_content)
            with burst():
                ForwardChannel(relay, self, sender, max_packet, tap).open(relay.target, kind, window, way.body)
        except BastionError as error:
            code = OPEN_CONNECT_FAILED if error.code == ExitCode.UNREACHABLE else OPEN_ADMINISTRATIVELY_PROHIBITED
            self.refuse_open(sender, code, error.lines()[0])
        except (StructError, ValueError):
            self.refuse_open(sender, OPEN_CONNECT_FAILED, "bastion: there is no such place")
        finally:
            self._forwards -= 1

    async def open_jump(self, host: bytes, port: int, sender: int, window: int, max_packet: int) -> bool:
        """`ssh -J`: end the inner connection here if this names a target of ours. False: it is a forward."""
        return False

    def opened_by_target(self, kind: bytes, sender: int, window: int, max_packet: int, rest: bytes) -> None:
        """The target opens a channel back: only what the person asked for and policyd allowed."""
        relay = self.relay
        assert relay is not None
        assert relay.target is not None
        channel_kind, read = _FROM_TARGET.get(kind, (None, tcp))
        try:
            way = read(rest)
        except (StructError, ValueError):
            channel_kind = None
        match channel_kind:
            case ChannelKind.AGENT | ChannelKind.X11:
                asked = channel_kind in relay.may_open_back
            case ChannelKind.FORWARD_REMOTE | ChannelKind.FORWARD_SOCKET:
                # Attack: one port that was asked for, and connections back that claim to come from any other.
                asked = asked_for(relay.remote_forwards, channel_kind, way)
            case _:
                asked = False
        if channel_kind is None or not asked or len(relay.channels) >= MAX_FORWARDS:
            relay.log.warning("target-opened-unasked", kind=neutral(kind.decode("ascii", "replace"))[:64])
            return relay.target.refuse_open(sender, OPEN_ADMINISTRATIVELY_PROHIBITED, "not asked for")
        tap = ForwardTap(channel_kind.value, way.where, way.origin, keep_content=relay.grant.keep_content)
        ForwardChannel(relay, relay.target, sender, max_packet, tap).open(self, kind, window, way.body)

    # --- global requests ----------------------------------------------------------------------------

    def global_request_received(self, name: bytes, want_reply: bool, rest: bytes) -> None:
        self._globals.received(name, want_reply, rest)

    def answer_now(self, name: bytes, rest: bytes) -> bytes | None:
        """What to say to a global request that is nobody else's business; None is no."""
        if name == b"no-more-sessions@openssh.com":
            self._no_more_sessions = True
            return b""
        return b"" if name == b"keepalive@openssh.com" else None

    # --- the end ------------------------------------------------------------------------------------

    def pushed(self, message: Push) -> None:
        """policyd has something to say about one session, or all of this person's connection."""
        if isinstance(message, EndSession) and (over := self._watching.pop(message.session, None)) is not None:
            return over.set()
        for relay in [self.relays.get(message.session)] if message.session else list(self.relays.values()):
            if relay is not None:
                relay.pushed(message)

    def policy_lost(self) -> None:
        """Without policyd there is no kill and no expiry: nothing goes on."""
        for relay in list(self.relays.values()):
            relay.end("policy-lost", text="the bastion's policy service is gone")
        if not self.relays and not self.is_closed():
            self.disconnect_person("the bastion's policy service is gone")

    def disconnect_person(self, text: str) -> None:
        if self.is_closed():
            return
        if self.relay is not None:
            self.relay.end("client-lost", text=text)
        self.disconnect(DISC_BY_APPLICATION, text)

    def _send_disconnect(self, code: int, reason: str, lang: str) -> None:
        if self.person:
            structlog.get_logger().info("disconnect", person=self.person, source=self.source, why=neutral(reason)[:200])
        super()._send_disconnect(code, reason, lang)

    def _cleanup(self, exc: Exception | None) -> None:
        # Within `ssh -J` the client kills the outer ssh before its goodbye has passed: what counts is what was open.
        left_open = not all(cast("End", end).close_sent for end in self._channels.values())
        super()._cleanup(exc)
        self.gateway.doors.discard(self)
        for task in self._tasks_of_ours:
            task.cancel()
        if self.relay is not None:
            if isinstance(exc, ProtocolError):
                self.relay.end("client-lost", text=str(exc))
            else:
                self.relay.end("client-lost" if left_open and exc is not None and str(exc) else "closed")

    def spawn(self, coroutine: Any) -> "asyncio.Task[Any]":
        """Something that goes on by itself; it ends with the connection, and a fault in it ends the connection."""
        task: asyncio.Task[Any] = asyncio.ensure_future(coroutine)
        self._tasks_of_ours.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    def _spawned_ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks_of_ours.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            structlog.get_logger().error("task-failed", error=type(error).__name__)
            self.disconnect_person("internal error")
