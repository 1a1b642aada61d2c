"""Clients that take no part: they never read, never log in, never go away. What they cost, and whom they hold up."""

import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from recorder.model import Kind
from tests.support.chaos import KEPT, FaultSite, Load, frozen, memory, patience, tapes
from tests.support.net import LOOPBACK, wait_until
from tests.support.sshd import SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

MIB: Final = 1024 * 1024
MOST: Final = 4 * MIB  # of memory that one such client may cost: what waits for it waits in sockets
STALLING: Final = 4  # such clients at once: what the first one costs once is shared
STRANGERS: Final = 1000
FLOODER: Final = "127.0.0.2"


@pytest.fixture
def site(fault_site: FaultSite) -> Iterator[FaultSite]:
    yield fault_site
    assert fault_site.go("echo alive").out == b"alive\n", "the bastion does not work any more"


# --- never reads --------------------------------------------------------------------------------------


def grown(site: FaultSite, before: int) -> int:
    """Bytes that the gateway has more than `before`, at the worst moment until it has stood still for a second."""
    worker, worst, steady = site.pid("bastion.ssh"), 0, 0
    deadline = time.monotonic() + patience(15)
    while steady < 10 and time.monotonic() < deadline:
        more = memory(worker) - before
        steady = steady + 1 if more <= worst else 0
        worst = max(worst, more)
        time.sleep(0.1)  # between two looks
    return worst


@contextmanager
def stalling(site: FaultSite, target: str) -> Iterator[None]:
    """Clients that ask for /dev/zero, grant a window of 2 GiB, and read their sockets no more."""
    words = [sys.executable, "-m", "tests.bench.holder", str(site.port), "--user", site.login(target=target), "--key",
             str(site.key("alice"))]  # fmt: skip
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            client.stdin.write(f"stall {STALLING}\n")
            client.stdin.flush()
            assert client.stdout.readline() == f"stalling {STALLING}\n"
            yield
        finally:
            client.kill()


@pytest.mark.parametrize("target", ["web1", KEPT])
def test_a_client_that_never_reads_costs_little(site: FaultSite, target: str) -> None:
    """Attack: a window of 2 GiB and no reading; asyncssh alone kept 283 MiB for 300. Kept in full or by hash alike."""
    site.go(f"head -c {4 * MIB} /dev/zero", to=target)  # what the first stream costs is paid once
    site.alone()
    before = memory(site.pid("bastion.ssh"))
    with stalling(site, target):
        more = grown(site, before) // STALLING
        assert site.go("echo others").out == b"others\n"
        wait_until("the end of the other", lambda: len(site.sessions()) == STALLING, patience(10))
        live = [row["session"] for row in site.sessions()]
    wait_until("its end", lambda: not site.sessions(), patience(10))
    stalled = [tape for tape in tapes(site) if tape.session in live]
    assert len(stalled) == STALLING
    assert all(len(tape.joined(Kind.OUTPUT)) >= MIB for tape in stalled), "it did not stall: nothing was sent to it"
    print(f"never reads, {target}: {more / MIB:.1f} MiB more")
    assert more < MOST, f"{more / MIB:.1f} MiB more"


def test_a_terminal_whose_client_stands_still_costs_little(site: FaultSite, load: Load) -> None:
    before = memory(site.pid("bastion.ssh"))
    stream = load.command("still", "cat /dev/zero | tr '\\0' x", "-tt").flows(100_000)
    with frozen(stream.process.pid):
        more = grown(site, before)
    print(f"terminal of a client that stands still: {more / MIB:.1f} MiB more")
    assert more < MOST, f"{more / MIB:.1f} MiB more"
    stream.flows(100_000)


def test_a_target_that_never_reads_costs_little(site: FaultSite, load: Load) -> None:
    before = memory(site.pid("bastion.ssh"))
    with Path("/dev/zero").open("rb") as zero:
        load.command("deaf", "echo here; exec sleep 60", to=KEPT, stdin=zero).flows()
    more = grown(site, before)
    print(f"target that never reads: {more / MIB:.1f} MiB more")
    assert more < MOST, f"{more / MIB:.1f} MiB more"


# --- never logs in ------------------------------------------------------------------------------------


def test_a_thousand_half_open_connections_do_not_keep_anybody_out(site: FaultSite, load: Load) -> None:
    """Attack: one source fills all places before login. It gets those of one source, for the time that login takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < STRANGERS + 200:
        pytest.skip(f"needs {STRANGERS} descriptors, may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, STRANGERS + 200), hard))
    stream = load.counting("meanwhile").flows(1000)
    worker = site.pid("bastion.ssh")
    before = memory(worker)
    strangers: list[socket.socket] = []
    with ExitStack() as held:
        for number in range(STRANGERS):
            try:
                sock = socket.create_connection((LOOPBACK, site.port), timeout=30, source_address=(FLOODER, 0))
            except OSError:
                continue
            strangers.append(held.enter_context(sock))
            if number % 2:
                try:
                    sock.sendall(b"SSH-2.0-half\r\n")  # half of them begin to talk, and stop
                except OSError:
                    pass
            if number in (STRANGERS // 2, STRANGERS - 1):
                said = site.go("echo in")
                assert (said.code, said.out) == (0, b"in\n"), said.err
                assert said.seconds < patience(10), f"{number} connections held a login up for {said.seconds:.1f} s"
        more = memory(worker) - before
        stream.flows(1000)
        wait_until("the limit of one source", lambda: sum(map(_is_open, strangers)) <= 10, patience(10))
    print(f"{STRANGERS} half-open connections: login in {said.seconds:.2f} s, {more / MIB:.1f} MiB more")
    assert more < MOST
    assert "too many connections from this source" in site.log.read_text()


def _is_open(sock: socket.socket) -> bool:
    """False once the bastion has hung up."""
    sock.settimeout(0.01)
    try:
        while data := sock.recv(4096):
            if b"too many" in data:
                return False
    except TimeoutError:
        return True
    except OSError:
        return False
    return False


# --- never goes away ----------------------------------------------------------------------------------


def test_a_client_that_vanishes_mid_stream_ends_its_session(site: FaultSite, load: Load) -> None:
    stream = load.counting("vanish", "-tt").flows(1000)
    stream.process.send_signal(signal.SIGKILL)
    stream.wait()
    wait_until("the end of the session", lambda: not site.sessions(), patience(10))
