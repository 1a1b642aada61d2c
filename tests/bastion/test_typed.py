"""TypedText: no secret in the clear, ordinary text in the clear; with real programs, and by its rules."""

import hashlib
import hmac
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.screen_state import ScreenState, asks_for_secret
from bastion.typed import MAX_CHUNKS, MAX_WAITING, PATIENCE, TypedText
from recorder.model import MAX_EVENT_DATA, Kind
from tests.support.terminal import KEY, Terminal

SECRET = b"Correct-h0rse!"

MASKED = """
import sys, termios, tty
old = termios.tcgetattr(0); tty.setcbreak(0)
sys.stdout.write(sys.argv[1]); sys.stdout.flush()
text = b""
while (char := sys.stdin.buffer.raw.read(1)) not in (b"\\n", b"\\r"):
    text += char
    sys.stdout.write("*"); sys.stdout.flush()
termios.tcsetattr(0, termios.TCSADRAIN, old)
print("\\r\\ngot", len(text))
"""


def shell() -> Terminal:
    terminal = Terminal("bash", "--norc", "--noprofile", "-i")
    terminal.until(b"$ ")
    return terminal


def fraction(terminal: Terminal, text: bytes) -> float:
    """How much of `text`, typed on purpose and no secret, is in the clear."""
    return (Counter(text) & Counter(terminal.clear())).total() / len(text)


# --- real programs ----------------------------------------------------------------------------------------


def test_a_shell_is_recorded_in_the_clear() -> None:
    text = b"echo one two three\recho 'quoted | piped' | cat\rtrue && cd /tmp; pwd\r"
    with shell() as terminal:
        for line in text.splitlines(keepends=True):
            terminal.keys(line)
            terminal.until(b"$ ")
        assert fraction(terminal, text) == 1
        sealed = [data for kind, data in terminal.events if kind == Kind.SEALED_INPUT]
        assert len(sealed) == 3  # one commitment a line


def test_pasted_lines_and_pasted_commands() -> None:
    text = b"echo pasted command with several words\r"
    with shell() as terminal:
        terminal.piece(text)
        terminal.until(b"$ ")
        terminal.piece(b"\x1b[200~echo in brackets\x1b[201~\r")
        terminal.until(b"brackets\r\n")
        assert fraction(terminal, text + b"echo in brackets") == 1


def test_editing_completion_and_history() -> None:
    with shell() as terminal:
        terminal.keys(b"echo wrold\x7f\x7f\x7f\x7forld\r")
        terminal.until(b"$ ")
        terminal.keys(b"echo end\x01")  # ^A: to the beginning of the line
        terminal.piece(b"\x1b[C\x1b[C")
        terminal.keys(b"xyz\r")
        terminal.until(b"$ ")
        terminal.piece(b"\x1b[A")
        terminal.keys(b" more\r")
        terminal.until(b"$ ")
        assert fraction(terminal, b"echo wroldorld\recho endxyz\r more\r") >= 0.95


@pytest.mark.parametrize("pace", ["keys", "piece"])
@pytest.mark.parametrize(
    "command",
    [
        b"read -s -p 'Password: ' x; echo",
        b"read -s -p 'Tell me: ' x; echo",  # no word that says what it is
        b"read -s x; echo done",
        b"stty -echo; read x; stty echo",
        f"{sys.executable} -c 'import getpass; getpass.getpass()'".encode(),
        f"{sys.executable} -c 'import getpass; getpass.getpass(\"Kennwort: \")'".encode(),
    ],
)
def test_no_secret_where_the_echo_is_off(command: bytes, pace: str) -> None:
    with shell() as terminal:
        terminal.keys(command)
        terminal.piece(b"\r")
        terminal.until_hidden()
        while terminal._read(0.05):  # the prompt, if there is one
            pass
        getattr(terminal, pace)(SECRET)
        terminal.piece(b"\r")
        terminal.until(b"$ ")
        terminal.keys(b"echo after\r")
        terminal.until(b"after\r\n")
        clear = terminal.clear()
        assert not leaked(clear)
        assert b"echo after\r" in clear
        assert fraction(terminal, command) >= 0.95


def leaked(clear: bytes) -> bool:
    """Are three neighbouring characters of the secret anywhere in the clear?"""
    return any(SECRET[i : i + 3] in clear for i in range(len(SECRET) - 2))


@pytest.mark.parametrize("prompt", ["[sudo] password for x: ", "Mot de passe : ", "PIN? "])
def test_a_mask_shows_nothing(prompt: str, tmp_path: Path) -> None:
    (tmp_path / "masked.py").write_text(MASKED)
    with Terminal(sys.executable, str(tmp_path / "masked.py"), prompt) as terminal:
        terminal.until(prompt.encode())
        terminal.keys(b"**" + SECRET + b"\r")
        terminal.until(b"got 16")
        assert terminal.clear() == b"\r"


def test_a_mask_without_a_known_prompt(tmp_path: Path) -> None:
    (tmp_path / "masked.py").write_text(MASKED)
    with Terminal(sys.executable, str(tmp_path / "masked.py"), "Say it ") as terminal:
        terminal.until(b"it ")
        terminal.keys(b"*" + SECRET + b"\r")
        terminal.until(b"got 15")
        assert terminal.clear() == b"\r"


def test_sudo_asks() -> None:
    if not shutil.which("sudo"):
        pytest.skip("sudo apt install sudo")
    with shell() as terminal:
        # As root there is nothing to ask for, so go by way of a user who must say a password.
        terminal.keys(b"setpriv --reuid 65534 --regid 65534 --clear-groups sudo -k id\r")
        terminal.until(b"assword")
        terminal.until(b": ")
        terminal.until_hidden()
        terminal.keys(SECRET)
        terminal.piece(b"\r")
        terminal.until(b"ry again")
        terminal.until(b": ")
        terminal.until_hidden()
        terminal.piece(SECRET)
        while b"$ " not in terminal.screen:  # sudo loses a ^C that comes between its prompt and its read(2)
            terminal.piece(b"\x03")
            while b"$ " not in terminal.screen and terminal._read(2.0):  # another one would be the shell's
                pass
        terminal.until(b"$ ")
        terminal.keys(b"echo after\r")
        terminal.until(b"after\r\n")
        assert not leaked(terminal.clear())
        assert b"echo after\r" in terminal.clear()


@pytest.mark.parametrize(
    ("argv", "start", "typed", "end"),
    [
        (["vim", "-u", "NONE", "-N", "FILE"], b"FILE", b"ihello brave world\x1b:s/brave/new/\r:q!\r", b""),
        (["less", "FILE"], b"FILE", b"/line\rGgq", b""),
        (["python3", "-q"], b">>> ", b"sum([1, 2, 3])\r'a' * 3\r", b"aaa"),
        (["sqlite3"], b"sqlite> ", b"select 1 + 1;\rselect 'word';\r", b"word\r\n"),
    ],
)
def test_programs_that_edit_themselves(argv: list[str], start: bytes, typed: bytes, end: bytes, tmp_path: Path) -> None:
    if not shutil.which(argv[0]):
        pytest.skip(f"{argv[0]} is not installed")
    (tmp_path / "FILE").write_text("line\n" * 200)
    argv = [argv[0], *(str(tmp_path / word) if word == "FILE" else word for word in argv[1:])]
    with Terminal(*argv) as terminal:
        terminal.until(start)
        terminal.keys(typed)
        if end:
            terminal.until(end)
        assert fraction(terminal, typed) >= 0.95


def test_a_password_inside_tmux() -> None:
    if not shutil.which("tmux"):
        pytest.skip("sudo apt install tmux")
    with Terminal(
        "tmux", "-f", "/dev/null", "-L", f"bastion-test-{time.monotonic_ns()}", "new", "bash --norc"
    ) as terminal:
        terminal.until(b"bash-")
        terminal.keys(b"read -s -p 'Pass''word: ' x\r")
        terminal.until(b"Password: ")
        while terminal._read(0.3):  # tmux draws its status line
            pass
        terminal.keys(SECRET + b"\r")
        terminal.until(b"bash-")
        terminal.keys(b"tmux kill-server\r")
        assert not leaked(terminal.clear())
        assert fraction(terminal, b"tmux kill-server") == 1


# --- rules ------------------------------------------------------------------------------------------------


def kinds(events: list[tuple[Kind, bytes]]) -> list[tuple[str, bytes]]:
    return [(kind.name, b"" if kind == Kind.SEALED_INPUT else data) for kind, data in events]


def test_seal_reveal_then_plain() -> None:
    tap = TypedText(KEY, terminal=True)
    assert kinds(tap.typed(b"l")) == [("SEALED_INPUT", b"")]
    assert tap.shown(b"\x1b[?2004hl") == [(Kind.REVEALED, b"l")]
    assert tap.typed(b"s") == [(Kind.INPUT, b"s")]
    assert tap.shown(b"s") == []
    assert tap.typed(b"\r") == [(Kind.INPUT, b"\r")]
    assert kinds(tap.typed(b"x")) == [("SEALED_INPUT", b"")]


def test_the_commitment_can_be_checked_by_the_holder_of_the_key() -> None:
    tap = TypedText(KEY, terminal=True)
    for number, text in enumerate((b"first", b"first")):
        [(_, data)] = tap.typed(text)
        assert data[:32] == hmac.digest(KEY, number.to_bytes(8, "big") + text, hashlib.sha256)
        assert data[32:] == (5).to_bytes(4, "big")


def test_keys_that_are_no_text_are_plain() -> None:
    tap = TypedText(KEY, terminal=True)
    for keys in (b"\x1b[A", b"\x1bOP", b"\x03", b"\t", b"\x1b[5~", b"\x7f", b"\x1b[1;5D"):
        assert tap.typed(keys) == [(Kind.INPUT, keys)]


def test_an_answer_that_begins_like_the_secret_is_no_echo() -> None:
    tap = TypedText(KEY, terminal=True)
    tap.typed(b"S")
    assert tap.shown(b"Sorry, try again.") == []


def test_what_comes_after_the_line_is_no_echo_of_it() -> None:
    tap = TypedText(KEY, terminal=True)
    tap.typed(b"Sorry")
    tap.typed(b"\r")
    assert tap.shown(b"\r\nSorry") == []
    assert tap.shown(b"Sorry") == []  # the line is over


def test_text_without_echo_ends_the_trust_in_a_line() -> None:
    tap = TypedText(KEY, terminal=True)
    tap.typed(b"a")
    tap.shown(b"a")
    assert kinds(tap.typed(b"b")) == [("INPUT", b"b")]
    tap.shown(b"*")
    assert kinds(tap.typed(b"c")) == [("SEALED_INPUT", b"")]


def test_a_new_line_ends_the_trust_in_an_echo() -> None:
    """Attack by accident: a menu echoes the key, then asks on a new line with the echo off."""
    tap = TypedText(KEY, terminal=True)
    tap.typed(b"p")
    assert tap.shown(b"p") == [(Kind.REVEALED, b"p")]
    tap.shown(b"\r\nSay it ")
    assert kinds(tap.typed(SECRET)) == [("SEALED_INPUT", b"")]


def test_a_slow_line_seals_and_reveals() -> None:
    tap = TypedText(KEY, terminal=True)
    for char in b"hello":
        tap.typed(bytes([char]))
    assert tap.shown(b"he") == [(Kind.REVEALED, b"he")]
    assert tap.shown(b"llo") == [(Kind.REVEALED, b"llo")]


def test_a_guard_holds_against_an_echo() -> None:
    tap = TypedText(KEY, terminal=True)
    tap.shown(b"Password: ")
    assert kinds(tap.typed(b"p")) == [("SEALED_INPUT", b"")]
    assert tap.shown(b"p") == []
    assert kinds(tap.typed(b"w\x1b[D\t")) == [("SEALED_INPUT", b""), ("SEALED_INPUT", b"")]
    assert tap.typed(b"\r") == [(Kind.INPUT, b"\r")]


def test_a_star_for_a_star_is_no_echo() -> None:
    """A mask is the echo of any key: a secret that begins with `*` proves nothing."""
    tap = TypedText(KEY, terminal=True)
    tap.typed(b"*")
    assert tap.shown(b"*") == []
    assert kinds(tap.typed(b"h")) == [("SEALED_INPUT", b"")]


def test_a_prompt_asks_once() -> None:
    tap = TypedText(KEY, terminal=True)
    tap.shown(b"Password: ")
    tap.typed(b"secret")
    tap.typed(b"\r")
    tap.typed(b"l")
    assert tap.shown(b"l") == [(Kind.REVEALED, b"l")], "Enter has answered it"
    assert tap.typed(b"s") == [(Kind.INPUT, b"s")]


def test_what_waits_for_its_echo_has_an_end() -> None:
    tap = TypedText(KEY, terminal=True)
    for _ in range(3 * MAX_CHUNKS):
        tap.typed(b"x" * 100)
    assert len(tap._waiting) <= MAX_CHUNKS
    for _ in range(20):
        tap.typed(b"x" * 1000)
    assert sum(len(chunk.text) for chunk in tap._waiting) <= MAX_WAITING


def test_an_echo_is_not_looked_for_without_end() -> None:
    tap = TypedText(KEY, terminal=True)
    tap.typed(b"secret word")
    for _ in range(PATIENCE + 1):
        assert tap.shown(b"output ") == []
    assert tap.shown(b"secret word") == [], "long after, that is no echo"


def test_a_guard_ends_when_the_prompt_is_over() -> None:
    tap = TypedText(KEY, terminal=True)
    tap.shown(b"Password: ")
    tap.typed(b"p")
    tap.shown(b"\r\ntimed out\r\n$ ")
    tap.typed(b"ls")
    assert tap.shown(b"ls") == [(Kind.REVEALED, b"ls")]


def test_typed_ahead_shows_behind_the_prompt() -> None:
    tap = TypedText(KEY, terminal=True)
    tap.typed(b"make all")
    assert tap.shown(b"building\r\ndone\r\n$ make all") == [(Kind.REVEALED, b"make all")]


def test_streams_without_a_terminal() -> None:
    tap = TypedText(KEY, terminal=False)
    assert tap.typed(b"data\n\0more") == [(Kind.INPUT, b"data\n\0more")]
    tap.shown(b"[sudo via ansible, key=abc] password:")
    assert kinds(tap.typed(b"Corr\tect")) == [("SEALED_INPUT", b"")]
    tap.shown(b"noise\n")
    assert kinds(tap.typed(b"-h0rse!\nimport os\n")) == [("SEALED_INPUT", b""), ("INPUT", b"\nimport os\n")]
    assert tap.typed(b"x" * 70_000) == [
        (Kind.INPUT, b"x" * MAX_EVENT_DATA),
        (Kind.INPUT, b"x" * MAX_EVENT_DATA),
        (Kind.INPUT, b"x" * 4464),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "Password:", "password: ", "root@web1's password: ", "Enter passphrase for key '/root/.ssh/id_rsa': ",
        "[sudo] password for x: ", "(alice@web1) Verification code: ", "Enter PIN for token: ", "OTP: ",
        "Passwort: ", "Mot de passe : ", "Contraseña:", "Пароль: ", "密码：", "パスワード:", "비밀번호: ",
        "Enter new UNIX password: ",
        "Vault password (ansible): ", "Password for 'https://git@host': ", "SSH password> ",
    ],
)  # fmt: skip
def test_prompts_for_secrets(line: str) -> None:
    assert asks_for_secret(line)


@pytest.mark.parametrize("line", ["$ ", "user@password-host:~$ ", "Username: ", "Continue? ", "password changed\n", ""])
def test_other_prompts(line: str) -> None:
    assert not asks_for_secret(line)


@given(st.integers(1, 30))
def test_mode_switches_may_be_cut(size: int) -> None:
    data = b"$ less f\r\n\x1b[?1049h\x1b[?1h\x1b=text\x1b[?1049;25l\x1b[?1l"
    for end, expected in ((data.index(b"text"), True), (len(data), False)):
        state = ScreenState()
        for at in range(0, end, size):
            state.output(data[at : min(at + size, end)])
        assert state.full_screen is expected


CHUNKS = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from([b"ls", b"l", b"s", b"*", b"\r", b"\r\n", b"\x1b[A", b"Password: ", b"$ ", b"\x1b[?1049h"]),
        ),
    ),
    max_size=40,
)


@given(CHUNKS, st.booleans())
def test_every_typed_byte_is_accounted_for_once(chunks: list[tuple[bool, bytes]], terminal: bool) -> None:
    tap = TypedText(KEY, terminal)
    number = 0
    hidden = bytearray()
    for shown, data in chunks:
        if shown:
            for kind, text in tap.shown(data):
                assert kind == Kind.REVEALED
                at = 0
                for byte in text:  # in order, out of what was sealed, each byte once
                    at = hidden.index(byte, at) + 1
                del hidden[:at]
            continue
        at = 0
        for kind, recorded in tap.typed(data):
            if kind == Kind.INPUT:
                assert data[at : at + len(recorded)] == recorded
                at += len(recorded)
            else:
                assert kind == Kind.SEALED_INPUT
                length = int.from_bytes(recorded[32:], "big")
                text = data[at : at + length]
                assert recorded[:32] == hmac.digest(KEY, number.to_bytes(8, "big") + text, hashlib.sha256)
                number += 1
                at += length
                hidden += text
        assert at == len(data)
