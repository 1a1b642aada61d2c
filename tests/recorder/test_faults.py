"""Kills, stops, full and failing disks: what was acknowledged is there, and nothing goes on unrecorded."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from recorder.messages import Ack, Append, Open, Opened, Refused
from recorder.model import AccessNote, Event, Kind
from recorder.reader import open_recording, verify, verify_content
from recorder.store import Store
from tests.recorder.daemon import PATIENCE, PRIVATE, PUBLIC, Client, Daemon, new_session, running, start

pytestmark = pytest.mark.fault
KEY = Event(Kind.INPUT, 1, 10, b"l")


class Gateway(threading.Thread):
    """Sends numbered batches, pipelined, until the recorder is lost. Knows what was acknowledged."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        super().__init__(daemon=True)
        self.daemon_, self.chance = daemon, random.Random(seed)
        self.sent: list[Event] = []
        self.counts = {0: 0}  # seq -> events sent up to it
        self.acked = 0
        self.path: Path | None = None

    def run(self) -> None:
        with contextlib.suppress(OSError, AssertionError), self.daemon_.client() as client:
            self.path = self.daemon_.recordings / client.open()
            ms = 0
            while True:
                batch = []
                for _ in range(self.chance.randrange(1, 6)):
                    ms += self.chance.randrange(3)
                    size = self.chance.choice([1, 3, 80, 4000])
                    kind = self.chance.choice([Kind.INPUT, Kind.OUTPUT, Kind.OUTPUT])
                    batch.append(Event(kind, 1, ms, b"%d " % len(self.sent) + self.chance.randbytes(size)))
                    self.sent.append(batch[-1])
                client.append(*batch)
                self.counts[client.seq] = len(self.sent)
                while client.seq - client.newest > 32:
                    client.acked(client.newest + 1)
                    self.acked = client.newest


@pytest.mark.parametrize("round_", range(4))
def test_kill_9_under_load_loses_nothing_that_was_acknowledged(round_: int, tmp_path: Path) -> None:
    daemon = start(tmp_path, segment_kib=64, segment_seconds=1)
    gateways = [Gateway(daemon, seed) for seed in range(6)]
    for gateway in gateways:
        gateway.start()
    deadline = time.monotonic() + 0.4 + 0.5 * round_
    while time.monotonic() < deadline or not all(gateway.acked for gateway in gateways):
        time.sleep(0.01)
    daemon.stop(signal.SIGKILL)
    for gateway in gateways:
        gateway.join(20)
    before = {gateway: verify(gateway.path, None).status for gateway in gateways if gateway.path}
    assert set(before.values()) <= {"open", "truncated"}
    with running(tmp_path) as again, again.client() as client:
        key = client.health().node_key
        for gateway in gateways:
            assert gateway.path
            recording = open_recording(gateway.path)
            found = list(recording.events())
            assert len(found) >= gateway.counts[gateway.acked]
            assert found == gateway.sent[: len(found)]
            verdict = verify(gateway.path, key)
            assert (verdict.status, verdict.at) == ("truncated", gateway.path.stat().st_size)
            assert verify_content(recording) == []
        assert Store(again.recordings).missing(key) == []
        client.open()
        client.end()


def test_a_stopped_recorder_acknowledges_nothing_and_loses_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as daemon, daemon.client() as client:
        path = daemon.recordings / client.open()
        client.append(KEY)
        client.acked()
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            client.append(KEY)
            client.sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.receive()
            client.sock.settimeout(0.3)
            sent = 0
            with contextlib.suppress(TimeoutError):  # the kernel holds a bounded amount, then the sender waits
                while sent < 64 << 20:
                    client.append(Event(Kind.OUTPUT, 1, 10, bytes(30_000)))
                    sent += 30_000
            assert sent <= 8 << 20
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        client.seq -= 1  # the one that timed out was not sent
        client.sock.settimeout(PATIENCE)
        client.acked()
        client.end()
    assert verify(path, None).status == "ok"


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=False)
    if done.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def ending(path: Path) -> AccessNote:
    *_, last = open_recording(path).events()
    assert last.kind == Kind.ACCESS
    return msgspec.msgpack.decode(last.data, type=AccessNote)


def test_a_full_disk_ends_recordings_properly_and_closes_the_door(tmp_path: Path) -> None:
    chance = random.Random(5)
    # The low-water mark: the tail that goes when its segment is made must not be room enough to open the door again.
    with small_disk(tmp_path / "state", "12m"), running(tmp_path, reserve_mib=4, low_water_mib=3) as daemon:
        quiet, loud = daemon.client(), daemon.client()
        paths = [daemon.recordings / client.open() for client in (quiet, loud)]
        quiet.append(KEY)
        quiet.acked()
        written: list[Event] = []
        reply: object = None
        while not isinstance(reply, Refused):
            written.append(Event(Kind.OUTPUT, 1, len(written), chance.randbytes(30_000)))
            loud.append(written[-1])
            reply = loud.receive()
            assert isinstance(reply, Ack | Refused)
        assert "no space left" in reply.cause
        with contextlib.suppress(OSError):  # closed already, perhaps
            quiet.append(KEY)
        assert "full" in quiet.refusal()
        for path in paths:
            assert verify(path, None).status == "ok"
            assert ending(path).reason == "failed"
        kept = list(open_recording(paths[1]).events())[:-1]
        assert kept[: len(written) - 1] == written[:-1]
        with daemon.client() as late:
            assert isinstance(late.ask(Open(new_session(), 1, PUBLIC, PRIVATE)), Refused)
        for path in paths:
            path.unlink()
        accepted: object = None
        while not isinstance(accepted, Opened):  # service comes back by itself; the test's timeout is the limit
            with daemon.client() as late:
                accepted = late.ask(Open(new_session(), 1, PUBLIC, PRIVATE))
            time.sleep(0.05)


def test_out_of_inodes_is_a_refusal(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "12m,nr_inodes=12"), running(tmp_path) as daemon:
        clients = [daemon.client() for _ in range(8)]
        for client in clients:
            client.send(Open(new_session(), 1, PUBLIC, PRIVATE))
        replies = [client.receive() for client in clients]
        assert {type(reply) for reply in replies} == {Opened, Refused}
        clients[0].append(KEY)
        clients[0].acked()


def test_below_the_low_water_mark_only_what_runs_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "20m"), running(tmp_path, reserve_mib=1, low_water_mib=10) as daemon:
        with daemon.client() as client:
            client.open()
            ballast = tmp_path / "state/ballast"
            ballast.write_bytes(bytes(12 << 20))
            with daemon.client() as late:
                assert not late.health().accepting
                reply = late.ask(Open(new_session(), 1, PUBLIC, PRIVATE))
                assert reply == Refused("too little space is left for recordings")
            client.append(KEY)
            client.acked()
            ballast.unlink()
            client.end()
        with daemon.client() as late:
            late.open()


def day_of(t0_us: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(t0_us // 1_000_000))


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_an_io_error_ends_the_session_and_is_never_tried_again(call: str, tmp_path: Path) -> None:
    """EIO once, then success: the second sync would report what the first one lost as saved (fsyncgate)."""
    strace = shutil.which("strace")
    if not strace:
        pytest.skip("strace is not installed")
    session, t0_us = new_session(), time.time_ns() // 1000
    tail = tmp_path / f"state/recordings/{day_of(t0_us)}/{session}.brec.tail"
    when = "when=3" if call == "write" else "when=1"  # the tail's header is its first write
    rule = ["-e", f"trace={call}", "-e", f"inject={call}:error=EIO:{when}"]
    before = [strace, "-D", "-f", "-q", "-o", str(tmp_path / "strace"), "-P", str(tail), *rule]
    with running(tmp_path, *before) as daemon:
        other = daemon.client()
        other.open()
        with daemon.client() as client:
            path = daemon.recordings / client.open(session, t0_us=t0_us)
            client.append(KEY)
            if call == "write":
                client.acked()
                client.append(KEY)
            assert "input/output error" in client.refusal() or call == "fdatasync"
        other.append(KEY)
        other.acked()
        other.end()
        other.sock.close()
        assert verify(path, None).status == "open"
        assert list(open_recording(path).events()) == [KEY]
        stopped = daemon.log()
        assert "recording-failed" in stopped
    with running(tmp_path):
        assert list(open_recording(path).events()) == [KEY]
        assert "recovered" in verify(path, None).problems[0]


@pytest.mark.parametrize("demanded", ["not", "by the rule", "by the configuration"])
def test_what_is_written_is_synced(demanded: str, tmp_path: Path) -> None:
    """Within sync_ms by the group commit; where it is demanded, before the answer: tail, main and their folder."""
    strace = shutil.which("strace")
    if not strace:
        pytest.skip("strace is not installed")
    trace = tmp_path / "strace"
    before = [strace, "-D", "-f", "-q", "-y", "-o", str(trace), "-e", "trace=fdatasync,fsync,syncfs"]
    sync_ms = 0 if demanded == "by the configuration" else 100

    def synced() -> set[str]:
        """What was; a call beside another thread's stands on two lines, and on the first alone with its file."""
        begun: dict[str, str] = {}
        files = set()
        for line in trace.read_text().splitlines():
            thread, _, call = line.partition(" ")
            if "<unfinished" in call:
                begun[thread] = call
            elif "= 0" in call:
                call = begun.pop(thread, call) if "resumed>" in call else call
                files |= {Path(call.split("<")[1].split(">")[0]).suffix} if "/recordings/2" in call else set()
        return files

    with running(tmp_path, *before, sync_ms=sync_ms) as daemon, daemon.client() as client:
        client.open(sync=demanded == "by the rule")
        client.append(KEY)
        client.acked()
        if demanded == "not":
            while not synced() >= {".tail", ".brec", ""}:  # the test's own timeout is the limit
                time.sleep(0.01)
        assert synced() >= {".tail", ".brec", ""}


def test_killed_at_each_write_of_a_session(tmp_path: Path) -> None:
    """SIGKILL instead of the n-th write, for each n: between any two steps, recovery finds what was acknowledged."""
    strace = shutil.which("strace")
    if not strace:
        pytest.skip("strace is not installed")
    for number in range(1, 9):
        folder = tmp_path / str(number)
        folder.mkdir()
        with running(folder):
            pass  # keys and log are made
        session, t0_us = new_session(), time.time_ns() // 1000
        base = folder / f"state/recordings/{day_of(t0_us)}/{session}.brec"
        paths = [word for suffix in ("", ".tail") for word in ("-P", f"{base}{suffix}")]
        calls = "write,fdatasync,unlink,unlinkat"
        rule = ["-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={number}"]
        daemon = start(folder, strace, "-D", "-f", "-q", "-o", str(folder / "strace"), *paths, *rule)
        acked = 0
        with contextlib.suppress(OSError, AssertionError), Client(daemon.socket) as client:
            reply = client.ask(Open(session, t0_us, PUBLIC, PRIVATE))
            for seq in (1, 2, 3):
                if reply is None:
                    break
                reply = client.ask(Append(seq, [(1, 0, seq, b"%d" % seq)]))
                acked = seq if isinstance(reply, Ack) else acked
            client.end()
        daemon.stop()
        with running(folder):
            if acked or base.exists():
                found = [event.data for event in open_recording(base).events() if event.kind == Kind.INPUT]
                assert found[:acked] == [b"1", b"2", b"3"][:acked], (number, acked, found)
                assert verify(base, None).status in ("truncated", "ok")
            assert not list(base.parent.glob("*.tail*"))
