"""Encrypted recordings: an auditor's key opens them, nothing else does."""

import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recorder.daemon import running
from tests.replay.conftest import Replay, noting
from tests.replay.recordings import SHELL, Made, Studio


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Studio, Made]]:
    """A recording for the auditor whose keys lie in the studio's folder: `auditor`, passphrase `correct horse`."""
    folder = tmp_path_factory.mktemp("locked")
    subprocess.run(
        [sys.executable, "-m", "replay", "keygen", "--passphrase-stdin", str(folder / "auditor")],
        input=b"correct horse\n", check=True, capture_output=True,
    )  # fmt: skip
    with running(folder, auditors=[str(folder / "auditor.pub")]) as daemon, noting(folder):
        studio = Studio(daemon)
        yield studio, studio.record(SHELL)


def test_keygen_writes_a_private_key_for_its_owner_alone(replay: Replay, tmp_path: Path) -> None:
    said = replay("keygen", tmp_path / "auditor")
    assert "[recorder] auditors" in said.out
    assert stat.S_IMODE((tmp_path / "auditor").stat().st_mode) == 0o600
    assert "BEGIN PRIVATE KEY" in (tmp_path / "auditor").read_text()
    assert "BEGIN PUBLIC KEY" in (tmp_path / "auditor.pub").read_text()


def test_keygen_never_writes_over_a_key(replay: Replay, tmp_path: Path) -> None:
    replay("keygen", tmp_path / "auditor")
    before = (tmp_path / "auditor").read_bytes()
    assert "exists" in replay("keygen", tmp_path / "auditor", code=64).err
    (tmp_path / "auditor").unlink()
    assert "exists" in replay("keygen", tmp_path / "auditor", code=64).err
    (tmp_path / "other").symlink_to(tmp_path / "victim")
    assert "other" in replay("keygen", tmp_path / "other", code=64).err
    assert not (tmp_path / "victim").exists()
    assert before


def test_without_a_key_it_is_listed_but_not_read(replay: Replay, locked: tuple[Studio, Made]) -> None:
    studio, made = locked
    (row,) = json.loads(replay("ls", "--json", config=studio.config).out)
    assert (row["session"], row["encrypted"], row["person"]) == (made.session, True, "")
    assert "(encrypted)" in replay("ls", config=studio.config).out
    for words in (["show"], ["play"], ["export", "--format", "jsonl"]):
        said = replay(*words, made.session, config=studio.config, code=69)
        assert said.err.endswith("replay: give an auditor's key: --key FILE\n")
        assert said.out == ""
    assert "1 encrypted recordings could not be asked" in replay("ls", "--person", "alice", config=studio.config).err


def test_another_auditors_key_does_not_open_it(replay: Replay, locked: tuple[Studio, Made], tmp_path: Path) -> None:
    studio, made = locked
    replay("keygen", tmp_path / "other")
    assert (
        "no key opens it"
        in replay("show", made.session, "--key", tmp_path / "other", config=studio.config, code=69).err
    )


def test_no_key_at_all(replay: Replay, locked: tuple[Studio, Made], tmp_path: Path) -> None:
    studio, made = locked
    (tmp_path / "not").write_text("not a key")
    for name in ("not", "absent"):
        said = replay("show", made.session, "--key", tmp_path / name, config=studio.config, code=64)
        assert name in said.err
    public = studio.daemon.folder / "auditor.pub"
    assert "no private key" in replay("show", made.session, "--key", public, config=studio.config, code=64).err


@pytest.mark.parametrize(("passphrase", "code"), [(b"correct horse\n", 0), (b"battery staple\n", 64)])
def test_the_passphrase_is_asked_at_the_terminal(locked: tuple[Studio, Made], passphrase: bytes, code: int) -> None:
    studio, made = locked
    words = ["show", made.session, "--key", str(studio.daemon.folder / "auditor"), "-c", str(studio.config)]
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-m", "replay", *words])
    shown = b""
    while b"passphrase" not in shown:
        shown += os.read(terminal, 1024)
    os.write(terminal, passphrase)
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:
            break
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    os.close(terminal)
    assert passphrase.strip() not in shown
    assert (b"alice as root@web1" in shown) == (code == 0)
