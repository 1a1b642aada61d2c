"""A gateway worker's data path in the loop of the test: doors on loopback, a small recorderd, a policy by script.

The login layer is not here: whoever connects is alice, and the name asks for `account@target`. Targets are
whatever the test starts; keys are made once per process.
"""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import asyncssh
import msgspec

from bastion.config import BastionSettings, Settings
from bastion.settings import SshSettings
from bastion.ssh.door import Door, Gateway
from bastion.ssh.jump import HostCertificates, InnerDoor, open_jump
from bastion.ssh.local import LocalChannel
from bastion.ssh.transport import PacketTransport
from policy.messages import (
    Allowed,
    Authorize,
    Certificate,
    Credential,
    Done,
    Grant,
    HostCertificate,
    OpenChannel,
    Refused,
    Sign,
    Signature,
    UseKey,
)
from policy.model import PolicySettings
from recorder.model import AccessNote, Kind, RecorderSettings
from tests.bastion.recorderd import Recorderd, Tape

LOOPBACK = "127.0.0.1"
GCM = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"]
NO_SUCH = Refused(code=77, cause="you have no access to that", hint="ssh bastion ls", ref="A-1")


@functools.cache
def key(name: str) -> asyncssh.SSHKey:
    """A key pair that everybody who says `name` shares."""
    return asyncssh.generate_private_key("ssh-ed25519", comment=name)


class ScriptedPolicy:
    """policyd of one connection: says yes to everything but what a test puts into `answers`, by request type."""

    def __init__(self, site: "Site") -> None:
        self.site = site

    async def ask(self, request: Any) -> Any:
        site = self.site
        site.asked.append(request)
        answer = site.answers.get(type(request))
        if answer is not None:
            result = answer(request)
            if asyncio.iscoroutine(result):
                result = await result
            if result is not None:
                return result
        match request:
            case Authorize(account=account, target="web1"):
                return site.grant(account)
            case Authorize() | HostCertificate(target="nowhere"):
                return NO_SUCH
            case Credential():
                return UseKey(public=key("vault").public_data, algorithms=["ssh-ed25519"])
            case Sign(data=data, algorithm=algorithm):
                return Signature(blob=key("vault").sign(data, algorithm.encode()))
            case OpenChannel():
                return Allowed()
            case HostCertificate(target=target, public=public):
                certificate = key("host-ca").generate_host_certificate(
                    asyncssh.public_key.decode_ssh_public_key(public), target, principals=[target], valid_before="+1h"
                )
                return Certificate(blob=certificate.public_data, expires_in=3600)
            case _:
                return Done(text="")

    def tell(self, message: Any) -> None:
        self.site.told.append(message)


class Owner(asyncssh.SSHServer):
    """Lets everybody in as alice. Only in tests."""

    door: "SiteDoor"

    def connection_made(self, conn: Any) -> None:
        self.door = conn

    def begin_auth(self, username: str) -> bool:
        self.door.account, _, self.door.target = username.partition("@")
        if not self.door.target:
            self.door.account = ""
        return False

    def auth_completed(self) -> None:
        self.door.begin()


class SiteDoor(Door):
    site: "Site"

    async def open_jump(self, host: bytes, port: int, sender: int, window: int, max_packet: int) -> bool:
        if port != 22:
            return False
        return await open_jump(self, self.site.certificates, host.decode(), port, sender, window, max_packet)

    async def serve(self, local: LocalChannel) -> Any:
        return await self.site.serve(self, local)


class Site:
    """One worker. `target_port` is where target `web1` listens."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.asked: list[Any] = []
        self.told: list[Any] = []
        self.answers: dict[type, Callable[[Any], Any]] = {}
        self.grant_changes: dict[str, Any] = {}
        self.doors: list[SiteDoor] = []
        self.target_port = 0
        self.ciphers = GCM
        self.options: dict[str, Any] = {}
        self.sessions = 0
        self.serve: Callable[[SiteDoor, LocalChannel], Any] = self.no_command
        self.packets: Callable[[Any], PacketTransport] = PacketTransport
        self._settings = Settings(
            path=home / "bastion.toml", bastion=BastionSettings(), policy=PolicySettings(),
            recorder=RecorderSettings(), ssh=SshSettings(**settings),
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        self.recorder = Recorderd(self._settings.run)
        self.gateway = Gateway(settings=self._settings)
        common: dict[str, Any] = {
            "encryption_algs": self.ciphers, "compression_algs": ["none"], "kex_algs": ["curve25519-sha256"],
            **self.options,
        }  # fmt: skip
        self.certificates = HostCertificates(common)
        options = await asyncssh.SSHServerConnectionOptions.construct(
            None, config=(), server_factory=Owner, server_host_keys=[key("bastion")], **common
        )
        options.proxy_command = None
        loop = asyncio.get_running_loop()

        def door() -> PacketTransport:
            one = SiteDoor(loop, options)
            one.site, one.gateway, one.policy = self, self.gateway, ScriptedPolicy(self)
            one.person, one.source = "alice", "192.0.2.7"
            self.doors.append(one)
            return self.packets(one)

        self._listener = await loop.create_server(door, LOOPBACK, 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        self._tick = asyncio.ensure_future(self.gateway.tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._tick.cancel()
        self._listener.close()
        for door in [*self.gateway.doors, *self.doors]:
            if not door.is_closed():
                door.abort()
        self.recorder.hold = False
        for tape in self.recorder.tapes:
            tape.hang_up()
        self.recorder.stop()
        for _ in range(3):
            await asyncio.sleep(0)

    # --- what a test asks -------------------------------------------------------------------------------

    def grant(self, account: str) -> Grant:
        self.sessions += 1
        fields: dict[str, Any] = {
            "session": f"{self.sessions:032x}", "person": "alice", "account": account, "target": "web1",
            "address": LOOPBACK, "port": self.target_port, "host_keys": [key("target").public_data], "kinds": [],
            "rule": "r", "expires_in": None, "idle": None, "record_sync": False, "keep_content": False,
            "commitment_key": b"k" * 32, "source": "192.0.2.7", **self.grant_changes,
        }  # fmt: skip
        return Grant(**fields)

    async def no_command(self, door: SiteDoor, local: LocalChannel) -> Any:
        raise NotImplementedError

    @property
    def door(self) -> Door:
        """The newest one, within `ssh -J` the inner one."""
        inner = [door for door in self.gateway.doors if isinstance(door, InnerDoor)]
        return inner[-1] if inner else self.doors[-1]

    @property
    def relay(self) -> Any:
        return self.door.relay

    @property
    def tape(self) -> Tape:
        return self.recorder.tape

    def access(self) -> list[AccessNote]:
        return [msgspec.msgpack.decode(note, type=AccessNote) for note in self.tape.notes(Kind.ACCESS)]

    def asked_for(self, kind: type) -> list[Any]:
        return [request for request in self.asked if type(request) is kind]

    def told_of(self, kind: type) -> list[Any]:
        return [message for message in self.told if type(message) is kind]

    async def client(self, username: str = "root@web1", **options: Any) -> asyncssh.SSHClientConnection:
        """A stock asyncssh client, logged in."""
        settings: dict[str, Any] = {"encryption_algs": self.ciphers, "kex_algs": ["curve25519-sha256"], **options}
        return await asyncssh.connect(
            LOOPBACK, self.port, username=username, known_hosts=([key("bastion").convert_to_public()], [], []),
            client_keys=None, config=None, agent_path=None, compression_algs=["none"], **settings,
        )  # fmt: skip
