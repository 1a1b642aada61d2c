"""What the next start makes of what a killed one left, wherever it was cut."""

import os
import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from recorder.model import Event
from recorder.reader import open_recording, verify_content
from recorder.recovery import Outcome, recover
from recorder.verdict import verify
from tests.recorder.studio import NODE_KEY, NODE_PUBLIC, SESSION, T0, Desk, folder, journal, small_session
from tests.recorder.test_damage import events_of, records_of


def recovered(path: Path) -> Outcome:
    """`path` is that of the recordings directory."""
    with closing(folder(path)) as held:
        [(day, session)] = held.unfinished()
        return recover(held, day, session, NODE_KEY, T0)


@pytest.fixture
def left(tmp_path: Path) -> tuple[Path, list[Event]]:
    """Two segments, something in the tail, no end; and nobody who holds it."""
    desk, events = small_session(folder(tmp_path / "recordings"), end=False)
    desk.files.close()
    desk.folder.close()
    return desk.path, events


def test_all_that_was_written_is_kept(left: tuple[Path, list[Event]]) -> None:
    path, events = left
    outcome = recovered(path.parents[1])
    assert (outcome.how, outcome.chunks, outcome.torn) == ("recovered", 4, 0)
    assert not list(path.parent.glob("*.tail*"))
    assert events_of(path) == events
    assert verify_content(open_recording(path)) == []
    verdict = verify(path, NODE_PUBLIC)
    assert verdict.status == "truncated"
    assert "recovered" in verdict.problems[0]
    with closing(folder(path.parents[1])) as held:
        assert held.unfinished() == []


def test_any_cut_of_main_and_tail_leaves_a_prefix_that_verifies(left: tuple[Path, list[Event]], tmp_path: Path) -> None:
    path, events = left
    [tail] = path.parent.glob("*.tail*")
    main, rest = path.read_bytes(), tail.read_bytes()
    chance = random.Random(4)
    last_seal = records_of(path)[1][-1].offset
    for number in range(150):
        where = tmp_path / f"try{number}" / path.parent.name
        where.mkdir(parents=True)
        # What was synced stays: main is cut behind its last seal, in what would have been written next.
        torn = main + chance.randbytes(chance.randrange(40)) if number % 3 else main + bytes(chance.randrange(40))
        (where / path.name).write_bytes(torn)
        cut = chance.randrange(len(rest) + 1)
        filling = [b"", bytes(len(rest) - cut), chance.randbytes(len(rest) - cut)][number % 3]
        (where / tail.name).write_bytes(rest[:cut] + filling)
        outcome = recovered(where.parent)
        assert outcome.how == "recovered", outcome
        found = events_of(where / path.name)
        assert found == events[: len(found)]
        assert len(found) >= 16
        verdict = verify(where / path.name, NODE_PUBLIC)
        assert verdict.status == "truncated"
        assert verdict.at == (where / path.name).stat().st_size
        shutil.rmtree(where.parent)
    assert last_seal


def test_recovery_that_is_itself_cut_anywhere_comes_again(left: tuple[Path, list[Event]]) -> None:
    path, events = left
    [tail] = path.parent.glob("*.tail*")
    before, rest = path.read_bytes(), tail.read_bytes()
    recovered(path.parents[1])
    after = path.read_bytes()
    for size in range(len(before), len(after), 7):
        path.write_bytes(after[:size])
        tail.write_bytes(rest)
        assert recovered(path.parents[1]).how == "recovered"
        assert events_of(path) == events
        assert verify(path, NODE_PUBLIC).status == "truncated"
    path.write_bytes(after)
    tail.write_bytes(rest)
    assert recovered(path.parents[1]).how == "complete"
    assert path.read_bytes() == after


def test_a_complete_recording_only_loses_its_tail(tmp_path: Path) -> None:
    desk, _ = small_session(folder(tmp_path / "recordings"))
    desk.folder.close()
    data = desk.path.read_bytes()
    desk.path.with_name(desk.path.name + ".tail").write_bytes(b"left over")
    assert recovered(desk.path.parents[1]).how == "complete"
    assert desk.path.read_bytes() == data
    assert verify(desk.path, NODE_PUBLIC).status == "ok"


def test_what_was_altered_is_left_alone(left: tuple[Path, list[Event]]) -> None:
    """Recovery must not be a way to have evidence cut off: flip a byte, kill recorderd, and the rest would be gone."""
    path, _ = left
    data = bytearray(path.read_bytes())
    data[open_recording(path).start + 30] ^= 1
    path.write_bytes(data)
    [tail] = path.parent.glob("*.tail*")
    assert recovered(path.parents[1]).how == "damaged"
    assert path.read_bytes() == data
    assert tail.exists()


def test_a_tail_without_a_recording(tmp_path: Path) -> None:
    """Empty: we died between the two. With chunks: somebody removed the recording."""
    desk = Desk(folder(tmp_path / "recordings"), journal())
    [tail] = desk.path.parent.glob("*.tail*")
    desk.path.unlink()
    desk.folder.close()
    desk.append(Event(1, 1, 0, b"a"))
    assert recovered(desk.path.parents[1]).how == "damaged"
    os.truncate(tail, 68)
    assert recovered(desk.path.parents[1]).how == "empty"
    assert not tail.exists()


def test_the_tail_of_another_session_is_not_taken(left: tuple[Path, list[Event]], tmp_path: Path) -> None:
    path, events = left
    other = Desk(folder(tmp_path / "other"), journal(session=SESSION.replace("1", "2"), seed=9))  # type: ignore[arg-type]
    other.append(Event(1, 1, 0, b"foreign"))
    [tail] = path.parent.glob("*.tail*")
    [foreign] = other.path.parent.glob("*.tail*")
    tail.write_bytes(foreign.read_bytes())
    assert verify(path, NODE_PUBLIC).status == "truncated"
    outcome = recovered(path.parents[1])
    assert outcome.chunks == 0
    assert events_of(path) == events[:16]


def test_two_writers_on_one_folder_are_refused(tmp_path: Path) -> None:
    first = folder(tmp_path)
    with pytest.raises(ValueError, match="another recorderd"):
        folder(tmp_path)
    assert first.accepting
