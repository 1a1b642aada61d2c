"""Channels that are streams from their first byte: forwarded ports and sockets, agent, X11, in either direction."""

from struct import Struct
from typing import TYPE_CHECKING, Final

from bastion.errors import BastionError, PeerError
from bastion.requests import string, strings
from bastion.ssh.channels import CLOSE, EOF, FAILURE, REQUEST, End, Flow
from bastion.ssh.sessions import CONFIRMATION, OPEN
from bastion.taps import ForwardTap

if TYPE_CHECKING:
    from bastion.ssh.channels import Leg
    from bastion.ssh.relay import Relay

_NUMBERS: Final = Struct(">III")


def refuse(end: End, payload: bytes) -> None:
    """A request on a channel that has none: no, if it wants an answer (RFC 4254 section 5.4)."""
    try:
        _, at = string(payload, 0)
        if payload[at]:
            end.send(FAILURE)
    except (IndexError, ValueError):
        raise PeerError("malformed channel request") from None


class ForwardChannel:
    """Owner of both ends. The opener's confirmation waits for the other side's, and for the recording."""

    def __init__(self, relay: "Relay", opener: "Leg", sender: int, max_packet: int, tap: ForwardTap) -> None:
        self._relay = relay
        self._tap = tap
        self._opener = End(opener, self)
        self._opener.remote, self._opener.max_packet = sender, max_packet
        self._other: End | None = None
        self._by_user = opener is relay.door
        self._number = relay.next_channel()
        self._flows: tuple[Flow, Flow] | None = None
        self._done = False
        relay.add(self)

    def open(self, leg: "Leg", kind: bytes, window: int, rest: bytes) -> None:
        """Ask the other side, with the opener's own window and packet size."""
        self._other = End(leg, self)
        self._other.granted = window
        leg.packets.send(
            OPEN, strings(kind) + _NUMBERS.pack(self._other.number, window, self._opener.max_packet) + rest
        )

    def opened(self, end: End, window: int, rest: bytes) -> None:
        recording, tap = self._relay.recording, self._tap
        there, back = (tap.user, tap.target) if self._by_user else (tap.target, tap.user)
        self._flows = Flow(end, recording, self._number, there), Flow(self._opener, recording, self._number, back)
        self._opener.link(self._flows[0])
        end.link(self._flows[1])
        self._opener.granted = window
        confirmation = _NUMBERS.pack(self._opener.number, window, end.max_packet)  # none of these kinds has more
        self._relay.standstill.opened(self)
        self._flows[1].put(tap.start(), CONFIRMATION, confirmation)

    def open_failed(self, end: End, code: int, reason: str) -> None:
        self._other = None
        self._refuse(code, reason)

    def _refuse(self, code: int, reason: str) -> None:
        opener = self._opener
        if not opener.close_sent:
            opener.leg.refuse_open(opener.remote, code, reason)  # type: ignore[attr-defined]
            opener.close_sent = opener.close_received = True
            opener.release()
        self._gone()

    def message(self, end: End, kind: int, payload: bytes) -> None:
        flow = end.flow
        if flow is None:
            self._broken(end)
        elif kind == EOF:
            flow.put((), EOF, b"")
        elif kind == CLOSE:
            flow.put(self._closing(), CLOSE, b"")
        elif kind == REQUEST:
            refuse(end, payload)

    def _broken(self, end: End) -> None:
        # Attack: a guess at the number of a channel that is not open yet.
        if end.leg is self._relay.door:
            self._relay.door.disconnect_person("a message came for a channel that is not open")
        else:
            self._relay.end("target-lost", text=f"target `{self._relay.grant.target}` broke the protocol")

    def closed(self, end: End) -> None:
        if self._opener.number < 0 and (self._other is None or self._other.number < 0):
            self._gone()

    def lost(self, end: End) -> None:
        other = self._other if end is self._opener else self._opener
        if other is not None and self._flows is not None:
            other.send(CLOSE)
        elif end is not self._opener:
            self._other = None
            self._refuse(2, "the connection to the target is gone")
        self._gone()

    def finish(self) -> None:
        if self._flows is not None:
            for kind, data in self._closing():
                self._relay.recording.record(kind, self._number, data)

    def part(self, error: BastionError) -> None:
        if self._flows is None:
            self._refuse(1, error.lines()[0])
            return
        for flow in self._flows:
            flow.stop()
            flow.to.send(CLOSE)
        self._gone()

    def ends(self) -> list[End]:
        return [end for end in (self._opener, self._other) if end is not None and end.number >= 0]

    def tell(self, text: str, *, terminals_only: bool = False) -> bool:
        """There is nobody to read it."""
        return False

    def _closing(self) -> list[tuple[int, bytes]]:
        if self._done:
            return []
        self._done = True
        return list(self._tap.finish())

    def _gone(self) -> None:
        self.finish()
        self._relay.remove(self)

    @property
    def passed(self) -> tuple[int, int]:
        if self._flows is None:
            return 0, 0
        there, back = (flow.bytes for flow in self._flows)
        return (there, back) if self._by_user else (back, there)
