"""One package and one machine for all tests of it: they stay in one worker (xdist_group "booted")."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.ops.installed import install, lend
from tests.ops.machine import Machine, booted

ROOT: Final = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not compressed: that would take most of the time. One at a time: all builds use one folder."""
    folder = tmp_path_factory.mktemp("package")
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build/.deb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [ROOT / "systemd/build-deb"], cwd=ROOT, check=True, timeout=600, capture_output=True, text=True,
            env={**os.environ, "DPKG_DEB_COMPRESSOR_TYPE": "none"},
        )  # fmt: skip
        return Path(shutil.move(ROOT / done.stdout.split()[-1], folder))


@pytest.fixture(scope="session")
def machine(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(tmp_path_factory.mktemp("machine")) as found:
        install(found, package)
        yield found


@pytest.fixture(scope="session")
def shop(machine: Machine) -> Machine:
    lend(machine)
    return machine
