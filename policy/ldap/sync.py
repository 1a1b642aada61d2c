"""Persons of the directory, kept as it has them: every so often, and when an operator asks. `policy.ldap` judges.

While the directory does not answer nobody comes and nobody goes, and no password that it would check is right. So an
attacker who cuts the line wins nothing but time, and that is why it raises an alarm.
"""

import math
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import structlog
import trio

from policy.authority import Authority
from policy.ldap import asking
from policy.ldap.judging import merged, person, read
from policy.ldap.model import Directory, DirectoryProblem, Entry
from policy.ldap.planning import DIRECTORY, Step, loss, plan
from policy.ldap.synced import Outcome
from policy.login.passwords import Busy
from policy.naming import CommandRefused
from policy.outside.secrets import OutsideError, read_secret, read_trust
from policy.persons.lifecycle import check_last
from policy.records import Person
from policy.sessions.access import recheck
from policy.store import Conflict, Tables
from policy.trail.audit import Event
from policy.trail.ledger import LedgerError
from policy.vault.secret import Secret

MAX_ENTRIES: Final = 100_000
"""Persons of a directory, or members of a group: some 100 MB while a sync is at it. More is a filter gone wrong."""
READ_SECONDS: Final = 600.0
"""For everybody and all groups: 10,000 persons take some ten seconds. Who drips must not hold up operators."""
RETRY_SECONDS: Final = 60.0
"""After a sync that failed; the next one may be due earlier."""
LOOK_SECONDS: Final = 5.0
"""How often it is looked whether the settings are others."""
COURIER_SECONDS: Final = 20.0
"""At start policyd is up before its courier."""
ANSWER_SECONDS: Final = 1.0
"""A wrong password is answered no sooner, where the directory checks any: that takes 50 ms, over a long line 500."""
CHECKING: Final = 256
"""Passwords that are being checked or wait for it."""
CHECKING_ONE: Final = 16
"""Of one name: right ones take 50 ms each, and ansible has so many connections at once; guesses stop at the lock."""
MAX_REFUSED: Final = 200
"""Entries that are nobody, kept for people to look at."""

WRONG: Final = "password is wrong"

FAILED, STOPPED, BACK = "directory-failed", "directory-stopped", "directory-back"

log = structlog.get_logger()


async def run(desk: Authority) -> None:
    """Until cancelled."""
    due, last = trio.current_time(), ""
    while True:
        directory = desk.rules.directory
        if directory is not None and desk.rules.digest != last:
            due, last = trio.current_time(), desk.rules.digest  # what was set may be what was wrong
        if directory is not None and trio.current_time() >= due:
            with trio.move_on_after(COURIER_SECONDS):
                await desk.couriers.arrived()
            outcome = await sync_now(desk, DIRECTORY)
            due = trio.current_time() + (min(RETRY_SECONDS, directory.every) if outcome.problem else directory.every)
        await trio.sleep(LOOK_SECONDS)


async def sync_now(desk: Authority, by: str, source: str = "", *, only_plan: bool = False) -> Outcome:
    """`by` stands in the trail, unless it is the directory itself. Problems are in the outcome."""
    async with desk.synced.turn:
        outcome = Outcome(at=time.time())
        directory = desk.rules.directory
        try:
            if directory is None:
                raise DirectoryProblem("there is no `[directory]` in policy.toml")
            await _carry_out(desk, directory, outcome, by, source, only_plan=only_plan)
        except DirectoryProblem as problem:
            outcome.problem = str(problem)
        except LedgerError as error:
            log.error("directory", problem=str(error))
            outcome.problem = "cannot be followed: the database cannot be written"
        except Exception as error:
            # An entry that a fault of ours stumbles over must not end policyd; what was changed until then is whole.
            log.critical("directory-fault", error=type(error).__name__)
            outcome.problem = "cannot be followed: policyd has a fault"
        if not only_plan:
            await _note(desk, directory, outcome)
        return outcome


async def _carry_out(
    desk: Authority, directory: Directory, outcome: Outcome, by: str, source: str, *, only_plan: bool
) -> None:
    digest = desk.rules.digest
    try:
        with trio.fail_after(READ_SECONDS):
            everybody = await _search(desk, directory, asking.persons(directory))
            groups = {
                group: await _search(desk, directory, asking.members(directory, group)) for group, _ in directory.roles
            }
    except trio.TooSlowError:
        raise DirectoryProblem(f"was not read within {READ_SECONDS / 60:g} minutes") from None
    found, refused = await trio.to_thread.run_sync(partial(read, directory, everybody, groups, time.time()))
    remembered = await desk.ledger.read(lambda t: t.directory_entries())
    outcome.plan = plan(directory, found, refused, desk.roster.persons(), remembered)
    if only_plan:
        return
    outcome.stopped = loss(directory, outcome.plan)
    if outcome.stopped:
        raise DirectoryProblem(outcome.stopped)
    for step in outcome.plan.steps:
        if desk.rules.digest != digest:
            raise DirectoryProblem("was being read when the settings changed; it is read again")
        if why := await _take(desk, directory, step, by, source):
            outcome.problem = f"is followed, but for `{step.name}`: {why}"
        else:
            outcome.done.append(step)
    if any(step.disable or step.remove_roles for step in outcome.done):
        await recheck(desk, by=DIRECTORY)


async def _note(desk: Authority, directory: Directory | None, outcome: Outcome) -> None:
    """Alarms once for a row of failures, and at once for a sync that was stopped."""
    before, desk.synced.last = desk.synced.last, outcome
    host = directory.host if directory is not None else ""
    if not outcome.problem:
        desk.synced.good = outcome.at
        log.info("directory", host=host, changes=len(outcome.done), refused=_refused(outcome))
    else:
        log.error("directory", host=host, problem=outcome.problem)
    synced = desk.synced
    synced.failures = synced.failures + 1 if outcome.problem else 0
    event = ""
    if outcome.stopped and (before is None or before.stopped != outcome.stopped):
        event = STOPPED
    elif outcome.problem and not outcome.stopped and directory is not None and synced.failures >= directory.alarm:
        event = FAILED if synced.alarm != FAILED else ""
    elif not outcome.problem and synced.alarm:
        event = BACK
    if event:
        synced.alarm = event if event != BACK else ""
        try:
            await desk.ledger.note(Event(event=event, who="policyd", what=host, why=outcome.problem))
        except LedgerError as error:
            log.error(event, problem=str(error))


# --- passwords ----------------------------------------------------------------------------------


def checks_password_of(desk: Authority, person: Person) -> bool:
    """Whether the directory does; then no other password of theirs counts."""
    directory = desk.rules.directory
    return directory is not None and directory.passwords and person.origin == DIRECTORY


def brings_mail_of(desk: Authority, person: Person) -> bool:
    """Whether the directory says where they are told; then nobody says so here."""
    directory = desk.rules.directory
    return directory is not None and bool(directory.mail) and person.origin == DIRECTORY


@asynccontextmanager
async def turn(desk: Authority, name: str) -> AsyncIterator[float]:
    """Checking a password, wherever it is checked: until when a wrong one waits. Busy if too many are being checked.

    Attacks: a hundred guesses at once, none of them counted when the last is sent, lock the account of the directory
    as well: each waits for what came of the one before. And how long it takes would tell whose name is in the
    directory: so strangers wait for one another as well, and a wrong one always takes ANSWER_SECONDS.
    """
    synced, directory = desk.synced, desk.rules.directory
    if directory is None or not directory.passwords:
        yield -math.inf
        return
    known = synced.turns.get(name)
    if synced.checking >= CHECKING or (known is not None and known.statistics().tasks_waiting >= CHECKING_ONE):
        raise Busy
    lock = synced.turns.setdefault(name, known or trio.Lock())
    synced.checking += 1
    try:
        async with lock:
            yield trio.current_time() + ANSWER_SECONDS
    finally:
        synced.checking -= 1
        if not lock.locked() and not lock.statistics().tasks_waiting:
            synced.turns.pop(name, None)


async def check_password(desk: Authority, name: str, password: Secret) -> tuple[bool, str]:
    """Whether it is this person's there, now; and why it could not be checked, "" if it was."""
    directory = desk.rules.directory
    if directory is None or not directory.passwords:
        return False, "passwords are not checked by the directory any more"
    async with desk.synced.checks:
        why = await _check_password(desk, directory, name, password.reveal())
    return not why, "" if why == WRONG else why


async def _check_password(desk: Authority, directory: Directory, name: str, password: bytes) -> str:
    """Why it is not right, or cannot be checked; "" if it is."""
    try:
        if not password:
            raise DirectoryProblem("is not asked about an empty password")
        # Looked up anew: the name in the directory may be another since the last sync, or the account disabled.
        entries = merged(await _search(desk, directory, asking.one(directory, name)))
        remembered = (await desk.ledger.read(lambda t: t.directory_entries(name))).get(name)
        if len(entries) != 1 or remembered is None:
            return f"directory has {len(entries)} entries of this name"
        (dn, values), *_ = entries.items()
        now = person(directory, dn, values, time.time())
        if (now.name, now.ident) != (name, remembered.ident):
            return "the name is of another entry of the directory"
        if now.disabled:
            return f"disabled in the directory: {now.disabled}"
        trust = await _trust(desk, directory)
        if desk.lockouts.locked_person(name, time.time()):
            return "person is locked out"
        called = await desk.couriers.ldap(asking.password_call(directory, now.dn, password, trust=trust))
        if not called.error and called.status == asking.INVALID_CREDENTIALS:
            return WRONG
        asking.check_answer(called)
    except DirectoryProblem as problem:
        return f"directory `{directory.host}` {problem}"
    return ""


async def _search(desk: Authority, directory: Directory, search: asking.Search) -> list[Entry]:
    """All entries; DirectoryProblem if it is not certain that these are all."""
    password, trust = await _secret(desk, directory), await _trust(desk, directory)
    found: list[Entry] = []
    after = b""
    while True:
        called = await desk.couriers.ldap(
            asking.search_call(directory, search, password=password, trust=trust, after=after)
        )
        asking.check_answer(called)
        found += called.entries
        after = called.next
        if not after:
            return found
        if len(found) > MAX_ENTRIES:
            raise DirectoryProblem(f"has more than {MAX_ENTRIES} entries for this filter")
        if not called.entries:
            raise DirectoryProblem("gives pages without entries")


async def _take(desk: Authority, directory: Directory, step: Step, by: str, source: str) -> str:
    """Change one person; why not, if they are another by now, a key is somebody else's, or nobody could administer."""
    now = time.time_ns()

    def change(t: Tables) -> None:
        if step.new:
            t.add_person(step.name, now, origin=DIRECTORY)
        else:
            (mine,) = t.persons(step.name) or (None,)
            if mine is None or mine.origin != DIRECTORY or mine.offboarded is not None:
                raise Conflict(f"`{step.name}` is not the directory's")
            remembered = t.directory_entries(step.name).get(step.name)
            if step.disable is False and (remembered is None or not remembered.held):
                raise Conflict(f"`{step.name}` was disabled here")
        for role in step.add_roles:
            t.add_role(step.name, role)
        for role in step.remove_roles:
            t.remove_role(step.name, role)
        for print_ in step.remove_keys:
            t.remove_key(step.name, print_)
        for print_, line in step.add_keys:
            t.add_key(step.name, print_, line, now)
        if step.disable is not None:
            t.set_disabled(step.name, step.disable)
        if step.mail is not None:
            t.set_mail(step.name, step.mail)
        t.put_directory_entry(step.entry)

    detail = {
        "roles added": " ".join(step.add_roles),
        "roles removed": " ".join(step.remove_roles),
        "keys added": " ".join(print_ for print_, _ in step.add_keys),
        "keys removed": " ".join(step.remove_keys),
        "mail": "" if step.mail is None else step.mail or "none",
        "asked by": by if by != DIRECTORY else "",
    }
    event = Event(
        event=f"directory-{step.kind}", who=DIRECTORY, what=step.name, why=step.why, source=source or directory.host,
        detail={key: value for key, value in detail.items() if value},
    )  # fmt: skip
    try:
        await desk.change_person(step.name, change, event, check=lambda: _check_last(desk, step))
    except Conflict as error:
        log.warning("directory-step", person=step.name, problem=str(error))
        return "they are another by now, or a key is somebody else's"
    except CommandRefused as refused:
        return refused.cause
    if step.disable:
        desk.proofs.forget(step.name)
        await desk.end_person(step.name, DIRECTORY, f"disabled: {step.why}")
    return ""


def _check_last(desk: Authority, step: Step) -> None:
    """CommandRefused if nobody could administer any more."""
    now = desk.roster.person(step.name)
    if now is not None and not step.new:
        keys = tuple(key for key in now.keys if key.fingerprint not in step.remove_keys)
        roles = now.roles - {*step.remove_roles} | {*step.add_roles}
        check_last(
            desk,
            now.name,
            replace(now, roles=roles, keys=keys, disabled=now.disabled if step.disable is None else step.disable),
        )


async def _secret(desk: Authority, directory: Directory) -> str:
    return await _read(desk, partial(read_secret, directory.password, desk.config.path.parent, os.environ))


async def _trust(desk: Authority, directory: Directory) -> str:
    return await _read(desk, partial(read_trust, directory.ca, desk.config.path.parent))


async def _read(desk: Authority, get: Callable[[], str]) -> str:
    try:
        return await trio.to_thread.run_sync(get)
    except OutsideError as error:
        log.error("directory", problem=str(error))
        raise DirectoryProblem("cannot be asked: this bastion is not set up for it, see its log") from None


def _refused(outcome: Outcome) -> int:
    return len(outcome.plan.refused) if outcome.plan is not None else 0
