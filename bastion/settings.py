"""The `[ssh]` table of bastion.toml. No I/O."""

from typing import Literal

import msgspec


class SshSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the SSH gateway listens and what it bears before it knows who is there."""

    listen: list[str] = ["0.0.0.0:2222"]  # HOST:PORT or [HOST]:PORT; sockets passed by systemd replace them
    workers: int = 1  # processes that share the listen addresses (SO_REUSEPORT)
    host_keys: list[str] = ["ssh_host_ed25519_key", "ssh_host_rsa_key"]  # relative to [bastion] state
    profile: Literal["compat", "modern"] = "compat"  # modern: encrypt-then-MAC and AEAD alone
    grace: float = 30.0  # seconds from connection to login, as LoginGraceTime of sshd
    tries: int = 6  # authentication attempts per connection
    startups: int = 200  # connections per worker that have not logged in yet
    startups_per_source: int = 10  # of those, from one address
    channels: int = 20  # open at once on one connection
    keepalive: float = 30.0  # seconds of silence before asking the client whether it lives; three silent answers end it
