"""AES-GCM as asyncssh uses it, with its key schedule kept: its own makes a new one for each packet."""

from typing import Final

from asyncssh import encryption
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG: Final = 16


class Gcm(encryption.Encryption):
    """AES-GCM of RFC 5647 with its key schedule kept and its counter as a number; a drop-in for asyncssh's own."""

    __slots__ = ("aes", "counter", "fixed")

    def __init__(self, key: bytes, iv: bytes) -> None:
        self.aes = AESGCM(key)
        self.fixed = iv[:4]
        self.counter = int.from_bytes(iv[4:])

    @classmethod
    def new(
        cls, cipher_name: str, key: bytes, iv: bytes, mac_alg: bytes = b"", mac_key: bytes = b"", etm: bool = False
    ) -> "Gcm":
        return cls(key, iv)

    @classmethod
    def needs_mac(cls) -> bool:
        return False

    @classmethod
    def get_mac_params(cls, mac_alg: bytes) -> tuple[int, int, bool]:
        return 0, TAG, True

    def nonce(self) -> bytes:
        """The next one; RFC 5647 section 7.1: the counter wraps."""
        value = self.fixed + self.counter.to_bytes(8)
        self.counter = (self.counter + 1) & 0xFFFFFFFFFFFFFFFF
        return value

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        return header + self.aes.encrypt(self.nonce(), packet, header), b""

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        return first_block, first_block[:header_len]

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        try:
            return self.aes.decrypt(self.nonce(), first[header_len:] + rest + mac, first[:header_len])
        except InvalidTag:
            return None


for _name in (b"aes128-gcm@openssh.com", b"aes256-gcm@openssh.com"):
    encryption._enc_params[_name] = (Gcm, encryption._enc_params[_name][1])
