"""A disk that fails, and one that is slow, under a live session: strace(1) answers recorderd's calls in its place."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.chaos import KEPT, FaultSite, Load, holds, patience, tape_of, verdicts
from tests.support.net import wait_until
from tests.support.sshd import SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
    pytest.mark.skipif(not shutil.which("strace") or os.geteuid() != 0, reason="needs strace, and to be root"),
]


@pytest.fixture
def site(fault_site: FaultSite) -> Iterator[FaultSite]:
    yield fault_site
    assert fault_site.go("echo alive").out == b"alive\n", "the bastion does not work any more"


@contextmanager
def interfering(site: FaultSite, rule: str, *files: Path) -> Iterator[None]:
    """recorderd's calls on these files (all of them: none named) are treated as the rule says, within the block."""
    calls = rule.partition(":")[0]
    paths = [word for file in files for word in ("-P", str(file))]
    log = site.home / "strace"
    words = ["strace", "-f", "-p", str(site.pid("recorder")), "-o", str(log), *paths, "-e", f"trace={calls}"]
    with subprocess.Popen([*words, "-e", f"inject={rule}"], stderr=subprocess.PIPE) as strace:
        assert strace.stderr is not None
        while b"attached" not in (line := strace.stderr.readline()):
            assert line, "strace did not attach"
        try:
            yield
        finally:
            strace.send_signal(signal.SIGTERM)  # it lets go of the process


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_an_io_error_ends_the_session_that_it_concerns_with_words(site: FaultSite, load: Load, call: str) -> None:
    """EIO once: what was not written is not shown, and the file is not trusted again."""
    stream, other = load.counting(f"eio-{call}", "-tt").flows(3000), load.counting(f"eio-{call}-2", to=KEPT).flows(100)
    tape = tape_of(site, stream.name)
    since = site.newest()
    tail = tape.path.with_name(tape.path.name + ".tail")
    with interfering(site, f"{call}:error=EIO:when=2", tail):
        assert stream.wait() == 76
        assert "bastion: session ended: the recording failed: " in stream.err
        assert "input/output error" in stream.err or "refused to sync" in stream.err
        other.flows(1000)
        assert site.go("echo in").out == b"in\n", "others come in all the same"
    received = stream.received
    wait_until("the report", lambda: tape.session in [row["session"] for row in site.events("recorder-lost", since)])
    tape = tape_of(site, stream.name)
    holds(tape, received, stream.name)
    assert verdicts(site, tape.session)[tape.session] in ("open", "truncated", "recovered")
    other.flows(1000)
    assert other.process.poll() is None


def test_a_slow_disk_slows_and_loses_nothing(site: FaultSite, load: Load) -> None:
    """200 ms for each sync, and for each write of one session's tail."""
    stream, other = load.counting("slow", "-tt").flows(1000), load.counting("slow-2", to=KEPT).flows(1000)
    tape = tape_of(site, stream.name)
    with interfering(site, "fdatasync,fsync,syncfs:delay_enter=200000"):
        for one in (stream, other):
            one.flows(2000)
        began = time.monotonic()
        assert site.go("echo in").out == b"in\n"
        assert time.monotonic() - began < patience(10)
    with interfering(site, "write:delay_enter=200000", tape.path.with_name(tape.path.name + ".tail")):
        for one in (stream, other):
            one.flows(2000)
    for one in (stream, other):
        one.flows(2000)
        assert one.process.poll() is None, one.err
        one.process.terminate()
        one.wait()
    wait_until("their ends", lambda: not site.sessions(), patience(10))
    for one in (stream, other):
        tape = tape_of(site, one.name)
        holds(tape, one.received, one.name)
        assert verdicts(site, tape.session) == {tape.session: "ok"}
