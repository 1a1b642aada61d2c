"""SSH certificates (OpenSSH PROTOCOL.certkeys): read from bytes, minted for dials and for host names. Pure.

Reading does not judge: `policy.keys.credentials` does. It keeps the order and the doubles that a judge has to see.
"""

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType

from policy.keys.sshkeys import CERTIFICATE, PrivateKey, PublicKey, parse_public_key, plain_name, read_key_fields
from policy.keys.sshwire import MAX_BLOB, BadKey, Reader, printable
from policy.model import ChannelKind

BACKDATE: Final = 300
"""Seconds a minted certificate is valid before it was made: for the clock of a target that is late by minutes. What it
opens in a past that is over opens nothing."""

MAX_PRINCIPALS: Final = 256  # as OpenSSH's SSHKEY_CERT_MAX_PRINCIPALS
MAX_OPTIONS: Final = 64  # OpenSSH knows 9 in all

_FORWARDS: Final = {ChannelKind.FORWARD_LOCAL, ChannelKind.FORWARD_REMOTE, ChannelKind.FORWARD_SOCKET}

USER: Final = 1
HOST: Final = 2

Options = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SshCertificate:
    """All fields as sent. Times are Unix seconds; `signature` by `ca` over `signed` is unchecked."""

    algorithm: str
    key: PublicKey
    serial: int
    kind: int  # USER or HOST, or whatever was sent
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical: Options
    extensions: Options
    ca: PublicKey
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse_certificate(blob: bytes) -> SshCertificate:
    """A certificate from its blob, well formed to the last byte; BadKey otherwise."""
    if len(blob) > MAX_BLOB:
        raise BadKey(f"certificate has {len(blob)} bytes, want at most {MAX_BLOB}")
    reader = Reader(blob)
    algorithm = reader.ascii("key type")
    if not algorithm.endswith(CERTIFICATE):
        raise BadKey("a plain key stands where a certificate is wanted")
    reader.string("nonce")
    key = read_key_fields(reader, plain_name(algorithm))
    serial, kind = reader.u64("serial"), reader.u32("certificate type")
    key_id = printable(reader.string("key id"), "key id")
    principals = _principals(reader.string("principals"))
    valid_after, valid_before = reader.u64("valid after"), reader.u64("valid before")
    critical = _options(reader.string("critical options"), "critical option")
    extensions = _options(reader.string("extensions"), "extension")
    if reader.string("reserved"):
        raise BadKey("reserved field is not empty")
    ca = parse_public_key(reader.string("ca key"))  # refuses a certificate here: CVE-2025-49825
    signed = blob[: reader.position]
    signature = reader.string("signature")
    reader.end("certificate")
    return SshCertificate(
        algorithm=algorithm,
        key=key,
        serial=serial,
        kind=kind,
        key_id=key_id,
        principals=principals,
        valid_after=valid_after,
        valid_before=valid_before,
        critical=critical,
        extensions=extensions,
        ca=ca,
        signed=signed,
        signature=signature,
    )


def mint_user_certificate(
    ca: PrivateKey,
    key: PublicKey,
    *,
    principals: Sequence[str],
    key_id: str,
    serial: int,
    now: float,
    minutes: int,
    kinds: Collection[ChannelKind],
    source: str = "",
    force_command: str = "",
) -> bytes:
    """The blob of a certificate with which `key` logs in as one of `principals` on a target that trusts `ca`.

    `key` is the gateway's, made for this one handshake. The key id puts person and session into the target's log.
    `source` limits where the certificate may come from (addresses or CIDRs, with commas between), `force_command` what
    it runs; extensions follow the granted kinds.
    """
    extensions = []
    if ChannelKind.SHELL in kinds or ChannelKind.EXEC in kinds:
        extensions.append("permit-pty")
    if _FORWARDS & set(kinds):
        extensions.append("permit-port-forwarding")
    if ChannelKind.AGENT in kinds:
        extensions.append("permit-agent-forwarding")
    if ChannelKind.X11 in kinds:
        extensions.append("permit-X11-forwarding")
    critical = [("force-command", force_command)] if force_command else []
    critical += [("source-address", source)] if source else []  # by name: PROTOCOL.certkeys wants them in order
    return _mint(
        ca,
        key,
        USER,
        principals=principals,
        key_id=key_id,
        serial=serial,
        now=now,
        seconds=60 * minutes,
        critical=critical,
        extensions=extensions,
    )


def mint_host_certificate(
    ca: PrivateKey, key: PublicKey, *, target: str, serial: int, now: float, hours: int
) -> tuple[bytes, float]:
    """The blob of a certificate by which a client of `ssh -J` knows `key` as `target`, and seconds until it expires."""
    blob = _mint(
        ca, key, HOST, principals=[target], key_id=f"bastion:{target}", serial=serial, now=now, seconds=3600 * hours
    )
    return blob, 3600.0 * hours


def _mint(
    ca: PrivateKey,
    key: PublicKey,
    kind: int,
    *,
    principals: Sequence[str],
    key_id: str,
    serial: int,
    now: float,
    seconds: int,
    critical: Sequence[tuple[str, str]] = (),
    extensions: Sequence[str] = (),
) -> bytes:
    if not principals or not all(principals):
        raise BadKey("a certificate without a principal would be good for everybody")  # CVE-2024-7594
    if key.is_security_key:
        raise BadKey("certificates are minted for the gateway's own keys only")
    builder = (
        SSHCertificateBuilder()
        .public_key(key.crypto)
        .serial(serial)
        .type(SSHCertificateType.USER if kind == USER else SSHCertificateType.HOST)
        .key_id(key_id.encode())
        .valid_principals([name.encode() for name in principals])
        .valid_after(int(now) - BACKDATE)
        .valid_before(int(now) + seconds)
    )
    for name, value in critical:
        builder = builder.add_critical_option(name.encode(), value.encode())
    for name in extensions:
        builder = builder.add_extension(name.encode(), b"")
    return base64.b64decode(builder.sign(ca.crypto).public_bytes().split()[1])


def _principals(data: bytes) -> tuple[str, ...]:
    reader = Reader(data)
    principals: list[str] = []
    while reader.more():
        if len(principals) == MAX_PRINCIPALS:
            raise BadKey(f"more than {MAX_PRINCIPALS} principals")
        principals.append(printable(reader.string("principal"), "principal"))
    return tuple(principals)


def _options(data: bytes, what: str) -> Options:
    """Names and values; a value is itself one string inside a string, or nothing."""
    reader = Reader(data)
    options: list[tuple[str, bytes]] = []
    while reader.more():
        if len(options) == MAX_OPTIONS:
            raise BadKey(f"more than {MAX_OPTIONS} of {what}")
        name, value = reader.ascii(what), reader.string(what)
        if value:
            inner = Reader(value)
            value = inner.string(what)
            inner.end(what)
        options.append((name, value))
    return tuple(options)
