"""Certificate authorities with a real sshd as target and real ssh as client: overlap, ends, and what is demanded."""

import base64
import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from policy import messages as m
from policy.keys import sshkeys
from policy.keys.certificates import mint_user_certificate
from policy.keys.krl import Krl, write_krl
from policy.keys.sshkeys import PrivateKey
from policy.model import ChannelKind
from tests.policy.policyd import Peer, hello, proof
from tests.support.net import LOOPBACK, wait_until
from tests.support.site import DIRECT, EVERYTHING, Site
from tests.support.sshd import SSHD, Sshd

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not Path(SSHD).exists(), reason="needs OpenSSH's sshd")]

GATEWAY = sshkeys.generate_private_key()
FREE = f"""
[[rule]]
name  = "engineers"
who   = {{ roles = ["engineer"] }}
where = {{ labels = {{ env = "test" }} }}
as    = ["*"]
allow = {json.dumps(EVERYTHING)}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Its own: what is retired here is not trusted any more."""
    made = Site(tmp_path_factory.mktemp("site"), rules=FREE)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def target(site: Site) -> Iterator[Sshd]:
    """`ca1`: no authorized keys, but the user CA, and a list of what is revoked."""
    home = site.home / "ca1"
    home.mkdir()
    krl(site)
    trust(site)
    options = (f"TrustedUserCAKeys {home}/user_ca", f"RevokedKeys {home}/krl", "AuthorizedKeysFile none")
    sshd = Sshd(home / "sshd", options=options).start()
    pins = [sshd.host_key.read_text().strip()]
    site.ask(m.TargetAdd(name="ca1", address=sshd.address, labels={"env": "test"}, host_keys=pins))
    site.ask(m.AccountAdd(account=sshd.account, target="ca1", user_ca=True))
    yield sshd
    sshd.stop()


def trust(site: Site, keep: tuple[str, ...] = ()) -> list[str]:
    """Give the target the lines that `bastion ca lines user` says, or `keep`."""
    rows = json.loads(site.bastion("ca", "lines", "user", "--json").stdout)
    lines = list(keep) or [row["line"] for row in rows if "TrustedUserCAKeys" in row["where"]]
    (site.home / "ca1/user_ca").write_text("".join(f"{line}\n" for line in lines))
    return lines


def krl(site: Site) -> None:
    """Give the target the list of now."""
    site.bastion("ca", "krl", "--to", str(site.home / "ca1/krl"))


def run(site: Site, *words: str) -> "subprocess.CompletedProcess[bytes]":
    """Alice, on `ca1`, by way of the bastion."""
    return site.ssh(DIRECT, *words, options=("-l", site.login(target="ca1")))


def in_hand(site: Site, target: Sshd) -> tuple[str, Path]:
    """What a broken gateway has: a session, and a key of its own with the session's certificate."""
    key = sshkeys.parse_private_key(site.key("alice").read_bytes())
    with Peer(site.run / "policyd.sock", hello(LOOPBACK)) as gateway:
        gateway.ask(proof(key))
        grant = gateway.ask(m.Authorize(account=target.account, target="ca1"))
        assert isinstance(grant, m.Grant), grant
        answer = gateway.ask(m.Credential(session=grant.session, session_key=GATEWAY.public.blob))
    return grant.session, written(site.home / f"stolen-{grant.session}", answer.certificate)


def written(path: Path, certificate: bytes) -> Path:
    path.write_bytes(sshkeys.write_private_key(GATEWAY))
    path.chmod(0o600)
    text = base64.b64encode(certificate).decode()
    path.with_name(f"{path.name}-cert.pub").write_text(f"ssh-ed25519-cert-v01@openssh.com {text}\n")
    return path


def opens(key: Path, target: Sshd, *words: str) -> bool:
    """Whether the target takes this certificate, without the bastion."""
    options = ("-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
               "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes", "-i", str(key),
               )  # fmt: skip
    line = ["ssh", *options, "-p", str(target.port), f"{target.account}@{LOOPBACK}", *(words or ("true",))]
    return subprocess.run(line, capture_output=True, timeout=30, check=False).returncode == 0


def signed_by(target: Sshd) -> list[str]:
    """Fingerprints of the CAs of all logins, by the target's own log."""
    lines = [line for line in target.log().splitlines() if "Accepted publickey" in line]
    return [line.rpartition(" CA ED25519 ")[2].split()[0] for line in lines]


def shown(site: Site) -> dict[str, dict[str, str]]:
    return {row["ca"]: row for row in json.loads(site.bastion("ca", "show", "--json").stdout)}


def current(site: Site, use: str) -> str:
    return next(name for name, row in shown(site).items() if row["stage"] == "current" and name.startswith(use))


# --- rotation -----------------------------------------------------------------------------------------


def test_the_user_ca_is_exchanged_while_people_work(site: Site, target: Sshd) -> None:
    old = current(site, "user")
    only_old = trust(site)
    working = subprocess.Popen(
        [*site.command("ssh", "-l", site.login(target="ca1")), DIRECT, "cat"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert working.stdin
    assert working.stdout
    working.stdin.write(b"before\n")
    working.stdin.flush()
    assert working.stdout.readline() == b"before\n"
    _, stolen = in_hand(site, target)
    assert opens(stolen, target)

    site.bastion("ca", "rotate", "user", "--reason", "yearly")
    assert len(trust(site)) == 2, "targets know the next one before it signs"
    assert run(site, "echo", "x").stdout == b"x\n"
    site.bastion("ca", "rotate", "user", "--promote")
    assert run(site, "echo", "x").stdout == b"x\n"
    cas = shown(site)
    new = current(site, "user")
    assert signed_by(target)[-2:] == [cas[old]["key"], cas[new]["key"]]
    assert opens(stolen, target), "the overlap: what the old one signed still counts"
    trust(site, tuple(only_old))
    assert run(site, "true").returncode == 69, "a target that was told nothing knows nobody"
    trust(site)
    working.stdin.write(b"after\n")
    working.stdin.flush()
    assert working.stdout.readline() == b"after\n", "who works is not disturbed"

    site.bastion("ca", "retire", old, "--reason", "all have the new one")
    krl(site)
    assert not opens(stolen, target), "a target that still has the line has the list"
    assert run(site, "echo", "x").stdout == b"x\n"
    trust(site)
    (site.home / "ca1/krl").write_bytes(write_krl(Krl(version=1, generated=0)))
    assert not opens(stolen, target), "and without the list, the line is gone"
    krl(site)
    working.stdin.write(b"last\n")
    working.stdin.close()
    assert working.stdout.readline() == b"last\n"
    assert working.wait(20) == 0


def test_clients_survive_an_exchange_of_the_host_ca(site: Site) -> None:
    old = current(site, "host")
    known = site.known_hosts.read_text()
    plain = "".join(line for line in known.splitlines(keepends=True) if not line.startswith("@"))

    def lines() -> str:
        rows = json.loads(site.bastion("ca", "lines", "host", "--json").stdout)
        return "".join(f"{row['line']}\n" for row in rows)

    try:
        site.bastion("ca", "rotate", "host")
        site.known_hosts.write_text(plain + lines())
        assert site.ssh("jump", "echo", "x").stdout == b"x\n"
        site.bastion("ca", "rotate", "host", "--promote")
        assert site.ssh("jump", "echo", "x").stdout == b"x\n", "clients had the new line before"
        site.known_hosts.write_text(known)
        assert site.ssh("jump", "true").returncode == 255, "who was told nothing is warned"
        site.bastion("ca", "retire", old, "--reason", "over")
        site.known_hosts.write_text(plain + lines())
        assert site.ssh("jump", "echo", "x").stdout == b"x\n"
    finally:
        site.known_hosts.write_text(plain + lines())


# --- revocation ---------------------------------------------------------------------------------------


def test_a_target_fetches_the_list_as_somebody_who_may_do_nothing_else(site: Site, target: Sshd) -> None:
    """The way of policy/VAULT.md: a login of the bastion's machine that can read this file, and nothing else."""
    session, stolen = in_hand(site, target)
    assert opens(stolen, target)
    published = site.run / "public" / "revoked.krl"
    login = Sshd(site.home / "machine").start()
    public = login.client_key.with_suffix(".pub").read_text()
    (login.home / "authorized_keys").write_text(f'restrict,command="cat {published}" {public}')
    try:
        krl_file = site.home / "ca1/krl"
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentityAgent=none")
        fetch = ["ssh", "-F", "none", *(word for option in options for word in ("-o", option)), "-i",
                 str(login.client_key), "-p", str(login.port), f"{login.account}@{LOOPBACK}"]  # fmt: skip
        line = f"{shlex.join(fetch)} > {krl_file}.new && ssh-keygen -Qlf {krl_file}.new && mv {krl_file}.new {krl_file}"

        def fetched() -> bytes:
            subprocess.run(["sh", "-ec", line], check=True, capture_output=True, timeout=30)
            return krl_file.read_bytes()

        fetched()
        assert opens(stolen, target), "nothing of it was revoked yet"
        site.bastion("ca", "revoke", "--session", session, "--reason", "lost")
        assert fetched() == published.read_bytes()
        assert not opens(stolen, target)
        assert run(site, "echo", "x").stdout == b"x\n", "everybody else gets in"
    finally:
        login.stop()


def test_a_revoked_session_opens_nothing_any_more(site: Site, target: Sshd) -> None:
    session, stolen = in_hand(site, target)
    _, other = in_hand(site, target)
    assert opens(stolen, target)
    before = (site.home / "ca1/krl").read_bytes()
    site.bastion("ca", "revoke", "--session", session, "--reason", "the gateway was broken into")
    assert opens(stolen, target), "no target knows yet"
    krl(site)
    assert (site.home / "ca1/krl").read_bytes() != before
    assert not opens(stolen, target)
    assert opens(other, target)
    assert "revoked" in target.log()
    assert run(site, "echo", "x").stdout == b"x\n"


def test_a_revoked_key_opens_nothing_with_any_certificate(site: Site, target: Sshd) -> None:
    _, stolen = in_hand(site, target)
    assert opens(stolen, target)
    site.bastion("ca", "revoke", "--reason", "stolen", "--key", GATEWAY.public.fingerprint)
    krl(site)
    assert not opens(stolen, target)
    assert run(site, "echo", "x").stdout == b"x\n"


def test_the_list_is_written_whole_or_not_at_all(site: Site, target: Sshd, tmp_path: Path) -> None:
    refused = site.bastion("ca", "krl", "--to", str(tmp_path / "nowhere/krl"), check=False)
    assert refused.returncode == 64
    assert "cannot write" in refused.stderr
    assert site.bastion("ca", "krl", "--to", str(tmp_path / "krl"), "--json").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["krl"]
    said = subprocess.run(["ssh-keygen", "-Q", "-l", "-f", str(tmp_path / "krl")], capture_output=True, check=True)
    assert b"bastion" in said.stdout


# --- what rules demand --------------------------------------------------------------------------------


def test_a_forced_command_is_what_runs(site: Site, target: Sshd) -> None:
    site.set_rules(FREE + 'certificate = { force-command = "echo forced; echo $SSH_ORIGINAL_COMMAND" }\n')
    try:
        assert run(site, "rm", "-rf", "x").stdout == b"forced\nrm -rf x\n"
        refused = site.ssh(DIRECT, "true")  # web1 opens by a key, which enforces nothing
        assert refused.returncode == 78
        assert b"cannot be held to what a rule demands" in refused.stderr
        event = next(one for one in reversed(site.audit()) if one["event"] == "credential")
        assert "forced" in json.dumps(event)
    finally:
        site.set_rules(FREE)


def test_a_certificate_counts_from_where_the_rule_says(site: Site, target: Sshd) -> None:
    try:
        site.set_rules(FREE + 'certificate = { source-address = ["127.0.0.0/8"] }\n')
        assert run(site, "echo", "x").stdout == b"x\n"
        site.set_rules(FREE + 'certificate = { source-address = ["192.0.2.0/24"] }\n')
        assert run(site, "echo", "x").returncode == 69
        wait_until(
            "the target's word", lambda: "not from a permitted source" in target.log() or "refused" in target.log()
        )
    finally:
        site.set_rules(FREE)


def test_a_target_judges_what_is_minted(tmp_path: Path) -> None:
    """Without a bastion: expired, for another, forced, from elsewhere, each against an sshd that trusts the CA."""
    ca = sshkeys.generate_private_key()
    (tmp_path / "ca").write_text(ca.public.line() + "\n")
    sshd = Sshd(tmp_path / "sshd", options=(f"TrustedUserCAKeys {tmp_path}/ca", "AuthorizedKeysFile none")).start()

    def minted(name: str, *, age: float = 0, principal: str = "", signed_by: PrivateKey = ca, **more: str) -> bool:
        blob = mint_user_certificate(
            signed_by, GATEWAY.public, principals=[principal or sshd.account], key_id=f"bastion:alice:{name}", serial=1,
            now=time.time() - age, minutes=5, kinds={ChannelKind.EXEC}, **more,
        )  # fmt: skip
        return opens(written(tmp_path / name, blob), sshd)

    try:
        assert minted("good", source="127.0.0.1,192.0.2.0/24")
        assert minted("just-expired", age=301) is False
        assert minted("still-good", age=250)
        assert minted("elsewhere", source="192.0.2.0/24") is False
        assert minted("another", principal="somebody-else") is False
        assert minted("forced", force_command="false") is False
        assert minted("another-ca", signed_by=sshkeys.generate_private_key()) is False
    finally:
        sshd.stop()
