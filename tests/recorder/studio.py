"""A journal on real files, without a daemon: deterministic keys and clocks."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from recorder.chain import Slot
from recorder.durable import Files, Folder
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
    Settle,
    SyncMain,
    WriteTail,
)
from recorder.keys import make_slots
from recorder.model import Event, KeyClasses, Kind, SessionId

T0 = 1_790_000_000_000_000
SESSION = SessionId("0199" + "0" * 27 + "1")
NODE_KEY = Ed25519PrivateKey.from_private_bytes(b"node" * 8)
NODE_PUBLIC = NODE_KEY.public_key().public_bytes_raw()


def entropy(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def journal(
    session: SessionId = SESSION,
    auditors: Iterable[tuple[X25519PublicKey, KeyClasses]] = (),
    limits: Limits | None = None,
    seed: int = 1,
) -> Journal:
    auditors = list(auditors)

    def slots(root: bytes) -> list[Slot]:
        return make_slots(root, session, auditors)

    opening = Opening(
        session=session, t0_us=T0, node="n1", public={"protocol": "ssh"}, private={"person": "alice", "target": "web1"}
    )
    return Journal(opening, NODE_KEY, slots, entropy(seed), Instant(T0, 0.0), limits or Limits())


@dataclass
class Desk:
    """Carries a journal's effects out on files, at once or, for segments, when told."""

    folder: Folder
    journal: Journal
    files: Files = field(init=False)
    seconds: float = 0.0
    waiting: list[Compact] = field(default_factory=list)
    done: bool = False

    def __post_init__(self) -> None:
        tail = self.journal.tail_header.data
        self.files = self.folder.create(self.journal.session, T0, tail, self.journal.header)

    @property
    def path(self) -> Path:
        return self.folder.path / self.files.name

    @property
    def now(self) -> Instant:
        return Instant(T0 + round(self.seconds * 1e6), self.seconds)

    def append(self, *events: Event) -> None:
        now = self.now
        self.files.write_tail(self.journal.append(list(events), now))
        self.carry_out(self.journal.appended(now))

    def end(self) -> None:
        self.carry_out(self.journal.end("closed", "", "", self.now))
        self.settle()

    def settle(self) -> None:
        """Make the segments that are waiting."""
        while self.waiting:
            self.carry_out(self.journal.compacted(self.waiting.pop(0).job(), self.now))

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case WriteTail(data):
                    self.files.write_tail(data)
                case AppendMain(data):
                    self.files.append_main(data)
                case SyncMain():
                    self.files.sync_main()
                case NewTail(slot, data):
                    self.files.new_tail(slot, data)
                case DropTail(slot):
                    self.files.drop_tail(slot)
                case Compact():
                    self.waiting.append(effect)
                case Settle():
                    self.carry_out(self.journal.settled(self.now))
                case Done():
                    self.done = True
                    self.files.close()


def small_session(
    folder: Folder, segments: int = 3, per_segment: int = 4, end: bool = True
) -> tuple[Desk, list[Event]]:
    """A short session with several segments, two key classes, seals, and something in the tail if it has no end."""
    desk = Desk(folder, journal(limits=Limits(segment_seconds=10)))
    events: list[Event] = []
    for number in range(segments):
        for step in range(per_segment):
            ms = number * 10_000 + step * 100
            batch = [Event(Kind.INPUT, 1, ms, b"k%d" % step), Event(Kind.OUTPUT, 1, ms + 1, b"out %d\r\n" % step)]
            desk.append(*batch)
            events += batch
        desk.seconds = (number + 1) * 10.0
        if number < segments - 1 or end:
            desk.carry_out(desk.journal.due(desk.now))
            desk.settle()
    if end:
        desk.end()
    return desk, events


def folder(path: Path) -> Folder:
    return Folder(path, reserve_mib=0, low_water_mib=0)
