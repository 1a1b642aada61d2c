"""Cut, flipped, spliced: whatever happens to a file is told, and what is read is never wrong."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from recorder.chain import Chain, Type
from recorder.journal import SEAL_SECONDS
from recorder.model import Event
from recorder.reader import open_recording
from recorder.records import decode_note
from recorder.verdict import Verdict, verify
from recorder.walk import Front, Record, open_file, read_front, size_of, walk
from tests.recorder.studio import NODE_PUBLIC, SESSION, Desk, folder, journal, small_session


def records_of(path: Path) -> tuple[Front, list[Record]]:
    with open_file(path) as file:
        front = read_front(file)
        return front, list(walk(file, len(front.raw), size_of(file), Chain(front.raw)))


def rebuilt(front: Front, records: list[tuple[int, bytes]]) -> bytes:
    """A file of these records with a storage chain that fits, as a forger without keys would make it."""
    chain = Chain(front.raw)
    return front.raw + b"".join([chain.frame(kind, body) for kind, body in records])


def events_of(path: Path) -> list[Event]:
    """What a reader gets, whatever there is: any declared error counts as nothing."""
    return list(open_recording(path).events())


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Path, bytes, list[Event]]:
    desk, events = small_session(folder(tmp_path / "recordings"))
    assert desk.done
    return desk.path, desk.path.read_bytes(), events


def test_a_whole_recording_verifies_and_reads(whole: tuple[Path, bytes, list[Event]]) -> None:
    path, data, events = whole
    verdict = verify(path, NODE_PUBLIC)
    assert verdict == Verdict(status="ok", seals=verdict.seals, bytes=len(data), chain=verdict.chain)
    assert events_of(path)[:-1] == events
    assert verify(path, bytes(32)).status == "altered"


def test_a_cut_anywhere_is_told_and_leaves_a_prefix(whole: tuple[Path, bytes, list[Event]]) -> None:
    path, data, events = whole
    start = len(open_recording(path).raw)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        verdict = verify(path, NODE_PUBLIC)
        assert verdict.status == "truncated", (size, verdict)
        assert verdict.at is not None
        assert verdict.at <= size
        if size >= start:
            found = events_of(path)
            assert found[: len(events)] == events[: len(found)]


def test_a_flip_anywhere_is_told(whole: tuple[Path, bytes, list[Event]]) -> None:
    path, data, _ = whole
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        verdict = verify(path, NODE_PUBLIC)
        assert verdict.status in ("altered", "truncated"), (at, verdict)
        assert verdict.problems


def test_a_flip_loses_one_segment_and_shows_nothing_wrong(whole: tuple[Path, bytes, list[Event]]) -> None:
    path, data, events = whole
    header = open_recording(path)
    for at in range(header.start, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        recording = open_recording(path)
        found = list(recording.events())
        missing = [event for event in events if event not in found]
        assert all(event in events for event in found if event.kind != 12)
        assert len(missing) <= 8, (at, len(missing))  # one segment has eight
        assert not missing or recording.problems


@pytest.mark.parametrize("change", ["drop", "swap", "double", "splice", "append", "no-index", "stitched-end"])
def test_a_forger_without_keys_is_caught(change: str, whole: tuple[Path, bytes, list[Event]], tmp_path: Path) -> None:
    path, _, _ = whole
    front, records = records_of(path)
    bodies = [(record.kind, record.body) for record in records]
    segments = [number for number, (kind, _) in enumerate(bodies) if kind == Type.SEGMENT]
    if change == "drop":
        del bodies[segments[1]]
    elif change == "swap":
        bodies[segments[0]], bodies[segments[1]] = bodies[segments[1]], bodies[segments[0]]
    elif change == "double":
        bodies.insert(segments[0], bodies[segments[0]])
    elif change == "splice":
        other, _ = small_session(folder(tmp_path / "other"), per_segment=5)
        bodies[segments[1]] = next((r.kind, r.body) for r in records_of(other.path)[1] if r.kind == Type.SEGMENT)
    elif change == "append":
        bodies.append(bodies[-1])
    elif change == "no-index":
        bodies = [one for one in bodies if one[0] != Type.INDEX]
    else:
        bodies = [*bodies[:2], *bodies[-3:]]
    path.write_bytes(rebuilt(front, bodies))
    verdict = verify(path, NODE_PUBLIC)
    assert verdict.status == "altered", verdict


def test_each_seal_has_a_key_of_its_own(whole: tuple[Path, bytes, list[Event]]) -> None:
    """A thief of the running machine's keys must not be able to seal anew what was sealed before."""
    recording = open_recording(whole[0])
    following = [seal.next_key for seal in recording.seals()]
    assert len({recording.header.seal_key, *following}) == len(following) + 1 > 3


def test_a_forged_recovery_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "recovered.brec"
    path.write_bytes((Path(__file__).parents[1] / "vectors" / "recovered.brec").read_bytes())
    front, records = records_of(path)
    last = records[-1]
    note, _, _ = decode_note(last.body, SESSION, last.before)
    forged = note.encode(SESSION, last.before, Ed25519PrivateKey.generate().sign)
    kept = [(record.kind, record.body) for record in records[:-1]]
    path.write_bytes(rebuilt(front, [*kept, (Type.NOTE, forged)]))
    verdict = verify(path, NODE_PUBLIC)
    assert verdict.status == "altered"
    assert "signature of a note" in verdict.problems[0]


def test_nothing_follows_what_recovery_wrote(whole: tuple[Path, bytes, list[Event]], tmp_path: Path) -> None:
    path = tmp_path / "recovered.brec"
    path.write_bytes((Path(__file__).parents[1] / "vectors" / "recovered.brec").read_bytes())
    front, records = records_of(path)
    kept = [(record.kind, record.body) for record in records]
    path.write_bytes(rebuilt(front, [*kept, (0x90, b"skippable to whoever does not know it")]))
    assert verify(path, NODE_PUBLIC).problems == ["something follows the note of recovery"]
    front, records = records_of(whole[0])
    kept = [(record.kind, record.body) for record in records]
    foot = kept.pop()
    path.write_bytes(rebuilt(front, [kept[0], foot]))
    assert verify(path, NODE_PUBLIC).problems == ["FOOT without the final seal"]


def test_a_whole_new_recording_by_another_node_is_caught(whole: tuple[Path, bytes, list[Event]]) -> None:
    path, data, _ = whole
    front, records = records_of(path)
    forged = front.raw.replace(NODE_PUBLIC, b"x" * 32)
    path.write_bytes(rebuilt(front._replace(raw=forged), [(r.kind, r.body) for r in records]))
    assert verify(path, None).status == "altered"
    path.write_bytes(data)
    assert verify(path, None).status == "ok"


@pytest.mark.parametrize("what", ["cut", "flip", "zeros", "garbage", "gone"])
def test_damage_to_the_tail_is_told_and_leaves_a_prefix(what: str, tmp_path: Path) -> None:
    desk, events = small_session(folder(tmp_path / "recordings"), end=False)
    [tail] = desk.path.parent.glob("*.tail*")
    data = tail.read_bytes()
    assert verify(desk.path, NODE_PUBLIC).status == "open"
    assert events_of(desk.path) == events
    for at in range(len(data)):
        match what:
            case "cut":
                tail.write_bytes(data[:at])
            case "flip":
                tail.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            case "zeros":
                tail.write_bytes(data[:at] + bytes(len(data) - at))
            case "garbage":
                tail.write_bytes(data[:at] + bytes((i * 37 + 11) % 256 for i in range(len(data) - at)))
            case _:
                tail.unlink(missing_ok=True)
        found = events_of(desk.path)
        assert found == events[: len(found)]
        assert len(found) >= len(events) - 8
        verdict = verify(desk.path, NODE_PUBLIC)
        boundary = what == "cut" and len(found) % 2 == 0 and verdict.status == "open"
        assert verdict.status == "truncated" or verdict.problems or boundary, (at, verdict)


def test_a_tail_that_lost_what_was_sealed_is_truncated(tmp_path: Path) -> None:
    """A crash cuts the tail, too; but what a seal speaks of was there, and somebody has taken it away."""
    desk = Desk(folder(tmp_path / "recordings"), journal())
    desk.append(Event(1, 1, 0, b"a"))
    desk.append(Event(1, 1, 1, b"b"))
    desk.seconds = SEAL_SECONDS + 1
    desk.carry_out(desk.journal.due(desk.now))
    assert [record.kind for record in records_of(desk.path)[1]] == [Type.SEAL]
    assert verify(desk.path, NODE_PUBLIC).status == "open"
    [tail] = desk.path.parent.glob("*.tail*")
    tail.write_bytes(tail.read_bytes()[:-1])
    verdict = verify(desk.path, NODE_PUBLIC)
    assert verdict.status == "truncated"
    assert "sealed" in " ".join(verdict.problems)
