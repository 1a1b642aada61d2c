"""The keys of one recording and what they close (FORMAT.md, section 5). No I/O; randomness comes in as an argument.

    root (32 random bytes)
      K_X         = HKDF-Expand(root, "brec1 class" | X)           one per key class
      K_X,segno   = HKDF-Expand(K_X, "brec1 segment" | segno)      so that one segment can be shown without the rest
      K_content, K_meta, K_index = HKDF-Expand(root, "brec1 content" / "brec1 meta" / "brec1 index")

The root is closed to each auditor by HPKE and lives only in recorderd's memory, so the bastion cannot read what it
has recorded before. Python cannot promise that a key is wiped from memory; it is dropped with its recording.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from recorder.chain import CLEAR, X25519, Slot
from recorder.codec import FormatError
from recorder.model import KeyClass, KeyClasses

TAG: Final = 16
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_SLOT_LABEL: Final = b"brec1 slot"


class Keys:
    """What one reader or the writer of a recording may open. A class that it has no key for is absent."""

    def __init__(self, meta: bytes, index: bytes, classes: dict[KeyClass, bytes], content: bytes | None) -> None:
        self.meta, self.index = AESGCM(meta), AESGCM(index)
        self.classes = classes
        self.content = HMAC(content, hashes.SHA256()) if content else None  # copied for each use, which is quick
        self._plain = meta, index
        self._segment = -1
        self._ciphers: dict[KeyClass, AESGCM] = {}

    @classmethod
    def of_root(cls, root: bytes) -> "Keys":
        classes = {one: _expand(root, b"brec1 class" + bytes([one])) for one in KeyClass}
        return cls(
            _expand(root, b"brec1 meta"), _expand(root, b"brec1 index"), classes, _expand(root, b"brec1 content")
        )

    def of_segment(self, number: int) -> dict[KeyClass, AESGCM]:
        """Ciphers for the parts of one segment and of the chunks that it replaces; the last one is kept at hand."""
        if number != self._segment:
            info = b"brec1 segment" + number.to_bytes(4, "big")
            self._ciphers = {one: AESGCM(_expand(key, info)) for one, key in self.classes.items()}
            self._segment = number
        return self._ciphers

    def limited(self, classes: KeyClasses) -> bytes:
        """What a slot for some classes closes: meta | index | K_X of each class in order."""
        wanted = [self.classes[one] for one in KeyClass if classes >> one & 1]
        return b"".join([*self._plain, *wanted])


def make_slots(root: bytes, session: str, auditors: Iterable[tuple[X25519PublicKey, KeyClasses]]) -> list[Slot]:
    """One slot per auditor; without any, the root as it is: readable by whoever may read the file."""
    slots, keys = [], Keys.of_root(root)
    for public, classes in auditors:
        secret = root if classes == KeyClasses.ALL else keys.limited(classes)
        sealed = _SUITE.encrypt(secret, public, _slot_info(session, classes))
        slots.append(Slot(alg=X25519, kid=key_id(public), classes=classes, sealed=sealed))
    return slots or [Slot(alg=CLEAR, kid=bytes(8), classes=KeyClasses.ALL, sealed=root)]


def open_slots(slots: Iterable[Slot], session: str, private: Iterable[X25519PrivateKey]) -> Keys | None:
    """The keys that these private keys open, the widest slot first; None if no slot is for them."""
    at_hand = {key_id(key.public_key()): key for key in private}
    for slot in sorted(slots, key=lambda one: -int(one.classes).bit_count()):
        if slot.alg == CLEAR:
            return Keys.of_root(slot.sealed)
        if slot.alg == X25519 and slot.kid in at_hand:
            try:
                secret = _SUITE.decrypt(slot.sealed, at_hand[slot.kid], _slot_info(session, slot.classes))
            except (InvalidTag, ValueError):
                continue
            return _keys_of(secret, slot.classes)
    return None


def _keys_of(secret: bytes, classes: KeyClasses) -> Keys:
    if classes == KeyClasses.ALL:
        return Keys.of_root(_whole(secret, 32))
    wanted = [one for one in KeyClass if classes >> one & 1]
    _whole(secret, 32 * (2 + len(wanted)))
    parts = [secret[at : at + 32] for at in range(0, len(secret), 32)]
    return Keys(parts[0], parts[1], dict(zip(wanted, parts[2:], strict=True)), None)


def close(cipher: AESGCM, kind: int, key_class: int, counter: int, data: bytes, bound: bytes) -> bytes:
    """AEAD with nonce = kind u8 | class u8 | 0 u16 | counter u64. INVARIANT: never twice the same under one key."""
    return cipher.encrypt(_nonce(kind, key_class, counter), data, bound)


def unclose(cipher: AESGCM, kind: int, key_class: int, counter: int, data: bytes, bound: bytes) -> bytes:
    """Inverse of `close`; FormatError if a bit of it or of what it is bound to has changed."""
    try:
        return cipher.decrypt(_nonce(kind, key_class, counter), data, bound)
    except (InvalidTag, ValueError):
        raise FormatError("decryption fails: the bytes or their place have been changed") from None


def content_link(content: HMAC, before: bytes, seq: int, parts: Iterable[tuple[int, bytes]]) -> bytes:
    """H_j = SHA-256(H_{j-1} | c_j), c_j = HMAC(K_content, seq | {class | HMAC(K_content, class | plaintext)}*).

    Over what was recorded, not how it is stored: it survives compaction, encryption anew, and redaction of one part.
    """
    digests = [seq.to_bytes(8, "big")]
    for key_class, plain in parts:
        mark = bytes((key_class,))
        digests += [mark, _digest(content, mark + plain)]
    return hashlib.sha256(before + _digest(content, b"".join(digests))).digest()


def _digest(keyed: HMAC, data: bytes) -> bytes:
    mac = keyed.copy()
    mac.update(data)
    return mac.finalize()


def content_start(session: str) -> bytes:
    return hashlib.sha256(b"brec1 content" + bytes.fromhex(session)).digest()


def key_id(public: X25519PublicKey) -> bytes:
    return hashlib.sha256(public.public_bytes_raw()).digest()[:8]


def holds(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether this Ed25519 signature is good."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def load_public(pem: bytes) -> X25519PublicKey:
    """An auditor's public key; ValueError says what it is instead."""
    key = serialization.load_pem_public_key(pem)
    if not isinstance(key, X25519PublicKey):
        raise ValueError(f"an X25519 key was expected, this is {type(key).__name__}")
    return key


def load_private(pem: bytes, passphrase: bytes | None = None) -> X25519PrivateKey:
    """An auditor's private key; ValueError or TypeError (a passphrase is missing or not wanted)."""
    key = serialization.load_pem_private_key(pem, passphrase)
    if not isinstance(key, X25519PrivateKey):
        raise ValueError(f"an X25519 key was expected, this is {type(key).__name__}")
    return key


def signing_key(seed: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed)


def _nonce(kind: int, key_class: int, counter: int) -> bytes:
    return (kind << 88 | key_class << 80 | counter).to_bytes(12, "big")


def _slot_info(session: str, classes: KeyClasses) -> bytes:
    return _SLOT_LABEL + bytes.fromhex(session) + bytes([classes])


def _expand(key: bytes, info: bytes) -> bytes:
    return HKDFExpand(hashes.SHA256(), 32, info).derive(key)


def _whole(secret: bytes, size: int) -> bytes:
    if len(secret) != size:
        raise FormatError(f"a slot with {len(secret)} bytes of keys, {size} expected")
    return secret
