"""Ends of channels and what flows between two of them. No asyncio, no asyncssh: messages in, messages out.

An `End` is one channel number on one leg. A `Flow` is one direction between two ends. What arrives at an end goes to
its `owner` (requests, opens, closes) or, data being most of it, through its flow: `tap` says what must be recorded
before it goes on, and the flow keeps it until that is acknowledged.

INVARIANT: a flow passes messages on in the order in which they came, whatever they wait for.
"""

from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final, Protocol

from bastion.errors import PeerError
from bastion.session import OVERHEAD

WINDOW_ADJUST: Final = 93
DATA: Final = 94
EXTENDED_DATA: Final = 95
EOF: Final = 96
CLOSE: Final = 97
REQUEST: Final = 98
SUCCESS: Final = 99
FAILURE: Final = 100

_U32: Final = Struct(">I")
_SMALL: Final = 256  # bytes of a message that is cheaper joined with its head than written into place: a keystroke

MIN_PACKET, MAX_PACKET = 64, 255 * 1024
"""Bytes of data in a message that a peer may ask for. With fewer, one message of the other side becomes thousands, in
one turn of the loop; more fits into no packet that is read here."""
MAX_WINDOW: Final = 0xFFFFFFFF
GRACE: Final = 64 * 1024
"""Bytes beyond its window that a peer is forgiven: not every client counts what it sends on standard error, or the
last message before the window is full. sshd forgives a tenth of its window, which is 200 KiB."""

Events = Sequence[tuple[int, bytes]]
Tap = Callable[[memoryview], Events]
"""Bytes that pass -> events to record before they may go on; none: they may go on at once."""


class Leg(Protocol):
    """A connection, as its channels see it: `bastion.ssh.transport`'s."""

    packets: Any

    def add_channel(self, end: Any) -> int: ...

    def remove_channel(self, number: int) -> None: ...


class Owner(Protocol):
    """What an end belongs to."""

    def message(self, end: "End", kind: int, payload: bytes) -> None:
        """Everything but data that flows; `payload` begins behind the channel number."""

    def opened(self, end: "End", window: int, rest: bytes) -> None:
        """The peer confirmed a channel that we asked for; data may be in the very next packet."""

    def open_failed(self, end: "End", code: int, reason: str) -> None: ...

    def lost(self, end: "End") -> None:
        """The connection is gone."""

    def closed(self, end: "End") -> None:
        """Both sides have closed, or never opened; nothing more comes or goes."""


class Journal(Protocol):
    """Where events go before bytes do: `bastion.session.Session`."""

    def write(self, channel: int, events: Events) -> int:
        """Record `events`: the ticket of the last of them."""

    def wait(self, flow: "Flow") -> None:
        """Tell this flow (`release`) when more is acknowledged."""

    def hold(self, size: int) -> None:
        """So many bytes, of messages that are no events, wait for an acknowledgement; negative: no longer."""


class End:
    """One channel number on one leg, ours and the peer's. Born when the number is taken, gone after both CLOSEs."""

    __slots__ = ("close_received", "close_sent", "flow", "granted", "hold", "leg", "logger", "max_packet",
                 "number", "owner", "received", "remote")  # fmt: skip

    def __init__(self, leg: Leg, owner: Owner) -> None:
        self.leg = leg
        self.owner = owner
        self.number = leg.add_channel(self)
        self.remote = -1
        self.max_packet = 0
        self.granted = 0  # bytes that the peer was told it may send, ever; whoever opens or confirms sets it
        self.received = 0  # bytes that it has sent
        self.flow: Flow | None = None
        self.hold: Any = None  # bastion.ssh.hold.Hold, while the session is frozen
        self.close_sent = self.close_received = False

    def link(self, flow: "Flow") -> None:
        """What data goes through from now on; in a frozen session, once it goes on."""
        if self.hold is None:
            self.flow = flow
        else:
            self.hold.flow = flow

    # --- what arrives -------------------------------------------------------------------------------

    def data(self, data: memoryview) -> bool:
        """DATA has come. False: nothing to wait for, the caller sends it to `flow.to`. True: taken care of."""
        self.received += len(data)
        if self.received > self.granted + GRACE:
            self._beyond()
        flow = self.flow
        if flow is None:
            if not self.close_received:
                self.owner.message(self, DATA, _U32.pack(len(data)) + bytes(data))
            return True
        return self.close_received or flow.data(data)

    def message(self, kind: int, payload: bytes) -> None:
        """Any other message has come."""
        if self.close_received:
            return  # Attack: a start behind a CLOSE, which is recorded and never happens
        if kind == WINDOW_ADJUST:
            if len(payload) < 4:
                raise PeerError("malformed window adjust")
            payload = payload[:4]
            if self.flow is not None:
                self.flow.adjust(payload)
                return
        elif kind == EXTENDED_DATA:
            if len(payload) < 8 or _U32.unpack_from(payload, 4)[0] != len(payload) - 8:
                raise PeerError("malformed extended data: it does not fill its message")
            self.received += len(payload) - 8
            if self.received > self.granted + GRACE:
                self._beyond()
        if kind == CLOSE:
            self.close_received = True
        self.owner.message(self, kind, payload)
        if kind == CLOSE:
            self.release()

    def _beyond(self) -> None:
        # Attack: the other side would cut us off for it, and look as if it had failed.
        raise PeerError("more data came on a channel than its window allows")

    # asyncssh calls these of what it finds in `_channels` when it opens packets itself.

    def process_packet(self, kind: int, _seq: int, packet: Any) -> bool:
        """False if it means nothing, and asyncssh says so."""
        payload = packet.get_remaining_payload()
        packet.get_bytes(len(payload))
        if kind > FAILURE:
            return False
        if kind == DATA:
            if len(payload) < 4 or _U32.unpack_from(payload)[0] != len(payload) - 4:
                raise PeerError("malformed data: it does not fill its message")
            if not self.data(memoryview(payload)[4:]):
                assert self.flow is not None
                self.flow.to.send(DATA, payload)
        else:
            self.message(kind, payload)
        return True

    def process_open_confirmation(self, remote: int, window: int, max_packet: int, packet: Any) -> None:
        self._was_waiting()
        if max_packet < MIN_PACKET:
            raise PeerError(f"a channel takes {max_packet} bytes at a time, less than {MIN_PACKET}")
        self.remote, self.max_packet = remote, min(max_packet, MAX_PACKET)
        self.owner.opened(self, window, packet.get_remaining_payload())

    def process_open_failure(self, code: int, reason: str, _lang: str) -> None:
        self._was_waiting()
        self.close_sent = self.close_received = True
        self.owner.open_failed(self, code, reason)
        self.release()

    def _was_waiting(self) -> None:
        # Attack: an answer for a channel that is open already would link it anew, to whatever the peer says.
        if self.remote >= 0:
            raise PeerError("answer to the opening of a channel that is not waiting for one")

    def process_connection_close(self, _exc: Exception | None) -> None:
        self.close_sent = self.close_received = True
        self.owner.lost(self)
        self.release()

    def log_received_packet(self, *_: Any, **__: Any) -> None:
        """Nothing: asyncssh asks for it."""

    # --- what is sent -------------------------------------------------------------------------------

    def send(self, kind: int, payload: bytes = b"") -> None:
        """A message to the peer; nothing after our CLOSE."""
        if self.close_sent or self.remote < 0:
            return
        if kind == DATA and not (4 < len(payload) <= _SMALL and len(payload) - 4 <= self.max_packet):
            self.send_data(memoryview(payload)[4:])
            return
        if kind == EXTENDED_DATA and len(payload) - 8 > self.max_packet:
            for at in range(8, len(payload), self.max_packet):
                part = payload[at : at + self.max_packet]
                self.leg.packets.send(kind, _U32.pack(self.remote) + payload[:4] + _U32.pack(len(part)) + part)
            return
        if kind == WINDOW_ADJUST:
            self.granted += _U32.unpack(payload)[0]
            # RFC 4254 section 5.2. The other leg's peer said it, and hears of it; this one would break off.
            if self.granted - self.received > MAX_WINDOW:
                raise PeerError("the window of a channel is too large")
        elif kind == CLOSE:
            self.close_sent = True
        self.leg.packets.send(kind, _U32.pack(self.remote) + payload)
        if kind == CLOSE:
            self.release()

    def send_data(self, data: memoryview) -> None:
        """Channel data, in messages of the size that the peer takes."""
        if self.close_sent or self.remote < 0:
            return
        packets, remote, size = self.leg.packets, self.remote, self.max_packet
        for at in range(0, len(data), size):
            packets.send_data(remote, data[at : at + size])

    def release(self) -> None:
        """Give the number back once both sides have closed (RFC 4254 section 5.3)."""
        if self.close_sent and self.close_received and self.number >= 0:
            self.leg.remove_channel(self.number)
            self.number = -1
            self.owner.closed(self)


class Flow:
    """One direction from one end to the other: recorded, acknowledged, then sent."""

    __slots__ = ("bytes", "channel", "debt", "ended", "held", "journal", "stopped", "tap", "to")

    def __init__(self, to: End, journal: Journal, channel: int, tap: Tap) -> None:
        self.to = to
        self.journal = journal
        self.channel = channel  # its number in the recording
        self.tap = tap
        self.held: deque[tuple[int, int, bytes]] = deque()  # ticket, message, payload
        self.bytes = 0
        self.debt = 0  # bytes of ours that went the way back: they used up window that `to` knows nothing of
        self.ended = False  # nothing is taken any more; what is held still leaves
        self.stopped = False

    def data(self, data: memoryview) -> bool:
        """As `End.data`."""
        # Attack: data behind a CLOSE, for a number that the other side has given to another channel by now.
        if self.ended or self.to.close_sent:
            return True
        size = len(data)
        self.bytes += size
        events = self.tap(data)
        if not events and not self.held and size <= self.to.max_packet:
            return False
        self.put(events, DATA, _U32.pack(size) + bytes(data))
        return True

    def adjust(self, payload: bytes) -> None:
        """WINDOW_ADJUST of four bytes has come; it is about the way back, so it waits for nothing here."""
        if self.debt:
            room = _U32.unpack(payload)[0]
            paid = min(room, self.debt)
            self.debt -= paid
            if room == paid:
                return
            payload = _U32.pack(room - paid)
        self.to.send(WINDOW_ADJUST, payload)

    def put(self, events: Events, kind: int, payload: bytes) -> None:
        """Record `events`, then send the message as soon as they are written and everything before it is sent."""
        if self.stopped:
            return
        if self.ended and kind in (DATA, EXTENDED_DATA, EOF):
            return  # RFC 4254 section 5.3: no data follows an EOF
        if kind == EOF:
            self.ended = True
        if not events and not self.held:
            self.to.send(kind, payload)
            return
        journal = self.journal
        if not events:
            # Attack: a recorder that stands still, and requests without end that we have to answer.
            journal.hold(len(payload) + OVERHEAD)
        ticket = journal.write(self.channel, events) if events else 0
        self.held.append((ticket, kind, payload))
        journal.wait(self)

    def release(self, acknowledged: int) -> bool:
        """Send what needs no longer wait; True if something still does."""
        held = self.held
        while held and held[0][0] <= acknowledged:
            ticket, kind, payload = held.popleft()
            if not ticket:
                self.journal.hold(-len(payload) - OVERHEAD)
            self.to.send(kind, payload)
        return bool(held)

    def stop(self) -> None:
        """Drop what is held and whatever comes."""
        self.stopped = self.ended = True
        self.journal.hold(-sum(len(payload) + OVERHEAD for ticket, _, payload in self.held if not ticket))
        self.held.clear()
