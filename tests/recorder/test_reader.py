"""Read back: seek, limited keys, live files, garbage."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.journal import Limits
from recorder.model import Event, KeyClass, KeyClasses, Kind
from recorder.reader import RecordingError, open_recording, verify_content
from recorder.store import Store
from recorder.verdict import verify
from tests.recorder.studio import NODE_PUBLIC, Desk, folder, journal, small_session

VECTORS = Path(__file__).parents[1] / "vectors"
VIEWER, FULL = (X25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2))


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    slots = [(VIEWER.public_key(), KeyClasses.VIEW | KeyClasses.CONTENT), (FULL.public_key(), KeyClasses.ALL)]
    desk = Desk(folder(tmp_path_factory.mktemp("sealed")), journal(auditors=slots))
    desk.append(Event(Kind.INPUT, 1, 1, b"secret"), Event(Kind.OUTPUT, 1, 2, b"shown"))
    desk.append(Event(Kind.CLIPBOARD, 1, 3, b"pasted"))
    desk.append(Event(Kind.INPUT, 1, 4, b"more"))
    desk.end()
    return desk.path


def test_an_auditor_with_some_classes_sees_those(sealed: Path) -> None:
    recording = open_recording(sealed, [VIEWER])
    assert [event.data for event in recording.events()][:2] == [b"shown", b"pasted"]
    assert recording.skipped_classes == {KeyClass.KEYS, KeyClass.GRAPHICS}
    assert recording.private is not None
    assert recording.private["person"] == "alice"
    with pytest.raises(RecordingError):
        verify_content(recording)


def test_of_several_keys_the_widest_is_used(sealed: Path) -> None:
    recording = open_recording(sealed, [VIEWER, FULL])
    assert recording.skipped_classes == frozenset()
    assert [event.data for event in recording.events()][:4] == [b"secret", b"shown", b"pasted", b"more"]
    assert verify_content(recording) == []


def test_nothing_of_it_is_readable_without_a_key(sealed: Path) -> None:
    data = sealed.read_bytes()
    for word in (b"secret", b"shown", b"pasted", b"alice"):
        assert word not in data
    stranger = open_recording(sealed, [X25519PrivateKey.generate()])
    assert (stranger.private, list(stranger.events())) == (None, [])
    assert verify(sealed, NODE_PUBLIC).status == "ok"


@pytest.mark.parametrize("since", [0, 1, 9_999, 10_000, 10_001, 10_100, 20_000, 20_301, 29_000, 30_000, 10**9])
def test_seek_gives_what_reading_from_the_start_gives(since: int, tmp_path: Path) -> None:
    desk, _ = small_session(folder(tmp_path))
    recording = open_recording(desk.path)
    everything = list(recording.events())
    assert list(recording.events(since)) == [event for event in everything if event.ms >= since]
    assert recording.duration_ms == everything[-1].ms
    assert recording.problems == []


def test_seek_in_equal_times(tmp_path: Path) -> None:
    """A burst within one millisecond that fills segments must not be skipped in part."""
    desk = Desk(folder(tmp_path), journal(limits=Limits(segment_bytes=1000)))
    for number in range(20):
        desk.append(Event(Kind.OUTPUT, 1, 5, b"%03d" % number * 150))
        desk.settle()
    desk.end()
    recording = open_recording(desk.path)
    assert len(list(recording.events(5))) == 21


def test_reading_while_it_is_written(tmp_path: Path) -> None:
    """At every step a reader finds exactly what was written, across rotation, compaction and the end."""
    desk = Desk(folder(tmp_path), journal(limits=Limits(segment_bytes=2000)))
    events: list[Event] = []
    for number in range(60):
        event = Event(Kind.OUTPUT if number % 3 else Kind.INPUT, 1, number * 7, b"%03d" % number * 50)
        desk.append(event)
        events.append(event)
        if number % 5 == 4 and desk.waiting:  # a segment is being made meanwhile
            job = desk.waiting.pop(0).job
            for effect in desk.journal.compacted(job(), desk.now):
                assert list(open_recording(desk.path).events()) == events
                assert verify(desk.path, NODE_PUBLIC).status == "open"
                desk.carry_out([effect])
        assert list(open_recording(desk.path).events()) == events
    assert open_recording(desk.path).duration_ms == events[-1].ms
    desk.end()
    assert list(open_recording(desk.path).events())[:-1] == events
    assert verify(desk.path, NODE_PUBLIC).status == "ok"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x.brec").symlink_to(VECTORS / "complete.brec")
    with pytest.raises(RecordingError):
        open_recording(tmp_path / "x.brec")


def test_store_ignores_what_is_no_recording(tmp_path: Path) -> None:
    day = tmp_path / "2026-01-02"
    day.mkdir()
    for name in ("a" * 32 + ".brec", "ab" + "c" * 30 + ".brec", "x.brec", "a" * 32 + ".brec.tail", "b" * 32 + ".txt"):
        (day / name).touch()
    (day / ("d" * 32 + ".brec")).symlink_to("/etc/passwd")
    (tmp_path / "2026-01-03").touch()
    store = Store(tmp_path)
    assert [path.name[:3] for path in store.recordings()] == ["abc", "aaa"]
    assert store.find("AB").name.startswith("abc")
    for prefix, words in (("a", "fits 2"), ("f", "no recording"), ("../", "hexadecimal"), ("", "hexadecimal")):
        with pytest.raises(RecordingError, match=words):
            store.find(prefix)


WHOLE = (VECTORS / "complete.brec").read_bytes()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    """Only declared errors, and no more memory or time than the file's size allows."""
    kind = data.draw(st.sampled_from(["noise", "header+noise", "edit"]))
    if kind == "noise":
        found = data.draw(st.binary(max_size=300))
    elif kind == "header+noise":
        found = WHOLE[:325] + data.draw(st.binary(max_size=300))
    else:
        found = bytearray(WHOLE)
        for _ in range(data.draw(st.integers(1, 5))):
            at = data.draw(st.integers(0, len(WHOLE) - 1))
            found[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    file = Path(tempfile.gettempdir()) / f"bastion-fuzzed-{os.getpid()}.brec"
    file.write_bytes(bytes(found))
    verdict = verify(file, NODE_PUBLIC)
    assert bytes(found) == WHOLE or verdict.status != "ok"
    try:
        recording = open_recording(file)
    except RecordingError:
        return
    genuine = [tuple(event) for event in EVENTS]
    assert all(tuple(event) in genuine for event in recording.events())
    assert recording.duration_ms >= 0


EVENTS = [
    (kind, channel, ms, bytes.fromhex(text))
    for vector in json.loads((VECTORS / "vectors.json").read_text())
    if vector["name"] == "complete"
    for kind, channel, ms, text in vector["events"]
]
