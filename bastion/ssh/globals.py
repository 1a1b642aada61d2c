"""Global requests of a person's connection, answered in their order: they have no number (RFC 4254 section 4).

Most are answered at once. Those that ask a target to listen wait for policyd and for the target, and what comes
behind them waits as well.
"""

from collections import deque
from struct import error as StructError
from typing import TYPE_CHECKING, Final

from asyncssh.constants import MSG_REQUEST_FAILURE, MSG_REQUEST_SUCCESS

from bastion.errors import BastionError
from bastion.tunnels import Listening, chosen_port, listening, means
from policy.model import ChannelKind

if TYPE_CHECKING:
    from bastion.ssh.door import Door

MAX_WAITING: Final = 256
"""Requests that wait for one that is being decided: a client with as many `-R` sends them all at once."""
MAX_LISTENING: Final = 64
"""Ports and sockets that one session may have a target listen on."""

FORWARDS: Final = {
    b"tcpip-forward": ChannelKind.FORWARD_REMOTE,
    b"streamlocal-forward@openssh.com": ChannelKind.FORWARD_SOCKET,
}
_CANCELS: Final = {b"cancel-" + name: kind for name, kind in FORWARDS.items()}


class GlobalRequests:
    """One connection's."""

    def __init__(self, door: "Door") -> None:
        self._door = door
        # name, wants a reply, what a target is to listen on, and for all others the answer
        self._waiting: deque[tuple[bytes, bool, Listening | None, bytes | None]] = deque()

    def received(self, name: bytes, want_reply: bool, rest: bytes) -> None:
        asked, answer = None, None
        kind = FORWARDS.get(name) or _CANCELS.get(name)
        if kind is None:
            answer = self._door.answer_now(name, rest)
        else:
            try:
                asked = listening(kind, rest)
            except (StructError, ValueError):
                pass  # it is no request: no
        if asked is None and not self._waiting:
            self._reply(want_reply, answer)
        elif len(self._waiting) >= MAX_WAITING:
            self._door.disconnect_person("too many global requests")
        else:
            self._waiting.append((name, want_reply, asked, answer))
            if len(self._waiting) == 1:
                self._door.spawn(self._answer())

    async def _answer(self) -> None:
        while self._waiting:
            name, want_reply, asked, answer = self._waiting[0]
            if asked is not None:
                try:
                    answer = await self._ask_target(name, asked)
                except BastionError:
                    answer = None
            self._waiting.popleft()
            self._reply(want_reply, answer)

    def _reply(self, want_reply: bool, answer: bytes | None) -> None:
        """None is no."""
        if want_reply and not self._door.is_closed():
            self._door.packets.send(MSG_REQUEST_FAILURE if answer is None else MSG_REQUEST_SUCCESS, answer or b"")

    async def _ask_target(self, name: bytes, asked: Listening) -> bytes | None:
        relay = await self._door.relay_ready()
        begins = name in FORWARDS
        if begins:
            if len(relay.remote_forwards) >= MAX_LISTENING or await relay.ask(asked.kind, asked.where) is not None:
                return None
        elif not any(known.kind is asked.kind and known.port == asked.port and means(known.name, asked.name)
                     for known in relay.remote_forwards):  # fmt: skip
            return None
        if relay.target is None or not relay.is_live:
            return None
        if begins:
            # Before the target answers: a connection may come in with the same packet.
            relay.remote_forwards.add(asked)
        kind, packet = await relay.target._make_global_request(name, asked.body)
        said = bytes(packet.get_remaining_payload())
        if kind != MSG_REQUEST_SUCCESS:
            if begins:
                relay.remote_forwards.discard(asked)
            return None
        if not begins:
            relay.remote_forwards.discard(asked)
            return b""
        if asked.kind is ChannelKind.FORWARD_SOCKET or asked.port:
            return b""
        # The target chose the port, and connections and the end of it will name it.
        relay.remote_forwards.discard(asked)
        port = chosen_port(said)
        if port is None:
            return None
        relay.remote_forwards.add(Listening(asked.kind, asked.name, port))
        return port.to_bytes(4)
