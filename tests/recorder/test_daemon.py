"""The real daemon: what it promises to a gateway, and what it refuses."""

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from recorder.messages import MAX_MESSAGE, Ack, Append, End, Ended, Open, Refused, Request, Status, encode
from recorder.model import AccessNote, Event, Kind
from recorder.reader import open_recording, verify, verify_content
from recorder.store import Store
from tests.recorder.daemon import PRIVATE, PUBLIC, Client, Daemon, new_session, running
from tests.support.net import wait_until

KEY = Event(Kind.INPUT, 1, 10, b"l")
T0 = 1_790_000_000_000_000


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("daemon")) as one:
        yield one


def ending(path: Path) -> AccessNote:
    """How the recording says that it ended."""
    *_, last = open_recording(path).events()
    assert last.kind == Kind.ACCESS
    return msgspec.msgpack.decode(last.data, type=AccessNote)


def until(path: Path, status: str) -> None:
    """Wait until `path` verifies so; the test's own timeout ends this."""
    while verify(path, None).status != status:
        time.sleep(0.01)


def test_what_was_acknowledged_is_in_the_recording(daemon: Daemon) -> None:
    typed = [KEY, Event(Kind.OUTPUT, 1, 12, b"l"), Event(Kind.INPUT, 1, 12, b"s")]
    with daemon.client() as client:
        path = daemon.recordings / client.open()
        for event in typed:
            client.append(event)
            client.acked()
        assert verify(path, None).status == "open"
        assert list(open_recording(path).events()) == typed
        assert client.ask(End("killed", "bob", "enough")) == Ended()
        assert client.receive() is None
    recording = open_recording(path)
    assert list(recording.events())[:-1] == typed
    assert (recording.complete, recording.private, recording.public, recording.node) == (True, PRIVATE, PUBLIC, "n1")
    with daemon.client() as other:
        assert verify(path, other.health().node_key).status == "ok"
    assert verify_content(recording) == []
    assert ending(path) == AccessNote(what="ended", reason="killed", by="bob", detail=b"enough")


def test_files_are_for_the_group_and_keys_for_nobody(daemon: Daemon) -> None:
    with daemon.client() as client:
        path = daemon.recordings / client.open()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE((daemon.recordings / "node.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660


def test_one_answer_stands_for_many_appends(daemon: Daemon) -> None:
    with daemon.client() as client:
        path = daemon.recordings / client.open()
        for ms in range(500):
            client.append(Event(Kind.OUTPUT, 1, ms, b"line\r\n"))
        client.acked()
        client.end()
    assert len(list(open_recording(path).events())) == 501


def test_what_piled_up_is_written_and_acknowledged_together(daemon: Daemon) -> None:
    """A keystroke is not made to wait for company; but where there is some, it goes in one chunk."""
    with daemon.client() as client:
        client.open()
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            for ms in range(50):
                client.append(Event(Kind.OUTPUT, 1, ms, b"line\r\n"))
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        acks = []
        while not acks or acks[-1] < 50:
            reply = client.receive()
            assert isinstance(reply, Ack)
            acks.append(reply.seq)
        assert len(acks) <= 3  # the first alone, perhaps one that came before it was stopped, and the rest
        client.end()


def test_a_lost_gateway_ends_its_recording_as_interrupted(daemon: Daemon) -> None:
    with daemon.client() as client:
        path = daemon.recordings / client.open()
        client.append(KEY)
        client.acked()
    until(path, "ok")
    assert ending(path).reason == "interrupted"


def test_what_was_sent_before_the_gateway_was_lost_is_kept(daemon: Daemon) -> None:
    with daemon.client() as client:
        path = daemon.recordings / client.open()
        client.append(KEY)
    until(path, "ok")
    assert next(open_recording(path).events()) == KEY


def test_a_session_is_recorded_once(daemon: Daemon) -> None:
    with daemon.client() as client, daemon.client() as other:
        client.open(session := new_session())
        reply = other.ask(Open(session, time.time_ns() // 1000, PUBLIC, PRIVATE))
        assert reply == Refused("this session has a recording already")
        assert other.receive() is None
        client.end()
    with daemon.client() as again:
        assert isinstance(again.ask(Open(session, time.time_ns() // 1000, PUBLIC, PRIVATE)), Refused)


@pytest.mark.parametrize(
    "session", ["", "x" * 32, "../../../../etc/passwd", "A" * 32, "0" * 31, "0" * 33, "0" * 31 + "\n", "/" + "0" * 31]
)
def test_an_id_that_is_no_id_is_refused(session: str, daemon: Daemon) -> None:
    """It becomes a file name (CVE-2024-40628: a path in a task id read any file of a bastion)."""
    with daemon.client() as client:
        assert isinstance(client.ask(Open(session, T0, PUBLIC, PRIVATE)), Refused)


@pytest.mark.parametrize("t0_us", [1 << 62, 253_402_300_800_000_000, -1, -(1 << 62)])
def test_a_time_that_no_calendar_has_is_refused(t0_us: int, daemon: Daemon) -> None:
    with daemon.client() as client:
        assert isinstance(client.ask(Open(new_session(), t0_us, PUBLIC, PRIVATE)), Refused)


@pytest.mark.parametrize("fields", [{"k": "v" * 70_000}, {str(number): "" for number in range(65)}])
def test_a_header_that_is_too_long_is_refused(fields: dict[str, str], daemon: Daemon) -> None:
    with daemon.client() as client:
        try:
            reply = client.ask(Open(new_session(), T0, fields, {}))
        except OSError:
            return  # the sender's own kernel refuses it, or the daemon hung up
        assert reply is None or isinstance(reply, Refused)


OUT_OF_STATE: list[list[Request]] = [
    [Append(1, [KEY])],
    [End("closed")],
    [Status(), End("closed")],
    [Open("0" * 32, T0, {}, {}), Open("1" * 32, T0, {}, {})],
    [Open("2" * 32, T0, {}, {}), Status()],
    [Open("3" * 32, T0, {}, {}), Append(2, [KEY]), Append(2, [KEY])],
    [Open("4" * 32, T0, {}, {}), Append(2, [KEY]), Append(1, [KEY])],
    [Open("5" * 32, T0, {}, {}), Append(1, [])],
    [Open("6" * 32, T0, {}, {}), Append(1, [Event(1, 1, 9, b""), Event(1, 1, 8, b"")])],
    [Open("7" * 32, T0, {}, {}), Append(1, [Event(1, 1, 1 << 60, b"")])],
    [Open("8" * 32, T0, {}, {}), Append(1, [Event(1, 1 << 20, 1, b"")])],
    [Open("9" * 32, T0, {}, {}), Append(1, [Event(999, 1, 1, b"")])],
    [Open("a" * 32, T0, {}, {}), Append(1, [Event(1, 1, 1, bytes(33 * 1024))])],
    [Open("b" * 32, T0, {}, {}), End("because")],
    [Open("d" * 32, T0, {}, {}), Append(-5, [KEY])],
]


@pytest.mark.parametrize("requests", OUT_OF_STATE, ids=range(len(OUT_OF_STATE)))
def test_what_is_not_in_the_table_closes_the_socket(requests: list[Request], daemon: Daemon) -> None:
    with daemon.client() as client:
        for request in requests:
            client.send(request)
        assert client.refusal()
    with daemon.client() as other:
        assert other.health().accepting


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"\x00",
        b"\x90",
        b"\x91\xa4open",
        b"\x92\xa3add\x01",
        b"\xc7\x04\x05abcd",  # an extension type
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x81" * 5000,  # deep nesting
        b"\xdd\xff\xff\xff\xff",  # four thousand million elements
        b"\x93\xa3add\x01\xdd\xff\xff\xff\xff",
        b"\x96\xa4open\xa1\xff\x01\x80\x80\xc2",  # a text that is not UTF-8
        encode(Status()) + b"\0",
        b"A" * (MAX_MESSAGE + 1),
        b"A" * (2 * MAX_MESSAGE),
    ],
)
@pytest.mark.parametrize("opened", [False, True])
def test_hostile_bytes_close_one_socket_and_hurt_nobody(data: bytes, opened: bool, daemon: Daemon) -> None:
    with daemon.client() as client:
        if opened:
            path = daemon.recordings / client.open()
            client.append(KEY)
            client.acked()
        client.sock.send(data)
        assert client.refusal()
    if opened:
        until(path, "ok")
        assert next(open_recording(path).events()) == KEY
    with daemon.client() as other:
        assert other.health().accepting


def test_zero_length_message_is_the_end(daemon: Daemon) -> None:
    with daemon.client() as client:
        path = daemon.recordings / client.open()
        client.append(KEY)
        client.acked()
        client.sock.send(b"")
        until(path, "ok")


def test_more_events_than_a_segment_holds(daemon: Daemon) -> None:
    """A gateway gone wild must not make a segment that cannot be written, nor fill the memory."""
    with daemon.client() as client:
        path = daemon.recordings / client.open()
        batch = [(1, 0, 5, b"")] * 10_000
        for seq in range(1, 160):
            client.send(Append(seq, batch))
        client.seq = 159
        client.acked()
        client.end()
    assert verify(path, None).status == "ok"
    assert sum(1 for _ in open_recording(path).events()) == 1_590_001


def test_a_client_that_reads_no_answers_is_dropped_and_others_go_on(daemon: Daemon) -> None:
    with daemon.client() as deaf, daemon.client() as good:
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        path = daemon.recordings / deaf.open()
        deaf.sock.settimeout(0.2)
        for _ in range(100_000):
            try:
                deaf.append(KEY)
            except OSError:  # it waits for us, or has dropped us already
                break
        good.open()
        good.append(KEY)
        good.acked()
    until(path, "ok")


def test_sync_before_the_answer(daemon: Daemon) -> None:
    with daemon.client() as client:
        path = daemon.recordings / client.open(sync=True)
        client.append(KEY)
        client.acked()
        client.end()
    assert verify(path, None).status == "ok"


def test_descriptors_sent_along_are_not_kept(daemon: Daemon) -> None:
    before = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
    for _ in range(20):
        with daemon.client() as client:
            socket.send_fds(client.sock, [encode(Status())], [0, 1, 2])
            client.receive()
    with daemon.client() as client:
        client.health()
        wait_until("the ends of the others", lambda: len(os.listdir(f"/proc/{daemon.process.pid}/fd")) <= before + 3)


def test_a_stranger_is_refused_whatever_the_mode_says(daemon: Daemon) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    program = (
        "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.connect('recorderd.sock'); s.send(bytes.fromhex(sys.argv[1])); sys.exit(s.recv(100) != b'')"
    )
    modes = {path: path.stat().st_mode for path in (daemon.socket, daemon.socket.parent)}
    try:
        daemon.socket.chmod(0o666)
        daemon.socket.parent.chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", program, encode(Status()).hex()],
            cwd=daemon.socket.parent, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    finally:
        for path, mode in modes.items():
            path.chmod(stat.S_IMODE(mode))
    assert done.returncode == 0 or b"Reset" in done.stderr or b"Broken" in done.stderr, done.stderr


def test_the_store_knows_what_is_missing(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        files = []
        for _ in range(3):
            with daemon.client() as client:
                files.append(daemon.recordings / client.open())
                client.end()
                key = client_key(daemon)
        store = Store(daemon.recordings)
        assert set(store.recordings()) == set(files)
        assert store.missing(key) == []
        assert store.find(files[0].stem[:12]) == files[0]
        closed = {entry.session: entry.state for entry in store.log(key) if entry.what == 2}
        assert closed == {path.stem: verify(path, key).chain for path in files}
        files[1].unlink()
        assert store.missing(key) == [files[1].stem]


def client_key(daemon: Daemon) -> bytes:
    with daemon.client() as client:
        return client.health().node_key


def test_sigterm_ends_what_lives(tmp_path: Path) -> None:
    with running(tmp_path) as daemon, daemon.client() as client:
        path = daemon.recordings / client.open()
        client.append(KEY)
        client.acked()
        assert daemon.stop(signal.SIGTERM) == 0
        assert client.receive() is None
    assert verify(path, None).status == "ok"
    assert ending(path).reason == "interrupted"


def test_sighup_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as daemon, daemon.client() as client:
        client.open()
        daemon.process.send_signal(signal.SIGHUP)
        client.append(KEY)
        client.acked()
        client.end()


PASSING = """
import os, socket, sys
os.chdir(sys.argv[1])
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind("run/passed.sock")
s.listen()
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_the_socket_may_be_passed_by_systemd(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    before = [sys.executable, "-c", PASSING, str(tmp_path)]
    with running(tmp_path, *before), Client(tmp_path / "run/passed.sock") as client:
        client.open()
        client.end()


def test_no_core_and_no_ptrace_of_the_keys(daemon: Daemon) -> None:
    """A dump would hold the root keys of all that is being recorded."""
    soft, _ = resource.prlimit(daemon.process.pid, resource.RLIMIT_CORE)
    assert soft == 0
    assert os.stat(f"/proc/{daemon.process.pid}/mem").st_uid == 0
