"""What the database holds, as frozen values. Times are nanoseconds since the epoch."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    name: str
    roles: frozenset[str] = frozenset()
    keys: tuple["PersonKey", ...] = ()
    disabled: bool = False
    offboarded: int | None = None
    phc: str = field(default="", repr=False)  # argon2id hash; "" without a password
    totp: tuple["Authenticator", ...] = ()
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonKey:
    fingerprint: str  # SHA256:…
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticator:
    id: str
    kind: str
    sealed: bytes = field(repr=False)
    created: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    name: str
    address: str
    port: int
    protocol: str
    labels: dict[str, str] = field(default_factory=dict)
    host_keys: tuple[bytes, ...] = ()  # SSH public key blobs
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    target: str
    name: str
    kind: str  # password | key | user-ca
    secret: str | None  # id in table secret
    public: bytes | None = None  # SSH public key blob, kind key
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSecret:
    id: str
    purpose: str
    version: int
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    id: str
    person: str
    account: str
    target: str
    source: str
    via: str
    rule: str
    granted: int
    expires: int | None = None
    started: int | None = None
    recording: str = ""
    ended: int | None = None
    reason: str = ""
    ended_by: str = ""
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    seq: int
    at: int
    event: str
    body: str
    hash: bytes
