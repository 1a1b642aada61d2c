"""Dropbear behind the bastion: a second kind of target, and one that takes signals from a root session as well."""

import asyncio
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.support.dropbear import Dropbear, missing
from tests.support.evidence import Evidence
from tests.support.net import LOOPBACK
from tests.support.site import DIRECT, JUMP, THROUGH, Site
from tests.support.tcp import ask, echo, served

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(missing()), reason=missing() or "it can run")]


@pytest.fixture(scope="module")
def dropbear(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dropbear]:
    target = Dropbear(tmp_path_factory.mktemp("dropbear") / "home").start()
    site.add_target("router", target)
    yield target
    target.stop()


@pytest.fixture(params=THROUGH)
def entry(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def words(site: Site, entry: str, *options: str) -> list[str]:
    """ssh to the second target: the same ssh_config, another name."""
    if entry == DIRECT:
        return site.command("ssh", *options, "-o", "User=root@router", DIRECT)
    return site.command("ssh", *options, "-o", "HostName=router", JUMP)


def test_streams_status_and_signal(site: Site, dropbear: Dropbear, entry: str, evidence: Evidence) -> None:
    run = subprocess.run([*words(site, entry), "cat; echo err >&2; exit 7"], input=b"\0\xff", capture_output=True,
                         timeout=30, check=False)  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (7, b"\0\xff", b"err\n")
    run = subprocess.run([*words(site, entry), "kill -TERM $$"], stdin=subprocess.DEVNULL, timeout=30, check=False)
    assert run.returncode == 255
    if tape := evidence.tape():
        assert [(note.status, note.signal) for note in tape.exits] == [(7, ""), (None, "TERM")]


def test_large_streams(site: Site, dropbear: Dropbear, entry: str) -> None:
    data = os.urandom(8 << 20)
    run = subprocess.run([*words(site, entry), "cat"], input=data, capture_output=True, timeout=60, check=False)
    assert hashlib.sha256(run.stdout).digest() == hashlib.sha256(data).digest()


def test_a_terminal(site: Site, dropbear: Dropbear, entry: str) -> None:
    run = subprocess.run([*words(site, entry, "-tt"), "tty"], stdin=subprocess.DEVNULL, capture_output=True,
                         timeout=30, check=False)  # fmt: skip
    assert run.stdout.startswith(b"/dev/pts/")


def test_a_forward(site: Site, dropbear: Dropbear, entry: str, tmp_path: Path) -> None:
    with served(echo) as (host, far):
        run = subprocess.run(words(site, entry, "-W", f"{host}:{far}"), input=b"hello", capture_output=True, timeout=30,
                             check=False)  # fmt: skip
        assert run.stdout == b"hello, bye"
        assert ask((host, far)) == b"hello, bye"


def test_a_signal_reaches_the_command(site: Site, dropbear: Dropbear, entry: str, evidence: Evidence) -> None:
    asyncio.run(signalled(site, entry))
    if tape := evidence.tape():
        assert "USR1" in {note.signal for note in tape.exits}


async def signalled(site: Site, entry: str) -> None:
    options = {"known_hosts": str(site.known_hosts), "client_keys": [str(site.key("alice"))], "config": None,
               "agent_path": None}  # fmt: skip
    user = "root@router" if entry == DIRECT else "alice"
    async with asyncio.timeout(20), asyncssh.connect(LOOPBACK, site.port, username=user, **options) as outer:
        if entry == DIRECT:
            return await signals(outer)
        async with asyncssh.connect("router", username="root", tunnel=outer, **options) as inner:
            await signals(inner)


async def signals(connection: asyncssh.SSHClientConnection) -> None:
    process = await connection.create_process("echo ready; exec sleep 60")
    assert await process.stdout.readline() == "ready\n"
    process.send_signal("USR1")
    await process.wait()
    assert process.exit_signal is not None
    assert process.exit_signal[0] == "USR1"
