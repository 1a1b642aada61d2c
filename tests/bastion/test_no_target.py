"""A connection that names no target: commands of the bastion's own, the menu, and the target that it leads to."""

import asyncio
from pathlib import Path
from typing import Any

import asyncssh
import msgspec
import pytest

from bastion.errors import Denied, ExitCode
from policy.messages import Authorize, Refused, Sign
from recorder.model import Kind, Start
from tests.bastion.aio import asynchronous, quiet, until
from tests.bastion.site import Site, SiteDoor
from tests.bastion.ssh import ssh
from tests.bastion.targets import Target


async def menu(door: SiteDoor, local: Any) -> Any:
    """Asks for a line, and goes where it says."""
    local.write(b"pick> ")
    line = b""
    while not line.endswith(b"\n"):
        data = await local.read()
        if not data:
            return None
        line += data
    return await door.pick("root", line.strip().decode(), local)


async def echo(door: SiteDoor, local: Any) -> Any:
    local.write(b"you said %r\n" % local.command)
    local.exit(5)


@asynchronous
async def test_a_command_of_our_own(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.serve = echo
        said = await ssh(site, "whoami", "--json", target="")
        assert (said.code, said.output) == (5, b"you said b'whoami --json'\n")
        assert site.recorder.tapes == []


@asynchronous
async def test_places_come_back_after_commands_of_our_own(tmp_path: Path) -> None:
    async with Site(tmp_path, channels=3) as site:
        site.serve = echo
        async with await site.client("bob") as client:
            for _ in range(10):
                assert (await client.run("ls")).exit_status == 5
            await until("every number is given back", lambda: not site.door._channels)
            assert not site.door._sessions


@asynchronous
async def test_a_command_that_fails_on_our_side_ends_the_connection_and_is_not_silent(tmp_path: Path) -> None:
    async def broken(door: SiteDoor, local: Any) -> Any:
        raise ZeroDivisionError

    async with Site(tmp_path) as site:
        site.serve = broken
        said = await ssh(site, "ls", target="")
        assert said.code == 255


@asynchronous
async def test_a_command_that_says_no_says_it_with_its_code(tmp_path: Path) -> None:
    async def says_no(door: SiteDoor, local: Any) -> Any:
        local.write(b"so far so good\n")
        raise Denied("not for you", "ask carol", code=ExitCode.PENDING)

    async with Site(tmp_path) as site:
        site.serve = says_no
        said = await ssh(site, "ls", target="")
        assert (said.code, said.lines) == (75, ["bastion: not for you", "bastion: ask carol"])


@asynchronous
async def test_sftp_without_a_target_is_told_how(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        said = await ssh(site, "sftp", target="", options=("-s",))
        assert said.code == 64
        assert said.lines == ["bastion: no target is named", "bastion: use: sftp account@target@bastion"]


@asynchronous
async def test_the_menu_leads_to_a_shell_of_the_right_size(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    async def shell(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        process.stdout.write(b"$ ")
        line = b""
        while not line.endswith(b"\n"):
            try:
                line += await process.stdin.read(100)
            except asyncssh.TerminalSizeChanged:
                continue  # told before the shell began
        seen.append((process.command, process.term_type, process.term_size[:2], line))
        process.exit(4)

    async with Target(shell) as target, Site(tmp_path) as site:
        site.target_port, site.serve = target.port, menu
        async with await site.client("bob") as client:
            process = await client.create_process(term_type="vt100", term_size=(80, 24), encoding=None)
            assert await process.stdout.readexactly(6) == b"pick> "
            process.change_terminal_size(90, 30)
            process.change_terminal_size(100, 40)
            process.stdin.write(b"web1\n")
            await until("it is dialled", lambda: site.asked_for(Authorize))
            process.stdin.write(b"ls\n")  # for the shell, whenever it is there
            assert await process.stdout.readexactly(2) == b"$ "
            await process.wait()
            assert process.exit_status == 4
        assert seen == [(None, "vt100", (100, 40), b"ls\n")]
        (note,) = site.tape.notes(Kind.START)
        start = msgspec.msgpack.decode(note, type=Start)
        assert (start.kind, start.term, start.columns, start.rows) == ("shell", b"vt100", 100, 40)
        assert site.asked_for(Authorize)[0].via == "menu"


@asynchronous
async def test_what_is_typed_while_the_target_is_dialled_reaches_it(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(request: Authorize) -> None:
        await gate.wait()

    async with Target() as target, Site(tmp_path) as site:
        site.target_port, site.serve = target.port, menu
        site.answers[Authorize] = slow
        async with await site.client("bob") as client:
            process = await client.create_process("cat", encoding=None)
            assert await process.stdout.readexactly(6) == b"pick> "
            process.stdin.write(b"web1\n")
            await until("it is dialled", lambda: site.asked_for(Authorize))
            process.stdin.write(b"typed ahead")
            await quiet()
            gate.set()
            assert await process.stdout.readexactly(11) == b"typed ahead"
            process.stdin.write(b"x" * 100_000)
            process.stdin.write_eof()
            assert await process.stdout.read() == b"x" * 100_000
        assert site.tape.of(Kind.INPUT, Kind.SEALED_INPUT) or site.tape.of(Kind.OUTPUT)


@asynchronous
async def test_a_choice_that_is_denied_says_why(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.serve = menu
        async with await site.client("bob") as client:
            process = await client.create_process("x", encoding=None)
            process.stdin.write(b"nowhere\n")
            result = await process.wait()
            assert result.exit_status == 77
            assert b"you have no access to that" in (result.stderr or b"")


@asynchronous
async def test_a_target_that_opens_no_session_says_so(tmp_path: Path) -> None:
    async with Target() as target, Site(tmp_path) as site:
        site.target_port, site.serve = target.port, menu
        async with await site.client("bob") as client:
            process = await client.create_process("x", encoding=None)
            await process.stdout.readexactly(6)

            def refuse(connection: Any) -> None:
                real = connection.process_packet

                def process_packet(kind: int, seq: int, packet: Any) -> Any:
                    if kind != 90:
                        return real(kind, seq, packet)
                    packet.get_string()
                    number = packet.get_uint32()
                    packet.get_bytes(len(packet.get_remaining_payload()))
                    connection.send_channel_open_failure(number, 4, "no \x1b[2J room", "")
                    return True

                connection.process_packet = process_packet

            async def prepared(request: Sign) -> None:
                refuse(target.connections[-1])

            site.answers[Sign] = prepared
            process.stdin.write(b"web1\n")
            result = await process.wait()
            said = str(result.stderr)
            assert result.exit_status == 69
            assert "opens no session: no" in said
            assert "\x1b" not in said
            await until("its place is free", lambda: not site.door._sessions)


@asynchronous
async def test_a_person_who_leaves_the_menu(tmp_path: Path) -> None:
    left: list[bytes] = []

    async def waits(door: SiteDoor, local: Any) -> Any:
        local.write(b"pick> ")
        left.append(await local.read())

    async with Site(tmp_path) as site:
        site.serve = waits
        client = await site.client("bob")
        process = await client.create_process("x", encoding=None)
        await process.stdout.readexactly(6)
        process.close()
        await until("its place is free", lambda: not site.door._sessions)
        await until("its number too", lambda: not site.door._channels)
        client.abort()


@pytest.mark.parametrize("extra", [True, False])
@asynchronous
async def test_a_ticket_that_comes_with_the_channel_is_tried_again(extra: bool, tmp_path: Path) -> None:
    def needs_ticket(request: Authorize) -> Refused | None:
        if request.ticket == "OPS-1" and request.reason == "disk full":
            return None
        return Refused(code=77, cause="a ticket is needed", hint="ssh -o SetEnv=BASTION_TICKET=... web1")

    async with Target() as target, Site(tmp_path) as site:
        site.target_port = target.port
        site.answers[Authorize] = needs_ticket
        async with await site.client("root@web1") as client:
            env = {"BASTION_TICKET": "OPS-1", "BASTION_REASON": "disk full", "LC_X": "y"} if extra else {}
            result = await client.run("exit 3", env=env)
            assert result.exit_status == (3 if extra else 77)
            if not extra:
                assert "a ticket is needed" in str(result.stderr)
            else:
                assert site.tape.open is not None
                assert site.tape.open.private["ticket"] == "OPS-1"
                start = msgspec.msgpack.decode(site.tape.notes(Kind.START)[0], type=Start)
                assert start.env == {"LC_X": b"y"}, "ours go no further"
                assert (await client.run("exit 4")).exit_status == 4
