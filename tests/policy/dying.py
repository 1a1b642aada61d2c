"""policyd dies at a call that changes a file; or what each of them leaves is opened in this process."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from policy.configuration import read_configuration
from policy.setup import State, open_state
from policy.trail.ledger import RELIEVE_SECONDS
from policy.vault.masters import Master
from tests.policy.policyd import Policyd
from tests.support.durable import Step, Trace, kept, strace
from tests.support.net import wait_until_still

tracing = pytest.mark.skipif(not shutil.which("strace") or os.geteuid() != 0, reason="needs strace, and to be root")
FILES = ("bastion.db", "bastion.db-wal", "audit.head")
CALLS = "pwrite64,fdatasync,fsync,ftruncate"


def watched(policyd: Policyd, rule: str, log: Path) -> "subprocess.Popen[bytes]":
    """strace(1) beside a running policyd, on the files where it keeps things; `rule`: what happens at which call."""
    assert policyd.process is not None
    paths = [word for name in FILES for word in ("-P", str(policyd.database.parent / name))]
    injected = ["-e", f"inject={CALLS}:{rule}"] if rule else []
    return strace(policyd.process.pid, log, *paths, "-e", f"trace={CALLS}", *injected)


@dataclass
class Traced:
    """What was there, and all that changed it."""

    before: Path  # bastion.toml, policy.toml and the state
    steps: list[Step] = field(default_factory=list)
    marks: list[float] = field(default_factory=list)  # wall clock: when the world outside changed

    def mark(self) -> None:
        """Something changes outside, now."""
        self.marks.append(time.time())

    def left(self, steps: Sequence[Step], home: Path) -> Path:
        """bastion.toml of what there is after these."""
        shutil.copytree(self.before, home)
        for step in steps:
            step.play(home / "state")
        return home / "bastion.toml"

    def deaths(self, home: Path) -> Iterator[tuple[bool, int, Path]]:
        """Whether power was lost, how many marks were passed, and bastion.toml, for each state it could leave."""
        seen: set[tuple[int, tuple[Step, ...]]] = set()
        for number in range(len(self.steps) + 1):
            passed = sum(not [step for step in self.steps[number:] if step.at < mark] for mark in self.marks)
            for power, steps in ((False, self.steps[:number]), (True, kept(self.steps[:number]))):
                if number == len(self.steps) or (passed, tuple(steps)) not in seen:  # the last of both is looked at
                    seen.add((passed, tuple(steps)))
                    yield power, passed, self.left(steps, home)
                    shutil.rmtree(home)


def traced(policyd: Policyd, run: Callable[[Traced], object]) -> Traced:
    """`run`, and nothing else that policyd does."""
    state = policyd.home / "state"

    def rests() -> None:
        """Also from moving its log into its database, which it does a while after a commit."""
        wait_until_still(
            lambda: [(path.name, path.stat().st_mtime_ns) for path in sorted(state.iterdir())],
            still=1.5 * RELIEVE_SECONDS,
        )

    rests()
    assert policyd.process is not None
    trace = Trace(policyd.process.pid, policyd.home / "strace")
    found = Traced(policyd.home / "before")
    found.before.mkdir()
    for path in (policyd.config, policyd.home / "policy.toml"):
        shutil.copy(path, found.before)
    shutil.copytree(state, found.before / "state")
    run(found)
    rests()
    found.steps = trace.steps(state)
    whole = found.left(found.steps, policyd.home / "whole").parent / "state"
    for path in state.iterdir():  # nothing was missed: played to the end, it is what is there
        if not path.name.endswith("-shm"):
            assert (whole / path.name).read_bytes() == path.read_bytes(), path.name
    shutil.rmtree(whole.parent)
    return found


async def opened(config: Path, master: Master) -> State:
    return await open_state(read_configuration(config), master)
