"""Real recordings, made through the real recorderd, for the auditor's tool to read."""

import os
import pty
import select
import signal
import struct
import subprocess
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from fcntl import ioctl
from hashlib import sha256
from pathlib import Path
from termios import TIOCSWINSZ

import msgspec

from recorder.messages import MAX_APPEND, End, Ended, Open, Opened
from recorder.model import (
    MAX_EVENT_DATA,
    AccessNote,
    Event,
    Exit,
    ForwardNote,
    Kind,
    Note,
    SftpOp,
    Start,
)
from tests.recorder.daemon import Client, Daemon

T0_US = 1_790_000_000_000_000
PRIVATE = {"person": "alice", "account": "root", "target": "web1", "source": "192.0.2.7", "rule": "admins"}


def note(kind: Kind, channel: int, ms: int, said: Note) -> Event:
    return Event(kind, channel, ms, msgspec.msgpack.encode(said))


def shell(channel: int = 0, ms: int = 0, columns: int = 80, rows: int = 24) -> Event:
    return note(Kind.START, channel, ms, Start(kind="shell", term=b"xterm-256color", columns=columns, rows=rows))


def out(ms: int, data: bytes, channel: int = 0) -> Event:
    return Event(Kind.OUTPUT, channel, ms, data)


def typed(ms: int, data: bytes, channel: int = 0) -> Event:
    return Event(Kind.INPUT, channel, ms, data)


def exited(ms: int, status: int = 0, channel: int = 0) -> Event:
    return note(Kind.EXIT, channel, ms, Exit(status=status))


def session_id(number: int) -> str:
    """A UUIDv7 whose time is `number` minutes after T0."""
    stamp = T0_US // 1000 + number * 60_000
    return f"{stamp:012x}7{uuid.uuid4().hex[:3]}8{uuid.uuid4().hex[:15]}"


SHELL = [
    shell(),
    out(100, b"\x1b[01;32mroot@web1\x1b[0m:~# "),
    *(typed(1000 + 90 * at, bytes([char])) for at, char in enumerate(b"uname\r")),
    out(1500, b"uname\r\nLinux\r\n\x1b[01;32mroot@web1\x1b[0m:~# "),
    out(9000, b"\x1b]0;a title\x07\x1b]52;c;ZXZpbA==\x07after a long silence \xe2\x9c\x93\r\n"),
    Event(Kind.SEALED_INPUT, 0, 9500, bytes(32) + (6).to_bytes(4, "big")),
    out(10_000, b"logout\r\n"),
    exited(10_001),
]

MIXED = [
    note(Kind.START, 0, 0, Start(kind="exec", command=b"printf 'a\\nb\\n'; echo \x1b[31mred >&2")),
    out(5, b"a\nb\n"),
    Event(Kind.STDERR, 0, 6, b"\x1b[31mred\x1b[0m\n"),
    exited(9, 3),
    note(Kind.START, 1, 20, Start(kind="sftp")),
    note(
        Kind.SFTP, 1, 40, SftpOp(op="write", path=b"/tmp/\x1b]0;x\x07.txt", size=5, sha256=sha256(b"hello").digest())
    ),
    note(Kind.SFTP, 1, 50, SftpOp(op="rename", path=b"/tmp/a", to=b"/tmp/\xff\xfe", status=3)),
    exited(60, channel=1),
    note(Kind.FORWARD, 2, 70, ForwardNote(state="open", kind="forward-local", destination=b"db1:5432")),
    note(
        Kind.FORWARD, 2, 90, ForwardNote(state="close", kind="forward-local", destination=b"db1:5432", sent=10,
                                         received=2048),
    ),
    note(Kind.ACCESS, 3, 95, AccessNote(what="denied", kind="forward-remote", rule="default", reason="no rule")),
]  # fmt: skip


@dataclass
class Made:
    """One recording that is being made."""

    client: Client
    session: str
    path: Path

    def add(self, events: Iterable[Event]) -> None:
        """Append, as few messages as fit, and wait until all is acknowledged."""
        batch: list[Event] = []
        size = 0
        for event in events:
            if (batch and size + len(event.data) > MAX_APPEND - MAX_EVENT_DATA // 2) or len(batch) >= 1000:
                self.client.append(*batch)
                batch, size = [], 0
            batch.append(event)
            size += len(event.data) + 24
        if batch:
            self.client.append(*batch)
        self.client.acked()

    def end(self, reason: str = "closed", by: str = "", text: str = "") -> None:
        reply = self.client.ask(End(reason, by, text))
        assert isinstance(reply, Ended), reply
        self.client.sock.close()


@dataclass
class Studio:
    """Makes recordings with one daemon. Ids count up from T0."""

    daemon: Daemon
    made: int = field(default=0)

    @property
    def directory(self) -> Path:
        return self.daemon.recordings

    @property
    def config(self) -> Path:
        return self.daemon.folder / "bastion.toml"

    def begin(self, **private: str) -> Made:
        self.made += 1
        client = self.daemon.client()
        session = session_id(self.made)
        t0 = T0_US + self.made * 60_000_000
        public = {"protocol": "ssh", "policy": "default"}
        reply = client.ask(Open(session, t0, public, {**PRIVATE, **private}))
        assert isinstance(reply, Opened), reply
        return Made(client, session, self.directory / reply.file)

    def record(self, events: Iterable[Event], reason: str = "closed", by: str = "", **private: str) -> Made:
        """A complete recording of `events`."""
        made = self.begin(**private)
        made.add(events)
        made.end(reason, by)
        return made


def performed(command: list[str], columns: int, rows: int, keys: list[tuple[float | bytes, bytes]]) -> list[Event]:
    """What a real program does on a real pseudo-terminal, as a shell's events.

    `keys`: seconds to wait, or what must have been shown since the key before; then the bytes to type.
    """
    master, slave = pty.openpty()
    ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = {
        "PATH": os.environ["PATH"],
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
        "PS1": "$ ",
        "HOME": "/nonexistent",
    }
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True)
    os.close(slave)
    begun = time.monotonic()
    events = [shell(columns=columns, rows=rows)]

    def now() -> int:
        return int((time.monotonic() - begun) * 1000)

    def listen(until: float, text: bytes | None = None) -> bool:
        seen = b""
        while (left := until - time.monotonic()) > 0 and (text is None or text not in seen):
            if select.select([master], [], [], left)[0]:
                try:
                    data = os.read(master, 16384)
                except OSError:
                    return False
                events.append(out(now(), data))
                seen += data
        return text is None or text in seen

    try:
        for wait, data in keys:
            if isinstance(wait, bytes):
                assert listen(time.monotonic() + 30, wait), f"{command} never showed {wait!r}"
            elif not listen(time.monotonic() + wait):
                break
            events.append(typed(now(), data))
            os.write(master, data)
        listen(time.monotonic() + 2)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(master)
    return [*events, exited(now(), process.returncode)]
