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
    codes: tuple["Code", ...] = ()  # that were not used
    created: int = 0
    origin: str = "local"  # or directory
    owns: tuple[str, ...] = ()  # scopes: a target, `label=value`, or `*`
    mail: str = ""  # an address


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryEntry:
    """What the directory said of a person who comes from there, at the last sync that changed something."""

    person: str
    ident: str  # of the entry, which no other ever has
    dn: str
    roles: frozenset[str] = frozenset()  # those that came from there
    keys: frozenset[str] = frozenset()  # fingerprints, the same
    held: bool = False  # disabled by the directory, not by hand


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonKey:
    fingerprint: str  # SHA256:…
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticator:
    id: str  # also that of its secret
    kind: str
    created: int
    confirmed: int | None = 0  # when its first code came; None: it is not asked for yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A code that counts once."""

    id: str
    person: str
    kind: str  # recovery | issued
    mac: bytes = field(repr=False)  # keyed by the vault
    created: int
    expires: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    token: bytes = field(repr=False)  # SHA-256
    person: str
    made: int
    made_by: str
    expires: int


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
class SecretRecord:
    """What a secret is and whose; its versions hold it, sealed."""

    id: str
    kind: str  # password | key | ca | generic | totp | seed
    name: str  # ACCOUNT@TARGET, folder/name, or words of ours
    created: int
    changed: int
    owner: str = ""  # a person, of named ones
    note: str = ""

    @property
    def record(self) -> str:
        """What each version is bound to: a row that was given another name, or another account, does not open."""
        return f"{self.id} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretVersion:
    secret: str  # id
    version: int
    state: str  # pending | current | previous | retired
    sealed: bytes = field(repr=False)
    made: int
    made_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultKey:
    """The root key of one generation, wrapped by the master."""

    generation: int
    wrapped: bytes = field(repr=False)
    made: int


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
    access_grant: str = ""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    id: str
    person: str
    account: str
    target: str
    kinds: frozenset[str]  # ChannelKinds
    starts: int
    seconds: int
    uses: int  # sessions; 0: any number
    ticket: str
    reason: str
    rule: str
    source: str
    asked_by: frozenset[str] = frozenset()  # persons behind it: none of them may decide
    asked: int
    expires: int
    state: str = "pending"  # pending | approved | denied | cancelled | expired
    closed: int | None = None
    closed_by: str = ""
    votes: tuple["Vote", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    approver: str
    roles: frozenset[str]  # at the time of the vote; with OWNER and GIVEN of policy.rule_words
    approve: bool
    comment: str
    source: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessGrant:
    """Leave given to one person for one account, for a time. It fulfils what a rule requires, and widens no rule."""

    id: str
    request: str | None
    person: str
    account: str
    target: str
    kinds: frozenset[str]
    starts: int
    ends: int
    uses: int  # 0: any number
    used: int = 0
    ticket: str = ""
    reason: str = ""
    made: int
    made_by: str
    break_glass: bool = False
    token: bytes | None = field(default=None, repr=False)  # SHA-256
    revoked: int | None = None
    revoked_by: str = ""
    revoked_why: str = ""
    votes: tuple[Vote, ...] = ()  # of its request, or the one of who gave it


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    grant: AccessGrant
    opened: int
    written: int | None = None
    author: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A program that reads secrets by the broker. The bindings that are given must all hold; there is at least one."""

    name: str
    owner: str = ""
    disabled: bool = False
    uid: int | None = None
    unit: str = ""  # of systemd
    executable: str = ""
    certificate: str = ""  # SHA-256 of its client certificate, hexadecimal
    addresses: tuple[str, ...] = ()  # networks
    rate: int  # reads a second
    renewable: int = 0  # seconds that a token lasts by renewing, from when it was made; 0: it is not renewed
    created: int
    made_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerToken:
    """What an application shows over HTTPS: good from its own certificate or addresses alone, until it expires."""

    id: str
    application: str
    digest: bytes = field(repr=False)  # SHA-256
    certificate: str = ""
    addresses: tuple[str, ...] = ()
    made: int
    made_by: str
    expires: int
    revoked: int | None = None
    first: str  # id of the one that a person made, and this one came of by renewing; its own, if that is this one
    since: int  # when that was made
    seconds: int  # each of them lasts


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """One read of one version of a secret."""

    id: str
    application: str
    secret: str  # its name
    version: int
    source: str
    at: int
    expires: int
    longest: int  # until when it may be renewed
    ended: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What was lent to whom. Scope: the name of a secret, a folder with `/` at its end, or ACCOUNT@TARGET."""

    id: str
    scope: str
    subject_kind: str  # person | role | application
    subject: str
    rights: str  # words of use, view, share
    made: int
    made_by: str
    reason: str = ""
    expires: int | None = None
    ended: int | None = None
    ended_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A password that a person was shown, and has for a time."""

    id: str
    account: str
    target: str
    person: str
    version: int  # of the secret that was shown
    source: str
    rule: str
    access_grant: str = ""
    ticket: str = ""
    reason: str = ""
    taken: int
    ends: int
    returned: int | None = None
    returned_by: str = ""
    returned_why: str = ""

    @property
    def place(self) -> str:
        return f"{self.account}@{self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationRow:
    """One rotation in the journal."""

    id: str
    account: str
    target: str
    rule: str = ""  # name of the [[rotation]] entry; "" before it began
    driver: str = ""
    state: str  # policy.rotation.plan.State
    pending: int = 0  # versions of the secret; 0: none
    previous: int = 0
    attempts: int = 0  # runs that came to nothing, one after the other
    problem: str = ""
    why: str = ""
    made_by: str = ""
    began: int
    changed: int
    ended: int | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Target and account."""
        return self.target, self.account
