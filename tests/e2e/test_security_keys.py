"""Security keys (`ssh-keygen -t ed25519-sk`) with OpenSSH's own client and agent, through a whole bastion.

Only the key itself is ours: software that OpenSSH loads in place of its FIDO library, and that can be told to lie.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from policy import messages as m
from tests.e2e.test_factors import rule
from tests.support.authenticator import ECDSA, ED25519, KINDS, NOTHING, PIN, TOUCHED, VERIFIED, built, enrol
from tests.support.net import wait_until
from tests.support.person import Person
from tests.support.site import DIRECT, JUMP, THROUGH, Site
from tests.support.sshd import SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

RULES = rule("nothing asked", "engineer", "{}") + rule("a second factor", "coder", '{ mfa = "15m" }')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = {"ssh": ["startups_per_source = 100", "penalties = false"], "policy": ["source_failures = 100000"]}
    made = Site(tmp_path_factory.mktemp("keys"), settings)
    try:
        made.start()
        made.set_rules(RULES)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = built(tmp_path_factory.mktemp("authenticator"))
    if made is None:
        pytest.skip("needs gcc and libssl-dev")
    return made


_names = itertools.count(1)


@dataclass
class Owner:
    """Somebody with a security key."""

    site: Site
    library: Path
    name: str
    path: Path

    def words(self, entry: str, *options: str) -> list[str]:
        config = self.site.home / f"ssh_config-{self.name}"
        text = self.site.ssh_config.read_text().replace(str(self.site.key("alice")), str(self.path))
        text = text.replace("User alice", f"User {self.name}")
        config.write_text(f"SecurityKeyProvider {self.library}\n{text}")
        return ["ssh", "-F", str(config), *options, entry]

    def ssh(self, entry: str = DIRECT, *options: str, **claims: str) -> subprocess.CompletedProcess[bytes]:
        """`echo hello` on the target; `claims` are what the key says of itself, see authenticator.c."""
        env = {**os.environ, **claims}
        return subprocess.run([*self.words(entry, *options), "echo hello"], stdin=subprocess.DEVNULL, env=env,
                              capture_output=True, timeout=30, check=False)  # fmt: skip

    def gets_in(self, *words: str, **claims: str) -> bool:
        done = self.ssh(*words, **claims)
        assert done.stdout in (b"hello\n", b"")
        assert (done.returncode == 0) == (done.stdout == b"hello\n"), done.stderr
        return done.returncode == 0


def owner(site: Site, library: Path, kind: str, *options: str, role: str = "engineer", before: str = "") -> Owner:
    """A person whose only key that is; `before` stands in front of it, as in authorized_keys."""
    path = enrol(library, site.key(f"owner{next(_names)}"), kind, *options)
    return known(site, library, path, role=role, before=before)


def known(site: Site, library: Path, path: Path, *, role: str, before: str) -> Owner:
    line = before + path.with_suffix(".pub").read_text().strip()
    site.ask(m.PersonAdd(name=path.name, roles=[role], keys=[line]))
    return Owner(site, library, path.name, path)


def why(site: Site) -> str:
    """What the trail says of the newest refusal."""
    return str([row["why"] for row in site.audit() if row["event"] == "login-failed"][-1])


# --- a key, touched -------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", THROUGH)
@pytest.mark.parametrize("kind", KINDS)
def test_a_login(site: Site, library: Path, kind: str, entry: str) -> None:
    assert owner(site, library, kind).gets_in(entry)


@pytest.mark.parametrize("entry", THROUGH)
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_touch_nobody_gets_in(site: Site, library: Path, kind: str, entry: str) -> None:
    """Attack: malware on the desk has the key sign while its owner is away. Its flags are signed, and tell."""
    who = owner(site, library, kind)
    assert not who.gets_in(entry, SK_FLAGS=NOTHING)
    assert "security key was not touched" in why(site)
    assert who.gets_in(entry)


def test_a_key_made_without_touch_is_of_no_use(site: Site, library: Path) -> None:
    """`no-touch-required` is the client's wish, in the key and before its line; here nobody grants it."""
    who = owner(site, library, ED25519, "-O", "no-touch-required")
    assert not who.gets_in()
    assert "security key was not touched" in why(site)
    line = who.path.with_suffix(".pub").read_text().strip()
    with pytest.raises(Exception, match="no-touch-required"):
        site.ask(m.PersonAdd(name="untouched", roles=["engineer"], keys=[f"no-touch-required {line}"]))


@pytest.mark.parametrize("later", ["6", "7", "0"])
def test_the_counter_is_not_compared(site: Site, library: Path, later: str) -> None:
    """As in OpenSSH: keys that live in several devices have no common counter, and many state 0 for ever."""
    who = owner(site, library, ED25519)
    assert who.gets_in(DIRECT, SK_COUNTER="7")
    assert who.gets_in(DIRECT, SK_COUNTER=later)


# --- its owner verified ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_verification_demanded_and_shown(site: Site, library: Path, kind: str) -> None:
    """The client asks for the PIN. That is a second factor: nothing more is asked for, where a rule wants one."""
    path = site.key(f"owner{next(_names)}")
    words = ["ssh-keygen", "-w", str(library), "-t", kind, "-O", "verify-required", "-N", "", "-f", str(path)]
    with Person(*words) as person:
        person.until("PIN")
        person.type(f"{PIN}\r")
        assert person.wait() == 0
    who = known(site, library, path, role="coder", before="verify-required ")
    with Person(*who.words(DIRECT, "-o", "BatchMode=no"), "echo hello") as person:
        person.until("PIN")
        person.type(f"{PIN}\r")
        person.until("hello")
        assert person.wait() == 0
    assert "one-time" not in person.screen.decode(errors="replace")


@pytest.mark.parametrize("entry", THROUGH)
@pytest.mark.parametrize("kind", KINDS)
def test_verification_demanded_and_missing(site: Site, library: Path, kind: str, entry: str) -> None:
    """Attack: a stolen key, touched by the thief."""
    who = owner(site, library, kind, before="verify-required ")
    assert not who.gets_in(entry, SK_FLAGS=TOUCHED)
    assert "security key did not verify its owner" in why(site)
    assert not who.gets_in(entry, SK_FLAGS="4"), "verified, but not touched"
    assert who.gets_in(entry, SK_FLAGS=VERIFIED)


@pytest.mark.parametrize("entry", THROUGH)
def test_a_second_factor_of_its_own(site: Site, library: Path, entry: str) -> None:
    """With a touch alone a rule that wants a second factor denies; verified, the key is both."""
    who = owner(site, library, ECDSA, role="coder")
    touched = who.ssh(entry, SK_FLAGS=TOUCHED)
    assert touched.returncode != 0
    assert touched.stdout == b""
    assert who.gets_in(entry, SK_FLAGS=VERIFIED)


# --- certificates and agents ----------------------------------------------------------------------------


def certified(site: Site, library: Path, kind: str, *options: str) -> Owner:
    """A person without keys, whose security key the trusted CA has certified."""
    name = f"owner{next(_names)}"
    path = enrol(library, site.key(name), kind)
    site.certificate(name, *options)
    site.ask(m.PersonAdd(name=name, roles=["coder"]))
    return Owner(site, library, name, path)


@pytest.mark.parametrize("entry", THROUGH)
@pytest.mark.parametrize("kind", KINDS)
def test_in_a_certificate(site: Site, library: Path, kind: str, entry: str) -> None:
    """`verify-required` there is demanded; `no-touch-required`, which a CA may write, is not granted."""
    who = certified(site, library, kind, "-O", "verify-required", "-O", "no-touch-required")
    assert not who.gets_in(entry, SK_FLAGS=TOUCHED)
    assert not who.gets_in(entry, SK_FLAGS=NOTHING)
    assert who.gets_in(entry, SK_FLAGS=VERIFIED)


@contextmanager
def agent(folder: Path, library: Path, **claims: str) -> Iterator[dict[str, str]]:
    """An ssh-agent that may load our middleware; the environment of whoever uses it."""
    address = folder / "agent"
    env = {**os.environ, **claims}
    words = ["ssh-agent", "-D", "-a", str(address), "-P", f"{library.parent.resolve()}/*"]
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("ssh-agent", address.exists)
        yield {**env, "SSH_AUTH_SOCK": str(address)}
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("entry", [DIRECT, JUMP])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("flags", "inside"), [(VERIFIED, True), (TOUCHED, False)])
def test_in_an_agent(
    site: Site, library: Path, kind: str, entry: str, flags: str, inside: bool, tmp_path_factory: Any
) -> None:
    """The key is nowhere but in the agent, which is what a person on another machine forwards."""
    who = owner(site, library, kind, role="coder", before="verify-required ")
    with agent(tmp_path_factory.mktemp("a"), library, SK_FLAGS=flags) as env:
        add = ["ssh-add", "-q", "-S", str(library), str(who.path)]
        subprocess.run(add, env=env, check=True, capture_output=True, timeout=30)
        who.path.unlink()
        words = who.words(entry)
        config = Path(words[2])
        config.write_text(config.read_text().replace("  IdentityAgent none\n", ""))
        done = subprocess.run([*words, "echo hello"], env=env, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=30, check=False)  # fmt: skip
        assert (done.stdout == b"hello\n") == inside, done.stderr
