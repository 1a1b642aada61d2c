"""Text, times and sizes as people read them; what each event says in a line."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.model import (
    AccessNote,
    AgentNote,
    Digest,
    Event,
    Exit,
    ForwardNote,
    Kind,
    Marker,
    Note,
    SftpOp,
    Start,
)
from replay import notes
from replay.export import jsonl
from replay.facts import gather
from replay.text import clock, iso, neutral, size, span, wall
from replay.when import instant
from tests.replay.recordings import note

NOW = datetime(2026, 11, 25, 17, 0, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ✓ 日本", "plain ✓ 日本"), ("a\x1b]0;b\x07", "a\\x1b]0;b\\x07"), ("two\nlines", "two\\nlines"),
        ("\u202eabc", "\\u202eabc"), ("\x9b6n", "\\x9b6n"), (b"\xff\xfe", "\\xff\\xfe"), ("a\u00a0b\u3000c", "a b c"),
        ("\u2028", "\\u2028"), ("\ud800", "\\ud800"), ("x" * 5000, "x" * 4096 + "…"),
    ],
)  # fmt: skip
def test_neutral(text: str | bytes, shown: str) -> None:
    assert neutral(text) == shown


@given(st.one_of(st.text(), st.binary()))
def test_neutral_text_is_one_printable_line(text: str | bytes) -> None:
    shown = neutral(text)
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2026-11-25", "2026-11-25T00:00:00+01:00"), ("2026-11-25T16:00", "2026-11-25T16:00:00+01:00"),
        ("2026-11-25T16:00Z", "2026-11-25T16:00:00+00:00"), ("16:00", "2026-11-25T16:00:00+01:00"),
        ("9:30", "2026-11-25T09:30:00+01:00"), ("3d", "2026-11-22T17:00:00+01:00"),
        ("2h ago", "2026-11-25T15:00:00+01:00"),
        ("today", "2026-11-25T00:00:00+01:00"), ("yesterday", "2026-11-24T00:00:00+01:00"),
    ],
)  # fmt: skip
def test_times(text: str, when: str) -> None:
    assert instant(text, NOW) == int(datetime.fromisoformat(when).timestamp() * 1_000_000)


@pytest.mark.parametrize("text", ["", "soon", "25:00", "2026-13-01", "3x", "-3d", "999999w"])
def test_no_times(text: str) -> None:
    assert instant(text, NOW) is None


def test_figures() -> None:
    assert [size(count) for count in (0, 1023, 1024, 20 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "20 MiB",
        "3.0 GiB",
    ]
    assert [span(ms) for ms in (400, 12_000, 185_000, 7_800_000)] == ["0.4s", "12s", "3m05s", "2h10m"]
    assert [clock(ms) for ms in (0, 62_000, 3_600_000)] == ["0:00", "1:02", "1:00:00"]
    assert clock(1250, fine=True) == "0:01.250"


def test_times_that_no_calendar_has() -> None:
    assert wall(2**62) == f"{2**62} us"
    assert iso(2**62) == ""
    assert iso(0) == "1970-01-01T00:00:00Z"
    assert datetime.fromisoformat(iso(1_790_000_000_000_000)).tzinfo == UTC


BAD = b"\x1b]0;owned\x07\xff\n"
SAID: list[tuple[Kind, Note]] = [
    (Kind.START, Start(kind=BAD.decode("latin-1"), command=BAD, term=BAD, columns=1, rows=1)),
    (Kind.EXIT, Exit(signal="\x1bTERM", message=BAD)),
    (Kind.SFTP, SftpOp(op="\x1bopen", path=BAD, to=BAD, status=99, detail="\x1b[2J")),
    (Kind.FORWARD, ForwardNote(state="\x1b", kind="\x1b", destination=BAD, origin=BAD)),
    (Kind.AGENT, AgentNote(state="close", kind="\x1bx11", sent=1, received=2)),
    (Kind.ACCESS, AccessNote(what="\x1bdenied", kind="\x1b", detail=BAD, rule="\x1b", by="\x1b", reason="\x1b")),
    (Kind.ACCESS, AccessNote(what="ended", detail=BAD, by="\x1b", reason="\x1b")),
    (Kind.DIGEST, Digest(stream="\x1b", start=0, size=5, sha256=b"\x1b")),
    (Kind.MARKER, Marker(text="\x1b]0;x\x07")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "said"), SAID)
def test_no_note_can_act_on_a_terminal(kind: Kind, said: Note) -> None:
    shown = notes.line(note(kind, 0, 0, said))
    assert shown.isprintable()
    assert shown


@given(st.integers(0, 255), st.binary(max_size=64))
def test_any_data_in_any_event_is_told_in_a_line(kind: int, data: bytes) -> None:
    event = Event(kind, 0, 0, data)
    assert notes.line(event).isprintable()
    gather([event])
    list(jsonl([event], {}))


def test_a_note_that_cannot_be_read_is_counted() -> None:
    assert gather([Event(Kind.START, 0, 0, b"\xc1"), Event(99, 0, 0, b"")]).unreadable == 2
