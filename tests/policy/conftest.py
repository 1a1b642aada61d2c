"""One policyd for a whole file of tests; those that kill, lock or restart it make their own from the same state."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from policy.keys import sshkeys
from tests.policy.policyd import Policyd

KEPT = "BASTION_TEST_FILLED"
"""Names a folder in which a run of many short processes (tests.mutation) keeps `filled` for all of them."""


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Policyd:
    """A state to copy: alice and bob are engineers, gina a guest, ada an administrator, sue security; web1 is test,
    db1 production, hidden is named by no rule."""
    if kept := os.environ.get(KEPT):
        return _kept(Path(kept), tmp_path_factory.mktemp("p"))
    return _fill(Policyd(tmp_path_factory.mktemp("p")))


def _fill(daemon: Policyd) -> Policyd:
    daemon.make().start()
    try:
        daemon.person("alice", "engineer")
        daemon.person("bob", "engineer")
        daemon.person("gina", "guest")
        daemon.person("ada", "admin")
        daemon.person("sue", "security")
        daemon.target("web1", "root", "deploy")
        daemon.target("db1", "postgres", env="prod")
        daemon.target("hidden", "root", env="secret")
    finally:
        daemon.stop()
    return daemon


def _kept(folder: Path, spare: Path) -> Policyd:
    """The one that an earlier process has made, or made and left there for the next."""
    if not folder.exists():
        made = _fill(Policyd(spare / "filled"))
        for name, key in made.keys.items():
            (made.home / f"{name}.pem").write_bytes(sshkeys.write_private_key(key))
        try:
            made.home.rename(folder)
        except OSError:  # another was faster
            return made
    keys = {path.stem: sshkeys.parse_private_key(path.read_bytes()) for path in folder.glob("*.pem")}
    return Policyd(folder, keys=keys)


def copied(filled: Policyd, home: Path, settings: str = "") -> Policyd:
    shutil.copytree(filled.home / "state", home / "state")
    daemon = Policyd(home, settings=settings, keys=dict(filled.keys))
    daemon.write()
    return daemon


@pytest.fixture(scope="module")
def policyd(filled: Policyd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policyd]:
    """Patient, since hundreds of failed logins from one address would lock that address."""
    daemon = copied(filled, tmp_path_factory.mktemp("p"), "source_failures = 100000").start()
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def make_policyd(filled: Policyd, tmp_path: Path) -> Iterator[Callable[..., Policyd]]:
    """A policyd of the test's own, running, with lines of [policy] and files beside bastion.toml."""
    made: list[Policyd] = []

    def make(settings: str = "", files: dict[str, str] | None = None) -> Policyd:
        daemon = copied(filled, tmp_path / str(len(made)), settings)
        for name, text in (files or {}).items():
            (daemon.home / name).write_text(text)
        made.append(daemon)
        return daemon.start()

    yield make
    for daemon in made:
        daemon.stop()
