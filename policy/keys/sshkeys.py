"""SSH keys: public key blobs, their lines in files, private keys. Pure. Signatures are in `policy.keys.signatures`.

Formats: RFC 4253 section 6.6 (rsa), RFC 5656 (ecdsa), RFC 8709 (ed25519), OpenSSH PROTOCOL.u2f (sk-*).
Strict on purpose: one key has one blob, so one fingerprint. DSA does not exist here. Every function that is given
a stranger's bytes raises `BadKey` only.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from policy.keys.sshwire import MAX_BLOB, BadKey, Reader, mpint, printable, string

MIN_RSA_BITS: Final = 3072  # of persons and CAs; NIST SP 800-57: what is trusted after 2030
MIN_TARGET_RSA_BITS: Final = 2048  # targets have what they have; ssh-keygen's default until 2021
MAX_RSA_BITS: Final = 8192
MAX_LINE: Final = 16 * 1024  # characters; an authorized_keys line of an 8192-bit RSA key takes 1.4 KiB
MAX_PEM: Final = 16 * 1024  # an 8192-bit RSA key takes 6.3 KiB
MAX_KEYS: Final = 64  # keys in one authorized_keys text; each is offered to a lookup at login

CERTIFICATE: Final = "-cert-v01@openssh.com"
_ED25519: Final = "ssh-ed25519"
_SK_ED25519: Final = "sk-ssh-ed25519@openssh.com"
_SK_ECDSA: Final = "sk-ecdsa-sha2-nistp256@openssh.com"
_RSA: Final = "ssh-rsa"
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "nistp256": ec.SECP256R1,
    "nistp384": ec.SECP384R1,
    "nistp521": ec.SECP521R1,
}

_Public = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A checked key. Two keys are equal when their blobs are."""

    algorithm: str  # the name inside the blob: "ssh-rsa" for RSA, whatever the signatures use
    blob: bytes
    bits: int
    application: str = ""  # of a security key; "" otherwise
    crypto: _Public = field(repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.blob)

    @property
    def is_security_key(self) -> bool:
        return bool(self.application)

    @property
    def signature_algorithms(self) -> tuple[str, ...]:
        """Names of RFC 8332 for RSA, best first; the key's own name otherwise."""
        return ("rsa-sha2-512", "rsa-sha2-256") if self.algorithm == _RSA else (self.algorithm,)

    def line(self, comment: str = "") -> str:
        """As in authorized_keys and .pub files."""
        return f"{self.algorithm} {base64.b64encode(self.blob).decode()} {comment}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizedKey:
    key: PublicKey
    comment: str
    verify_required: bool  # accept only proofs with `verified`

    @property
    def line(self) -> str:
        return f"{'verify-required ' if self.verify_required else ''}{self.key.line(self.comment)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateKey:
    """A key that can sign. Its repr shows the public half only."""

    public: PublicKey
    crypto: _Private = field(repr=False, compare=False)


# --- public keys ------------------------------------------------------------------------------------


def fingerprint(blob: bytes) -> str:
    """`SHA256:...` as OpenSSH prints it, of any bytes."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def is_certificate(blob: bytes) -> bool:
    """Whether the name at the front of a blob is that of a certificate; its worth is not judged."""
    try:
        return Reader(blob).ascii("key type").endswith(CERTIFICATE)
    except BadKey:
        return False


def plain_name(algorithm: str) -> str:
    """The name of the key or signature algorithm behind that of a certificate: `sk-` names keep their domain."""
    if not algorithm.endswith(CERTIFICATE):
        return algorithm
    name = algorithm.removesuffix(CERTIFICATE)
    return f"{name}@openssh.com" if name.startswith("sk-") else name


def parse_public_key(blob: bytes, *, min_rsa_bits: int = MIN_RSA_BITS) -> PublicKey:
    """A key from its SSH blob; BadKey says what is wrong with it. The last few are remembered."""
    return _parse_public_key(blob, min_rsa_bits)


@lru_cache(maxsize=512)  # a key is offered, proven and looked up within a second; the check of its point is the dearest
def _parse_public_key(blob: bytes, min_rsa_bits: int) -> PublicKey:
    if len(blob) > MAX_BLOB:
        raise BadKey(f"key has {len(blob)} bytes, want at most {MAX_BLOB}")
    reader = Reader(blob)
    key = read_key_fields(reader, reader.ascii("key type"), min_rsa_bits=min_rsa_bits)
    reader.end("key")
    return key


def read_key_fields(reader: Reader, algorithm: str, *, min_rsa_bits: int = MIN_RSA_BITS) -> PublicKey:
    """The fields after the name, as keys and certificates share them."""
    application = ""
    crypto: _Public
    if algorithm == _RSA:
        crypto, bits = _rsa(reader, min_rsa_bits)
        fields = mpint(crypto.public_numbers().e) + mpint(crypto.public_numbers().n)
    elif algorithm in (_ED25519, _SK_ED25519):
        point = reader.string("ed25519 key")
        crypto, bits = _ed25519(point), 256
        fields = string(point)
    elif algorithm == _SK_ECDSA or algorithm.removeprefix("ecdsa-sha2-") in _CURVES:
        wanted = "nistp256" if algorithm == _SK_ECDSA else algorithm.removeprefix("ecdsa-sha2-")
        if (curve := reader.ascii("curve")) != wanted:
            raise BadKey(f"curve is `{curve[:32]}`, want `{wanted}`")
        point = reader.string("ecdsa point")
        crypto, bits = _ecdsa(wanted, point), _CURVES[wanted]().key_size
        fields = string(wanted) + string(point)
    elif algorithm.endswith(CERTIFICATE):
        raise BadKey("a certificate stands where a plain key is wanted")
    else:
        raise BadKey(f"key type `{algorithm[:64]}` is not supported")
    if algorithm in (_SK_ED25519, _SK_ECDSA):
        application = reader.ascii("application")
        if not application.startswith("ssh:"):
            # A web site's authenticator must not double as an SSH key (OpenSSH PROTOCOL.u2f).
            raise BadKey("security key was not made for ssh")
        fields += string(application)
    return PublicKey(
        algorithm=algorithm, blob=string(algorithm) + fields, bits=bits, application=application, crypto=crypto
    )


def _rsa(reader: Reader, least: int) -> tuple[rsa.RSAPublicKey, int]:
    e, n = reader.mpint("rsa exponent"), reader.mpint("rsa modulus")
    if not least <= n.bit_length() <= MAX_RSA_BITS:
        raise BadKey(f"rsa key has {n.bit_length()} bits, want {least} to {MAX_RSA_BITS}")
    if e.bit_length() > 32 or e < 3 or not e & 1 or not n & 1:
        raise BadKey("rsa exponent or modulus is not one that a key generator makes")
    try:
        return rsa.RSAPublicNumbers(e, n).public_key(), n.bit_length()
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("rsa key is not valid") from None


def _ecdsa(curve: str, point: bytes) -> ec.EllipticCurvePublicKey:
    if point[:1] != b"\x04":
        raise BadKey("ecdsa point is not in uncompressed form")  # RFC 5656 section 3.1; one form, one fingerprint
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve](), point)
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("ecdsa point is not on its curve") from None


_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
_Y_ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER: Final = frozenset({0, 1, _P - 1, _Y_ORDER_8, _P - _Y_ORDER_8})
"""y of the eight points for which anybody can make a signature (RFC 8032 section 5.1; curve25519's cofactor)."""


def _ed25519(point: bytes) -> ed25519.Ed25519PublicKey:
    if len(point) != 32:
        raise BadKey(f"ed25519 key has {len(point)} bytes, want 32")
    y = int.from_bytes(point, "little") & (2**255 - 1)
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if y >= _P or y in _SMALL_ORDER or pow(square, (_P - 1) // 2, _P) != 1:
        raise BadKey("ed25519 key is no point of its curve, or one of small order")
    try:
        return ed25519.Ed25519PublicKey.from_public_bytes(point)
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("ed25519 key is not valid") from None


# --- lines of files ---------------------------------------------------------------------------------


def parse_authorized_key(line: str, *, min_rsa_bits: int = MIN_RSA_BITS) -> AuthorizedKey:
    """One line of authorized_keys or of a .pub file. An option that would not be enforced is refused."""
    words = _words(line)
    verify_required = False
    if words and not _is_type(words[0]):
        for option in words.pop(0).split(","):
            name = option.partition("=")[0]
            if option != "verify-required":
                raise BadKey(f"option `{name[:32]}` is not supported: write a rule in policy.toml instead")
            verify_required = True
    key = _key_of_words(words, min_rsa_bits)
    if verify_required and not key.is_security_key:
        raise BadKey("option `verify-required` needs a security key")
    return AuthorizedKey(key=key, comment=" ".join(words[2:]), verify_required=verify_required)


def parse_authorized_keys(text: str) -> list[AuthorizedKey]:
    """All keys of a file; blank lines and comments are skipped. BadKey names the line."""
    keys: list[AuthorizedKey] = []
    if len(text) > MAX_KEYS * MAX_LINE:
        raise BadKey("file is too long")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            keys.append(parse_authorized_key(line))
        except BadKey as error:
            raise BadKey(f"line {number}: {error}") from None
        if len(keys) > MAX_KEYS:
            raise BadKey(f"more than {MAX_KEYS} keys")
    return keys


def parse_host_key(line: str) -> PublicKey:
    """A target's key from a line of known_hosts, of ssh-keyscan, or of a .pub file; host names are not looked at."""
    words = _words(line)
    if words and words[0].startswith("@"):
        raise BadKey(f"marker `{words[0][:32]}` is not supported: pin the key itself")
    if words and not _is_type(words[0]):
        words.pop(0)
    return _key_of_words(words, MIN_TARGET_RSA_BITS)


def _words(line: str) -> list[str]:
    line = line.strip()
    if len(line) > MAX_LINE:
        raise BadKey(f"line has {len(line)} characters, want at most {MAX_LINE}")
    if not line.replace("\t", " ").isprintable():
        raise BadKey("line holds a control character")
    return line.split()


def _is_type(word: str) -> bool:
    return word.startswith(("ssh-", "ecdsa-sha2-", "sk-"))


def _key_of_words(words: list[str], min_rsa_bits: int) -> PublicKey:
    if len(words) < 2:
        raise BadKey("line is no public key, want `ssh-ed25519 AAAA... comment`")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        raise BadKey("key is not base64") from None
    key = parse_public_key(blob, min_rsa_bits=min_rsa_bits)
    if key.algorithm != words[0]:
        raise BadKey(f"line says `{words[0][:64]}`, key says `{key.algorithm}`")
    return key


# --- private keys -----------------------------------------------------------------------------------


def generate_private_key() -> PrivateKey:
    """A new ed25519 key."""
    return _private(ed25519.Ed25519PrivateKey.generate())


def parse_private_key(pem: bytes) -> PrivateKey:
    """An unencrypted private key, OpenSSH's own PEM or PKCS#1, PKCS#8, SEC 1. BadKey without a word of its content."""
    if len(pem) > MAX_PEM:
        raise BadKey(f"private key has {len(pem)} bytes, want at most {MAX_PEM}")
    loader = serialization.load_ssh_private_key if b"OPENSSH" in pem[:64] else serialization.load_pem_private_key
    try:
        key = loader(pem.strip() + b"\n", password=None)
    except TypeError:
        raise BadKey("private key is encrypted: remove its passphrase first with `ssh-keygen -p`") from None
    except (ValueError, UnsupportedAlgorithm, AssertionError, LookupError, OverflowError, NotImplementedError):
        raise BadKey("private key cannot be read") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise BadKey("private key is of a type that is not supported")
    return _private(key)


def write_private_key(key: PrivateKey) -> bytes:
    """OpenSSH PEM, unencrypted: seal it before it is stored."""
    return key.crypto.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def _private(crypto: _Private) -> PrivateKey:
    try:
        line = crypto.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("private key is of a type that is not supported") from None
    public = _key_of_words(printable(line, "public key").split(), MIN_TARGET_RSA_BITS)
    return PrivateKey(public=public, crypto=crypto)
