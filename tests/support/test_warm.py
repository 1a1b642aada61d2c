"""A command from the warm process is, for who started it, what it would be from a cold one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import warm

POLICY = [sys.executable, "-m", "policy"]


def pythons(words: list[str], **options: str) -> tuple[int, str, str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, **options)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["serve", "--config", "nowhere.toml"], ["fly"], ["check", "--config"]])
def test_it_says_and_ends_as_the_cold_one(words: list[str]) -> None:
    done = warm.run([*POLICY, *words])
    assert (done.returncode, done.stdout, done.stderr) == pythons([*POLICY, *words])


def test_where_it_is_and_what_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "bastion.toml").write_text("[policy]\nno_such = 1\n")
    with warm.Popen([*POLICY, "check", "--config", "bastion.toml"], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"no_such" in process.stderr.read()
        assert process.wait(60) == 78
    assert warm.run([*POLICY, "init", "--config", "bastion.toml", "--passphrase-stdin"], "too short").returncode


def test_a_signal_is_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bastion.toml")  # it waits for whoever writes there
    process = warm.Popen([*POLICY, "check", "--config", str(tmp_path / "bastion.toml")])
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == process.poll() == -signal.SIGKILL


def test_what_counts_before_main_wants_a_cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*POLICY, "--help"]
    warm.run(words)  # so that the warm process is there, and was started without it
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    assert "cleanup[2]" in warm.run(words).stderr
