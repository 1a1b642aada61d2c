"""The gateway's end of one recording: events to recorderd, acknowledgements back, fail closed."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bastion.errors import RecorderLost
from bastion.session import Session
from bastion.ssh.burst import burst, gathered, settle
from bastion.ssh.pace import KEYS, pace
from recorder.messages import (
    MAX_MESSAGE,
    Ack,
    End,
    Ended,
    Health,
    Open,
    Opened,
    Refused,
    Reply,
    Status,
    decode_reply,
    encode,
)
from recorder.model import Kind

SOCKET: Final = "recorderd.sock"
FIRST_WORD: Final = 5.0
"""Seconds for an answer to Open or Status, which come in milliseconds unless the disk hangs: a person waits."""
PATIENCE: Final = 10.0
"""Seconds for an answer to End, which may have a segment to compact and three files to sync."""
_BEHIND: Final = 1024
"""Acknowledgements that may stand before recorderd's last word; more fit into no socket."""
_TYPED: Final = frozenset((Kind.INPUT, Kind.SEALED_INPUT))
_reply = memoryview(bytearray(MAX_MESSAGE + 1))  # the one being looked at: to make room for each would cost more
_AGAIN = "start it again: systemctl restart bastion-recorderd"


class Recording:
    """A live recording. What is recorded through `session` is sent in bursts; `on_lost` is called at most once."""

    def __init__(self, sock: socket.socket, session: Session, on_lost: Callable[[RecorderLost], None]) -> None:
        self._sock = sock
        self._fileno = sock.fileno()  # asyncio makes a text of a socket object each time it does not know it yet
        self._session = session
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._queue: deque[bytes] = deque()
        self._dirty = False
        self._typed = False  # a key is among what is to be sent
        self._closed = False
        self._ended: asyncio.Future[None] | None = None
        self._owes_since = 0.0
        self.on_pressure: Callable[[bool], None] = lambda behind: None
        self._behind = False
        self.file = ""

    @classmethod
    async def open(
        cls, run: Path, opening: Open, session: Session, on_lost: Callable[[RecorderLost], None]
    ) -> "Recording":
        """Start a recording; RecorderLost if recorderd is not there or refuses."""
        sock, reply = await _first_word(run, opening)
        if not isinstance(reply, Opened):
            sock.close()
            raise RecorderLost(f"the recording cannot start: {_cause(reply)}", "tell the people who run this bastion")
        recording = cls(sock, session, on_lost)
        recording.file = reply.file
        recording._loop.add_reader(recording._fileno, recording._readable)
        return recording

    # --- sending ------------------------------------------------------------------------------------

    def record(self, kind: int, channel: int, data: bytes) -> None:
        """As `Session.record`, and to recorderd at the end of the burst."""
        self.write(channel, ((kind, data),))

    def write(self, channel: int, events: Sequence[tuple[int, bytes]]) -> int:
        """As `Session.write`, and to recorderd at the end of the burst."""
        kind, data = events[0]
        self._typed = self._typed or (kind in _TYPED and len(data) <= KEYS)
        if not self._dirty:
            self._dirty = True
            gathered(self)
        return self._session.write(channel, events)

    def wait(self, flow: object) -> None:
        self._session.wait(flow)  # type: ignore[arg-type]
        settle()

    def hold(self, size: int) -> None:
        self._session.hold(size)
        if size > 0 and not self._dirty:
            self._dirty = True
            gathered(self)  # to see whether that is too much

    def flush(self) -> None:
        self._dirty = False
        if self._closed or self._ended is not None:
            return  # numbered and never written: what it belongs to is never sent on
        session = self._session
        for append in session.take():
            self._send(encode(append))
        if session.owed:
            now = self._loop.time()
            self._owes_since = self._owes_since or now
            if self._typed:
                self._typed = False
                pace.typed(now)
        if session.is_behind:
            self._press()

    def _send(self, message: bytes) -> None:
        if not self._queue:
            try:
                self._sock.send(message)
                return
            except BlockingIOError:
                self._loop.add_writer(self._fileno, self._writable)
            except OSError as error:
                self._lose(self._last_words(error))
                return
        # At most Session.WINDOW and one burst: reading stops when recorderd owes that much.
        self._queue.append(message)

    def _writable(self) -> None:
        try:
            while self._queue:
                self._sock.send(self._queue[0])
                self._queue.popleft()
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(self._last_words(error))
            return
        self._loop.remove_writer(self._fileno)

    # --- what comes back ----------------------------------------------------------------------------

    def _readable(self) -> None:
        newest, session = 0, self._session
        try:
            while True:
                reply = _decoded(_reply[: self._sock.recv_into(_reply)])
                if isinstance(reply, Ack):
                    newest = max(newest, reply.seq)
                    if newest == session.sent and self._ended is None:
                        break  # nothing more is owed: do not ask the kernel for it
                    continue
                self._acknowledge(newest)
                if isinstance(reply, Ended) and self._ended is not None:
                    self.close()
                else:
                    self._lose(_cause(reply))
                return
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(self._last_words(error))
            return
        self._acknowledge(newest)

    def _last_words(self, error: OSError) -> str:
        """Why it is lost. Closed with our messages unread, the socket is reset, and the reason stands behind that."""
        for _ in range(_BEHIND):
            try:
                data = self._sock.recv(MAX_MESSAGE + 1)
            except BlockingIOError:
                break
            except OSError:
                continue
            if not data:
                break
            if isinstance(reply := _decoded(data), Refused):
                return reply.cause
        return (error.strerror or str(error)).lower()

    def _acknowledge(self, seq: int) -> None:
        if not seq or self._closed:
            return
        with burst():
            if not self._session.acknowledge(seq):
                self._lose("it acknowledges what it was never sent")
        self._owes_since = self._loop.time() if self._session.owed else 0.0
        if self._behind:
            self._press()

    def _press(self) -> None:
        behind = self._session.is_behind if not self._behind else not self._session.has_caught_up
        if behind != self._behind:
            self._behind = behind
            self.on_pressure(behind)

    def check(self, stall: float) -> None:
        """Called each second: a recorder that owes an acknowledgement for `stall` seconds is as good as lost."""
        if self._owes_since and self._loop.time() - self._owes_since > stall:
            self._lose(f"recorderd has not answered for {stall:g} seconds")

    # --- the end ------------------------------------------------------------------------------------

    async def end(self, reason: str, by: str = "", text: str = "") -> None:
        """Close the recording; quiet if it is lost already. Whatever was recorded before is part of it."""
        if self._closed:
            return
        if self._ended is None:
            self.flush()
            if self._closed:  # it was lost by that
                return
            self._ended = self._loop.create_future()
            self._send(encode(End(reason=reason, by=by, text=text)))
        try:
            await asyncio.wait_for(asyncio.shield(self._ended), PATIENCE)
        except TimeoutError:
            self._lose(f"recorderd did not close the recording within {PATIENCE:g} seconds")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fileno)
        self._loop.remove_writer(self._fileno)
        self._sock.close()
        self._queue.clear()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _lose(self, why: str) -> None:
        if self._closed:
            return
        ending = self._ended is not None
        self.close()
        if not ending:
            self._on_lost(RecorderLost(f"the recording failed: {why}", "log in again, or tell the people who run this"))


async def health(run: Path) -> Health:
    """How recorderd is doing; RecorderLost if it does not say."""
    sock, reply = await _first_word(run, Status())
    sock.close()
    if not isinstance(reply, Health):
        raise RecorderLost(f"recorderd does not say how it is: {_cause(reply)}")
    return reply


async def _first_word(run: Path, request: Open | Status) -> tuple[socket.socket, Reply | None]:
    loop = asyncio.get_running_loop()
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise RecorderLost(f"recorderd cannot be asked: {why}", "try again later") from None
    try:
        async with asyncio.timeout(FIRST_WORD):
            await loop.sock_connect(sock, str(run / SOCKET))
            await loop.sock_sendall(sock, encode(request))
            return sock, _decoded(await loop.sock_recv(sock, MAX_MESSAGE + 1))
    except asyncio.CancelledError:
        sock.close()
        raise
    except TimeoutError:
        sock.close()
        raise RecorderLost(f"recorderd did not answer within {FIRST_WORD:g} seconds", _AGAIN) from None
    except OSError as error:
        sock.close()
        raise RecorderLost(f"recorderd is not there: {(error.strerror or str(error)).lower()}", _AGAIN) from None


def _decoded(data: bytes | memoryview) -> Reply | None:
    if not data or len(data) > MAX_MESSAGE:
        return None
    try:
        return decode_reply(data)
    except msgspec.MsgspecError:
        return None


def _cause(reply: Reply | None) -> str:
    match reply:
        case Refused(cause=cause):
            return cause
        case None:
            return "recorderd is gone"
        case _:
            return f"recorderd said {type(reply).__name__}"
