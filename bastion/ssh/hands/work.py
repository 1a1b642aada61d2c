"""Work on accounts, for policyd, which has no network: a session like a person's, whose other end is a deed of ours.

    order -> recording -> dial -> the deed's commands -> SessionEnded, Worked

INVARIANT: each order is answered once, and in time. Before the deed has `told` the target anything, whatever goes
wrong is UNREACHABLE; from then on it is UNKNOWN, and a fresh login has to tell.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Final

import asyncssh
import structlog

from bastion.config import Settings
from bastion.errors import BastionError, RecorderLost
from bastion.session import Session
from bastion.ssh.burst import burst
from bastion.ssh.hands.authorized import AuthorizedKeys
from bastion.ssh.hands.channel import Command, Flood
from bastion.ssh.hands.deeds import BadOrder, Deed, Result, refused
from bastion.ssh.hands.passwd import Chpasswd, Passwd
from bastion.ssh.links import PolicyLink
from bastion.ssh.recording import Recording
from bastion.ssh.upstream import LoginRefused, TargetConnection, dial
from bastion.ssh.upstream import refused as refusal
from bastion.ssh.wipe import wipe
from bastion.taps import note
from bastion.text import neutral
from policy.messages import (
    ChangeSecret,
    EndSession,
    Freeze,
    Refused,
    Report,
    SessionEnded,
    SessionStarted,
    VerifyLogin,
    Worked,
)
from policy.messages.rotation import AUTHORIZED_KEYS, CHPASSWD, DONE, PASSWD, REFUSED, UNKNOWN, UNREACHABLE
from recorder.messages import Open
from recorder.model import AccessNote, Kind

MAX_JOBS: Final = 32
"""At once; policyd sends 16 to a worker. Each is a connection, a recording and 64 KiB of what a target says."""
MAX_SECONDS: Final = 600.0
"""The longest that an order may give itself: it holds a session open."""

Order = ChangeSecret | VerifyLogin


class Hands:
    """The orders that this worker is at."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self.jobs: dict[str, Job] = {}  # by session
        self._settings = settings
        self._stopping = False

    def take(self, link: PolicyLink, order: Order) -> None:
        """Begin; the answer goes to `link`."""
        session = order.grant.session
        if self._stopping or len(self.jobs) >= MAX_JOBS or session in self.jobs:
            link.tell(SessionEnded(session=session, reason="failed"))
            link.tell(Worked(task=order.task, outcome=UNREACHABLE, detail="this gateway worker takes no more work"))
            return
        job = self.jobs[session] = Job(link, self._settings(), order)
        job.task = asyncio.create_task(job.run())
        job.task.add_done_callback(lambda _: self.jobs.pop(session, None))

    def pushed(self, message: EndSession | Freeze) -> None:
        """An operator ends the session. Nobody sits before it who could wait, so to freeze it is to end it."""
        by = message.by if isinstance(message, EndSession) else ""
        for job in [self.jobs.get(message.session)] if message.session else list(self.jobs.values()):
            if job is not None:
                job.end("killed", by=by, text=message.reason)

    def stop(self) -> None:
        """Take nothing more; who has told a target something may hear its answer."""
        self._stopping = True
        for job in list(self.jobs.values()):
            if not job.told:
                job.end("shutdown")

    def end_all(self, reason: str) -> None:
        for job in list(self.jobs.values()):
            job.end(reason)


class Job:
    """One order."""

    task: "asyncio.Task[None]"

    def __init__(self, link: PolicyLink, settings: Settings, order: Order) -> None:
        self._link = link
        self._settings = settings
        self._order = order
        self._grant = order.grant
        self._deed: Deed | None = None
        self._recording: Recording | None = None
        self._target: TargetConnection | None = None
        self._commands: list[Command] = []
        self._over = ("closed", "", "")  # how the session ended, by whom, why
        self._begun = self._ended = self._answered = False
        self._log = structlog.get_logger().bind(session=order.grant.session, task=order.task)

    @property
    def told(self) -> bool:
        return self._deed is not None and self._deed.told

    def end(self, reason: str, *, by: str = "", text: str = "") -> None:
        """Stop now, wherever it is; only the first reason counts."""
        if not self._ended and not self._answered:
            self._ended = True
            self._over = reason, by, neutral(text)
            if self._begun:  # one that is cancelled before its first step never runs, and would answer nothing
                self.task.cancel()

    async def run(self) -> None:
        self._begun = True
        result = await self._outcome()
        self._answered = True
        if self._target is not None:
            self._target.disconnect(asyncssh.DISC_BY_APPLICATION, "done")
        reason, by, text = self._over
        sizes = [sum(sizes) for sizes in zip(*((one.sent, one.received) for one in self._commands), strict=True)]
        sent, received = sizes or (0, 0)
        self._link.tell(
            SessionEnded(session=self._grant.session, reason=text or reason, by=by, bytes_in=sent, bytes_out=received)
        )
        self._link.tell(Worked(task=self._order.task, outcome=result.outcome, detail=result.detail))
        self._log.info("worked", order=type(self._order).__name__, outcome=result.outcome, why=result.detail)
        if self._recording is not None:
            await self._recording.end(reason, by, text)
        if isinstance(self._order, ChangeSecret) and self._order.how != AUTHORIZED_KEYS:
            wipe(self._order.old, self._order.new)

    async def _outcome(self) -> Result:
        """What came of it, whatever went wrong."""
        grant, order = self._grant, self._order
        seconds = min(MAX_SECONDS, order.seconds, MAX_SECONDS if grant.expires_in is None else grant.expires_in)
        try:
            if self._ended:
                raise asyncio.CancelledError
            async with asyncio.timeout(seconds):
                return await self._work()
        except BadOrder as error:
            return refused(str(error))
        except LoginRefused as error:
            return refused(error.cause)
        except TimeoutError:
            self._over = "expired", "", f"it was not done within {seconds:g} seconds"
        except (BastionError, Flood) as error:
            cause = error.cause if isinstance(error, BastionError) else str(error)
            self._over = "failed" if isinstance(error, RecorderLost) else "target-lost", "", cause
        except asyncio.CancelledError:
            if not self._ended:
                raise
        except Exception as error:
            # A fault of ours; its text may quote what passed.
            self._log.error("work-failed", error=type(error).__name__)
            self._over = "failed", "", "internal error of the gateway"
        reason, by, text = self._over
        detail = f"{by}: {text}" if by and text else text or reason
        return Result(UNKNOWN if self.told else UNREACHABLE, neutral(detail))

    async def _work(self) -> Result:
        grant, order = self._grant, self._order
        self._deed = _deed(order) if isinstance(order, ChangeSecret) else None
        session = Session(time.monotonic_ns, expires_in=grant.expires_in, idle=None)
        try:
            self._recording = await Recording.open(self._settings.run, self._opening(), session, self._recorder_lost)
        except RecorderLost as error:
            await self._link.ask(Report(session=grant.session, event="recorder-lost", detail={"why": error.cause}))
            raise
        granted = note(Kind.ACCESS, AccessNote(what="granted", rule=grant.rule))
        with burst():
            self._recording.record(granted[0], 0, granted[1])
        started = SessionStarted(session=grant.session, recording=self._recording.file)
        if isinstance(reply := await self._link.ask(started), Refused):
            raise refusal(reply)
        self._target = await dial(self._link, grant, self._settings.ssh, lambda _: None)
        return await self._talk(self._target, self._recording) if self._deed is not None else Result(DONE)

    async def _talk(self, target: TargetConnection, recording: Recording) -> Result:
        """One command after the other, until a deed has its result."""
        assert self._deed is not None
        while True:
            if target.is_gone:
                return Result(UNKNOWN if self.told else UNREACHABLE, "it closed the connection")
            number = len(self._commands) + 1
            command = Command(target, recording, number, self._deed, self._grant.commitment_key)
            self._commands.append(command)
            ended = self._deed.ended(await command.done)
            if isinstance(ended, Result):
                if ended.outcome not in (DONE, REFUSED):
                    self._over = "target-lost", "", ended.detail
                return ended
            self._deed = ended

    def _recorder_lost(self, error: RecorderLost) -> None:
        self._link.tell(Report(session=self._grant.session, event="recorder-lost", detail={"why": error.cause}))
        self.end("failed", text=error.cause)

    def _opening(self) -> Open:
        grant = self._grant
        private = {
            "person": grant.person, "account": grant.account, "target": grant.target,
            "address": f"{grant.address}:{grant.port}", "source": grant.source, "rule": grant.rule, "via": "worker",
            "client": "Bastion", "node": self._settings.bastion.node, "kinds": " ".join(grant.kinds),
        }  # fmt: skip
        return Open(
            session=grant.session, t0_us=time.time_ns() // 1000, public={"protocol": "ssh"},
            private={key: value for key, value in private.items() if value}, sync=grant.record_sync,
        )  # fmt: skip


def _deed(order: ChangeSecret) -> Deed:
    """BadOrder for what is not known, or cannot be."""
    account = order.grant.account
    another = order.account if order.account != account else ""
    if order.how == PASSWD:
        if another:
            raise BadOrder("passwd changes the password of the account that is logged in, and no other")
        return Passwd(order.old, order.new)
    if order.how == CHPASSWD:
        return Chpasswd(order.account, order.new)
    if order.how == AUTHORIZED_KEYS:
        return AuthorizedKeys(order.old, order.new, word=secrets.token_hex(8), keep=order.keep, another=another)
    raise BadOrder(f"no way to change a secret is called `{neutral(order.how)[:32]}`")
