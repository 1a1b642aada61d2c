"""The `[ssh]`, `[courier]`, `[runner]` and `[broker]` tables of bastion.toml. No I/O."""

from typing import Literal

import msgspec

Profile = Literal["compat", "modern", "pq"]
"""compat: also MACs that old clients need; modern: encrypt-then-MAC and AEAD alone; pq: key exchange that a
quantum computer does not open either."""


class SshSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the SSH gateway listens and what it bears before it knows who is there."""

    # HOST:PORT or [HOST]:PORT; sockets passed by systemd replace them
    listen: list[str] = msgspec.field(default_factory=lambda: ["0.0.0.0:2222"])
    workers: int = 1  # processes that share the listen addresses (SO_REUSEPORT)
    # relative to [bastion] state
    host_keys: list[str] = msgspec.field(default_factory=lambda: ["ssh_host_ed25519_key", "ssh_host_rsa_key"])
    profile: Profile = "compat"
    address: str = ""  # HOST[:PORT] by which people reach this bastion, for the client lines that it prints
    banner: str = ""  # shown before login, for a legal notice
    grace: float = 30.0  # seconds from connection to login, as LoginGraceTime of sshd
    tries: int = 6  # failed authentication attempts per connection, the last one ends it
    startups_begin: int = 50  # connections not logged in yet from which on some are dropped by chance ...
    startups_rate: int = 30  # ... this percentage of them, rising to all ...
    startups: int = 200  # ... at this many, per worker (MaxStartups of sshd)
    startups_per_source: int = 10  # of those, from one address
    penalties: bool = True  # refuse a source for a while after failed logins (PerSourcePenalties of sshd)
    # networks without penalties
    penalty_exempt: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.0/8", "::1/128"])
    channels: int = 20  # open at once on one connection
    hash_content: bool = True  # SHA-256 of what passes and is not kept
    keepalive: float = 30.0  # seconds of silence before asking the peer whether it lives; three silent answers end it
    dial: float = 15.0  # seconds to reach and log in to a target
    stall: float = 30.0  # seconds that recorderd may owe an acknowledgement until the session ends; nothing passes then


class CourierSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where calls to the outside may go."""

    # networks that may be called although they are link-local or hold a cloud's metadata
    reach: list[str] = msgspec.field(default_factory=list)


class RunnerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Scripts that change secrets in their own way. Read by the runner alone: policyd knows their names."""

    scripts: dict[str, str] = {}  # absolute path by name
    user: str = ""  # whom they run as, where the runner itself is root


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The door for applications. With neither `socket` nor `listen` it stays shut, and `bastion run` starts none."""

    socket: str = ""  # relative to [bastion] run
    mode: str = "0666"  # of that socket: who may connect; what they get is decided by who they are
    listen: list[str] = msgspec.field(default_factory=list)  # ADDRESS:PORT, HTTPS
    certificate: str = ""  # PEM, with its chain; relative to bastion.toml
    key: str = ""  # PEM, mode 0600; relative to bastion.toml
    client_cas: str = ""  # PEM: CAs of client certificates; relative to bastion.toml; empty: none is asked for
