"""What the recordings of a test say: read through the recorder's own reader, and each one verified."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from recorder.model import (
    AccessNote,
    AgentNote,
    Digest,
    Event,
    Exit,
    ForwardNote,
    Kind,
    Note,
    SftpOp,
    Start,
)
from recorder.reader import RecordingError, open_recording, verify, verify_content
from recorder.store import Store
from tests.support.net import wait_until
from tests.support.site import REFERENCE, Site

N = TypeVar("N", bound=Note)


@dataclass(frozen=True)
class Tape:
    """The events of the recordings of one test, session after session, in the order of their start."""

    events: list[Event]
    facts: list[dict[str, str]]  # private headers: who, where, by which rule

    def joined(self, *kinds: Kind) -> bytes:
        return b"".join(event.data for event in self.events if event.kind in kinds)

    @property
    def output(self) -> bytes:
        return self.joined(Kind.OUTPUT)

    @property
    def errors(self) -> bytes:
        return self.joined(Kind.STDERR)

    @property
    def typed(self) -> bytes:
        """What was sent and may be read; the rest is sealed."""
        return self.joined(Kind.INPUT, Kind.REVEALED)

    @property
    def starts(self) -> list[Start]:
        """Each with its whole command."""
        joined: list[Start] = []
        for start in self._notes(Kind.START, Start):
            if joined and joined[-1].more:
                joined[-1].command += start.command
                joined[-1].more = start.more
            else:
                joined.append(start)
        return joined

    @property
    def exits(self) -> list[Exit]:
        return self._notes(Kind.EXIT, Exit)

    @property
    def operations(self) -> list[SftpOp]:
        return self._notes(Kind.SFTP, SftpOp)

    @property
    def forwards(self) -> list[ForwardNote]:
        return self._notes(Kind.FORWARD, ForwardNote)

    @property
    def agents(self) -> list[AgentNote]:
        return self._notes(Kind.AGENT, AgentNote)

    @property
    def accesses(self) -> list[AccessNote]:
        return self._notes(Kind.ACCESS, AccessNote)

    @property
    def digests(self) -> list[Digest]:
        return self._notes(Kind.DIGEST, Digest)

    @property
    def ended(self) -> list[AccessNote]:
        return [note for note in self.accesses if note.what == "ended"]

    def transfer(self, op: str, path: Path | str) -> SftpOp:
        """The only finished transfer of that kind to or from that file."""
        found = [note for note in self.operations if note.op == op and note.path == str(path).encode()]
        assert len(found) == 1, f"{op} {path}: {[(note.op, note.path) for note in self.operations]}"
        return found[0]

    def holds(self, stream: str, kind: Kind, data: bytes) -> None:
        """A stream of one channel is `data`: what was kept of it in full, and digests of the rest."""
        kept = self.joined(kind)
        assert kept == data[: len(kept)], f"{len(kept)} bytes of {stream} differ from what passed"
        at = len(kept)
        for digest in (note for note in self.digests if note.stream == stream):
            assert digest.start == at, f"{stream}: a digest begins at {digest.start}, want {at}"
            piece = data[at : at + digest.size]
            assert len(piece) == digest.size
            assert digest.sha256 in (b"", hashlib.sha256(piece).digest())
            at += digest.size
        assert at == len(data), f"the recording tells {at} of {len(data)} bytes of {stream}"

    def _notes(self, kind: Kind, shape: type[N]) -> list[N]:
        decode = msgspec.msgpack.Decoder(shape).decode
        return [decode(event.data) for event in self.events if event.kind == kind]


@dataclass
class Evidence:
    """Knows which recordings were there before; `tape` reads the new ones once their sessions have ended."""

    site: Site
    entry: str
    _before: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._before = set(self.new())

    def new(self) -> list[Path]:
        """Recordings made since, oldest first."""
        try:
            return sorted(path for path in Store(self.site.recordings).recordings() if path not in self._before)
        except RecordingError:
            return []

    def tape(self) -> Tape | None:
        """None on the reference, where nothing records."""
        if self.entry == REFERENCE:
            return None
        wait_until("the end of each recording", lambda: self.new() and all(map(_complete, self.new())))
        events: list[Event] = []
        facts = []
        for path in self.new():
            recording = open_recording(path)
            events += recording.events()
            facts.append(recording.private or {})
            assert recording.problems == []
        return Tape(events, facts)

    def check(self) -> None:
        """Every recording that this test made verifies, with and without a key."""
        for path in self.new():
            if _complete(path):
                assert (verdict := verify(path, None)).status == "ok", f"{path}: {verdict}"
                assert verify_content(open_recording(path)) == []


def watch(site: Site, entry: str) -> Iterator[Evidence]:
    """For fixtures."""
    evidence = Evidence(site, entry)
    yield evidence
    evidence.check()


def _complete(path: Path) -> bool:
    try:
        return open_recording(path).complete
    except RecordingError:
        return False  # just being born
