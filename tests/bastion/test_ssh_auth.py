"""What must hold of the login whatever asyncssh does: nobody decides but policyd."""

import asyncio
import inspect
import socket
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String

from bastion.settings import SshSettings
from bastion.ssh import auth
from bastion.ssh.algorithms import server_options
from bastion.ssh.auth import PersonConnection
from bastion.ssh.connections import ClientConnection, ServerConnection
from bastion.ssh.transport import PacketTransport
from bastion.startups import Outcome, plain_source
from policy.messages import MAX_MESSAGE, TryPassword, Verdict, decode_request, encode
from policy.model import Outcome as PolicyOutcome
from tests.support.net import LOOPBACK
from tests.support.rawssh import DISCONNECT, USERAUTH_BANNER, Raw, disconnect_reason


class LetsEverybodyIn(asyncssh.SSHServer):
    """What an application must not say, each of which lets somebody in with asyncssh's own authentication."""

    def begin_auth(self, username: str) -> bool:
        return False  # a forgotten `return` is enough

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return True


@pytest.mark.parametrize("method", ["none", "password", "publickey"])
def test_no_word_of_the_application_lets_anybody_in(tmp_path: Path, method: str) -> None:
    """asyncssh asks its owner whether something has to be proven at all; here nobody asks it anything."""
    outcomes: list[Outcome] = []
    key = asyncssh.generate_private_key("ssh-ed25519")

    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        options = await server_options(SshSettings(), asyncssh.load_keypairs([key]))
        options.protocol_factory = LetsEverybodyIn

        def make() -> PacketTransport:
            return PacketTransport(
                PersonConnection(loop, options, SshSettings(), tmp_path / "nobody.sock", outcomes.append)
            )

        server = await loop.create_server(make, LOOPBACK, 0)
        raw = await (await Raw.connect(server.sockets[0].getsockname()[1])).begin()
        if method == "publickey":
            raw.prove("sam", key)
        else:
            raw.request("sam", method, *([Boolean(False), String("x")] if method == "password" else []))
        kinds = await raw.rest()
        server.close()
        return kinds

    assert asyncio.run(run()) == [DISCONNECT]  # for there is no policyd
    assert outcomes == [Outcome.NO_ATTEMPT]


def test_asyncssh_authentication_is_not_reachable() -> None:
    assert PersonConnection._packet_handlers[50] is not ServerConnection._packet_handlers[50]
    assert PersonConnection.kexinit_received is not ServerConnection.kexinit_received
    for who in (PersonConnection, ServerConnection, ClientConnection):
        assert who._packet_handlers[20] is not asyncssh.connection.SSHConnection._packet_handlers[20]
    assert "super()._process_userauth_request" not in inspect.getsource(auth)
    overridden = {"_finish_userauth", "validate_public_key", "validate_password"}
    assert not [name for name in overridden if name in inspect.getsource(auth)], "never called, so never overridden"


def test_two_handshakes_at_once_with_one_rsa_key_sign_each_by_its_own_algorithm(tmp_path: Path) -> None:
    """asyncssh keeps the chosen algorithm at the key, which all connections share; the signature comes later."""
    key = asyncssh.generate_private_key("ssh-rsa", key_size=2048)

    async def run() -> list[bytes]:
        loop = asyncio.get_running_loop()
        options = await server_options(SshSettings(), asyncssh.load_keypairs([key]))
        both = [PersonConnection(loop, options, SshSettings(), tmp_path / "x", lambda _: None) for _ in range(2)]
        for one, name in zip(both, (b"rsa-sha2-512", b"rsa-sha2-256"), strict=True):
            assert one.choose_server_host_key([b"ssh-unknown", name])
        pairs = [one.get_server_host_key() for one in both]
        for one in both:
            one._cancel_login_timer()
        return [pair.sig_algorithm for pair in pairs if pair is not None]

    assert asyncio.run(run()) == [b"rsa-sha2-512", b"rsa-sha2-256"]


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("fe80::1%eth0", "fe80::1"), ("::1", "::1"),
        ("", ""),
    ],
)  # fmt: skip
def test_one_source_has_one_name(address: str, plain: str) -> None:
    assert plain_source(address) == plain


def test_secrets_of_a_login_are_not_in_reprs(tmp_path: Path) -> None:
    from policy.messages import AnswerCode, TryPassword

    said: list[Any] = [TryPassword(person="sam", password=b"hunter2"), AnswerCode(person="sam", answers=["123456"])]
    assert "hunter2" not in repr(said)
    assert "123456" not in repr(said)


def test_the_last_word_of_policyd_is_carried_out_before_its_end_is_noticed(tmp_path: Path) -> None:
    """It says that nobody is let in any more and closes: the person must not hear that the service is away."""
    path = tmp_path / "policyd.sock"

    async def run() -> list[tuple[int, bytes]]:
        loop = asyncio.get_running_loop()
        options = await server_options(SshSettings(), asyncssh.load_keypairs([key]))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)

        async def policyd() -> None:
            sock, _ = await loop.sock_accept(listener)
            while True:
                number, request = decode_request(await loop.sock_recv(sock, MAX_MESSAGE))
                if isinstance(request, TryPassword):
                    await loop.sock_sendall(sock, encode(number, Verdict(outcome=PolicyOutcome.DISCONNECT)))
                    return sock.close()

        def make() -> PacketTransport:
            return PacketTransport(PersonConnection(loop, options, SshSettings(), path, lambda _: None))

        task = loop.create_task(policyd())
        server = await loop.create_server(make, LOOPBACK, 0)
        raw = await (await Raw.connect(server.sockets[0].getsockname()[1])).begin()
        raw.request("sam", "password", Boolean(False), String("x"))
        await raw.gone.wait()
        said = []
        while not raw.kept.empty():
            said.append(raw.kept.get_nowait())
        await task
        listener.close()
        server.close()
        return said

    key = asyncssh.generate_private_key("ssh-ed25519")
    said = asyncio.run(run())
    assert USERAUTH_BANNER not in [kind for kind, _ in said]
    assert disconnect_reason(said[-1][1]) == "Too many authentication failures"
