"""Secrets stay home: what is typed unseen and what the vault holds is in no file, log, argument or environment."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from policy.messages import AccountAdd, Done, PersonAdd, TargetAdd
from recorder.model import Kind
from tests.support.canary import canary, found_in_files, found_in_processes, in_memory
from tests.support.chaos import FaultSite, ended_tape, patience, tapes
from tests.support.net import LOOPBACK, wait_until
from tests.support.sshd import SSHD
from tests.support.terminal import Terminal
from tests.support.toxic import ByPassword

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]


@pytest.fixture
def site(fault_site: FaultSite) -> Iterator[FaultSite]:
    yield fault_site
    assert fault_site.go("echo alive").out == b"alive\n", "the bastion does not work any more"


def test_what_is_typed_while_the_echo_is_off_is_nowhere(site: FaultSite) -> None:
    hidden, seen = canary("Hidden"), canary("Seen")
    ask = "printf 'Password: '; IFS= read -rs word; echo; echo length ${#word}"
    words = [*site.command("ssh", "-tt"), "direct", "PS1='$ ' exec bash --norc --noprofile"]
    with Terminal(*words) as person:
        person.until(b"$ ")
        person.keys(f"echo {seen}\r".encode())
        person.until(b"\n")
        person.until(seen.encode())
        person.until(b"$ ")
        person.keys(f": unseen; {ask}\r".encode())
        person.until(b"length")  # the echo of the command
        person.until(b"Password: ")
        assert site.sessions(), "looked at while the session lives, too"
        person.piece(hidden.encode())
        person.piece(b"\r")
        person.until(f"length {len(hidden)}".encode())
        person.until(b"$ ")
        assert found_in_files(site, hidden) == []
        assert found_in_processes(site, hidden) == []
        person.keys(b"exit\r")
        while person._read(patience(5)):
            pass
    wait_until("the end of the session", lambda: not site.sessions(), patience(10))
    assert found_in_files(site, hidden) == []
    tape = tapes(site)[-1]
    assert seen.encode() in tape.joined(Kind.INPUT, Kind.REVEALED), "what was echoed is there: the search can find"
    sealed = [event for event in tape.events if event.kind == Kind.SEALED_INPUT]
    assert sum(int.from_bytes(event.data[32:36]) for event in sealed) >= len(hidden), "that something was typed is kept"


def test_a_password_of_the_vault_is_nowhere_but_in_the_vault(site: FaultSite, tmp_path: Path) -> None:
    secret = canary("Vaulted")
    with ByPassword(tmp_path / "pw", password=secret) as target:
        pins = [target.host_key.read_text().strip()]
        site.ask(TargetAdd(name="bypass", address=target.address, labels={"env": "test"}, host_keys=pins))
        added = site.ask(AccountAdd(account=target.account, target="bypass", password=secret))
        assert isinstance(added, Done)
        words = [*site.command("ssh", "-tt"), "-l", f"{target.account}@bypass", "direct", ": byp; cat"]
        with Terminal(*words) as person:
            person.until(b"logged in by password")
            assert site.sessions()
            assert found_in_files(site, secret) == []
            assert found_in_processes(site, secret) == []
            if os.geteuid() == 0:  # nobody else may look
                worker = site.pid("bastion.ssh")
                assert any(in_memory(worker, row["session"]) for row in site.sessions()), (
                    "the search finds what is there"
                )
                wait_until("the password to be gone from memory", lambda: not in_memory(worker, secret))
        assert target.passwords == [secret], "it was that password which let us in"
    tape = ended_tape(site, "byp")
    assert found_in_files(site, secret) == []
    assert tape.events


def test_a_wrong_password_of_the_vault_is_not_told_either(site: FaultSite, tmp_path: Path) -> None:
    """Error messages are where secrets leak."""
    secret = canary("Wrong")
    with ByPassword(tmp_path / "pw", password="another") as target:
        pins = [target.host_key.read_text().strip()]
        site.ask(TargetAdd(name="bywrong", address=target.address, labels={"env": "test"}, host_keys=pins))
        site.ask(AccountAdd(account=target.account, target="bywrong", password=secret))
        said = site.ssh("direct", "id", options=("-l", f"{target.account}@bywrong"))
        assert said.returncode == 69
        assert b"refused our credential" in said.stderr
        assert secret.encode() not in said.stderr
        assert target.passwords == [secret]
    assert found_in_files(site, secret) == []


def test_a_persons_own_password_and_seed_are_nowhere(site: FaultSite) -> None:
    secret = canary("Login")
    site.ask(PersonAdd(name="petra", roles=["engineer"], password=secret))
    for password, works in ((secret, True), (secret + "x", False)):
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        try:
            client.connect(
                LOOPBACK, site.port, f"petra@{site.login()}", password, allow_agent=False, look_for_keys=False,
                timeout=patience(20),
            )  # fmt: skip
            _, out, _ = client.exec_command("echo in")
            assert out.read() == b"in\n"
            assert works
        except paramiko.AuthenticationException:
            assert not works
        finally:
            client.close()
    assert found_in_files(site, secret) == []
    assert found_in_files(site, site.seeds["bob"]) == []
    assert found_in_processes(site, secret) == []
