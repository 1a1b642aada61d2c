"""Rotations carried out: what is due is written down, and what is written down is done, so many at a time."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog
import trio

from policy.authority import Authority
from policy.records import RotationRow
from policy.rotation import journal, plan
from policy.rotation.drivers import BASTION, DRIVERS, Driver, Job, Told
from policy.rotation.elsewhere import ELSEWHERE
from policy.rotation.journal import Noted
from policy.rotation.plan import DOUBTFUL, Effect, Outcome, State
from policy.rotation.schedule import Place, due_at, entry_for, runnable, unfit, wake_at
from policy.rotation.settings import After, Entry
from policy.trail.audit import Event
from policy.trail.ledger import LedgerError
from policy.vault.secret import VaultError

SCAN_SECONDS: Final = 300.0
"""How late a secret is found to be too old; each look reads one row for each account."""
LEASE_SECONDS: Final = 10.0
"""After a password was handed to a session that lives: its handshake is over by then, and it needs it no more."""
SETTLE_SECONDS: Final = 8.0
"""That a login waits for a change of its account under way; the gateway gives the credential some ten."""
KEEP_NS: Final = 400 * 24 * 3600 * 1_000_000_000
"""Of ended rows: longer than the longest time between two rotations that anybody writes."""

log = structlog.get_logger()


class Runner:
    """`policy.rotation.due.Rotations` of one policyd; `run` in a nursery does the work."""

    def __init__(self, desk: Authority, drivers: dict[str, Driver] | None = None) -> None:
        self._desk = desk
        self._drivers = {**DRIVERS, **ELSEWHERE} if drivers is None else drivers
        self._rows: dict[tuple[str, str], RotationRow] = {}  # not ended, by target and account
        self._running: dict[tuple[str, str], tuple[str, trio.Event]] = {}  # entry, and its end
        self._pressed: set[str] = set()
        self._used: set[tuple[str, str]] = set()
        self._changed = trio.Event()
        self._writing = trio.Lock()  # two that ask at once find one row
        self._loaded = trio.Event()

    # --- what others ask ----------------------------------------------------------------------------

    def covers(self, account: str, target: str) -> bool:
        found = self._place(target, account)
        return found is not None and found[1] is not None and After.CHECKOUT in found[1].after

    def entry(self, account: str, target: str) -> Entry | None:
        found = self._place(target, account)
        return found[1] if found else None

    def row(self, account: str, target: str) -> RotationRow | None:
        """That is not ended."""
        return self._rows.get((target, account))

    def active(self) -> int:
        """How many are being carried out at this moment."""
        return len(self._running)

    async def due(self, account: str, target: str, why: str) -> None:
        await self.want([(account, target)], why, "policyd", press=False)

    def used(self, account: str, target: str) -> None:
        self._used.add((target, account))
        self.wake()

    async def settled(self, account: str, target: str) -> None:
        if (running := self._running.get((target, account))) is not None:
            with trio.move_on_after(SETTLE_SECONDS):
                await running[1].wait()

    def in_doubt(self, account: str, target: str) -> bool:
        row = self.row(account, target)
        return row is not None and row.state in DOUBTFUL

    def wake(self) -> None:
        self._changed.set()

    async def want(
        self, places: Sequence[tuple[str, str]], why: str, by: str, *, press: bool = True, source: str = ""
    ) -> list[RotationRow]:
        """Rows of these (account, target), new or as they are; `press`: those that wait for another try wait no more.

        LedgerError: none was written.
        """
        await self._loaded.wait()
        async with self._writing:
            new = [
                journal.wanted(account, target, why, by)
                for account, target in dict.fromkeys(places)
                if (target, account) not in self._rows
            ]
            events = [
                Event(event="rotation-due", who=by, what=f"{row.account}@{row.target}", why=why, source=source)
                for row in new
            ]
            if new:
                await self._desk.ledger.write(lambda t: t.rotations.add(*new), *events, durable=True)
            self._rows |= {row.place: row for row in new}
        found = [self._rows[target, account] for account, target in places if (target, account) in self._rows]
        if press:
            self._pressed |= {row.id for row in found}
        self.wake()
        return found

    # --- the work -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. What a crash left half done is the first."""
        rows = await self._desk.ledger.read(lambda t: t.rotations.open())
        self._rows = {row.place: row for row in rows}
        # Nobody waits for it longer than for a new one: people cannot log in while it is not known what opens.
        self._pressed = {row.id for row in rows if row.state != State.WANTED}
        self._loaded.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._scan_often)
            while True:
                self._changed = trio.Event()
                await self._after_use()
                await self._start(nursery)
                now = time.time_ns()
                at = wake_at((row for row in self._rows.values() if row.place not in self._running), now)
                # Not for longer: a clock that was set back, and then right, would have us sleep for the difference.
                wait = (at - now) / 1e9 if at is not None else SCAN_SECONDS
                with trio.move_on_after(min(wait, SCAN_SECONDS)):
                    await self._changed.wait()

    async def _start(self, nursery: trio.Nursery) -> None:
        idle = [row for row in self._rows.values() if row.place not in self._running and not self._is_out(row)]
        if not idle:
            return
        entries = {row.place: entry for row in self._rows.values() if (entry := self.entry(row.account, row.target))}
        for row in runnable(
            idle, entries, time.time_ns(), busy={place[0] for place in self._running},
            running=Counter(name for name, _ in self._running.values()), pressed=frozenset(self._pressed),
        ):  # fmt: skip
            self._pressed.discard(row.id)
            name = entries[row.place].name if row.place in entries else ""
            self._running[row.place] = name, trio.Event()
            nursery.start_soon(self._one, row)

    def _is_out(self, row: RotationRow) -> bool:
        """A person has it for a time, who could do nothing with it any more; once it is back, it is due anyway.

        What was begun goes on: until it is known what opens the account, nobody has anything.
        """
        return row.state == State.WANTED and self._desk.checkouts.at(row.account, row.target) is not None

    async def _one(self, row: RotationRow) -> None:
        try:
            row = await self._carry_out(row)
        except (VaultError, LedgerError) as error:
            log.error("rotation", rotation=row.id, account=row.account, target=row.target, error=str(error))
            row = await self._later(row, str(error))
        except Exception as error:  # one that fails for a fault of ours must not end the others; it has its row
            log.critical("rotation-failed", rotation=row.id, error=type(error).__name__)
            row = await self._later(row, f"fault of the bastion: {type(error).__name__}")
        finally:
            _, done = self._running.pop(row.place)
            done.set()
        if row.ended is None:
            self._rows[row.place] = row
        elif self._rows.get(row.place, row).id == row.id:
            self._rows.pop(row.place, None)
        self.wake()

    async def _later(self, row: RotationRow, problem: str) -> RotationRow:
        """What memory has of it is what was written last."""
        return await journal.later(self._desk, self._rows.get(row.place, row), problem)

    async def _carry_out(self, row: RotationRow) -> RotationRow:
        """One run: until it is ended, or has to wait for the next."""
        found = self._place(row.target, row.account)
        if found is None:
            return await journal.close(self._desk, row, "the account is gone")
        place, entry = found
        if entry is None or (problem := unfit(entry, place, self._desk.roster.accounts(row.target))):
            why = "no [[rotation]] entry of policy.toml is about it" if entry is None else problem
            if row.state == State.WANTED:
                return await journal.close(self._desk, row, why)
            if entry is None:  # half done, and its entry was taken away: what opens it must be found out all the same
                entry = Entry(name=row.rule, driver=row.driver)
        job = Job(account=place.account, target=place.target, entry=entry)
        driver = self._drivers.get(entry.driver)
        if driver is None:
            return await journal.close(self._desk, row, f"`{entry.driver}` is not set up here")
        if row.state == State.WANTED:
            await self._quiet(row)
            noted = await journal.begin(self._desk, row, job)
        else:
            noted = await journal.resumed(self._desk, row, job)
        while noted.effect is not Effect.STOP:
            self._rows[row.place] = noted.row
            told = await _ordered(self._desk, driver, job, noted)
            event = journal.outcome_event(noted.effect, told.outcome, told.detail)
            noted = await journal.keep(self._desk, job, noted, *plan.step(noted.rotation, event))
            job = self._now(job)
        return noted.row if noted.again is None else noted.again

    async def _quiet(self, row: RotationRow) -> None:
        """Until no session is in the handshake for which it was given the secret that is to go."""
        while True:
            now = trio.current_time()
            mine = [one for one in self._desk.sessions.all() if (one.target, one.account) == row.place]
            until = max((one.leased + LEASE_SECONDS for one in mine if one.leases), default=now)
            if until <= now:
                return
            await trio.sleep(until - now)

    # --- what is due --------------------------------------------------------------------------------

    async def _after_use(self) -> None:
        """Those whose last session has ended."""
        while self._used:
            target, account = self._used.pop()
            entry = self.entry(account, target)
            lives = self._desk.sessions.all()
            if entry is None or After.USE not in entry.after or (target, account) in self._rows:
                continue
            if any((one.target, one.account) == (target, account) and not one.machine for one in lives):
                continue
            await self._wanted_or_logged([(account, target)], "use")

    async def _scan_often(self) -> None:
        while True:
            try:
                await self._scan()
            except LedgerError as error:
                log.error("rotations", error=str(error))
            await trio.sleep(SCAN_SECONDS)

    async def _scan(self) -> None:
        """Those that are too old, and those that were used while nobody was here to see it."""
        if not self._desk.rules.rotation:
            return
        made, ends = await self._desk.ledger.walk(lambda t: (t.rotations.made(), t.rotations.last_ends()))
        now = time.time_ns()
        old, used = [], []
        for (target, account), when in made.items():
            found = self._place(target, account)
            if found is None or (target, account) in self._rows:
                continue
            place, entry = found
            if entry is None:
                continue
            at = due_at(entry, place, when)
            if at is not None and at <= now:
                old.append((account, target))
            elif After.USE in entry.after and ends.get((target, account), 0) > when:
                used.append((target, account))
        self._used |= set(used)
        self.wake()
        await self._wanted_or_logged(old, "schedule")
        before = now - KEEP_NS
        await self._desk.ledger.write(lambda t: t.rotations.forget(before))

    async def _wanted_or_logged(self, places: list[tuple[str, str]], why: str) -> None:
        for at in range(0, len(places), 200):  # one transaction each, short enough for logins to go between
            try:
                await self.want(places[at : at + 200], why, BASTION, press=False)
            except LedgerError as error:
                log.error("rotations", error=str(error))  # the next scan finds them again

    # --- where --------------------------------------------------------------------------------------

    def _place(self, target: str, account: str) -> tuple[Place, Entry | None] | None:
        there, one = self._desk.roster.target(target), self._desk.roster.account(target, account)
        if there is None or one is None:
            return None
        place = Place(account=one, target=there)
        return place, entry_for(self._desk.rules.rotation, place)

    def _now(self, job: Job) -> Job:
        """The account may have another key now."""
        account = self._desk.roster.account(job.target.name, job.account.name)
        return replace(job, account=account) if account is not None else job


async def _ordered(desk: Authority, driver: Driver, job: Job, noted: Noted) -> Told:
    one = noted.rotation
    try:
        match noted.effect:
            case Effect.CHANGE:
                return await driver.change(desk, job, one.previous, one.pending)
            case Effect.REMOVE:
                return await driver.remove(desk, job, one.previous, one.pending)
            case _:
                return await driver.verify(desk, job, one.trying)
    except VaultError as error:  # before anything was sent: what the order needs does not open
        return Told(Outcome.UNREACHABLE, error.cause)
