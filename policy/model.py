"""The nouns of a decision: persons, targets, accounts, channel kinds, settings. No I/O."""

from enum import StrEnum
from typing import Final, NewType

import msgspec

WARNINGS: Final = (300.0, 60.0)
"""Seconds before the end of a session, or of a checkout, at which its person is told; who has less knows it."""

PersonName = NewType("PersonName", str)
TargetName = NewType("TargetName", str)
SessionId = NewType("SessionId", str)
"""UUIDv7 as 32 lower-case hexadecimal digits; also the id of the recording."""


class ChannelKind(StrEnum):
    """Everything a person can open on a target. One word each; the words of `allow` in policy.toml."""

    SHELL = "shell"
    EXEC = "exec"
    SUBSYSTEM = "subsystem"  # any subsystem but sftp
    SFTP = "sftp"
    SCP = "scp"  # exec of a file transfer program: scp -t/-f, rsync --server
    FORWARD_LOCAL = "forward-local"  # direct-tcpip
    FORWARD_REMOTE = "forward-remote"  # tcpip-forward
    FORWARD_SOCKET = "forward-socket"  # streamlocal, both directions
    AGENT = "agent"
    X11 = "x11"
    CHECKOUT = "checkout"  # nothing that is opened: the account's password, shown to the person for a time


CHANNELS: Final = frozenset(ChannelKind) - {ChannelKind.CHECKOUT}
"""What a session is made of. `allow = ["*"]`, a request that names no kind, and a Grant hold these and no more: a
password that people know is given where it is named, and nowhere else."""


class Method(StrEnum):
    """Ways to prove a person, by the names of RFC 4252 and RFC 4256."""

    PUBLIC_KEY = "publickey"
    PASSWORD = "password"
    CODE = "keyboard-interactive"


class ViewVerb(StrEnum):
    """What an auditor's tool does with recordings."""

    SHOW = "show"
    PLAY = "play"
    EXPORT = "export"
    SEARCH = "search"


class Outcome(StrEnum):
    """What one authentication attempt led to."""

    REFUSED = "refused"
    MORE = "more"  # this factor was right, another one is needed: partial success
    DONE = "done"
    DISCONNECT = "disconnect"  # locked out or out of order: say nothing more


MAX_LOGIN: Final = 256
"""Characters in a login string; sshd takes fewer."""


class RadiusSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[policy.radius]` table: servers that judge codes, as one more way to answer the question for one."""

    servers: list[str] = []  # HOST[:PORT], tried in turn; none: no such way
    secret: str = ""  # shared with them: file:PATH (relative to bastion.toml) or credential:NAME
    roles: list[str] = msgspec.field(default_factory=lambda: ["*"])  # whose codes go there; "*": everybody's
    nas: str = "bastion"  # how this bastion names itself (NAS-Identifier)
    seconds: float = 10.0  # for all servers together


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[policy]` table of bastion.toml."""

    database: str = "sqlite:///bastion.db"  # relative to [bastion] state
    rules: str = "policy.toml"  # relative to bastion.toml
    master_key: str = "file:master.key"  # see policy.vault.masters; paths relative to [bastion] state
    trusted_user_cas: str = ""  # public keys of CAs whose user certificates prove a person; relative to bastion.toml
    revoked_keys: str = ""  # fingerprints of keys and CAs that prove nobody any more; relative to bastion.toml
    secret_versions: int = 5  # retired versions of each secret that are kept
    certificate_minutes: int = 5  # life of a certificate that dials a target
    certificate_sources: list[str] = []  # networks from which such a certificate counts; empty: from everywhere
    host_certificate_hours: int = 24  # life of a certificate that a client of `ssh -J` sees
    lock_after: int = 5  # failed factors per person ...
    lock_minutes: int = 15  # ... within, and for, this long
    source_failures: int = 20  # failed attempts per source address within the same time
    recheck_seconds: int = 30  # how long a session may outlive the hour at which it is forbidden
    radius: RadiusSettings = RadiusSettings()
    viewers: list[str] = []  # OS users who may view recordings; empty: whoever may connect to the auditors' socket
