"""Ways to have a secret changed and a login tried, by whoever has a network. Each answer is an Outcome, no error."""

import os
import secrets
import time
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from policy.authority import Authority
from policy.conversation import Conversation
from policy.keys import sshkeys
from policy.messages import ChangeSecret, Grant, VerifyLogin, Worked
from policy.messages.rotation import AUTHORIZED_KEYS, CHPASSWD, PASSWD
from policy.model import ChannelKind
from policy.records import Account, Session, Target
from policy.rotation.generate import password
from policy.rotation.plan import Outcome
from policy.rotation.settings import SSH, Entry
from policy.sessions.dial import secret_of
from policy.sessions.granted import session_id
from policy.sessions.live import Live
from policy.store.rotation_tables import MACHINE
from policy.trail.audit import Event
from policy.vault.secret import Secret

BASTION: Final = "bastion"
"""Who a session of policyd itself belongs to, and where it comes from."""
CHANGE_SECONDS: Final = 60.0
VERIFY_SECONDS: Final = 45.0
"""A login at a slow target takes ten seconds; passwd with a slow hash and a remote directory behind it some more."""
LEAVE_SECONDS: Final = 10.0
"""Beyond that, for the worker's end of the session."""
PATIENCE: Final = 60.0
"""For a gateway worker that has room, or for the first one after a start."""
_LOOK_AGAIN: Final = 0.25


@dataclass(frozen=True, slots=True)
class Told:
    """What came of one order; `detail` is one line for operators, without a secret."""

    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One account whose secret is changed, and by what."""

    account: Account
    target: Target
    entry: Entry

    @property
    def place(self) -> str:
        return f"{self.account.name}@{self.target.name}"


class Driver(Protocol):
    async def change(self, desk: Authority, job: Job, old: int, new: int) -> Told:
        """Have the target take version `new` in place of `old`; where it can have both, beside it."""
        ...

    async def remove(self, desk: Authority, job: Job, old: int, new: int) -> Told:
        """Have it drop `old`, where it has both."""
        ...

    async def verify(self, desk: Authority, job: Job, version: int) -> Told:
        """Log in afresh: DONE if it opens, REFUSED if it does not, anything else if that is not known."""
        ...


def fresh(job: Job) -> Secret:
    """A new secret for the account: a password by its policy, or a key of ours."""
    if job.account.kind == "key":
        return Secret(sshkeys.write_private_key(sshkeys.generate_private_key()))
    return Secret(password(job.entry.password, secrets.token_bytes).encode())


def is_additive(job: Job) -> bool:
    """Whether the target has both for a while: a file of authorized keys does."""
    return job.account.kind == "key" and job.entry.driver == SSH


class Ssh:
    """By a gateway worker, which dials as the account itself, or as the one on the same target that changes others."""

    async def change(self, desk: Authority, job: Job, old: int, new: int) -> Told:
        return await self._change(desk, job, old, new, keep=True)

    async def remove(self, desk: Authority, job: Job, old: int, new: int) -> Told:
        return await self._change(desk, job, old, new, keep=False)

    async def verify(self, desk: Authority, job: Job, version: int) -> Told:
        worker = await _picked(desk)
        if worker is None:
            return Told(Outcome.UNREACHABLE, "no gateway worker is there, or none has room")
        grant, live = await _granted(desk, job, job.account, worker, version, VERIFY_SECONDS)
        try:
            worked = await desk.workers.verify(worker, VerifyLogin(task=0, grant=grant, seconds=VERIFY_SECONDS))
        finally:
            await _over(desk, live)
        return _told(worked)

    async def _change(self, desk: Authority, job: Job, old: int, new: int, *, keep: bool) -> Told:
        changer = job.account
        if job.entry.via and job.entry.via != job.account.name:
            found = desk.roster.account(job.target.name, job.entry.via)
            if found is None:
                return Told(Outcome.UNREACHABLE, f"there is no account `{job.entry.via}` to change it")
            changer = found
        if not job.target.host_keys:
            return Told(Outcome.UNREACHABLE, "its host key is not pinned")
        worker = await _picked(desk)
        if worker is None:
            return Told(Outcome.UNREACHABLE, "no gateway worker is there, or none has room")
        grant, live = await _granted(desk, job, changer, worker, 0, CHANGE_SECONDS)
        try:
            order = await self._order(desk, job, grant, old, new, keep=keep)
            worked = await desk.workers.change(worker, order)
        finally:
            await _over(desk, live)
        return _told(worked)

    async def _order(self, desk: Authority, job: Job, grant: Grant, old: int, new: int, *, keep: bool) -> ChangeSecret:
        before, after = await secret_of(desk, job.account, old), await secret_of(desk, job.account, new)
        how = PASSWD if grant.account == job.account.name else CHPASSWD
        was, wanted = before.reveal() if how == PASSWD else b"", after.reveal()
        if job.account.kind == "key":
            how = AUTHORIZED_KEYS
            public = sshkeys.parse_private_key(wanted).public
            was = sshkeys.parse_private_key(before.reveal()).public.blob
            wanted = public.line(f"bastion {os.uname().nodename} {job.place} {new}").encode()
        return ChangeSecret(
            task=0, grant=grant, how=how, account=job.account.name, old=was, new=wanted, keep=keep,
            seconds=CHANGE_SECONDS,
        )  # fmt: skip


DRIVERS: Final[dict[str, Driver]] = {SSH: Ssh()}
"""By the word in policy.toml."""


async def _picked(desk: Authority) -> Conversation | None:
    with trio.move_on_after(PATIENCE):
        while (worker := desk.workers.pick()) is None:  # noqa: ASYNC110 - workers come, and have room, without a word
            await trio.sleep(_LOOK_AGAIN)
        return worker
    return None


async def _granted(
    desk: Authority, job: Job, account: Account, worker: Conversation, version: int, seconds: float
) -> tuple[Grant, Live]:
    """A session of policyd itself: it is kept, recorded and ended like a person's, and can open nothing but this."""
    kinds = frozenset({ChannelKind.EXEC, ChannelKind.SFTP})
    now = trio.current_time()
    live = Live(
        id=session_id(), talk=worker, person=BASTION, account=account.name, target=job.target.name,
        address=job.target.address, port=job.target.port, source=BASTION, via=MACHINE, rule=job.entry.name,
        kinds=kinds, reason=f"rotation of {job.place}", ticket="", factors=(), deadline=now + seconds + LEAVE_SECONDS,
        version=version, machine=True,
    )  # fmt: skip
    row = Session(
        id=live.id, person=BASTION, account=live.account, target=live.target, source=BASTION, via=MACHINE,
        rule=live.rule, granted=time.time_ns(), expires=time.time_ns() + int((seconds + LEAVE_SECONDS) * 1e9),
    )  # fmt: skip
    event = Event(
        event="access-granted", who=BASTION, what=f"{live.account}@{live.target}", why=live.rule, source=BASTION,
        session=live.id, detail={"reason": live.reason, "via": MACHINE, "kinds": " ".join(sorted(kinds))},
    )  # fmt: skip
    desk.sessions.add(live)
    try:
        await desk.ledger.write(lambda t: t.add_session(row), event)
    except BaseException:
        desk.sessions.drop(live.id)
        raise
    grant = Grant(
        session=live.id, person=BASTION, account=live.account, target=live.target, address=live.address,
        port=live.port, host_keys=list(job.target.host_keys), kinds=sorted(kinds), rule=live.rule,
        expires_in=seconds + LEAVE_SECONDS, idle=None, record_sync=False, keep_content=False,
        commitment_key=desk.vault.commitment_key(live.id), source=BASTION,
    )  # fmt: skip
    return grant, live


async def _over(desk: Authority, live: Live) -> None:
    """Mostly the worker has said so; what it did not end is ended."""
    if desk.sessions.of(live.talk, live.id) is live:
        await desk.sessions.end(live, reason="the work is over")


def _told(worked: Worked) -> Told:
    return Told(Outcome(worked.outcome), worked.detail)
