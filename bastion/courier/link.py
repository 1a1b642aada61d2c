"""The near end of policyd's socket, for those who work for it: one message = one msgpack array of MAX_MESSAGE bytes."""

import socket
from itertools import count
from pathlib import Path
from typing import Final, Self

import msgspec
import trio

from bastion.errors import PeerError
from policy.messages import MAX_MESSAGE, Called, Courier, Reply, Request, Runner, Worked, decode_reply, encode

COURIER_SOCKET: Final = "policyd-courier.sock"


class Link:
    """Connected and greeted. PeerError from `receive` and `answer` when policyd is gone."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock
        self._numbers = count(1)
        self._sending = trio.Lock()

    @classmethod
    async def connect(cls, path: Path, greeting: Courier | Runner) -> Self:
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            await sock.connect(str(path))
            link = cls(sock)
            await link.greet(greeting)
        except OSError as error:
            sock.close()
            raise PeerError(f"policyd is not running at `{path}`: {(error.strerror or '').lower()}") from None
        except BaseException:
            sock.close()
            raise
        return link

    async def greet(self, greeting: Courier | Runner) -> None:
        """Until it has answered: from here on it knows us."""
        await self._send(greeting)
        await self.receive()

    async def receive(self) -> Reply:
        try:
            data = await self._socket.recv(MAX_MESSAGE + 1)
            if data and len(data) <= MAX_MESSAGE:
                return decode_reply(data)[1]
        except (OSError, trio.ClosedResourceError, msgspec.MsgspecError):
            pass
        raise PeerError("policyd closed the connection")

    async def answer(self, answer: Called | Worked) -> None:
        await self._send(answer)

    async def _send(self, body: Request) -> None:
        data = encode(next(self._numbers), body)
        if len(data) > MAX_MESSAGE and isinstance(body, Called):
            data = encode(next(self._numbers), Called(task=body.task, error="sent more than can be passed on"))
        try:
            async with self._sending:
                await self._socket.send(data)
        except (OSError, trio.ClosedResourceError):
            raise PeerError("policyd closed the connection") from None

    def close(self) -> None:
        self._socket.close()
