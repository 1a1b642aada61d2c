"""Second factors over a real bastion: orders of methods by hand, leave and channels on every way, and real clients."""

import asyncio
import itertools
import random
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pyotp
import pytest
from asyncssh.packet import Boolean, String, UInt32

from policy import messages as m
from tests.support.attempts import ATTEMPTS, DONE, Try
from tests.support.canary import files_below
from tests.support.net import LOOPBACK
from tests.support.person import Person
from tests.support.rawssh import CHANNEL_OPEN, DISCONNECT, INFO_REQUEST, INFO_RESPONSE, USERAUTH_SUCCESS, Raw
from tests.support.site import DIRECT, EVERYTHING, THROUGH, Site
from tests.support.sshd import SSHD

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not Path(SSHD).exists(), reason="needs OpenSSH's sshd")]

SEED = 20261125


def rule(name: str, role: str, require: str) -> str:
    return f"""
[[rule]]
name    = "{name}"
who     = {{ roles = ["{role}"] }}
where   = {{ labels = {{ env = "test" }} }}
as      = ["*"]
allow   = {list(EVERYTHING)}
require = {require}
"""


RULES = (
    rule("nothing asked", "engineer", "{}")
    + rule("a code", "coder", '{ mfa = "15m" }')
    + rule("a code and leave", "dba", '{ mfa = "15m", approval = { by = ["lead"], count = 1 } }')
    + '[login]\nmfa = "8h"\n'
)


@dataclass
class Somebody:
    name: str
    key: asyncssh.SSHKey
    path: Path
    totp: pyotp.TOTP | None = None
    at: int = -1

    def code(self) -> str:
        """One that was not shown before: of this step, or of the next. Both are good for at least half a minute."""
        assert self.totp is not None
        self.at += 1
        return self.totp.generate_otp(int(time.time()) // 30 + self.at)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = {
        "ssh": ["startups_per_source = 100", "channels = 64", "penalties = false"],
        "policy": ["source_failures = 100000", "lock_after = 100"],
    }
    made = Site(tmp_path_factory.mktemp("factors"), settings)
    try:
        made.start()
        made.set_rules(RULES)
        yield made
    finally:
        made.stop()


_names = itertools.count(1)


def somebody(site: Site, *roles: str, enrolled: bool = False) -> Somebody:
    name = f"p{next(_names)}"
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = site.home / "keys" / name
    key.write_private_key(str(path))
    path.chmod(0o600)
    public = key.export_public_key().decode().strip()
    path.with_suffix(".pub").write_text(public + "\n")
    site.ask(m.PersonAdd(name=name, roles=list(roles), keys=[public]))
    made = Somebody(name, key, path)
    if enrolled:
        done = site.ask(m.MfaEnrol(person=name))
        assert isinstance(done, m.Done)
        made.totp = pyotp.TOTP(done.data["secret"])
    return made


# --- orders by hand -----------------------------------------------------------------------------------

EVENTS = ("key", "forged key", "ask", "code", "wrong code", "empty", "password", "none")


def let_in(names: tuple[str, ...], *, due: bool) -> bool:
    """What the rules say of such an order, told without the machine."""
    proven = is_open = False
    for name in names:
        if name in ("code", "wrong code", "empty"):
            if not is_open:
                return False  # an answer to no question ends the connection
            if name == "code":
                return True
            is_open = False
        elif name == "key" and not proven:
            proven = True
            if not due:
                return True
        else:
            is_open = name == "ask" and proven
    return False


async def play(site: Site, who: Somebody, names: tuple[str, ...]) -> bool:
    """Whether this order lets in; who is in runs a command, and who is not is hung up on for trying."""
    raw = await (await Raw.connect(site.port)).begin()
    user = f"{who.name}@{site.login()}"
    heard: list[int] = []
    try:
        for name in names:
            match name:
                case "key":
                    raw.prove(user, who.key)
                case "forged key":
                    raw.prove(user, who.key, session=b"x" * 32)
                case "ask":
                    raw.request(user, "keyboard-interactive", String(""), String(""))
                case "password":
                    raw.request(user, "password", Boolean(False), String("guess"))
                case "none":
                    raw.request(user, "none")
                case "code":
                    raw.say(INFO_RESPONSE, UInt32(1), String(who.code() if who.totp else "1"))
                case _:
                    raw.say(INFO_RESPONSE, UInt32(1), String({"wrong code": "000000", "empty": ""}[name]))
            heard.append((await raw.hear())[0])
            if heard[-1] in (USERAUTH_SUCCESS, DISCONNECT, 0):
                break
        inside = heard[-1] == USERAUTH_SUCCESS
        if inside:
            channel = await raw.session()
            raw.ask(channel, "exec", String("echo did it"))
            assert (await raw.output())[0] == b"did it\n"
        elif heard[-1] not in (DISCONNECT, 0):
            raw.say(CHANNEL_OPEN, String("session"), UInt32(0), UInt32(1 << 20), UInt32(32768))
            assert set(await raw.rest()) <= {DISCONNECT}
        assert (INFO_REQUEST in heard) <= ("key" in names), "no question before a first factor"
        return inside
    finally:
        await raw.leave()


def sampled(number: int, *, must: tuple[tuple[str, ...], ...]) -> list[tuple[str, ...]]:
    every = [names for size in (2, 3, 4) for names in itertools.product(EVENTS, repeat=size)]
    return [*must, *random.Random(SEED).sample(every, number)]


@pytest.mark.parametrize("due", [True, False], ids=["enrolled", "none enrolled"])
def test_orders_by_hand(site: Site, due: bool) -> None:
    who = somebody(site, "engineer", enrolled=due)
    must = (
        ("key", "ask", "code"), ("key", "ask", "wrong code", "ask", "code"), ("ask", "key", "ask", "code"),
        ("key", "key", "ask", "code"), ("key", "code"), ("ask", "code", "key"), ("key", "ask", "key", "code"),
        ("key", "ask", "empty"), ("forged key", "ask", "code"), ("key", "ask", "password", "code"),
    )  # fmt: skip
    for names in sampled(30, must=must):
        if due:
            who = somebody(site, "engineer", enrolled=True)  # a code counts once, and is remembered
        assert asyncio.run(play(site, who, names)) == let_in(names, due=due), names


# --- order and factor x leave x channel x way -----------------------------------------------------------

FACTORS = ("none", "shown", "shown at the second try", "shown lately")
LEAVE = ("not needed", "none", "given", "revoked", "used up")
KINDS = ("exec", "shell", "sftp", "forward-local", "forward-remote", "scp")


def matrix() -> list[tuple[str, str, str, str]]:
    names = {kind.value: name for name, (kind, _, _) in reversed(ATTEMPTS.items())}
    return list(itertools.product(FACTORS, LEAVE, [names[kind] for kind in KINDS], THROUGH))


@asynccontextmanager
async def logged_in(
    site: Site, entry: str, who: Somebody, wrong: int = 0
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """With a code if it is asked for, after so many wrong ones."""
    answers = itertools.chain(["000000"] * wrong, iter(who.code, ""))

    class Client(asyncssh.SSHClient):
        def kbdint_auth_requested(self) -> str:
            return ""

        def kbdint_challenge_received(self, _name: str, _text: str, _lang: str, prompts: Any) -> list[str]:
            return [next(answers) for _ in prompts]

    options: dict[str, Any] = {
        "known_hosts": str(site.known_hosts), "client_keys": [who.key], "config": None, "agent_path": None,
        "client_factory": Client, "kbdint_auth": True,
    }  # fmt: skip
    user = f"{who.name}@{site.login()}" if entry == DIRECT else who.name
    async with asyncssh.connect(LOOPBACK, site.port, username=user, **options) as connection:
        if entry == DIRECT:
            yield connection
            return
        async with asyncssh.connect("web1", username=site.target.account, tunnel=connection, **options) as inner:
            yield inner


async def tried(
    site: Site, entry: str, who: Somebody, name: str, folder: Path, wrong: int = 0
) -> tuple[str, list[str]]:
    contacts: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        contacts.append("a connection")
        writer.write(await reader.read(64))
        writer.close()

    async with asyncio.timeout(60):
        service = await asyncio.start_server(serve, LOOPBACK, 0)
        async with service, logged_in(site, entry, who, wrong) as connection:
            at = Try(site, connection, folder, contacts, service.sockets[0].getsockname()[1], "")
            return await ATTEMPTS[name][1](at), list(at.contacts)


@pytest.mark.parametrize("case", matrix(), ids="-".join)
def test_factor_leave_channel_and_way(site: Site, case: tuple[str, str, str, str], tmp_path: Path) -> None:
    """The whole product, each case a login and a first channel of its own, by a person of its own.

    Orders of methods that let in are two here: the code at once, and after a wrong one. All others, which do not, are
    `test_orders_by_hand` (a sample) and tests/policy/login/test_login_matrix.py (every one, at policyd). Kinds that
    come beside others (subsystem, socket, agent, x11) are in test_gate.py, with every entry path.
    """
    factor, leave, name, entry = case
    who = somebody(site, "coder" if leave == "not needed" else "dba", enrolled=factor != "none")
    if leave in ("given", "revoked", "used up"):
        done = site.ask(
            m.GrantAdd(person=who.name, account=site.target.account, target="web1", reason="x",
                       uses=1 if leave == "used up" else 0)
        )  # fmt: skip
        assert isinstance(done, m.Done)
        if leave == "revoked":
            site.ask(m.GrantRevoke(grant=done.data["grant"], reason="x"))
    if factor == "shown lately" or (leave == "used up" and factor != "none"):
        # The command that uses the leave up, or one that shows the code and is allowed nothing.
        asyncio.run(tried(site, DIRECT, who, _of("exec"), tmp_path))
        if factor == "shown lately" and leave == "given":
            who.totp = None  # whoever asks for a code now fails the test
    wrong = int(factor == "shown at the second try")
    answer, contacts = asyncio.run(tried(site, entry, who, name, tmp_path, wrong))
    if factor != "none" and leave in ("not needed", "given"):
        assert answer == DONE
    else:
        assert answer != DONE
        assert contacts == []


def _of(kind: str) -> str:
    return next(name for name, (one, _, _) in ATTEMPTS.items() if one.value == kind)


# --- real clients -------------------------------------------------------------------------------------


def ssh(site: Site, who: Somebody, *options: str, user: str = "") -> list[str]:
    config = site.home / f"ssh_config-{who.name}"
    config.write_text(site.ssh_config.read_text().replace(str(site.key("alice")), str(who.path)))
    user = user or f"{who.name}@{site.login()}"
    return ["ssh", "-F", str(config), "-o", "BatchMode=no", *options, "-o", f"User={user}", "bastion"]


def test_openssh_is_asked_once(site: Site) -> None:
    """And not again from the same address, which is what ansible and VS Code need."""
    who = somebody(site, "coder", enrolled=True)
    with Person(*ssh(site, who, "-o", "NumberOfPasswordPrompts=3"), "echo did it") as person:
        person.until("one-time code: ")
        person.type("000000\r")
        person.until("one-time code: ")
        person.type(f"{who.code()}\r")
        person.until("did it")
        assert person.wait() == 0
    done = subprocess.run(
        [*ssh(site, who, "-o", "BatchMode=yes"), "echo did it"], capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"did it\n"), done.stderr


def test_a_recovery_code_with_openssh(site: Site) -> None:
    who = somebody(site, "coder")
    code = site.ask(m.MfaIssue(person=who.name))
    assert isinstance(code, m.Done)
    with Person(*ssh(site, who), "echo did it") as person:
        person.until("one-time code: ")
        person.type(f"{code.data['code']}\r")
        person.until("did it")
        assert person.wait() == 0


@pytest.mark.skipif(not shutil.which("plink"), reason="needs plink")
def test_plink(site: Site, tmp_path: Path) -> None:
    who = somebody(site, "coder", enrolled=True)
    subprocess.run(["puttygen", str(who.path), "-o", str(tmp_path / "key.ppk")], check=True, timeout=30)
    place = site.endpoint(DIRECT)
    words = ["plink", "-i", str(tmp_path / "key.ppk"), "-hostkey", place.fingerprint, "-P", str(site.port),
             "-l", f"{who.name}@{site.login()}", LOOPBACK, "echo did it"]  # fmt: skip
    with Person(*words, env={"HOME": str(tmp_path)}) as person:
        person.until("one-time code: ")
        person.type(f"{who.code()}\r")
        person.until("Press Return to begin session")  # PuTTY's own, so that no server can fake its prompts
        person.type("\r")
        person.until("did it")
        assert person.wait() == 0


def test_paramiko(site: Site) -> None:
    who = somebody(site, "coder", enrolled=True)
    with paramiko.Transport((LOOPBACK, site.port)) as transport:
        transport.start_client(timeout=20)
        user = f"{who.name}@{site.login()}"
        left = transport.auth_publickey(user, paramiko.Ed25519Key.from_private_key_file(str(who.path)))
        assert left == ["keyboard-interactive"]
        asked: list[Any] = []

        def answer(_title: str, _text: str, prompts: Any) -> list[str]:
            asked.extend(prompts)
            return [who.code()]

        assert transport.auth_interactive(user, answer) == []
        assert asked == [("one-time code: ", False)]
        channel = transport.open_session()
        channel.exec_command("echo did it")
        assert channel.makefile("rb").read() == b"did it\n"


def test_an_invitation_with_openssh(site: Site) -> None:
    """One command brings somebody in, with the key they have."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = site.home / "keys" / "newcomer"
    key.write_private_key(str(path))
    path.chmod(0o600)
    done = site.ask(m.Invite(name="newcomer", roles=["engineer"]))
    assert isinstance(done, m.Done)
    who = Somebody("newcomer", key, path)
    batch = ("-o", "BatchMode=yes")
    for user in (done.data["token"], ""):
        ran = subprocess.run(
            [*ssh(site, who, *batch, user=user or "newcomer"), "whoami"], capture_output=True, timeout=30, check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert b"newcomer" in ran.stdout
    again = subprocess.run(
        [*ssh(site, somebody(site), *batch, "-o", "LogLevel=INFO", user=done.data["token"]), "whoami"],
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert again.returncode == 255, "nobody else is in by it, under whatever name"
    assert b"this invitation is void" in again.stderr
    assert again.stdout == b""
    logs = b"".join(files_below(site.folder, site.log).values())
    assert done.data["token"][5:].encode() not in logs
