"""SSH signatures: made by a target's key, checked for a person's. Pure.

RFC 8332 (rsa-sha2), RFC 5656 section 3.1.2 (ecdsa), RFC 8709 (ed25519), OpenSSH PROTOCOL.u2f (sk-*), RFC 4252
section 7 (what a login signs). SHA-1 does not exist here. `BadKey` is the only error, whatever the bytes.
"""

import hashlib
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from policy.keys.sshkeys import CERTIFICATE, PrivateKey, PublicKey, is_certificate, plain_name
from policy.keys.sshwire import MAX_BLOB, BadKey, Reader, mpint, string

_RSA_HASHES: Final[dict[str, type[hashes.HashAlgorithm]]] = {
    "rsa-sha2-512": hashes.SHA512,
    "rsa-sha2-256": hashes.SHA256,
}


class _Flag(IntFlag):
    """Of an authenticator's signature (WebAuthn section 6.1)."""

    PRESENT = 0x01
    VERIFIED = 0x04


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A valid signature: `verified` when the owner also showed a PIN or a finger to a security key."""

    algorithm: str
    verified: bool = False
    counter: int = 0  # of a security key; 0 otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class UserauthRequest:
    """What a login by public key signs (RFC 4252 section 7)."""

    session: bytes
    user: str
    algorithm: str
    blob: bytes


def verify(key: PublicKey, signature: bytes, data: bytes, *, algorithm: str = "") -> Proof:
    """Check an SSH signature blob over `data`, by `algorithm` if one was agreed on. BadKey when it does not hold."""
    if len(signature) > MAX_BLOB:
        raise BadKey(f"signature has {len(signature)} bytes, want at most {MAX_BLOB}")
    reader = Reader(signature)
    used = reader.ascii("signature algorithm")
    if used not in key.signature_algorithms or (algorithm and used != algorithm):
        raise BadKey(f"signature algorithm `{used[:64]}` does not fit the key")
    body = reader.string("signature")
    if not key.is_security_key:
        reader.end("signature")
        _verify_raw(key, used, body, data)
        return Proof(algorithm=used)
    flags, counter = reader.byte("flags"), reader.u32("counter")
    reader.end("signature")
    # OpenSSH PROTOCOL.u2f, "SSH U2F Signatures"
    signed = (
        hashlib.sha256(key.application.encode()).digest()
        + bytes([flags])
        + counter.to_bytes(4)
        + hashlib.sha256(data).digest()
    )
    _verify_raw(key, used, body, signed)
    if not flags & _Flag.PRESENT:
        # Malware can ask a security key to sign without a touch (CVE-2026-39831).
        raise BadKey("security key was not touched")
    return Proof(algorithm=used, verified=bool(flags & _Flag.VERIFIED), counter=counter)


def _verify_raw(key: PublicKey, algorithm: str, body: bytes, data: bytes) -> None:
    try:
        match key.crypto:
            case ed25519.Ed25519PublicKey():
                key.crypto.verify(body, data)
            case rsa.RSAPublicKey():
                size = (key.crypto.key_size + 7) // 8
                if len(body) > size:
                    raise BadKey("rsa signature is longer than its key")
                # Old clients strip leading zeros; OpenSSH pads them as well.
                key.crypto.verify(body.rjust(size, b"\0"), data, padding.PKCS1v15(), _RSA_HASHES[algorithm]())
            case ec.EllipticCurvePublicKey():
                reader = Reader(body)
                r, s = reader.mpint("ecdsa r"), reader.mpint("ecdsa s")
                reader.end("ecdsa signature")
                key.crypto.verify(encode_dss_signature(r, s), data, ec.ECDSA(_ec_hash(key.crypto.curve)))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        raise error if isinstance(error, BadKey) else BadKey("signature is wrong") from None


def sign(key: PrivateKey, algorithm: str, data: bytes) -> bytes:
    """An SSH signature blob. BadKey when the key does not sign by that algorithm."""
    if algorithm not in key.public.signature_algorithms:
        raise BadKey(f"key of type `{key.public.algorithm}` does not sign by `{algorithm[:64]}`")
    match key.crypto:
        case ed25519.Ed25519PrivateKey():
            body = key.crypto.sign(data)
        case rsa.RSAPrivateKey():
            body = key.crypto.sign(data, padding.PKCS1v15(), _RSA_HASHES[algorithm]())
        case ec.EllipticCurvePrivateKey():
            r, s = decode_dss_signature(key.crypto.sign(data, ec.ECDSA(_ec_hash(key.crypto.curve))))
            body = mpint(r) + mpint(s)
    return string(algorithm) + string(body)


def _ec_hash(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    """RFC 5656 section 6.2.1."""
    return hashes.SHA256() if curve.key_size <= 256 else hashes.SHA384() if curve.key_size <= 384 else hashes.SHA512()


def parse_userauth(signed: bytes) -> UserauthRequest:
    """The data that a login signs (RFC 4252 section 7); BadKey unless it is one for `ssh-connection` by `publickey`."""
    if len(signed) > 2 * MAX_BLOB:
        raise BadKey("signed data is too long")
    reader = Reader(signed)
    session = reader.string("session id")
    if reader.byte("message") != 50:
        raise BadKey("signed data is no authentication request")
    try:
        user = reader.string("user name").decode()
    except UnicodeDecodeError:
        raise BadKey("user name is not UTF-8") from None
    if reader.string("service") != b"ssh-connection" or reader.string("method") != b"publickey":
        raise BadKey("signed data asks for another service or method")
    if reader.byte("has signature") != 1:
        raise BadKey("signed data says that it is not signed")
    request = UserauthRequest(
        session=session, user=user, algorithm=reader.ascii("algorithm"), blob=reader.string("key")
    )
    reader.end("signed data")
    return request


def verify_login(key: PublicKey, blob: bytes, signed: bytes, signature: bytes, *, session: bytes) -> Proof:
    """Check a signature of `ProveKey`: by `key`, offered as `blob`, for this session and nothing else. BadKey if not.

    `blob` is the key's own, or the certificate's that holds it; the algorithm must fit the one or the other, so a
    certificate never passes under the name of a plain key.
    """
    request = parse_userauth(signed)
    if not session or request.session != session:
        raise BadKey("signature is for another session")  # replayed, or a target passing on what it was shown
    if request.blob != blob:
        raise BadKey("signature is for another key")  # CVE-2024-45337
    algorithm = request.algorithm
    if is_certificate(blob) != algorithm.endswith(CERTIFICATE):
        raise BadKey(f"algorithm `{algorithm[:64]}` does not fit what was offered")
    if blob != key.blob and not is_certificate(blob):
        raise BadKey("signature is for another key")
    return verify(key, signature, signed, algorithm=plain_name(algorithm))
