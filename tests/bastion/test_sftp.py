"""SftpTap: against OpenSSH's client and server, and against peers who try to hide behind it."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.extents import MAX_EXTENTS, MAX_WAITING, Extents, Room
from bastion.sftp import MAX_HANDLES, MAX_PENDING, SftpTap
from recorder.model import SftpOp
from tests.support.tee import read_log

SERVER = Path("/usr/lib/openssh/sftp-server")


def string(text: bytes) -> bytes:
    return pack(">I", len(text)) + text


def packet(kind: int, *fields: bytes | int) -> bytes:
    """A packet; numbers are u32."""
    body = b"".join(field if isinstance(field, bytes) else pack(">I", field) for field in fields)
    return pack(">IB", len(body) + 1, kind) + body


def u64(number: int) -> bytes:
    return pack(">Q", number)


def init() -> bytes:
    return packet(1, 3)


def open_file(ident: int, path: bytes, flags: int = 0x1A) -> bytes:
    return packet(3, ident, string(path), flags, 0)


def write(ident: int, handle: bytes, offset: int, data: bytes) -> bytes:
    return packet(6, ident, string(handle), u64(offset), string(data))


def read(ident: int, handle: bytes, offset: int, length: int) -> bytes:
    return packet(5, ident, string(handle), u64(offset), length)


def close(ident: int, handle: bytes) -> bytes:
    return packet(4, ident, string(handle))


def handle(ident: int, name: bytes) -> bytes:
    return packet(102, ident, string(name))


def status(ident: int, code: int = 0) -> bytes:
    return packet(101, ident, code, string(b"Success"), string(b""))


def data(ident: int, content: bytes) -> bytes:
    return packet(103, ident, string(content))


class Peers:
    """Both sides of a channel: `>>` the user sends, `<<` the target answers; `ops` is what the tap reported."""

    def __init__(self, *, hash_content: bool = True) -> None:
        self.tap = SftpTap(hash_content=hash_content)
        self.ops: list[SftpOp] = []
        self.clock = 0.0
        self >> init() << packet(2, 3)

    def __rshift__(self, data: bytes) -> "Peers":
        self.clock += 1
        self.ops += self.tap.user(data, self.clock)
        return self

    def __lshift__(self, data: bytes) -> "Peers":
        self.clock += 1
        self.ops += self.tap.target(data, self.clock)
        return self

    def end(self) -> list[SftpOp]:
        self.ops += self.tap.finish(self.clock)
        return self.ops

    def brief(self) -> list[tuple[str, bytes, int]]:
        return [(op.op, op.path, op.status) for op in self.end()]


# --- the real thing ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, bytes]]]:
    """OpenSSH's sftp at work on OpenSSH's sftp-server: the directory it worked in, and what passed."""
    if not SERVER.exists() or not shutil.which("sftp"):
        pytest.skip("sudo apt install openssh-client openssh-sftp-server")
    place = tmp_path_factory.mktemp("sftp")
    (place / "local").write_bytes(bytes(range(256)) * 2000)
    (place / "empty").touch()
    commands = f"""
        cd {place}
        mkdir made
        put {place}/local made/remote
        put {place}/empty made/nothing
        get made/remote {place}/back
        rename made/remote made/moved
        ln -s moved made/soft
        ln made/moved made/hard
        chmod 600 made/moved
        ls made
        -rm made/absent
        rm made/moved
        rm made/soft
        rm made/hard
        rm made/nothing
        rmdir made
    """
    log = place / "log"
    subprocess.run(
        ["sftp", "-q", "-b", "-", "-D", f"{sys.executable} -m tests.support.tee {log} {SERVER}"],
        input="\n".join(line.strip() for line in commands.strip().splitlines()).encode(),
        capture_output=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).resolve().parents[2],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    return place, read_log(log)


def tapped(pieces: list[tuple[str, bytes]], cut: Callable[[bytes], list[bytes]]) -> list[SftpOp]:
    tap, ops = SftpTap(hash_content=True), []
    for way, content in pieces:
        for part in cut(content):
            ops += (tap.user if way == ">" else tap.target)(memoryview(part), 0.0)
    ops += tap.finish(0.0)
    assert not tap.broken
    return ops


def test_a_session_of_openssh(captured: tuple[Path, list[tuple[str, bytes]]]) -> None:
    place, pieces = captured
    ops = tapped(pieces, lambda content: [content])
    made = str(place / "made").encode()
    local = (place / "local").read_bytes()
    moves = [op for op in ops if op.op in ("read", "write")]
    assert [(op.op, op.path, op.size, op.extents, op.sha256) for op in moves] == [
        ("write", made + b"/remote", 512000, [(0, 512000)], hashlib.sha256(local).digest()),
        ("write", made + b"/nothing", 0, [], hashlib.sha256(b"").digest()),
        ("read", made + b"/remote", 512000, [(0, 512000)], hashlib.sha256(local).digest()),
    ]
    others = [(op.op, op.path.removeprefix(made), op.to.removeprefix(made), op.status) for op in ops]
    assert [entry for entry in others if entry[0] not in ("read", "write", "open", "opendir", "setstat")] == [
        ("mkdir", b"", b"", 0),
        ("rename", b"/remote", b"/moved", 0),
        ("symlink", b"/soft", b"moved", 0),
        ("hardlink", b"/hard", b"/moved", 0),
        ("remove", b"/absent", b"", 2),
        ("remove", b"/moved", b"", 0),
        ("remove", b"/soft", b"", 0),
        ("remove", b"/hard", b"", 0),
        ("remove", b"/nothing", b"", 0),
        ("rmdir", b"", b"", 0),
    ]
    assert [op.detail for op in ops if op.op == "open"][:1] == ["write create truncate"]
    assert any(op.op == "opendir" and op.path.rstrip(b"/") == made for op in ops)
    assert any(op.op == "setstat" and op.detail.startswith("mode=") and op.detail.endswith("600") for op in ops)


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 700))
def test_fragments_change_nothing(captured: tuple[Path, list[tuple[str, bytes]]], size: int) -> None:
    pieces = captured[1]
    whole = tapped(pieces, lambda content: [content])
    assert tapped(pieces, lambda content: [content[i : i + size] for i in range(0, len(content), size)]) == whole


# --- results ----------------------------------------------------------------------------------------------


def test_each_change_is_reported_with_its_result() -> None:
    peers = Peers()
    peers >> packet(18, 1, string(b"a"), string(b"b")) << status(1)
    peers >> packet(13, 2, string(b"b")) << status(2, 3)
    peers >> packet(200, 3, string(b"posix-rename@openssh.com"), string(b"c"), string(b"d")) << status(3)
    peers >> packet(200, 4, string(b"statvfs@openssh.com"), string(b"/")) << packet(201, 4, bytes(88))
    peers >> packet(200, 5, string(b"rootkit@example"), string(b"/")) << packet(201, 5)
    peers >> packet(19, 6, string(b"l")) << packet(104, 6, 1, string(b"there"), string(b""), 0)
    peers >> packet(17, 7, string(b"quiet")) << packet(105, 7, 0)
    ops = peers.end()
    assert [(op.op, op.path, op.to, op.status, op.detail) for op in ops] == [
        ("rename", b"a", b"b", 0, ""),
        ("remove", b"b", b"", 3, ""),
        ("rename", b"c", b"d", 0, "replaces"),
        ("extended", b"", b"", 0, "rootkit@example"),
        ("readlink", b"l", b"there", 0, ""),
    ]
    assert ops[0].seconds == 1


def test_attributes_and_copies_name_their_files() -> None:
    peers = Peers()
    peers >> open_file(1, b"a") << handle(1, b"A") >> open_file(2, b"b") << handle(2, b"B")
    peers >> packet(10, 3, string(b"A"), 0xF, u64(9), 1, 2, 0o100644, 4, 5) << status(3)
    peers >> packet(200, 4, string(b"copy-data"), string(b"A"), u64(1), u64(2), string(b"B"), u64(3)) << status(4)
    setstat, copy = peers.ops[2:4]
    assert (setstat.path, setstat.detail) == (b"a", "size=9 uid=1 gid=2 mode=100644 atime=4 mtime=5")
    assert (copy.op, copy.path, copy.to, copy.size, copy.detail) == ("copy", b"a", b"b", 2, "from 1 to 3")


def test_a_write_that_fails_is_no_success() -> None:
    peers = Peers()
    peers >> open_file(1, b"f") << handle(1, b"H") >> write(2, b"H", 0, b"x") << status(2, 4)
    peers >> close(3, b"H") << status(3)
    assert peers.brief()[1:] == [("write", b"f", 4)]


def test_the_end_of_a_file_is_no_failure() -> None:
    peers = Peers()
    peers >> open_file(1, b"f", 1) << handle(1, b"H") >> read(2, b"H", 0, 9) << data(2, b"abc")
    peers >> read(3, b"H", 3, 9) << status(3, 1) >> close(4, b"H") << status(4)
    op = peers.end()[1]
    assert (op.op, op.size, op.status, op.sha256) == ("read", 3, 0, hashlib.sha256(b"abc").digest())


def test_a_lost_connection_leaves_nothing_untold() -> None:
    peers = Peers()
    peers >> open_file(1, b"f") << handle(1, b"H") >> write(2, b"H", 0, b"abc") >> packet(13, 3, string(b"gone"))
    peers >> write(4, b"H", 3, b"defghi")[:-3]  # cut in the middle of its payload
    told = {(op.op, op.path): op for op in peers.end()}
    assert told["remove", b"gone"].detail == "no answer"
    assert (told["write", b"f"].size, told["write", b"f"].detail) == (6, "not closed")
    assert told["write", b"f"].sha256 == hashlib.sha256(b"abcdef").digest()


def test_answers_out_of_order_are_hashed_in_the_order_of_offsets() -> None:
    peers = Peers()
    peers >> open_file(1, b"f", 1) << handle(1, b"H")
    for ident, offset in ((2, 0), (3, 3), (4, 6)):
        peers >> read(ident, b"H", offset, 3)
    peers >> close(5, b"H") << data(4, b"ghi") << status(5) << data(3, b"def") << data(2, b"abc")
    op = peers.end()[1]
    assert (op.extents, op.more, op.sha256) == ([(0, 9)], False, hashlib.sha256(b"abcdefghi").digest())


def test_an_answer_without_content_does_not_end_the_hash() -> None:
    peers = Peers()
    peers >> open_file(1, b"f", 1) << handle(1, b"H")
    for ident, offset in ((2, 0), (3, 3), (4, 0), (5, 9)):
        peers >> read(ident, b"H", offset, 3)
    peers << data(2, b"abc") << data(3, b"def") << data(4, b"") << data(5, b"") >> close(6, b"H") << status(6)
    op = peers.end()[1]
    assert (op.size, op.more, op.sha256) == (6, False, hashlib.sha256(b"abcdef").digest())


def test_too_scattered_to_hash() -> None:
    peers = Peers()
    peers >> open_file(1, b"f") << handle(1, b"H")
    for ident in range(2, 102):
        peers >> write(ident, b"H", 0 if ident == 2 else (200 - ident) << 20, bytes(32768))
    op = peers.end()[-1]
    assert (op.sha256, op.more, len(op.extents), op.size) == (b"", True, MAX_EXTENTS, 100 * 32768)


def test_later_versions_keep_names_and_content() -> None:
    peers = Peers()
    peers >> packet(1, 6) << packet(2, 6)
    peers >> packet(3, 1, string(b"f"), 2, 0, 0) << handle(1, b"H") >> write(2, b"H", 0, b"x") << status(2)
    peers >> close(3, b"H") << status(3)
    assert [(op.op, op.path, op.size) for op in peers.end()] == [("open", b"f", 0), ("write", b"f", 1)]
    assert peers.ops[0].detail == "version 6 flags 0x2"


# --- attacks ----------------------------------------------------------------------------------------------


def test_a_guessed_handle_is_charged_to_the_file_it_becomes() -> None:
    """The target gives the handle of a closed file to the next one, and the user knows that."""
    peers = Peers()
    peers >> open_file(1, b"harmless") << handle(1, b"\0") >> close(2, b"\0")
    peers >> open_file(3, b"/etc/shadow") >> write(4, b"\0", 0, b"evil") >> close(5, b"\0")
    peers << status(2) << handle(3, b"\0") << status(4) << status(5)
    assert ("write", b"/etc/shadow", 4) in [(op.op, op.path, op.size) for op in peers.end()]


def test_an_id_used_twice_is_answered_in_order() -> None:
    """A STAT that fails, sent first with the same id, must not make the REMOVE look as if it had failed."""
    peers = Peers()
    peers >> packet(17, 7, string(b"absent")) >> packet(13, 7, string(b"victim")) << status(7, 2) << status(7, 0)
    assert peers.brief() == [("remove", b"victim", 0)]


def test_a_name_as_long_as_the_limit_is_cut_not_lost() -> None:
    peers = Peers()
    peers >> packet(13, 1, string(b"x" * 200_000)) << status(1, 4) >> packet(13, 2, string(b"y")) << status(2)
    assert peers.brief() == [("remove", b"x" * 4096, 4), ("remove", b"y", 0)]
    assert "cut" in peers.ops[0].detail


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (pack(">IB", 0, 0) + bytes(9), "packet of 0 bytes"),
        (pack(">IB", 1 << 31, 6) + bytes(9), "packet of 2147483648 bytes"),
        (packet(6, 1, string(b"h" * 300), u64(0), string(b"")), "handle of a WRITE is too long"),
        (packet(6, 1, string(b"h"), u64(0), 99, b"x"), "shorter than its payload"),
        (packet(13, 1, 99, b"x"), "a string is longer than its packet"),
        (packet(5, 1, 9), "a READ is cut short"),
        (b"".join(packet(17, i, string(b"")) for i in range(MAX_PENDING + 1)), "requests without an answer"),
        (b"".join(packet(17, 7, string(b"")) for i in range(MAX_PENDING + 1)), "requests without an answer"),
        (b"".join(write(i, b"%d" % i, 0, b"") for i in range(MAX_HANDLES + 1)), "files open"),
        (b"".join(packet(13, i, string(b"n" * 4096)) for i in range(600)), "bytes of names"),
    ],
)
def test_what_cannot_be_followed_is_said_once(sent: bytes, cause: str) -> None:
    peers = Peers()
    peers >> open_file(1 << 20, b"f") << handle(1 << 20, b"H") >> write((1 << 20) + 1, b"H", 0, b"abc")
    peers >> sent >> packet(13, 1, string(b"later")) << status(1)
    ops = peers.end()
    assert peers.tap.broken
    assert [op.op for op in ops].count("unparsed") == 1
    assert cause in ops[-1].detail
    assert any(op.op == "write" and op.path == b"f" and op.size == 3 for op in ops)  # told before it went quiet
    assert peers.tap.sent > len(sent)
    assert peers.tap.received > 0


def test_the_target_cannot_give_one_handle_to_two_files_unseen() -> None:
    peers = Peers()
    peers >> open_file(1, b"a") << handle(1, b"H") >> write(2, b"H", 0, b"a") << status(2)
    peers >> open_file(3, b"b") << handle(3, b"H") >> write(4, b"H", 0, b"b") << status(4)
    assert [op.path for op in peers.end() if op.op == "write"] == [b"a", b"b"]


# --- one transfer -----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=30))
def test_extents_are_the_union_of_what_moved(moves: list[tuple[int, int]]) -> None:
    flow = Extents(Room(), hashed=False)
    for offset, length in moves:
        flow.moved(offset, memoryview(bytes(length)))
    assert flow.size == sum(length for _, length in moves)
    assert {byte for start, length in flow.extents() for byte in range(start, start + length)} == {
        byte for offset, length in moves for byte in range(offset, offset + length)
    }
    starts = flow.extents()
    assert all(a + n < b for (a, n), (b, _) in pairwise(starts))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(0, 5), st.booleans(),
       st.randoms(use_true_random=False))  # fmt: skip
def test_the_hash_does_not_depend_on_the_order_of_arrival(
    lengths: list[int], first: int, asked: bool, random: object
) -> None:
    """A read is asked for before its content comes; a write is not, and its first piece need not come first."""
    content = bytes(range(256)) * 4
    pieces, at = [], 0
    for length in lengths:
        pieces.append((first + at, memoryview(content)[at : at + length]))
        at += length
    room = Room()
    flow = Extents(room, hashed=True)
    for offset, _ in pieces if asked else []:
        flow.expect(offset)
    random.shuffle(pieces)  # type: ignore[attr-defined]
    for offset, piece in pieces:
        flow.moved(offset, piece)
    assert flow.digest() == hashlib.sha256(content[:at]).digest()
    assert room.left == Room().left  # everything borrowed is given back


def test_an_upload_that_goes_on_in_the_middle_is_hashed_from_there() -> None:
    """Its first byte is no file's first: it waits for what may come before, until no more may wait."""
    room = Room()
    flow = Extents(room, hashed=True)
    content = bytes(range(256)) * (2 * MAX_WAITING // 256)
    half = len(content) // 4 // 2 * 2
    for at in [*range(32768, half, 32768), 0, *range(half, len(content), 32768)]:
        flow.moved(70_000 + at, memoryview(content)[at : min(at + 32768, half if at < half else len(content))])
    assert room.left == Room().left
    assert flow.digest() == hashlib.sha256(content).digest()


def test_what_was_written_twice_has_no_hash() -> None:
    """Which of the two contents stays in the file, only the target knows."""
    for first, second in [(10, 0), (0, 10)]:
        flow = Extents(Room(), hashed=True)
        flow.moved(first, memoryview(bytes(15)))
        flow.moved(second, memoryview(bytes(15)))
        assert (flow.digest(), flow.more, flow.size) == (b"", True, 30)


def test_extents_have_a_limit() -> None:
    flow = Extents(Room(), hashed=False)
    for number in range(MAX_EXTENTS + 10):
        flow.moved(number * 10, memoryview(b"x"))
    assert (len(flow.extents()), flow.more, flow.size) == (MAX_EXTENTS, True, MAX_EXTENTS + 10)
