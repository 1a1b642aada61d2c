"""The one writer: every change and its audit event in the same transaction, batches under one disk sync.

A caller waits until its change is on disk and the head of the trail is too. So there is no change without its
event, no event without its change, and an answer leaves policyd only after its event is kept.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

import structlog
import trio

from policy import audit
from policy.audit import Event, Head, HeadFile
from policy.store import Store, StoreError, Tables

T = TypeVar("T")

QUEUE: Final = 4096
"""Changes waiting for the disk: two for each of 2,000 conversations; more than that is answered with a refusal."""
BATCH: Final = 256
"""Changes in one transaction; keeps the wait of the first one under some 50 ms."""

log = structlog.get_logger()


class LedgerError(Exception):
    """The change was not made: the disk, the database or the queue is full or broken."""


@dataclass(slots=True, kw_only=True)
class _Job:
    change: Callable[[Tables], Any]
    events: tuple[Event, ...]
    at: int
    done: trio.Event = field(default_factory=trio.Event)
    result: Any = None
    error: Exception | None = None


class Ledger:
    """`run` in a nursery writes what `write` and `note` queue."""

    def __init__(self, store: Store, head_file: HeadFile, head: Head) -> None:
        self.store = store
        self._head_file = head_file
        self._head = head
        self._send, self._receive = trio.open_memory_channel[_Job](QUEUE)
        self._readers = trio.CapacityLimiter(2)
        self._writers = trio.CapacityLimiter(1)

    async def note(self, *events: Event) -> None:
        """Keep events that go with no other change. LedgerError if they could not be kept."""
        await self.write(lambda _: None, *events)

    async def write(self, change: Callable[[Tables], T], *events: Event) -> T:
        """Make a change and keep its events, both or neither. What `change` raises, or LedgerError."""
        job = _Job(change=change, events=events, at=time.time_ns())
        try:
            self._send.send_nowait(job)
        except (trio.WouldBlock, trio.BrokenResourceError):
            raise LedgerError("the database is too busy") from None
        await job.done.wait()
        if job.error is not None:
            raise job.error
        return cast("T", job.result)

    async def read(self, query: Callable[[Tables], T]) -> T:
        """Ask the database. LedgerError if it does not answer."""

        def run() -> T:
            with self.store.read() as tables:
                return query(tables)

        try:
            return await trio.to_thread.run_sync(run, limiter=self._readers)
        except StoreError as error:
            raise LedgerError(str(error)) from None

    def kept_head(self) -> Head | None:
        """The head as it stands outside the database."""
        return self._head_file.load()

    async def run(self) -> None:
        """Write batches until cancelled; what was taken from the queue is finished first."""
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
                for job in jobs:
                    job.done.set()

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            with self.store.write() as tables:
                kept = []
                for job in jobs:
                    if self._apply(tables, job):
                        kept += [(job.at, event) for event in job.events]
                rows = audit.chain(self._head, kept)
                tables.add_audit(rows)
            # Here the rows are on disk. If we die before the head is, `audit.recover` takes them at the next start.
            if rows:
                self._head = Head(seq=rows[-1].seq, hash=rows[-1].hash)
        except StoreError as error:
            log.error("audit-write-failed", error=str(error), changes=len(jobs))
            for job in jobs:
                job.error = LedgerError("the database cannot be written")
            return
        # An error here ends policyd: what was committed cannot be taken back, and a trail without its head is not
        # protected against being cut.
        self._head_file.save(self._head)

    def _apply(self, tables: Tables, job: _Job) -> bool:
        try:
            with tables.nested():
                job.result = job.change(tables)
        except Exception as error:  # given to the one who asked, never swallowed: the others' changes stand
            job.error = error
            return False
        return True
