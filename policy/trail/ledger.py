"""The one writer: every change and its audit event in the same transaction, many of them in one transaction.

A caller waits until its change is committed. So there is no change without its event, no event without its change,
and an answer leaves policyd only after its event is kept: no death of a process loses it. The disk is synced every
SYNC_SECONDS, which is what the loss of power may cost; a change that must not be lost even then (an operator's, a
one-time code's) waits for the sync. The head of the trail is written after the sync of the rows it stands for, so it
never claims a row that the disk has not got; rows past the head are taken at the next start.
"""

import errno
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

import structlog
import trio
from msgspec.structs import replace

from policy.store import Store, StoreError, Tables
from policy.trail import audit
from policy.trail.audit import Event, Head, HeadFile
from policy.vault.register import Broken, Change, Register

T = TypeVar("T")

QUEUE: Final = 4096
"""Changes waiting for the disk: two for each of 2,000 conversations; more than that is answered with a refusal."""
BATCH: Final = 256
"""Changes in one transaction; keeps the wait of the first one under some 50 ms."""

SYNC_SECONDS: Final = 0.2
"""What the loss of power may take: as much as recorderd risks of a recording."""
RELIEVE_SECONDS: Final = 1.0
"""Between two moves of what was committed into the database's file: of some hundred logins, which takes 10 ms."""

log = structlog.get_logger()


class LedgerError(Exception):
    """The change was not made: the disk, the database or the queue is full or broken."""


class Altered(LedgerError):
    """The change was not made: it starts from what somebody else wrote to the database."""


@dataclass(slots=True, kw_only=True)
class _Job:
    change: Callable[[Tables], Any] | None
    events: tuple[Event, ...]
    at: int
    durable: bool
    done: trio.Event = field(default_factory=trio.Event)
    result: Any = None
    seq: int = 0  # of the first of `events`, once they are kept
    error: Exception | None = None


class Ledger:
    """`run` in a nursery writes what `write` and `note` queue."""

    def __init__(self, store: Store, head_file: HeadFile, head: Head, register: Register) -> None:
        self.store = store
        self.register = register
        self._head_file = head_file
        self._head = head
        self._synced = head
        self._written = trio.Event()
        self._syncing = trio.Lock()
        self._relieving = trio.Lock()
        # Told of each event and its row in the trail, once it is kept; returns at once.
        self.heard: Callable[[Event, int], None] = lambda *_: None
        self._send, self._receive = trio.open_memory_channel[_Job](QUEUE)
        self._readers = trio.CapacityLimiter(2)
        self._walkers = trio.CapacityLimiter(1)
        self._writers = trio.CapacityLimiter(1)
        self._movers = trio.CapacityLimiter(1)
        self._savers = trio.CapacityLimiter(1)  # who commits does not wait for the disk meanwhile

    async def note(self, *events: Event, durable: bool = False) -> int:
        """Keep events that go with no other change; the row of the first one. LedgerError if they could not be kept.

        `durable` waits for the disk as well.
        """
        job = _Job(change=None, events=events, at=time.time_ns(), durable=durable)
        await self._queue(job)
        return job.seq

    async def write(self, change: Callable[[Tables], T], *events: Event, durable: bool = False) -> T:
        """Make a change and keep its events, both or neither. What `change` raises, or LedgerError.

        `durable` waits for the disk as well.
        """
        return cast("T", await self._queue(_Job(change=change, events=events, at=time.time_ns(), durable=durable)))

    async def _queue(self, job: _Job) -> Any:
        try:
            self._send.send_nowait(job)
        except (trio.WouldBlock, trio.BrokenResourceError):
            raise LedgerError("the database is too busy") from None
        await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.result

    async def read(self, query: Callable[[Tables], T]) -> T:
        """Ask the database. LedgerError if it does not answer."""
        return await self._read(query, self._readers)

    async def walk(self, query: Callable[[Tables], T]) -> T:
        """The same for what may go through the whole trail: one at a time, and no login or dial waits for it."""
        return await self._read(query, self._walkers)

    async def _read(self, query: Callable[[Tables], T], turns: trio.CapacityLimiter) -> T:
        def run() -> T:
            with self.store.read() as tables:
                return query(tables)

        try:
            return await trio.to_thread.run_sync(run, limiter=turns)
        except StoreError as error:
            raise LedgerError(str(error)) from None

    def kept_head(self) -> Head | None:
        """The head as it stands outside the database."""
        return self._head_file.load()

    async def run(self) -> None:
        """Write batches until cancelled; what was taken from the queue is finished and on disk at the end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sync_often)
            nursery.start_soon(self._relieve_often)
            try:
                await self._write_batches()
            finally:
                with trio.CancelScope(shield=True):
                    await self._sync()

    async def _write_batches(self) -> None:
        async with self._receive:
            async for first in self._receive:
                jobs = [first]
                while len(jobs) < BATCH:
                    try:
                        jobs.append(self._receive.receive_nowait())
                    except trio.WouldBlock:
                        break
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._commit, jobs, limiter=self._writers)
                    self._written.set()
                    if any(job.durable for job in jobs):
                        await self._sync()
                for job in jobs:
                    job.done.set()
                    for row, event in enumerate(job.events if job.error is None else (), job.seq):
                        self.heard(event, row)

    async def _sync_often(self) -> None:
        while True:
            await self._written.wait()
            self._written = trio.Event()
            await trio.sleep(SYNC_SECONDS)
            await self._sync()

    async def checkpoint(self) -> None:
        """`Store.checkpoint`, between two batches. StoreError."""
        async with self._relieving:
            await trio.to_thread.run_sync(self.store.checkpoint, limiter=self._writers)

    async def _relieve_often(self) -> None:
        """Beside the commits: one that had to do it would take ten times as long, and a login waits for it."""
        head = self._head
        while True:
            await trio.sleep(RELIEVE_SECONDS)
            if head != self._head:
                head = self._head
                async with self._relieving:
                    await trio.to_thread.run_sync(self.store.relieve, limiter=self._movers)

    async def _sync(self) -> None:
        """Rows first, then the head that names them. OSError ends policyd: a disk that fails a sync has lost data."""
        async with self._syncing:
            head = self._head
            if head != self._synced:
                await self._saved(head)
                self._synced = head

    async def _saved(self, head: Head) -> None:
        while True:
            try:
                return await trio.to_thread.run_sync(self._save, head, limiter=self._savers)
            except OSError as error:
                # Attack: connections until nothing can be opened. The disk was not asked yet, and who waits, waits.
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                log.error("sync-waits", error=(error.strerror or "").lower())
            await trio.sleep(SYNC_SECONDS)

    def _save(self, head: Head) -> None:
        self.store.sync()
        self._head_file.save(head)

    def _commit(self, jobs: list[_Job]) -> None:
        sealed: list[Change] = []  # what is in the register and not yet in the database
        try:
            with self.store.write() as tables:
                kept: list[tuple[int, Event]] = []
                for job in jobs:
                    if self._apply(tables, job, alone=len(jobs) == 1):
                        job.seq = self._head.seq + len(kept) + 1
                        events = self._registered(tables, job, sealed)
                        kept += [(job.at, event) for event in events]
                rows = audit.chain(self._head, kept)
                tables.add_audit(rows)
            # Here the rows are committed. If we die before the head is, `audit.recover` takes them at the next start.
            if rows:
                self._head = audit.follow(self._head, rows)
        except _Undone:
            pass  # the one job has its error
        except StoreError as error:
            self.register.apply([one.undone for one in reversed(sealed)])
            log.error("audit-write-failed", error=str(error), changes=len(jobs))
            for job in jobs:
                job.error = LedgerError("the database cannot be written")

    def _registered(self, tables: Tables, job: _Job, sealed: list[Change]) -> tuple[Event, ...]:
        """The events of a job; where it changed something sealed, the last one says what the register is now."""
        changes = tables.vault.take_changes()
        if not changes:
            return job.events
        self.register.apply(changes)
        sealed += changes
        register = self.register.mac(job.seq + len(job.events) - 1)
        return (*job.events[:-1], replace(job.events[-1], register=register.hex()))

    def _apply(self, tables: Tables, job: _Job, *, alone: bool) -> bool:
        if job.change is None:
            return True
        try:
            if alone:
                self._change(tables, job)
            else:
                with tables.nested():
                    self._change(tables, job)
        except Exception as error:  # given to the one who asked, never swallowed: the others' changes stand
            job.error = error
            tables.vault.take_changes()  # they were undone
            if alone:
                raise _Undone from None  # the transaction was its own; a savepoint inside would cost as much again
            return False
        return True

    def _change(self, tables: Tables, job: _Job) -> None:
        assert job.change is not None, "a job without a change is not applied"
        job.result = job.change(tables)
        if not job.events and tables.vault.changes:
            raise LedgerError("something sealed was to change without an event")
        try:
            self.register.check(tables.vault.changes)  # here it undoes this job alone
        except Broken as error:
            raise Altered(str(error)) from None


async def side_by_side(changes: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """All of them at once, which makes one transaction of them, and each to its end.

    LedgerError if one raised it, by itself: nobody who keeps policyd alive expects a group of them.
    """
    failed: list[LedgerError] = []

    async def one(change: Callable[[], Awaitable[object]]) -> None:
        try:
            await change()
        except LedgerError as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        for change in changes:
            nursery.start_soon(one, change)
    if failed:
        raise failed[0]


class _Undone(Exception):
    """Rolls back a transaction that held one change alone."""
