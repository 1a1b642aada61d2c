"""What counts as a transfer, which variables pass, and what is kept of streams and of legacy scp."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.streams import MAX_UNANSWERED, STRETCH, ScpTap, StreamTap
from bastion.transfer import env_allowed, kind_of, scp_side
from policy.model import ChannelKind
from recorder.model import SftpOp
from tests.support.tee import read_log

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        # as the clients send them
        (b"scp -t /tmp/x", "scp"),
        (b"scp -v -r -p -d -t .", "scp"),
        (b"scp -rpf -- -file", "scp"),
        (b"scp -f 'two words' *.txt", "scp"),
        (b"scp -t two\\ words", "scp"),
        (b"rsync --server -vlogDtpre.iLsfxCIvu . /tmp/", "scp"),
        (b"rsync --server --sender -logDtpre.iLsfxCIvu --delete --partial-dir .~tmp~ . /srv", "scp"),
        (b"/usr/lib/openssh/sftp-server", "sftp"),
        (b"/usr/libexec/openssh/sftp-server -l INFO -f AUTH -u 022", "sftp"),
        (b"git-upload-pack 'repo.git'", "exec"),
        (b"ls -l", "exec"),
        # as somebody sends them who may transfer files and wants more
        (b"scp -t /tmp/x; id", "exec"),
        (b"scp -t `id`", "exec"),
        (b"scp -t $(id)", "exec"),
        (b"scp -t $HOME", "exec"),
        (b"scp -t x\nid", "exec"),
        (b"scp -t x\r\nid", "exec"),
        (b"scp -t x && id", "exec"),
        (b"scp -t x|sh", "exec"),
        (b"scp -t >/etc/passwd", "exec"),
        (b"scp -t x \\\nid", "exec"),
        (b"scp -t 'a\\' ; id '", "exec"),
        (b"scp -t x\0", "exec"),
        (b"scp -S /tmp/evil -f host:x .", "exec"),
        (b"scp -o ProxyCommand=evil -t x", "exec"),
        (b"scp -f -S evil", "exec"),
        (b"scp -t", "exec"),
        (b"scp -t -f x", "exec"),
        (b"scp a b", "exec"),
        (b"scp -t a b", "exec"),
        (b" scp -t x", "exec"),
        (b"A=b scp -t x", "exec"),
        (b"/tmp/scp -t x", "exec"),
        (b"rsync -e evil host:x y", "exec"),
        (b"rsync --server --daemon .", "exec"),
        (b"rsync --server --config=/tmp/evil --daemon .", "exec"),
        (b"rsync --server '--daemon' .", "exec"),
        (b"rsync --server --rsh=evil . x", "exec"),
        (b"rsync --server -e evil . x", "exec"),
        (b"rsync --server . x; id", "exec"),
        (b"rsync --server . `id`", "exec"),
        (b"/tmp/sftp-server", "exec"),
        (b"sftp-server;id", "exec"),
        (b"sftp-server -d $(id)", "exec"),
        (b"", "exec"),
        (b"scp -t " + b"x" * 40_000, "exec"),
    ],
)
def test_commands(command: bytes, kind: str) -> None:
    assert kind_of(command) == kind


@given(st.text(alphabet="xtrSf -;|&$`'\\\n\r\t(){}<>\"!~*#=", max_size=12))
def test_a_transfer_is_the_same_words_for_a_shell(text: str) -> None:
    """Guard: the grammar of words. What passes it, sh must read as one call of scp with no output of its own."""
    command = "scp -t " + text
    if kind_of(command.encode()) != ChannelKind.EXEC:
        script = "scp() { printf '<%s>' scp \"$@\"; }; " + command
        shown = subprocess.run(["sh", "-fc", script], capture_output=True, check=True, timeout=60, cwd="/")
        assert shown.stdout.startswith(b"<scp><-t><")
        assert not shown.stderr


def test_the_side_of_an_scp() -> None:
    assert scp_side(b"scp -r -t /srv/x") == (True, b"/srv/x")
    assert scp_side(b"scp -pf -- '-odd name'") == (False, b"-odd name")
    assert scp_side(b"scp -f a\\ b") == (False, b"a b")
    assert scp_side(b"cat") is None


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        (b"LANG", b"de_DE.UTF-8", True),
        (b"LC_ALL", b"C.UTF-8", True),
        (b"COLORTERM", b"truecolor", True),
        (b"TZ", b"Europe/Berlin", True),
        (b"GIT_PROTOCOL", b"version=2", True),
        (b"NO_COLOR", b"", True),
        (b"LD_PRELOAD", b"/tmp/x.so", False),
        (b"BASH_ENV", b"/tmp/x", False),
        (b"PATH", b"/tmp", False),
        (b"GIT_SSH_COMMAND", b"x", False),
        (b"LC_ALL\0LD_PRELOAD", b"x", False),
        (b"LC_ALL=x", b"x", False),
        (b"LC_" + b"A" * 100, b"x", False),
        (b"LC_ALL", b"() { :; }; id", False),
        (b"LANG", b"a\nb", False),
        (b"LANG", b"\x1b]52;c;\x07", False),
        (b"LANG", b"x" * 2000, False),
        (b"TZ", b":/etc/shadow", False),
        (b"TZ", b"../../etc/shadow", False),
        (b"TZ", b"Europe/../../etc/shadow", False),
        (b"GIT_PROTOCOL", b"version=2;id", False),
    ],
)
def test_variables(name: bytes, value: bytes, allowed: bool) -> None:
    assert env_allowed(name, value) is allowed


# --- streams ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(0, 100))
def test_kept_and_digested_bytes_are_the_stream(sizes: list[int], keep: int) -> None:
    content = bytes(range(256)) * 4
    tap = StreamTap(keep=keep, keep_content=False, hash_content=True, stream="out")
    kept, at = b"", 0
    for size in sizes:
        part, notes = tap.feed(content[at : at + size])
        kept += part or b""
        assert not notes
        at += size
    assert kept == content[: min(keep, at)]
    notes = tap.finish()
    assert [(note.start, note.size, note.sha256) for note in notes] == (
        [(keep, at - keep, hashlib.sha256(content[keep:at]).digest())] if at > keep else []
    )
    assert tap.finish() == []


def test_a_long_stream_is_digested_by_stretches() -> None:
    tap = StreamTap(keep=10, keep_content=False, hash_content=False, stream="in")
    kept, notes = tap.feed(bytes(2 * STRETCH + 15))
    assert kept is not None
    assert len(kept) == 10
    notes += tap.finish()
    assert [(note.stream, note.start, note.size) for note in notes] == [
        ("in", 10, STRETCH),
        ("in", 10 + STRETCH, STRETCH),
        ("in", 10 + 2 * STRETCH, 5),
    ]


def test_content_that_policy_keeps_is_kept_whole() -> None:
    tap = StreamTap(keep=1, keep_content=True, hash_content=True, stream="in")
    assert tap.feed(b"abc") == (memoryview(b"abc"), [])
    assert tap.finish() == []


# --- scp --------------------------------------------------------------------------------------------------


def scp(*pieces: tuple[str, bytes], put: bool = True) -> tuple[ScpTap, list[SftpOp]]:
    """`>` goes from the side that has the files to the other, `<` comes back."""
    tap = ScpTap(path=b"/srv", from_user=put, hash_content=True)
    ops = []
    for way, data in pieces:
        ops += (tap.user if (way == ">") == put else tap.target)(data, 0.0)
    return tap, ops + tap.finish(0.0)


def brief(ops: list[SftpOp]) -> list[tuple[str, bytes, bytes, int, int, str]]:
    return [(op.op, op.path, op.to, op.status, op.size, op.detail) for op in ops]


@pytest.mark.parametrize("put", [True, False])
def test_a_tree_is_reported(put: bool) -> None:
    tap, ops = scp(
        ("<", b"\0"),
        (">", b"D0755 0 dir\n"),
        ("<", b"\0"),
        (">", b"T1 0 2 0\n"),
        ("<", b"\0"),
        (">", b"C0644 3 name\n"),
        ("<", b"\0"),
        (">", b"abc\0"),
        ("<", b"\0"),
        (">", b"E\n"),
        ("<", b"\0"),
        put=put,
    )
    op = "scp-put" if put else "scp-get"
    assert not tap.broken
    assert brief(ops) == [
        ("mkdir", b"/srv", b"dir", 0, 0, "mode=0755"),
        (op, b"/srv/dir", b"name", 0, 3, "mode=0644"),
    ]
    assert ops[1].sha256 == hashlib.sha256(b"abc").digest()


def test_refused_and_failed_files() -> None:
    _, ops = scp(
        ("<", b"\0"),
        (">", b"C0644 3 refused\n"),
        ("<", b"\1scp: no\n"),
        (">", b"C0644 0 empty\n"),
        ("<", b"\0"),
        (">", b"\0"),
        ("<", b"\0"),
        (">", b"C0644 2 full\n"),
        ("<", b"\0"),
        (">", b"ab\0"),
        ("<", b"\1disk full\n"),
        (">", b"C0644 9 cut\n"),
        ("<", b"\0"),
        (">", b"abc"),
    )
    assert brief(ops) == [
        ("scp-put", b"/srv", b"refused", 4, 0, "mode=0644"),
        ("scp-put", b"/srv", b"empty", 0, 0, "mode=0644"),
        ("scp-put", b"/srv", b"full", 4, 2, "mode=0644"),
        ("scp-put", b"/srv", b"cut", 0, 3, "mode=0644 cut short"),
    ]


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (b"X\n", "unknown line"),
        (b"C0644 x name\n", "no mode, size and name"),
        (b"C0644\n", "no mode, size and name"),
        (b"C0644 " + b"9" * 30 + b" x\n", "no mode, size and name"),
        (b"x" * 20_000, "line is too long"),
        (b"C0644 1 x\nabc\n", "content is longer than announced"),
        (b"D0755 0 d\n" * 300, "directories are too deep"),
        (b"T0 0 0 0\n" * (MAX_UNANSWERED + 1), "too many lines without an answer"),
    ],
)
def test_what_cannot_be_followed_is_said_once(sent: bytes, cause: str) -> None:
    tap, ops = scp(("<", b"\0"), (">", sent), (">", b"more"))
    assert tap.broken
    assert [op.op for op in ops].count("unparsed") == 1
    assert cause in ops[-1].detail


def test_content_sent_before_its_line_was_refused() -> None:
    """Attack: the receiver then takes the content for lines, so a file would hide in the content of another."""
    tap, ops = scp((">", b"C0644 20 x\nC0644 1 hidden\nz\0 "), ("<", b"\0\1no\n"))
    assert tap.broken
    assert ops[-1].op == "unparsed"


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_the_real_scp(size: int, tmp_path: Path) -> None:
    if not shutil.which("scp"):
        pytest.skip("sudo apt install openssh-client")
    content = bytes(range(256)) * 300
    (tmp_path / "from" / "sub").mkdir(parents=True)
    (tmp_path / "from" / "sub" / "file").write_bytes(content)
    (tmp_path / "to").mkdir()
    log = tmp_path / "log"
    # scp starts `ssh` to reach the far end; this one runs the command here, with a listener between.
    ssh = tmp_path / "ssh"
    ssh.write_text(f"""#!/bin/sh
        for last; do :; done
        cd {ROOT} && exec {sys.executable} -m tests.support.tee {log} sh -c "$last"
    """)
    ssh.chmod(0o755)
    arguments = ["scp", "-O", "-q", "-r", "-S", str(ssh), str(tmp_path / "from"), f"host:{tmp_path}/to"]
    subprocess.run(arguments, check=True, timeout=60, capture_output=True)
    tap, ops = ScpTap(path=f"{tmp_path}/to".encode(), from_user=True, hash_content=True), []
    for way, data in read_log(log):
        for at in range(0, len(data), size):
            ops += (tap.user if way == ">" else tap.target)(data[at : at + size], 0.0)
    ops += tap.finish(0.0)
    assert not tap.broken
    assert [(op.op, op.to, op.status, op.size) for op in ops] == [
        ("mkdir", b"from", 0, 0),
        ("mkdir", b"sub", 0, 0),
        ("scp-put", b"file", 0, len(content)),
    ]
    assert ops[2].sha256 == hashlib.sha256(content).digest()
    assert (tmp_path / "to" / "from" / "sub" / "file").read_bytes() == content
