"""kill -9 at random moments, under load: whatever a client has received is in a recording that verifies up to the cut.

BASTION_CHAOS_ROUNDS=N for more rounds, BASTION_CHAOS_SEED=N for the same moments again.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from recorder.model import Kind
from tests.support.chaos import (
    FaultSite,
    Load,
    Stream,
    Tape,
    holds,
    is_running,
    patience,
    tape_of,
    tapes,
    verdicts,
)
from tests.support.net import wait_until
from tests.support.sshd import SSHD

ROUNDS: Final = int(os.environ.get("BASTION_CHAOS_ROUNDS", "5"))
FILE, FILES = 48 * 1024, 2000  # more than any round has time for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.timeout(120 + 60 * ROUNDS),
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]


@pytest.fixture
def site(fault_site: FaultSite) -> Iterator[FaultSite]:
    yield fault_site
    assert fault_site.go("echo alive").out == b"alive\n", "the bastion does not work any more"


def kill_all(site: FaultSite) -> None:
    pids = [pid for role in ("recorder", "policy", "bastion.ssh") for pid in site.pids(role)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until("their end", lambda: not any(map(is_running, pids)))


def kill_supervisor(site: FaultSite) -> None:
    """Its children end with it; whoever watches over it, systemd or a person, starts it again."""
    children = [pid for role in ("recorder", "policy", "bastion.ssh") for pid in site.pids(role)]
    assert site.process is not None
    site.process.kill()
    site.process.wait()
    site.process = None
    wait_until("the end of its children", lambda: not any(map(is_running, children)), patience(20))
    site.start_bastion()


KILLS: Final[list[tuple[str, Callable[[FaultSite], None]]]] = [
    ("recorder", lambda site: site.kill("recorder")),
    ("policy", lambda site: site.kill("policy")),
    ("gateway", lambda site: site.kill("bastion.ssh")),
    ("all", kill_all),
    ("supervisor", kill_supervisor),
]


def test_kill_9_at_random_moments_loses_nothing_that_anybody_saw(site: FaultSite, tmp_path: Path) -> None:
    seed = int(os.environ.get("BASTION_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"BASTION_CHAOS_SEED={seed}")
    chance = random.Random(seed)
    files = tmp_path / "files"
    files.mkdir()
    for number in range(FILES):  # a hole with a number in it: as good as random, and takes no space
        with (files / str(number)).open("wb") as file:
            file.write(b"file %d\n" % number)
            file.truncate(FILE)
    order = [KILLS[at % len(KILLS)] for at in range(ROUNDS)]
    chance.shuffle(order)
    took, seen = {}, 0
    for number, (what, kill) in enumerate(order):
        with Load(site, tmp_path / f"round{number}") as load:
            commands = [
                load.counting(f"c{number}a"),
                load.counting(f"c{number}j", entry="jump"),
                load.counting(f"c{number}t", "-tt"),
                load.counting(f"c{number}m", "-tt", entry="jump"),
            ]
            fetching = load.fetching(f"c{number}f", files, FILES)
            for stream in commands:
                stream.flows()
            while not fetched(load, fetching):
                fetching.flows()
            time.sleep(chance.uniform(0, 1))  # the moment is what is random here
            kill(site)
            for stream in load.streams:
                stream.wait()
            took[f"{number}:{what}"] = site.recovers()
            for stream in commands:
                holds(tape_of(site, stream.name), stream.received, f"{stream.name}, {what} killed")
            holds_files(site, fetched(load, fetching), files, what, before=number)
            seen += sum(stream.size for stream in commands) + sum(map(len, fetched(load, fetching)))
    print("seconds until a login worked:", {name: round(seconds, 1) for name, seconds in took.items()})
    print(f"{seen} bytes received in all, every one of them recorded")
    found = verdicts(site)
    assert set(found.values()) <= {"ok", "truncated", "open", "recovered"}, found
    assert {tape.session for tape in tapes(site)} == set(found), "each of them can be read, too"
    assert site.bastion("audit", "verify").returncode == 0


def fetched(load: Load, stream: Stream) -> list[bytes]:
    """What sftp has written, in the order in which it asked."""
    folder = load.folder / f"{stream.name}.d"
    found = []
    for number in range(FILES):
        try:
            found.append((folder / str(number)).read_bytes())
        except FileNotFoundError:
            break
    return found


def holds_files(site: FaultSite, received: list[bytes], files: Path, what: str, *, before: int) -> None:
    """Each byte of each file is in the recording, and so is each whole file with its hash, but for the last."""
    first = f"{files}/0".encode()

    def fits(tape: Tape) -> bool:
        return any(first in operation.path for operation in tape.operations) or first in tape.joined(Kind.CONTENT_IN)

    found = sorted((tape for tape in tapes(site) if fits(tape)), key=lambda tape: tape.session)
    assert len(found) == before + 1, "one session of sftp each round"
    tape = found[-1]
    for number, data in enumerate(received):
        assert data == (files / str(number)).read_bytes()[: len(data)]
    sent = b"".join(received)
    recorded = data_of(tape.joined(Kind.CONTENT_OUT))
    assert recorded[: len(sent)] == sent, (
        f"{what} killed: {len(sent)} bytes of files received, {len(recorded)} recorded"
    )
    done = {operation.path for operation in tape.operations if operation.op == "read" and operation.size == FILE}
    missing = [number for number in range(len(received) - 1) if f"{files}/{number}".encode() not in done]
    assert not missing, f"{what} killed: of {len(received)} files these are not told as read: {missing[:5]}"


def data_of(stream: bytes) -> bytes:
    """What the data messages of an SFTP stream carry (draft-ietf-secsh-filexfer-02, section 7)."""
    at, data = 0, []
    while at + 9 <= len(stream):
        length = int.from_bytes(stream[at : at + 4])
        if stream[at + 4] == 103:
            data.append(stream[at + 13 : at + 4 + length])
        at += 4 + length
    return b"".join(data)
