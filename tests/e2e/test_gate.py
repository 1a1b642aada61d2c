"""Invariant 2: every channel kind on every way in passes the same gate, and what it refuses never reaches the target.

The matrix is generated from the channel kinds of policy themselves: a kind without an attempt fails a test.
"""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from policy.model import CHANNELS, ChannelKind
from tests.support.attempts import ATTEMPTS, CARRIER, DONE, PROHIBITED, TOLD, Try, connected, trying
from tests.support.evidence import Evidence
from tests.support.net import wait_until
from tests.support.site import JUMP, RULES, THROUGH, Site
from tests.support.sshd import SSHD

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not Path(SSHD).exists(), reason="needs OpenSSH's sshd")]


def rule(*kinds: str) -> str:
    return f"""
[[rule]]
name  = "what this test allows"
who   = {{ roles = ["engineer"] }}
where = {{ labels = {{ env = "test" }} }}
as    = ["*"]
allow = {json.dumps(sorted(kinds))}
"""


@pytest.fixture(autouse=True)
def own_rules(site: Site) -> Iterator[None]:
    yield
    site.set_rules(RULES)


@pytest.fixture(params=THROUGH)
def entry(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def agent_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An agent with a key in it, for those who try to have it forwarded."""
    folder = tmp_path_factory.mktemp("agent")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(folder / "sock")], stdout=subprocess.DEVNULL)
    wait_until("the agent", (folder / "sock").exists)
    subprocess.run(["ssh-add", "-q", str(folder / "key")], env={"SSH_AUTH_SOCK": str(folder / "sock")}, check=True)
    yield str(folder / "sock")
    process.terminate()
    process.wait(10)


def test_there_is_an_attempt_at_every_kind() -> None:
    assert {kind for kind, _, _ in ATTEMPTS.values()} == set(CHANNELS)


def attempt(site: Site, entry: str, folder: Path, agent_path: str, *names: str) -> tuple[list[str], list[str]]:
    """Try these, one after another on one connection; the answers, and what reached the target by the last one."""

    async def go() -> tuple[list[str], list[str]]:
        answers = []
        async with asyncio.timeout(60), trying(site, entry, folder, agent_path) as at:
            for name in names:
                at.contacts.clear()
                answers.append(await ATTEMPTS[name][1](at))
            return answers, list(at.contacts)

    return asyncio.run(go())


@pytest.mark.parametrize("name", ATTEMPTS)
def test_allowed_alone_is_enough(site: Site, entry: str, name: str, tmp_path: Path, agent_path: str) -> None:
    kind = ATTEMPTS[name][0]
    site.set_rules(rule(kind, CARRIER.get(kind, kind)))
    answers, contacts = attempt(site, entry, tmp_path, agent_path, name)
    assert answers == [DONE]
    assert contacts or name == "forward to ssh"


@pytest.mark.parametrize("name", ATTEMPTS)
def test_denied_never_reaches_the_target(
    site: Site, entry: str, name: str, tmp_path: Path, agent_path: str, evidence: Evidence
) -> None:
    """Everything else is allowed, and used first on the same connection: an open door is no way around a closed one."""
    kind, _, refusal = ATTEMPTS[name]
    site.set_rules(rule(*CHANNELS - {kind}))
    before = int(site.audit()[-1]["seq"])
    first = "command" if kind is not ChannelKind.EXEC else "shell"
    answers, contacts = attempt(site, entry, tmp_path, agent_path, first, name)
    assert answers == [DONE, refusal]
    assert contacts == []
    audited = refusals(site, before)
    assert audited
    assert all((row["who"], row["what"]) == ("alice", f"{kind.value} on {site.login()}") for row in audited)
    tape = evidence.tape()
    assert tape
    assert (kind.value, "denied") in {(note.kind, note.what) for note in tape.accesses}


def refusals(site: Site, since: int) -> list[dict[str, Any]]:
    return [row for row in site.audit() if row["event"] == "channel-refused" and int(row["seq"]) > since]


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_forbidding_rule_wins(site: Site, entry: str, name: str, tmp_path: Path, agent_path: str) -> None:
    kind, _, refusal = ATTEMPTS[name]
    forbids = f'[[rule]]\nname = "no"\neffect = "forbid"\nwhere = {{ targets = ["web1"] }}\nallow = ["{kind}"]\n'
    site.set_rules(rule(*CHANNELS) + forbids)
    answers, contacts = attempt(site, entry, tmp_path, agent_path, name)
    assert (answers, contacts) == ([refusal], [])


def test_without_any_right_nothing_is_dialled(site: Site, entry: str) -> None:
    """And a target that is there looks like one that is not."""
    site.set_rules(rule("shell").replace("engineer", "nobody"))
    before = site.target.log().count("Connection from")
    said = []
    for target in ("web1", "not-there"):
        option = f"HostName={target}" if entry == JUMP else f"User={site.login(target=target)}"
        done = site.ssh(entry, "id", options=("-o", option), text=True)
        assert done.returncode == (255 if entry == JUMP else 77)
        said.append("\n".join(line.partition("  [")[0] for line in done.stderr.splitlines()).replace(target, "TARGET"))
    assert said[0] == said[1]
    assert site.target.log().count("Connection from") == before


def test_a_right_that_is_taken_away_ends_the_session(site: Site, entry: str, tmp_path: Path) -> None:
    """A multiplexed connection must not outlive the rule that let it in (Warpgate #1053)."""

    async def go() -> tuple[list[str], list[str]]:
        async with asyncio.timeout(60), trying(site, entry, tmp_path) as at:
            first = await ATTEMPTS["command"][1](at)
            at.contacts.clear()
            site.set_rules(rule("shell"))
            try:
                return [first, await ATTEMPTS["command"][1](at)], at.contacts
            except (asyncssh.Error, OSError) as error:
                return [first, str(error)], at.contacts

    answers, contacts = asyncio.run(go())
    assert answers[0] == DONE
    assert answers[1] != DONE
    assert contacts == []


@pytest.mark.parametrize(
    "kind", [b"tun@openssh.com", b"auth-agent@openssh.com", b"x11", b"forwarded-tcpip", b"", b"x" * 3000]
)
def test_channels_of_no_kind_of_ours_are_refused(site: Site, entry: str, kind: bytes) -> None:
    """Kinds that only a server opens, kinds that policy has no word for."""

    async def go() -> int:
        async with asyncio.timeout(60), connected(site, entry) as connection:
            channel: Any = asyncssh.channel.SSHTCPChannel(
                connection, asyncio.get_running_loop(), None, "strict", 1 << 20, 32768
            )  # type: ignore[attr-defined]
            with pytest.raises(asyncssh.ChannelOpenError) as refused:
                await channel._open(kind, b"\0" * 64)
            done = await connection.run("echo still there")
            assert done.stdout == "still there\n"
            return refused.value.code

    code = asyncio.run(go())
    assert code in (asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE, asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED)


@pytest.mark.parametrize("name", ["../../bin/sh", "sftp;id", "", "SFTP"])
def test_subsystems_pass_by_their_exact_name(site: Site, entry: str, name: str, tmp_path: Path) -> None:
    site.set_rules(rule("sftp", "exec"))

    async def go() -> tuple[str, list[str]]:
        async with asyncio.timeout(60), trying(site, entry, tmp_path) as at:
            return await at.run(subsystem=name, data=b"did it"), at.contacts

    assert asyncio.run(go()) == (TOLD, [])


def test_a_tunnel_in_words_of_another_spelling_is_still_a_tunnel(site: Site, entry: str, tmp_path: Path) -> None:
    """S1: spellings of loopback and of the metadata service, where forwards are denied."""
    site.set_rules(rule("exec"))
    hosts = ["127.0.0.1", "127.1", "0", "localhost", "::1", "::ffff:127.0.0.1", "0x7f000001", "169.254.169.254"]

    async def go() -> set[str]:
        async with asyncio.timeout(60), trying(site, entry, tmp_path) as at:
            nowhere = {await one(at, host, 0) for host in hosts}
            assert all(said.endswith("there is no such place") for said in nowhere), "port 0 is none"
            return {await one(at, host, at.port) for host in hosts}

    async def one(at: Try, host: str, port: int) -> str:
        try:
            await at.connection.open_connection(host, port)
        except asyncssh.ChannelOpenError as error:
            return PROHIBITED if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED else f"{host}:{port}: {error}"
        return f"{host}:{port}: open"

    assert asyncio.run(go()) == {PROHIBITED}
