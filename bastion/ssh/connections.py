"""What both legs override of asyncssh's connections: packets go through `transport`, channels are `End` objects."""

import copy
import sys
from collections.abc import Sequence
from time import monotonic
from types import MethodType
from typing import Any

import structlog
from asyncssh import connection
from asyncssh.connection import SSHClientConnection, SSHConnection, SSHServerConnection
from asyncssh.constants import (
    DEFAULT_LANG,
    DISC_PROTOCOL_ERROR,
    MSG_CHANNEL_OPEN,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEXINIT,
    OPEN_RESOURCE_SHORTAGE,
)
from asyncssh.logging import SSHLogger
from asyncssh.misc import ProtocolError
from asyncssh.packet import PacketDecodeError, SSHPacket

from bastion.errors import PeerError
from bastion.ssh import algorithms
from bastion.ssh.channels import MAX_PACKET, MIN_PACKET
from bastion.ssh.gcm import Gcm
from bastion.ssh.renewals import Renewals
from bastion.ssh.transport import PacketTransport


class _Warnings(SSHLogger):
    """asyncssh makes a text of each list of algorithms before it looks whether anybody wants to read it."""

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            super().log(level, msg, *args, **kwargs)


connection.logger = _Warnings()  # type: ignore[attr-defined]  # what each connection derives its own from


class PacketConnection(SSHConnection):
    """What both legs override of asyncssh. `_channels` holds `End` objects, not asyncssh's channels."""

    packets: PacketTransport
    exchange = ""  # method of the last key exchange
    _renewals: Renewals | None = None  # of those that the peer begins, from the first on

    def kexinit_received(self, kind: int, seq: int, packet: SSHPacket) -> Any:
        """The peer begins a key exchange, or goes on with ours."""
        if not self._kexinit_sent:
            now = monotonic()
            self._renewals = self._renewals or Renewals(now)
            if not self._renewals.may_begin(self.packets.take_came() + self._rekey_bytes_sent, now):
                raise ProtocolError("new keys again and again")
        return self._process_kexinit(kind, seq, packet)

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        self.exchange = self._kex.algorithm.decode("ascii") if self._kex is not None else ""
        super().send_newkeys(k, h)

    @property
    def agreed(self) -> dict[str, object]:
        """What both sides settled on, for the log: whoever stripped an offer on its way is seen there."""
        return {"kex": self.exchange, "cipher": self.get_extra_info("recv_cipher"), "strict": self._strict_kex}

    def is_fast(self) -> bool:
        """Does `PacketTransport` open the packets?"""
        return type(self._recv_encryption) is Gcm and self._auth_complete and not self._decompressor

    def is_busy(self) -> bool:
        """Does asyncssh await something before it takes the next packet?"""
        # Its own steps are methods; while it waits for a coroutine it puts a function there that says no.
        return type(self._recv_handler) is not MethodType

    def take_back(self) -> bytes:
        """What asyncssh holds of a packet that is not whole. AES-GCM leaves its head as it is, nothing is undone."""
        left = self._inpbuf
        if self._recv_handler == self._recv_packet:
            left = self._packet + left
            self._packet = b""
            self._recv_handler = self._recv_pkthdr
        self._inpbuf = b""
        return left

    @property
    def is_gone(self) -> bool:
        """Closed, or about to be: no channel can be opened any more."""
        return self._transport is None

    def heard(self) -> None:
        """The peer lives."""
        self._keepalive_count = 0

    def _send(self, data: bytes) -> None:
        if self._transport:
            self.packets.write(data)

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        # asyncssh puts an encrypted MSG_IGNORE before each packet, against an attack on CBC, which is not offered.
        if pkttype != MSG_IGNORE:
            super().send_packet(pkttype, *args, handler=handler)

    def _finish_recv_packet(self, pkttype: int, seq: int, _task: Any = None, is_async: bool = False) -> None:
        if self._transport is None:
            self._inpbuf = (
                b""  # Attack: what comes behind the end; of a key exchange that failed it would cost the most
            )
        super()._finish_recv_packet(pkttype, seq, _task, is_async)
        if is_async:
            if self.is_fast() and not self.is_busy():
                self.packets.take_back()
            self._loop.call_soon(self.packets.go_on)

    def _send_deferred_packets(self) -> None:
        super()._send_deferred_packets()
        if self._kex_complete:
            self.packets.deferred_sent()

    def log_sent_packet(self, *_: Any, **__: Any) -> None:
        """Formatting each packet for a log that nobody reads cost a tenth of the processor."""

    def log_received_packet(self, *_: Any, **__: Any) -> None:
        """As above."""

    def disconnect(self, code: int, reason: str, lang: str = DEFAULT_LANG) -> None:
        """asyncssh closes its channels first; ours are `End` objects, and their owners hear of it by `lost`."""
        self._send_disconnect(code, reason, lang)
        self._force_close(None)

    def internal_error(self, exc_info: Any = None, error_logger: Any = None) -> None:
        """An exception while a message was processed: the peer's fault is told to the peer, ours to the log."""
        error = (exc_info or sys.exc_info())[1]
        if isinstance(error, PeerError | PacketDecodeError | UnicodeDecodeError):
            # asyncssh closes without a word when a message is empty, or no text where text belongs.
            reason = error.cause if isinstance(error, PeerError) else "malformed message"
            self._send_disconnect(DISC_PROTOCOL_ERROR, reason, DEFAULT_LANG)
            self._force_close(ProtocolError(reason))
            return
        # Its text may quote what passed.
        structlog.get_logger().error("connection-failed", error=type(error).__name__)
        super().internal_error(exc_info, error_logger)

    def _force_close(self, exc: Exception | None) -> None:
        if self._transport:
            self.packets.flush()
        super()._force_close(exc)

    def _process_channel_open(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        kind = packet.get_string()
        sender, window, max_packet = packet.get_uint32(), packet.get_uint32(), packet.get_uint32()
        rest = packet.get_remaining_payload()
        packet.get_bytes(len(rest))
        if max_packet < MIN_PACKET:
            self.refuse_open(sender, OPEN_RESOURCE_SHORTAGE, f"bastion: packets of {max_packet} bytes are too small")
            return
        self.open_received(kind, sender, window, min(max_packet, MAX_PACKET), rest)

    def open_received(self, kind: bytes, sender: int, window: int, max_packet: int, rest: bytes) -> None:
        """The peer wants a channel; answered with `End.confirm` or `refuse_open`, now or later."""
        raise NotImplementedError

    def refuse_open(self, sender: int, code: int, reason: str) -> None:
        self.send_channel_open_failure(sender, code, reason, "")


class ServerConnection(PacketConnection, SSHServerConnection):
    """A person's connection."""

    def _process_global_request(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        name, want_reply = packet.get_string(), packet.get_boolean()
        self.global_request_received(name, want_reply, packet.get_remaining_payload())
        packet.get_bytes(len(packet.get_remaining_payload()))

    def global_request_received(self, name: bytes, want_reply: bool, rest: bytes) -> None:
        """Answered in order by whoever overrides this."""
        raise NotImplementedError

    def _send_kexinit(self) -> None:
        self._enc_algs = algorithms.ciphers_for(self._client_version, self._options.encryption_algs)
        super()._send_kexinit()

    def choose_server_host_key(self, peer_host_key_algs: Sequence[bytes]) -> bool:
        # Two handshakes at once share the loaded key; the algorithm chosen for one must not be the other's.
        for name in peer_host_key_algs:
            pair = self._server_host_keys.get(name)
            if pair is not None:
                pair = copy.copy(pair)
                if name != pair.algorithm:
                    pair.set_sig_algorithm(name)
                self._server_host_key = pair
                return True
        return False

    async def reload_config(self) -> None:
        """asyncssh would read its options anew for each attempt to log in; ours do not depend on the user name."""

    _packet_handlers = {  # noqa: RUF012
        **SSHServerConnection._packet_handlers,
        MSG_KEXINIT: lambda self, *args: self.kexinit_received(*args),
        MSG_GLOBAL_REQUEST: lambda self, *args: self._process_global_request(*args),
        MSG_CHANNEL_OPEN: lambda self, *args: self._process_channel_open(*args),
    }


class ClientConnection(PacketConnection, SSHClientConnection):
    """The connection to a target."""

    _packet_handlers = {  # noqa: RUF012
        **SSHClientConnection._packet_handlers,
        MSG_KEXINIT: lambda self, *args: self.kexinit_received(*args),
        MSG_CHANNEL_OPEN: lambda self, *args: self._process_channel_open(*args),
    }
