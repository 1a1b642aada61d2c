"""The journal's core: events in, effects out, in the order that keeps every promise."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.chain import FRAME, Type
from recorder.codec import FormatError
from recorder.journal import SEAL_SECONDS, AppendMain, DropTail, Effect, Instant, Limits, SyncMain
from recorder.keys import Keys, content_link, content_start
from recorder.model import Event, KeyClass, Kind
from recorder.parts import Gathered, Place, close_parts, open_parts, plain_chunk, split
from recorder.records import decode_seal
from tests.recorder.studio import SESSION, T0, Desk, entropy, folder, journal

KEY = Event(Kind.INPUT, 1, 5, b"l")
ECHO = Event(Kind.OUTPUT, 1, 6, b"l")


def at(seconds: float) -> Instant:
    return Instant(T0 + int(seconds * 1e6), seconds)


def names(effects: list[Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def test_a_batch_asks_for_nothing_but_its_write() -> None:
    core = journal()
    assert core.append([KEY, ECHO], at(0))
    assert core.appended(at(0)) == []


def test_a_keystroke_costs_fifty_bytes_in_the_tail() -> None:
    assert len(journal().append([KEY], at(0))) <= 60


def test_the_content_chain_may_lag_but_nobody_sees_it() -> None:
    """Each keystroke in a batch of its own, with seals and segments at different points: the chain is the same."""
    for seals in ([], [1], [5, 6, 70], range(100)):
        core, state = journal(limits=Limits(segment_seconds=1e9)), content_start(SESSION)
        keys = Keys.of_root(entropy(1)(32))
        assert keys.content is not None
        for number in range(100):
            event = Event(Kind.INPUT, 1, number, b"%d" % number)
            core.append([event], at(0))
            core.appended(at(0))
            state = content_link(keys.content, state, number, [(KeyClass.KEYS, plain_chunk([event]))])
            if number in seals:
                [seal] = core.due(at((number + 1) * (SEAL_SECONDS + 1)))
                assert isinstance(seal, AppendMain)
                assert decode_seal(seal.data[FRAME:], SESSION, b"")[0].content == state


def test_age_makes_a_segment_and_a_new_tail_in_the_other_slot() -> None:
    core = journal(limits=Limits(segment_seconds=300))
    core.append([KEY], at(1))
    assert core.due(at(59)) == []
    new, compact = core.due(at(301))
    assert names([new, compact]) == ["NewTail", "Compact"]
    assert new.slot == 1  # type: ignore[union-attr]
    effects = core.compacted(compact.job(), at(301))  # type: ignore[union-attr]
    assert names(effects) == ["AppendMain", "SyncMain", "DropTail", "Settle"]
    assert effects[2].slot == 0  # type: ignore[union-attr]
    assert core.settled(at(301)) == []


def test_age_counts_from_the_first_event_not_from_idleness() -> None:
    core = journal(limits=Limits(segment_seconds=300))
    core.append([KEY], at(1000))
    assert "Compact" not in names(core.due(at(1001)))


def test_a_seal_now_and_then_if_something_came() -> None:
    core = journal()
    assert core.due(at(SEAL_SECONDS + 1)) == []  # nothing came
    core.append([KEY], at(61))
    assert names(core.due(at(SEAL_SECONDS + 2))) == ["AppendMain"]
    assert core.due(at(2 * SEAL_SECONDS + 3)) == []


def test_a_tail_is_dropped_after_its_segment_is_on_disk(tmp_path: Path) -> None:
    """Dying between the two would lose what was acknowledged."""
    desk = Desk(folder(tmp_path / "recordings"), journal())
    desk.append(Event(1, 1, 0, b"a"))
    desk.carry_out(desk.journal.end("closed", "", "", desk.now))
    effects = [type(effect) for effect in desk.journal.compacted(desk.waiting.pop().job(), desk.now)]
    assert effects.index(AppendMain) < effects.index(SyncMain) < effects.index(DropTail)


def test_one_segment_is_made_at_a_time_and_memory_is_bounded() -> None:
    core = journal(limits=Limits(segment_bytes=1000))
    block = bytes(range(256)) * 2
    core.append([Event(Kind.OUTPUT, 1, 0, block * 2)], at(0))
    first = core.appended(at(0))
    assert names(first) == ["NewTail", "Compact"]
    assert not core.full
    for ms in range(1, 5):
        core.append([Event(Kind.OUTPUT, 1, ms, block)], at(0))
        assert core.appended(at(0)) == []
    assert core.full
    core.compacted(first[1].job(), at(0))  # type: ignore[union-attr]
    assert names(core.settled(at(0))) == ["NewTail", "Compact"]
    assert not core.full


def test_the_end_is_the_last_event_and_follows_a_segment_that_is_being_made() -> None:
    core = journal(limits=Limits(segment_seconds=10))
    core.append([KEY], at(1))
    _, compact = core.due(at(12))
    assert names(core.end("killed", "bob", "why", at(13))) == ["WriteTail"]
    effects = core.compacted(compact.job(), at(14))  # type: ignore[union-attr]
    assert names(effects) == ["AppendMain", "SyncMain", "DropTail", "Settle"]
    assert not core.complete
    [last] = core.settled(at(14))
    effects = core.compacted(last.job(), at(15))  # type: ignore[union-attr]
    assert names(effects) == ["AppendMain", "SyncMain", "DropTail", "Settle"]
    assert names(core.settled(at(15))) == ["Done"]
    assert core.complete


def test_a_session_without_an_event_ends_with_its_end() -> None:
    core = journal()
    write, compact = core.end("closed", "", "", at(2))
    assert names([write, compact]) == ["WriteTail", "Compact"]
    core.compacted(compact.job(), at(2))  # type: ignore[union-attr]
    assert core.complete


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [KEY, Event(Kind.OUTPUT, 1, 4, b"")],
        [Event(256, 1, 5, b"")],
        [Event(-1, 1, 5, b"")],
        [Event(0, 1 << 16, 5, b"")],
        [KEY, Event(0, 1, 6, bytes(32 * 1024 + 1))],
        [Event(0, 1, 1 << 60, b"")],
    ],
)
def test_what_cannot_be_stored_is_refused_and_changes_nothing(wrong: list[Event]) -> None:
    core, other = journal(), journal()
    with pytest.raises(FormatError):
        core.append(wrong, at(0))
    assert core.append([KEY], at(0)) == other.append([KEY], at(0))


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 6, 7, 9, 12]), st.integers(0, 2)), min_size=1, max_size=30),
    st.sets(st.integers(0, 29)),
    st.integers(-1, 70),
)
def test_the_order_of_acknowledgement_survives_the_classes(
    steps: list[tuple[int, int]], cuts: set[int], since: int
) -> None:
    """From the beginning and from any time on, whatever stands in one batch."""
    batches: list[list[Event]] = [[]]
    ms = 0
    for number, (kind, step) in enumerate(steps):
        ms += step
        if number in cuts and batches[-1]:
            batches.append([])
        batches[-1].append(Event(kind, 0, ms, b"%d" % number))
    chunks, last = [], 0
    for batch in batches:
        chunks += split(batch, last)
        last = batch[-1].ms
    keys, place = Keys.of_root(bytes(32)), Place(Type.SEGMENT, 0, 0, len(chunks))
    plain = Gathered(chunks).plain()
    parts = open_parts(SESSION, place, close_parts(bytes.fromhex(SESSION), place, keys.of_segment(0), plain, 3), keys)
    assert parts.chunks() == chunks
    events = [event for batch in batches for event in batch]
    assert list(parts.events()) == events
    assert list(parts.events(since)) == [event for event in events if event.ms >= since]


def test_the_journal_of_the_same_session_is_the_same_bytes() -> None:
    one, two = journal(seed=7), journal(seed=7)
    assert one.header == two.header
    assert one.append([KEY, ECHO], at(0)) == two.append([KEY, ECHO], at(0))
