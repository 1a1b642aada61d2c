"""No process that secrets pass through leaves its memory behind, or shows it to others of its user."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bastion import setup
from tests.support.net import LOOPBACK, at_most, free_port, tail, wait_until

PROCESSES = {
    "gateway": ["bastion.ssh", "--worker", "0"],
    "courier": ["bastion.courier"],
    "runner": ["bastion.runner"],
    "broker": ["bastion.broker"],
    "recorderd": ["recorder", "serve"],
    "policyd": ["policy", "serve"],
}
PIECE = 64 * 1024, resource.getrlimit(resource.RLIMIT_CORE)[1]
"""Of a core dump, which is enough to see that one is made."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory") / "b"
    list(setup.make(folder, setup.Answers(listen=[f"{LOOPBACK}:{free_port()}"])))
    (folder / "run").mkdir(mode=0o700, exist_ok=True)
    user = 'user = "nobody"\n' if os.geteuid() == 0 else ""
    text = (folder / "bastion.toml").read_text()
    text = text.replace("[runner]\n", f"[runner]\n{user}").replace("[broker]\n", '[broker]\nsocket = "broker.sock"\n')
    (folder / "bastion.toml").write_text(text)
    return folder


@pytest.fixture(params=PROCESSES)
def process(request: pytest.FixtureRequest, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One of them, started by a shell that wants cores. It is alone, and looks for the others."""
    log = place / f"{request.param}.log"
    module, *words = PROCESSES[request.param]
    command = [sys.executable, "-m", module, *words, "--config", str(place / "bastion.toml")]
    with log.open("wb") as file:
        one = _started(command, place, stdout=file, stderr=file)
    try:
        yield one
        print(tail(log))
    finally:
        one.kill()
        one.wait(30)


def test_it_leaves_no_core_and_shows_nothing_to_its_user(process: subprocess.Popen[bytes], place: Path) -> None:
    wait_until("a limit of 0", lambda: process.poll() is not None or _core_limit(process.pid) == "0", at_most(60))
    assert process.poll() is None, "it did not start"
    assert Path(f"/proc/{process.pid}/mem").stat().st_uid == 0, "its user may not look"
    if os.geteuid() == 0:  # everything is root's there; that it is not dumpable shows when it may dump
        resource.prlimit(process.pid, resource.RLIMIT_CORE, PIECE)
    assert not _dumps(process)
    assert not list(place.glob("core*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="another's limits are root's to change")
def test_others_do_dump(tmp_path: Path) -> None:
    """What the test above would see."""
    one = _started([sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"], tmp_path,
                   stdout=subprocess.PIPE)  # fmt: skip
    assert one.stdout is not None
    one.stdout.readline()
    resource.prlimit(one.pid, resource.RLIMIT_CORE, PIECE)
    if not _dumps(one):
        pytest.skip("this machine keeps no core dumps of anything")


def _started(command: list[str], folder: Path, **streams: object) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()])
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, PIECE)
    try:
        return subprocess.Popen(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, **streams)  # type: ignore[call-overload,no-any-return]
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def _dumps(one: subprocess.Popen[bytes]) -> bool:
    """It crashes: whether the kernel wrote its memory."""
    one.send_signal(signal.SIGABRT)
    _, status = os.waitpid(one.pid, 0)
    one.returncode = -os.WTERMSIG(status)
    assert one.returncode == -signal.SIGABRT
    return os.WCOREDUMP(status)


def _core_limit(pid: int) -> str:
    """The soft one, in bytes."""
    return Path(f"/proc/{pid}/limits").read_text().partition("Max core file size")[2].split()[0]
