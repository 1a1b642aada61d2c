"""Versions of a secret: seen by whom it concerns, restored with a reason, not kept for ever. And the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

from policy import messages as m
from policy.keys import sshkeys
from tests.policy.policyd import Policyd
from tests.policy.vault.test_rekey import WHY, password, rekeyed, rename_master, status
from tests.policy.vault.test_unlocking import answered
from tests.support import warm
from tests.support.net import wait_until

Make = Callable[..., Policyd]
NAME = "db/prod"


def versions(policyd: Policyd, name: str = NAME) -> list[list[str]]:
    return [row[:2] for row in policyd.done(m.VaultVersions(name=name)).rows]


def test_an_earlier_version_is_in_force_again(make_policyd: Make) -> None:
    policyd = make_policyd("secret_versions = 2")
    with policyd.login("alice") as alice:
        alice.ask(m.SecretAdd(name=NAME, value=b"value 1"))
        for number in range(2, 7):
            answer = alice.ask(m.SecretSet(name=NAME, value=f"value {number}".encode()))
            assert isinstance(answer, m.Done), answer
        assert len(versions(policyd)) == 6
        done = alice.ask(m.VaultRestore(name=NAME, version=4, reason="6 was typed wrong"))
        assert isinstance(done, m.Done), done
        shown = alice.ask(m.SecretView(name=NAME, reason="is it that one"))
        assert (shown.value, shown.version) == (b"value 4", 4)
        for version in (0, 4, 9):
            assert isinstance(alice.ask(m.VaultRestore(name=NAME, version=version, reason="x")), m.Refused)
        assert alice.ask(m.VaultRestore(name=NAME, version=5, reason="")).cause == "say why"
    with policyd.login("bob") as bob:
        for body in (m.VaultVersions(name=NAME), m.VaultRestore(name=NAME, version=5, reason="x")):
            one, other = bob.ask(body), bob.ask(m.VaultVersions(name="none/such"))
            assert one.cause.replace(NAME, "") == other.cause.replace("none/such", ""), "nobody learns what there is"
    assert policyd.audit("secret-restore")[0]["why"] == "6 was typed wrong"
    policyd.restart()
    wait_until("old ones to be forgotten", lambda: len(versions(policyd)) == 4)
    assert versions(policyd) == [["3", "retired"], ["4", "current"], ["5", "retired"], ["6", "previous"]]
    assert "forgotten=2" in policyd.audit("vault-versions-forgotten")[0]["detail"]


def test_a_key_takes_its_public_half_along(make_policyd: Make) -> None:
    """Else policyd would offer the target one key, and sign with another."""
    policyd = make_policyd()
    first, second = (sshkeys.generate_private_key() for _ in range(2))
    policyd.done(m.AccountAdd(account="keyed", target="web1", private_key=sshkeys.write_private_key(first).decode()))
    add_version(policyd, "keyed@web1", sshkeys.write_private_key(second), second.public.blob)
    assert offered(policyd) == second.public.blob
    policyd.done(m.VaultRestore(name="keyed@web1", version=1, reason="back"))
    assert offered(policyd) == first.public.blob


def offered(policyd: Policyd) -> bytes:
    peer, grant = policyd.session("alice", "keyed", "web1")
    with peer:
        answer = peer.ask(m.Credential(session=grant.session, session_key=b""))
    assert isinstance(answer, m.UseKey)
    return answer.public


def add_version(policyd: Policyd, name: str, value: bytes, public: bytes) -> None:
    """A version more, as a rotation would make it."""
    import trio

    from policy.configuration import read_configuration
    from policy.setup import open_state
    from policy.store.vault_tables import PENDING
    from policy.trail.audit import Event
    from policy.trail.ledger import Ledger
    from policy.vault.masters import parse
    from policy.vault.secret import Secret
    from policy.vault.secrets import next_version

    async def run() -> None:
        config = read_configuration(policyd.config)
        state = await open_state(config, parse(config.policy.master_key, config.state, {}))
        ledger = Ledger(state.store, state.head_file, state.head, state.register)

        def change(t):  # type: ignore[no-untyped-def]
            record = t.vault.named(name)
            t.vault.add_version(next_version(state.vault, record, 2, Secret(value), "test", state=PENDING))
            t.vault.promote(record.id, 2, 1)
            account, _, target = name.rpartition("@")
            t.set_public(target, account, public)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.run)
            await ledger.write(change, Event(event="rotation"), durable=True)
            nursery.cancel_scope.cancel()
        state.store.close()

    policyd.stop()
    trio.run(run)
    policyd.start()


def test_what_is_no_one_s_to_restore(make_policyd: Make) -> None:
    policyd = make_policyd()
    for name in ("seed", "user-ca"):
        answer = policyd.command(m.VaultRestore(name=name, version=1, reason="x"))
        assert "has no version 1 to restore" in answer.cause


# --- the command line ------------------------------------------------------------------------------------


def bastion(policyd: Policyd, *words: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bastion", *words, "-c", str(policyd.config)]
    environ = {**os.environ, "COLUMNS": "200"}
    return warm.run(command, typed, 120, environ)


def test_the_command_line(make_policyd: Make) -> None:
    policyd = make_policyd()
    shown = json.loads(bastion(policyd, "vault", "status", "--json").stdout)
    found = {row["what"]: row["value"] for row in shown}
    assert found["master"] == "file"
    assert found["secrets: password"] == "4"
    assert found["memory: core dumps"] == "none"
    done = bastion(policyd, "vault", "rekey", "--reason", WHY)
    assert done.returncode == 0, done.stderr
    assert "generation 2" in done.stdout
    assert rekeyed(policyd), "it stayed until the end"
    again = json.loads(bastion(policyd, "vault", "rekey", "--reason", WHY, "--json").stdout)
    assert again["generation"] == "3"
    rows = json.loads(bastion(policyd, "vault", "versions", "root@web1", "--json").stdout)
    assert [(row["version"], row["state"], row["generation"]) for row in rows] == [("1", "current", "3")]
    wrong = bastion(policyd, "vault", "restore-version", "root@web1", "one", "--reason", "x")
    assert (wrong.returncode, "is no version" in wrong.stderr) == (64, True)
    assert bastion(policyd, "vault", "rekey").returncode == 64


def test_a_passphrase_becomes_the_master(make_policyd: Make) -> None:
    policyd = make_policyd()
    rename_master(policyd, "passphrase:")
    words = ("vault", "rekey", "--master", "--reason", WHY)
    short = bastion(policyd, *words, typed="short\n")
    assert (short.returncode, "shorter than" in short.stderr) == (78, True)
    done = bastion(policyd, *words, typed="six words that chance has chosen\n")
    assert done.returncode == 0, done.stderr
    assert status(policyd)["master"] == "passphrase"
    policyd.restart()
    assert policyd.run("db", "status").returncode == 0
    opened = bastion(policyd, "vault", "unlock", typed="six words that chance has chosen\n")
    assert opened.returncode == 0, opened.stderr
    answered(policyd)
    assert password(policyd) == b"password of root"
