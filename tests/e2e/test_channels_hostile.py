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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String, UInt32

from policy.messages import TargetRemove
from tests.support.evidence import Evidence, watch
from tests.support.net import wait_until
from tests.support.person import Person
from tests.support.rawssh import (
    CHANNEL_FAILURE,
    CHANNEL_OPEN,
    CHANNEL_REQUEST,
    CHANNEL_SUCCESS,
    CLOSE,
    DATA,
    DISCONNECT,
    EOF,
    EXTENDED_DATA,
    GLOBAL_REQUEST,
    LONG,
    OPEN_CONFIRMATION,
    OPEN_FAILURE,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
    UNIMPLEMENTED,
    WINDOW_ADJUST,
    Raw,
)
from tests.support.site import DIRECT, THROUGH, Site, stopped
from tests.support.sshd import SSHD
from tests.support.toxic import Puppet, PuppetConnection, Script

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

STARTING = "Starting session: "
"""How sshd's log begins each shell, command and subsystem."""
MANY = 1000
TOGETHER = 6
"""Connections at once; each is a session with a process at the target."""
MOST = 12 * 1024
"""KiB that a flood may cost the worker: the write buffer of a peer that does not read, and what one read brings."""


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
async def logged_in(site: Site, entry: str, target: str = "", **options: Any) -> AsyncIterator[Raw]:
    key = asyncssh.read_private_key(site.key("alice"))
    settings = {"kex_algs": ["curve25519-sha256"], "version": b"OpenSSH_9.9", **options}
    outer = await Raw.connect(site.port, server_host_key_algs=["ssh-ed25519"], **settings)
    try:
        account = "root" if target else site.target.account
        await outer.log_in(f"{account}@{target or 'web1'}" if entry == DIRECT else "alice", key)
        if entry == DIRECT:
            yield outer
            return
        inner = await outer.inside(target or "web1", **settings)
        yield await inner.walk_in(account)
    finally:
        await outer.leave()


Dialogue = Callable[[Raw], Coroutine[Any, Any, Any]]


def talk(site: Site, entry: str, dialogue: Dialogue, **options: Any) -> Any:
    """Run a dialogue over a fresh connection that is logged in."""

    async def run() -> Any:
        async with logged_in(site, entry, **options) as raw:
            return await dialogue(raw)

    return asyncio.run(run())


def parting(site: Site, entry: str, dialogue: Dialogue) -> str:
    """The reason with which the connection ends behind a dialogue."""

    async def run(raw: Raw) -> str:
        await dialogue(raw)
        return await raw.parting()

    return str(talk(site, entry, run))


def partings(site: Site, entry: str, dialogues: list[Dialogue]) -> list[str]:
    """As `parting`, each over a connection of its own, several at a time."""

    async def one(dialogue: Dialogue) -> str:
        async with logged_in(site, entry) as raw:
            await dialogue(raw)
            return await raw.parting()

    async def run() -> list[str]:
        reasons: list[str] = []
        for at in range(0, len(dialogues), TOGETHER):
            reasons += await asyncio.gather(*map(one, dialogues[at : at + TOGETHER]))
        return reasons

    return asyncio.run(run())


def memory(site: Site) -> int:
    """Resident KiB of the worker."""
    status = Path(f"/proc/{site.pid('bastion.ssh')}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


# --- requests -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("evidence")
@pytest.mark.parametrize("first", ["exec", "subsystem"])
def test_one_channel_starts_one_thing(site: Site, entry: str, first: str) -> None:
    """[S3] RFC 4254 section 6.5: only one of these requests can succeed per channel."""
    what = {"shell": (), "exec": (String("cat"),), "subsystem": (String("echo"),)}

    async def dialogue(raw: Raw) -> None:
        channel = await raw.session()
        raw.ask(channel, first, *what[first])
        for second in what:
            raw.ask(channel, second, *what[second])
        assert [await raw.answer() for _ in range(4)] == [True, False, False, False]
        raw.data(channel, b"once")
        raw.say(EOF, UInt32(channel))
        assert await raw.output() == (b"once", 0)

    talk(site, entry, dialogue)


def test_a_channel_has_one_terminal_and_has_it_before_the_start(site: Site, entry: str, evidence: Evidence) -> None:
    """[S3] RFC 4254 section 6.2."""

    async def dialogue(raw: Raw) -> None:
        channel = await raw.session()
        for term in ("xterm", "vt52"):
            raw.ask(channel, "pty-req", *pty(term))
        raw.ask(channel, "exec", String("echo $TERM; stty size"))
        raw.ask(channel, "pty-req", *pty("vt100"))
        raw.ask(channel, "env", String("LANG"), String("C"))
        raw.ask(channel, "x11-req", Boolean(False), String("p"), String("00"), UInt32(0))
        raw.ask(channel, "auth-agent-req@openssh.com")
        assert [await raw.answer() for _ in range(3)] == [True, False, True]
        assert await raw.output() == (b"xterm\r\n24 80\r\n", 0)

    talk(site, entry, dialogue)
    assert (tape := evidence.tape())
    assert [(start.term, start.kind) for start in tape.starts] == [(b"xterm", "exec")]


def pty(term: str, modes: bytes = b"\0") -> tuple[bytes, ...]:
    return String(term), UInt32(80), UInt32(24), UInt32(0), UInt32(0), String(modes)


BAD_BEFORE: dict[str, tuple[str, bytes]] = {
    "exec with a NUL": ("exec", String("id\0")),
    "subsystem with a NUL": ("subsystem", String("echo\0")),
    "shell and more": ("shell", b"\0"),
    "exec without a string": ("exec", b""),
    "exec cut short": ("exec", UInt32(5) + b"id"),
    "exec of 4 GiB": ("exec", UInt32(0xFFFFFFFF) + b"id"),
    "exec and more": ("exec", String("id") + b"more"),
    "subsystem and more": ("subsystem", String("echo") + bytes(1000)),
    "terminal cut short": ("pty-req", String("xterm") + UInt32(80)),
    "terminal and more": ("pty-req", b"".join(pty("xterm")) + b"more"),
    "terminal with 30 kB of modes": ("pty-req", b"".join(pty("xterm", bytes(30_000)))),
    "size cut short": ("window-change", UInt32(80) + UInt32(24)),
    "size and more": ("window-change", bytes(20)),
    "variable without a value": ("env", String("LANG")),
    "variable and more": ("env", String("LANG") + String("C") + b"more"),
    "agent and more": ("auth-agent-req@openssh.com", b"more"),
    "x11 cut short": ("x11-req", Boolean(False) + String("p")),
    "x11 and more": ("x11-req", Boolean(False) + String("p") + String("00") + UInt32(0) + b"more"),
}
BAD_AFTER: dict[str, tuple[str, bytes]] = {
    "signal without a name": ("signal", b""),
    "signal and more": ("signal", String("TERM") + bytes(30_000)),
    "break cut short": ("break", b"\0"),
    "break and more": ("break", UInt32(1) + bytes(30_000)),
    "size and more": ("window-change", bytes(20_000)),
    "keepalive with 30 kB": ("keepalive@openssh.com", bytes(30_000)),
    "end of writing with 30 kB": ("eow@openssh.com", bytes(30_000)),
}


@pytest.mark.usefixtures("evidence")
def test_requests_that_are_cut_short_or_carry_more_than_they_say(site: Site, entry: str) -> None:
    """[S3 S6] What stands behind a request would pass unrecorded. As to OpenSSH, that is the end."""

    def before(name: str, body: bytes) -> Dialogue:
        async def dialogue(raw: Raw) -> None:
            raw.ask(await raw.session(), name, body)

        return dialogue

    def after(name: str, body: bytes) -> Dialogue:
        async def dialogue(raw: Raw) -> None:
            raw.ask(await raw.started("exec", String("cat")), name, body)

        return dialogue

    async def cut(raw: Raw) -> None:
        raw.say(CHANNEL_REQUEST, UInt32(await raw.session()), UInt32(9), b"shell")

    async def no_wish(raw: Raw) -> None:
        raw.say(CHANNEL_REQUEST, UInt32(await raw.session()), String("shell"))

    dialogues = [before(*bad) for bad in BAD_BEFORE.values()]
    dialogues += [after(*bad) for bad in BAD_AFTER.values()]
    for reason in partings(site, entry, [*dialogues, cut, no_wish]):
        assert "malformed" in reason


@pytest.mark.parametrize(
    ("command", "size"), [(b"printf '\xff\xfe'; echo \xe2\x80\xae", 0), (b": ", 100_000)], ids=["no text", "100 kB"]
)
def test_a_command_reaches_the_target_as_it_is_recorded(
    site: Site, entry: str, command: bytes, size: int, evidence: Evidence
) -> None:
    """[S3 R8] No UTF-8, and longer than an event of a recording."""
    command += b"x" * size

    async def dialogue(raw: Raw) -> tuple[bytes, int | None]:
        raw.ask(await raw.session(), "exec", String(command))
        assert await raw.answer()
        return await raw.output()

    assert talk(site, entry, dialogue) == (b"" if size else b"\xff\xfe\xe2\x80\xae\n", 0)
    assert (tape := evidence.tape())
    assert [start.command for start in tape.starts] == [command]


def test_names_of_subsystems_that_are_none(site: Site, entry: str, evidence: Evidence) -> None:
    """[S3] The target says no to what it does not have."""
    names = [b"", b"echo;id", b"../../bin/sh", b"\xff\xfe", b"x" * 30_000]

    async def dialogue(raw: Raw) -> list[bool]:
        answers = []
        for number, name in enumerate(names):
            raw.ask(await raw.session(number), "subsystem", String(name))
            answers.append(await raw.answer())
        return answers

    assert talk(site, entry, dialogue) == [False] * len(names)
    assert (tape := evidence.tape())
    assert tape.output == b""


def test_a_request_larger_than_a_packet_ends_the_connection(site: Site, entry: str, evidence: Evidence) -> None:
    """[T3 S3] An exec of 1 MiB. Behind `-J` the inner connection ends, and the tunnel with it."""

    async def dialogue(raw: Raw) -> None:
        channel = await raw.session()
        await asyncio.to_thread(wait_until, "the recording", evidence.new)  # else the end may come before it
        raw.ask(channel, "exec", String(bytes(1 << 20)))

    assert "packet" in parting(site, entry, dialogue)
    assert (tape := evidence.tape())
    assert tape.starts == []


def test_a_flood_of_variables_is_answered_and_kept_by_nobody(site: Site, entry: str, evidence: Evidence) -> None:
    """[S4] Thousands, 30 kB each; the few that may pass are counted and measured."""

    async def dialogue(raw: Raw) -> None:
        channel = await raw.session()
        raw.ask(channel, "env", String("LC_FIRST"), String("kept"))
        assert await raw.answer()
        for number in range(0, 2000, 50):
            for more in range(50):
                raw.ask(channel, "env", String(f"LC_{number + more}"), String("x" * 30_000))
            assert not any([await raw.answer() for _ in range(50)])
        for name in ("LD_PRELOAD", "BASH_ENV", "SSH_AUTH_SOCK", "PATH", "LC_NUL\0", ""):
            raw.ask(channel, "env", String(name), String("x"))
            assert not await raw.answer()
        raw.ask(channel, "exec", String("env | grep -c ^LC_; echo $LC_FIRST"))
        assert await raw.answer()
        assert await raw.output() == (b"1\nkept\n", 0)

    before = memory(site)
    talk(site, entry, dialogue)
    assert memory(site) - before < MOST
    assert (tape := evidence.tape())
    assert [start.env for start in tape.starts] == [{"LC_FIRST": b"kept"}]


@pytest.mark.usefixtures("evidence")
def test_a_flood_of_requests_is_answered_one_by_one_in_order(site: Site, entry: str) -> None:
    """[S6] Those that we refuse and those that the target answers, RFC 4254 section 5.4."""

    async def dialogue(raw: Raw) -> None:
        channel = await raw.session()
        raw.ask(channel, "pty-req", *pty("xterm"))
        raw.ask(channel, "exec", String("cat"))
        assert [await raw.answer(), await raw.answer()] == [True, True]
        for _ in range(0, MANY, 100):
            for _ in range(50):
                raw.ask(channel, "hello@example.com", bytes(100))
                raw.ask(channel, "window-change", bytes(16), reply=True)
            assert [await raw.answer() for _ in range(100)] == [False, True] * 50
        for _ in range(MANY):
            raw.ask(channel, "hello@example.com")
        assert not any([await raw.answer() for _ in range(MANY)])

    talk(site, entry, dialogue)


@pytest.mark.usefixtures("evidence")
def test_answers_that_nobody_asked_for_end_the_connection(site: Site, entry: str) -> None:
    """[S6] Each would be a bit for the target that no recording tells of."""

    def says(kind: int) -> Dialogue:
        async def dialogue(raw: Raw) -> None:
            raw.say(kind, UInt32(await raw.started("exec", String("cat"))))

        return dialogue

    assert partings(site, entry, [says(CHANNEL_SUCCESS), says(CHANNEL_FAILURE)]) == [
        "answer to a request that was not made"] * 2  # fmt: skip


# --- global requests ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("evidence")
def test_a_flood_of_global_requests_is_answered_one_by_one_in_order(site: Site, entry: str) -> None:
    """[S3 S6]"""

    async def dialogue(raw: Raw) -> None:
        for _ in range(MANY // 2):
            raw.say(GLOBAL_REQUEST, String("keepalive@openssh.com"), Boolean(True))
            raw.say(GLOBAL_REQUEST, String("hello@example.com"), Boolean(True), bytes(100))
            raw.say(GLOBAL_REQUEST, String("hello@example.com"), Boolean(False), bytes(100))
        heard = [(await raw.until(REQUEST_SUCCESS, REQUEST_FAILURE))[0] for _ in range(MANY)]
        assert heard == [REQUEST_SUCCESS, REQUEST_FAILURE] * (MANY // 2)

    before = memory(site)
    talk(site, entry, dialogue)
    assert memory(site) - before < MOST


def test_remote_forwards_that_are_cut_short_or_carry_more(site: Site, entry: str, evidence: Evidence) -> None:
    """[S2 S3] And the end of one that nobody began. A port is one of 65536."""
    forward, cancel = "tcpip-forward", "cancel-tcpip-forward"
    unix = "streamlocal-forward@openssh.com"
    bad = [
        (forward, b""), (forward, String("localhost")), (forward, String("localhost") + UInt32(0) + b"more"),
        (forward, String("localhost") + UInt32(65536)), (forward, String("x" * 5000) + UInt32(0)),
        (forward, String(b"\xff\0") + UInt32(0)), (cancel, String("localhost") + UInt32(1)), (cancel, b""),
        (unix, b""), (unix, String("/tmp/x") + b"more"), (unix, String("/" + "x" * 5000)), (unix, String("/a\0b")),
        (f"cancel-{unix}", String("/tmp/x")),
    ]  # fmt: skip

    async def dialogue(raw: Raw) -> None:
        await raw.started("exec", String("cat"))
        for name, body in bad:
            raw.say(GLOBAL_REQUEST, String(name), Boolean(True), body)
            assert (await raw.until(REQUEST_SUCCESS, REQUEST_FAILURE))[0] == REQUEST_FAILURE, (name, body[:40])

    talk(site, entry, dialogue)
    assert (tape := evidence.tape())
    assert not [note for note in tape.accesses if note.kind.startswith("forward")], "nobody had to be asked"


# --- opening ------------------------------------------------------------------------------------------


def test_thousands_of_opens_meet_a_limit_and_places_come_back(site: Site, entry: str) -> None:
    """[S6] Each is answered; memory is for as many as may be."""
    limit = 64

    async def dialogue(raw: Raw) -> None:
        for number in range(MANY):
            raw.open("session", number)
        said = [await raw.until(OPEN_CONFIRMATION, OPEN_FAILURE) for _ in range(MANY)]
        assert [kind for kind, _ in said] == [OPEN_CONFIRMATION] * limit + [OPEN_FAILURE] * (MANY - limit)
        assert [struct.unpack_from(">I", payload)[0] for _, payload in said] == list(range(MANY)), "in order"
        assert {struct.unpack_from(">I", payload, 4)[0] for _, payload in said[limit:]} == {4}, "resource shortage"
        there = struct.unpack_from(">I", said[0][1], 4)[0]
        raw.say(CLOSE, UInt32(there))
        await raw.until(CLOSE)
        raw.ask(await raw.session(MANY), "exec", String("echo again"))
        assert (await raw.output())[0] == b"again\n"

    before = memory(site)
    talk(site, entry, dialogue)
    assert memory(site) - before < MOST


@pytest.mark.usefixtures("evidence")
def test_two_channels_of_one_number_are_two_channels(site: Site, entry: str) -> None:
    """[S6] The number is the sender's own affair; ours tell them apart."""

    async def dialogue(raw: Raw) -> None:
        channels = [await raw.session(7), await raw.session(7)]
        assert len(set(channels)) == 2
        for channel in channels:
            raw.ask(channel, "exec", String(f"echo this is {channel}"))
            assert await raw.output() == (f"this is {channel}\n".encode(), 0)

    talk(site, entry, dialogue)


@pytest.mark.usefixtures("evidence")
def test_kinds_that_only_a_target_opens(site: Site, entry: str) -> None:
    """[S3 S8 S9 S10] Also with a body that is none. Nobody is asked, nothing is dialled for it."""
    body = String("localhost") + UInt32(22) + String("localhost") + UInt32(1)
    kinds = ["forwarded-tcpip", "forwarded-streamlocal@openssh.com", "x11", "auth-agent@openssh.com", "tun@openssh.com",
             "", "Session", "session\0", "x" * 30_000]  # fmt: skip

    async def dialogue(raw: Raw) -> None:
        for number, (kind, rest) in enumerate((kind, rest) for kind in kinds for rest in (body, b"", b"\xff" * 9)):
            raw.open(kind, number, rest)
            said, payload = await raw.until(OPEN_CONFIRMATION, OPEN_FAILURE)
            assert (said, *struct.unpack_from(">II", payload)) == (OPEN_FAILURE, number, 3), kind

    talk(site, entry, dialogue)


@pytest.mark.usefixtures("evidence")
def test_opens_that_are_cut_short_end_the_connection(site: Site, entry: str) -> None:
    """[S6]"""
    whole = String("session") + UInt32(0) + UInt32(1) + UInt32(1)

    def opens(body: bytes) -> Dialogue:
        async def dialogue(raw: Raw) -> None:
            raw.say(CHANNEL_OPEN, body)

        return dialogue

    assert all(partings(site, entry, [opens(whole[:size]) for size in (0, 3, 7, 11, 15, 22)]))


TUNNELS = {
    "cut short": String("localhost") + UInt32(22),
    "and more": String("localhost") + UInt32(9) + String("") + UInt32(1) + bytes(30_000),
    "port 0": String("localhost") + UInt32(0) + String("") + UInt32(1),
    "port 65536": String("localhost") + UInt32(65536) + String("") + UInt32(1),
    "port 4 G": String("localhost") + UInt32(0xFFFFFFFF) + String("") + UInt32(1),
    "a name of 5 kB": String("x" * 5000) + UInt32(9) + String("") + UInt32(1),
    "an origin of 30 kB": String("localhost") + UInt32(9) + String("x" * 30_000) + UInt32(1),
    "a name with a NUL": String("localhost\0") + UInt32(9) + String("") + UInt32(1),
    "no name": String("") + UInt32(9) + String("") + UInt32(1),
    "target, port 0": String("web1") + UInt32(0) + String("") + UInt32(1),
    "target, port 65558": String("web1") + UInt32(65558) + String("") + UInt32(1),
}
SOCKETS = {
    "cut short": b"\0\0",
    "no reserved fields": String("/tmp/x"),
    "and more": String("/tmp/x") + String("") + UInt32(0) + bytes(30_000),
    "a path of 5 kB": String("/" + "x" * 5000) + String("") + UInt32(0),
    "a path with a NUL": String("/tmp/x\0") + String("") + UInt32(0),
    "no path": String("") + String("") + UInt32(0),
}


def test_tunnels_to_nowhere_that_can_be(site: Site, entry: str, evidence: Evidence) -> None:
    """[S1 S2] `ssh -W web1:0` among them, which is no `-J`: refused before anybody is asked or dialled."""
    opens = [("direct-tcpip", rest) for rest in TUNNELS.values()]
    opens += [("direct-streamlocal@openssh.com", rest) for rest in SOCKETS.values()]

    async def dialogue(raw: Raw) -> None:
        for number, (kind, rest) in enumerate(opens):
            raw.open(kind, number, rest)
            said, payload = await raw.until(OPEN_CONFIRMATION, OPEN_FAILURE)
            assert (said, *struct.unpack_from(">II", payload)) == (OPEN_FAILURE, number, 2), (kind, rest[:40])
        raw.ask(await raw.session(99), "exec", String("echo lives"))
        assert (await raw.output())[0] == b"lives\n"

    talk(site, entry, dialogue)
    assert (tape := evidence.tape())
    assert not [note for note in tape.accesses if note.kind.startswith("forward")]


@pytest.mark.usefixtures("evidence")
def test_port_0_of_a_target_is_no_jump(site: Site) -> None:
    """[S1] On the connection that names no target, where every tunnel to a target is a `-J`."""

    async def run() -> None:
        raw = await Raw.connect(site.port)
        await raw.log_in("alice", asyncssh.read_private_key(site.key("alice")))
        for number, name in enumerate(["target, port 0", "target, port 65558", "cut short"]):
            raw.open("direct-tcpip", number, TUNNELS[name])
            kind, payload = await raw.until(OPEN_CONFIRMATION, OPEN_FAILURE)
            assert (kind, *struct.unpack_from(">II", payload)) == (OPEN_FAILURE, number, 2), name
        await raw.leave()

    asyncio.run(run())


# --- sizes and windows --------------------------------------------------------------------------------


def test_packets_of_any_size(site: Site, entry: str, evidence: Evidence) -> None:
    """[S6] So small that each byte costs a packet: refused. Larger than any packet: as large as packets are."""

    async def dialogue(raw: Raw) -> None:
        for number, packet in enumerate((0, 1, 17, 63)):
            raw.open("session", number, packet=packet)
            assert (await raw.until(OPEN_CONFIRMATION, OPEN_FAILURE))[0] == OPEN_FAILURE
        for number, packet in enumerate((64, 1000, 0xFFFFFFFF), start=4):
            channel = await raw.session(number, packet=packet, window=0xFFFFFFFF)
            raw.ask(channel, "exec", String("head -c 300000 /dev/zero | tr '\\0' x; echo err >&2"))
            sizes, total = [], 0
            while (said := await raw.until(DATA, EXTENDED_DATA, CLOSE))[0] != CLOSE:
                sizes.append(len(said[1]) - (8 if said[0] == DATA else 12))
                total += sizes[-1]
            assert total == 300_004
            assert max(sizes) <= packet

    talk(site, entry, dialogue)
    assert (tape := evidence.tape())
    assert tape.output == b"x" * 900_000


def test_a_window_of_nothing_gets_nothing_and_one_byte_at_a_time_gets_all(
    site: Site, entry: str, evidence: Evidence
) -> None:
    """[S6 S7]"""

    async def dialogue(raw: Raw) -> None:
        channel = await raw.session(window=0)
        raw.ask(channel, "exec", String("printf 0123456789"))
        assert await raw.answer()
        raw.ask(channel, "hello@example.com")
        assert not await raw.answer(), "nothing came before this answer"
        got = b""
        while len(got) < 10:
            raw.say(WINDOW_ADJUST, UInt32(channel), UInt32(1))
            got += (await raw.until(DATA))[1][8:]
        assert got == b"0123456789"
        raw.say(WINDOW_ADJUST, UInt32(channel), UInt32(1))  # sshd looks for the end while it may send
        assert (await raw.output())[0] == b""

    talk(site, entry, dialogue)
    assert (tape := evidence.tape())
    assert tape.output == b"0123456789"


@pytest.mark.usefixtures("evidence")
def test_windows_that_overflow_end_the_connection(site: Site, entry: str) -> None:
    """[S6] RFC 4254 section 5.2: at most 2^32 - 1. The target is not told, or it would be the one that breaks."""

    def grants(*sizes: bytes, window: int, start: bool) -> Dialogue:
        async def dialogue(raw: Raw) -> None:
            channel = await (raw.started("exec", String("cat"), window=window) if start else raw.session(window=window))
            for size in sizes:
                raw.say(WINDOW_ADJUST, UInt32(channel), size)

        return dialogue

    everything = UInt32(0xFFFFFFFF)
    overflows = [
        grants(UInt32(1), window=0xFFFFFFFF, start=start) for start in (True, False)
    ] + [grants(everything, everything, window=0, start=start) for start in (True, False)]  # fmt: skip
    cut_short = [grants(b"\0\0\0", window=10, start=start) for start in (True, False)]
    for reason in partings(site, entry, overflows):
        assert "window of a channel" in reason
    for reason in partings(site, entry, cut_short):
        assert "malformed" in reason


def test_data_beyond_the_window_ends_the_connection(site: Site, entry: str, evidence: Evidence) -> None:
    """[S6] sshd lets a tenth pass and then cuts: it would look as if the target had failed. Before there is a target
    the window is 0.
    """

    def floods(channel: int) -> Dialogue:
        async def dialogue(raw: Raw) -> None:
            for _ in range(1000):
                raw.data(channel, b"x" * 30_000)
                await asyncio.sleep(0.002)  # all at once, and its last words are lost in the reset of the socket
                if raw.gone.is_set() or any(kind == DISCONNECT for kind, _ in raw.kept._queue):  # type: ignore
                    return

        return dialogue

    async def before(raw: Raw) -> None:
        await floods(await raw.session())(raw)

    async def after(raw: Raw) -> None:
        await floods(await raw.started("exec", String("exec sleep 60")))(raw)

    for reason in partings(site, entry, [before, after]):
        assert reason == "more data came on a channel than its window allows"
    assert (tape := evidence.tape())
    assert [start.command for start in tape.starts] == [b"exec sleep 60"]
    assert "client-lost" in {note.reason for note in tape.ended}


@pytest.mark.usefixtures("evidence")
def test_data_that_does_not_fill_its_message(site: Site, entry: str) -> None:
    """[S6] What is behind the data would pass as padding does: unseen."""

    def says(body: bytes) -> Dialogue:
        async def dialogue(raw: Raw) -> None:
            raw.say(DATA, UInt32(await raw.started("exec", String("cat"))), body)

        return dialogue

    bodies = [UInt32(3) + b"four", UInt32(5) + b"four", b"", b"\0\0", UInt32(0xFFFFFFFF) + b"x"]
    for reason in partings(site, entry, [says(body) for body in bodies]):
        assert "data" in reason or "malformed" in reason


# --- ends ---------------------------------------------------------------------------------------------


def test_what_comes_behind_an_end_is_nothing(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    """[S6] Data behind EOF, a second EOF, whatever behind CLOSE, a second CLOSE: neither passed nor told."""
    there = tmp_path / "there"

    async def dialogue(raw: Raw) -> None:
        channel = await raw.started("exec", String(f"cat > {there}; echo done"))
        raw.data(channel, b"before")
        raw.say(EOF, UInt32(channel))
        raw.data(channel, b"behind")
        raw.say(EOF, UInt32(channel))
        assert await raw.output() == (b"done\n", 0)
        # The other side has closed; until we do, the number is ours.
        for _ in range(3):
            raw.data(channel, b"behind")
            raw.say(WINDOW_ADJUST, UInt32(channel), UInt32(100))
            raw.ask(channel, "exec", String(f"touch {there}-2"))
        raw.say(CLOSE, UInt32(channel))
        second = await raw.started("exec", String("sleep 0.3; cat"), number=1)
        raw.say(CLOSE, UInt32(second))
        for _ in range(3):
            raw.data(second, b"behind")
            raw.ask(second, "exec", String(f"touch {there}-3"))
            raw.ask(second, "shell")
            raw.say(CLOSE, UInt32(second))
        # Whether the last of them still had a channel is chance: the target closes meanwhile, and the number is free.
        while (await raw.hear())[0] not in (CLOSE, DISCONNECT, 0):
            pass

    talk(site, entry, dialogue)
    assert there.read_bytes() == b"before"
    assert (tape := evidence.tape())
    assert tape.typed == b"before"
    assert len(tape.starts) == 2
    assert not list(tmp_path.glob("there-*"))


@pytest.mark.usefixtures("evidence")
def test_a_start_behind_the_close_of_its_channel_starts_nothing(site: Site, entry: str, tmp_path: Path) -> None:
    """[S6] Sent in one piece with the opening, before the target is linked."""

    async def dialogue(raw: Raw) -> None:
        channel = await raw.session()
        raw.say(CLOSE, UInt32(channel))
        raw.ask(channel, "exec", String(f"touch {tmp_path}/there"))
        said = [(await raw.hear())[0] for _ in range(2)]
        assert said[0] == CLOSE

    talk(site, entry, dialogue)
    assert not (tmp_path / "there").exists()


@pytest.mark.usefixtures("evidence")
def test_channels_that_are_not_open_end_the_connection(site: Site, entry: str) -> None:
    """[S6] Never opened, closed, not confirmed yet, and every message that a channel has."""

    def never(kind: int, number: int) -> Dialogue:
        async def dialogue(raw: Raw) -> None:
            await raw.session()
            raw.say(kind, UInt32(number), String("x"), Boolean(True), bytes(8))

        return dialogue

    async def closed(raw: Raw) -> None:
        channel = await raw.session()
        raw.say(CLOSE, UInt32(channel))
        await raw.until(CLOSE)
        raw.data(channel, b"late")

    async def unconfirmed(raw: Raw) -> None:
        there = await raw.session()
        body = String("127.0.0.1") + UInt32(9) + String("") + UInt32(1)
        raw.open("direct-tcpip", 1, body)
        for number in range(there + 1, there + 20):
            raw.data(number, b"a guess")

    cases = [never(kind, number) for kind in range(93, 101) for number in (999, 0xFFFFFFFF)]
    for reason in partings(site, entry, [*cases, closed, unconfirmed]):
        assert "Invalid channel number" in reason or "not open" in reason


@pytest.mark.usefixtures("evidence")
def test_answers_to_openings_that_nobody_asked_for_end_the_connection(site: Site, entry: str) -> None:
    """[S6 S8] They would link a channel anew, to whatever the peer says."""

    def says(kind: int, *rest: bytes, known: bool) -> Dialogue:
        async def dialogue(raw: Raw) -> None:
            channel = await raw.started("exec", String("cat"))
            raw.say(kind, UInt32(channel if known else 77), *rest)

        return dialogue

    numbers = UInt32(5), UInt32(1 << 20), UInt32(32768)
    why = UInt32(1), String("no"), String("")
    cases = [
        *(says(OPEN_CONFIRMATION, *numbers, known=known) for known in (True, False)),
        *(says(OPEN_FAILURE, *why, known=known) for known in (True, False)),
        says(OPEN_CONFIRMATION, *numbers[:2], known=True), says(OPEN_FAILURE, *why[:2], known=True),
        says(OPEN_CONFIRMATION, known=False), says(OPEN_FAILURE, known=False),
    ]  # fmt: skip
    assert all(partings(site, entry, cases))


# --- the wrong way, the wrong time --------------------------------------------------------------------


@pytest.mark.usefixtures("evidence")
def test_messages_of_the_other_side_or_of_another_time_end_the_connection(site: Site, entry: str) -> None:
    """[T1 T2] CVE-2018-10933, CVE-2023-48795 and kin, behind the login: key exchange out of order, answers unasked."""

    def says(kind: int, *rest: bytes) -> Dialogue:
        async def dialogue(raw: Raw) -> None:
            await raw.started("exec", String("cat"))
            raw.say(kind, *rest)

        return dialogue

    cases = {
        "service": says(5, String("ssh-userauth")), "service accepted": says(6, String("ssh-userauth")),
        "extensions": says(7, UInt32(0)), "new keys": says(21), "exchange": says(30, String(bytes(32))),
        "exchange answered": says(31, String(b"")),
        "login": says(50, String("root"), String("ssh-connection"), String("none")),
        "login refused": says(51, String("none"), Boolean(False)), "login done": says(52),
        "banner": says(53, String("x"), String("")), "question": says(60, String("")), "answer": says(61, UInt32(0)),
        "success": says(81), "failure": says(82), "keys cut short": says(20, bytes(16), UInt32(9)),
    }  # fmt: skip
    for name, reason in zip(cases, partings(site, entry, list(cases.values())), strict=True):
        assert reason, name


def test_messages_that_mean_nothing_are_said_to_mean_nothing(site: Site, entry: str, evidence: Evidence) -> None:
    """[T1 T2] RFC 4253 section 11.4; 101 to 127 with the number of a live channel. IGNORE and DEBUG pass."""
    unknown = [8, 19, 70 + 13, 89, *range(101, 128), 128, 191, 192, 255]

    async def dialogue(raw: Raw) -> None:
        channel = await raw.started("exec", String("cat"))
        for kind in unknown:
            raw.say(kind, UInt32(channel), String("payload"))
            assert (await raw.hear())[0] == UNIMPLEMENTED, kind
        for _ in range(MANY):
            super(Raw, raw).send_packet(2, String(bytes(100)))
        raw.say(3, UInt32(0))
        raw.say(4, Boolean(True), String("\x1b[2J"), String(""))
        raw.data(channel, b"lives")
        raw.say(EOF, UInt32(channel))
        assert await raw.output() == (b"lives", 0)

    talk(site, entry, dialogue)
    assert (tape := evidence.tape())
    assert tape.typed == b"lives"


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-ctr"])
def test_new_keys_in_the_middle_of_a_burst(site: Site, entry: str, cipher: str, evidence: Evidence) -> None:
    """[T2 T7] By the fast path and by asyncssh's own: nothing is lost, doubled or out of order."""

    async def dialogue(raw: Raw) -> None:
        channel = await raw.started("exec", String("cat"))
        for turn in range(5):
            for number in range(200):
                raw.data(channel, b"%d.%03d " % (turn, number))
                raw.ask(channel, "hello@example.com")
            await renew(raw)
        heard = [await raw.until(CHANNEL_FAILURE, DATA) for _ in range(1000)]
        out = b"".join(payload[8:] for kind, payload in heard if kind == DATA)
        answers = sum(kind == CHANNEL_FAILURE for kind, _ in heard)
        while answers < 1000 or len(out) < 6000:
            kind, payload = await raw.until(CHANNEL_FAILURE, DATA)
            answers += kind == CHANNEL_FAILURE
            out += payload[8:] if kind == DATA else b""
        assert out == b"".join(b"%d.%03d " % (turn, number) for turn in range(5) for number in range(200))

    talk(site, entry, dialogue, encryption_algs=[cipher], version=b"Other_1.0")
    assert (tape := evidence.tape())
    assert len(tape.typed) == len(tape.output) == 6000


async def renew(raw: Raw) -> None:
    """New keys, as an honest client has them made."""
    raw._send_kexinit()
    raw._kexinit_sent = True
    async with asyncio.timeout(20):
        while not raw._kex_complete:  # noqa: ASYNC110 - asyncssh tells nobody
            await asyncio.sleep(0.005)


@pytest.mark.usefixtures("evidence")
def test_a_flood_behind_a_key_exchange_that_never_goes_on(site: Site, entry: str) -> None:
    """[T7] What it makes us answer waits for new keys that do not come. That is not kept without a limit."""

    async def dialogue(raw: Raw) -> str:
        channel = await raw.started("exec", String("cat"))
        raw._send_kexinit()
        raw._kexinit_sent = True
        raw.process_packet = lambda kind, *_: True if kind == 20 else Raw.process_packet(raw, kind, *_)  # type: ignore
        raw._kex_complete = True
        before = memory(site)
        for _ in range(100):
            for _ in range(1000):
                raw.ask(channel, "hello@example.com")
            await asyncio.sleep(0)
            if raw.gone.is_set():
                break
        grown = memory(site) - before
        return f"{grown // 1024} MiB more" if grown > MOST else ""

    assert talk(site, entry, dialogue) == ""


def test_somebody_who_does_not_read_the_answers_costs_little(site: Site, entry: str) -> None:
    """[S7] Attack: openings without end, and nobody who takes the refusals. We read no more either."""

    async def dialogue(raw: Raw) -> str:
        transport = outermost(raw)._transport
        transport.pause_reading()
        before = memory(site)
        for _ in range(100):
            for _ in range(1000):
                raw.open("session", 0, packet=0)
            await asyncio.sleep(0.01)
            if transport.get_write_buffer_size() > 1 << 20:
                break
        grown = memory(site) - before
        transport.resume_reading()
        return f"{grown // 1024} MiB more" if grown > MOST else ""

    assert talk(site, entry, dialogue) == ""


def test_answers_that_wait_for_a_recorder_that_stands_still_cost_little(site: Site, entry: str) -> None:
    """[R3 S7] Behind output that is not acknowledged every answer waits, and answers are no events."""

    async def dialogue(raw: Raw) -> str:
        channel = await raw.started("exec", String("while sleep 0.02; do echo x; done"))
        await raw.until(DATA)
        before = memory(site)
        with stopped(site.pid("recorder")):
            for _ in range(100):
                for _ in range(500):
                    raw.ask(channel, "hello@example.com", bytes(2000))
                await asyncio.sleep(0.01)
                transport = outermost(raw)._transport  # gone behind `-J`: the flood overran the tunnel's window
                if transport is None or transport.get_write_buffer_size() > 1 << 18:
                    break
            else:
                return "it was read all the time"
            grown = memory(site) - before
        if transport is not None:
            await raw.until(CHANNEL_FAILURE)
            await raw.until(DATA)
        return f"{grown // 1024} MiB more" if grown > MOST else ""

    assert talk(site, entry, dialogue) == ""


def outermost(raw: Raw) -> Any:
    """The connection that has the socket."""
    return getattr(raw._transport, "_outer", raw)


# --- a target that breaks the rules -------------------------------------------------------------------


@contextmanager
def puppet(site: Site, folder: Path, script: Script) -> Iterator[tuple[str, Puppet]]:
    """A target with a script, and its name."""
    with Puppet(folder, script=script) as target:
        name = f"puppet-{target.port}"
        site.add_target(name, target)
        yield name, target
        site.ask(TargetRemove(name=name, reason="over"))  # its port is another's soon, and the menu has few lines


def after_the_start(*said: tuple[int, bytes]) -> Script:
    """Says this when it is asked to run something, which it confirms."""

    def script(connection: PuppetConnection, kind: int, payload: bytes) -> bool:
        if kind != CHANNEL_REQUEST or b"exec" not in payload:
            return False
        connection.say(CHANNEL_SUCCESS, payload[:4])
        for message, body in said:
            connection.say(message, *((payload[:4],) if 93 <= message <= 100 else ()), body)
        return True

    return script


def in_place_of_a_confirmation(body: bytes) -> Script:
    def script(connection: PuppetConnection, kind: int, payload: bytes) -> bool:
        if kind == CHANNEL_OPEN:
            at = 4 + int.from_bytes(payload[:4])
            connection.say(OPEN_CONFIRMATION, payload[at : at + 4], body)
        return kind == CHANNEL_OPEN

    return script


ASKS = String("keepalive@openssh.com") + Boolean(True)
BREAKS: dict[str, Script] = {
    "window of 8 GiB": after_the_start((WINDOW_ADJUST, UInt32(0xFFFFFFFF)), (WINDOW_ADJUST, UInt32(0xFFFFFFFF))),
    "adjust cut short": after_the_start((WINDOW_ADJUST, b"\0\0")),
    "beyond the window": after_the_start(*[(DATA, String(bytes(30_000)))] * 80),
    "errors beyond the window": after_the_start(*[(EXTENDED_DATA, UInt32(1) + String(bytes(30_000)))] * 80),
    "data that does not fill": after_the_start((DATA, UInt32(1) + b"xy")),
    "errors that do not fill": after_the_start((EXTENDED_DATA, UInt32(1) + UInt32(1) + b"xy")),
    "errors cut short": after_the_start((EXTENDED_DATA, UInt32(1))),
    "request cut short": after_the_start((CHANNEL_REQUEST, UInt32(99) + b"exit")),
    "status cut short": after_the_start((CHANNEL_REQUEST, String("exit-status") + Boolean(False) + b"\0")),
    "signal cut short": after_the_start((CHANNEL_REQUEST, String("exit-signal") + Boolean(False) + String("KILL"))),
    "answer unasked": after_the_start((CHANNEL_SUCCESS, b""), (CHANNEL_SUCCESS, b"")),
    "confirmed twice": after_the_start((OPEN_CONFIRMATION, UInt32(0) * 2 + UInt32(1) + UInt32(32768))),
    "another channel": after_the_start((DATA, b""), (94, UInt32(77) + String("x"))),
    "global answer": after_the_start((REQUEST_SUCCESS, b"")),
    "thousands of questions": after_the_start(*[(CHANNEL_REQUEST, ASKS)] * 2000),
    "one byte at a time": in_place_of_a_confirmation(UInt32(0) + UInt32(1 << 21) + UInt32(1)),
    "confirmation cut short": in_place_of_a_confirmation(UInt32(0) + UInt32(1)),
}


@pytest.mark.usefixtures("evidence")
def test_a_target_that_breaks_the_protocol_is_left_and_named(site: Site, entry: str, tmp_path: Path) -> None:
    """[S10] Its fault is not ours, nor the person's: who hears which target it was, and the recording says so."""

    async def one(name: str) -> tuple[bytes, int | None]:
        async with logged_in(site, entry, name) as raw:
            raw.ask(await raw.session(), "exec", String("true"))
            return await raw.output()

    for index, (what, script) in enumerate(BREAKS.items()):
        with puppet(site, tmp_path / str(index), script) as (name, _):
            said, status = asyncio.run(one(name))
            assert status == 69, what
            assert f"target `{name}` broke the protocol: ".encode() in said.lstrip(b"\0"), what


def test_what_a_target_says_behind_what_it_says_reaches_nobody(
    site: Site, entry: str, tmp_path: Path, evidence: Evidence
) -> None:
    """[S10] No recording would tell of it. Data behind its EOF is none, errors of an unknown kind are not shown."""
    secret = b"not recorded" * 100
    script = after_the_start(
        (EXTENDED_DATA, UInt32(2) + String(secret)),
        (EXTENDED_DATA, UInt32(0xFFFFFFFF) + String(secret)),
        (CHANNEL_REQUEST, String("eow@openssh.com") + Boolean(False) + secret),
        (CHANNEL_REQUEST, String("xon-xoff") + Boolean(False) + b"\1" + secret),
        (CHANNEL_REQUEST, String("hello@example.com") + Boolean(False) + secret),
        (
            CHANNEL_REQUEST,
            String("exit-signal") + Boolean(False) + String("KILL") + b"\0" + String("") + String(secret),
        ),
        (DATA, String("told")),
        (EOF, secret),
        (DATA, String(secret)),
        (EXTENDED_DATA, UInt32(1) + String(secret)),
        (EOF, b""),
        (CLOSE, secret),
    )

    async def dialogue(name: str) -> list[tuple[int, bytes]]:
        async with logged_in(site, entry, name) as raw:
            raw.ask(await raw.session(), "exec", String("true"))
            heard = [await raw.hear()]
            while heard[-1][0] not in (CLOSE, 0):
                heard.append(await raw.hear())
            return heard

    with puppet(site, tmp_path / "puppet", script) as (name, _):
        heard = asyncio.run(dialogue(name))
    assert secret[:12] not in b"".join(payload for _, payload in heard)
    assert [kind for kind, _ in heard if kind not in (CHANNEL_REQUEST, WINDOW_ADJUST)] == [
        CHANNEL_SUCCESS, DATA, EOF, CLOSE]  # fmt: skip
    assert (tape := evidence.tape())
    assert tape.output == b"told"
    assert tape.errors == b""


def test_standard_error_larger_than_the_person_takes_comes_in_pieces(
    site: Site, entry: str, tmp_path: Path, evidence: Evidence
) -> None:
    """[S6] As other data does."""
    text = bytes(range(256)) * 120

    async def dialogue(name: str) -> bytes:
        async with logged_in(site, entry, name) as raw:
            raw.ask(await raw.session(packet=1000), "exec", String("true"))
            errors = b""
            while (said := await raw.until(EXTENDED_DATA, CLOSE))[0] != CLOSE:
                assert struct.unpack_from(">II", said[1], 4) == (1, len(said[1]) - 12)
                assert len(said[1]) - 12 <= 1000
                errors += said[1][12:]
            return errors

    script = after_the_start((EXTENDED_DATA, UInt32(1) + String(text)), (CLOSE, b""))
    with puppet(site, tmp_path / "puppet", script) as (name, _):
        assert asyncio.run(dialogue(name)) == text
    assert (tape := evidence.tape())
    assert tape.errors == text


@pytest.mark.usefixtures("evidence")
def test_a_target_asks_whether_anybody_is_there_and_is_answered_in_order(
    site: Site, entry: str, tmp_path: Path
) -> None:
    """[S10] The person answers what is theirs, we what nobody knows; RFC 4254 section 5.4."""
    unknown = String("hello@example.com") + Boolean(True)
    script = after_the_start(*[(CHANNEL_REQUEST, ASKS), (CHANNEL_REQUEST, unknown)] * 3)

    async def dialogue(name: str, target: Puppet) -> list[int]:
        async with logged_in(site, entry, name) as raw:
            channel = await raw.started("exec", String("true"))
            for number in range(3):
                _, payload = await raw.until(CHANNEL_REQUEST)
                assert payload[4:] == ASKS
                raw.say(CHANNEL_SUCCESS if number % 2 else CHANNEL_FAILURE, UInt32(channel))
            raw.say(GLOBAL_REQUEST, String("keepalive@openssh.com"), Boolean(True))
            await raw.until(REQUEST_SUCCESS)
            answers: list[int] = []
            async with asyncio.timeout(LONG):
                while len(answers) < 6:
                    answers = [kind for kind, _ in target.heard if kind in (CHANNEL_SUCCESS, CHANNEL_FAILURE)]
                    await asyncio.sleep(0.01)
            return answers

    with puppet(site, tmp_path / "puppet", script) as (name, target):
        no, yes = CHANNEL_FAILURE, CHANNEL_SUCCESS
        assert asyncio.run(dialogue(name, target)) == [no, no, yes, no, no, no]


def test_connections_back_come_only_from_where_the_person_asked_for(
    site: Site, entry: str, tmp_path: Path, evidence: Evidence
) -> None:
    """[S10] RFC 4254 section 7.2: host, port and path, not the kind alone."""
    origin = String("192.0.2.9") + UInt32(7)

    def tcp(host: str, port: int, more: bytes = b"") -> bytes:
        return String(host) + UInt32(port) + origin + more

    unix = "forwarded-streamlocal@openssh.com"
    tries = [
        ("forwarded-tcpip", tcp("localhost", 4001)), ("forwarded-tcpip", tcp("192.0.2.1", 4000)),
        ("forwarded-tcpip", tcp("localhost", 0)), ("forwarded-tcpip", tcp("localhost", 4000, b"more")),
        ("forwarded-tcpip", b""), (unix, String("/run/other") + String("")), (unix, String("/run/asked")),
        (unix, String("/run/asked") + String("") + b"more"), ("x11", origin), ("auth-agent@openssh.com", b""),
        ("session", b""), ("direct-tcpip", tcp("localhost", 4000)),
        ("forwarded-tcpip", tcp("localhost", 4000)), ("forwarded-tcpip", tcp("127.0.0.1", 4000)),
        ("forwarded-tcpip", tcp("0.0.0.0", 5000)), (unix, String("/run/asked") + String("reserved")),
    ]  # fmt: skip
    wanted = [("forwarded-tcpip", tcp("localhost", 4000)), ("forwarded-tcpip", tcp("127.0.0.1", 4000)),
              ("forwarded-tcpip", tcp("0.0.0.0", 5000)), (unix, String("/run/asked") + String(""))]  # fmt: skip

    def script(connection: PuppetConnection, kind: int, payload: bytes) -> bool:
        if kind == GLOBAL_REQUEST and payload.endswith(UInt32(0)):
            connection.say(REQUEST_SUCCESS, UInt32(5000) + b"more than the port")
            return True
        if kind == CHANNEL_REQUEST:
            for number, (what, body) in enumerate(tries):
                sizes = UInt32(100 + number) + UInt32(1 << 20) + UInt32(32768)
                connection.say(CHANNEL_OPEN, String(what), sizes, body)
        return False

    async def dialogue(name: str, target: Puppet) -> list[tuple[str, bytes]]:
        async with logged_in(site, entry, name) as raw:
            for host, port in (("localhost", 4000), ("", 0)):
                raw.say(GLOBAL_REQUEST, String("tcpip-forward"), Boolean(True), String(host), UInt32(port))
                kind, said = await raw.until(REQUEST_SUCCESS, REQUEST_FAILURE)
                assert (kind, said) == (REQUEST_SUCCESS, b"" if port else UInt32(5000))
            raw.say(GLOBAL_REQUEST, String("streamlocal-forward@openssh.com"), Boolean(True), String("/run/asked"))
            await raw.until(REQUEST_SUCCESS)
            raw.ask(await raw.session(), "exec", String("true"))
            opened = []
            for _ in wanted:
                _, payload = await raw.until(CHANNEL_OPEN)
                at = 4 + int.from_bytes(payload[:4])
                opened.append((payload[4:at].decode(), payload[at + 12 :]))
                raw.say(OPEN_CONFIRMATION, payload[at : at + 4], UInt32(50 + len(opened)), UInt32(9), UInt32(32768))
            async with asyncio.timeout(LONG):
                while sum(kind in (91, 92) for kind, _ in target.heard) < len(tries):  # noqa: ASYNC110 - another thread's
                    await asyncio.sleep(0.01)
            return opened

    with puppet(site, tmp_path / "puppet", script) as (name, target):
        assert asyncio.run(dialogue(name, target)) == wanted
        refused = {int.from_bytes(payload[:4]) - 100 for kind, payload in target.heard if kind == OPEN_FAILURE}
        assert refused == set(range(len(tries) - len(wanted)))
    tape = evidence.tape()
    assert tape is not None
    opened = [(note.kind, note.destination) for note in tape.forwards if note.state == "open"]
    assert opened == [
        ("forward-remote", b"localhost:4000"), ("forward-remote", b"127.0.0.1:4000"),
        ("forward-remote", b"0.0.0.0:5000"), ("forward-socket", b"/run/asked"),
    ]  # fmt: skip
