"""A vault that somebody has to open first: what a locked policyd answers, to whom, and how it is unlocked."""

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from policy import messages as m
from policy.keys import sshkeys
from policy.model import Outcome
from tests.policy.policyd import Gone, Peer, Policyd, hello, proof
from tests.support import warm
from tests.support.net import wait_until
from tests.support.transit import Transit

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module")
def behind_passphrase(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policyd]:
    """A policyd with a passphrase, not started yet."""
    daemon = Policyd(tmp_path_factory.mktemp("p"), settings='master_key = "passphrase:"')
    daemon.write()
    done = run(daemon, PASSPHRASE, "init")
    assert done.returncode == 0, done.stderr
    assert "behind a passphrase" in done.stdout
    daemon.start()
    yield daemon
    daemon.stop()


def run(daemon: Policyd, passphrase: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "policy", *words, "--config", str(daemon.config), "--passphrase-stdin"]
    return warm.run(command, passphrase + "\n")


@pytest.fixture
def locked(behind_passphrase: Policyd) -> Policyd:
    """The same, locked, as if it had just been started."""
    if not is_untouched(behind_passphrase):
        behind_passphrase.restart()
    return behind_passphrase


def is_untouched(daemon: Policyd) -> bool:
    if daemon.process is None or daemon.process.poll() is not None:
        return False
    try:
        told = daemon.command(m.VaultStatus())
    except Gone:  # it has just been unlocked, and who came meanwhile comes again
        return False
    return isinstance(told, m.Rows) and ["wrong passphrases", "0"] in told.rows


def unlock(daemon: Policyd, passphrase: str = PASSPHRASE) -> m.Reply:
    with daemon.operator() as operator:
        operator.sock.settimeout(90)  # others have their turns first, each with its wait and a second of argon2id
        return operator.ask(m.VaultUnlock(passphrase=passphrase.encode()))  # type: ignore[no-any-return]


def test_a_locked_policyd_answers_nothing_but_the_passphrase(locked: Policyd):
    for command in (m.PersonList(), m.AuditList(), m.PersonAdd(name="mallory"), m.Reload()):
        refused = locked.command(command)
        assert isinstance(refused, m.Refused)
        assert (refused.code, refused.hint) == (78, "run: bastion vault unlock")
        assert "locked" in refused.cause


def test_a_locked_policyd_tells_how_it_stands(locked: Policyd):
    told = dict(map(tuple, locked.done(m.VaultStatus()).rows))
    assert told["state"] == "locked: the vault is locked: it waits for its passphrase"
    assert told["master"] == "passphrase"
    assert told["memory: core dumps"] == "none"


@pytest.mark.parametrize(
    "first", [hello(), m.Worker(pid=1), m.OfferKey(person="a", blob=b""), m.Admin(command=""), m.Courier(pid=1)]
)
def test_a_locked_policyd_tells_a_gateway_why_and_hangs_up(locked: Policyd, first: m.Request):
    with locked.gateway() as peer:
        refused = peer.ask(first)
        assert isinstance(refused, m.Refused)
        assert refused.cause == "the vault of this bastion is locked"
        assert peer.is_closed()


def test_the_other_sockets_do_not_unlock(locked: Policyd):
    """Attack: a gateway that was taken over tries passphrases."""
    for name in ("policyd.sock", "policyd-audit.sock", "policyd-courier.sock"):
        with Peer(locked.home / "run" / name) as peer:
            refused = peer.ask(m.VaultUnlock(passphrase=PASSPHRASE.encode()))
            assert isinstance(refused, m.Refused)
            assert peer.is_closed()
    assert isinstance(locked.command(m.PersonList()), m.Refused), "it is locked all the same"


def test_nonsense_ends_one_connection_and_no_other(locked: Policyd):
    with locked.operator() as operator, locked.operator() as other:
        operator.send(b"\xff\xff\xff")
        assert operator.is_closed()
        assert isinstance(other.ask(m.PersonList()), m.Refused)


def test_the_passphrase_opens_and_people_come_in(locked: Policyd):
    opened = unlock(locked)
    assert isinstance(opened, m.Done), opened
    assert opened.text == "the vault is open"
    answered(locked)
    name = f"alice{time.monotonic_ns()}"
    key = locked.person(name, "engineer")
    with locked.connection() as peer:
        assert peer.ask(proof(key)) == m.Verdict(outcome=Outcome.DONE, person=name)
    assert "nothing was changed" in locked.done(m.VaultUnlock(passphrase=b"again, whatever it is")).text
    event = locked.audit("vault-unlock")[0]
    assert event["who"].startswith("operator uid")
    assert PASSPHRASE not in locked.log()


def answered(daemon: Policyd) -> None:
    """Until the policyd that decides has taken over."""

    def is_open() -> bool:
        try:
            return not isinstance(daemon.command(m.PersonList()), m.Refused)
        except (Gone, OSError):
            return False

    wait_until("an open vault", is_open, 60)


def failures(daemon: Policyd, since: int) -> list[float]:
    """When wrong passphrases were found to be wrong, by the log from byte `since` on; seconds."""
    whole = (daemon.home / "log").read_bytes()[since:].rpartition(b"\n")[0]  # the last line may be on its way
    lines = map(json.loads, whole.splitlines())
    return [datetime.fromisoformat(one["timestamp"]).timestamp() for one in lines if one["event"] == "unlock-failed"]


def test_wrong_passphrases_wait_longer_and_longer_and_are_counted(locked: Policyd):
    """Between the verdict and its answer, so that a slow machine does not look like a wait."""
    since = (locked.home / "log").stat().st_size
    for wait in (1, 2):
        refused = unlock(locked, "wrong horse battery staple")
        heard = time.time()
        assert isinstance(refused, m.Refused)
        assert (refused.code, refused.cause) == (77, "the passphrase is wrong")
        assert heard - failures(locked, since)[-1] >= wait - 0.01
    assert isinstance(unlock(locked), m.Done)
    answered(locked)
    (event, *_) = locked.audit("vault-unlock")
    shown = locked.done(m.AuditShow(ident=event["seq"]))
    assert "wrong" in str(shown.rows)


def test_hanging_up_does_not_spare_the_wait(locked: Policyd):
    """Attack: a list of passphrases at once, each on a connection that is closed when no answer comes at once."""
    since = (locked.home / "log").stat().st_size
    for _ in range(2):
        with locked.operator() as operator:
            operator.send(m.encode(9, m.VaultUnlock(passphrase=b"wrong horse battery staple")))
    wait_until("the first verdict", lambda: failures(locked, since))
    assert isinstance(unlock(locked), m.Done)
    found = failures(locked, since)
    assert len(found) == 2, "those who came first were judged first"
    assert found[1] - found[0] >= 1


def test_the_command_reads_standard_input_and_never_argv(locked: Policyd):
    command = [sys.executable, "-m", "bastion", "vault", "unlock", "-c", str(locked.config)]
    for words in (["--passphrase-stdin"], []):
        done = subprocess.run([*command, *words], input="no\n", capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 77
        assert "the passphrase is wrong" in done.stderr
    done = subprocess.run([*command, PASSPHRASE], input="", capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 64
    done = subprocess.run(
        [*command, "--passphrase-stdin", "--json"], input=PASSPHRASE + "\n",
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["wrong"] == "2"


def test_a_locked_policyd_ends_when_it_is_told_to(locked: Policyd):
    assert locked.stop() in (0, -signal.SIGTERM)


def test_what_is_broken_behind_the_lock_is_said_to_who_unlocks(locked: Policyd, tmp_path: Path):
    head = locked.home / "state" / "audit.head"
    kept = head.read_bytes()
    head.unlink()
    try:
        refused = unlock(locked)
        assert isinstance(refused, m.Refused)
        assert "head" in refused.cause
        assert locked.process is not None
        assert locked.process.wait(60) == 78
    finally:
        locked.process = None
        head.write_bytes(kept)
        head.chmod(0o600)


def test_a_short_passphrase_makes_no_vault(tmp_path: Path):
    daemon = Policyd(tmp_path, settings='master_key = "passphrase:"')
    daemon.write()
    done = run(daemon, "too short", "init")
    assert done.returncode == 78
    assert "shorter than 12 characters" in done.stderr
    assert not daemon.database.exists()


def test_a_public_key_that_is_piped_in_does_not_become_the_passphrase(tmp_path: Path):
    """Attack: whoever knows the administrator's public key unlocks the vault."""
    daemon = Policyd(tmp_path, settings='master_key = "passphrase:"')
    daemon.write()
    command = [sys.executable, "-m", "policy", "init", "--config", str(daemon.config), "--admin", "ada"]
    line = sshkeys.generate_private_key().public.line("ada") + "\n"
    done = subprocess.run(
        [*command, "--admin-key", "-"], input=line, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 78
    assert "--passphrase-stdin" in done.stderr
    assert not daemon.database.exists()


def test_accept_trail_asks_for_the_passphrase_too(behind_passphrase: Policyd):
    behind_passphrase.stop()
    try:
        wrong = run(behind_passphrase, "wrong horse battery staple", "db", "accept-trail")
        assert wrong.returncode == 78
        assert "the passphrase is wrong" in wrong.stderr
        right = run(behind_passphrase, PASSPHRASE, "db", "accept-trail")
        assert (right.returncode, "nothing was changed" in right.stdout) == (0, True), right.stderr
    finally:
        behind_passphrase.start()


# --- memory --------------------------------------------------------------------------------------------------


def status_of(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


@contextmanager
def started(filled: Policyd, home: Path) -> Iterator[Policyd]:
    from tests.policy.conftest import copied

    daemon = copied(filled, home).start()
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="locking memory without a limit takes root")
def test_nothing_of_policyd_goes_to_swap(filled: Policyd, tmp_path: Path):
    with started(filled, tmp_path) as daemon:
        assert daemon.process is not None
        assert int(status_of(daemon.process.pid, "VmLck").split()[0]) > 0


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_policyd_that_crashes_leaves_no_core(
    filled: Policyd, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
):
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))  # as a shell that wants cores
    monkeypatch.chdir(tmp_path)
    try:
        with started(filled, tmp_path) as daemon:
            assert daemon.process is not None
            assert "0 " in Path(f"/proc/{daemon.process.pid}/limits").read_text().split("Max core file size")[1][:30]
            daemon.process.send_signal(number)
            assert daemon.process.wait(60) == -number
            daemon.process = None
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert not list(tmp_path.rglob("core*"))


def test_protection_tells_what_it_could_not_do():
    code = (
        "from policy import memory; import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
        "import os; os.geteuid() == 0 and os.setuid(65534)\n"
        "memory.protect(); bytearray(64 * 1024 * 1024); print(memory.memory_protection())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "LimitMEMLOCK=infinity" in done.stdout
    assert "'core dumps': 'none'" in done.stdout


# --- transit -------------------------------------------------------------------------------------------------


@contextmanager
def courier_process(daemon: Policyd) -> Iterator[None]:
    """The real courier, which knows nothing of vaults."""
    with (daemon.home / "courier.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bastion.courier", "--config", str(daemon.config)],
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def by_transit(tmp_path: Path) -> Iterator[tuple[Policyd, Transit]]:
    """A vault whose root a transit server holds the half of, from its first moment on."""
    with Transit(tmp_path / "transit") as server:
        daemon = Policyd(tmp_path, settings=f'master_key = "{server.where()}"')
        (tmp_path / "state").mkdir(mode=0o700)
        token = tmp_path / "state" / "transit.token"
        token.write_text("s.good\n")
        token.chmod(0o600)
        daemon.make()
        yield daemon, server
        daemon.stop()


def test_a_vault_by_transit_opens_once_the_courier_is_there(by_transit: tuple[Policyd, Transit]):
    daemon, server = by_transit
    daemon.start()
    refused = daemon.command(m.PersonList())
    assert isinstance(refused, m.Refused)
    assert "the courier is not running" in refused.cause
    no = unlock(daemon)
    assert isinstance(no, m.Refused)
    assert "no passphrase opens this vault" in no.cause
    with courier_process(daemon):
        answered(daemon)
        (event, *_) = daemon.audit("vault-unlock")
        assert event["who"] == "policyd"
        assert {one[1] for one in server.asked} == {"s.good"}


def test_a_damaged_trail_is_accepted_through_a_courier_of_its_own(by_transit: tuple[Policyd, Transit]):
    """No policyd runs then, and none would start before: so there is none that the other courier could come to."""
    daemon, server = by_transit
    with closing(sqlite3.connect(daemon.database)) as database:
        database.execute("DELETE FROM revoked_certificate")
        database.execute("INSERT INTO revoked_certificate (kind, what, at, by) VALUES ('serial', '7', 1, 'x')")
        database.commit()
    server.sealed = True
    no = daemon.run("db", "accept-trail")
    assert no.returncode == 78
    assert "sealed or on standby" in no.stderr
    assert "say this again" in no.stderr
    server.sealed = False
    yes = daemon.run("db", "accept-trail")
    assert yes.returncode == 0, yes.stderr
    assert "accepted" in yes.stdout
    assert "nothing was changed" in daemon.run("db", "accept-trail").stdout
    with courier_process(daemon):
        daemon.start()
        answered(daemon)
        assert daemon.audit("audit-trail-accepted")


def test_a_vault_that_cannot_begin_is_not_there_and_begins_later(tmp_path: Path):
    with Transit(tmp_path / "transit") as server:
        (tmp_path / "token").write_text("s.good\n")
        (tmp_path / "token").chmod(0o600)
        where = server.where(token=f"file:{tmp_path}/token")
        # the courier of this one command is held to what holds the other: no address of its own network's alone
        elsewhere = where.replace("https://127.0.0.1", "https://169.254.169.254")
        daemon, server.sealed = Policyd(tmp_path), True
        for place, table, said in (
            (where, "", "on standby"),
            (elsewhere, "", "which this bastion does not call"),
            (where, '[courier]\nreach = ["nonsense"]', "courier.reach"),
        ):
            daemon.settings = f'master_key = "{place}"\n{table}'
            daemon.write()
            no = daemon.run("init")
            assert no.returncode == 78, no.stdout
            assert said in no.stderr
            assert "Traceback" not in no.stderr
            assert not daemon.database.exists()
        server.sealed = False
        daemon.settings = f'master_key = "{where}"'
        daemon.make()


def test_bastion_init_begins_with_a_transit_server(tmp_path: Path):
    with Transit(tmp_path / "transit") as server:
        (tmp_path / "token").write_text("s.good\n")
        (tmp_path / "token").chmod(0o600)
        where = server.where(token=f"file:{tmp_path}/token")
        words = [sys.executable, "-m", "bastion", "init", str(tmp_path / "b"), "--unattended", "--master", where]
        server.sealed = True
        no = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert no.returncode == 78
        assert "sealed or on standby" in no.stderr
        assert "say this again" in no.stderr
        assert not (tmp_path / "b").exists(), "what it had made is taken away"
        server.sealed = False
        yes = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert yes.returncode == 0, yes.stderr
        assert "share of the master key" in yes.stdout
        assert not (tmp_path / "b" / "state" / "master.key").exists()
        daemon = Policyd(tmp_path / "b")
        with courier_process(daemon):
            daemon.start()
            answered(daemon)
        assert daemon.stop() == 0


def test_a_sealed_server_is_asked_again_until_it_helps(by_transit: tuple[Policyd, Transit]):
    daemon, server = by_transit
    server.sealed = True
    asked = len(server.asked)
    daemon.start()
    with courier_process(daemon):
        wait_until("a call", lambda: len(server.asked) > asked, 60)
        wait_until(
            "the reason", lambda: "sealed or on standby" in getattr(daemon.command(m.PersonList()), "cause", ""), 60
        )
        server.sealed = False
        answered(daemon)
        assert "s.good" not in daemon.log() + (daemon.home / "courier.log").read_text()
