"""A policyd with rules of rotations, and a worker of the test's that has targets in memory behind it."""

import pytest

from tests.policy.conftest import copied
from tests.policy.rotating import ROTATION, Targets, Worker


@pytest.fixture
def policyd(filled, tmp_path):
    daemon = copied(filled, tmp_path)
    (daemon.home / "policy.toml").write_text(daemon.rules + ROTATION)
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def targets():
    return Targets(opens={f"{name}@web1": {f"password of {name}".encode()} for name in ("root", "deploy")})


@pytest.fixture
def worker(policyd, targets):
    made = Worker(policyd, targets)
    yield made
    made.close()
