"""Targets in the loop of the test: stock asyncssh servers that do what a test needs, well behaved or not."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import asyncssh

from tests.bastion.site import GCM, LOOPBACK, key

Handler = Callable[["asyncssh.SSHServerProcess[bytes]"], Any]


class Target:
    """`connections` are what the gateway has opened; `processes` what ran."""

    def __init__(self, handler: Handler | None = None, ciphers: list[str] = GCM, **options: Any) -> None:
        self.handler = handler or shell
        self.ciphers = ciphers
        self.options = options
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.commands: list[str | None] = []

    async def __aenter__(self) -> Self:
        target = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                target.connections.append(conn)

            def begin_auth(self, username: str) -> bool:
                return True

            def public_key_auth_supported(self) -> bool:
                return True

            def validate_public_key(self, username: str, offered: asyncssh.SSHKey) -> bool:
                return offered.public_data == key("vault").public_data

            def connection_requested(self, *_: Any) -> Any:
                return echo_stream

            def server_requested(self, host: str, port: int) -> bool:
                return True

        async def run(process: "asyncssh.SSHServerProcess[bytes]") -> None:
            self.commands.append(process.command)
            await self.handler(process)

        settings: dict[str, Any] = {"kex_algs": ["curve25519-sha256"], **self.options}
        self._server = await asyncssh.create_server(
            Server, LOOPBACK, 0, server_host_keys=[key("target")], process_factory=run, encoding=None,
            encryption_algs=self.ciphers, compression_algs=["none"], line_editor=False, **settings,
        )  # fmt: skip
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self.connections:
            connection.abort()
        await asyncio.sleep(0)


async def echo_stream(reader: "asyncssh.SSHReader[bytes]", writer: "asyncssh.SSHWriter[bytes]") -> None:
    """A forwarded connection that says everything back."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def shell(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    """`cat`, `exit N`, `signal`, `err TEXT`, `flood N`, `size`; anything else is said back."""
    words = (process.command or "").split()
    match words:
        case ["cat"]:
            while data := await process.stdin.read(65536):
                process.stdout.write(data)
                await process.stdout.drain()
            process.exit(0)
        case ["exit", status]:
            process.exit(int(status))
        case ["signal"]:
            process.exit_with_signal("TERM", True, "told to")
        case ["err", text]:
            process.stderr.write(text.encode())
            process.exit(1)
        case ["flood", count]:
            block = bytes(range(256)) * 128
            for _ in range(int(count)):
                process.stdout.write(block)
                await process.stdout.drain()
            process.exit(0)
        case ["wait"]:
            process.stdout.write(b"ready\n")
            while True:
                try:
                    await process.stdin.read()
                    break
                except asyncssh.TerminalSizeChanged as change:
                    process.stdout.write(b"%dx%d\n" % (change.width, change.height))
            process.exit(0)
        case _:
            process.stdout.write(f"ran {process.command}\n".encode())
            process.exit(0)
