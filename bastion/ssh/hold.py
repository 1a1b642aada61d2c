"""A session that stands still: what arrives at the ends of its channels is kept in order, until it may go on.

The connections themselves go on: keep-alives are answered, and whoever leaves is noticed. Nothing new starts
(`Relay.ask` waits); limits, kills and the recording are as ever.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from bastion.errors import PeerError
from bastion.ssh.burst import burst
from bastion.ssh.channels import DATA, WINDOW_ADJUST
from bastion.taps import note
from recorder.model import AccessNote, Kind

if TYPE_CHECKING:
    from bastion.ssh.channels import End
    from bastion.ssh.relay import Channel, Relay

MOST: Final = 8 * 1024 * 1024
"""Bytes kept of one leg before it is read no more: sshd's windows (2 MiB) of four channels never come to that."""

_U32: Final = Struct(">I")


class Standstill:
    """Of one relay."""

    def __init__(self, relay: "Relay") -> None:
        self._relay = relay
        self._kept = {True: 0, False: 0}  # bytes held: of the person's leg, of the target's
        self._told: set[Channel] = set()
        self._moving = asyncio.Event()
        self._moving.set()

    def begin(self, reason: str) -> None:
        """Nothing passes from now on, in either direction."""
        relay = self._relay
        if relay.over or not relay.session.freeze(reason):
            return
        self._moving.clear()
        relay.record(Kind.ACCESS, note(Kind.ACCESS, AccessNote(what="frozen", reason=reason))[1])
        with burst():
            for channel in list(relay.channels):
                self.opened(channel)
                if channel.ends():
                    self._tell(channel)

    def end(self) -> None:
        """It goes on where it stood."""
        relay = self._relay
        if relay.over or not relay.session.thaw():
            return
        relay.record(Kind.ACCESS, note(Kind.ACCESS, AccessNote(what="thawed"))[1])
        self._moving.set()
        with burst():
            for channel in list(relay.channels):
                if channel in self._told:
                    channel.tell("somebody looks on: it goes on")
                for end in channel.ends():
                    if end.hold is not None:
                        self._lift(end)
        self._told.clear()

    async def over(self) -> None:
        """Until it has ended, or the session has; people are told why they wait."""
        while not self._moving.is_set():
            for channel in list(self._relay.channels):
                self._tell(channel)
            await self._moving.wait()

    def release(self) -> None:
        """The session is over: whoever waits hears of that. What is held never passes."""
        self._moving.set()
        for of_person in self._kept:
            self._press(of_person, False)

    def opened(self, channel: "Channel") -> None:
        """Something could pass in it now."""
        if self._relay.session.frozen:
            for end in channel.ends():
                if end.hold is None:
                    Hold(end, partial(self._count, end.leg is self._relay.door))

    def forget(self, channel: "Channel") -> None:
        self._told.discard(channel)

    def _lift(self, end: "End") -> None:
        relay = self._relay
        try:
            end.hold.lift()
        except PeerError as error:
            if end.leg is relay.door:
                relay.door.disconnect_person(error.cause)
            else:
                relay.end("target-lost", text=f"target `{relay.grant.target}` broke the protocol: {error.cause}")

    def _tell(self, channel: "Channel") -> None:
        """Once on each channel."""
        if channel not in self._told and channel.tell(f"nothing passes: {self._relay.session.frozen}"):
            self._told.add(channel)

    def _count(self, of_person: bool, size: int) -> None:
        before = self._kept[of_person]
        after = self._kept[of_person] = before + size
        if (before > MOST) is not (after > MOST):
            self._press(of_person, after > MOST)

    def _press(self, of_person: bool, full: bool) -> None:
        """Of a leg that says more than clients and servers do, nothing is read until the session goes on."""
        leg = self._relay.door if of_person else self._relay.target
        if leg is not None:
            why = (self, of_person)
            (leg.packets.pause if full else leg.packets.resume)(why)


class Hold:
    """Stands where the owner and the flow of an end stood. `kept` is told of each message how long it is."""

    __slots__ = ("_end", "_kept", "_messages", "flow", "owner")

    def __init__(self, end: "End", kept: Callable[[int], None]) -> None:
        self._end = end
        self._kept = kept
        self._messages: deque[tuple[int, bytes]] = deque()
        self.owner: Any = end.owner
        self.flow: Any = end.flow
        end.owner = self
        end.flow = end.hold = self  # type: ignore[assignment]

    def lift(self) -> None:
        """Everything goes on, in the order in which it came. PeerError for what should not have come."""
        end = self._end
        end.owner, end.flow, end.hold = self.owner, self.flow, None
        while self._messages:
            kind, payload = self._messages.popleft()
            self._kept(-len(payload))
            flow = end.flow
            if kind == DATA and flow is not None:
                if not flow.data(memoryview(payload)[4:]):
                    flow.to.send(DATA, payload)
            elif kind == WINDOW_ADJUST and flow is not None:
                flow.adjust(payload)
            else:
                end.owner.message(end, kind, payload)
        if end.close_received:
            end.release()

    def _keep(self, kind: int, payload: bytes) -> None:
        self._messages.append((kind, payload))
        self._kept(len(payload))

    # --- as flow of the end -------------------------------------------------------------------------

    def data(self, data: memoryview) -> bool:
        self._keep(DATA, _U32.pack(len(data)) + bytes(data))
        return True

    def adjust(self, payload: bytes) -> None:
        self._keep(WINDOW_ADJUST, payload)

    # --- as its owner -------------------------------------------------------------------------------

    def message(self, _end: "End", kind: int, payload: bytes) -> None:
        self._keep(kind, payload)

    def opened(self, end: "End", window: int, rest: bytes) -> None:
        self.owner.opened(end, window, rest)

    def open_failed(self, end: "End", code: int, reason: str) -> None:
        self.owner.open_failed(end, code, reason)

    def lost(self, end: "End") -> None:
        self.owner.lost(end)

    def closed(self, end: "End") -> None:
        self.owner.closed(end)
