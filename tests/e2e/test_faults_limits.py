"""What is full: file descriptors, places before login. Who is in stays in, who is not is told, nothing spins."""

import os
import resource
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.chaos import KEPT, FaultSite, Load, patience, processor, tape_of
from tests.support.net import LOOPBACK, wait_until
from tests.support.sshd import SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

LOOK: Final = 1.5  # seconds that the processor of a full process is watched
SPINS: Final = 0.5  # of them, at most, on a machine where nothing else is measured: a busy loop takes all
SOURCES: Final = 30
PLACES: Final = 200  # `startups`, as shipped


@pytest.fixture
def site(fault_site: FaultSite) -> Iterator[FaultSite]:
    yield fault_site
    assert fault_site.go("echo alive").out == b"alive\n", "the bastion does not work any more"


@contextmanager
def descriptors(pid: int, more: int) -> Iterator[None]:
    """Within the block the process may have at most `more` file descriptors than it has now, none of them a low one:
    those that were given back since it started would be given out first.
    """
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    lowest = next(number for number in range(len(used) + 1) if number not in used)
    spare = min(more, lowest // 3)  # within the quarter that is kept back
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest + spare, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


SAID: Final = {
    "bastion.ssh": (255, "bastion: too many connections, try again later or tell the people who run this bastion"),
    "policy": (255, "the bastion's policy service does not answer"),
    "recorder": (76, "bastion: the recording cannot start: too many open files"),
}


@pytest.mark.parametrize("more", [0, 5], ids=["none left", "nearly none left"])
@pytest.mark.parametrize("role", ["bastion.ssh", "policy", "recorder"])
def test_without_file_descriptors_nobody_new_comes_in_and_nobody_is_thrown_out(
    site: FaultSite, load: Load, role: str, more: int
) -> None:
    """Attack: connections until accept(2) fails. A loop that tries again at once takes the processor from others."""
    streams = [load.counting(f"fd-{role}-{more}"), load.counting(f"fd-{role}-{more}-t", "-tt", entry="jump")]
    for stream in streams:
        stream.flows(1000)
    pid = site.pid(role)
    with descriptors(pid, more):
        began = time.monotonic()
        with socket.create_connection((LOOPBACK, site.port)):
            before = processor(pid)
            refused = site.go("id", options=("-o", "ConnectTimeout=8"), timeout=patience(30))
            time.sleep(max(0.0, LOOK - (time.monotonic() - began)))  # a loop is seen by what it costs over time
            share = (processor(pid) - before) / (time.monotonic() - began)
        code, words = SAID[role]
        assert (refused.code, refused.out) == (code if more or role != "recorder" else refused.code, b"")
        if more:  # with none at all accept fails: the gateway cannot even say so
            assert words in refused.err
        assert refused.seconds < patience(12)
        for stream in streams:
            stream.flows(2000)
            assert stream.process.poll() is None
        assert share < SPINS, f"{share:.0%} of a processor"
    site.recovers()
    assert site.pid(role) == pid, "the process is the same"
    for stream in streams:
        stream.flows(1000)
        assert tape_of(site, stream.name).ended is None


def test_many_sources_before_login_do_not_keep_out_who_comes_from_their_own(site: FaultSite, load: Load) -> None:
    """Attack: each source keeps to its own limit, and together they take the places. From 50 on, chance drops some of
    everybody, and the next try gets in.
    """
    stream = load.counting("sources", to=KEPT).flows(1000)
    held: list[socket.socket] = []
    with ExitStack() as stack:
        for number in range(SOURCES * 10):
            source = f"127.0.1.{1 + number % SOURCES}"
            sock = socket.create_connection((LOOPBACK, site.port), timeout=30, source_address=(source, 0))
            held.append(stack.enter_context(sock))
        wait_until("an answer for each", lambda: all(_answered(sock) for sock in held), patience(10))
        waiting = [sock for sock in held if not _was_refused(sock)]
        assert len(waiting) <= PLACES
        by_source = {sock.getsockname()[0] for sock in waiting}
        assert len(by_source) >= SOURCES - 2, "no source has all the places"
        began, tries = time.monotonic(), 1
        while (said := site.go("echo in", options=("-b", "127.0.2.1"))).out != b"in\n":
            assert said.code == 255
            tries += 1
            assert time.monotonic() - began < patience(20), f"nobody gets in: {said.err}"
        print(f"{len(waiting)} of {len(held)} from {len(by_source)} sources wait; a login got in at try {tries}")
        stream.flows(1000)
    wait_until("free places", lambda: site.go("echo in", options=("-b", "127.0.2.1")).out == b"in\n", patience(10))


def _answered(sock: socket.socket) -> bool:
    sock.settimeout(0.05)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    except OSError:
        return True


def _was_refused(sock: socket.socket) -> bool:
    try:
        return b"too many" in sock.recv(4096)
    except OSError:
        return True


def test_one_source_that_is_full_says_so_to_its_people_alone(site: FaultSite) -> None:
    with ExitStack() as stack:
        for _ in range(10):
            sock = socket.create_connection((LOOPBACK, site.port), timeout=30, source_address=("127.0.3.1", 0))
            stack.enter_context(sock)
            assert sock.recv(4) == b"SSH-"
        refused = site.go("echo in", options=("-b", "127.0.3.1"))
        assert refused.code == 255
        assert "bastion: too many connections before login, try again later" in refused.err
        assert site.go("echo in", options=("-b", "127.0.3.2")).out == b"in\n"
    wait_until("free places", lambda: site.go("echo in", options=("-b", "127.0.3.1")).out == b"in\n", patience(10))
