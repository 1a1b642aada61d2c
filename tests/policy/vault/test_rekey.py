"""`vault rekey`: everything is sealed anew while all goes on, and wherever it is killed, the next start goes on."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest

from policy import messages as m
from policy.vault.masters.file import make_master_key
from tests.policy.dying import CALLS, tracing, watched
from tests.policy.policyd import Gone, Policyd
from tests.support.net import wait_until

Make = Callable[..., Policyd]
WHY = "an administrator has left"


def status(policyd: Policyd) -> dict[str, str]:
    return dict(policyd.done(m.VaultStatus()).rows)


def rekeyed(policyd: Policyd, generation: int = 2) -> bool:
    said = status(policyd)
    return said["sealed anew now"] == "no" and said["root key"].startswith(f"generation {generation},")


def select(policyd: Policyd, what: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{policyd.database}?mode=ro", uri=True)) as database:
        return database.execute(what).fetchall()


def password(policyd: Policyd, account: str = "root", target: str = "web1") -> bytes:
    peer, grant = policyd.session("alice", account, target)
    with peer:
        answer = peer.ask(m.Credential(session=grant.session, session_key=b""))
    assert isinstance(answer, m.UsePassword), answer
    return answer.password


def sealed_anywhere(policyd: Policyd, *blobs: bytes) -> bool:
    files = [path for path in policyd.database.parent.glob("bastion.db*") if path.is_file()]
    return any(blob in path.read_bytes() for path in files for blob in blobs)


def test_everything_is_sealed_anew(make_policyd: Make) -> None:
    policyd = make_policyd()
    before = select(policyd, "SELECT sealed FROM secret_version")
    (wrapped,) = select(policyd, "SELECT wrapped FROM vault_key")
    policyd.stop()
    assert sealed_anywhere(policyd, before[0][0][5:], wrapped[0]), "the search finds what is there"
    policyd.start()
    assert status(policyd)["root key"].startswith("generation 1,")
    begun = policyd.done(m.VaultRekey(reason=WHY))
    assert begun.data == {"generation": "2", "state": "rekeying"}
    wait_until("the end", lambda: rekeyed(policyd))
    assert {head for (head,) in select(policyd, "SELECT DISTINCT substr(sealed, 1, 5) FROM secret_version")} == {
        b"\x02\x00\x00\x00\x02"
    }
    assert select(policyd, "SELECT generation FROM vault_key") == [(2,)]
    old = [wrapped[0], *(blob[5:] for (blob,) in before)]
    wait_until("no free page and no log to have the old", lambda: not sealed_anywhere(policyd, *old))
    assert password(policyd) == b"password of root"
    events = [policyd.audit(event)[0] for event in ("vault-rekey", "vault-resealed", "vault-rekeyed")]
    assert events[0]["why"] == WHY
    assert events[1]["detail"] == f"generation=2; rows={len(before)}"
    assert events[2]["detail"] == "forgotten=1; generation=2"
    policyd.restart()
    assert password(policyd) == b"password of root"
    assert "whole" in policyd.done(m.AuditVerify()).text


def test_sessions_go_on_and_nothing_is_taken_for_altered(make_policyd: Make) -> None:
    policyd = make_policyd()
    for number in range(150):  # more than one batch
        policyd.done(m.AccountAdd(account=f"a{number}", target="web1", password=f"password {number}"))
    over = threading.Event()
    seen: list[bytes] = []

    def use() -> None:
        while not over.is_set() or len(seen) < 10:
            seen.append(password(policyd, f"a{len(seen) % 150}"))

    thread = threading.Thread(target=use)
    thread.start()
    try:
        for generation in (2, 3):
            policyd.done(m.VaultRekey(reason=WHY))
            policyd.done(m.AccountAdd(account=f"late{generation}", target="web1", password="late"))
            wait_until("the end", lambda: rekeyed(policyd, generation))  # noqa: B023
    finally:
        over.set()
        thread.join(60)
    assert seen == [f"password {number % 150}".encode() for number in range(len(seen))]
    assert password(policyd, "late2") == b"late"
    assert policyd.audit("vault-altered") == []


def test_one_at_a_time_and_with_a_reason(make_policyd: Make) -> None:
    policyd = make_policyd()
    assert policyd.command(m.VaultRekey(reason="")).cause == "say why"
    with policyd.login("alice") as peer:
        for body in (m.VaultRekey(reason=WHY), m.VaultStatus(), m.VaultVersions(name="root@web1")):
            assert isinstance(peer.ask(body), m.Refused)
    with policyd.login("ada") as peer:
        assert isinstance(peer.ask(m.VaultStatus()), m.Rows)
        assert "on the bastion itself" in peer.ask(m.VaultRekey(reason=WHY, master=True)).cause


def test_a_row_that_was_put_back_is_not_sealed_anew(make_policyd: Make) -> None:
    """Attack: an old version in the place of the one in force; re-sealed it would be what was written last."""
    policyd = make_policyd()
    with closing(sqlite3.connect(policyd.database)) as database:
        (row,) = database.execute("SELECT id FROM secret WHERE name = 'root@web1'").fetchone()
        database.execute("UPDATE secret_version SET state = 'retired' WHERE secret = ?", [row])
        database.commit()
    policyd.done(m.VaultRekey(reason=WHY))
    wait_until("the end of it", lambda: "stopped: " in status(policyd)["sealed anew now"])
    assert "`root@web1` is not the one that was written" in status(policyd)["sealed anew now"]
    assert policyd.audit("vault-rekey-stopped")
    assert select(policyd, "SELECT count(*) FROM vault_key") == [(2,)]
    assert password(policyd, "deploy") == b"password of deploy", "everything else goes on"


# --- another master --------------------------------------------------------------------------------------


def rename_master(policyd: Policyd, place: str) -> None:
    policyd.settings = f'master_key = "{place}"'
    policyd.write()


def test_another_master(make_policyd: Make) -> None:
    policyd = make_policyd()
    state = policyd.home / "state"
    assert (
        "names the master that wraps the root keys already"
        in policyd.command(m.VaultRekey(reason=WHY, master=True)).cause
    )
    (wrapped,) = select(policyd, "SELECT wrapped FROM vault_key")
    rename_master(policyd, "file:other.key")
    said = policyd.done(m.VaultRekey(reason=WHY, master=True))
    assert f"made master key `{state}/other.key`" in said.text
    assert policyd.audit("vault-rewrapped")[0]["why"] == WHY
    assert not sealed_anywhere(policyd, wrapped[0])
    (state / "master.key").unlink()
    policyd.restart()
    assert password(policyd) == b"password of root"
    policyd.done(m.VaultRekey(reason=WHY))
    wait_until("the end", lambda: rekeyed(policyd))
    policyd.stop()
    make_master_key(state / "master.key")
    rename_master(policyd, "file:master.key")
    refused = policyd.run("serve")
    assert refused.returncode == 78
    assert "not the key this database was sealed with" in refused.stderr
    assert "`file:other.key`" in refused.stderr, "and which one it was"


def test_a_new_master_that_does_not_work_changes_nothing(make_policyd: Make) -> None:
    policyd = make_policyd()
    (policyd.home / "state" / "short.key").write_bytes(b"short")
    (policyd.home / "state" / "short.key").chmod(0o600)
    for place in ("file:short.key", "credential:none", "nonsense", "file:none/none"):
        rename_master(policyd, place)
        assert isinstance(policyd.command(m.VaultRekey(reason=WHY, master=True)), m.Refused), place
    rename_master(policyd, "file:master.key")
    policyd.restart()
    assert password(policyd) == b"password of root"


# --- killed, as the kernel does it -----------------------------------------------------------------------
# Once each, with processes that really die and start. Every single step: test_rekey_deaths.


@pytest.fixture(scope="module")
def steps(filled: Policyd, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How many writes and syncs a whole re-keying has, and a whole re-wrapping."""
    from tests.policy.conftest import copied

    found = {}
    for kind in ("rekey", "rewrap"):
        policyd = copied(filled, tmp_path_factory.mktemp("p")).start()
        log = policyd.home / "strace"
        strace = watched(policyd, "", log)
        try:
            run(policyd, kind)
        finally:
            strace.terminate()
            strace.wait(60)
            policyd.stop()
        found[kind] = sum(f"{call}(" in line for line in log.read_text().splitlines() for call in CALLS.split(","))
    return found


def run(policyd: Policyd, kind: str) -> None:
    if kind == "rewrap":
        rename_master(policyd, "file:other.key")
        policyd.done(m.VaultRekey(reason=WHY, master=True))
    else:
        policyd.done(m.VaultRekey(reason=WHY))
        wait_until("the end", lambda: bool(select(policyd, "SELECT 1 FROM audit WHERE event = 'vault-rekeyed'")))


@pytest.mark.fault
@tracing
def test_killed_in_the_middle_of_a_rekey(make_policyd: Make, steps: dict[str, int]) -> None:
    policyd = make_policyd()
    killed(policyd, "rekey", steps["rekey"] // 2)
    policyd.start()
    for account in ("root", "deploy"):
        assert password(policyd, account) == f"password of {account}".encode()
    begun = bool(policyd.audit("vault-rekey"))
    wait_until("the end", lambda: rekeyed(policyd, 2 if begun else 1))
    if begun:
        assert select(policyd, "SELECT generation FROM vault_key") == [(2,)]
    policyd.done(m.VaultRekey(reason=WHY))
    wait_until("one more", lambda: rekeyed(policyd, 3 if begun else 2))
    assert policyd.audit("vault-altered") == []
    assert "whole" in policyd.done(m.AuditVerify()).text


@pytest.mark.fault
@tracing
def test_killed_in_the_middle_of_a_change_of_master(make_policyd: Make, steps: dict[str, int]) -> None:
    """One of the two keys opens it, and the start that is refused says which."""
    policyd = make_policyd()
    killed(policyd, "rewrap", steps["rewrap"] // 2)
    said = policyd.run("db", "accept-trail")
    assert "Traceback" not in said.stderr
    if said.returncode:
        assert "it was `file:master.key` that wrapped the root keys" in said.stderr
        rename_master(policyd, "file:master.key")
    policyd.start()
    assert password(policyd) == b"password of root"
    assert bool(policyd.audit("vault-rewrapped")) == (not said.returncode)


def killed(policyd: Policyd, kind: str, step: int) -> None:
    """`kind` begun, and policyd killed at the step-th write or sync; or at the end, if there are fewer this time."""
    strace = watched(policyd, f"signal=KILL:when={step}", policyd.home / "strace")
    with suppress(Gone, TimeoutError, AssertionError, OSError):
        run(policyd, kind)
    if policyd.process is not None and policyd.process.poll() is None:
        policyd.process.kill()
    assert policyd.process is not None
    policyd.process.wait(60)
    policyd.process = None
    strace.wait(60)
