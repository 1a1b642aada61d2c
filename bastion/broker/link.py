"""The broker's end of policyd's socket: one conversation for each connection of an application."""

import socket
from pathlib import Path
from typing import Final

import msgspec
import trio

from bastion.errors import PeerError
from policy.messages import MAX_MESSAGE, Applicant, Recognised, Refused, Reply, Request, decode_reply, encode

BROKER_SOCKET: Final = "policyd-broker.sock"
PATIENCE: Final = 10.0
"""Seconds for policyd's answer; it takes milliseconds, and a disk that stands still is not waited for."""


class Link:
    """Opened by `introduce`. One question at a time. PeerError from all of them when policyd does not answer."""

    def __init__(self, run: Path) -> None:
        self._path = run / BROKER_SOCKET
        self._socket: trio.socket.SocketType | None = None
        self._number = 0
        self.known: Recognised | None = None

    async def introduce(self, seen: Applicant) -> Recognised | Refused:
        """Say who is there; a conversation before this one is over."""
        self.close()
        self._socket = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            await self._socket.connect(str(self._path))
        except OSError:
            raise PeerError(f"policyd is not running at `{self._path}`") from None
        reply = await self.ask(seen)
        if isinstance(reply, Recognised):
            self.known = reply
            return reply
        self.close()
        if isinstance(reply, Refused):
            return reply
        raise PeerError(f"policyd answered with {type(reply).__name__}")

    async def ask(self, body: Request) -> Reply:
        assert self._socket is not None
        self._number += 1
        try:
            with trio.fail_after(PATIENCE):
                await self._socket.send(encode(self._number, body))
                data = await self._socket.recv(MAX_MESSAGE + 1)
            if data and len(data) <= MAX_MESSAGE:
                number, reply = decode_reply(data)
                if number == self._number:
                    return reply
        except (OSError, trio.ClosedResourceError, trio.TooSlowError, msgspec.MsgspecError):
            pass
        self.close()  # what comes late must not answer the next question
        raise PeerError("policyd closed the connection")

    def close(self) -> None:
        self.known = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
