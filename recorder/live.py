"""One live recording: its journal, its files, and what carries the effects from one to the other."""

import os
import time
from dataclasses import dataclass, field
from typing import Final, assert_never

import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from recorder import keys
from recorder.chain import Slot
from recorder.durable import Files, Folder, is_full, sync_handles
from recorder.journal import (
    AppendMain,
    Compact,
    Done,
    DropTail,
    Effect,
    Instant,
    Journal,
    Limits,
    NewTail,
    Opening,
    SegmentJob,
    Settle,
    SyncMain,
    WriteTail,
)
from recorder.model import Event, KeyClasses
from recorder.node import NodeLog
from recorder.nodelog import What
from recorder.quick import QuickLoop

INLINE: Final = 4096
"""Bytes of a segment that is made at once (0.2 ms): most sessions are short, a thread costs them more."""

log = structlog.get_logger()


class Failed(Exception):
    """This recording cannot go on; says why in words for people."""


@dataclass(kw_only=True)
class Studio:
    """What all recordings of this process share. Owns nothing but its counters."""

    folder: Folder
    node_key: Ed25519PrivateKey
    log: NodeLog
    node: str
    auditors: list[X25519PublicKey]
    limits: Limits
    background: trio.Nursery
    loop: QuickLoop
    # One: zstd has the core to itself, and keystrokes have the other one.
    compactors: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    live: dict[str, "Live"] = field(default_factory=dict)

    def slots(self, session: str, root: bytes) -> list[Slot]:
        return keys.make_slots(root, session, [(key, KeyClasses.ALL) for key in self.auditors])


class Live:
    """Takes batches until `end`. After `Failed` it is closed, and `failed` says why."""

    def __init__(self, studio: Studio, opening: Opening) -> None:
        """OSError, FileExistsError or ValueError: nothing was begun."""
        self._studio = studio
        self.session = opening.session
        self.journal = Journal(
            opening,
            studio.node_key,
            lambda root: studio.slots(opening.session, root),
            os.urandom,
            now(),
            studio.limits,
        )
        tail = self.journal.tail_header.data
        self.files: Files = studio.folder.create(opening.session, opening.t0_us, tail, self.journal.header)
        try:
            studio.log.note(What.OPENED, now().wall_us, self.session, self.files.name, self.journal.head)
        except BaseException:
            self.files.discard()
            raise
        self.failed: str = ""
        self.on_failure = trio.CancelScope()
        self._done = trio.Event()
        self._room = trio.Event()

    def append(self, events: list[Event], instant: Instant) -> None:
        """Written to the tail when it returns. Failed; codec.FormatError if the events cannot be stored.

        `appended` is to follow when the gateway has its acknowledgement.
        """
        if self.failed or self._studio.folder.full:
            raise Failed(self.failed or "the disk is full")
        data = self.journal.append(events, instant)
        try:
            self.files.write_tail(data)
        except OSError as error:
            self._again(WriteTail(data), error)
            raise Failed(self.failed) from None

    def appended(self, instant: Instant) -> None:
        """What an append leaves to do."""
        if effects := self.journal.appended(instant):
            self._carry_out(effects)

    async def room(self) -> None:
        """Return when more may be appended: a gateway that is faster than compaction waits here."""
        while self.journal.full and not self.failed:
            self._room = trio.Event()
            await self._room.wait()

    async def sync(self) -> None:
        """What was appended is on disk. Failed."""
        try:
            handles = self.files.for_sync()
        except OSError as error:
            self._fail(error)
            raise Failed(self.failed) from None
        with trio.CancelScope(shield=True):  # the thread owns the handles, and closes them
            failed = await trio.to_thread.run_sync(sync_handles, handles, self._studio.folder.handle)
        if failed:
            self.commit_failed()
            raise Failed(self.failed)

    async def end(self, reason: str, by: str, text: str) -> None:
        """Complete the recording, on disk. Failed."""
        if not self.files.dead:
            self._carry_out(self.journal.end(reason, by, text, now()))
            await self._done.wait()
            self._note_end(reason)
        if self.files.dead:
            raise Failed(self.failed or "the recording is closed")

    def _note_end(self, reason: str) -> None:
        if not self.files.dead:
            try:
                self._studio.log.note(
                    What.CLOSED, now().wall_us, self.session, self.files.name, self.journal.head, reason
                )
            except OSError as error:
                log.error("node-log-failed", session=self.session, error=error.strerror)

    def tick(self) -> None:
        """What time brings."""
        if not self.files.dead:
            self._carry_out(self.journal.due(now()))

    def commit_failed(self) -> None:
        """The group commit could not sync one of our files."""
        self._fail(OSError(0, "the disk refused to sync"))

    def close(self) -> None:
        """Leave it as it is."""
        self.files.close()
        self._done.set()
        self._room.set()

    def _carry_out(self, effects: list[Effect]) -> None:
        """All but SyncMain, which only `_compact` sees."""
        for effect in effects:
            if self.files.dead:
                return
            try:
                self._do(effect)
            except OSError as error:
                self._again(effect, error)

    def _again(self, effect: Effect, error: OSError) -> None:
        self._fail(error)
        if not self.files.dead:
            try:
                self._do(effect)  # the same bytes, now that the reserve has made room
            except OSError as again:
                self.files.dead = True
                self._fail(again)

    def _do(self, effect: Effect) -> None:
        match effect:
            case WriteTail(data):
                self.files.write_tail(data)
            case AppendMain(data):
                self.files.append_main(data)
            case NewTail(slot, data):
                self.files.new_tail(slot, data)
            case DropTail(slot):
                self.files.drop_tail(slot)
            case Compact(job):
                self._studio.background.start_soon(self._compact, job)
            case Settle():
                self._carry_out(self.journal.settled(now()))
            case Done():
                self._done.set()
            case SyncMain():
                raise AssertionError("a sync belongs into a thread")
            case _:
                assert_never(effect)

    async def _compact(self, job: SegmentJob) -> None:
        """In the background, to its end whatever is cancelled meanwhile."""
        with trio.CancelScope(shield=True):
            if job.size <= INLINE:
                body = job()
            else:
                body = await trio.to_thread.run_sync(job, limiter=self._studio.compactors)
            if self.files.dead:
                return
            for effect in self.journal.compacted(body, now()):
                if not isinstance(effect, SyncMain):
                    self._carry_out([effect])
                    continue
                try:
                    await trio.to_thread.run_sync(self.files.sync_main)
                except OSError as error:
                    return self._fail(error)
            self._room.set()

    def _fail(self, error: OSError) -> None:
        if is_full(error) and not self.files.dead:
            self._studio.folder.release()
        else:
            self.files.dead = True
            self._done.set()
            self._room.set()
        if not self.failed:
            self.failed = f"writing the recording failed: {(error.strerror or str(error)).lower()}"
            log.error("recording-failed", session=self.session, error=error.strerror, dead=self.files.dead)
        self.on_failure.cancel()


def now() -> Instant:
    return Instant(time.time_ns() // 1000, time.monotonic())
