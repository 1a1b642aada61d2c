"""Leave, tokens and watchers with the real ssh against a whole bastion: what people see, what their programs get."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from policy import messages as m
from policy.keys.sshkeys import parse_private_key
from tests.policy.policyd import Peer, hello, proof
from tests.support.canary import files_below
from tests.support.net import wait_until
from tests.support.person import Person
from tests.support.site import DIRECT, EVERYTHING, THROUGH, Site

pytestmark = pytest.mark.e2e

RULES = f"""
[[rule]]
name    = "engineers, for a time"
who     = {{ roles = ["engineer"] }}
where   = {{ targets = ["web1"] }}
as      = ["*"]
allow   = {list(EVERYTHING)}
require = {{ approval = {{ by = ["lead"], count = 1 }} }}
"""
WATCHED = f"""
[[rule]]
name    = "engineers, looked at"
who     = {{ roles = ["engineer"] }}
where   = {{ targets = ["web1"] }}
as      = ["*"]
allow   = {list(EVERYTHING)}
require = {{ watcher = true }}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("jit"), {"ssh": ["startups_per_source = 100"]})
    try:
        made.start()
        public = made.key("stranger").with_suffix(".pub").read_text().strip()
        made.ask(m.PersonAdd(name="lena", roles=["lead"], keys=[public]))
        made.set_rules(RULES)
        yield made
    finally:
        made.stop()


@pytest.fixture(params=THROUGH)
def entry(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def talk(site: Site, person: str, key: Path) -> Iterator[Peer]:
    """Another connection of this person, as a gateway makes it."""
    with Peer(site.run / "policyd.sock", hello()) as peer:
        assert peer.ask(proof(parse_private_key(key.read_bytes()))).person == person
        yield peer


def given(site: Site, **more: Any) -> str:
    """Leave for alice, asked for by her and given by lena."""
    word = m.RequestAccess(account=site.target.account, target="web1", reason="upgrade", **more)
    with talk(site, "alice", site.key("alice")) as alice, talk(site, "lena", site.key("stranger")) as lena:
        request = alice.ask(word).data["request"]
        return lena.ask(m.Decide(request=request, approve=True)).data["grant"]


def lines(said: bytes) -> list[str]:
    return [line for line in said.decode().replace("\r", "").splitlines() if line.startswith("bastion: ")]


def test_without_leave_the_command_to_ask_is_said(site: Site, entry: str) -> None:
    done = site.ssh(entry, "id")
    assert done.returncode == 75
    assert done.stdout == b""
    said = lines(done.stderr)
    assert "needs leave" in said[0]
    assert f"ssh bastion request {site.target.account}@web1 --reason why" in said[1]


def test_leave_for_one_session(site: Site, entry: str) -> None:
    given(site, uses=1)
    assert site.ssh(entry, "echo in").stdout == b"in\n"
    assert site.ssh(entry, "echo in").returncode == 75


def test_a_session_ends_with_its_leave(site: Site, entry: str) -> None:
    given(site, seconds=10, uses=1)  # enough to log in with
    began = time.monotonic()
    done = site.ssh(entry, "sleep 100", timeout=90)
    assert done.returncode == 143
    assert "the time granted for this session is over" in lines(done.stderr)[0]
    assert time.monotonic() - began < 60


def test_a_person_is_warned_before_it_ends(site: Site, entry: str) -> None:
    ident = given(site, seconds=70, uses=1)  # to log in with more than the minute left
    with Person(*site.command("ssh", "-tt"), entry) as person:
        person.until("bastion: this session ends in 1 minute: what is granted for it is over then")
        person.type("echo $((6*7))\n")
        person.until("42")
    site.ask(m.GrantRevoke(grant=ident))


def test_taken_back_it_ends_at_once(site: Site, entry: str) -> None:
    ident = given(site, uses=1)
    with Person(*site.command("ssh", "-tt"), entry) as person:
        person.type("echo $((6*7))\n")
        person.until("42")
        site.ask(m.GrantRevoke(grant=ident, reason="wrong machine"))
        person.until("wrong machine")
        assert person.wait() == 143


def test_transfers_rest_on_leave_as_well(site: Site, entry: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    words = [*site.command("scp"), str(tmp_path / "file"), f"{entry}:{tmp_path}/there"]
    assert subprocess.run(words, capture_output=True, timeout=30, check=False).returncode != 0
    assert not (tmp_path / "there").exists()
    given(site, uses=1)
    assert subprocess.run(words, capture_output=True, timeout=30, check=False).returncode == 0
    assert (tmp_path / "there").read_bytes() == b"x" * 1000


def test_a_token_instead_of_a_password(site: Site, tmp_path: Path) -> None:
    given(site, uses=1)
    with talk(site, "alice", site.key("alice")) as alice:
        done = alice.ask(m.TokenAdd(account=site.target.account, target="web1"))
    token = done.data["token"]
    asks = tmp_path / "asks"
    asks.write_text(f"#!/bin/sh\necho {token}\n")
    asks.chmod(0o700)
    words = site.command("ssh", "-o", "PreferredAuthentications=password", "-o", "BatchMode=no")
    environment = {**os.environ, "SSH_ASKPASS": str(asks), "SSH_ASKPASS_REQUIRE": "force"}

    def run() -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run([*words, DIRECT, "echo in"], env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=30, check=False)  # fmt: skip

    assert run().stdout == b"in\n"
    assert run().returncode == 255, "once"
    assert token not in site.log.read_text()
    assert token.encode() not in b"".join(files_below(site.recordings).values())


# --- four eyes --------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(site: Site) -> Iterator[Site]:
    site.alone()
    site.set_rules(WATCHED)
    yield site
    site.set_rules(RULES)


@contextmanager
def watching(site: Site) -> Iterator[None]:
    """Somebody looks at alice's session for as long as the block lasts."""

    def live() -> str:
        found = [row["session"] for row in site.sessions() if row["person"] == "alice" and not row.get("ended")]
        return str(found[0]) if found else ""

    wait_until("a session", live)
    with Peer(site.run / "policyd-admin.sock", m.Admin(command="watch")) as peer:
        done = peer.ask(m.WatchBegin(session=live()))
        assert isinstance(done, m.Done), done
        yield


@pytest.mark.parametrize("kind", ["shell", "exec", "sftp"])
def test_nothing_happens_unseen(watched: Site, entry: str, kind: str, tmp_path: Path) -> None:
    proof_of_life = tmp_path / "touched"
    words = {
        "shell": [*watched.command("ssh", "-tt"), entry],
        "exec": [*watched.command("ssh"), entry, f"touch {proof_of_life}"],
        "sftp": [*watched.command("sftp", "-b", "-"), entry],
    }[kind]
    given = {"shell": f"touch {proof_of_life}; exit\n", "exec": "", "sftp": f"mkdir {proof_of_life}\n"}[kind]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(given.encode())
    process.stdin.flush()
    wait_until("a session", lambda: [row for row in watched.sessions() if row["started"] and not row["ended"]])
    time.sleep(1)  # for what must not happen
    assert process.poll() is None
    assert not proof_of_life.exists()
    with watching(watched):
        process.stdin.close()
        process.stdin = None
        output, error = process.communicate(timeout=30)
    assert proof_of_life.exists()
    assert b"as soon as somebody looks on" in output + error


def test_it_stops_when_the_last_one_looks_away(watched: Site, entry: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Person(*watched.command("ssh", "-tt"), entry) as person:
        with watching(watched):
            person.type("echo $((6*7))\n")
            person.until("42")
        person.until("nobody looks on")
        person.type(f"touch {log}\n")
        time.sleep(1)  # for what must not happen
        assert not log.exists()
        with watching(watched):
            wait_until("what was typed meanwhile", log.exists)
            person.type("exit\n")
            assert person.wait() == 0
