"""Logging in with stock clients: keys, codes, passwords, certificates; and asking the bastion with ssh alone."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pyotp
import pytest

from policy.messages import MfaEnrol, PersonSet
from tests.support.gateway import Gateway, end
from tests.support.net import LOOPBACK, answers_ssh, wait_until
from tests.support.rawssh import Raw
from tests.support.sshd import SSHD, Sshd, keygen

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's ssh")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(
        tmp_path_factory.mktemp("login"), settings=('banner = "sessions are recorded"', "startups_per_source = 100")
    ).make()
    keygen(gateway.home / "user_ca")
    (gateway.folder / "user_cas").write_text(gateway.public("user_ca") + "\n")
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace("[policy]\n", '[policy]\ntrusted_user_cas = "user_cas"\n', 1))
    gateway.start()
    gateway.person("mia")
    yield gateway
    gateway.stop()


def facts(text: str) -> dict[str, str]:
    """`whoami --json` as a dictionary."""
    return {row["field"]: row["value"] for row in json.loads(text)}


# --- keys ---------------------------------------------------------------------------------------------


def test_a_key_lets_its_owner_in_whatever_name_is_claimed(site: Gateway) -> None:
    for user in ("sam", "nobody-of-ours", ""):
        done = site.ssh("whoami", "--json", user=user)
        assert done.returncode == 0, done.stderr
        assert facts(done.stdout)["person"] == "sam"
        assert facts(done.stdout)["proven by"] == "key"


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_other_kinds_of_keys(site: Gateway, kind: str) -> None:
    keygen(site.home / f"kim-{kind}", kind, *(["-b", "3072"] if kind == "rsa" else []))
    site.person(f"kim-{kind}")
    done = site.ssh("whoami", "--json", key=f"kim-{kind}")
    assert done.returncode == 0, done.stderr
    assert facts(done.stdout)["person"] == f"kim-{kind}"


def test_a_key_does_not_let_another_person_in(site: Gateway) -> None:
    site.person("lea")
    done = site.ssh("whoami", key="sam", user="lea")
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_a_stranger_is_refused_in_the_same_words_whoever_they_claim_to_be(site: Gateway) -> None:
    keygen(site.home / "stranger")
    said = []
    for user in ("sam", "nobody-of-ours", "root@web1"):
        done = site.ssh("whoami", key="stranger", user=user)
        assert done.returncode == 255
        said.append(done.stderr.replace(user, "USER"))
    assert len(set(said)) == 1, said


def test_the_banner_comes_before_login(site: Gateway) -> None:
    done = site.ssh("whoami", verbose=True)
    assert "sessions are recorded" in done.stderr


def test_a_certificate_of_a_trusted_ca_lets_its_principal_in(site: Gateway) -> None:
    certified(site, "mia-laptop", "-n", "mia")
    done = site.ssh("whoami", "--json", key="mia-laptop")
    assert done.returncode == 0, done.stderr
    assert facts(done.stdout)["person"] == "mia"
    assert facts(done.stdout)["proven by"] == "certificate"


@pytest.mark.parametrize(
    "flaw",
    [
        (),  # no principals at all: CVE-2024-7594
        ("-n", "mia", "-V", "20200101:20200102"),
        ("-n", "mia", "-V", "always:forever"),
        ("-n", "mia", "-O", "source-address=192.0.2.0/24"),
        ("-n", "mia", "-O", "critical:unheard-of@example.org=x"),
        ("-n", "mia", "-h"),
        ("-n", "nobody-of-ours"),
    ],
)
def test_a_certificate_with_a_flaw_lets_nobody_in(site: Gateway, flaw: tuple[str, ...]) -> None:
    name = f"flaw-{abs(hash(flaw))}"
    certified(site, name, *flaw)
    assert site.ssh("whoami", key=name, user="mia").returncode == 255


def certified(site: Gateway, name: str, *options: str) -> None:
    keygen(site.home / name)
    words = [
        "ssh-keygen",
        "-q",
        "-s",
        str(site.home / "user_ca"),
        "-I",
        name,
        "-V",
        "-5m:+1h",
        *options,
        str(site.home / f"{name}.pub"),
    ]
    subprocess.run(words, check=True, capture_output=True)


# --- codes and passwords ------------------------------------------------------------------------------


def with_code(site: Gateway, name: str) -> pyotp.TOTP:
    site.person(name)
    enrolled = site.ask(MfaEnrol(person=name))
    return pyotp.TOTP(enrolled.data["secret"])  # type: ignore[union-attr]


def answering(site: Gateway, answer: str) -> dict[str, str]:
    """An environment in which ssh's prompts are answered."""
    script = site.home / f"askpass-{answer}"
    script.write_text(f"#!/bin/sh\necho {answer}\n")
    script.chmod(0o700)
    return {**os.environ, "SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"}


def test_a_key_and_then_a_code_is_a_true_partial_success(site: Gateway) -> None:
    totp = with_code(site, "ann")
    done = site.ssh("whoami", "--json", key="ann", verbose=True, env=answering(site, totp.now()))
    assert done.returncode == 0, done.stderr
    assert 'using "publickey" with partial success' in done.stderr
    assert 'using "keyboard-interactive"' in done.stderr
    assert facts(done.stdout)["person"] == "ann"


def test_neither_factor_is_enough_and_a_code_counts_once(site: Gateway) -> None:
    totp = with_code(site, "bob")
    assert site.ssh("whoami", key="bob", env=answering(site, "000000")).returncode == 255
    assert site.ssh("whoami", key="bob").returncode == 255  # no code at all
    code = totp.now()
    assert site.ssh("whoami", key="stranger-to-bob", user="bob", env=answering(site, code)).returncode == 255
    assert site.ssh("whoami", key="bob", env=answering(site, code)).returncode == 0
    assert site.ssh("whoami", key="bob", env=answering(site, code)).returncode == 255


def test_a_password_lets_in_who_has_one(site: Gateway) -> None:
    site.person("pat", password="correct horse battery")
    with paramiko_client(site, "pat", "correct horse battery") as client:
        _, out, _ = client.exec_command("whoami --json")
        assert facts(out.read().decode())["person"] == "pat"
    for person, password in (("pat", "wrong"), ("sam", "correct horse battery"), ("nobody-of-ours", "x")):
        with pytest.raises(paramiko.AuthenticationException):
            paramiko_client(site, person, password)


def test_paramiko_logs_in_by_key(site: Gateway) -> None:
    with paramiko_client(site, "sam", key_filename=str(site.home / "sam")) as client:
        _, out, _ = client.exec_command("whoami --json")
        assert facts(out.read().decode())["person"] == "sam"


def paramiko_client(site: Gateway, user: str, password: str | None = None, **more: Any) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        LOOPBACK, site.port, user, password, allow_agent=False, look_for_keys=False, timeout=20, **more
    )  # fmt: skip
    return client


# --- commands of ours ---------------------------------------------------------------------------------


def test_commands_answer_in_text_and_json_and_say_what_they_do_not_know(site: Gateway) -> None:
    assert "ssh -J" in site.ssh("help").stdout
    assert any(line.startswith("@cert-authority * ssh-ed25519 ") for line in site.ssh("ca").stdout.splitlines())
    assert f"Port {site.port}" in site.ssh("config").stdout
    assert json.loads(site.ssh("sessions", "--json").stdout) == []
    wrong = site.ssh("whoam")
    assert wrong.returncode == 64
    assert "did you mean: ssh bastion whoami" in wrong.stderr


def test_a_person_without_the_role_may_not_ask(site: Gateway) -> None:
    site.person("noa")
    done = site.ssh("sessions", key="noa")
    assert done.returncode == 77
    assert "bastion: " in done.stderr


def test_security_reads_the_trail_over_ssh(site: Gateway) -> None:
    site.person("finn")
    site.person("iris", "security")
    rows = json.loads(site.ssh("audit", "list", "finn", "--json", key="iris").stdout)
    assert [row["event"] for row in rows] == ["person-add"]
    shown = site.ssh("audit", "show", rows[0]["seq"], key="iris").stdout
    assert "finn" in shown
    assert "is whole" in site.ssh("audit", "verify", key="iris").stdout
    assert site.ssh("audit", "list", key="finn").returncode == 77
    for words in (["list", "a", "b"], ["show"], ["erase"], []):
        assert site.ssh("audit", *words, key="iris").returncode == 64
    rows = json.loads(site.ssh("audit", "list", "audit", "--json", key="iris").stdout)
    assert any((row["who"], row["event"], row["detail"]) == ("iris", "view", "what=finn") for row in rows)


def test_neither_words_nor_a_target_nor_a_terminal_is_refused_clearly(site: Gateway) -> None:
    done = site.ssh()
    assert done.returncode == 64
    assert "use: ssh account@target@bastion" in done.stderr


@pytest.mark.parametrize("user", ["root@@web1", "@web1", "root@-oProxyCommand=x", "a b@web1"])
def test_a_name_that_asks_for_nothing_sensible_is_told_so_after_login(site: Gateway, user: str) -> None:
    done = site.ssh("id", user=user)
    assert done.returncode == 64
    assert done.stderr.startswith("bastion: ")
    stranger = site.ssh("id", user=user, key="stranger-to-all")
    assert stranger.returncode == 255
    assert "bastion:" not in stranger.stderr


def test_a_name_that_is_not_allowed_is_refused_by_policy(site: Gateway) -> None:
    done = site.ssh("id", user="root@web1")
    assert done.returncode == 77
    assert "`root` on `web1` is not allowed or does not exist" in done.stderr


# --- the worker ---------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Gateway]:
    """One that a test may break."""
    gateway = Gateway(tmp_path).make()
    yield gateway
    gateway.stop()


def test_openssh_is_offered_gcm_alone_and_others_everything(site: Gateway) -> None:
    done = site.ssh("whoami", verbose=True)
    assert re.search(r"cipher: aes\d+-gcm@openssh.com", done.stderr)
    version = "OpenSSH_6.1", "aes256-ctr"

    async def other() -> str:
        raw = await Raw.connect(site.port, client_version=version[0], encryption_algs=[version[1]])
        await raw.leave()
        await raw.leave()
        return str(raw.get_extra_info("send_cipher"))

    assert asyncio.run(other()) == "aes256-ctr"


@pytest.mark.parametrize(("profile", "warnings"), [("compat", None), ("modern", None), ("pq", 0)])
def test_ssh_audit_finds_no_failure(own: Gateway, profile: str, warnings: int | None) -> None:
    own.configure(f'profile = "{profile}"')
    own.start()
    words = [str(Path(sys.executable).parent / "ssh-audit"), "-j", "-p", str(own.port), LOOPBACK]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(done.stdout)
    notes = [
        (level, kind, entry["algorithm"], note)
        for kind in ("kex", "key", "enc", "mac")
        for entry in found[kind]
        for level, several in entry.get("notes", {}).items()
        for note in several
        if level in ("fail", "warn")
    ]
    assert [note for note in notes if note[0] == "fail"] == []
    if warnings is not None:
        assert notes == []


def test_without_policyd_nobody_gets_in_and_with_it_everybody_again(own: Gateway) -> None:
    own.start()
    assert own.ssh("whoami").returncode == 0
    end(own.policyd)
    done = own.ssh("whoami")
    assert done.returncode == 255
    assert "policy service" in done.stderr + own.ssh("whoami", verbose=True).stderr
    own.start_policyd()
    assert own.ssh("whoami").returncode == 0


def test_who_is_in_is_told_when_policyd_goes(own: Gateway) -> None:
    own.start()
    words = [*own.words(), "-N", "-v"]
    idle = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert idle.stderr is not None
    wait_until("login", lambda: "Entering interactive" in idle.stderr.readline())
    assert own.policyd is not None
    own.policyd.kill()
    assert "policy service is gone" in idle.communicate(timeout=40)[1]


def test_sigterm_tells_people_and_ends_in_order(own: Gateway) -> None:
    own.start()
    idle = subprocess.Popen([*own.words(), "-N", "-v"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert idle.stderr is not None
    wait_until("login", lambda: "Entering interactive" in idle.stderr.readline())
    assert own.worker is not None
    own.worker.send_signal(signal.SIGTERM)
    assert "going down" in idle.communicate(timeout=40)[1]
    assert own.worker.wait(30) == 0


def test_sighup_takes_new_settings_for_new_connections_and_a_bad_file_changes_nothing(own: Gateway) -> None:
    own.start()
    assert own.worker is not None
    text = own.config.read_text()
    own.config.write_text(text.replace("[ssh]\n", '[ssh]\nbanner = "read this first"\n', 1))
    own.worker.send_signal(signal.SIGHUP)
    wait_until("reload", lambda: "reloaded" in own.log.read_text())
    assert "read this first" in own.ssh("whoami", verbose=True).stderr
    own.config.write_text(text.replace("[ssh]\n", '[ssh]\nbaner = "x"\n', 1))
    own.worker.send_signal(signal.SIGHUP)
    wait_until("refusal", lambda: "configuration kept" in own.log.read_text())
    assert "read this first" in own.ssh("whoami", verbose=True).stderr


def test_two_workers_share_one_address(own: Gateway) -> None:
    own.configure("workers = 2")
    own.start()
    with own.log.open("ab") as log:
        words = [sys.executable, "-m", "bastion.ssh", "--config", str(own.config), "--worker", "1"]
        second = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until("the second worker", lambda: own.log.read_text().count('"ready"') == 2)
        assert [own.ssh("whoami").returncode for _ in range(6)] == [0] * 6
    finally:
        end(second)


def test_an_address_that_is_taken_is_named(own: Gateway) -> None:
    own.start()
    words = [sys.executable, "-m", "bastion.ssh", "--config", str(own.config), "--worker", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 78
    assert f"cannot listen on `{LOOPBACK}:{own.port}`: address already in use" in done.stderr


def test_sockets_and_keys_that_systemd_hands_over(own: Gateway, tmp_path: Path) -> None:
    import socket

    own.start_policyd()
    own.person("sam", "admin")
    state, handed = own.folder / "state", tmp_path / "credentials"
    handed.mkdir()
    for name in ("ssh_host_ed25519_key", "ssh_host_rsa_key"):
        shutil.move(state / name, handed / name)
    with socket.create_server((LOOPBACK, 0)) as listening:
        port = listening.getsockname()[1]
        script = 'LISTEN_PID=$$ exec "$0" -m bastion.ssh --config "$1" --worker 0'
        # 3 is where sd_listen_fds(3) says they begin
        with own.log.open("ab") as log:
            own.worker = subprocess.Popen(
                ["sh", "-c", script, sys.executable, str(own.config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "ssh", "CREDENTIALS_DIRECTORY": str(handed)},
                preexec_fn=lambda: os.dup2(listening.fileno(), 3), pass_fds=(3,),
            )  # fmt: skip
    own.port = port
    wait_until("the gateway", lambda: answers_ssh(port))
    assert own.ssh("whoami").returncode == 0


@pytest.mark.skipif(not Path(SSHD).exists(), reason="needs OpenSSH's sshd")
def test_a_worker_scans_host_keys_for_policyd(site: Gateway, tmp_path: Path) -> None:
    from policy.messages import TargetAdd

    target = Sshd(tmp_path / "target").start()
    try:
        done = site.ask(TargetAdd(name="scanned", address=target.address, scan=True))
    finally:
        target.stop()
    shown = asyncssh.read_public_key(target.host_key).get_fingerprint()
    assert shown in done.text + " ".join(done.data.values())  # type: ignore[union-attr]


def test_an_address_where_nobody_listens_cannot_be_scanned(site: Gateway) -> None:
    from bastion.errors import Denied
    from policy.messages import TargetAdd
    from tests.support.net import free_port

    with pytest.raises(Denied, match="connection refused"):
        site.ask(TargetAdd(name="nowhere", address=f"{LOOPBACK}:{free_port()}", scan=True))


def test_a_disabled_person_is_refused(site: Gateway) -> None:
    site.person("zoe")
    assert site.ssh("whoami", key="zoe").returncode == 0
    site.ask(PersonSet(name="zoe", disabled=True))
    assert site.ssh("whoami", key="zoe").returncode == 255


def test_a_client_learns_our_other_host_keys_and_that_we_own_them(site: Gateway) -> None:
    """hostkeys-00@openssh.com (PROTOCOL 2.5): keys can be replaced without a warning at every desk."""
    known = site.known_hosts
    words = [word for word in site.words("whoami") if not word.startswith("UserKnownHostsFile")]
    words[words.index("StrictHostKeyChecking=yes")] = f"UserKnownHostsFile={known}"
    words[-2:-2] = ["-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=yes", "-v"]
    words = [word for at, word in enumerate(words) if not (word == "-o" and words[at + 1 : at + 2] == ["-o"])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    rsa = (site.folder / "state/ssh_host_rsa_key.pub").read_text().split()[1]
    assert rsa in known.read_text(), done.stderr


# --- the menu -----------------------------------------------------------------------------------------

RULES = """
[[rule]]
name  = "engineers"
who   = { roles = ["engineer"] }
where = { labels = { env = "test" } }
as    = ["*"]
allow = ["shell"]
"""


@pytest.fixture(scope="module")
def eve(site: Gateway) -> str:
    """An engineer who may use two targets, of which one has an evil label."""
    from policy.messages import AccountAdd, Reload, TargetAdd

    (site.folder / "policy.toml").write_text(RULES)
    site.ask(Reload())
    site.person("eve", "engineer", password="for paramiko")
    keygen(site.home / "target_host")
    for name, labels in (("web1", {"env": "test"}), ("db7", {"env": "test", "tier": "gold"})):
        site.ask(
            TargetAdd(name=name, address=f"{LOOPBACK}:1", labels=labels, host_keys=[site.public("target_host")])
        )  # fmt: skip
        site.ask(AccountAdd(account="root", target=name, password="x"))
    return "for paramiko"


class Screen:
    """A shell on a terminal of ours, without a target."""

    def __init__(self, site: Gateway, password: str, columns: int = 80, rows: int = 24) -> None:
        self.client = paramiko_client(site, "eve", password)
        self.channel = self.client.invoke_shell(width=columns, height=rows)
        self.channel.settimeout(40)
        self.channel.set_combine_stderr(True)
        self.seen = b""

    def until(self, *words: bytes) -> bytes:
        """Everything since the last call, once it holds all of these."""
        while not all(word in self.seen for word in words):
            data = self.channel.recv(65536)
            assert data, self.seen
            self.seen += data
        seen, self.seen = self.seen, b""
        return seen

    def end(self) -> int:
        while data := self.channel.recv(65536):
            self.seen += data
        status = self.channel.recv_exit_status()
        self.client.close()
        return status


def test_without_a_target_and_with_a_terminal_there_is_a_menu(site: Gateway, eve: str) -> None:
    screen = Screen(site, eve)
    screen.until(b"root@web1", b"root@db7", b"2 of 2")
    screen.channel.send(b"gold")
    shown = screen.until(b"1 of 2", b"root@db7")
    assert b"web1" not in shown[shown.rindex(b"1 of 2") :]
    screen.channel.send(b"\r")
    status = screen.end()  # no recorder runs here: invariant 4 shows that the choice went on to the target
    assert status == 76
    assert b"bastion: " in screen.seen


@pytest.mark.parametrize("key", [b"\x03", b"\x04"])
def test_the_menu_can_be_left(site: Gateway, eve: str, key: bytes) -> None:
    screen = Screen(site, eve)
    screen.until(b"root@web1")
    screen.channel.send(key)
    screen.end()
    assert b"\x1b[?1049l" in screen.seen


def test_the_menu_follows_the_size_of_the_window(site: Gateway, eve: str) -> None:
    screen = Screen(site, eve, columns=12, rows=3)
    screen.until(b"2 of 2")
    screen.channel.resize_pty(width=100, height=30)
    screen.until(b"\x1b[30;1H", b"tier=gold")
    screen.channel.close()
    screen.client.close()


def test_a_person_without_any_target_is_told_so(site: Gateway) -> None:
    site.person("ida", password="for paramiko")
    client = paramiko_client(site, "ida", "for paramiko")
    channel = client.invoke_shell()
    channel.settimeout(40)
    said = b""
    while data := channel.recv_stderr(4096):
        said += data
    client.close()
    assert b"no target you may use" in said
