"""Pictures at any times in any order: what was drawn before makes the next one cheaper, and never different."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from recorder.model import Event, Kind
from replay import picture
from replay.picture import Pictures
from replay.screen import Screen

PIECES = st.sampled_from(
    [b"a", b"\r\n", b"\x1b[2J", b"\x1b[", b"31m", b"wide \xe4\xbd", b"\xa0", b"x" * 30, b"\x1b[5;3H"]
)
STEPS = st.lists(st.tuples(st.integers(0, 3), st.one_of(PIECES, st.sampled_from(["100x30", "20x5"]))), max_size=60)


def events_of(steps: list[tuple[int, bytes | str]]) -> list[Event]:
    """On channel 1, with another channel between."""
    events, ms = [], 0
    for step, what in steps:
        ms += step
        if isinstance(what, str):
            events.append(Event(Kind.RESIZE, 1, ms, what.encode()))
        else:
            events.append(Event(Kind.OUTPUT, 1, ms, what))
        events.append(Event(Kind.OUTPUT, 2, ms, b"not this"))
    return events


def drawn(events: list[Event], ms: int) -> Screen:
    """From the beginning."""
    screen = Screen(80, 24)
    for event in events:
        if event.ms <= ms and event.channel == 1:
            if event.kind == Kind.RESIZE:
                screen.resize(*map(int, event.data.split(b"x")))
            else:
                screen.feed(event.data)
    return screen


@given(STEPS, st.lists(st.integers(-1, 200), min_size=1, max_size=12), st.sampled_from([1, 20, 1 << 20]))
def test_any_order_of_seeks_shows_the_same(steps: list[tuple[int, bytes | str]], times: list[int], every: int) -> None:
    events = events_of(steps)
    kept_every, picture.KEPT_EVERY = picture.KEPT_EVERY, every  # type: ignore[misc]
    try:
        pictures = Pictures(lambda since: (event for event in events if event.ms >= since), 1, 80, 24)
        for ms in times:
            expected = drawn(events, ms)
            screen = pictures.screen(ms)
            assert (screen.lines(), screen.x, screen.y) == (expected.lines(), expected.x, expected.y)
            assert pictures.size(ms) == (expected.columns, expected.rows)
    finally:
        picture.KEPT_EVERY = kept_every  # type: ignore[misc]


def test_a_step_forth_reads_only_what_is_new() -> None:
    asked: list[int] = []

    def source(since: int) -> Iterator[Event]:
        asked.append(since)
        return (Event(Kind.OUTPUT, 1, ms, b"line\r\n") for ms in range(max(since, 0), 10_000))

    pictures = Pictures(source, 1, 80, 24)
    for ms in (5000, 5005):
        pictures.screen(ms)
        pictures.size(ms)
    assert asked == [0, 0, 5001, 5001]
