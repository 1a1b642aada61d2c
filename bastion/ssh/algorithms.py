"""What the gateway offers to clients: three profiles, one list per role, and the server's own keys.

Why these, in this order: notes at the lists. SHA-1, group exchange (asyncssh's hands out 1024 bits), the NIST host
keys and compression (inflated without a limit) are in none of them.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import asyncssh
from asyncssh.public_key import SSHKeyPair

from bastion.errors import BastionError
from bastion.settings import Profile, SshSettings

_PQ_KEX: Final = ["mlkem768x25519-sha256"]
# curve25519-sha256 stands first, because asyncssh takes a guessed packet (RFC 4253 section 7.1) for right when its own
# first name is the client's: with ML-KEM there, Dropbear cannot connect. The client's order decides all the same.
_KEX: Final = [
    "curve25519-sha256", "mlkem768x25519-sha256", "curve25519-sha256@libssh.org",
    "diffie-hellman-group16-sha512", "diffie-hellman-group18-sha512",
]  # fmt: skip
_GCM: Final = ["aes256-gcm@openssh.com", "aes128-gcm@openssh.com"]
_CTR: Final = ["aes256-ctr", "aes192-ctr", "aes128-ctr"]
_ETM: Final = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"]
_PLAIN_MAC: Final = ["hmac-sha2-256", "hmac-sha2-512"]  # curl and PHP (libssh2 1.10), Dropbear 2022 and Ruby need them
_CHACHA: Final = ["chacha20-poly1305@openssh.com"]

KEX: Final[dict[Profile, list[str]]] = {"compat": _KEX, "modern": _KEX, "pq": _PQ_KEX}
CIPHERS: Final[dict[Profile, list[str]]] = {
    "compat": [*_GCM, *_CHACHA, *_CTR],
    "modern": [*_GCM, *_CHACHA, *_CTR],
    "pq": _GCM,
}
MACS: Final[dict[Profile, list[str]]] = {"compat": [*_ETM, *_PLAIN_MAC], "modern": _ETM, "pq": _ETM}

SIGNATURES: Final = [
    "ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com", "rsa-sha2-512", "rsa-sha2-256",
]  # fmt: skip
"""What a person may sign with (RFC 8308 server-sig-algs); policyd judges the key."""

REKEY_BYTES: Final = 1 << 30
REKEY_SECONDS: Final = 3600
KEEPALIVES: Final = 3
"""Silent answers that end a connection."""

_HOST_KEY_ALGORITHMS: Final = {
    b"ssh-rsa": [b"rsa-sha2-512", b"rsa-sha2-256"],  # asyncssh would offer SHA-1 with it
    b"ssh-ed25519": [b"ssh-ed25519"],
}
_OPENSSH: Final = re.compile(rb"SSH-2\.0-OpenSSH_(\d{1,3})\.(\d{1,3})")
_KNOWS_GCM: Final = (6, 2)


def connection_options(settings: SshSettings) -> dict[str, Any]:
    """What every server connection of ours has in common, the ones within `ssh -J` too: asyncssh's names."""
    profile = settings.profile
    return {
        "kex_algs": KEX[profile],
        "encryption_algs": CIPHERS[profile],
        "mac_algs": MACS[profile],
        "compression_algs": ["none"],
        "signature_algs": SIGNATURES,
        "server_version": "Bastion",
        "x509_trusted_certs": None,
        "x509_trusted_cert_paths": [],  # asyncssh would look into the home folder, which this process has none of
        "gss_host": None,
        "host_based_auth": False,
        "agent_forwarding": False,
        "rekey_bytes": REKEY_BYTES,
        "rekey_seconds": REKEY_SECONDS,
        "keepalive_interval": settings.keepalive,
        "keepalive_count_max": KEEPALIVES,
        "login_timeout": settings.grace,
        "tcp_keepalive": True,
    }


async def server_options(settings: SshSettings, host_keys: Sequence[SSHKeyPair]) -> Any:
    """asyncssh's options of the listener; made once, they hold no state of a connection."""
    options = await asyncssh.SSHServerConnectionOptions.construct(
        None,
        config=(),
        server_factory=asyncssh.SSHServer,
        server_host_keys=list(host_keys),
        **connection_options(settings),
    )
    options.proxy_command = None
    return options


def ciphers_for(client_version: bytes, ciphers: Sequence[bytes]) -> Sequence[bytes]:
    """Of `ciphers`, what this client is offered.

    OpenSSH takes chacha20 if it may, which costs us six times the CPU of AES-GCM; it knows AES-GCM since 6.2.
    """
    found = _OPENSSH.match(client_version)
    if found and (int(found[1]), int(found[2])) >= _KNOWS_GCM:
        return [name for name in ciphers if b"gcm" in name] or ciphers
    return ciphers


def load_host_keys(paths: Iterable[Path]) -> list[SSHKeyPair]:
    """Key pairs, read once: as file names asyncssh would read them for each login (0.2 s of RSA checks)."""
    pairs: list[SSHKeyPair] = []
    for path in paths:
        try:
            pair = asyncssh.load_keypairs([asyncssh.read_private_key(path)])[0]
        except (OSError, asyncssh.KeyImportError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise BastionError(
                f"host key `{path}` cannot be used: {why.lower()}", "see: bastion check-config"
            ) from None
        if pair.algorithm not in _HOST_KEY_ALGORITHMS:
            raise BastionError(
                f"host key `{path}` is of kind {pair.algorithm.decode()}, want ed25519 or rsa", "make one: ssh-keygen"
            )
        pair.host_key_algorithms = _HOST_KEY_ALGORITHMS[pair.algorithm]
        pairs.append(pair)
    if not pairs:
        raise BastionError("no host key is configured", "name one in [ssh] host_keys")
    return pairs
