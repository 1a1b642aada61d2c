"""`replay play`, as a person sees it and as a pipe gets it."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from recorder.model import Event, Kind
from replay.picture import EXACT
from replay.screen import Screen
from tests.replay.conftest import Replay
from tests.replay.hostile import HOSTILE, acting
from tests.replay.recordings import Made, Studio, exited, out, performed, shell, typed
from tests.replay.watcher import Watcher

OURS = re.compile(r"\x1b7\x1b\[\?6l\x1b\[\d+;1H\x1b\(B\x0f\x1b\[0;7m")


@pytest.fixture(scope="module")
def slow(studio: Studio) -> Made:
    """A line each second for two minutes, on 80x20."""
    lines = [out(1000 * second, b"second %d\r\n" % second) for second in range(1, 121)]
    return studio.record([shell(rows=20), *lines, exited(121_000)])


def test_a_pipe_gets_everything_at_once(replay: Replay, shelled: Made) -> None:
    begun = time.monotonic()
    text = replay("play", shelled.session).out
    assert time.monotonic() - begun < 8
    assert "Linux\n" in text.replace("\r", "")
    assert "after a long silence ✓" in text
    assert "ZXZpbA" not in text
    assert "a title" not in text
    assert "typed" not in text
    assert text.endswith("[0:10.001] channel 0: session ended: closed\n")


def test_a_pipe_can_take_its_time(replay: Replay, studio: Studio) -> None:
    made = studio.record([shell(), out(400, b"one\r\n"), out(60_000, b"two\r\n"), exited(60_001)])
    begun = time.monotonic()
    assert "two" in replay("play", made.session, "--speed", "2").out
    assert time.monotonic() - begun > (0.4 + 2.0) / 2  # idle time is cut to 2 s


def test_what_happened_stands_on_lines(replay: Replay, mixed: Made) -> None:
    text = replay("play", mixed.session).out
    for part in (
        "channel 0: exec `printf 'a\\nb\\n'; echo \\x1b[31mred >&2`\na\nb\n",
        "channel 0: exit status 3\n", "sftp write /tmp/\\x1b]0;x\\x07.txt, 5 B, sha256 2cf24dba",
        "channel 2: forward-local db1:5432: opened\n", "channel 3: denied forward-remote (rule default): no rule\n",
        "session ended: killed by carol\n",
    ):  # fmt: skip
        assert part in text


def test_one_channel_alone(replay: Replay, mixed: Made) -> None:
    text = replay("play", mixed.session, "--channel", "1").out
    assert "sftp" in text
    assert "exec" not in text
    assert "there is no channel 9" in replay("play", mixed.session, "--channel", "9", code=64).err


def test_typed_text_is_shown_when_asked_for(replay: Replay, shelled: Made) -> None:
    text = replay("play", shelled.session, "--input").out
    assert "typed: uname\n" in text
    assert "typed without echo: 6 bytes, not kept\n" in text


def test_from_a_place(replay: Replay, shelled: Made) -> None:
    text = replay("play", shelled.session, "--from", "0:05").out
    assert "after a long silence" in text
    assert "Linux" not in text
    assert "no place in a recording" in replay("play", shelled.session, "--from", "soon", code=64).err


def test_hostile_output_reaches_no_pipe(replay: Replay, studio: Studio) -> None:
    made = studio.record([shell(), *(out(at, data + b"\x1b\\") for at, data in enumerate(HOSTILE.values()))])
    assert acting(replay("play", made.session).out) == []


# --- on a terminal ----------------------------------------------------------------------------------


def test_plays_in_its_own_time_and_leaves_the_terminal_as_it_was(studio: Studio, shelled: Made) -> None:
    begun = time.monotonic()
    with Watcher(shelled.session, "--speed", "4", config=studio.config) as person:
        person.sees("uname")
        person.sees("after a long silence ✓")
        assert person.ends() == 0
        assert person.is_as_before
        assert f"replay: {shelled.session}: closed" in person.text
        assert "Linux" in person.text
    assert time.monotonic() - begun > 0.7


def test_nothing_hostile_reaches_the_terminal(studio: Studio) -> None:
    shown = b"".join(data + b"\x1b\\" for data in HOSTILE.values())
    made = studio.record([shell(), *(out(at, shown[at * 20 : at * 20 + 20]) for at in range(len(shown) // 20 + 1))])
    with Watcher(made.session, "--speed", "16", config=studio.config) as person:
        assert person.ends() == 0
        assert acting(OURS.sub("", person.shown.decode())) == []


def test_pause_and_go_on(studio: Studio, slow: Made) -> None:
    with Watcher(slow.session, "--speed", "4", config=studio.config) as person:
        person.sees("second 2")
        person.press(" ")
        person.until("pause", lambda: "paused" in person.status)
        stood = person.text
        person.press("+")
        person.until("speed", lambda: "8x" in person.status)
        assert person.text.splitlines()[:-1] == stood.splitlines()[:-1]
        person.press(" ")
        person.sees("second 10")
        person.press("q")
        assert person.ends() == 0
        assert person.is_as_before


def test_seek_forth_and_back(studio: Studio, slow: Made) -> None:
    with Watcher(slow.session, config=studio.config) as person:
        person.until("status", lambda: "playing" in person.status)
        person.press(" g1:30\r")
        person.until("picture of 1:30", lambda: "1:30 / 2:01" in person.status and "second 90" in person.text)
        assert "second 91" not in person.text
        assert "second 70" not in person.text  # scrolled off: the recorded terminal had 20 rows
        person.press("\x1b[D")
        person.until("picture of 1:25", lambda: "1:25 / 2:01" in person.status and "second 86" not in person.text)
        assert "second 85" in person.text
        person.press(".")
        person.sees("second 86")
        person.press("\x1b[B")
        person.until("picture of 0:26", lambda: "second 26" in person.text and "second 27" not in person.text)
        person.press("q")
        assert person.ends() == 0


def test_at_the_end_it_waits_for_who_has_pressed_keys(studio: Studio, slow: Made) -> None:
    with Watcher(slow.session, config=studio.config) as person:
        person.until("status", lambda: "playing" in person.status)
        person.press("\x1b[F")
        person.until("end", lambda: "the end" in person.status)
        assert "second 120" in person.text
        person.press("\x1b[H")
        person.until("beginning", lambda: "playing" in person.status and "second 120" not in person.text)
        person.press("q")
        assert person.ends() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(studio: Studio, slow: Made, number: signal.Signals) -> None:
    with Watcher(slow.session, config=studio.config) as person:
        person.until("status", lambda: "playing" in person.status)
        assert not person.is_as_before
        person.process.send_signal(number)
        assert person.ends() == 128 + number
        assert person.is_as_before


def test_control_c_ends_it(studio: Studio, slow: Made) -> None:
    with Watcher(slow.session, config=studio.config) as person:
        person.until("status", lambda: "playing" in person.status)
        person.press("\x03")
        assert person.ends() == 0
        assert person.is_as_before


def test_a_window_that_is_too_small_says_so_and_draws_again_when_it_grows(studio: Studio, slow: Made) -> None:
    with Watcher(slow.session, config=studio.config, columns=70, rows=10) as person:
        person.until("warning", lambda: "recorded at 80x20" in person.text)
        person.press(" ")
        person.resize(120, 40)
        person.until("status in the last row", lambda: "paused" in person.status and "recorded" not in person.text)
        person.press("q")
        assert person.ends() == 0


def test_channels_one_after_the_other(studio: Studio) -> None:
    events = [shell(0), out(1, b"first shell\r\n"), shell(1, 2), out(3, b"second shell\r\n", 1), out(90_000, b"late")]
    made = studio.record(events)
    with Watcher(made.session, "--no-skip-idle", config=studio.config) as person:
        person.sees("first shell")
        assert "second shell" not in person.text
        person.press("\t")
        person.sees("second shell")
        assert "first shell" not in person.text
        person.press("\t")
        person.until("both, as lines", lambda: "first shell" in person.text and "channel 1: shell" in person.text)
        person.press("q")
        assert person.ends() == 0


def test_lines_on_a_terminal_begin_at_the_left(studio: Studio, mixed: Made) -> None:
    with Watcher(mixed.session, config=studio.config) as person:
        assert person.ends() == 0
        rows = person.text.splitlines()
        at = rows.index("a")
        assert rows[at : at + 3] == ["a", "b", "red"]


def test_typed_text_on_the_status_line(studio: Studio) -> None:
    made = studio.record([shell(), typed(10, b"l"), typed(20, b"s\r"), out(30_000, b"x"), exited(30_001)])
    with Watcher(made.session, "--input", "--no-skip-idle", config=studio.config) as person:
        person.until("typed text", lambda: "typed: ls\\r" in person.status)
        person.press("q")
        assert person.ends() == 0


@pytest.mark.parametrize("command", [["less", "/etc/services"], ["top", "-d", "0.3"]], ids=["less", "top"])
def test_a_real_program_looks_as_it_did(studio: Studio, command: list[str]) -> None:
    """On a larger window: it scrolls where it did, not at the window's last row."""
    events = performed(command, 80, 24, [(0.5, b"\r")] * 4)[:-1]
    expected = Screen(80, 24)
    for event in events:
        if event.kind == Kind.OUTPUT:
            expected.feed(event.data)
    made = studio.record([*events, Event(Kind.OUTPUT, 0, events[-1].ms + 60_000, b"")])
    with Watcher(made.session, "--no-skip-idle", "--speed", "16", config=studio.config, rows=40) as person:
        person.until("the same picture", lambda: person.text.splitlines()[:24] == expected.lines())
        person.press(" \x1b[H\x1b[F")
        person.until("the same picture", lambda: person.text.splitlines()[:24] == expected.lines())
        person.press("q")
        assert person.ends() == 0


def test_seeking_in_a_long_recording_draws_text(studio: Studio) -> None:
    block = b"".join(b"%05d \x1b[32mgreen\x1b[m\r\n" % number for number in range(1000))
    count = 8 * EXACT // len(block)
    made = studio.record([shell(rows=10), *(out(at * 100, block) for at in range(count)), exited(count * 100)])
    with Watcher(made.session, config=studio.config) as person:
        person.until("status", lambda: "playing" in person.status)
        person.press(" \x1b[F")
        person.until("end", lambda: "the end" in person.status and "00999 green" in person.text)
        assert "00990" not in person.text
        person.press("\x1b[D")
        person.until("5 s before", lambda: "paused" in person.status and "00999 green" in person.text)
        person.press("q")
        assert person.ends() == 0


def test_a_window_that_is_closed_ends_it(studio: Studio, slow: Made, tmp_path: Path) -> None:
    person = Watcher(slow.session, config=studio.config)
    person.until("status", lambda: "playing" in person.status)
    os.close(person._slave)
    os.close(person._master)
    assert person.process.wait(60) is not None
