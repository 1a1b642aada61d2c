"""May this user certificate speak for a person? Our own rules, before any library's. Pure.

Stricter than OpenSSH and much stricter than asyncssh 2.24, which takes empty principals as everybody, an empty
source-address as everywhere, and the last of two equal options. Every refusal carries a reason for the audit trail;
the person is told no more than of an unknown key.
"""

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from policy.keys.certificates import USER, Options, SshCertificate, parse_certificate
from policy.keys.signatures import verify
from policy.keys.sshkeys import PublicKey
from policy.keys.sshwire import BadKey, printable
from policy.model import ChannelKind
from policy.names import BadName, check_person_name, plain_address

MAX_LIFE: Final = 24 * 3600 + 300
"""Seconds from valid-after to valid-before: a day, and what `ssh-keygen -V +1d` adds in front by rounding."""

_CRITICAL: Final = frozenset({"force-command", "source-address", "verify-required"})
_NEEDS: Final[dict[str, frozenset[ChannelKind]]] = {
    "permit-pty": frozenset({ChannelKind.SHELL}),
    "permit-port-forwarding": frozenset(
        {ChannelKind.FORWARD_LOCAL, ChannelKind.FORWARD_REMOTE, ChannelKind.FORWARD_SOCKET}
    ),
    "permit-agent-forwarding": frozenset({ChannelKind.AGENT}),
    "permit-X11-forwarding": frozenset({ChannelKind.X11}),
}


class Flaw(StrEnum):
    """Reason of a refusal, a word for the audit trail."""

    MALFORMED = "certificate-malformed"
    NOT_USER = "certificate-not-for-users"
    UNTRUSTED = "certificate-authority-unknown"
    SIGNATURE = "certificate-signature-wrong"
    PRINCIPALS = "certificate-principals-bad"
    WRONG_PERSON = "certificate-for-another-person"
    NOT_YET = "certificate-not-yet-valid"
    EXPIRED = "certificate-expired"
    TOO_LONG = "certificate-valid-too-long"
    OPTIONS = "certificate-options-bad"
    SOURCE = "certificate-from-wrong-address"
    REVOKED = "certificate-revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Whom a certificate speaks for, once its key has signed the login, and under which limits."""

    person: str
    key: PublicKey
    serial: int
    key_id: str
    ca: str  # fingerprint
    expires_at: int  # Unix seconds
    force_command: str  # "" for none; the only command this login may run
    verify_required: bool  # the signature must show that the security key verified its owner
    withheld: frozenset[ChannelKind]  # kinds the certificate does not permit; feed them to `decide`
    placed: bool = False  # it is good from some addresses only; this login came from one of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    flaw: Flaw
    detail: str  # for audit and logs, printable ASCII


class _Refusal(Exception):
    def __init__(self, flaw: Flaw, detail: str) -> None:
        super().__init__(detail)
        self.flaw = flaw
        self.detail = detail


Revoked = Callable[[str, int, str], bool]
"""(fingerprint of the CA, serial, fingerprint of the certified key) -> has it been revoked?"""


def check_certificate(
    blob: bytes,
    *,
    claim: str,
    trusted: Collection[bytes],
    now: float,
    source: str,
    revoked: Revoked,
    max_life: int = MAX_LIFE,
) -> Speaker | Rejected:
    """Judge an offered user certificate.

    `claim` is the person named in the login, or "" for nobody: then the certificate must name exactly one.
    `trusted` are public key blobs of user CAs, `now` Unix seconds, `source` the client's address.
    """
    try:
        return _check(blob, claim, trusted, now, source, revoked, max_life)
    except BadKey as error:
        return Rejected(flaw=Flaw.MALFORMED, detail=str(error))
    except _Refusal as refusal:
        return Rejected(flaw=refusal.flaw, detail=refusal.detail)


def _check(
    blob: bytes,
    claim: str,
    trusted: Collection[bytes],
    now: float,
    source: str,
    revoked: Revoked,
    max_life: int,
) -> Speaker:
    certificate = parse_certificate(blob)
    if certificate.kind != USER:
        raise _Refusal(Flaw.NOT_USER, f"certificate type is {certificate.kind}, want {USER}")
    if certificate.ca.blob not in trusted:
        raise _Refusal(Flaw.UNTRUSTED, f"signed by {certificate.ca.fingerprint}")
    if certificate.key.blob in trusted:
        # Whoever holds a CA key needs no certificate for it; a chain is in the making.
        raise _Refusal(Flaw.UNTRUSTED, "certified key is itself that of an authority")
    try:
        verify(certificate.ca, certificate.signature, certificate.signed)
    except BadKey as error:
        raise _Refusal(Flaw.SIGNATURE, str(error)) from None
    person = _person(certificate.principals, claim)
    _check_time(certificate, now, max_life)
    critical = _sorted_unique(certificate.critical, "critical option")
    extensions = _sorted_unique(certificate.extensions, "extension")
    if unknown := critical.keys() - _CRITICAL:
        raise _Refusal(Flaw.OPTIONS, f"critical option `{min(unknown)[:64]}` is not known")
    if "source-address" in critical:
        _check_source(critical["source-address"], source)
    for name in ("verify-required", *_NEEDS):
        if critical.get(name) or extensions.get(name):
            raise _Refusal(Flaw.OPTIONS, f"option `{name}` has a value")
    verify_required = "verify-required" in critical
    if verify_required and not certificate.key.is_security_key:
        raise _Refusal(Flaw.OPTIONS, "option `verify-required` needs a security key")
    force_command = ""
    if "force-command" in critical:
        force_command = printable(critical["force-command"], "forced command")
        if not force_command.strip():
            raise _Refusal(Flaw.OPTIONS, "option `force-command` is empty")
    if revoked(certificate.ca.fingerprint, certificate.serial, certificate.key.fingerprint):
        raise _Refusal(Flaw.REVOKED, f"serial {certificate.serial}")
    return Speaker(
        person=person,
        key=certificate.key,
        serial=certificate.serial,
        key_id=certificate.key_id,
        ca=certificate.ca.fingerprint,
        expires_at=certificate.valid_before,
        force_command=force_command,
        verify_required=verify_required,
        withheld=frozenset(kind for name, kinds in _NEEDS.items() if name not in extensions for kind in kinds),
        placed="source-address" in critical,
    )


def _person(principals: tuple[str, ...], claim: str) -> str:
    if not principals:
        raise _Refusal(Flaw.PRINCIPALS, "no principals: it would be good for everybody")  # CVE-2024-7594
    if len(set(principals)) != len(principals):
        raise _Refusal(Flaw.PRINCIPALS, "a principal stands twice")
    for principal in principals:
        try:
            check_person_name(principal)
        except BadName as error:
            raise _Refusal(Flaw.PRINCIPALS, _ascii(str(error))) from None
    if claim:
        if claim not in principals:
            raise _Refusal(Flaw.WRONG_PERSON, "the claimed person is not among the principals")
        return claim
    if len(principals) > 1:
        raise _Refusal(Flaw.PRINCIPALS, "several principals, and the login names no person")
    return principals[0]


def _check_time(certificate: SshCertificate, now: float, max_life: int) -> None:
    after, before = certificate.valid_after, certificate.valid_before
    if after >= before:
        raise _Refusal(Flaw.EXPIRED, "validity ends before it begins")
    if now < after:
        raise _Refusal(Flaw.NOT_YET, f"valid after {after}")
    if now >= before:
        raise _Refusal(Flaw.EXPIRED, f"valid before {before}")
    if before - after > max_life:
        raise _Refusal(Flaw.TOO_LONG, f"valid for {before - after} s, want at most {max_life}")


def _sorted_unique(options: Options, what: str) -> dict[str, bytes]:
    """PROTOCOL.certkeys asks for sorted, unique names; two readers of a doubled option may each take another."""
    names = [name for name, _ in options]
    if any(first >= second for first, second in pairwise(names)):
        raise _Refusal(Flaw.OPTIONS, f"{what}s are not sorted and unique")
    if "" in names:
        raise _Refusal(Flaw.OPTIONS, f"{what} has no name")
    return dict(options)


def _check_source(value: bytes, source: str) -> None:
    """A list of addresses and networks, as sshd reads it; no host names, no negation."""
    words = printable(value, "source-address").split(",")
    if not value or "" in words:
        raise _Refusal(Flaw.OPTIONS, "option `source-address` is empty")  # x/crypto b9229ec: empty meant everywhere
    try:
        networks = [ipaddress.ip_network(word) for word in words]
    except ValueError:
        raise _Refusal(Flaw.OPTIONS, "option `source-address` holds no network") from None
    try:
        address = plain_address(source)
    except ValueError:
        raise _Refusal(Flaw.SOURCE, "the source address cannot be read") from None
    if not any(address in network for network in networks):
        raise _Refusal(Flaw.SOURCE, f"used from {address}")


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
