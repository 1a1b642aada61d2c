"""The process: its sockets, who is let in, and the signals. It holds nothing: a restart loses connections, no more."""

import os
import socket
import ssl
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import structlog
import trio

from bastion import config
from bastion.broker.api import Asked
from bastion.broker.crowd import Crowd, host_of, plain
from bastion.broker.door import HEAD_SECONDS, Visit
from bastion.broker.evidence import LocalPeer
from bastion.broker.listening import listeners, tls_context
from bastion.config import Settings
from bastion.lifetime import SIGNALS, obey, tell, watchdog
from policy.messages import Applicant

ACCEPT_PAUSE: Final = 0.5
"""Seconds after an accept that failed: out of descriptors, and those who are here go on."""

log = structlog.get_logger()


@dataclass(slots=True)
class Service:
    settings: Settings
    context: ssl.SSLContext | None = None
    crowd: Crowd = field(default_factory=Crowd)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        self.context = tls_context(self.settings)
        sockets = listeners(self.settings)
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                for listener in sockets:
                    nursery.start_soon(self._accept, trio.socket.from_stdlib_socket(listener), nursery)
                nursery.start_soon(watchdog)
                log.info("ready", pid=os.getpid(), sockets=len(sockets))
                tell("READY=1")
                await obey(signals, self._reload)
                nursery.cancel_scope.cancel()

    def _reload(self) -> None:
        settings = config.load(self.settings.path)
        self.context, self.settings = tls_context(settings), settings

    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                connection, address = await listener.accept()
            except OSError as error:
                log.error("accept-failed", error=error.strerror)
                await trio.sleep(ACCEPT_PAUSE)
                continue
            if connection.family == socket.AF_UNIX:
                nursery.start_soon(self._local, connection)
            else:
                nursery.start_soon(self._remote, connection, plain(address[0]))

    async def _local(self, connection: trio.socket.SocketType) -> None:
        with connection:
            try:
                peer = LocalPeer.of(connection)
            except OSError:  # gone before it was looked at
                return
            try:
                if not self._come(who := f"uid {peer.uid}"):
                    return
                try:
                    wire = trio.SocketStream(connection)
                    visit = Visit(
                        wire, wire, self.settings.run, lambda asked: peer.seen(asked.application),
                        peer.is_there,
                    )  # fmt: skip
                    await visit.serve()
                finally:
                    self.crowd.leave(who)
            finally:
                peer.close()

    async def _remote(self, connection: trio.socket.SocketType, address: str) -> None:
        with connection:
            if self.context is None or not self._come(who := host_of(address)):
                return
            try:
                wire = trio.SocketStream(connection)
                stream = trio.SSLStream(wire, self.context, server_side=True)
                try:
                    with trio.fail_after(HEAD_SECONDS):
                        await stream.do_handshake()
                except (trio.BrokenResourceError, trio.TooSlowError) as error:
                    log.info("handshake-failed", source=address, why=type(error.__cause__ or error).__name__)
                    return
                shown = stream.getpeercert(binary_form=True)
                certificate = sha256(shown).hexdigest() if shown else ""

                def seen(asked: Asked) -> Applicant:
                    return Applicant(
                        name=asked.application, local=False, address=address, certificate=certificate, token=asked.token
                    )

                await Visit(stream, wire, self.settings.run, seen, lambda: True).serve()
            finally:
                self.crowd.leave(who)

    def _come(self, who: str) -> bool:
        if self.crowd.come(who):
            return True
        log.warning("crowded", source=who)
        return False
