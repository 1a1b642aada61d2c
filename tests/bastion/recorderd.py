"""A small recorderd on a real SOCK_SEQPACKET socket, in the loop of the test, that answers when it is told to."""

import asyncio
import socket
from pathlib import Path

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
    Status,
    decode_request,
    encode,
)
from recorder.model import Kind


class Tape:
    """One connection: what was recorded on it."""

    def __init__(self, recorder: "Recorderd", sock: socket.socket) -> None:
        self._recorder = recorder
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)
        self.open: Open | None = None
        self.events: list[tuple[int, int, int, bytes]] = []
        self.end: End | None = None
        self.seq = 0
        self.late: list[str] = []  # what came after End, which nobody may send
        self.closed = False  # by the gateway

    def _readable(self) -> None:
        for _ in range(64):
            try:
                data = self._sock.recv(MAX_MESSAGE + 1)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.closed = True
                self.hang_up()
                return
            assert len(data) <= MAX_MESSAGE
            self._take(decode_request(data))

    def _take(self, message: object) -> None:
        if self.end is not None:
            self.late.append(type(message).__name__)
            return
        match message:
            case Open():
                self.open = message
                if self._recorder.refuse:
                    self.say(Refused(cause=self._recorder.refuse))
                elif not self._recorder.mute:
                    self.say(Opened(file=f"{message.session}.rec"))
            case Append():
                assert message.seq == self.seq + 1
                self.seq = message.seq
                self.events += message.events
                if not self._recorder.hold:
                    self.say(Ack(seq=message.seq))
            case End():
                self.end = message
                if self._recorder.answer_end:
                    self.say(Ack(seq=self.seq)) if self.seq else None
                    self.say(Ended())
            case Status():
                self.say(Health(live=1, free_bytes=2, accepting=True, node_key=b"k" * 32))

    def say(self, reply: Reply) -> None:
        self.say_raw(encode(reply))

    def say_raw(self, data: bytes) -> None:
        self._sock.send(data)

    def acknowledge(self, seq: int | None = None) -> None:
        self.say(Ack(seq=self.seq if seq is None else seq))

    def stop_reading(self) -> None:
        self._loop.remove_reader(self._sock)

    def go_on_reading(self) -> None:
        self._loop.add_reader(self._sock, self._readable)

    def hang_up(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def of(self, *kinds: Kind) -> bytes:
        """The data of all events of these kinds, joined."""
        return b"".join(data for kind, _, _, data in self.events if kind in kinds)

    def notes(self, kind: Kind) -> list[bytes]:
        return [data for which, _, _, data in self.events if which == kind]


class Recorderd:
    """`hold` withholds acknowledgements, `refuse` refuses new recordings, `mute` does not answer Open at all."""

    def __init__(self, run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.run = run
        self.hold = False
        self.refuse = ""
        self.mute = False
        self.answer_end = True
        self.tapes: list[Tape] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)
        self._sock.bind(str(run / "recorderd.sock"))
        self._sock.listen(16)
        asyncio.get_running_loop().add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        sock, _ = self._sock.accept()
        sock.setblocking(False)
        self.tapes.append(Tape(self, sock))

    @property
    def tape(self) -> Tape:
        """Of the newest recording."""
        return self.tapes[-1]

    def release(self) -> None:
        """Acknowledge everything, from now on at once."""
        self.hold = False
        for tape in self.tapes:
            if tape.seq and not tape.closed:
                tape.acknowledge()

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        for tape in self.tapes:
            tape.hang_up()
