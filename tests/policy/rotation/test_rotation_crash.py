"""policyd dies at any write and any sync of a rotation: what opens the account is found out, by itself."""

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from policy import messages as m
from policy.keys import sshkeys
from tests.policy.conftest import copied
from tests.policy.dying import CALLS, tracing, watched
from tests.policy.policyd import Gone, Policyd
from tests.policy.rotating import ROTATION, Targets, Worker, password_of, rows
from tests.support.net import wait_until

PLACES = {"password": "root@web1", "key": "key@web1"}


@pytest.fixture(scope="module")
def keyed(filled: Policyd, tmp_path_factory: pytest.TempPathFactory) -> Policyd:
    """With one account more, which a key opens. Not running."""
    daemon = copied(filled, tmp_path_factory.mktemp("p"))
    (daemon.home / "policy.toml").write_text(daemon.rules + ROTATION)
    daemon.start()
    pem = sshkeys.write_private_key(sshkeys.generate_private_key()).decode()
    daemon.done(m.AccountAdd(account="key", target="web1", private_key=pem))
    daemon.stop()
    (daemon.home / "key.pem").write_text(pem)
    return daemon


def again(keyed: Policyd, folder: Path) -> tuple[Policyd, Targets]:
    daemon = copied(keyed, folder)
    (daemon.home / "policy.toml").write_text(daemon.rules + ROTATION)
    public = sshkeys.parse_private_key((keyed.home / "key.pem").read_bytes()).public.blob
    opens = {f"{name}@web1": {f"password of {name}".encode()} for name in ("root", "deploy")}
    return daemon.start(), Targets(opens={**opens, "key@web1": {public}})


@pytest.fixture(scope="module")
def steps(keyed: Policyd, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How many writes and syncs a whole rotation has, of each kind."""
    found = {}
    for kind, place in PLACES.items():
        policyd, targets = again(keyed, tmp_path_factory.mktemp("p"))
        worker = Worker(policyd, targets)
        log = policyd.home / "strace"
        strace = watched(policyd, "", log)
        try:
            policyd.done(m.Rotate(places=[place]))
            wait_until("its end", lambda policyd=policyd: not rows(policyd))
        finally:
            strace.terminate()
            strace.wait(60)
            worker.close()
            policyd.stop()
        found[kind] = sum(f"{call}(" in line for line in log.read_text().splitlines() for call in CALLS.split(","))
    return found


@pytest.fixture
def strace() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Those that are to be over at the end."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for one in running:
        one.wait(60)


@pytest.mark.fault
@tracing
@pytest.mark.parametrize("part", [0.0, 0.2, 0.4, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("kind", PLACES)
def test_killed_at_a_write_or_a_sync(keyed, tmp_path, steps, strace, kind, part) -> None:
    policyd, targets = again(keyed, tmp_path)
    worker = Worker(policyd, targets)
    strace.append(watched(policyd, f"signal=KILL:when={1 + int(part * steps[kind])}", policyd.home / "strace"))
    with suppress(Gone, TimeoutError, AssertionError, OSError):
        policyd.done(m.Rotate(places=[PLACES[kind]]))
        wait_until("its death", lambda: policyd.process is None or policyd.process.poll() is not None, 5)
    policyd.kill()
    worker.close()
    policyd.start()
    other = Worker(policyd, Targets(opens=targets.opens))
    wait_until("what opens", lambda: all(row["state"] == "wanted" for row in rows(policyd)))
    policyd.done(m.Rotate(places=[PLACES[kind]]))  # what was rolled back waits no more
    wait_until("the end", lambda: not rows(policyd))
    if kind == "password":
        assert {password_of(policyd)} == targets.opens["root@web1"]
    else:
        peer, grant = policyd.session("alice", "key")
        assert {peer.ask(m.Credential(session=grant.session, session_key=b"")).public} == targets.opens["key@web1"]
    assert policyd.audit("vault-altered") == []
    assert "whole" in policyd.done(m.AuditVerify()).text
    other.close()
    policyd.stop()


@pytest.mark.parametrize("hours", [0.5, 2])
def test_what_is_too_old_is_changed(keyed, tmp_path, hours) -> None:
    policyd, targets = again(keyed, tmp_path)
    policyd.stop()
    with sqlite3.connect(policyd.database) as db:
        db.execute("update secret_version set made = made - ?", (int(hours * 3600) * 10**9,))
    db.close()
    entry = ROTATION.replace('after    = ["use", "checkout"]', 'every    = "1h"')
    (policyd.home / "policy.toml").write_text(policyd.rules + entry)
    policyd.start()
    worker = Worker(policyd, targets)
    if hours < 1:
        policyd.done(m.Rotate(places=["deploy@web1"]))
        wait_until("the one that is asked for", lambda: any(row["ended"] for row in rows(policyd, all=True)))
        assert [row["account"] for row in rows(policyd, all=True)] == ["deploy"]
    else:
        wait_until("all", lambda: len([row for row in rows(policyd, all=True) if row["ended"]]) == 3)
        assert {(row["why"], row["state"]) for row in rows(policyd, all=True)} == {("schedule", "committed")}
        assert {password_of(policyd)} == targets.opens["root@web1"]
    worker.close()
    policyd.stop()
