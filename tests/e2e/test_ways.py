"""Who comes in and what opens the target: each factor and each kind of credential, up to a command that ran there."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import paramiko
import pyotp
import pytest

from policy.messages import AccountAdd, Done, MfaEnrol, MfaReset, TargetAdd
from tests.support.canary import files_below
from tests.support.evidence import Evidence
from tests.support.net import LOOPBACK
from tests.support.person import Person
from tests.support.site import DIRECT, THROUGH, Site
from tests.support.sshd import SSHD, Sshd, keygen

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]


@pytest.fixture(params=THROUGH)
def entry(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def as_person(site: Site, person: str, entry: str, target: str = "web1", *options: str) -> list[str]:
    """ssh with another person's key; behind -J it is the outer connection that proves who it is."""
    text = site.ssh_config.read_text().replace(str(site.key("alice")), str(site.key(person)))
    text = text.replace("User alice", f"User {person}").replace("BatchMode yes", "BatchMode no")
    text = text.replace("HostName web1", f"HostName {target}").replace("@web1", f"@{target}")
    config = site.home / f"ssh_config-{person}-{target}"
    config.write_text(text)
    return ["ssh", "-F", str(config), "-o", "NumberOfPasswordPrompts=1", *options, entry]


def runs(words: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 30, "check": False} | options
    return subprocess.run([*words, "echo hello"], **options)  # type: ignore[call-overload,no-any-return]


# --- persons ------------------------------------------------------------------------------------------


def test_by_certificate(site: Site, entry: str, evidence: Evidence) -> None:
    site.certificate("dave")
    done = runs(as_person(site, "dave", entry))
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
    tape = evidence.tape()
    assert tape
    assert [facts["person"] for facts in tape.facts] == ["dave"]


def test_by_key_and_code(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    site.ask(MfaReset(person="bob"))  # a code counts once: a new secret is quicker than the next half minute
    enrolled = site.ask(MfaEnrol(person="bob"))
    assert isinstance(enrolled, Done)
    script = tmp_path / "askpass"
    script.write_text(f"#!/bin/sh\necho {pyotp.TOTP(enrolled.data['secret']).now()}\n")
    script.chmod(0o700)
    env = {**os.environ, "SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"}
    done = runs(as_person(site, "bob", entry), env=env)
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
    tape = evidence.tape()
    assert tape
    assert [facts["person"] for facts in tape.facts] == ["bob"]


def test_by_password(site: Site) -> None:
    with paramiko.Transport((LOOPBACK, site.port)) as transport:
        transport.start_client(timeout=20)
        transport.auth_password(f"carol@{site.login()}", "correct horse battery staple")
        channel = transport.open_session()
        channel.exec_command("echo hello")
        assert channel.makefile("rb").read() == b"hello\n"


def test_by_the_menu(site: Site) -> None:
    """`ssh -t bastion`: pick a target, and be there as by any other way, with the terminal one came with."""
    evidence = Evidence(site, DIRECT)
    with Person(*site.command("ssh", "-t"), "bastion", columns=91, rows=27) as person:
        person.until(site.login())
        person.type("web1\rstty size; ")  # in one go: what stands behind the choice is for the shell
        person.until("\x1b[?1049l")  # the menu has left
        person.type("exit 6\r")
        person.until("27 91")
        assert person.wait() == 6
    tape = evidence.tape()
    assert tape
    assert [(start.kind, start.columns, start.rows) for start in tape.starts] == [("shell", 91, 27)]
    evidence.check()


# --- credentials for targets --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trusting(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A target without authorized keys that trusts the bastion's user CA."""
    home = tmp_path_factory.mktemp("trusting")
    lines = site.bastion("ca").stdout.splitlines()
    ca = [line for line in lines if "cert-authority" in line and not line.startswith("@")]
    key = [line[line.index("ssh-") :] for line in ca or lines if "ssh-" in line and not line.startswith("@")]
    (home / "user_ca").write_text("".join(f"{line}\n" for line in key))
    target = Sshd(home / "sshd", options=(f"TrustedUserCAKeys {home}/user_ca", "AuthorizedKeysFile none")).start()
    pins = [target.host_key.read_text().strip()]
    site.ask(TargetAdd(name="ca1", address=target.address, labels={"env": "test"}, host_keys=pins))
    site.ask(AccountAdd(account=target.account, target="ca1", user_ca=True))
    yield target
    target.stop()


def test_with_a_certificate_of_the_bastion(site: Site, trusting: Sshd, entry: str) -> None:
    """The target's own log says who it was and by which session."""
    evidence = Evidence(site, entry)
    done = runs(as_person(site, "alice", entry, "ca1"))
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
    tape = evidence.tape()
    assert tape
    session = evidence.new()[0].stem
    accepted = [line for line in trusting.log().splitlines() if "Accepted publickey" in line or "Accepted key" in line]
    assert any("alice" in line and session in line.replace("-", "") for line in accepted), accepted


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_with_a_vaulted_key_of_another_kind(site: Site, kind: str, tmp_path: Path) -> None:
    keygen(tmp_path / "vaulted", kind, *(["-b", "3072"] if kind == "rsa" else []))
    target = Sshd(tmp_path / "sshd", options=(f"AuthorizedKeysFile {tmp_path}/vaulted.pub",)).start()
    try:
        pins = [target.host_key.read_text().strip()]
        site.ask(TargetAdd(name=kind, address=target.address, labels={"env": "test"}, host_keys=pins))
        secret = (tmp_path / "vaulted").read_text()
        site.ask(AccountAdd(account=target.account, target=kind, private_key=secret))
        done = runs(as_person(site, "alice", DIRECT, kind))
        assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
    finally:
        target.stop()


SECRET = "lent for one handshake"


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
def test_with_a_vaulted_password(site: Site, method: str, tmp_path: Path) -> None:
    """sshd would want it in /etc/shadow: asyncssh plays the target. Nobody else gets to see the password."""
    keygen(tmp_path / "host_key")

    async def go() -> bytes:
        async with playing_target(tmp_path / "host_key", method) as port:
            pins = [(tmp_path / "host_key.pub").read_text().strip()]
            name = f"pw-{method}"
            add = TargetAdd(name=name, address=f"{LOOPBACK}:{port}", labels={"env": "test"}, host_keys=pins)
            await asyncio.to_thread(site.ask, add)
            await asyncio.to_thread(site.ask, AccountAdd(account="root", target=name, password=SECRET))
            done = await asyncio.to_thread(runs, as_person(site, "alice", DIRECT, name))
            return bytes(done.stdout)

    assert asyncio.run(go()) == b"hello from a password\n"
    hidden = files_below(site.log, site.folder / "state")
    assert [path for path, data in hidden.items() if SECRET.encode() in data] == []


@asynccontextmanager
async def playing_target(host_key: Path, method: str) -> AsyncIterator[int]:
    class Server(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return method == "password"

        def validate_password(self, username: str, password: str) -> bool:
            return password == SECRET

        def kbdint_auth_supported(self) -> bool:
            return method == "keyboard-interactive"

        def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> tuple[str, ...] | object:
            return "", "", "", [("Password: ", False)]

        def validate_kbdint_response(self, username: str, responses: object) -> bool:
            return responses == [SECRET]

    def answer(process: "asyncssh.SSHServerProcess[str]") -> None:
        process.stdout.write("hello from a password\n")
        process.exit(0)

    async with asyncssh.listen(LOOPBACK, 0, server_factory=Server, server_host_keys=[str(host_key)],
                               process_factory=answer) as server:  # fmt: skip
        yield server.get_port()


def test_a_port_in_the_login_is_the_targets_and_goes_by_the_same_pins(site: Site) -> None:
    """`#port` leads to another sshd on the same machine: whose host key is not the pinned one."""
    done = site.ssh(DIRECT, "id", options=("-o", f"User={site.login()}#{site.port}"))
    assert done.returncode != 0
    assert b"bastion: " in done.stderr
    same = site.ssh(DIRECT, "echo same", options=("-o", f"User={site.login()}#{site.target.port}"))
    assert same.stdout in (b"same\n", b"")
