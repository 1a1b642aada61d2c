"""A target for the demo on machines without sshd: shell, commands, sftp and scp as the user who runs it.

`python -m bastion.ssh.demo_target PORT HOST_KEY AUTHORIZED_KEYS` listens on 127.0.0.1 alone. Not for anything else.
"""

import asyncio
import fcntl
import os
import pty
import signal
import struct
import sys
import termios

import asyncssh

LOOPBACK = "127.0.0.1"
READ_SIZE = 32 * 1024  # what OpenSSH puts into one channel packet


class Server(asyncssh.SSHServer):
    """Public keys alone; asyncssh checks them against the file."""

    def public_key_auth_supported(self) -> bool:
        return True


class Files(asyncssh.SFTPServer):
    """Says good-bye with a status; asyncssh's own does not, and scp takes that for a failure."""

    def exit(self) -> None:
        self.channel.exit(0)


async def session(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    """One shell or command, on a terminal if the client asked for one."""
    shell = os.environ.get("SHELL", "/bin/sh")
    words = [shell, "-c", process.command] if process.command else [shell]
    environment = {**os.environ, **process.env, "TERM": process.term_type or "dumb"}
    if process.term_type:
        status = await _on_terminal(process, words, environment)
    else:
        status = await _on_pipes(process, words, environment)
    if status < 0:
        process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
    else:
        process.exit(status)


async def _on_pipes(process: "asyncssh.SSHServerProcess[bytes]", words: list[str], environment: dict[str, str]) -> int:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    status = await child.wait()
    await process.stdout.drain()
    return status


async def _on_terminal(
    process: "asyncssh.SSHServerProcess[bytes]", words: list[str], environment: dict[str, str]
) -> int:
    ours, theirs = pty.openpty()
    _resize(ours, process.term_size)
    child = await asyncio.create_subprocess_exec(
        *words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    typing = asyncio.create_task(_type(process, ours))
    loop = asyncio.get_running_loop()
    try:
        while data := await loop.run_in_executor(None, _read, ours):
            process.stdout.write(data)
            await process.stdout.drain()
    finally:
        typing.cancel()
        os.close(ours)
    return await child.wait()


async def _type(process: "asyncssh.SSHServerProcess[bytes]", terminal: int) -> None:
    while True:
        try:
            data = await process.stdin.read(READ_SIZE)
        except asyncssh.TerminalSizeChanged as change:
            _resize(terminal, change.term_size)
            continue
        except (asyncssh.BreakReceived, asyncssh.SignalReceived):
            data = b"\x03"
        if not data:
            return
        os.write(terminal, data)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, READ_SIZE)
    except OSError:  # EIO: the last process on the terminal has gone
        return b""


def _resize(terminal: int, size: tuple[int, int, int, int]) -> None:
    columns, rows, width, height = size
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, width, height))


async def serve(port: int, host_key: str, authorized_keys: str) -> None:
    """Listen until SIGTERM."""
    await asyncssh.create_server(
        Server, LOOPBACK, port, server_host_keys=[host_key], authorized_client_keys=authorized_keys,
        process_factory=session, sftp_factory=Files, allow_scp=True, encoding=None,
    )  # fmt: skip
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
