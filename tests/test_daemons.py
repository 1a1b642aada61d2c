"""What every daemon has in common: it starts small, and it says one line of JSON at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

DAEMONS = {  # module -> the words before `--config`
    "bastion.ssh": ["--worker", "0"],
    "bastion.broker": [],
    "bastion.courier": [],
    "bastion.runner": [],
    "policy": ["serve"],
    "recorder": ["serve"],
}


@pytest.mark.parametrize("module", DAEMONS)
def test_a_daemon_does_not_load_what_draws_tables(module: str, tmp_path: Path) -> None:
    """structlog loads rich where it finds it: 6.6 MiB of each process, and tracebacks that would show values."""
    words = [sys.executable, "-X", "importtime", "-m", module, *DAEMONS[module], "--config", str(tmp_path / "none")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 78, done.stderr[-500:]
    assert "structlog.dev" in loaded
    assert not {"rich.text", "rich.table", "rich.traceback"} & loaded
