"""The audit trail: an edit, a removal, a cut and an old copy are noticed; a crash is not taken for one of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.trail import audit
from policy.trail.audit import START, Event, Head, HeadFile, canonical, chain, recover, verify

KEY = b"k" * 32
ROWS = chain(START, [(1000 + number, Event(event="login", who=f"p{number}")) for number in range(10)])
HEAD = Head(seq=10, hash=ROWS[-1].hash)


def test_a_whole_trail():
    found = verify(ROWS, HEAD)
    assert (found.ok, found.rows, found.head) == (True, 10, HEAD)
    assert verify([], START).ok


def test_a_link_is_what_the_text_says():
    """The chain can be checked with sha256sum alone."""
    from hashlib import sha256

    assert ROWS[0].hash == sha256(bytes(32) + ROWS[0].body.encode()).digest()
    assert ROWS[1].hash == sha256(ROWS[0].hash + ROWS[1].body.encode()).digest()
    assert json.loads(ROWS[0].body) == {"at": 1000, "event": "login", "seq": 1, "who": "p0"}


@pytest.mark.parametrize("at", range(10))
def test_an_edit_anywhere(at):
    rows = list(ROWS)
    for changes, problem in (
        ({"body": rows[at].body.replace("login", "logon")}, "altered"),
        ({"hash": bytes(32)}, "altered"), ({"event": "view"}, "altered"), ({"at": 1}, "altered"),
    ):  # fmt: skip
        found = verify([*rows[:at], replace(rows[at], **changes), *rows[at + 1 :]], HEAD)
        assert not found.ok
        assert found.problem.startswith(problem)
        assert found.seq == at + 1


@pytest.mark.parametrize("at", range(9))
def test_a_removal_anywhere(at):
    found = verify([*ROWS[:at], *ROWS[at + 1 :]], HEAD)
    assert (found.ok, found.seq) == (False, at + 1)
    assert "deleted" in found.problem


@pytest.mark.parametrize("left", range(10))
def test_a_cut(left):
    found = verify(ROWS[:left], HEAD)
    assert not found.ok
    assert found.problem == f"cut: rows up to 10 were written, {left} are left"


def test_a_swap_and_a_doubled_row():
    assert not verify([ROWS[1], ROWS[0], *ROWS[2:]], HEAD).ok
    assert not verify([ROWS[0], *ROWS], HEAD).ok


def test_a_chain_computed_anew():
    """Whoever writes the database can make a chain that looks whole; he cannot make the head."""
    forged = chain(START, [(1000, Event(event="nothing"))] * 10)
    found = verify(forged, HEAD)
    assert not found.ok
    assert "anew" in found.problem


def test_a_lost_head():
    assert not verify(ROWS, None).ok


def test_recovery_takes_what_a_crash_left_behind():
    kept = Head(seq=7, hash=ROWS[6].hash)
    assert recover(kept, ROWS[6:]) == HEAD
    assert recover(HEAD, ROWS[9:]) == HEAD
    assert recover(START, ROWS) == HEAD


def test_recovery_takes_nothing_else():
    kept = Head(seq=7, hash=ROWS[6].hash)
    assert recover(None, ROWS) is None
    assert recover(kept, []) is None, "an old database"
    assert recover(kept, ROWS[7:]) is None, "the kept row itself is gone"
    assert recover(kept, [ROWS[6], *ROWS[8:]]) is None, "a gap"
    assert recover(replace(kept, hash=bytes(32)), ROWS[6:]) is None
    assert recover(replace(kept, hash=bytes(32)), ROWS[6:7]) is None, "the kept row is another"
    assert recover(kept, [ROWS[6], replace(ROWS[7], body="{}")]) is None


# --- the head file ---------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> HeadFile:
    made = HeadFile(tmp_path / "audit.head", KEY)
    made.make()
    return made


def test_the_newest_head_counts(file):
    for seq in range(1, 8):
        head = Head(seq=seq, hash=bytes([seq]) * 32)
        file.save(head)
        assert file.load() == head


def test_a_torn_write_leaves_the_head_before(file, tmp_path):
    for seq in (1, 2, 3):
        file.save(Head(seq=seq, hash=bytes([seq]) * 32))
    data = bytearray((tmp_path / "audit.head").read_bytes())
    newest = 0 if data[7] == 3 else 512
    data[newest + 20] ^= 1
    (tmp_path / "audit.head").write_bytes(data)
    assert file.load() == Head(seq=2, hash=bytes([2]) * 32)


def test_a_forged_head(file, tmp_path):
    HeadFile(tmp_path / "audit.head", b"x" * 32).force(Head(seq=99, hash=bytes(32)))
    assert file.load() is None


def test_a_head_file_is_not_made_twice(file):
    with pytest.raises(FileExistsError):
        file.make()


def test_the_head_is_not_written_through_a_link(file, tmp_path):
    (tmp_path / "audit.head").rename(tmp_path / "elsewhere")
    (tmp_path / "audit.head").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        file.save(HEAD)


def test_missing_and_empty(tmp_path):
    assert HeadFile(tmp_path / "none", KEY).load() is None
    (tmp_path / "empty").write_bytes(b"")
    assert HeadFile(tmp_path / "empty", KEY).load() is None


# --- text from outside -------------------------------------------------------------------------------------


def test_text_from_outside_is_one_printable_line():
    body = canonical(1, 2, Event(event="x", what="a\nb\x1b[2J\u202e", detail={"\x07": "\r"}))
    assert body.isascii()
    assert body.isprintable()
    fields = json.loads(body)
    assert fields["what"] == "a\\u{a}b\\u{1b}[2J\\u{202e}"
    assert fields["detail"] == {"\\u{7}": "\\u{d}"}


def test_text_from_outside_has_an_end():
    body = canonical(
        1, 2, Event(event="x", what="a" * 10**6, detail={str(number): "b" * 10**4 for number in range(100)})
    )
    assert len(body) < 64 * 1024
    assert "(1000000 characters)" in body
    assert len(json.loads(body)["detail"]) == audit.MAX_DETAIL


@given(st.text(), st.text())
def test_any_text_makes_a_row_that_verifies(what, detail):
    rows = chain(START, [(5, Event(event="x", what=what, detail={what: detail}))])
    assert verify(rows, Head(seq=1, hash=rows[0].hash)).ok
    assert all(cell.isprintable() for cell in audit.columns(rows[0]))


def test_a_damaged_row_is_shown_as_damaged():
    assert "damaged" in audit.columns(replace(ROWS[0], body="not json"))[-1]
