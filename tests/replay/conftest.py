"""One recorderd for all tests of the auditor's tool; what it has recorded, made once."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.recorder.daemon import running
from tests.replay.recordings import MIXED, SHELL, Made, Studio


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with running(tmp_path_factory.mktemp("studio")) as daemon:
        yield Studio(daemon)


@pytest.fixture(scope="session")
def shelled(studio: Studio) -> Made:
    """A shell session of alice."""
    return studio.record(SHELL)


@pytest.fixture(scope="session")
def mixed(studio: Studio) -> Made:
    """An exec, sftp, a forward and a denial, of bob, killed by carol."""
    return studio.record(MIXED, "killed", "carol", person="bob", target="db1")


@dataclass(frozen=True)
class Said:
    """What a command wrote."""

    out: str
    err: str
    code: int


Replay = Callable[..., Said]


@pytest.fixture
def replay(studio: Studio) -> Replay:
    """Run `replay` as a person would, on what the studio has recorded."""

    def run(*words: str | Path, config: Path | None = studio.config, given: str = "", code: int = 0) -> Said:
        place = ["-c", str(config)] if config and words and words[0] not in ("keygen", "--help") else []
        done = subprocess.run(
            [sys.executable, "-m", "replay", *map(str, words), *place], input=given, capture_output=True, text=True,
            errors="surrogateescape", timeout=60, check=False, env={**os.environ, "COLUMNS": "100", "TZ": "UTC"},
        )  # fmt: skip
        assert done.returncode == code, done.stderr + done.stdout
        return Said(done.stdout, done.stderr, done.returncode)

    return run
