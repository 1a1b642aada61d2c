"""What an auditor's tool reads: terminal output, and the notes of events."""

from recorder.model import Event
from replay import notes
from replay.export import Transcript, jsonl
from replay.facts import gather
from replay.safe import Filter
from replay.screen import Screen
from tests.fuzz.registry import target
from tests.replay.hostile import HOSTILE, acting
from tests.replay.recordings import MIXED

STREAMS = (
    *HOSTILE.values(),
    b"\x1b[1;31mred\x1b[0m \xe2\x9c\x93\r\n",
    b"\x1b[?1049h\x1b[5;10r\x1b[3L\x1b(0lqk\x1b(B\x1b[?1049l",
)


@target("terminal-filter", samples=STREAMS)
def terminal_filter(raw: bytes) -> None:
    """Nothing that acts passes, however the bytes are cut."""
    whole = Filter().feed(raw)
    assert acting(whole) == []
    passed = Filter()
    assert "".join(passed.feed(raw[at : at + 3]) for at in range(0, len(raw), 3)) == whole


@target("terminal-screen", samples=STREAMS)
def terminal_screen(raw: bytes) -> None:
    """The text does not depend on the cuts, and holds no control character."""
    whole, cut = Screen(20, 6), Screen(20, 6)
    whole.feed(raw)
    for at in range(0, len(raw), 3):
        cut.feed(raw[at : at + 3])
    assert whole.lines() == cut.lines()
    assert acting("".join(whole.lines())) == []


@target("event-note", samples=[bytes([event.kind]) + event.data for event in MIXED])
def event_note(raw: bytes) -> None:
    """Any data in any event is told in a printable line."""
    event = Event(raw[0] if raw else 0, 0, 0, raw[1:])
    assert notes.line(event).isprintable()
    gather([event])
    list(jsonl([event], {}))
    list(Transcript(typed=True).events([event]))
