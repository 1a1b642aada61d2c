"""Packets below asyncssh. With `connections`, the only modules that touch its private parts, pinned by `check_version`.

asyncssh does identification, key exchange, authentication, re-keying and disconnects. From there on the messages of
channels (RFC 4254) do not go through its channel objects: `PacketTransport` sits between the socket and the
connection, opens each packet once, and hands channel messages to the `End` they are addressed to. Data that nobody
waits for is encrypted for the other leg from the very buffer it was decrypted into, and everything that one read
brought leaves with one write.

That works for AES-GCM, which OpenSSH is offered alone (`algorithms.py`). With any other cipher asyncssh itself opens
the packets and `End.process_packet` is where they arrive: slower, the same messages, the same decisions.
"""

import asyncio
from collections.abc import Callable
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import asyncssh
from asyncssh.constants import DISC_PROTOCOL_ERROR
from asyncssh.misc import DisconnectError, ProtocolError
from cryptography.exceptions import InvalidTag

from bastion.ssh.burst import burst, gathered, settle
from bastion.ssh.channels import DATA
from bastion.ssh.gcm import TAG, Gcm
from bastion.ssh.pace import READ, pace

if TYPE_CHECKING:
    from bastion.ssh.connections import PacketConnection

VERSIONS: Final = frozenset({"2.24.1"})
"""The versions whose private parts the contract tests were run against."""

MAX_PACKET: Final = 256 * 1024
"""Bytes of one packet, as asyncssh; RFC 4253 asks for 35,000."""
CHUNK: Final = READ + MAX_PACKET
"""Bytes gathered for one write."""
HIGH_WATER: Final = 512 * 1024
"""Bytes a slow peer may leave in our write buffer before what feeds it is paused; then 2 GiB windows are harmless."""
FLOOD: Final = 4 * 1024 * 1024
"""Bytes that may wait for a peer before we read no more from it. What the other leg sends stops at HIGH_WATER and what
is being recorded at 2 MiB, so this much is our answers to somebody who does not take them."""
_SPARE: Final = 8
"""Write buffers kept for reuse: one per leg that one read or acknowledgement feeds."""

_LENGTH: Final = Struct(">I")
_HEAD: Final = Struct(">BBII")  # padding length, message, channel, length of data
_MIN_BODY: Final = 16
_NO_PADDING: Final = [bytes(size) for size in range(256)]
_UNREAD: Final = "answers that nobody reads"
_KEPT: Final = 256  # bytes of memory that a message kept for later takes beside its own


def check_version() -> None:
    """RuntimeError if asyncssh is one whose inside was never checked."""
    if asyncssh.__version__ not in VERSIONS:
        raise RuntimeError(f"asyncssh {asyncssh.__version__} is not among the checked versions {sorted(VERSIONS)}")


# One of each for the whole process: a connection that is idle owns no buffer.
_received = bytearray(CHUNK + 64)
_received_view = memoryview(_received)
_plain = bytearray(MAX_PACKET + 64)
_plain_view = memoryview(_plain)
_outgoing = bytearray(MAX_PACKET + 64)
_outgoing_view = memoryview(_outgoing)
_spare: list[memoryview] = []
_BURST: Final = burst()


class PacketTransport(asyncio.BufferedProtocol):
    """Between one transport and one asyncssh connection."""

    def __init__(self, connection: "PacketConnection") -> None:
        self.connection = connection
        connection.packets = self
        self.transport: Any = None
        self._rest = b""  # of a packet that has not come whole
        self._came = 0  # bytes, since `take_came`
        self._paused: set[object] = set()  # why nothing is read
        self._chunk: memoryview | None = None
        self._used = 0
        self._over = False
        self._socket_full = False
        self._deferred = 0  # bytes that asyncssh keeps until keys are exchanged
        self.full = False  # the peer does not take what we send
        self.on_full: list[Callable[[bool], None]] = []

    # --- asyncio's protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        self.connection.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        kept = len(self._rest)
        if kept:
            _received_view[:kept] = self._rest
        return _received_view[kept : kept + pace.read_size(monotonic())]

    def buffer_updated(self, nbytes: int) -> None:
        self._run(len(self._rest) + nbytes)

    def received(self, pieces: list[bytes]) -> None:
        """As one read of at most READ bytes, but through a channel of another connection."""
        end = len(self._rest)
        _received_view[:end] = self._rest
        for piece in pieces:
            _received_view[end : end + len(piece)] = piece
            end += len(piece)
        self._run(end)

    def eof_received(self) -> None:
        self.connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest = b""
        self._chunk = None
        self.connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._socket_full = True
        self._check_full()

    def resume_writing(self) -> None:
        self._socket_full = False
        self._check_full()
        self.resume(_UNREAD)

    def _check_full(self) -> None:
        full = self._socket_full or self._deferred > HIGH_WATER
        if full != self.full:
            self.full = full
            for tell in list(self.on_full):
                tell(full)

    # --- reading ------------------------------------------------------------------------------------

    def pause(self, why: object) -> None:
        """Stop reading until every reason is gone: then the peer is slowed by TCP itself."""
        if not self._paused and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
        self._paused.add(why)

    def resume(self, why: object) -> None:
        self._paused.discard(why)
        if not self._paused and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def go_on(self) -> None:
        """asyncssh has finished something it awaited: take up what was left."""
        if self.transport is not None and self._rest:
            kept = len(self._rest)
            _received_view[:kept] = self._rest
            self._run(kept)
        if not self._rest or not self.connection.is_busy():
            self.resume(self)

    def take_back(self) -> None:
        """asyncssh has let the person in, or changed to our cipher, with a packet half read: that one is ours."""
        self._rest = self.connection.take_back() + self._rest

    def take_came(self) -> int:
        """Bytes received since this was asked last."""
        came, self._came = self._came, 0
        return came

    def _run(self, filled: int) -> None:
        connection = self.connection
        self._came += filled - len(self._rest)
        with _BURST:
            try:
                used = self._process(filled)
            except DisconnectError as error:
                used, self._over = filled, True
                connection._send_disconnect(error.code, error.reason, error.lang)
                connection._force_close(error)
            except Exception:
                used, self._over = filled, True
                connection.internal_error()
            self._rest = bytes(_received_view[used:filled]) if used < filled else b""
        if self._rest and connection.is_busy():
            self.pause(self)  # Attack: a peer that floods us while policyd is asked. It waits for `go_on`.
        if self._socket_full and self.transport.get_write_buffer_size() > FLOOD:
            self.pause(_UNREAD)  # Attack: requests without end from a peer that does not read the answers.

    def _process(self, filled: int) -> int:
        """Take `filled` bytes of the buffer; how many were used."""
        connection, at = self.connection, 0
        while True:
            if self._over:
                return filled  # what comes behind the end was never looked at, nor counted: it would fit no key
            if connection.is_busy():
                return at  # it awaits something; `go_on` follows
            if not connection.is_fast():
                if at < filled:
                    connection.data_received(bytes(_received_view[at:filled]))
                    at = filled
                    if connection.is_fast() and not connection.is_busy():
                        # asyncssh got as far as here; of this read it left the beginning of what is ours
                        left = connection.take_back()
                        at -= len(left)
                        _received_view[at:filled] = left
                        if left:
                            continue
                return at
            at, slow = self._open_packets(at, filled)
            if not slow:
                return at
            # A packet that is not for a channel, or that something is wrong with: asyncssh opens it itself.
            length = _LENGTH.unpack_from(_received, at)[0]
            end = min(at + length + 4 + TAG, filled)
            connection.data_received(bytes(_received_view[at:end]))
            at = end
            if connection._transport is None:
                return filled

    def _open_packets(self, at: int, filled: int) -> tuple[int, bool]:
        """Open packets from `at` on: where the first one that was not taken begins, and whether asyncssh must."""
        connection = self.connection
        cipher = connection._recv_encryption
        assert isinstance(cipher, Gcm)
        decrypt, fixed, counter = cipher.aes.decrypt_into, cipher.fixed, cipher.counter
        ends: dict[int, Any] = connection._channels
        taken = 0
        connection.heard()
        try:
            while filled - at >= _MIN_BODY + 4 + TAG:
                length = _LENGTH.unpack_from(_received, at)[0]
                if not _MIN_BODY <= length <= MAX_PACKET:
                    return at, True
                after = at + length + 4 + TAG
                if after > filled:
                    return at, False
                body = _plain_view[:length]
                try:
                    decrypt(
                        fixed + counter.to_bytes(8), _received_view[at + 4 : after], _received_view[at : at + 4], body
                    )
                except InvalidTag:
                    return at, True
                padding, kind, number, size = _HEAD.unpack_from(_plain, 0)
                if not 93 <= kind <= 100 or not 4 <= padding <= length - 6:
                    return at, True
                end = ends.get(number)
                if end is None:
                    return at, True
                # Counted as received before it is acted upon: what it leads to may end the connection.
                counter = cipher.counter = (counter + 1) & 0xFFFFFFFFFFFFFFFF
                taken += 1
                at = after
                if kind != DATA:
                    end.message(kind, bytes(_plain_view[6 : length - padding]))
                elif size != length - padding - 10:
                    raise ProtocolError("data of a channel message does not fill it")
                elif not end.data(_plain_view[10 : 10 + size]):
                    # Nobody waits for it: on to the other leg, out of this buffer.
                    other = end.flow.to
                    if (leg := other.leg.packets).is_ready():
                        _plain[length - padding : length] = _NO_PADDING[padding]
                        _LENGTH.pack_into(_plain, 2, other.remote)
                        leg.seal(body)
                    else:
                        other.send(DATA, bytes(_plain_view[6 : length - padding]))
                if connection._transport is None:
                    return filled, False
            return at, False
        finally:
            if taken:
                connection._auth_final = True
                connection._recv_seq = (connection._recv_seq + taken) & 0xFFFFFFFF

    # --- writing ------------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        """May packets be sealed here, now? Not while keys are exchanged, nor with another cipher."""
        connection = self.connection
        return (
            type(connection._send_encryption) is Gcm
            and connection._kex_complete
            and connection._auth_complete
            and connection._transport is not None
        )

    def send(self, kind: int, payload: bytes) -> None:
        """One message. Padding is ours and zero: AES-GCM needs none, and the sender's would be a covert channel."""
        if not self.is_ready():
            self._defer(len(payload))
            self.connection.send_packet(kind, payload)
            return
        padding = -(len(payload) + 2) % 16
        if padding < 4:
            padding += 16
        self.seal(b"".join((bytes((padding, kind)), payload, _NO_PADDING[padding])))

    def send_data(self, channel: int, data: bytes | memoryview) -> None:
        """One message of channel data, at most MAX_PACKET."""
        size = len(data)
        if not self.is_ready():
            self._defer(size)
            self.connection.send_packet(DATA, _LENGTH.pack(channel) + _LENGTH.pack(size) + bytes(data))
            return
        padding = -(size + 10) % 16
        if padding < 4:
            padding += 16
        # First: making room may write, and a write may be a message on an outer connection, put together here as well.
        self._make_room(10 + size + padding + 4 + TAG)
        _HEAD.pack_into(_outgoing, 0, padding, DATA, channel, size)
        _outgoing[10 : 10 + size] = data
        _outgoing[10 + size : 10 + size + padding] = _NO_PADDING[padding]
        self.seal(_outgoing_view[: 10 + size + padding])

    def _defer(self, size: int) -> None:
        # Attack: begin a key exchange, never go on with it, and have the other leg send.
        if not self.connection._kex_complete:
            self._deferred += size + _KEPT
            self._check_full()
            if self._deferred > FLOOD and self.connection._transport is not None:
                # Attack: the same, with requests that we have to answer. To read no more would be no end.
                self.connection.disconnect(DISC_PROTOCOL_ERROR, "too much was asked before keys were exchanged")

    def deferred_sent(self) -> None:
        """Keys are exchanged; what waited for that is on its way."""
        self._deferred = 0
        self._check_full()

    def seal(self, body: bytes | memoryview) -> None:
        """Encrypt one packet body into what is gathered for this leg."""
        connection = self.connection
        cipher = connection._send_encryption
        assert isinstance(cipher, Gcm)
        length = len(body)
        size = length + 4 + TAG
        chunk, start = self._make_room(size), self._used
        end = self._used = start + size
        _LENGTH.pack_into(chunk, start, length)
        cipher.aes.encrypt_into(cipher.nonce(), body, chunk[start : start + 4], chunk[start + 4 : end])
        connection._send_seq = (connection._send_seq + 1) & 0xFFFFFFFF
        connection._rekey_bytes_sent += length
        settle()
        if connection._rekey_bytes_sent >= connection._rekey_bytes:
            connection._send_kexinit()
            connection._kexinit_sent = True

    def write(self, data: bytes) -> None:
        """Bytes that asyncssh has sealed, in order with ours."""
        size = len(data)
        if size > CHUNK:
            self.flush()
            self.transport.write(data)
            return
        chunk, start = self._make_room(size), self._used
        self._used = start + size
        chunk[start : self._used] = data
        settle()

    def _make_room(self, size: int) -> memoryview:
        """What is gathered, with room for `size` bytes more."""
        if self._chunk is None or self._used + size > CHUNK:
            self.flush()
            self._chunk = _spare.pop() if _spare else memoryview(bytearray(CHUNK))
            gathered(self)
        return self._chunk

    def flush(self) -> None:
        chunk, used = self._chunk, self._used
        if chunk is None:
            return
        self._chunk, self._used = None, 0
        transport = self.transport
        if transport is None or transport.is_closing():
            pass
        elif transport.get_write_buffer_size():
            transport.write(bytes(chunk[:used]))
        else:
            transport.write(chunk[:used])
            if transport.get_write_buffer_size():
                return  # From Python 3.12 on the transport keeps the view itself, not a copy of the rest.
        if len(_spare) < _SPARE:
            _spare.append(chunk)
