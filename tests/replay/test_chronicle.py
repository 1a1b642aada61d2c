"""A recording as lines: what happened stands between the output, and the output cannot hide it."""

import msgspec
import pytest

from recorder.model import AccessNote, Event, Kind
from replay.chronicle import Chronicle

ENDED = Event(Kind.ACCESS, 0, 20, msgspec.msgpack.encode(AccessNote(what="ended", reason="killed", by="sam")))


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("left", [b"\x1b[8m", b"\x1b[30;40m", b"\x1b(0", b"\x1b)0\x0e", b"\x1b[?7l"])
def test_what_output_leaves_behind_does_not_touch_our_lines(left: bytes, raw: bool) -> None:
    """Attack: output that ends in hidden text, and the auditor does not see that the session was killed."""
    chronicle = Chronicle(raw=raw)
    chronicle.show(Event(Kind.OUTPUT, 1, 10, b"text" + left))
    said = chronicle.show(ENDED)
    assert said.startswith("\x1b[m")
    assert all(undone in said for undone in ("\x1b[m", "\x1b(B", "\x1b)B", "\x0f", "\x1b[?7h"))
    assert "killed" in said.rpartition("\x0f")[2]


def test_plain_output_needs_no_remedy() -> None:
    chronicle = Chronicle()
    chronicle.show(Event(Kind.OUTPUT, 1, 10, b"text\n"))
    assert "\x1b" not in chronicle.show(ENDED)
