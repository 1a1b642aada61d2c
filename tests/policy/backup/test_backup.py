"""A bastion in a file and out of it: what is in it, who opens it, and what a bad one is."""

import io
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from policy import messages as m
from policy.backup import making, restoring, sealing
from policy.backup.manifest import BadBackup, checked, decode
from policy.configuration import read_configuration
from policy.setup import NotReady
from policy.store.snapshot import snapshot
from policy.vault.secret import Secret, VaultError
from tests.policy.conftest import copied
from tests.policy.policyd import Policyd
from tests.policy.vault.test_masters import MODULE, tokens
from tests.support.transit import Transit

__all__ = ["tokens"]

pyrage = pytest.importorskip("pyrage")


def quiet(_: str) -> None:
    pass


class Keys:
    def __init__(self, home: Path) -> None:
        identity = pyrage.x25519.Identity.generate()
        self.recipient = str(identity.to_public())
        self.identity = home / "identity.txt"
        self.identity.write_text(f"# created: now\n# public key: {self.recipient}\n{identity}\n")
        self.private = str(identity)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("age"))


@pytest.fixture
def daemon(filled: Policyd, tmp_path: Path) -> Policyd:
    """A state at rest, in a folder `here`."""
    (tmp_path / "here").mkdir()
    return copied(filled, tmp_path / "here")


@pytest.fixture
def backup(daemon: Policyd, tmp_path: Path, keys: Keys) -> Path:
    to = tmp_path / "backup.age"
    making.make(read_configuration(daemon.config), [], to, [keys.recipient], quiet)
    return to


def rehearse(backup: Path, keys: Keys) -> dict[str, str]:
    return restoring.restore(backup, keys.identity, None, quiet, older=False)[1]


def forged(backup: Path, keys: Keys, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """The same backup with other members, encrypted for the same recipient: what a stranger may make."""
    plain = io.BytesIO(pyrage.decrypt(backup.read_bytes(), [pyrage.x25519.Identity.from_str(keys.private)]))
    with tarfile.open(fileobj=plain) as tar:
        members = [(one, file.read() if (file := tar.extractfile(one)) else b"") for one in tar]
    change(members)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for entry, data in members:
            tar.addfile(entry, io.BytesIO(data))
    to = backup.with_name("forged.age")
    to.write_bytes(pyrage.encrypt(out.getvalue(), [pyrage.x25519.Recipient.from_str(keys.recipient)]))
    return to


# --- making --------------------------------------------------------------------------------------------------


def test_a_backup_is_for_its_recipients_alone(backup: Path, keys: Keys, tmp_path: Path):
    assert backup.stat().st_mode & 0o777 == 0o600
    assert backup.read_bytes().startswith(b"age-encryption.org/v1\n")
    found = rehearse(backup, keys)
    assert "sealed rows as they were written" in found["vault"]
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(BadBackup, match="does not open"):
        rehearse(backup, Keys(other))
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"


def test_an_ssh_key_opens_it_too(daemon: Policyd, tmp_path: Path):
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    to = tmp_path / "b.age"
    making.make(read_configuration(daemon.config), [], to, [(tmp_path / "id.pub").read_text().strip()], quiet)
    assert "rows" in restoring.restore(to, key, None, quiet, older=False)[1]["trail"]


@pytest.mark.parametrize("word", ["", "age1nonsense", "ssh-ed25519 AAAA", "AGE-SECRET-KEY-1ABC", "ssh-dss AAAA"])
def test_what_is_no_recipient_is_refused_before_anything_is_read(word: str, daemon: Policyd, tmp_path: Path):
    with pytest.raises(BadBackup, match="no recipient"):
        making.make(read_configuration(daemon.config), [], tmp_path / "x.age", [word], quiet)
    assert not (tmp_path / "x.age").exists()


def test_a_backup_overwrites_nothing(daemon: Policyd, backup: Path, keys: Keys):
    before = backup.read_bytes()
    with pytest.raises(BadBackup, match="exists"):
        making.make(read_configuration(daemon.config), [], backup, [keys.recipient], quiet)
    assert backup.read_bytes() == before


def test_a_backup_overwrites_nothing_that_came_meanwhile(daemon: Policyd, tmp_path: Path, keys: Keys):
    to = tmp_path / "b.age"
    with pytest.raises(BadBackup, match="exists"):
        making.make(
            read_configuration(daemon.config), [], to, [keys.recipient], lambda _: void(to.write_bytes(b"another's"))
        )
    assert to.read_bytes() == b"another's"


def void(_: object) -> None:
    pass


def test_everything_that_belongs_to_it_is_in_it_and_nothing_in_the_clear(daemon: Policyd, tmp_path: Path, keys: Keys):
    (tmp_path / "here" / "node.key").write_text("node secret")
    to = tmp_path / "b.age"
    others = [("recorder", tmp_path / "here" / "node.key"), ("recorder", tmp_path / "here" / "not there")]
    manifest = making.make(read_configuration(daemon.config), others, to, [keys.recipient], quiet)
    names = {file.name for file in manifest.files}
    assert names == {
        "config/bastion.toml", "config/policy.toml", "config/state/bastion.db", "config/state/audit.head",
        "config/state/master.key", "config/node.key",
    }  # fmt: skip
    data = to.read_bytes()
    assert b"node secret" not in data
    assert (daemon.home / "state" / "master.key").read_bytes() not in data


def test_an_altered_database_makes_no_backup(daemon: Policyd, tmp_path: Path, keys: Keys):
    """Attack: alter the trail, wait for the backup, and let the next restore make the alteration true."""
    with sqlite3.connect(daemon.database) as database:
        database.execute("UPDATE audit SET body = replace(body, 'alice', 'alicf')")
    with pytest.raises((BadBackup, NotReady), match=r"whole|altered|trail"):
        making.make(read_configuration(daemon.config), [], tmp_path / "b.age", [keys.recipient], quiet)
    assert not list(tmp_path.glob("*.age"))


def test_a_secret_that_was_put_back_makes_no_backup(daemon: Policyd, tmp_path: Path, keys: Keys):
    with sqlite3.connect(daemon.database) as database:
        database.execute("UPDATE secret_version SET sealed = (SELECT sealed FROM secret_version LIMIT 1)")
    with pytest.raises((BadBackup, NotReady, VaultError)):
        making.make(read_configuration(daemon.config), [], tmp_path / "b.age", [keys.recipient], quiet)
    assert not list(tmp_path.glob("*.age"))


def test_a_snapshot_is_one_moment_of_a_database_that_is_written_to(tmp_path: Path):
    """Two tables that always agree, changed all the while; in steps of their own the copy would begin anew for ever."""
    source = tmp_path / "live.db"
    with sqlite3.connect(source) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(
            "CREATE TABLE a (n); CREATE TABLE b (n); INSERT INTO a VALUES (0); INSERT INTO b VALUES (0)"
        )
        database.execute("CREATE TABLE bulk (x)")
        database.executemany("INSERT INTO bulk VALUES (?)", [(os.urandom(4000),) for _ in range(4000)])
    over = threading.Event()

    def write() -> None:
        writer = sqlite3.connect(source, timeout=20)
        while not over.is_set():
            with writer:
                writer.execute("UPDATE a SET n = n + 1")
                writer.execute("UPDATE b SET n = n + 1")
                writer.execute("INSERT INTO bulk VALUES (?)", (os.urandom(4000),))
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    told: list[tuple[int, int]] = []
    try:
        snapshot(source, tmp_path / "copy.db", lambda done, of: told.append((done, of)))
    finally:
        over.set()
        thread.join()
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("SELECT a.n = b.n FROM a, b").fetchone() == (1,)
    assert told == sorted(told), "it never began again"
    assert len(told) > 2
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600


# --- restoring -----------------------------------------------------------------------------------------------


def test_what_is_restored_starts_and_knows_that_it_was(backup: Path, keys: Keys, tmp_path: Path, daemon: Policyd):
    into = tmp_path / "there"
    restoring.restore(backup, keys.identity, into, quiet, older=True)
    again = Policyd(into, keys=dict(daemon.keys)).start()
    try:
        with again.login("alice"):
            pass
        (event,) = again.audit("restored")
        assert event["who"] == f"uid {os.getuid()}"
        assert "older state" in json.dumps(again.done(m.AuditList(event="restored")).rows)
    finally:
        again.stop()
    assert (into / "state" / "master.key").stat().st_mode & 0o777 == 0o600


def test_an_older_state_is_restored_by_who_says_so_alone(backup: Path, keys: Keys, tmp_path: Path):
    """Attack: a rotated secret or a removed person comes back with a backup, and nobody notices."""
    with pytest.raises(BadBackup, match="an old state"):
        restoring.restore(backup, keys.identity, tmp_path / "there", quiet, older=False)
    assert not (tmp_path / "there").exists()


def test_restoring_overwrites_nothing(backup: Path, keys: Keys, tmp_path: Path, daemon: Policyd):
    before = daemon.database.read_bytes()
    with pytest.raises(BadBackup, match="exists"):
        restoring.restore(backup, keys.identity, daemon.home, quiet, older=True)
    assert daemon.database.read_bytes() == before


@pytest.mark.parametrize("cut", [10, 200, 5000, -1, -100])
def test_a_backup_that_is_cut_is_none(backup: Path, keys: Keys, tmp_path: Path, cut: int):
    (tmp_path / "cut.age").write_bytes(backup.read_bytes()[:cut])
    with pytest.raises(BadBackup):
        restoring.restore(tmp_path / "cut.age", keys.identity, tmp_path / "there", quiet, older=True)
    assert not (tmp_path / "there").exists()
    assert not list(tmp_path.glob(".restore-*"))


def test_a_damaged_backup_is_none(backup: Path, keys: Keys, tmp_path: Path):
    data = bytearray(backup.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.age").write_bytes(data)
    with pytest.raises(BadBackup, match="does not open"):
        rehearse(tmp_path / "bad.age", keys)


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    "bad",
    [
        entry("config/../../escaped"), entry("/etc/escaped"), entry("escaped"), entry("config/a/./b"),
        entry("config/link", tarfile.SYMTYPE, "/etc/passwd"), entry("config/hard", tarfile.LNKTYPE, "/etc/passwd"),
        entry("config/pipe", tarfile.FIFOTYPE), entry("config/device", tarfile.CHRTYPE),
        entry("config/dir", tarfile.DIRTYPE),
        entry("config/policy.toml"), entry("config/more"),
    ],
    ids=lambda one: f"{one.name}-{one.type.decode()}",
)  # fmt: skip
def test_a_strangers_backup_puts_nothing_where_it_does_not_belong(
    bad: tarfile.TarInfo, backup: Path, keys: Keys, tmp_path: Path
):
    """Attack: a file that an operator is talked into restoring."""
    path = forged(backup, keys, lambda members: members.insert(-1, (bad, b"")))
    with pytest.raises(BadBackup):
        restoring.restore(path, keys.identity, tmp_path / "there", quiet, older=True)
    assert not (tmp_path / "there").exists()
    assert not list(tmp_path.rglob("escaped"))


def test_a_file_that_is_not_the_manifests_is_noticed(backup: Path, keys: Keys):
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        for at, (one, data) in enumerate(members):
            if one.name == "config/policy.toml":
                members[at] = (one, data.replace(b"guest", b"guesu"))

    with pytest.raises(BadBackup, match="not those of its manifest"):
        rehearse(forged(backup, keys, change), keys)


def test_a_restored_database_with_a_head_of_another_time_is_refused(backup: Path, keys: Keys, daemon: Policyd):
    """An attacker who may write backups, and has no key of the vault: the trail does not fit its head."""

    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        where = next(at for at, (one, _) in enumerate(members) if one.name.endswith("audit.head"))
        one, data = members[where]
        members[where] = (one, bytes(len(data)))
        at = next(at for at, (one, _) in enumerate(members) if one.name == "manifest.json")
        said = json.loads(members[at][1])
        for file in said["files"]:
            if file["name"].endswith("audit.head"):
                import hashlib

                file["sha256"] = hashlib.sha256(bytes(len(data))).hexdigest()
        body = json.dumps(said).encode()
        members[at][0].size = len(body)
        members[at] = (members[at][0], body)

    with pytest.raises(NotReady, match="head"):
        rehearse(forged(backup, keys, change), keys)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 5000, b'{"format": 99}', b"\xff"])
def test_what_is_no_manifest(data: bytes):
    with pytest.raises(BadBackup):
        decode(data)


@pytest.mark.parametrize(
    "name", ["config/", "config", "root//x", "config/a/../b", "config/\n", "other/x", "config/" + "a" * 256]
)
def test_a_name_that_leads_elsewhere(name: str):
    with pytest.raises(BadBackup):
        checked(name)


def test_bulk_passes_in_pieces(keys: Keys):
    """Memory does not follow the size: 64 MiB through the pipe while at most two pieces are held."""
    pieces = 64

    def write(pipe: IO[bytes]) -> None:
        for _ in range(pieces):
            pipe.write(bytes(1 << 20))

    class Counted(io.RawIOBase):
        total = longest = 0

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.total += len(data)
            self.longest = max(self.longest, len(data))
            return len(data)

    out = Counted()
    sealing.encrypt(write, out, sealing.recipients([keys.recipient]))  # type: ignore[arg-type]
    assert out.total > pieces << 20
    assert out.longest < 2 << 20


# --- a vault behind a passphrase -------------------------------------------------------------------------------


@pytest.fixture
def behind_passphrase(tmp_path: Path) -> Policyd:
    daemon = Policyd(tmp_path / "here", settings='master_key = "passphrase:"')
    daemon.write()
    subprocess.run(
        [sys.executable, "-m", "policy", "init", "--config", str(daemon.config), "--passphrase-stdin"],
        input=b"correct horse battery staple\n", check=True, capture_output=True,
    )  # fmt: skip
    return daemon


def test_a_passphrase_is_not_in_the_backup_and_wanted_by_the_restore(
    behind_passphrase: Policyd, tmp_path: Path, keys: Keys
):
    to = tmp_path / "b.age"
    manifest = making.make(read_configuration(behind_passphrase.config), [], to, [keys.recipient], quiet)
    assert manifest.apart == "the passphrase of the vault"
    assert "not opened" in manifest.verified
    assert "--passphrase-stdin" in rehearse(to, keys)["vault"]
    with pytest.raises(BadBackup, match="not opened"):
        restoring.restore(to, keys.identity, tmp_path / "there", quiet, older=True)
    with pytest.raises(VaultError, match="wrong"):
        restoring.restore(
            to, keys.identity, tmp_path / "there", quiet, older=True, passphrase=Secret(b"wrong horse battery")
        )
    assert not (tmp_path / "there").exists()
    _, found = restoring.restore(
        to, keys.identity, tmp_path / "there", quiet, older=True, passphrase=Secret(b"correct horse battery staple")
    )
    assert "row" in found["trail"]


# --- a vault that a server or a token opens --------------------------------------------------------------------


@pytest.fixture
def transit(tmp_path: Path) -> Iterator[Transit]:
    with Transit(tmp_path / "transit") as server:
        yield server


@pytest.fixture
def by_transit(transit: Transit, tmp_path: Path, keys: Keys) -> Path:
    """A backup of such a bastion. The token is not in it, and stands where the restored one looks for it."""
    token = tmp_path / "transit.token"
    token.write_text("s.good")
    token.chmod(0o600)
    daemon = Policyd(tmp_path / "here", settings=f'master_key = "{transit.where(token=f"file:{token}")}"').make()
    to = tmp_path / "b.age"
    manifest = making.make(read_configuration(daemon.config), [], to, [keys.recipient], quiet)
    assert manifest.apart == "the transit server with its key, and a token for it"
    assert "share of the master key" in {file.what for file in manifest.files}
    transit.asked.clear()
    return to


def test_a_strangers_backup_asks_nobody(by_transit: Path, transit: Transit, keys: Keys, tmp_path: Path):
    """Attack: it names a server of the stranger's, and a file of this machine as the token that is sent there."""
    assert "--ask-master" in rehearse(by_transit, keys)["vault"]
    with pytest.raises(BadBackup, match="not opened"):
        restoring.restore(by_transit, keys.identity, tmp_path / "there", quiet, older=True)
    assert transit.asked == []
    assert not (tmp_path / "there").exists()


def test_a_transit_server_opens_what_is_restored(by_transit: Path, transit: Transit, keys: Keys, tmp_path: Path):
    transit.sealed = True
    with pytest.raises(VaultError, match="sealed or on standby"):
        restoring.restore(by_transit, keys.identity, tmp_path / "there", quiet, older=True, ask_master=True)
    assert not (tmp_path / "there").exists()
    transit.sealed = False
    _, found = restoring.restore(by_transit, keys.identity, None, quiet, older=False, ask_master=True)
    assert "sealed rows as they were written" in found["vault"]
    _, found = restoring.restore(by_transit, keys.identity, tmp_path / "there", quiet, older=True, ask_master=True)
    assert "says that it was restored" in found["trail"]


@pytest.mark.skipif(not MODULE.exists(), reason="needs softhsm2")
def test_a_token_opens_what_is_restored_if_it_is_said(tmp_path: Path, keys: Keys, request: pytest.FixtureRequest):
    """Attack: a stranger's backup names a module, which is loaded by root. A process each, as the module wants it."""
    pin = request.getfixturevalue("tokens") / "pin"
    where = f"pkcs11:token=bastion;object=restored?module-path={MODULE}&pin-source=file:{pin}"
    daemon = Policyd(tmp_path / "here", settings=f'master_key = "{where}"').make()
    to = tmp_path / "b.age"
    making.make(read_configuration(daemon.config), [], to, [keys.recipient], quiet)
    words = [sys.executable, "-m", "bastion", "restore", str(to), "--identity", str(keys.identity)]
    words += ["--rehearse", "--json"]
    said = [
        json.loads(subprocess.run([*words, *more], check=True, capture_output=True, timeout=60).stdout)["vault"]
        for more in ([], ["--ask-master"])
    ]
    assert f"`{where}`: --ask-master" in said[0]
    assert "sealed rows as they were written" in said[1]
