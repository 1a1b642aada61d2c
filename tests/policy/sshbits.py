"""SSH blobs made by hand, so that every field can be wrong."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from policy.keys import signatures, sshkeys
from policy.keys.sshkeys import PrivateKey, parse_public_key
from policy.keys.sshwire import mpint, string

NOW = 1_800_000_000
CA = sshkeys.generate_private_key()
KEY = sshkeys.generate_private_key()
Options = list[tuple[bytes, bytes]]


def u32(value: int) -> bytes:
    return value.to_bytes(4)


def u64(value: int) -> bytes:
    return value.to_bytes(8)


def fields_of(key: PrivateKey) -> bytes:
    """A public key blob without its name."""
    return key.public.blob[len(string(key.public.algorithm)) :]


@dataclass
class Certificate:
    """An OpenSSH certificate as it goes over the wire; `blob` signs what is there, right or wrong."""

    name: bytes = b"ssh-ed25519-cert-v01@openssh.com"
    nonce: bytes = b"n" * 32
    key: bytes = fields_of(KEY)
    serial: int = 7
    kind: int = 1
    key_id: bytes = b"alice laptop"
    principals: list[bytes] = field(default_factory=lambda: [b"alice"])
    after: int = NOW - 60
    before: int = NOW + 3600
    critical: Options = field(default_factory=list)
    extensions: Options = field(default_factory=lambda: [(b"permit-port-forwarding", b""), (b"permit-pty", b"")])
    reserved: bytes = b""
    ca: PrivateKey = CA
    ca_blob: bytes = b""
    signature: bytes = b""
    tail: bytes = b""

    @property
    def signed(self) -> bytes:
        return (
            string(self.name) + string(self.nonce) + self.key + u64(self.serial) + u32(self.kind)
            + string(self.key_id) + string(b"".join(map(string, self.principals))) + u64(self.after) + u64(self.before)
            + string(options(self.critical)) + string(options(self.extensions)) + string(self.reserved)
            + string(self.ca_blob or self.ca.public.blob)
        )  # fmt: skip

    @property
    def blob(self) -> bytes:
        signature = self.signature or signatures.sign(self.ca, self.ca.public.signature_algorithms[0], self.signed)
        return self.signed + string(signature) + self.tail


def options(pairs: Options) -> bytes:
    return b"".join(string(name) + string(value) for name, value in pairs)


def certificate(**changes: Any) -> bytes:
    return replace(Certificate(), **changes).blob


def rsa_blob(e: bytes, n: bytes) -> bytes:
    """Exponent and modulus as raw mpint bytes."""
    return string("ssh-rsa") + string(e) + string(n)


def ecdsa_blob(curve: str, point: bytes, *, name: str = "") -> bytes:
    return string(name or f"ecdsa-sha2-{curve}") + string(curve) + string(point)


class Token:
    """A security key: what an authenticator signs, with flags that can be wrong."""

    def __init__(self, application: str = "ssh:") -> None:
        self.key = ed25519.Ed25519PrivateKey.generate()
        raw = self.key.public_key().public_bytes_raw()
        self.public = parse_public_key(string("sk-ssh-ed25519@openssh.com") + string(raw) + string(application))

    def sign(self, data: bytes, flags: int, *, application: str = "ssh:") -> bytes:
        signed = (
            hashlib.sha256(application.encode()).digest() + bytes([flags]) + (5).to_bytes(4)
            + hashlib.sha256(data).digest()
        )  # fmt: skip
        return string("sk-ssh-ed25519@openssh.com") + string(self.key.sign(signed)) + bytes([flags]) + (5).to_bytes(4)


__all__ = [
    "CA",
    "KEY",
    "NOW",
    "Certificate",
    "Token",
    "certificate",
    "ecdsa_blob",
    "mpint",
    "options",
    "rsa_blob",
    "string",
]
