"""Files that are not what they were: a start refuses with the cause and the next command, or does not mind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from bastion import setup
from tests.support.chaos import patience
from tests.support.net import LOOPBACK, free_port, wait_until
from tests.support.sshd import SSHD, keygen

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

MISCONFIGURED: Final = 78
ROLES: Final = {
    "run": ["bastion", "run", "-c"],
    "gateway": ["bastion.ssh", "--worker", "0", "--config"],
    "policyd": ["policy", "serve", "--config"],
    "recorderd": ["recorder", "serve", "--config"],
}
NODE_KEY, NODE_LOG = "state/recordings/node.key", "state/recordings/node.log"
ED25519, MASTER = "state/ssh_host_ed25519_key", "state/master.key"
DATABASE, HEAD = "state/bastion.db", "state/audit.head"


def _half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: Final[dict[str, Callable[[Path], object]]] = {
    "empty": lambda path: os.truncate(path, 0),
    "half": _half,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "noise": lambda path: path.write_bytes(bytes(range(255, 128, -1)) * 4),
    "a folder": _folder,
    "gone": lambda path: path.unlink(),
    "open to others": lambda path: path.chmod(0o644),
    "not TOML": lambda path: path.write_text(path.read_text() + "\n[[["),
    "nested": lambda path: path.write_text("x = " + "[" * 100_000),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bastion that has run once."""
    home = tmp_path_factory.mktemp("state")
    keygen(home / "sam")
    keys = [(home / "sam.pub").read_text()]
    listen = [f"{LOOPBACK}:{free_port()}"]
    list(setup.make(home / "bastion", setup.Answers(listen=listen, admin="sam", admin_keys=keys)))
    config = home / "bastion/bastion.toml"
    config.write_text(config.read_text().replace("[recorder]", "[recorder]\nlow_water_mib = 16\nreserve_mib = 1", 1))
    with started("recorderd", home / "bastion"):
        pass
    shutil.rmtree(home / "bastion/run")
    return home / "bastion"


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    """Its copy."""
    return Path(shutil.copytree(template, tmp_path / "bastion"))


@contextmanager
def started(role: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process, once it says that it is ready; ended in order afterwards."""
    log = home / "log"
    with log.open("wb") as out:
        words = [sys.executable, "-m", *ROLES[role], str(home / "bastion.toml")]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        wait_until(role, lambda: b'"event": "ready"' in log.read_bytes() or process.poll() is not None, patience(20))
        assert process.poll() is None, log.read_text()
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience(20)) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def refused(role: str, home: Path) -> list[str]:
    """What the process says as it refuses to start."""
    words = [sys.executable, "-m", *ROLES[role], str(home / "bastion.toml")]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience(30), check=False
    )
    assert done.returncode == MISCONFIGURED, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return [line for line in done.stderr.splitlines() if not line.startswith("{")]


CASES: Final = [
    *(("gateway", ED25519, damage) for damage in ("half", "noise", "gone")),
    ("run", ED25519, "empty"),
    *(("policyd", MASTER, damage) for damage in ("half", "zeros", "a folder", "open to others")),
    *(("policyd", DATABASE, damage) for damage in ("empty", "half", "noise", "a folder", "gone")),
    *(("policyd", HEAD, damage) for damage in ("zeros", "a folder", "gone")),
    *(("policyd", "policy.toml", damage) for damage in ("noise", "gone")),
    *(("recorderd", NODE_KEY, damage) for damage in ("empty", "noise", "a folder", "gone", "open to others")),
    *(("recorderd", NODE_LOG, damage) for damage in ("zeros", "a folder")),
    *((role, "bastion.toml", "not TOML") for role in ROLES),
    *((role, "bastion.toml", "nested") for role in ("run", "policyd", "recorderd")),
]
"""Each message once, about; a process takes a second of processor to start."""


@pytest.mark.parametrize(("role", "file", "damage"), CASES)
def test_a_damaged_file_stops_the_start_with_its_cause_and_what_to_do(
    role: str, file: str, damage: str, home: Path
) -> None:
    damaged = home / file
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and path != damaged}
    DAMAGES[damage](damaged)
    said = refused(role, home)
    assert 2 <= len(said) <= 4, said
    assert all(line.startswith("bastion: ") for line in said), said
    assert damaged.name in said[0] or "audit trail" in said[0] or "master key" in said[0], said
    assert any(word in said[1] for word in ("restore", "put ", "check-config", "ls -ld", "chmod", "mv ", "accept-trail",
                                            "init")), said  # fmt: skip
    for path, data in before.items():
        assert path.read_bytes() == data, f"a start that is refused changes nothing, and here {path.name}"


def test_half_of_the_head_file_is_enough(home: Path) -> None:
    """Its two slots are a sector apart: a torn write of one leaves the other."""
    os.truncate(home / HEAD, 300)
    with started("policyd", home):
        pass


def test_a_torn_end_of_the_node_log_is_cut(home: Path) -> None:
    """What a power cut leaves."""
    log = home / NODE_LOG
    whole = log.read_bytes()
    log.write_bytes(whole + b"\x00\x00\x00\x30torn")
    with started("recorderd", home):
        pass
    assert log.read_bytes() == whole


def test_foreign_files_among_the_recordings_stop_nothing(home: Path) -> None:
    """lost+found, somebody's notes, a recording that is none, a pipe, links that lead away."""
    folder = home / "state/recordings"
    day = folder / time.strftime("%Y-%m-%d", time.gmtime())
    day.mkdir()
    (folder / "lost+found").mkdir()
    (folder / "README").write_text("not a recording")
    (folder / "2026-01-01").write_text("a file where a day should be")
    (folder / "2026-01-02").symlink_to("/etc")
    (day / "notes.txt").write_text("not a recording")
    for number, damage in enumerate((b"", b"noise" * 100, bytes(4096), b"\x89BREC\r\n" + bytes(64))):
        name = f"{number:032x}.brec"
        (day / name).write_bytes(damage)
        (day / f"{name}.tail").write_bytes(damage)
    (day / f"{10:032x}.brec.tail").write_bytes(b"a tail without a recording" * 9)
    (day / f"{11:032x}.brec.tail").mkdir()
    os.mkfifo(day / f"{12:032x}.brec")
    os.mkfifo(day / f"{13:032x}.brec.tail")
    (day / f"{14:032x}.brec").symlink_to("/etc/passwd")
    (day / f"{14:032x}.brec.tail").symlink_to("/etc/passwd")
    kept = {path for path in folder.rglob("*") if not path.is_dir() and path.stat().st_size}
    with started("recorderd", home):
        for words in (["ls", "--json"], ["verify", "--all", "--json"]):
            done = subprocess.run(
                [sys.executable, "-m", "replay", *words, "-c", str(home / "bastion.toml")], stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=patience(20), check=False,
            )  # fmt: skip
            assert "Traceback" not in done.stderr
            json.loads(done.stdout)
    assert {path for path in kept if not path.exists()} == set(), "what may be evidence of something stays"
