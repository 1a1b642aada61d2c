"""A client that holds many sessions at once, or one that never reads: `python -m tests.bench.holder`.

Its own process, because asyncssh needs an event loop, and because what it costs must not count. It obeys words on
standard input, one a line, and answers each with one line on standard output.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import asyncssh

AT_ONCE = 4  # logins in flight: enough to be quick, few enough for anybody's limit of half-open connections
KEY_PAUSE = 60 / 139  # seconds between keys of the busy operator in the recording corpus


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--user", required=True, help="login of the connection to the port")
    parser.add_argument("--key", required=True)
    parser.add_argument("--nested", help="ACCOUNT@TARGET reached as `ssh -J` does")
    options = parser.parse_args()
    holder = Holder(options.port, options.user, options.key, options.nested or "")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        word, _, number = line.strip().partition(" ")
        print(await getattr(holder, f"do_{word}")(int(number or 0)), flush=True)


class Holder:
    """The sessions held; one method per word."""

    def __init__(self, port: int, user: str, key: str, nested: str) -> None:
        self.port, self.user, self.nested = port, user, nested
        self.key = asyncssh.read_private_key(Path(key))
        self.connections: list[asyncssh.SSHClientConnection] = []
        self.sessions: list[asyncssh.SSHClientProcess[bytes]] = []

    async def do_open(self, count: int) -> str:
        """`open N`: N more sessions, each a connection of its own with a shell on a terminal."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with gate:
                connection = await self._connect()
                session: Any = await connection.create_process(
                    "echo ready; exec cat >/dev/null", term_type="xterm", encoding=None
                )
                seen = b""
                while b"ready" not in seen:
                    seen += await session.stdout.read(100)
                self.sessions.append(session)

        await asyncio.gather(*(one() for _ in range(count)))
        return f"holding {len(self.sessions)}"

    async def do_type(self, seconds: int) -> str:
        """`type S`: in every session a key at an operator's pace, for S seconds."""

        async def typist(number: int, session: "asyncssh.SSHClientProcess[bytes]") -> int:
            await asyncio.sleep(KEY_PAUSE * number / len(self.sessions))
            count = int(seconds / KEY_PAUSE)
            for _ in range(count):
                session.stdin.write(b"k")
                await session.stdout.read(10)
                await asyncio.sleep(KEY_PAUSE)
            return count

        keys = await asyncio.gather(*(typist(*pair) for pair in enumerate(self.sessions)))
        return f"typed {sum(keys)}"

    async def do_stall(self, count: int) -> str:
        """`stall N`: N sessions that ask for everything, grant a window of 2 GiB and then never read their socket."""
        for _ in range(count):
            connection = await self._connect()
            await connection.create_process("exec cat /dev/zero", encoding=None, window=(1 << 31) - 1)
            transport: Any = connection._transport
            transport.pause_reading()
        return f"stalling {len(self.connections)}"

    async def _connect(self) -> asyncssh.SSHClientConnection:
        common: dict[str, Any] = {"known_hosts": None, "config": None, "agent_path": None, "client_keys": [self.key],
                                  "encryption_algs": ["aes128-gcm@openssh.com"], "login_timeout": 60}  # fmt: skip
        connection = await asyncssh.connect("127.0.0.1", self.port, username=self.user, **common)
        self.connections.append(connection)
        if self.nested:
            account, _, target = self.nested.partition("@")
            connection = await asyncssh.connect(target, 22, username=account, tunnel=connection, **common)
            self.connections.append(connection)
        return connection


if __name__ == "__main__":
    asyncio.run(main())
