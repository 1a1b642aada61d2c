"""Somebody else writes to the database: a real policyd says so, at its start or when it reads the row."""

import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyotp
import pytest

from policy import messages as m
from policy.configuration import read_configuration
from policy.model import Outcome
from policy.setup import NotReady, open_state
from policy.vault.masters import parse
from policy.vault.secret import VaultError
from tests.policy.conftest import copied
from tests.policy.courier import courier_of
from tests.policy.policyd import Policyd, proof
from tests.support.net import wait_until

Make = Callable[..., Policyd]
SECRETS = ("vault_key", "secret", "secret_version")


def alter(policyd: Policyd, *statements: str) -> int:
    """Rows that were changed, by another process than policyd."""
    with closing(sqlite3.connect(policyd.database)) as database:
        changed = [database.execute(text).rowcount for text in statements]
        database.commit()
    return min(changed)


def refused(policyd: Policyd) -> str:
    """What a start says, that ends."""
    said = policyd.run("serve")
    assert said.returncode == 78, said.stderr
    assert "Traceback" not in said.stderr
    return "\n".join(line for line in said.stderr.splitlines() if line.startswith("bastion:"))


def ident(policyd: Policyd, name: str) -> str:
    with closing(sqlite3.connect(policyd.database)) as database:
        return str(database.execute("SELECT id FROM secret WHERE name = ?", [name]).fetchone()[0])


def credential(policyd: Policyd, account: str = "root", target: str = "web1", person: str = "alice") -> object:
    peer, grant = policyd.session(person, account, target)
    with peer:
        return peer.ask(m.Credential(session=grant.session, session_key=b""))


def stopped(make: Make) -> Policyd:
    policyd = make()
    policyd.stop()
    return policyd


OF_ROOT = "FROM secret_version WHERE secret = '{root}'"
ATTACKS = {
    "a-byte-more": "UPDATE secret_version SET sealed = CAST(sealed || x'00' AS BLOB) WHERE secret = '{root}'",
    "a-text-for-bytes": "UPDATE secret_version SET sealed = 'text' WHERE secret = '{root}'",
    "a-blob-cut-short": "UPDATE secret_version SET sealed = substr(sealed, 1, 90) WHERE secret = '{root}'",
    "a-blob-emptied": "UPDATE secret_version SET sealed = x'' WHERE secret = '{root}'",
    "a-row-deleted": f"DELETE {OF_ROOT}",
    "a-state-changed": "UPDATE secret_version SET state = 'retired' WHERE secret = '{root}'",
    "a-state-that-is-none": "UPDATE secret_version SET state = x'00ff' WHERE secret = '{root}'",
    "a-version-numbered-anew": "UPDATE secret_version SET version = 2 WHERE secret = '{root}'",
    "a-version-that-is-none": "UPDATE secret_version SET version = 'one' WHERE secret = '{root}'",
    "another's-blob": "UPDATE secret_version SET sealed = (SELECT sealed FROM secret_version AS other "
                      "WHERE other.secret = '{deploy}') WHERE secret = '{root}'",
    "a-secret-given-another-name": "UPDATE secret SET name = 'x@y' WHERE id = '{root}'",
    "a-secret-given-another-kind": "UPDATE secret SET kind = 'generic' WHERE id = '{root}'",
    "a-second-row-in-force": "INSERT INTO secret_version (secret, version, state, sealed, made) "
                             f"SELECT secret, 2, 'current', sealed, made {OF_ROOT}",
    "a-secret-deleted-under-its-versions": "DELETE FROM secret WHERE id = '{root}'",
}  # fmt: skip
AT_REST = ATTACKS | {
    "a-row-added": "INSERT INTO secret_version (secret, version, state, sealed, made) "
                   f"SELECT secret, 2, 'retired', sealed, made {OF_ROOT}",
    "a-root-key-said-to-be-the-next": "UPDATE vault_key SET generation = 2",
    "a-root-key-added": "INSERT INTO vault_key SELECT 2, wrapped, made FROM vault_key",
    "a-root-key-that-is-none": "UPDATE vault_key SET wrapped = 7",
}  # fmt: skip
UNNOTICED = {"a-secret-given-another-kind"}
"""By the register: the kind is in what a secret is sealed for, so it does not open, or points elsewhere."""


def named(policyd: Policyd) -> dict[str, str]:
    return {"root": ident(policyd, "root@web1"), "deploy": ident(policyd, "deploy@web1")}


@pytest.mark.trio
@pytest.mark.parametrize("attack", [attack for attack in AT_REST if attack not in UNNOTICED])
async def test_what_was_altered_while_policyd_was_stopped(filled: Policyd, tmp_path: Path, attack: str) -> None:
    policyd = copied(filled, tmp_path)
    config = read_configuration(policyd.config)
    assert alter(policyd, AT_REST[attack].format(**named(policyd))) >= 1
    with pytest.raises((NotReady, VaultError)) as caught:
        await open_state(config, parse(config.policy.master_key, config.state, {}))
    assert caught.value.hint


def test_a_start_says_so_and_ends(make_policyd: Make) -> None:
    policyd = stopped(make_policyd)
    alter(policyd, ATTACKS["another's-blob"].format(**named(policyd)))
    said = refused(policyd)
    assert "vault is not as policyd left it" in said
    assert "accept-trail" in said


def test_only_the_vault_s_tables_put_back(make_policyd: Make, tmp_path: Path) -> None:
    """They are consistent among themselves, and every secret in them would open: the register alone tells."""
    policyd = make_policyd()
    policyd.stop()
    old = tmp_path / "old.db"
    shutil.copy(policyd.database, old)
    policyd.start()
    policyd.done(m.AccountRemove(account="deploy", target="web1"))
    policyd.stop()
    with closing(sqlite3.connect(policyd.database)) as database:
        database.execute("ATTACH ? AS old", [str(old)])
        for table in SECRETS:
            database.execute(f"DELETE FROM {table}")
            database.execute(f"INSERT INTO {table} SELECT * FROM old.{table}")
        database.commit()
    said = refused(policyd)
    assert "vault is not as policyd left it" in said
    assert "accept-trail" in said
    accepted = policyd.run("db", "accept-trail")
    assert accepted.returncode == 0, accepted.stderr
    assert "accepted" in accepted.stdout
    policyd.start()
    assert "vault was altered" in policyd.audit("audit-trail-accepted")[0]["why"]
    assert "nothing was changed" in policyd.run("db", "accept-trail").stdout


def test_an_old_database_put_back_whole(make_policyd: Make, tmp_path: Path) -> None:
    policyd = stopped(make_policyd)
    shutil.copy(policyd.database, tmp_path / "old.db")
    policyd.start()
    policyd.done(m.AccountRemove(account="deploy", target="web1"))
    policyd.stop()
    for name in ("bastion.db-wal", "bastion.db-shm"):
        (policyd.database.parent / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "old.db", policyd.database)
    assert "does not reach its kept head" in refused(policyd)


def test_the_seed_itself(make_policyd: Make) -> None:
    policyd = stopped(make_policyd)
    assert alter(policyd, "DELETE FROM secret_version WHERE secret = (SELECT id FROM secret WHERE name = 'seed')") == 1
    said = refused(policyd)
    assert "seed of the vault is missing" in said
    assert "restore it from a backup" in said


def test_no_root_key(make_policyd: Make) -> None:
    policyd = stopped(make_policyd)
    assert alter(policyd, "DELETE FROM vault_key") == 1
    assert "holds no root key" in refused(policyd)


def test_another_master_key(make_policyd: Make) -> None:
    policyd = stopped(make_policyd)
    (policyd.home / "state" / "master.key").write_bytes(bytes(32))
    assert "not the key this database was sealed with" in refused(policyd)


# --- while it runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_row_altered_while_policyd_runs(policyd: Policyd, attack: str) -> None:
    names = named(policyd)
    assert isinstance(credential(policyd), m.UsePassword)
    before = len(policyd.audit("vault-altered"))
    with undone(policyd):
        assert alter(policyd, ATTACKS[attack].format(**names)) >= 1
        answer = credential(policyd)
        assert isinstance(answer, m.Refused)
        assert (answer.code, answer.cause, answer.hint) == (78, "the credential cannot be used", ""), "it tells nothing"
        alarms = policyd.audit("vault-altered")
        assert len(alarms) == before + 1
        assert alarms[0]["what"] in ("root@web1", "x@y", names["root"])
    assert isinstance(credential(policyd), m.UsePassword)


@contextmanager
def undone(policyd: Policyd) -> Iterator[None]:
    """What is altered within is put back as it was, byte by byte: then it fits again."""
    tables = ("secret_version", "secret")
    with closing(sqlite3.connect(policyd.database)) as database:
        kept = {table: database.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    try:
        yield
    finally:
        with closing(sqlite3.connect(policyd.database)) as database:
            for table, rows in kept.items():
                database.execute(f"DELETE FROM {table}")
                database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
            database.commit()


def test_an_account_that_is_pointed_at_another_s_secret(make_policyd: Make) -> None:
    """Attack: the row of an account one may use is given the secret of one that one may not."""
    policyd = stopped(make_policyd)
    assert alter(policyd, f"UPDATE account SET secret = '{ident(policyd, 'root@hidden')}' WHERE target = 'web1'") == 2
    policyd.start()
    assert isinstance(credential(policyd), m.Refused)
    (alarm,) = policyd.audit("vault-altered")
    assert (alarm["what"], alarm["why"]) == ("root@web1", "it points at the secret `root@hidden`")


def test_a_phone_that_is_given_to_somebody_else(make_policyd: Make) -> None:
    """Attack: mallory enrols a phone, and writes another's name into its row."""
    policyd = make_policyd()
    enrolled = policyd.done(m.MfaEnrol(person="bob"))
    policyd.stop()
    assert alter(policyd, "UPDATE authenticator SET person = 'ada' WHERE person = 'bob'") == 1
    policyd.start()
    with policyd.connection() as peer:
        assert peer.ask(proof(policyd.keys["ada"])).outcome is Outcome.MORE
        peer.ask(m.AskCode(person=""))
        answer = peer.ask(m.AnswerCode(person="", answers=[pyotp.TOTP(enrolled.data["secret"]).now()]))
    assert getattr(answer, "outcome", Outcome.REFUSED) is not Outcome.DONE, answer
    assert policyd.audit("vault-altered")[0]["what"].startswith("totp ada ")


def test_what_was_altered_is_not_removed_either(make_policyd: Make) -> None:
    """Whoever removes it would make the register fit again, and nobody would hear of it."""
    policyd = make_policyd()
    alter(policyd, ATTACKS["a-byte-more"].format(root=ident(policyd, "root@web1")))
    answer = policyd.command(m.AccountRemove(account="root", target="web1"))
    assert isinstance(answer, m.Refused)


def test_people_are_told(make_policyd: Make) -> None:
    rules = '[[notify]]\nname = "ops"\nwebhook = "https://hooks.example.org/x"\nkey = "file:hook.key"\non = ["vault"]\n'
    policyd = make_policyd(files={"hook.key": "k" * 32})
    (policyd.home / "hook.key").chmod(0o600)
    (policyd.home / "policy.toml").write_text(policyd.rules + rules)
    policyd.restart()
    with courier_of(policyd, reply=lambda call: m.Called(task=call.task, status=200)) as courier:
        alter(policyd, ATTACKS["a-byte-more"].format(root=ident(policyd, "root@web1")))
        credential(policyd)
        wait_until("the call", lambda: courier.calls)
        assert b"VAULT ALTERED: root@web1" in courier.calls[0].body


def test_a_start_after_a_kill_between_commit_and_head(make_policyd: Make) -> None:
    """The rows are past the head, and say what the register is: what was made is there."""
    policyd = make_policyd()
    head = policyd.home / "state" / "audit.head"
    before = head.read_bytes()
    policyd.done(m.AccountAdd(account="late", target="web1", password="hunter2"))
    policyd.stop(signal.SIGKILL)
    head.write_bytes(before)  # as if we had died before it was written
    policyd.start()
    assert isinstance(credential(policyd, "late"), m.UsePassword)
