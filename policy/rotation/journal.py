"""What is written at each step of a rotation: the row, the versions of the secret, and the event, in one transaction.

After each write it says here what the next run finds if we die then:

    begin    pending is stored, the target has heard nothing: the new one does not open, the old one does; rolled back
    keep     what opened is in force with the row that says so; or neither has changed, and logins find it out again.
             Rolled back, it is wanted still: the row that says that is written with it
    later    the row, with one try more
"""

import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from policy.authority import Authority
from policy.keys import sshkeys
from policy.records import Account, RotationRow
from policy.rotation import plan
from policy.rotation.drivers import BASTION, Job, fresh, is_additive
from policy.rotation.plan import Effect, Outcome, Rotation, State
from policy.store import Tables
from policy.store.vault_tables import CURRENT, PENDING, PREVIOUS, RETIRED
from policy.trail.audit import Event, clean
from policy.trail.ledger import LedgerError
from policy.vault.secret import VaultError
from policy.vault.secrets import next_version

KEPT: Final = 4
"""Versions of one secret that are in force no more; the last ones are what a lost target may still want."""
MAX_PROBLEM: Final = 300

DONE: Final = "rotation-done"
ROLLED_BACK: Final = "rotation-rolled-back"
IN_DOUBT: Final = "rotation-in-doubt"
"""Event: neither the new nor the old secret is proven to open the account. An alarm."""
UNFINISHED: Final = "rotation-unfinished"
"""Event: the new key is in force, and the old one still opens, or may."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A row as it was written, and the rotation that it stands for."""

    row: RotationRow
    rotation: Rotation
    effect: Effect
    again: RotationRow | None = None  # what comes after it


def wanted(account: str, target: str, why: str, by: str) -> RotationRow:
    now = time.time_ns()
    return RotationRow(
        id=secrets.token_hex(8), account=account, target=target, state=State.WANTED, why=why[:500], made_by=by[:64],
        began=now, changed=now,
    )  # fmt: skip


async def begin(desk: Authority, row: RotationRow, job: Job) -> Noted:
    """Make the new secret, and store it before anybody hears of it. VaultError, LedgerError."""
    ident = _secret(job.account)
    await desk.secrets.open(ident)  # Attack: the row in force was exchanged; it would be kept as the one to go back to
    value = fresh(job)

    def run(t: Tables) -> tuple[RotationRow, Rotation, Effect]:
        record, versions = t.vault.secret(ident), t.vault.versions(ident)
        current = next((one for one in versions if one.state == CURRENT), None)
        if record is None or current is None:
            raise VaultError("the secret is missing")
        number = max(one.version for one in versions) + 1
        t.vault.add_version(next_version(desk.vault, record, number, value, BASTION, state=PENDING))
        one, effect = plan.begin(pending=number, previous=current.version, additive=is_additive(job))
        begun = replace(
            row, rule=job.entry.name, driver=job.entry.driver, state=one.state, pending=number,
            previous=current.version, problem="", changed=time.time_ns(),
        )  # fmt: skip
        t.rotations.put(begun)
        return begun, one, effect

    detail = {"rotation": row.id, "by": job.entry.via or job.account.name, "asked by": row.made_by}
    return Noted(*await desk.ledger.write(run, _event("rotation-begin", job, row.why, detail), durable=True))


async def resumed(desk: Authority, row: RotationRow, job: Job) -> Noted:
    """What the journal says, and what has to be found out first."""
    ident = _secret(job.account)
    versions = await desk.ledger.read(lambda t: t.vault.versions(ident))
    spares = [one.version for one in versions if one.state in (PREVIOUS, RETIRED) and one.version < row.pending]
    one = Rotation(
        state=State(row.state), pending=row.pending, previous=row.previous, additive=is_additive(job),
        spares=tuple(sorted((number for number in spares if number != row.previous), reverse=True)),
        problem=row.problem if row.state == State.CLEANING else "",
    )  # fmt: skip
    return Noted(row, *plan.resume(one))


async def keep(desk: Authority, job: Job, before: Noted, one: Rotation, effect: Effect) -> Noted:
    """Write what was found out. What opened comes into force in the same transaction. LedgerError."""
    was, ident = before.rotation, _secret(job.account)
    now = time.time_ns()
    failed = effect is Effect.STOP and one.state is not State.COMMITTED
    row = replace(
        before.row, state=one.state, problem=clean(one.problem, MAX_PROBLEM), changed=now,
        attempts=before.row.attempts + failed, ended=now if one.state in plan.ENDED else None,
    )  # fmt: skip
    # Attack: a crash in between. What a person has seen in a checkout would never be changed.
    again = _again(row) if one.state is State.ROLLED_BACK else None
    force = _comes_into_force(was, one)
    public = await _public(desk, job, force) if force else b""

    def run(t: Tables) -> None:
        if force:
            t.vault.promote(ident, force, now)
            if public:
                t.set_public(job.target.name, job.account.name, public)
        if one.state is State.ROLLED_BACK:
            if was.state is State.CHANGING and one.trying == 0:  # the target never heard of it
                t.vault.remove_version(ident, one.pending)
            else:
                t.vault.retire(ident, one.pending)
        if one.state in plan.ENDED:
            _forget(t, ident)
        t.rotations.put(row)
        if again is not None:
            t.rotations.add(again)

    event = _result(job, row, one, effect, force)
    if event is None:
        await desk.ledger.write(run)
    elif public:  # what is remembered of the account changes with it
        await desk.change_target(job.target.name, run, event)
    else:
        await desk.ledger.write(run, event, durable=True)
    return Noted(row, one, effect, again)


async def later(desk: Authority, row: RotationRow, problem: str) -> RotationRow:
    """A run that broke off: the row as it was, with one try more. Kept if it can be, for those who wait for it."""
    waits = replace(row, attempts=row.attempts + 1, changed=time.time_ns(), problem=clean(problem, MAX_PROBLEM))
    with suppress(LedgerError):  # which may be the very reason
        await desk.ledger.write(lambda t: t.rotations.put(waits))
    return waits


def _again(row: RotationRow) -> RotationRow:
    """After a rotation that was rolled back: what it was wanted for is still wanted, later."""
    now = time.time_ns()
    return replace(
        wanted(row.account, row.target, row.why, row.made_by), attempts=row.attempts, began=now, changed=now,
        problem=row.problem,
    )  # fmt: skip


async def close(desk: Authority, row: RotationRow, problem: str) -> RotationRow:
    """It cannot be done at all: there is no such account any more, or no entry about it."""
    now = time.time_ns()
    ended = replace(row, state=State.ROLLED_BACK, problem=problem[:MAX_PROBLEM], changed=now, ended=now)
    event = Event(
        event=ROLLED_BACK, who="policyd", what=f"{row.account}@{row.target}", why=problem, detail={"rotation": row.id}
    )
    await desk.ledger.write(lambda t: t.rotations.put(ended), event, durable=True)
    return ended


def _comes_into_force(was: Rotation, one: Rotation) -> int:
    """The version that a login has proven, if it is not the one in force; 0: nothing changes."""
    if was.state is not State.VERIFYING:
        return 0
    if one.state in (State.COMMITTED, State.CLEANING):
        return one.pending
    if one.state is State.ROLLED_BACK and one.trying not in (0, one.previous):
        return one.trying
    return 0


async def _public(desk: Authority, job: Job, version: int) -> bytes:
    if job.account.kind != "key":
        return b""
    opened = await desk.secrets.open(_secret(job.account), version)
    return sshkeys.parse_private_key(opened.value.reveal()).public.blob


def _forget(t: Tables, ident: str) -> None:
    over = sorted((one.version for one in t.vault.versions(ident) if one.state in (PREVIOUS, RETIRED)), reverse=True)
    for number in over[KEPT:]:
        t.vault.remove_version(ident, number)


def _result(job: Job, row: RotationRow, one: Rotation, effect: Effect, force: int) -> Event | None:
    """None between two steps that change nothing of the vault."""
    detail = {"rotation": row.id, "version": str(force or one.pending), "rule": job.entry.name, "problem": row.problem}
    if effect is not Effect.STOP:
        return _event("rotation-proven", job, row.why, detail) if force else None
    event = {
        State.COMMITTED: DONE, State.ROLLED_BACK: ROLLED_BACK, State.BOTH_KEPT: IN_DOUBT, State.CLEANING: UNFINISHED,
    }[one.state]  # fmt: skip
    return _event(event, job, row.problem or row.why, detail)


def _event(event: str, job: Job, why: str, detail: dict[str, str]) -> Event:
    shown = {key: value for key, value in detail.items() if value}
    return Event(event=event, who=BASTION, what=job.place, why=why, source=BASTION, detail=shown)


def _secret(account: Account) -> str:
    if account.secret is None:
        raise VaultError(f"`{account.name}@{account.target}` has no secret")
    return account.secret


def outcome_event(effect: Effect, outcome: Outcome, detail: str) -> plan.Event:
    """What the plan is told of an order that was carried out."""
    match effect:
        case Effect.CHANGE:
            return plan.Changed(outcome, detail)
        case Effect.REMOVE:
            return plan.Removed(outcome, detail)
        case _:
            return plan.Tried(outcome, detail)
