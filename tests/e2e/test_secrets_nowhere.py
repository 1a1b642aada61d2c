"""What the vault holds is nowhere else: every secret of a whole bastion, after every feature was used, is looked for.

Not only what the test has put there: the vault is opened beside policyd, and each key and secret in it is looked for.
"""

import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from bastion import control
from policy import messages as m
from policy.configuration import read_configuration
from policy.keys import sshkeys
from policy.vault.masters import parse
from policy.vault.masters.file import read_master_key
from tests.support.accounts_target import ANN, PASSWORD, AccountsTarget, missing
from tests.support.canary import canary, found_in_files, found_in_processes
from tests.support.net import wait_until
from tests.support.site import EVERYTHING, Site
from tests.support.sshd import SSHD
from tests.support.terminal import Terminal
from tests.support.toxic import ByPassword

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

RULES = f"""
[[rule]]
name  = "engineers"
who   = {{ roles = ["engineer"] }}
where = {{ labels = {{ env = "test" }} }}
as    = ["*"]
allow = {[*EVERYTHING, "checkout"]!r}

[[rotation]]
name     = "passwords"
where    = {{ targets = ["real"] }}
as       = ["*"]
after    = ["checkout"]
password = {{ length = 20, classes = ["lower", "digit"] }}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("nowhere"), {"broker": ['socket = "broker.sock"']}, RULES.replace("'", '"'))
    try:
        yield made.start()
    finally:
        made.stop()


class Seeded:
    """Each secret that is put somewhere, by how it got there."""

    def __init__(self) -> None:
        self.values: dict[str, str | bytes] = {}

    def __call__(self, how: str) -> str:
        value = self.values[how] = canary(how.title().replace(" ", ""))
        return value


def test_every_secret_is_nowhere_but_in_the_vault(site: Site, tmp_path: Path) -> None:
    seeded, said = Seeded(), tmp_path / "said"
    said.mkdir()
    with ByPassword(tmp_path / "pw", password=seeded("of an account")) as target:
        pins = [target.host_key.read_text().strip()]
        site.ask(m.TargetAdd(name="bypass", address=target.address, labels={"env": "test"}, host_keys=pins))
        site.ask(m.AccountAdd(account=target.account, target="bypass", password=target.password))
        _use_sessions(site, target, seeded)
        _use_secrets(site, seeded, said)
    if not missing():
        accounts = AccountsTarget(tmp_path / "real").start()
        try:
            _use_rotation(site, accounts)
        finally:
            accounts.stop()
    _use_persons(site, seeded)
    _use_broker(site, seeded, said)
    _use_the_vault(site)
    _use_backup(site, said)
    _fail(site, seeded)
    for name in ("vault status", "vault ls", "vault shares", "vault checkouts", "audit list", "audit export"):
        words = name.split()
        (said / name.replace(" ", "-")).write_text(site.bastion(*words, check=False).stdout)
    _everything_in_the_vault(site, seeded)
    master = site.folder / "state/master.key"
    assert found_in_files(site, master.read_bytes()) == [str(master)], "the search finds what is there"
    wanted = seeded.values
    found = {how: found_in_files(site, value, besides=(master,), more=(said,)) for how, value in wanted.items()}
    # The bastion's own test keys lie beside it on purpose, and are not below its folder.
    assert {how: where for how, where in found.items() if where} == {}
    assert found_in_processes(site, *wanted.values()) == []
    with closing(sqlite3.connect(site.folder / "state/bastion.db")) as database:
        kinds = {kind for (kind,) in database.execute("SELECT DISTINCT kind FROM secret")}
    assert kinds == {"password", "key", "generic", "ca", "totp", "seed"}, "each kind was there"


@pytest.mark.skipif(os.geteuid() != 0, reason="another's limits are root's to change")
@pytest.mark.parametrize("role", ["policy", "bastion.ssh", "recorder", "bastion.courier", "bastion.broker"])
def test_no_process_leaves_its_memory_behind(site: Site, role: str) -> None:
    """A core dump is the whole of it. They make none, and cannot be traced by their own user."""
    pid = site.pid(role)
    resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    places = {
        Path(f"/proc/{pid}/cwd").readlink(),
        site.folder,
        site.folder / "state",
        Path("/var/lib/systemd/coredump"),
    }
    assert Path(f"/proc/{pid}/mem").stat().st_uid == 0, "root's, as of a process that is not dumpable"
    before = {path for place in places if place.is_dir() for path in place.glob("*core*")}
    os.kill(pid, signal.SIGSEGV)
    wait_until(f"another {role}", lambda: site.pids(role) not in ([], [pid]), 60)
    after = {path for place in places if place.is_dir() for path in place.glob("*core*")}
    assert after - before == set()
    wait_until("a login", lambda: site.ssh("direct", "true").returncode == 0, 60)


# --- every feature -------------------------------------------------------------------------------------


def _use_sessions(site: Site, target: ByPassword, seeded: Seeded) -> None:
    words = [*site.command("ssh", "-tt"), "-l", f"{target.account}@bypass", "direct", ": x; cat"]
    with Terminal(*words) as person:
        person.until(b"logged in by password")
    assert site.ssh("direct", "true").returncode == 0  # by a key of the vault
    assert site.ssh("jump", "true").returncode == 0
    site.ask(m.AccountAdd(account="wrong", target="bypass", password=seeded("wrong")))
    assert site.ssh("direct", "true", options=("-l", "wrong@bypass")).returncode == 69
    by_key = sshkeys.generate_private_key()
    site.ask(m.AccountAdd(account="keyed", target="bypass", private_key=sshkeys.write_private_key(by_key).decode()))
    site.ssh("direct", "true", options=("-l", "keyed@bypass"))
    site.ask(m.AccountAdd(account="certified", target="bypass", user_ca=True))
    site.ssh("direct", "true", options=("-l", "certified@bypass"))


def _use_secrets(site: Site, seeded: Seeded, said: Path) -> None:
    value, newer = seeded("named secret"), seeded("named secret again")
    for words, typed in (
        (("add", "db/prod"), value),
        (("set", "db/prod"), newer),
        (("share", "db/prod", "bob", "--rights", "use,view", "--for", "1h", "--reason", "together"), ""),
        (("versions", "db/prod"), ""),
        (("restore-version", "db/prod", "1", "--reason", "back"), ""),
        (("show", "db/prod"), ""),
    ):
        done = site.ssh("bastion", "vault", *words, input=typed.encode())
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        (said / f"vault-{words[0]}").write_bytes(done.stdout + done.stderr)
    shown = site.ssh("bastion", "vault", "view", "db/prod", "--reason", "to see it")
    assert shown.stdout.strip() == value.encode(), "who may see it does"


def _use_rotation(site: Site, target: AccountsTarget) -> None:
    """On a machine with real accounts: lent and changed, changed on demand."""
    pins = [target.host_key.read_text().strip()]
    site.ask(m.TargetAdd(name="real", address=target.address, labels={"env": "test"}, host_keys=pins))
    site.ask(m.AccountAdd(account=ANN, target="real", password=PASSWORD))
    taken = site.ssh("bastion", "vault", "checkout", f"{ANN}@real", "--reason", "by hand")
    assert PASSWORD.encode() in taken.stdout, taken.stderr
    site.ssh("bastion", "vault", "checkin", f"{ANN}@real")
    wait_until("the change after it", lambda: len(_versions(site)) > 1 and "pending" not in _versions(site), 60)
    changed = site.bastion("account", "rotate", f"{ANN}@real", "--reason", "every feature")
    assert changed.returncode == 0, changed.stderr
    assert len(_versions(site)) == 3, "and each of them is looked for"
    assert site.ssh("direct", "true", options=("-l", f"{ANN}@real")).returncode == 0


def _versions(site: Site) -> list[str]:
    answer = site.ask(m.VaultVersions(name=f"{ANN}@real"))
    assert isinstance(answer, m.Rows)
    return [row[1] for row in answer.rows]


def _use_persons(site: Site, seeded: Seeded) -> None:
    site.ask(m.PersonAdd(name="petra", roles=["engineer"], password=seeded("of a person")))
    enrolled = site.ask(m.MfaEnrol(person="petra"))
    assert isinstance(enrolled, m.Done)
    seeded.values["totp"] = enrolled.data["secret"]
    issued = site.ask(m.MfaIssue(person="petra", seconds=600))
    assert isinstance(issued, m.Done)
    seeded.values["code"] = issued.data["code"]
    token = site.ssh("bastion", "token", site.login(), "--json")
    assert token.returncode == 0, token.stderr
    found = re.search(rb"bt_[A-Za-z0-9_-]{20,}|[A-Za-z0-9_-]{24,}", token.stdout)
    assert found is not None, token.stdout
    seeded.values["token"] = found[0].decode()


def _use_broker(site: Site, seeded: Seeded, said: Path) -> None:
    value = seeded("of an application")
    assert site.ssh("bastion", "vault", "add", "app/key", input=value.encode()).returncode == 0
    site.ask(m.ApplicationAdd(name="shop", uid=os.getuid()))
    shared = site.ssh("bastion", "vault", "share", "app/key", "application:shop", "--rights", "use")
    assert shared.returncode == 0, shared.stderr
    words = [sys.executable, "-m", "bastion", "broker", "get", "app/key", "--socket", str(site.run / "broker.sock")]
    got = subprocess.run(words, capture_output=True, check=False, timeout=60)
    assert got.stdout == value.encode(), got.stderr
    (said / "broker").write_bytes(got.stderr)


def _use_the_vault(site: Site) -> None:
    site.bastion("vault", "rekey", "--reason", "every feature")
    config = site.config.read_text()
    site.config.write_text(config.replace('#master_key = "file:master.key"', 'master_key = "file:other.key"'))
    assert 'master_key = "file:other.key"' in site.config.read_text()
    site.bastion("vault", "rekey", "--master", "--reason", "every feature")
    site.config.write_text(config)
    site.bastion("vault", "rekey", "--master", "--reason", "and back")
    site.ask(m.Reload())
    assert site.ssh("direct", "true").returncode == 0


def _use_backup(site: Site, said: Path) -> None:
    pyrage = pytest.importorskip("pyrage")
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    done = site.bastion(
        "backup", "--to", str(said / "backup.age"), "--recipient", recipient, "--reason", "every feature"
    )
    (said / "backup.txt").write_text(done.stdout + done.stderr)


def _fail(site: Site, seeded: Seeded) -> None:
    """Refusals are where secrets leak."""
    for command in (
        m.AccountAdd(account="twice", target="none", password=seeded("no such target")),
        m.AccountAdd(account="x", target="bypass", private_key=f"-----BEGIN {seeded('no key')}-----"),
        m.PersonAdd(name="!", roles=["engineer"], password=seeded("no such person")),
        m.SecretAdd(name="NO NAME", value=seeded("no such name").encode()),
        m.AccountAdd(account="y", target="bypass", password=seeded("two") + "\n", user_ca=True),
    ):
        with pytest.raises(control.Denied):
            site.ask(command)
    mine = "secret = (SELECT id FROM secret WHERE name = 'wrong@bypass')"
    with closing(sqlite3.connect(site.folder / "state/bastion.db", isolation_level=None)) as database:
        ((kept,),) = database.execute(f"SELECT sealed FROM secret_version WHERE {mine}").fetchall()
        database.execute(f"UPDATE secret_version SET sealed = x'00' WHERE {mine}")
        assert site.ssh("direct", "true", options=("-l", "wrong@bypass")).returncode != 0
        site.bastion("account", "remove", "wrong@bypass", check=False)
        database.execute(f"UPDATE secret_version SET sealed = ? WHERE {mine}", [kept])


def _everything_in_the_vault(site: Site, seeded: Seeded) -> None:
    """What is in the database, opened with the master key by the test itself."""

    async def look() -> None:
        config = read_configuration(site.config)
        master = parse(config.policy.master_key, config.state, {})
        seeded.values["master"] = read_master_key(config.policy.master_key, config.state, {}).reveal()
        from policy import setup

        database = setup.store.open_store(config.policy.database, config.state)
        with database.read() as tables:
            vault, _ = await setup._open_vault(tables, master)
            for number in vault.generations:
                seeded.values[f"root {number}"] = vault.root(number).reveal()
            for key in ("audit", "register", "code"):
                seeded.values[f"{key} key"] = getattr(vault, f"{key}_key")()
            for record in tables.vault.secrets():
                for one in tables.vault.versions(record.id):
                    value = vault.open(record.kind, record.record, one.version, one.sealed).reveal()
                    if b"PRIVATE KEY" in value:
                        value = _private_part(value)
                    seeded.values[f"{record.kind} {record.name} {one.version}"] = value
        database.close()

    trio.run(look)


def _private_part(pem: bytes) -> bytes:
    """The 32 secret bytes of an Ed25519 key: what surrounds them is in every such file."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_ssh_private_key(pem, None)
    return key.private_bytes(  # type: ignore[union-attr]
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
