"""Nothing that a recorded target sends does more on the auditor's terminal than draw (R8)."""

import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.escapes import CSI, ESCAPE, MAX_STRING, TEXT, Parser
from replay.safe import RESET, Filter, lines
from tests.replay.hostile import HOSTILE, acting
from tests.support.net import wait_until

HARMLESS = [
    b"plain",
    "\u2713 \u65e5\u672c \U0001f600".encode(),
    b"\x1b[1;31mred\x1b[0m",
    b"\x1b[38;2;1;2;3mrgb",
    b"\x1b[4:3mcurly",
    b"\x1b[H",
    b"\x1b[10;20H",
    b"\x1b[2J",
    b"\x1b[K",
    b"\x1b[5;10r",
    b"\x1b[?1049h",
    b"\x1b[?25l",
    b"\x1b(0lqk\x1b(B",
    b"a\tb\r\n",
    b"\x1bM",
    b"\x1b7\x1b8",
    b"\x1b[3L",
    b"\x1b[4P",
    b"\x1b[s\x1b[u",
    b"\x1b[2T",
    b"\x1b[4h",
    b"\x1b[3g\x1bH",
    b"\x0e\x0f",
    b"\x1b#8",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sequences_do_nothing(name: str) -> None:
    shown = Filter().feed(b"before " + HOSTILE[name] + b"\x1b\\ after")
    assert acting(shown) == []
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert "\x1b" not in shown
    assert "evil" not in shown
    assert "owned" not in shown


@pytest.mark.parametrize("name", HOSTILE)
def test_cut_anywhere_they_do_nothing_either(name: str) -> None:
    data = HOSTILE[name] + b"\x1b\\ after"
    whole = Filter().feed(data)
    for cut in range(len(data) + 1):
        passed = Filter()
        assert passed.feed(data[:cut]) + passed.feed(data[cut:]) == whole


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 48


@pytest.mark.parametrize("data", HARMLESS)
def test_what_draws_passes_as_it_is(data: bytes) -> None:
    assert Filter().feed(data) == data.decode()


def test_a_string_without_end_hides_no_more_than_its_limit() -> None:
    shown = Filter().feed(b"\x1b]0;" + b"x" * (MAX_STRING + 1000) + b"seen")
    assert shown.endswith("xseen")
    assert len(shown) < 1100


def test_a_full_reset_becomes_an_empty_picture() -> None:
    shown = Filter().feed(b"\x1bc")
    assert acting(shown) == []
    assert "\x1b[2J" in shown


def test_rows_hold_the_picture() -> None:
    passed = Filter(24)
    assert passed.feed(b"\x1b[99;5H") == "\x1b[24;5H"
    assert passed.feed(b"\x1b[99d") == "\x1b[24d"
    assert passed.feed(b"\x1b[r") == "\x1b[1;24r"
    assert passed.feed(b"\x1b[3;99r") == "\x1b[3;24r"
    assert passed.feed(b"\x1b[H") == "\x1b[1H"


def test_a_command_without_a_terminal_starts_its_lines_at_the_left() -> None:
    assert lines(Filter().feed, b"a\nb\r\nc") == "a\r\nb\r\nc"


PIECES = st.one_of(
    st.sampled_from(
        [
            *HOSTILE.values(),
            *HARMLESS,
            b"\x1b",
            b"[",
            b"]",
            b"\x1b\\",
            b"\x07",
            b"0;",
            b"?",
            b"\xc2",
            b"\x9b",
            b"\xe2\x9c",
        ]
    ),
    st.binary(max_size=6),
    st.text(max_size=6).map(lambda text: text.encode("utf-8", "surrogatepass")),
)


@given(st.lists(PIECES, max_size=12).map(b"".join), st.lists(st.integers(0, 200), max_size=6))
def test_random_streams_do_nothing_and_cuts_change_nothing(data: bytes, cuts: list[int]) -> None:
    whole = Filter().feed(data)
    assert acting(whole) == []
    passed, parts, last = Filter(), [], 0
    for cut in sorted(cuts):
        parts.append(passed.feed(data[last:cut]))
        last = max(last, cut)
    parts.append(passed.feed(data[last:]))
    assert "".join(parts) == whole


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_byte_by_byte_gives_the_same_tokens(data: bytes) -> None:
    slow = Parser()
    assert _joined([token for byte in data for token in slow.feed(bytes([byte]))]) == _joined(Parser().feed(data))


def _joined(tokens: list[tuple[int, str, str, str]]) -> list[tuple[int, str, str, str]]:
    joined: list[tuple[int, str, str, str]] = []
    for token in tokens:
        if token[0] == TEXT and joined and joined[-1][0] == TEXT:
            joined[-1] = (TEXT, joined[-1][1] + token[1], "", "")
        else:
            joined.append(token)
    return joined


def test_controls_in_a_sequence_are_obeyed_and_the_sequence_goes_on() -> None:
    assert Parser().feed(b"\x1b[1\r;2H") == [(1, "\r", "", ""), (CSI, "1;2", "", "H")]
    assert Parser().feed(b"\x1b[1\x1bM") == [(ESCAPE, "", "", "M")]


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux (make packages)")
def test_a_real_terminal_keeps_its_title_clipboard_and_answers(tmp_path: Path) -> None:
    """tmux is the terminal: a title, a clipboard and an answer typed back would show in it."""
    everything = b"".join(HOSTILE.values()) + b"\x1b\\"
    seen, raw = _on_tmux(tmp_path / "a", Filter().feed(everything).encode()), _on_tmux(tmp_path / "b", everything)
    assert seen == {"title": "calm", "buffers": "", "typed": b""}
    assert raw != seen, "the terminal is not hurt even without the filter: this test shows nothing"


def _on_tmux(folder: Path, data: bytes) -> dict[str, object]:
    folder.mkdir()
    (folder / "data").write_bytes(data + RESET.encode())
    # raw mode, so that answers of the terminal arrive; they are read until nothing has come for half a second
    program = "stty raw -echo min 0 time 5; cat data; cat > typed; touch done; sleep 60"
    name = f"replay-{uuid.uuid4().hex[:8]}"
    tmux = ["tmux", "-L", name, "-f", "/dev/null"]
    env = {**os.environ, "TMUX": ""}

    def run(*words: str) -> str:
        done = subprocess.run([*tmux, *words], capture_output=True, text=True, cwd=folder, env=env, check=False)
        return done.stdout.strip()

    options = ["set", "-s", "set-clipboard", "on", ";", "set", "-g", "allow-passthrough", "on", ";"]
    start = ["new-session", "-d", "-x", "80", "-y", "24", ";", *options, "select-pane", "-T", "calm"]
    try:
        run(*start)
        run("respawn-pane", "-k", "-c", str(folder), f"sh -c '{program}'")
        wait_until("the answers", (folder / "done").exists)
        return {
            "title": run("display-message", "-p", "#{pane_title}"),
            "buffers": run("list-buffers"),
            "typed": (folder / "typed").read_bytes(),
        }
    finally:
        run("kill-server")
