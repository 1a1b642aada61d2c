"""One attempt at each kind of channel, in several disguises: what was answered, and what the target saw of it.

Each function returns what the bastion answered: DONE if the channel did its work, else how it was refused.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncssh

from policy.model import ChannelKind
from tests.support.net import LOOPBACK
from tests.support.site import DIRECT, Site
from tests.support.sshd import SFTP_SERVER

DONE: Final = "done"
PROHIBITED: Final = "open failed: administratively prohibited"
TOLD: Final = "status 77, and two lines that say why"
NOT_GRANTED: Final = "request failed"
NOT_THERE: Final = "silently left out"

_STARTING: Final = "Starting session: "
"""How sshd's log begins each shell, command and subsystem."""


@dataclass
class Try:
    """A connection to the target, and what can be seen of it from the other side."""

    site: Site
    connection: asyncssh.SSHClientConnection
    folder: Path
    contacts: list[str] = field(default_factory=list)  # what reached the target, as it saw it
    port: int = 0  # of a service beside the target ...
    path: str = ""  # ... and of one on a socket

    async def run(self, command: str | None = None, data: bytes = b"", first: int = 0, **options: Any) -> str:
        """A session; DONE if it said `did it`. `first` bytes of output are awaited before input ends."""
        before = self.site.target.log().count(_STARTING)
        process = await self.connection.create_process(command, encoding=None, **options)
        try:
            process.stdin.write(data)
            begun = await process.stdout.read(first) if first else b""
            process.stdin.write_eof()
        except BrokenPipeError:
            begun = b""  # refused, and closed already
        out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
        out = begun + out
        await process.wait_closed()
        self.contacts += self.site.target.log().split(_STARTING)[1 + before :]
        if process.exit_status == 77 and err.count(b"bastion: ") == 2:
            return TOLD
        return DONE if b"did it" in out else f"status {process.exit_status}: {out!r} {err!r}"


async def shell(at: Try) -> str:
    return await at.run(data=b"echo did it\nexit\n")


async def command(at: Try) -> str:
    return await at.run("echo did it")


async def subsystem(at: Try) -> str:
    return await at.run(subsystem="echo", data=b"did it")


async def sftp(at: Try) -> str:
    """The first request of the protocol; what answers it is an SFTP server."""
    answer = await at.run(subsystem="sftp", data=bytes.fromhex("000000050100000003"), first=9)
    return DONE if "\\x02\\x00\\x00\\x00\\x03" in answer else answer


async def sftp_by_command(at: Try) -> str:
    """The same server by its path: rules for files do not end at the name of a subsystem."""
    answer = await at.run(SFTP_SERVER, data=bytes.fromhex("000000050100000003"), first=9)
    return DONE if "\\x02\\x00\\x00\\x00\\x03" in answer else answer


async def scp(at: Try) -> str:
    there = at.folder / "there"
    answer = await at.run(f"scp -t {there}", data=b"C0600 6 there\ndid it\0")
    return DONE if there.exists() else answer


async def rsync(at: Try) -> str:
    answer = await at.run(f"rsync --server -e.LsfxCIvu . {at.folder}", data=(31).to_bytes(4, "little"))
    return answer if answer == TOLD else DONE


async def local_forward(at: Try) -> str:
    return await _asks(at.connection.open_connection(LOOPBACK, at.port, encoding=None))


async def forward_to_ssh(at: Try) -> str:
    """A tunnel to the target's own sshd, by its address: past the bastion, so to speak."""
    return await _asks(at.connection.open_connection(LOOPBACK, at.site.target.port, encoding=None), wanted=b"SSH-2.0-")


async def socket_forward(at: Try) -> str:
    return await _asks(at.connection.open_unix_connection(at.path, encoding=None))


async def remote_forward(at: Try) -> str:
    try:
        listener = await at.connection.forward_remote_port(LOOPBACK, 0, LOOPBACK, at.port)
    except asyncssh.ChannelListenError:
        return NOT_GRANTED
    at.contacts.append("it listens")
    answer = await _asks(asyncio.open_connection(LOOPBACK, listener.get_port()))
    listener.close()
    return answer


async def remote_socket_forward(at: Try) -> str:
    try:
        listener = await at.connection.forward_remote_path(f"{at.folder}/far", at.path)
    except asyncssh.ChannelListenError:
        return NOT_GRANTED
    at.contacts.append("it listens")
    answer = await _asks(asyncio.open_unix_connection(f"{at.folder}/far"))
    listener.close()
    return answer


async def agent(at: Try) -> str:
    """The command runs all the same, and finds none."""
    answer = await at.run('test -S "$SSH_AUTH_SOCK" && ssh-add -l && echo did it')
    return _aside(at, answer)


async def x11(at: Try) -> str:
    authority = at.folder / "Xauthority"
    authority.touch()
    answer = await at.run('test -n "$DISPLAY" && echo did it', x11_forwarding="ignore_failure",
                          x11_display=f"{LOOPBACK}:99", x11_auth_path=str(authority))  # fmt: skip
    return _aside(at, answer)


def _aside(at: Try, answer: str) -> str:
    """The command's own start is allowed, and not what is asked about."""
    at.contacts.clear()
    if answer == DONE:
        at.contacts.append("it was there")
        return DONE
    return NOT_THERE if answer.startswith("status 1: b''") else answer


async def _asks(opening: Awaitable[Any], wanted: bytes = b"did it") -> str:
    try:
        reader, writer = await opening
    except asyncssh.ChannelOpenError as error:
        return PROHIBITED if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED else f"open failed: {error.code}"
    try:
        writer.write(b"did it")
        answer = await reader.read(64)
        return DONE if answer.startswith(wanted) else f"answered {answer!r}"
    finally:
        writer.close()


ATTEMPTS: Final[dict[str, tuple[ChannelKind, Callable[[Try], Awaitable[str]], str]]] = {
    "shell": (ChannelKind.SHELL, shell, TOLD),
    "command": (ChannelKind.EXEC, command, TOLD),
    "subsystem": (ChannelKind.SUBSYSTEM, subsystem, TOLD),
    "sftp": (ChannelKind.SFTP, sftp, TOLD),
    "sftp by command": (ChannelKind.SFTP, sftp_by_command, TOLD),
    "scp": (ChannelKind.SCP, scp, TOLD),
    "rsync": (ChannelKind.SCP, rsync, TOLD),
    "local forward": (ChannelKind.FORWARD_LOCAL, local_forward, PROHIBITED),
    "forward to ssh": (ChannelKind.FORWARD_LOCAL, forward_to_ssh, PROHIBITED),
    "remote forward": (ChannelKind.FORWARD_REMOTE, remote_forward, NOT_GRANTED),
    "socket forward": (ChannelKind.FORWARD_SOCKET, socket_forward, PROHIBITED),
    "remote socket forward": (ChannelKind.FORWARD_SOCKET, remote_socket_forward, NOT_GRANTED),
    "agent": (ChannelKind.AGENT, agent, NOT_THERE),
    "x11": (ChannelKind.X11, x11, NOT_THERE),
}
"""Name -> channel kind of policy, how to try it, how a refusal is answered."""

CARRIER: Final = {ChannelKind.AGENT: ChannelKind.EXEC, ChannelKind.X11: ChannelKind.EXEC}
"""Kinds that come as a request on a channel of another kind."""


@asynccontextmanager
async def trying(site: Site, entry: str, folder: Path, agent_path: str = "") -> AsyncIterator[Try]:
    """A connection by an entry path, with a service beside the target that notes who came."""
    contacts: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        contacts.append("a connection")
        writer.write(await reader.read(64))
        writer.close()

    service = await asyncio.start_server(serve, LOOPBACK, 0)
    path = f"{folder}/near"
    sockets = await asyncio.start_unix_server(serve, path)
    async with service, sockets, connected(site, entry, agent_path) as connection:
        yield Try(site, connection, folder, contacts, service.sockets[0].getsockname()[1], path)
    os.unlink(path)


@asynccontextmanager
async def connected(site: Site, entry: str, agent_path: str = "") -> AsyncIterator[asyncssh.SSHClientConnection]:
    options: dict[str, Any] = {
        "known_hosts": str(site.known_hosts), "client_keys": [str(site.key("alice"))], "config": None,
        "agent_path": agent_path or None, "agent_forwarding": bool(agent_path),
    }  # fmt: skip
    user = site.login() if entry == DIRECT else "alice"
    async with asyncssh.connect(LOOPBACK, site.port, username=user, **options) as connection:
        if entry == DIRECT:
            yield connection
            return
        async with asyncssh.connect("web1", username=site.target.account, tunnel=connection, **options) as inner:
            yield inner
