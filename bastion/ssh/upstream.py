"""Dialling a target: its pinned host key or nobody, and a credential that is used once and forgotten."""

import asyncio
import base64
import errno
import hashlib
import os
from collections.abc import Callable
from typing import Any, Final

import asyncssh
from asyncssh.public_key import SSHKeyPair

from bastion.errors import BastionError, Denied, ExitCode, PeerError
from bastion.settings import SshSettings
from bastion.ssh.connections import ClientConnection
from bastion.ssh.transport import PacketTransport
from bastion.ssh.wipe import wipe
from bastion.text import neutral
from policy.messages import (
    Credential,
    Grant,
    Refused,
    Report,
    Sign,
    Signature,
    UseCertificate,
    UseKey,
    UsePassword,
)

CIPHERS: Final = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com",
                  "aes256-ctr", "aes192-ctr", "aes128-ctr"]  # fmt: skip
MACS: Final = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"]
KEX: Final = ["mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256",
              "ecdh-sha2-nistp384", "diffie-hellman-group16-sha512", "diffie-hellman-group18-sha512",
              "diffie-hellman-group14-sha256"]  # fmt: skip
"""What we take from targets: network gear is older than OpenSSH, SHA-1 is out even so."""
_CREDENTIALS: Final = (asyncssh.constants.MSG_USERAUTH_REQUEST, 61)
"""Packets that carry a password; 61 is SSH_MSG_USERAUTH_INFO_RESPONSE (RFC 4256 section 5)."""
REKEY_BYTES: Final = 1 << 30
REKEY_SECONDS: Final = 3600

Policy = Any  # bastion.ssh.links.PolicyLink


class RemoteKey(SSHKeyPair):
    """A key whose private half stays in policyd: signatures travel."""

    _key_type = "remote"

    def __init__(self, policy: Policy, session: str, public: bytes, algorithms: list[str]) -> None:
        key = asyncssh.public_key.decode_ssh_public_key(public)
        names = [name.encode("ascii") for name in algorithms]
        super().__init__(key.algorithm, key.algorithm, names, names, public, None)
        self._policy = policy
        self._session = session

    async def sign_async(self, data: bytes) -> bytes:
        """asyncssh prefers this to `sign`."""
        algorithm = self.sig_algorithm.decode("ascii")
        reply = await self._policy.ask(Sign(session=self._session, data=data, algorithm=algorithm))
        if not isinstance(reply, Signature):
            raise refused(reply)
        return reply.blob


class TargetConnection(ClientConnection):
    """Knows which host key it was shown, for whoever has to say that it is the wrong one."""

    shown_key = b""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on_open: Callable[[bytes, int, int, int, bytes], None] | None = None

    def _validate_host_key(self, host: str, addr: str, port: int, key_data: bytes) -> Any:
        self.shown_key = key_data
        return super()._validate_host_key(host, addr, port, key_data)

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        super().send_packet(pkttype, *args, handler=handler)
        if pkttype in _CREDENTIALS and not self._deferred_packets:
            wipe(*args)

    async def send_userauth_request(self, method: bytes, *args: bytes, key: Any = None, trivial: bool = True) -> None:
        await super().send_userauth_request(method, *args, key=key, trivial=trivial)
        if method == b"password":
            wipe(*args)

    def open_received(self, kind: bytes, sender: int, window: int, max_packet: int, rest: bytes) -> None:
        if self.on_open is None:
            self.refuse_open(sender, asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not asked for")
        else:
            self.on_open(kind, sender, window, max_packet, rest)


class _Owner(asyncssh.SSHClient):
    def __init__(self, on_lost: Callable[[Exception | None], None]) -> None:
        self._on_lost = on_lost

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(exc)


class LoginRefused(PeerError):
    """The target is the right one, and does not take this credential."""


async def dial(
    policy: Policy, grant: Grant, settings: SshSettings, on_lost: Callable[[Exception | None], None]
) -> TargetConnection:
    """A connection logged in to the target; PeerError or Denied otherwise, said in words for the person.

    Takes a Grant and not a name: nobody dials without policyd's leave (invariant 3).
    """
    key = asyncssh.generate_private_key("ssh-ed25519")
    credential = await policy.ask(Credential(session=grant.session, session_key=key.public_data))
    login = _login(policy, grant, key, credential)
    pinned = [asyncssh.public_key.decode_ssh_public_key(blob) for blob in grant.host_keys]
    options = await asyncssh.SSHClientConnectionOptions.construct(
        None, config=(), host=grant.address, port=grant.port, username=grant.account, known_hosts=(pinned, [], []),
        client_factory=lambda: _Owner(on_lost), agent_path=None,
        x509_trusted_certs=None, x509_trusted_cert_paths=[], gss_host=None,
        kex_algs=KEX, encryption_algs=CIPHERS, mac_algs=MACS, compression_algs=["none"],
        rekey_bytes=REKEY_BYTES, rekey_seconds=REKEY_SECONDS,
        keepalive_interval=settings.keepalive, keepalive_count_max=3, client_version="Bastion",
        **login,
    )  # fmt: skip
    try:
        async with asyncio.timeout(settings.dial):
            return await _connect(grant, options)
    except TimeoutError:
        raise await _unreachable(policy, grant, f"it did not answer within {settings.dial:g} seconds") from None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise PeerError("the bastion has no room for one more connection", "try again later") from None
        raise await _unreachable(policy, grant, _why(error)) from None
    except asyncssh.HostKeyNotVerifiable:
        raise await _wrong_key(policy, grant, _shown.pop(id(options), b"")) from None
    except asyncssh.PermissionDenied:
        await _report(policy, grant, "login-failed-at-target", {"account": grant.account})
        raise LoginRefused(
            f"`{grant.target}` refused our credential for `{grant.account}`",
            f"tell the people who run this bastion: {_doubt(credential)}",
        ) from None
    except (asyncssh.Error, asyncssh.ConnectionLost) as error:
        raise await _unreachable(policy, grant, str(error).lower()) from None
    finally:
        _shown.pop(id(options), None)
        # asyncssh keeps its options for as long as the connection lives; the password is for this handshake alone.
        options.password = None
        options.kwargs.pop("password", None)
        wipe(login.get("password"))
        login.clear()


def _doubt(credential: Any) -> str:
    """What may be the matter with a credential that is refused. A target does not tell, nor what time it has."""
    if isinstance(credential, UseCertificate):
        return "the target does not trust our user CA, or its clock is minutes off"
    return "the credential in the vault does not fit the target"


def _why(error: OSError) -> str:
    """In the system's words. asyncio puts a call and an address of ours into `strerror`, and no cause."""
    return (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)).lower()


_shown: dict[int, bytes] = {}  # options of a dial under way -> host key that the target showed


async def _connect(grant: Grant, options: Any) -> TargetConnection:
    loop = asyncio.get_running_loop()
    options.waiter = loop.create_future()
    connection = TargetConnection(loop, options, wait="auth")
    transport, _ = await loop.create_connection(lambda: PacketTransport(connection), grant.address, grant.port)
    connection.set_extra_info(host=grant.address, port=grant.port)
    try:
        await options.waiter
    except BaseException:
        _shown[id(options)] = connection.shown_key
        transport.abort()
        raise
    return connection


def _login(policy: Policy, grant: Grant, key: Any, credential: Any) -> dict[str, Any]:
    match credential:
        case UsePassword(password=password):
            # Also answers keyboard-interactive prompts; asyncssh checks the host key before it sends either.
            try:
                text = password.decode()
                wipe(password)
            except UnicodeDecodeError:
                raise PeerError(
                    f"the password in the vault for `{grant.account}` is no text",
                    "tell the people who run this bastion: set it again",
                ) from None
            return {
                "client_keys": None, "password": text,
                "preferred_auth": ["password", "keyboard-interactive"],
            }  # fmt: skip
        case UseKey(public=public, algorithms=algorithms):
            remote = RemoteKey(policy, grant.session, public, algorithms)
            return {"client_keys": [remote], "password": None, "preferred_auth": ["publickey"]}
        case UseCertificate(certificate=blob):
            certificate = asyncssh.public_key.decode_ssh_certificate(blob)
            pair = asyncssh.load_keypairs([(key, certificate)])[0]
            return {"client_keys": [pair], "password": None, "preferred_auth": ["publickey"]}
        case _:
            raise refused(credential)


def refused(reply: Any) -> BastionError:
    """policyd's no as an error with its words."""
    if isinstance(reply, Refused):
        code = ExitCode(reply.code) if reply.code in ExitCode._value2member_map_ else ExitCode.DENIED
        return Denied(reply.cause, reply.hint, ref=reply.ref, code=code, need=reply.need)
    return PeerError(f"policyd answered with {type(reply).__name__}")


async def _unreachable(policy: Policy, grant: Grant, why: str) -> PeerError:
    why = neutral(why)  # it may be the target's own words
    await _report(policy, grant, "target-unreachable", {"address": f"{grant.address}:{grant.port}", "why": why})
    return PeerError(
        f"target `{grant.target}` cannot be reached: {why}", "try again later, or ask whoever runs that machine"
    )


async def _wrong_key(policy: Policy, grant: Grant, shown: bytes) -> PeerError:
    pinned = ", ".join(fingerprint(blob) for blob in grant.host_keys)
    got = fingerprint(shown) if shown else "none of a known kind"
    await _report(policy, grant, "host-key-mismatch", {"pinned": pinned, "shown": got})
    return PeerError(
        f"target `{grant.target}` shows host key {got}, pinned is {pinned}: it may be another machine",
        f"ask an administrator: bastion target hostkey {grant.target} --accept {got}",
    )


async def _report(policy: Policy, grant: Grant, event: str, detail: dict[str, str]) -> None:
    try:
        await policy.ask(Report(session=grant.session, event=event, detail=detail))
    except BastionError:
        pass  # the person is told what went wrong with the target; the lost link ends the connection by itself


def fingerprint(blob: bytes) -> str:
    """As `ssh-keygen -l` shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
