"""Live sessions: who is where right now, until when, and how each comes to its end."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from policy.conversation import Conversation
from policy.messages import Done, EndSession, Freeze, Report, SessionEnded, SessionStarted, Thaw, Warn
from policy.model import WARNINGS, ChannelKind
from policy.rules.conditions import Factor, TicketFact
from policy.rules.terms import PLAIN, Terms
from policy.store import Tables
from policy.trail.audit import Event
from policy.trail.ledger import Ledger, LedgerError, side_by_side

KNOWN_REPORTS: Final = frozenset(
    {"host-key-mismatch", "target-unreachable", "login-failed-at-target", "recorder-lost", "protocol-error"}
)
UNREACHED: Final = frozenset({"host-key-mismatch", "target-unreachable", "login-failed-at-target"})
"""Reports after which the use of a grant is given back. A gateway that lies about them has the session either way: it
could as well keep one open for as long as the grant lasts; and each is in the trail."""
REPORTED: Final = "reported"
"""The event of any other report; the gateway's word for it is kept in its detail."""


OVER: Final = "the session has ended"
UNWATCHED: Final = "nobody looks on, and a rule wants somebody to"
MAX_WATCHERS: Final = 64
"""Conversations that look at one session: more eyes do not see more."""

RETRY_SECONDS: Final = 5.0
"""Between two tries to write down ends that could not be kept: until then they look alive to who lists them."""

INTERRUPTED: Final = "interrupted"
"""Nobody said why it ended: the gateway, its connection, or policyd was gone."""


@dataclass(slots=True, kw_only=True, eq=False)
class Live:
    """One granted session. The grant is what policyd remembers of it, never what a gateway repeats."""

    id: str
    talk: Conversation
    person: str
    account: str
    target: str
    address: str
    port: int
    source: str
    via: str
    rule: str
    kinds: frozenset[ChannelKind]
    reason: str
    ticket: str
    factors: tuple[Factor, ...]  # what the grant rested on, with its age at that time
    deadline: float  # trio's clock, since the wall clock may jump; infinite without a limit
    grant: str = ""  # that the session rests on: with it, it ends
    watched: bool = False  # nothing passes while `watchers` is empty
    certificate: Terms = PLAIN  # what was granted on
    unreached: str = ""  # why the target was not: until a channel was opened there, nothing was used
    watchers: set[Conversation] = field(default_factory=set)
    warnings: list[float] = field(default_factory=list)  # those of WARNINGS that are still to come
    tickets: tuple[TicketFact, ...] = ()  # as they were found then; the end of a change window still counts
    leases: int = 0  # credentials handed out
    redials: int = 0  # times the gateway may ask for one again
    leased: float = 0.0  # trio's clock at the last of them
    signatures: int = 0
    version: int = 0  # of the secret that opens the account; 0: the one in force
    machine: bool = False  # policyd itself has a worker open it: no rule allows it, and none forbids it
    opened: set[ChannelKind] = field(default_factory=set)  # kinds of channels that were allowed in it


class Sessions:
    """Every live session of this policyd."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._live: dict[str, Live] = {}
        self._changed = trio.Event()
        self._owed: list[tuple[Live, Event, Callable[[Tables], bool]]] = []  # ends that are not known to be kept
        self._owes = trio.Event()
        self.returned: Callable[[str], None] = lambda _: None  # told of a grant that got its use back
        self.over: Callable[[Live], None] = lambda _: None  # told of each that has ended; returns at once

    def add(self, live: Live) -> None:
        self._live[live.id] = live
        live.talk.sessions.add(live.id)
        self.limit(live, live.deadline)

    def limit(self, live: Live, deadline: float) -> None:
        """End it at this time of trio's clock at the latest."""
        live.deadline = min(live.deadline, deadline)
        left = live.deadline - trio.current_time()
        # Who begins with less than that knows it.
        live.warnings = [before for before in WARNINGS if before < left]
        self._changed.set()

    def drop(self, session: str) -> None:
        """Forget a session whose grant was never given."""
        if (live := self._live.pop(session, None)) is not None:
            live.talk.sessions.discard(session)

    def of(self, talk: Conversation, session: str) -> Live | None:
        """A live session of this very conversation; another one's looks like none."""
        live = self._live.get(session)
        return live if live is not None and live.talk is talk else None

    def open_of(self, talk: Conversation, session: str) -> Live | None:
        """The same while there is time left: what is asked for between its end and `expire` is asked for too late."""
        live = self.of(talk, session)
        return live if live is not None and trio.current_time() < live.deadline else None

    def get(self, session: str) -> Live | None:
        return self._live.get(session)

    def all(self) -> list[Live]:
        return list(self._live.values())

    def of_person(self, person: str) -> list[Live]:
        return [live for live in self._live.values() if live.person == person]

    def __len__(self) -> int:
        return len(self._live)

    async def end(self, live: Live, *, reason: str, by: str = "", event: str = "session-end", ref: str = "") -> bool:
        """End it for a reason of ours: kept on disk first, then the gateway is told. False if it had ended."""
        if self._live.pop(live.id, None) is None:
            return False
        now = time.time_ns()
        kept = Event(
            event=event, who=by or "policyd", what=f"{live.person} on {live.account}@{live.target}", why=reason,
            source=live.source, session=live.id, ref=ref,
        )  # fmt: skip
        try:
            await self._write_end(live, kept, lambda t: t.end_session(live.id, now, reason=reason, by=by))
        finally:
            # Even if the disk is full the session ends: a kill that waits for its own log entry is no kill.
            await live.talk.push(EndSession(session=live.id, by=by, reason=reason))
            await self._part(live)
        return True

    async def end_conversation(self, talk: Conversation) -> None:
        """The gateway is gone, or closed the connection: what was not said to be over was interrupted."""
        mine = [live for live in self._live.values() if live.talk is talk]
        for live in mine:
            del self._live[live.id]
        try:
            await side_by_side(partial(self._interrupted, live) for live in mine)
        finally:
            for live in mine:
                await self._part(live)

    async def _interrupted(self, live: Live) -> None:
        event = interrupted(live.person, f"{live.account}@{live.target}", live.source, live.id)
        await self._write_end(live, event, partial(_end_interrupted, live.id, time.time_ns()))

    async def _write_end(self, live: Live, event: Event, end: Callable[[Tables], bool], *, late: bool = False) -> None:
        """Kept now, or by `make_up`; LedgerError if not now."""
        try:
            await self._keep_end(live, event, partial(_once, end) if late else end)
        except _Kept:
            pass
        except BaseException:  # the ledger says no, or its answer took longer than whoever hangs up is waited for
            self._owed.append((live, event, end))
            self._owes.set()
            raise

    async def make_up(self) -> None:
        """Write down the ends that could not be kept, once that is possible, until cancelled."""
        while True:
            await self._owes.wait()
            await trio.sleep(RETRY_SECONDS)
            owed, self._owed, self._owes = self._owed, [], trio.Event()
            with suppress(LedgerError):  # it is owed again
                await side_by_side(partial(self._write_end, *one, late=True) for one in owed)

    async def _keep_end(self, live: Live, event: Event, end: Callable[[Tables], bool]) -> None:
        """The end of a session, and with it, in the same transaction, the use of a grant that came to nothing."""
        if not (live.grant and live.unreached) or live.opened:
            await self._ledger.write(end, event)
            return
        given_back = Event(
            event="grant-use-returned", who=live.person, what=live.grant, why=live.unreached, source=live.source,
            session=live.id,
        )  # fmt: skip

        def change(t: Tables) -> bool:
            end(t)
            return t.access.return_use(live.grant)

        if await self._ledger.write(change, event, given_back):
            self.returned(live.grant)

    # --- four eyes ----------------------------------------------------------------------------------

    async def watch(self, live: Live, watcher: Conversation) -> None:
        """Somebody looks on: what waited for that goes on."""
        live.watchers.add(watcher)
        if live.watched and len(live.watchers) == 1:
            await live.talk.push(Thaw(session=live.id))

    async def unwatch(self, live: Live, watcher: Conversation) -> None:
        """Somebody looks away; with the last one nothing passes any more."""
        if watcher in live.watchers:
            live.watchers.discard(watcher)
            await self.freeze_unwatched(live)

    async def freeze_unwatched(self, live: Live) -> None:
        if live.watched and not live.watchers and live.id in self._live:
            await live.talk.push(Freeze(session=live.id, reason=UNWATCHED))

    async def _part(self, live: Live) -> None:
        """It is over: nobody looks on any more."""
        self.over(live)
        while live.watchers:
            await live.watchers.pop().push(EndSession(session=live.id, by="", reason=OVER))

    def watched_by(self, watcher: Conversation) -> list[Live]:
        return [live for live in self._live.values() if watcher in live.watchers]

    # --- deadlines ----------------------------------------------------------------------------------

    async def expire(self, nursery: trio.Nursery) -> None:
        """Warn of the deadline of every session, and end it then, until cancelled."""
        while True:
            now = trio.current_time()
            for live in list(self._live.values()):
                if live.deadline <= now:
                    nursery.start_soon(self._expired, live)
                    live.warnings = []
                while live.warnings and live.deadline - live.warnings[0] <= now:
                    before = live.warnings.pop(0)
                    nursery.start_soon(live.talk.push, Warn(session=live.id, text=_warning(before)))
            self._changed = trio.Event()
            moments = [live.deadline - (live.warnings[0] if live.warnings else 0) for live in self._live.values()]
            with trio.move_on_at(min(moments, default=math.inf)):
                await self._changed.wait()

    async def _expired(self, live: Live) -> None:
        try:
            await self.end(live, reason="expired", event="session-expired")
        except LedgerError as error:
            live.talk.log().error("session-expired", session=live.id, error=str(error))

    # --- what gateways tell -------------------------------------------------------------------------

    async def started(self, talk: Conversation, request: SessionStarted) -> Done:
        live = self.of(talk, request.session)
        if live is None:
            return Done(text="this session has ended")
        await self._ledger.write(
            lambda t: t.start_session(live.id, request.recording[:256], time.time_ns()),
            Event(
                event="session-start",
                who=live.person,
                what=f"{live.account}@{live.target}",
                why=live.rule,
                source=live.source,
                session=live.id,
                detail={"recording": request.recording, "via": live.via},
            ),
        )
        if live.watched and live.watchers:  # who began to look while it began: the gateway could not be told before
            await live.talk.push(Thaw(session=live.id))
        return Done(text="")

    async def ended(self, talk: Conversation, request: SessionEnded) -> Done:
        """The first reason stands: after a kill only the byte counts are taken."""
        if request.session not in talk.sessions:
            return Done(text="no such session")
        talk.sessions.discard(request.session)  # a connection may have one session after the other, all day long
        live = self.of(talk, request.session)
        sizes = max(0, request.bytes_in), max(0, request.bytes_out)
        if live is None:
            await self._ledger.write(lambda t: t.count_bytes(request.session, *sizes))
            return Done(text="")
        del self._live[live.id]
        reason, by, now = request.reason[:256], request.by[:64], time.time_ns()
        await self._write_end(
            live,
            Event(
                event="session-end",
                who=live.person,
                what=f"{live.account}@{live.target}",
                why=reason,
                source=live.source,
                session=live.id,
                detail={"by": by, "bytes_in": str(sizes[0]), "bytes_out": str(sizes[1])},
            ),
            lambda t: t.end_session(live.id, now, reason=reason, by=by, bytes_in=sizes[0], bytes_out=sizes[1]),
        )
        await self._part(live)
        return Done(text="")

    async def report(self, talk: Conversation, request: Report) -> Done:
        """Kept, and for an unreachable target one more dial is allowed."""
        live = self.of(talk, request.session)
        known = request.event in KNOWN_REPORTS
        if live is not None and request.event == "target-unreachable":
            live.redials = 1
        if live is not None and request.event in UNREACHED:
            live.unreached = request.event
        await self._ledger.note(
            Event(
                event=request.event if known else REPORTED,
                who=talk.person or (live.person if live else ""),
                what=f"{live.account}@{live.target}" if live else "",
                source=talk.source,
                session=live.id if live else "",
                detail=request.detail if known else {"reported": request.event, **request.detail},
            )
        )
        return Done(text="")


class _Kept(Exception):
    """This end is in the database already, with its event."""


def _once(end: Callable[[Tables], bool], t: Tables) -> bool:
    if not end(t):
        raise _Kept
    return True


def _end_interrupted(session: str, now: int, t: Tables) -> bool:
    return t.end_session(session, now, reason=INTERRUPTED)


def _warning(before: float) -> str:
    minutes = round(before / 60)
    return f"this session ends in {minutes} minute{'' if minutes == 1 else 's'}: what is granted for it is over then"


def interrupted(person: str, place: str, source: str, session: str) -> Event:
    """The event of a session that nobody ended."""
    return Event(event="session-end", who=person, what=place, why=INTERRUPTED, source=source, session=session)
