"""A person's own connection: the login of `auth`, then the channels of `door`, and what there is without a target."""

import asyncio
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from asyncssh.packet import PacketDecodeError, SSHPacket, String
from asyncssh.public_key import SSHKeyPair

from bastion.errors import BastionError
from bastion.ssh import commands, menu
from bastion.ssh.auth import PersonConnection
from bastion.ssh.door import Door, Gateway
from bastion.ssh.jump import HostCertificates, open_jump
from bastion.ssh.links import POLICY_SOCKET, Push
from bastion.ssh.relay import Relay
from bastion.startups import Outcome

if TYPE_CHECKING:
    from bastion.ssh.local import LocalChannel

GOODBYE: Final = 5.0
"""Seconds, beyond a dial under way, for the ends of sessions to be written down before policyd is told they ended."""

_PROVE: Final = b"hostkeys-prove-00@openssh.com"


class Entrance(PersonConnection, Door):
    """Made for each connection that the listener lets in."""

    def __init__(
        self, options: Any, gateway: Gateway, certificates: HostCertificates, left: Callable[[Outcome], None]
    ) -> None:
        self.gateway = gateway
        self._certificates = certificates
        self._proved = False
        self._welcomed = False
        settings = gateway.settings
        super().__init__(asyncio.get_running_loop(), options, settings.ssh, settings.run / POLICY_SOCKET, left)

    def logged_in(self) -> None:
        # OpenSSH's PROTOCOL, 2.5: a client learns the keys that it does not know yet, before one of them is replaced.
        self._send_global_request(b"hostkeys-00@openssh.com", *map(String, self._own_keys()))
        self.account, self.target, self.port = self.login.account, self.login.target, self.login.port
        if self.leads_to is not None and not self.target:
            self.account, self.target = self.leads_to
        self.client_version = self.client
        self.begin()

    @property
    def has_target(self) -> bool:
        """A name that could not be understood asked for something, too: its error is the answer."""
        return bool(self.target) or self.misuse is not None

    def begin(self) -> None:
        if self.misuse is None and (self.leads_to is None or self.login.target):
            super().begin()
        else:
            # A token dials with the first channel: `ssh -J ticket-...@bastion` spends its one use within the tunnel.
            self.gateway.doors.add(self)

    async def relay_ready(self) -> Relay:
        if self.misuse is not None:
            raise self.misuse
        if self._starting is None and self.has_target:
            self._start(self.wanted())
        return await super().relay_ready()

    async def try_again(self, failure: BastionError, local: "LocalChannel") -> Relay:
        if self.misuse is not None:
            raise self.misuse
        return await super().try_again(failure, local)

    def _welcome(self, local: "LocalChannel") -> None:
        """Once, to whoever came by an invitation."""
        if self.login.secret is not None and self.login.secret.joins and not self._welcomed:
            self._welcomed = True
            commands.say(local, f"bastion: welcome, {self.person}: this key is all you need here from now on\n")

    async def serve(self, local: "LocalChannel") -> Relay | None:
        self._welcome(local)
        if local.command is not None:
            await commands.run(local, self.policy, self.person, self._place, self.watch)
            return None
        if local.terminal is None:
            commands.refuse_no_target(local)
            return None
        try:
            choice = await menu.pick(local, self.policy)
            return await self.pick(choice.account, choice.target, local) if choice is not None else None
        except BastionError as error:
            local.write_error("\r\n".join([*error.lines(), ""]).encode())
            local.exit(int(error.code))
            return None

    @property
    def _place(self) -> str:
        """How people reach this bastion: what is configured, else where this very connection came in."""
        return self.gateway.settings.ssh.address or f"{self._local_addr}:{self._local_port}"

    # --- host keys ----------------------------------------------------------------------------------

    def _own_keys(self) -> dict[bytes, SSHKeyPair]:
        return {pair.public_data: pair for pair in self._server_host_keys.values()}

    def answer_now(self, name: bytes, rest: bytes) -> bytes | None:
        if name != _PROVE:
            return super().answer_now(name, rest)
        if self._proved:
            return None  # each costs a signature of each key; a client asks once
        self._proved = True
        return self._prove(SSHPacket(rest))

    def _prove(self, asked: SSHPacket) -> bytes | None:
        """Signatures of this session by the keys that are asked for; None if one is not ours."""
        own, signatures = self._own_keys(), b""
        prefix = String(_PROVE) + String(self._session_id)
        try:
            while asked:
                pair = copy.copy(own.pop(asked.get_string()))
                if pair.algorithm == b"ssh-rsa":
                    shown = self._server_host_key.sig_algorithm if self._server_host_key is not None else b""
                    pair.set_sig_algorithm(shown if shown in pair.host_key_algorithms else b"rsa-sha2-512")
                signatures += String(pair.sign(prefix + String(pair.public_data)))
        except (KeyError, PacketDecodeError):
            return None
        return signatures

    async def open_jump(self, host: bytes, port: int, sender: int, window: int, max_packet: int) -> bool:
        try:
            name = host.decode("ascii")
        except UnicodeDecodeError:
            return False
        return await open_jump(self, self._certificates, name, port, sender, window, max_packet)

    def pushed(self, message: Push) -> None:
        Door.pushed(self, message)

    def policy_lost(self) -> None:
        Door.policy_lost(self)

    def release(self) -> None:
        if self.policy is None:
            return
        if not self.relays and self._starting is None:
            self.policy.close()
            return
        self.gateway.ending.add(task := asyncio.ensure_future(self._say_goodbye()))
        task.add_done_callback(self.gateway.ending.discard)

    async def _say_goodbye(self) -> None:
        """policyd takes the end of the conversation for the end of its sessions: first they say how they ended."""
        assert self.policy is not None
        try:
            async with asyncio.timeout(self.gateway.settings.ssh.dial + GOODBYE):
                if self._starting is not None:
                    await asyncio.wait([self._starting])
                for relay in list(self.relays.values()):
                    await relay.leave("closed")
        except TimeoutError:
            pass
        finally:
            self.policy.close()
