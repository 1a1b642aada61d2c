"""A line typed on a terminal: what is taken, what is echoed, and that hidden input leaves no trace of itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.notices import lines
from bastion.prompts import MOST, Line, Outcome
from policy.messages import Refused, Rows


def typed(*pieces: bytes, hidden: bool = False) -> tuple[str, str, Outcome, bytes]:
    line, echo, outcome = Line(hidden=hidden), "", Outcome.OPEN
    for piece in pieces:
        more, outcome = line.key(piece)
        echo += more
    return line.text, echo, outcome, line.rest


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (b"disk full\r", "disk full"),
        (b"disk full\n", "disk full"),
        (b"disc\x7fk\x08k full\r", "disk full"),
        (b"nonsense\x15disk full\r", "disk full"),
        (b"disk empty\x17full\r", "disk full"),
        (b"disk \x1b[Afu\x1b[1;5Dl\x1bOPl\x1b[200~\r", "disk full"),
        (b"disk\x00\x01\x0b full\t\r", "disk full"),
        ("disk \u202efull\u200b\x9b\r".encode(), "disk full"),
        (b"\x7f\x7fdisk full\r", "disk full"),
        ("plönk\r".encode(), "plönk"),
        (b"\xff\xfe\r", "\ufffd\ufffd"),
    ],
)
def test_what_is_taken(keys: bytes, text: str) -> None:
    assert typed(keys)[0::2] == (text, Outcome.DONE)
    # key by key, however the network cuts it
    assert typed(*(keys[at : at + 1] for at in range(len(keys))))[0::2] == (text, Outcome.DONE)


@pytest.mark.parametrize("keys", [b"\x03", b"x\x03", b"\x04", b"x\x7f\x04"])
def test_two_keys_leave(keys: bytes) -> None:
    assert typed(keys)[2] is Outcome.LEFT


def test_ctrl_d_leaves_only_an_empty_line() -> None:
    assert typed(b"x\x04\r")[0::2] == ("x", Outcome.DONE)


def test_what_stands_behind_is_for_the_next_one() -> None:
    assert typed(b"first\r\nsecond\r")[3] == b"second\r"
    assert typed(b"first\nsecond\r")[3] == b"second\r"


def test_hidden_input_is_not_echoed_and_not_counted() -> None:
    text, echo, outcome, _ = typed(b"123\x7f\x15\x17456\r", hidden=True)
    assert (text, echo, outcome) == ("456", "", Outcome.DONE)


def test_wide_characters_are_taken_back_whole() -> None:
    assert typed("日\x7f".encode())[1] == "日" + "\b \b" * 2


def test_a_line_has_an_end() -> None:
    assert typed(b"x" * 10 * MOST + b"\r")[0] == "x" * MOST
    line = Line()
    line.key(b"\x1b[" + b"9" * 1000)
    assert len(line._partial) < 32


@given(st.lists(st.binary(max_size=12), max_size=8))
def test_nothing_that_is_typed_acts_on_the_terminal(pieces: list[bytes]) -> None:
    text, echo, _, _ = typed(*pieces)
    assert text.isprintable()
    assert echo.replace("\b \b", "").isprintable()


# --- what waits --------------------------------------------------------------------------------------------------


def waiting(*kinds: str) -> Rows:
    rows = [[kind, "x", f"{kind} \x1b[2J", "ssh bastion do it"] for kind in kinds]
    return Rows(columns=["kind", "id", "text", "command"], rows=rows)


def test_what_waits_is_counted() -> None:
    assert lines(waiting()) == []
    assert lines(waiting("request")) == ["1 request waits for you: ssh bastion requests"]
    assert lines(waiting("request", "review", "request")) == [
        "2 requests wait for you: ssh bastion requests", "1 review is owed: ssh bastion review list",
    ]  # fmt: skip
    assert len(lines(waiting(*["grant"] * 20))) == 3
    assert len(lines(waiting(*["checkout"] * 2, *["taken"] * 20, *["grant"] * 20))) == 6


@pytest.mark.parametrize("answer", [Refused(code=77, cause="no"), Rows(columns=[], rows=[["x"]]), None])
def test_no_answer_is_no_news(answer: object) -> None:
    assert lines(answer) == []
