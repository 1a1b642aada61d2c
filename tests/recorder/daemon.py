"""The real recorderd as a process, and a real client for it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from recorder.messages import (
    MAX_MESSAGE,
    Ack,
    Append,
    End,
    Ended,
    Health,
    Open,
    Opened,
    Refused,
    Reply,
    Request,
    Status,
    decode_reply,
    encode,
)
from recorder.model import Event

PATIENCE = 20.0  # seconds
PUBLIC = {"protocol": "ssh", "policy": "default"}
PRIVATE = {"person": "alice", "account": "root", "target": "web1"}


def new_session() -> str:
    return uuid.uuid4().hex


@dataclass
class Client:
    """One gateway connection, blocking, with patience for each answer."""

    path: Path
    sock: socket.socket = field(init=False)
    seq: int = 0
    newest: int = 0  # acknowledged

    def __post_init__(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self.path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, request: Request) -> None:
        self.sock.send(encode(request))

    def receive(self) -> Reply | None:
        """None at the end of the connection."""
        data = self.sock.recv(MAX_MESSAGE)
        return decode_reply(data) if data else None

    def ask(self, request: Request) -> Reply | None:
        self.send(request)
        return self.receive()

    def open(self, session: str = "", sync: bool = False, t0_us: int = 0) -> str:
        self.session = session or new_session()
        reply = self.ask(Open(self.session, t0_us or time.time_ns() // 1000, PUBLIC, PRIVATE, sync))
        assert isinstance(reply, Opened), reply
        return reply.file

    def append(self, *events: Event) -> None:
        self.seq += 1
        self.send(Append(self.seq, [tuple(event) for event in events]))

    def acked(self, seq: int = 0) -> None:
        """Wait for the acknowledgement of `seq`, or of all."""
        while self.newest < (seq or self.seq):
            reply = self.receive()
            assert isinstance(reply, Ack), reply
            self.newest = reply.seq

    def end(self, reason: str = "closed") -> None:
        reply = self.ask(End(reason))
        assert isinstance(reply, Ended), reply

    def health(self) -> Health:
        reply = self.ask(Status())
        assert isinstance(reply, Health), reply
        return reply

    def refusal(self) -> str:
        """Why it was refused, and that the connection is closed after it."""
        reply = self.receive()
        while reply is not None and not isinstance(reply, Refused):
            reply = self.receive()
        assert isinstance(reply, Refused), reply
        assert self.receive() is None
        return reply.cause


@dataclass
class Daemon:
    """recorderd on a folder of its own."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.folder / "run/recorderd.sock"

    @property
    def recordings(self) -> Path:
        return self.folder / "state/recordings"

    def client(self) -> Client:
        return Client(self.socket)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)


def configure(folder: Path, **settings: object) -> Path:
    """bastion.toml with these keys in `[recorder]`."""
    keys = {"reserve_mib": 1, "low_water_mib": 0, **settings}
    lines = [f"{name} = {str(value).lower() if isinstance(value, bool) else value!r}" for name, value in keys.items()]
    (folder / "bastion.toml").write_text('[bastion]\nnode = "n1"\n[recorder]\n' + "\n".join(lines) + "\n")
    return folder / "bastion.toml"


def start(folder: Path, *before: str, **settings: object) -> Daemon:
    """Run recorderd, under `before` if given; returns when it says READY=1."""
    file = configure(folder, **settings)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        address = str(folder / "notify")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        told.bind(address)
        told.settimeout(60)
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", "recorder", "serve", "--config", str(file)],
                env={**os.environ, "NOTIFY_SOCKET": address},
                stderr=log,
            )
        try:
            assert b"READY=1" in told.recv(4096)
        except BaseException:
            process.kill()
            process.wait()
            raise AssertionError((folder / "log").read_text()) from None
    return Daemon(folder, process)


@contextlib.contextmanager
def running(folder: Path, *before: str, **settings: object) -> Iterator[Daemon]:
    daemon = start(folder, *before, **settings)
    try:
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.stop()
