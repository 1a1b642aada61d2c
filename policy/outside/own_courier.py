"""A courier for one command: `init` and `db accept-trail` are no policyd that the other one could connect to.

It is the same program in a process of its own, at the other end of a pair of sockets, and ends with the command. So
one code alone speaks TLS to the outside, held to `[courier] reach`; it works before the first start and while the
units are stopped, which is when these commands are said.
"""

import itertools
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio

from policy.conversation import Conversation, State
from policy.messages import Called, Courier, Done, HttpCall, Request, decode_request
from policy.outside.couriers import GRACE_SECONDS, NO_ANSWER, NO_COURIER
from policy.peers import Oversized, peer_of, receive
from policy.vault.secret import VaultError

START_SECONDS: Final = 30.0
"""From its start to its first word: a second of imports, on a machine that has other things to do."""
END_SECONDS: Final = 5.0

_GONE: Final = (OSError, Oversized, msgspec.MsgspecError, ValueError)


class _OwnCourier:
    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._talk = Conversation(ident=0, connection=connection, peer=peer_of(connection), state=State.COURIER)
        self._numbers = itertools.count(1)

    async def greeted(self) -> bool:
        """Whether it began as a courier does."""
        with trio.move_on_after(START_SECONDS):
            try:
                ident, first = await self._hear()
                await self._talk.reply(ident, Done(text=""))
            except _GONE:
                return False
            return isinstance(first, Courier)
        return False

    async def http(self, call: HttpCall) -> Called:
        """Have it made, one at a time. As `Couriers.http`: what goes wrong is an `error`."""
        number = next(self._numbers)
        with trio.move_on_after(call.seconds + GRACE_SECONDS):
            try:
                await self._talk.push(msgspec.structs.replace(call, task=number))
                while True:
                    _, answer = await self._hear()
                    if isinstance(answer, Called) and answer.task == number:  # and not one that came too late
                        return answer
            except _GONE:
                return Called(task=0, error=NO_COURIER)
        return Called(task=0, error=NO_ANSWER)

    async def _hear(self) -> tuple[int, Request]:
        data = await receive(self._talk.connection)
        if not data:
            raise ConnectionResetError
        return decode_request(data)


@asynccontextmanager
async def own_courier(config: Path) -> AsyncIterator[_OwnCourier]:
    """One that `config`, bastion.toml, tells whom it may call. VaultError if it does not start; it has said why."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [sys.executable, "-m", "bastion.courier", "--config", str(config), "--socket", str(theirs.fileno())]
    with theirs:
        process = await trio.lowlevel.open_process(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
    try:
        with trio.socket.from_stdlib_socket(ours) as connection:
            courier = _OwnCourier(connection)
            if not await courier.greeted():
                raise VaultError("the courier that is to call the transit server did not start", "bastion check-config")
            yield courier
    finally:
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END_SECONDS):
                await process.wait()  # it ends when its socket does
            process.kill()
            await process.wait()
