"""What passed through the broker's end of policyd's socket stays in none of its buffers, however the answer is."""

import os
import socket
from pathlib import Path

import pytest
import trio

from bastion.broker import link as module
from bastion.broker.link import BROKER_SOCKET, Link
from bastion.errors import PeerError
from policy import messages as m
from policy.messages import Applicant, Leased, ReadSecret, Recognised, encode
from tests.broker.place import Place

VALUE = b"password of deploy"


def left() -> bytes:
    """What the buffer that all connections share holds, without the zeroes."""
    return bytes(module._buffer).strip(b"\0")


def test_a_secret_that_was_read_is_not_in_the_buffer(place: Place) -> None:
    """The very policyd: it stays there until the next answer comes, in a quiet broker for days."""
    place.application("linked", "deploy@web1")

    async def read() -> None:
        link = Link(place.policyd.home / "run")
        try:
            seen = Applicant(name="linked", uid=os.getuid(), pid=os.getpid())
            assert isinstance(await link.introduce(seen), Recognised)
            assert left() == b""
            answer = await link.ask(ReadSecret(name="deploy@web1"))
            assert isinstance(answer, Leased)
            assert answer.value == VALUE
            assert left() == b""
        finally:
            link.close()

    trio.run(read)


LEASED = Leased(name="x", kind="password", value=VALUE, version=1, lease="0" * 32, seconds=1, longest=1)


@pytest.mark.parametrize(
    "answer",
    [
        encode(1, LEASED)[:-3],  # cut off
        b"\xc1" + VALUE,  # nothing that msgpack knows
        encode(7, LEASED),  # the answer to another question
    ],
)
def test_an_answer_that_is_none_is_overwritten_too(tmp_path: Path, answer: bytes) -> None:
    (tmp_path / "run").mkdir()

    async def read() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(tmp_path / "run" / BROKER_SOCKET))
            listener.listen()
            link = Link(tmp_path / "run")
            async with trio.open_nursery() as nursery:

                async def policyd() -> None:
                    connection, _ = await trio.socket.from_stdlib_socket(listener).accept()
                    with connection:
                        await connection.recv(65536)
                        await connection.send(answer)

                nursery.start_soon(policyd)
                with pytest.raises(PeerError, match="policyd closed the connection"):
                    await link.introduce(Applicant(uid=0))
            assert left() == b""
            assert link.known is None

    trio.run(read)


def test_two_at_once_have_each_their_own_answer(place: Place) -> None:
    """The buffer is one for all connections: what one reads is never another's."""
    names = [f"crowd/{number}" for number in range(8)]
    for name in names:
        place.policyd.done(m.SecretAdd(name=name, value=name.encode() * 50, owner="alice"))
    place.application("crowd", "crowd/", rate=10_000)

    async def read(name: str) -> None:
        link = Link(place.policyd.home / "run")
        try:
            await link.introduce(Applicant(name="crowd", uid=os.getuid(), pid=os.getpid()))
            for _ in range(20):
                answer = await link.ask(ReadSecret(name=name))
                assert isinstance(answer, Leased)
                assert answer.value == name.encode() * 50
        finally:
            link.close()

    async def all_at_once() -> None:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(read, name)
        assert left() == b""

    trio.run(all_at_once)
