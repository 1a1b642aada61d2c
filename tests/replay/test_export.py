"""`replay export`: for asciinema, for readers, for programs."""

import base64
import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from recorder.model import Event, Kind, Marker, Start
from tests.replay.conftest import Replay
from tests.replay.hostile import HOSTILE, acting
from tests.replay.recordings import Made, Studio, exited, note, out, performed, shell, typed


def cast(text: str) -> tuple[dict[str, object], list[list[object]]]:
    header, *events = [json.loads(line) for line in text.splitlines()]
    return header, events


def test_asciicast(replay: Replay, shelled: Made) -> None:
    header, events = cast(replay("export", shelled.session, "--format", "asciicast").out)
    assert (header["version"], header["width"], header["height"]) == (2, 80, 24)
    assert header["env"] == {"TERM": "xterm-256color"}
    about = header["bastion"]
    assert isinstance(about, dict)
    assert about["session"] == shelled.session
    assert "not UTF-8" in about["lossy"]
    assert events[0] == [0.1, "o", "\x1b[01;32mroot@web1\x1b[0m:~# "]
    assert {event[1] for event in events} == {"o"}
    assert [event[0] for event in events] == sorted(event[0] for event in events)  # type: ignore[type-var]


def test_asciicast_with_input_sizes_and_marks(replay: Replay, studio: Studio) -> None:
    events = [
        shell(), typed(1, b"x"), Event(Kind.RESIZE, 0, 2, b"100x40"), note(Kind.MARKER, 0, 3, Marker(text="look\x1b")),
        Event(Kind.RESIZE, 0, 4, b"nonsense"), out(5, b"half \xe2\x9c"), out(6, b"\x93 bad \xff"), out(7, b"other", 1),
    ]  # fmt: skip
    made = studio.record(events)
    _, found = cast(replay("export", made.session, "--format", "asciicast", "--input").out)
    assert found == [
        [0.001, "i", "x"], [0.002, "r", "100x40"], [0.003, "m", "look\\x1b"], [0.005, "o", "half "],
        [0.006, "o", "✓ bad \ufffd"],
    ]  # fmt: skip


def test_an_exec_without_a_terminal_starts_its_lines_at_the_left(replay: Replay, mixed: Made) -> None:
    header, events = cast(replay("export", mixed.session, "--format", "asciicast").out)
    assert str(header["command"]).startswith("printf")
    assert events[0][2] == "a\r\nb\r\n"


def test_no_hostile_sequence_is_exported(replay: Replay, studio: Studio) -> None:
    made = studio.record([shell(), *(out(at, data + b"\x1b\\") for at, data in enumerate(HOSTILE.values()))])
    _, events = cast(replay("export", made.session, "--format", "asciicast").out)
    assert acting("".join(str(event[2]) for event in events)) == []
    text = replay("export", made.session, "--format", "text").out
    assert "\x1b" not in text
    assert acting(text) == []


def test_what_has_no_screen_is_no_asciicast(replay: Replay, studio: Studio) -> None:
    made = studio.record([note(Kind.MARKER, 0, 3, Marker(text="alone"))])
    said = replay("export", made.session, "--format", "asciicast", code=64)
    assert said.err.endswith(f"replay: see what happened: replay export {made.session} --format text\n")


def test_text_of_a_real_shell_is_what_a_person_would_have_read(replay: Replay, studio: Studio) -> None:
    lines = [b"seq 60\r", b"clear\r", b"echo \xe2\x9c\x93 do\x08\x08ok\r", b"less /etc/services\r"]
    keys = [*((b"$ ", line) for line in lines), (b"tcpmux", b"q"), (b"$ ", b"exit\r")]
    made = studio.record(performed(["bash", "--norc", "-i"], 80, 24, keys))
    text = replay("export", made.session, "--format", "text").out
    lines = text.splitlines()
    at = lines.index("1")
    assert lines[at : at + 60] == [str(number) for number in range(1, 61)], "nothing is lost by scrolling or clearing"
    assert lines.count("60") == 1
    assert "✓ ok" in lines
    assert "Network services" in text or "tcpmux" in text, "the screen of less, before it was switched away"
    assert lines[-1].endswith("session ended: closed")
    assert "\x1b" not in text


def test_text_of_what_happened(replay: Replay, mixed: Made, shelled: Made) -> None:
    text = replay("export", mixed.session, "--format", "text").out
    assert "[0:00.009] channel 0: exit status 3" in text
    assert "\na\nb\nred\n" in text
    assert "denied forward-remote" in text
    assert "typed: uname" in replay("export", shelled.session, "--format", "text", "--input").out


def test_text_of_a_command_without_a_terminal(replay: Replay, studio: Studio) -> None:
    data = b"10%\r20%\r\na\tb\x1b[31m red\x1b[m\n\n" + b"x" * 70_000 + b"\nno end"
    pieces = [out(at // 1000, data[at : at + 1000]) for at in range(0, len(data), 1000)]
    made = studio.record([note(Kind.START, 0, 0, Start(kind="exec", command=b"x")), *pieces, exited(999)])
    lines = replay("export", made.session, "--format", "text").out.splitlines()
    assert lines[1:4] == ["20%", "a\tb red", ""]
    assert "".join(lines[4:-3]) == "x" * 70_000
    assert lines[-3] == "no end"


def test_a_terminal_of_no_size_is_80x24(replay: Replay, studio: Studio) -> None:
    line = b"y" * 60
    made = studio.record([shell(columns=0, rows=0), Event(Kind.RESIZE, 0, 1, b"0x0"), out(2, line)])
    assert line.decode() in replay("export", made.session, "--format", "text").out.splitlines()
    header, _ = cast(replay("export", made.session, "--format", "asciicast").out)
    assert (header["width"], header["height"]) == (80, 24)


def test_json_lines_are_exact(replay: Replay, studio: Studio) -> None:
    data = b"\x1b]0;x\x07 \xff\xfe"
    made = studio.record([shell(), out(5, data), out(6, "✓".encode()), exited(7, 2)])
    head, start, binary, text, ended, last = [
        json.loads(line) for line in replay("export", made.session, "--format", "jsonl").out.splitlines()
    ]
    assert head["recording"]["session"] == made.session
    assert head["recording"]["person"] == "alice"
    assert (start["event"], start["term"], start["columns"]) == ("start", "xterm-256color", 80)
    assert base64.b64decode(binary["base64"]) == data
    assert text == {"ms": 6, "channel": 0, "event": "output", "text": "✓"}
    assert (ended["event"], ended["status"]) == ("exit", 2)
    assert (last["event"], last["what"], last["reason"]) == ("access", "ended", "closed")


def test_json_lines_keep_the_commitment_of_what_was_typed_unseen(replay: Replay, shelled: Made) -> None:
    rows = [json.loads(line) for line in replay("export", shelled.session, "--format", "jsonl").out.splitlines()]
    (sealed,) = [row for row in rows if row.get("event") == "sealed_input"]
    assert (sealed["commitment"], sealed["length"]) == ("00" * 32, 6)


def test_a_file_is_for_its_owner_and_never_half_written(replay: Replay, shelled: Made, tmp_path: Path) -> None:
    output = tmp_path / "session.cast"
    said = replay("export", shelled.session, "--format", "asciicast", "--output", output)
    assert said.out == ""
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [output]
    nowhere = tmp_path / "no" / "session.cast"
    assert "cannot write" in replay("export", shelled.session, "--format", "text", "--output", nowhere, code=69).err


@pytest.mark.skipif(shutil.which("asciinema") is None, reason="asciinema is not installed")
def test_asciinema_plays_it(replay: Replay, shelled: Made, tmp_path: Path) -> None:
    output = tmp_path / "session.cast"
    replay("export", shelled.session, "--format", "asciicast", "--output", output)
    words = ["script", "-qec", f"env LC_ALL=C.UTF-8 asciinema cat {output}", "/dev/null"]  # it wants a terminal
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=30)
    assert b"after a long silence" in done.stdout
