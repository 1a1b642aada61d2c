"""What no honest client says on its channels, after a good login, against a real bastion and a real sshd.

By both ways in: `account@target@bastion`, and the connection within `ssh -J`. Ids in brackets are those of the attack
catalogue. Whatever is sent: it is answered as RFC 4254 says or the connection ends with a reason, the target sees
nothing that is not recorded, every recording verifies, the log has a line and no traceback, and somebody else in the
same worker types on as if nothing were.
"""

import asyncio
import re
import shutil
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String, UInt32

from recorder.model import Kind
from tests.support.evidence import Evidence, watch
from tests.support.net import wait_until
from tests.support.person import Person
from tests.support.rawssh import (
    CHANNEL_FAILURE,
    CHANNEL_REQUEST,
    CHANNEL_SUCCESS,
    CLOSE,
    DATA,
    EOF,
    EXTENDED_DATA,
    OPEN_CONFIRMATION,
    OPEN_FAILURE,
    WINDOW_ADJUST,
    Raw,
)
from tests.support.site import DIRECT, JUMP, THROUGH, Site
from tests.support.sshd import SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

STARTING = "Starting session: "
"""How sshd's log begins each shell, command and subsystem."""
MANY = 3000


@pytest.fixture(params=THROUGH)
def entry(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bystander(site: Site) -> Iterator[Person]:
    """Somebody in the same worker who only wants to work."""
    with Person(*site.command("ssh", "-tt"), DIRECT, "PS1='$ ' exec sh") as person:
        person.type("stty -echo; echo re''ady\n")
        person.until("ready\r\n")
        yield person
        person.type("exit 7\n")
        assert person.wait() == 7, "the session that had nothing to do with it did not end by itself"


@pytest.fixture(autouse=True)
def others_go_on(site: Site, bystander: Person) -> Iterator[None]:
    """Behind each test: the same worker, its log without a traceback, and the bystander's session answers."""
    worker, said = site.pid("bastion.ssh"), site.log.stat().st_size
    yield
    bystander.type("echo still $((6*7))\n")
    bystander.until("still 42\r\n")
    assert site.pid("bastion.ssh") == worker
    with site.log.open("rb") as log:
        log.seek(said)
        lines = log.read()
    for fault in (b"Traceback", b"internal error", b"task-failed", b"relay-failed", b"dial-failed", b"tick-failed"):
        assert fault not in lines, lines.decode(errors="replace")[-3000:]


@pytest.fixture
def evidence(site: Site, entry: str) -> Iterator[Evidence]:
    """Behind each test: everything that sshd started is in a recording, and each of them verifies."""
    before = site.target.log().count(STARTING)
    watched = watch(site, entry)
    evidence = next(watched)
    yield evidence
    if evidence.new():
        tape = evidence.tape()
        assert tape is not None
        begun = site.target.log().count(STARTING) - before
        assert begun <= len(tape.starts), f"sshd began {begun} sessions, recorded are {len(tape.starts)}"
    else:
        assert site.target.log().count(STARTING) == before, "sshd began a session that nobody recorded"
    next(watched, None)


@asynccontextmanager
async def logged_in(site: Site, entry: str, **options: Any) -> AsyncIterator[Raw]:
    key = asyncssh.read_private_key(site.key("alice"))
    settings = {"server_host_key_algs": ["ssh-ed25519"], "kex_algs": ["curve25519-sha256"], **options}
    outer = await Raw.connect(site.port, version=b"OpenSSH_9.9", **settings)
    try:
        await outer.log_in(site.login() if entry == DIRECT else "alice", key)
        if entry == DIRECT:
            yield outer
            return
        settings.pop("server_host_key_algs")
        inner = await outer.inside("web1", **settings)
        yield await inner.walk_in(site.target.account)
    finally:
        await outer.leave()


Dialogue = Callable[[Raw], Coroutine[Any, Any, Any]]


def talk(site: Site, entry: str, dialogue: Dialogue, **options: Any) -> Any:
    """Run a dialogue over a fresh connection that is logged in."""

    async def run() -> Any:
        async with logged_in(site, entry, **options) as raw:
            return await dialogue(raw)

    return asyncio.run(run())


# --- requests -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("evidence")
@pytest.mark.parametrize("second", ["shell", "exec", "subsystem"])
@pytest.mark.parametrize("first", ["exec", "subsystem"])
def test_one_channel_starts_one_thing(site: Site, entry: str, first: str, second: str) -> None:
    """[S3] RFC 4254 section 6.5: only one of these requests can succeed per channel."""
    what = {"shell": (), "exec": (String("cat"),), "subsystem": (String("echo"),)}

    async def dialogue(raw: Raw) -> None:
        channel = await raw.session()
        raw.ask(channel, first, *what[first])
        raw.ask(channel, second, *what[second])
        assert [await raw.answer(), await raw.answer()] == [True, False]
        raw.data(channel, b"once")
        raw.say(EOF, UInt32(channel))
        assert await raw.output() == (b"once", 0)

    talk(site, entry, dialogue)
