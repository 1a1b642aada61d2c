"""One connection to policyd, from first word to end: its state, who it speaks for, and what it may still use."""

import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import structlog
import trio

from policy.keys.credentials import Speaker
from policy.login.dialogue import Login
from policy.messages import MAX_MESSAGE, Applicant, Hello, Refused, Reply, Rows, Viewing, encode
from policy.peers import Peer
from policy.rules.conditions import FactorKind
from policy.trail.audit import Event

SEND_SECONDS: Final = 10.0
"""A peer that does not read for so long is gone or hostile; what it holds back is a kill that must arrive."""


class State(StrEnum):
    """The states of `policy.monitor`'s table."""

    GATEWAY_NEW = "gateway-new"
    ADMIN_NEW = "admin-new"
    COURIER_NEW = "courier-new"
    RUNNER_NEW = "runner-new"
    PROVING = "proving"
    PERSON = "person"
    WORKER = "worker"
    OPERATOR = "operator"
    COURIER = "courier"
    RUNNER = "runner"
    AUDITOR_NEW = "auditor-new"
    AUDITOR = "auditor"
    APPLICANT = "applicant"
    APPLICATION = "application"
    OVER = "over"  # nothing is accepted; the socket is closed after the reply


FIRST_WORDS: Final = frozenset(
    {State.GATEWAY_NEW, State.ADMIN_NEW, State.AUDITOR_NEW, State.COURIER_NEW, State.RUNNER_NEW, State.APPLICANT}
)
"""States in which nothing was said yet: who connects speaks at once."""


class Violation(Exception):
    """The peer said what it may not say; the text is for the log."""


@dataclass(slots=True, kw_only=True, eq=False)
class Conversation:
    """Owned by the task that reads it; others only `push` and `close`."""

    ident: int
    connection: trio.socket.SocketType
    peer: Peer
    state: State
    hello: Hello | None = None
    person: str = ""  # set once, when the login is done
    seen: Applicant | None = None  # what the broker saw of the other end
    application: str = ""  # who that is, judged again at every request
    token: str = ""  # the grant whose secret logged the person in: they may do nothing else
    operator: str = ""  # who stands behind the admin or the auditors' socket
    login: Login = field(default_factory=Login)
    newer: Login | None = None  # of a person who is in and shows a newer code
    question: bytes = field(default=b"", repr=False)  # what belongs to a further question about a code
    recovery_left: int | None = None  # codes, after one of them was shown here
    limited: bool = False  # a second factor is demanded and none enrolled: they may enrol one, and nothing else
    factors: tuple[tuple[FactorKind, float], ...] = ()  # proven here, and when by trio's clock
    speaker: Speaker | None = None  # the certificate of the login, with its limits
    used: set[type] = field(default_factory=set)  # requests that are accepted once
    listed: str = ""  # the list that was begun here last, of those whose pages are one view
    exported: int = 0  # the last row of the trail that was given here
    sessions: set[str] = field(default_factory=set)
    views: dict[int, Viewing] = field(default_factory=dict)  # noted and not yet over, by their row in the trail
    _sending: trio.Lock = field(default_factory=trio.Lock)

    @property
    def source(self) -> str:
        """Where it comes from, for the audit trail."""
        if self.seen is not None:
            return f"uid {self.seen.uid} pid {self.seen.pid}" if self.seen.local else self.seen.address
        return self.hello.source if self.hello else str(self.peer)

    @property
    def who(self) -> str:
        return self.person or self.operator or (f"application {self.application}" if self.application else "")

    def event(
        self, event: str, what: str = "", detail: dict[str, str] | None = None, *, why: str = "", session: str = ""
    ) -> Event:
        """An audit event about something that was asked for here; empty details are left out."""
        shown = {key: value for key, value in (detail or {}).items() if value}
        return Event(event=event, who=self.who, what=what, why=why, source=self.source, session=session, detail=shown)

    async def reply(self, ident: int, body: Reply) -> None:
        """Answer a request; a peer that does not read for SEND_SECONDS loses the connection."""
        data = encode(ident, body)
        if len(data) > MAX_MESSAGE:
            data = encode(ident, _shorter(body, len(data)))
        try:
            if not self._sending.locked() and self._sent_at_once(data):
                return
            with trio.fail_after(SEND_SECONDS):
                async with self._sending:
                    await self.connection.send(data)
        except (OSError, trio.TooSlowError, trio.ClosedResourceError):
            self.close()

    def _sent_at_once(self, data: bytes) -> bool:
        """Nearly always there is room, and then neither a deadline nor a turn of the loop is needed."""
        try:
            os.write(self.connection.fileno(), data)
        except BlockingIOError:
            return False
        return True

    async def push(self, body: Reply) -> None:
        """Say something unasked."""
        await self.reply(0, body)

    def close(self) -> None:
        """From any task; the reading task notices, and ends the sessions."""
        self.connection.close()

    def log(self) -> Any:
        return structlog.get_logger().bind(conversation=self.ident, peer=str(self.peer), source=self.source)


def _shorter(body: Reply, size: int) -> Reply:
    """A table cut to what one message holds, and said so; nothing else can grow that long."""
    if not isinstance(body, Rows):
        return Refused(code=69, cause="the answer is too long for one message")
    keep = len(body.rows)
    while keep and size > MAX_MESSAGE:
        keep = min(keep - 1, keep * MAX_MESSAGE // size)
        note = f"{len(body.rows) - keep} of {len(body.rows)} rows are left out: the answer is too long"
        cut = Rows(columns=body.columns, rows=body.rows[:keep], note=f"{body.note}; {note}" if body.note else note)
        size = len(encode(1, cut))
    return cut
