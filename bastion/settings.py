"""The `[ssh]` table of bastion.toml. No I/O."""

from typing import Literal

import msgspec


class SshSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the SSH gateway listens and what it bears before it knows who is there."""

    # HOST:PORT or [HOST]:PORT; sockets passed by systemd replace them
    listen: list[str] = msgspec.field(default_factory=lambda: ["0.0.0.0:2222"])
    workers: int = 1  # processes that share the listen addresses (SO_REUSEPORT)
    # relative to [bastion] state
    host_keys: list[str] = msgspec.field(default_factory=lambda: ["ssh_host_ed25519_key", "ssh_host_rsa_key"])
    profile: Literal["compat", "modern"] = "compat"  # modern: encrypt-then-MAC and AEAD alone
    grace: float = 30.0  # seconds from connection to login, as LoginGraceTime of sshd
    tries: int = 6  # authentication attempts per connection
    startups: int = 200  # connections per worker that have not logged in yet
    startups_per_source: int = 10  # of those, from one address
    channels: int = 20  # open at once on one connection
    keepalive: float = 30.0  # seconds of silence before asking the client whether it lives; three silent answers end it
