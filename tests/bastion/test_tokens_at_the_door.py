"""A token as user name: shown to policyd at the first request whatever that is, and never followed by anything else."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String

from bastion.settings import SshSettings
from bastion.ssh.algorithms import server_options
from bastion.ssh.auth import PersonConnection
from bastion.ssh.transport import PacketTransport
from policy.messages import (
    MAX_MESSAGE,
    Acceptable,
    OfferKey,
    ProveKey,
    TryPassword,
    TryToken,
    Verdict,
    decode_request,
    encode,
)
from policy.model import Method, Outcome
from tests.support.net import LOOPBACK
from tests.support.rawssh import Raw

TICKET, JOIN = "ticket-" + "a2" * 20, "join-" + "b3" * 20
SUCCESS, FAILURE = 52, 51


async def meets(path: Path, name: str, methods: list[str], *, good: bool) -> tuple[list[Any], list[int], Any]:
    """What policyd was asked, what the client was answered, and the connection, after these methods."""
    loop = asyncio.get_running_loop()
    key = asyncssh.generate_private_key("ssh-ed25519")
    options = await server_options(SshSettings(), asyncssh.load_keypairs([key]))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)
    asked: list[Any] = []
    made: list[PersonConnection] = []

    async def policyd() -> None:
        sock, _ = await loop.sock_accept(listener)
        while data := await loop.sock_recv(sock, MAX_MESSAGE):
            number, request = decode_request(data)
            asked.append(request)
            reply: Any = Verdict(outcome=Outcome.REFUSED, next=[Method.PUBLIC_KEY, Method.PASSWORD])
            if isinstance(request, TryToken) and good:
                reply = Verdict(outcome=Outcome.DONE, person="alice", account="root", target="web1")
            elif isinstance(request, OfferKey | ProveKey | TryPassword):
                reply = Acceptable(ok=True) if isinstance(request, OfferKey) else Verdict(
                    outcome=Outcome.DONE, person="alice"
                )  # fmt: skip
            await loop.sock_sendall(sock, encode(number, reply))

    def make() -> PacketTransport:
        made.append(PersonConnection(loop, options, SshSettings(), path, lambda _: None))
        return PacketTransport(made[-1])

    task = loop.create_task(policyd())
    server = await loop.create_server(make, LOOPBACK, 0)
    raw = await (await Raw.connect(server.sockets[0].getsockname()[1])).begin()
    answers: list[int] = []
    for method in methods:
        if method == "publickey":
            raw.prove(name, key)
        else:
            raw.request(name, method, *([Boolean(False), String("x")] if method == "password" else []))
        answers.append((await raw.until(SUCCESS, FAILURE))[0])
        if answers[-1] == SUCCESS:
            break
    task.cancel()
    server.close()
    listener.close()
    return asked[1:], answers, made[0]


@pytest.mark.parametrize("method", ["none", "password", "publickey", "keyboard-interactive", "hostbased"])
def test_whatever_the_client_begins_with(method: str, tmp_path: Path) -> None:
    asked, answers, door = asyncio.run(meets(tmp_path / "p", TICKET, [method], good=True))
    assert [type(one) for one in asked] == [TryToken]
    assert asked[0].token == TICKET
    assert answers == [SUCCESS]
    assert (door.person, door.leads_to) == ("alice", ("root", "web1"))


def test_nothing_follows_a_token_that_is_none(tmp_path: Path) -> None:
    """Attack, or mistake: a key that would log in, behind a name that asked for something else."""
    asked, answers, door = asyncio.run(meets(tmp_path / "p", TICKET, ["none", "publickey", "password"], good=False))
    assert [type(one) for one in asked] == [TryToken]
    assert answers == [FAILURE] * 3
    assert door.person == ""


def test_an_invitation_goes_along_with_the_key(tmp_path: Path) -> None:
    asked, answers, door = asyncio.run(meets(tmp_path / "p", JOIN, ["publickey"], good=False))
    assert [(type(one), one.person) for one in asked] == [(ProveKey, JOIN)]
    assert answers == [SUCCESS]
    assert door.leads_to is None
