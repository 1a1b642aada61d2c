"""Tables of policyd's database. Times are integers: nanoseconds since the epoch, UTC."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from policy.store.metadata import metadata as metadata

from policy.store.vault_schema import (  # isort: skip
    application as application,
    application_token as application_token,
    authority as authority,
    checkout as checkout,
    lease as lease,
    revoked_certificate as revoked_certificate,
    rotation as rotation,
    secret as secret,
    secret_version as secret_version,
    share as share,
    vault_key as vault_key,
)

_ON_PERSON = {"ondelete": "CASCADE", "onupdate": "CASCADE"}


def _person() -> Column[str]:
    return Column("person", String(64), ForeignKey("person.name", **_ON_PERSON), nullable=False)  # type: ignore[arg-type]


def _target() -> Column[str]:
    return Column("target", String(253), ForeignKey("target.name", **_ON_PERSON), nullable=False)  # type: ignore[arg-type]


person = Table(
    "person",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("offboarded", BigInteger),  # when; a name is never given to another person
    Column("created", BigInteger, nullable=False),
    Column("origin", String(16), nullable=False, server_default="local"),  # local | directory
    Column("mail", String(254), nullable=False, server_default=""),
)

role = Table(
    "role", metadata, _person(), Column("role", String(64), nullable=False), UniqueConstraint("person", "role")
)

key = Table(
    "key",
    metadata,
    # A key names one person and no other: identity comes from the key that was proven.
    Column("fingerprint", String(64), primary_key=True),
    _person(),
    Column("line", Text, nullable=False),  # one authorized_keys line, options kept
    Column("created", BigInteger, nullable=False),
    Index("ix_key_person", "person"),
)

password = Table(
    "password",
    metadata,
    Column("person", String(64), ForeignKey("person.name", **_ON_PERSON), primary_key=True),  # type: ignore[arg-type]
    Column("phc", Text, nullable=False),  # argon2id, PHC string
    Column("changed", BigInteger, nullable=False),
)

authenticator = Table(
    "authenticator",
    metadata,
    Column("id", String(32), primary_key=True),
    _person(),
    Column("kind", String(16), nullable=False),  # totp; its secret has the same id
    Column("created", BigInteger, nullable=False),
    Column("confirmed", BigInteger, server_default="0"),  # None: not before its first code
    Index("ix_authenticator_person", "person"),
)

step = Table(
    "authenticator_step",
    metadata,
    # One row per accepted time step: the unique key is what makes a code good for one use even for two writers.
    Column("authenticator", String(32), ForeignKey("authenticator.id", ondelete="CASCADE"), nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    UniqueConstraint("authenticator", "last_step"),
)

failure = Table(
    "failure",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(8), nullable=False),  # person | source
    Column("subject", String(256), nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("ix_failure_subject", "kind", "subject", "at"),
)

target = Table(
    "target",
    metadata,
    Column("name", String(253), primary_key=True),
    Column("address", String(253), nullable=False),
    Column("port", Integer, nullable=False),
    Column("protocol", String(8), nullable=False),
    Column("created", BigInteger, nullable=False),
)

host_key = Table(
    "host_key",
    metadata,
    _target(),
    Column("fingerprint", String(64), nullable=False),
    Column("blob", LargeBinary, nullable=False),
    Column("pinned", BigInteger, nullable=False),
    UniqueConstraint("target", "fingerprint"),
)

label = Table(
    "label",
    metadata,
    _target(),
    Column("key", String(64), nullable=False),
    Column("value", String(256), nullable=False),
    UniqueConstraint("target", "key"),
)

account = Table(
    "account",
    metadata,
    _target(),
    Column("name", String(64), nullable=False),
    Column("kind", String(16), nullable=False),  # password | key | user-ca
    Column("secret", String(32), ForeignKey("secret.id")),
    Column("public", LargeBinary),  # SSH blob of a key, so that a decision needs no vault
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("target", "name"),
)

session = Table(
    "session",
    metadata,
    # Names, not foreign keys: who used what outlives both the person and the target.
    Column("id", String(32), primary_key=True),
    Column("person", String(64), nullable=False),
    Column("account", String(64), nullable=False),
    Column("target", String(253), nullable=False),
    Column("source", String(64), nullable=False),
    Column("via", String(8), nullable=False),
    Column("rule", Text, nullable=False),
    Column("access_grant", String(16), nullable=False, server_default=""),  # that it rests on, if on any
    Column("granted", BigInteger, nullable=False),
    Column("expires", BigInteger),
    Column("started", BigInteger),
    Column("recording", Text, nullable=False, default=""),
    Column("ended", BigInteger),
    Column("reason", Text, nullable=False, default=""),
    Column("ended_by", Text, nullable=False, default=""),
    Column("bytes_in", BigInteger, nullable=False, default=0),
    Column("bytes_out", BigInteger, nullable=False, default=0),
    Index("ix_session_ended", "ended"),
)

# --- just in time -------------------------------------------------------------------------------------
# Names, not foreign keys, for persons, accounts and targets: who was given what outlives all three.

request = Table(
    "request",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("person", String(64), nullable=False),
    Column("account", String(64), nullable=False),
    Column("target", String(253), nullable=False),
    Column("kinds", Text, nullable=False),  # ChannelKinds with blanks between
    Column("starts", BigInteger, nullable=False),
    Column("seconds", Integer, nullable=False),  # how long, from its start
    Column("uses", Integer, nullable=False),  # sessions; 0: any number
    Column("ticket", String(128), nullable=False, default=""),
    Column("reason", Text, nullable=False, default=""),
    Column("rule", Text, nullable=False),  # by which it may be granted
    Column("source", String(64), nullable=False),
    Column("asked_by", Text, nullable=False, default=""),  # persons behind it, with blanks between: none may decide
    Column("asked", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),  # undecided until then, it is void
    Column("state", String(16), nullable=False),  # pending | approved | denied | cancelled | expired
    Column("closed", BigInteger),
    Column("closed_by", String(64), nullable=False, default=""),
    Index("ix_request_state", "state"),
)

vote = Table(
    "vote",
    metadata,
    Column("request", String(16), ForeignKey("request.id", ondelete="CASCADE"), nullable=False),
    Column("approver", String(64), nullable=False),
    Column("roles", Text, nullable=False),  # those of the approver at that time
    Column("approve", Boolean, nullable=False),
    Column("comment", Text, nullable=False, default=""),
    Column("source", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
    UniqueConstraint("request", "approver"),  # nobody counts twice
)

access_grant = Table(
    "access_grant",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("request", String(16)),  # None: given without one
    Column("person", String(64), nullable=False),
    Column("account", String(64), nullable=False),
    Column("target", String(253), nullable=False),
    Column("kinds", Text, nullable=False),
    Column("starts", BigInteger, nullable=False),
    Column("ends", BigInteger, nullable=False),
    Column("uses", Integer, nullable=False),  # sessions it allows; 0: any number
    Column("used", Integer, nullable=False, default=0),
    Column("ticket", String(128), nullable=False, default=""),
    Column("reason", Text, nullable=False, default=""),
    Column("made", BigInteger, nullable=False),
    Column("made_by", String(64), nullable=False),
    Column("break_glass", Boolean, nullable=False, default=False),
    Column("token", LargeBinary, unique=True),  # SHA-256 of the secret that logs in by itself
    Column("revoked", BigInteger),
    Column("revoked_by", String(64), nullable=False, default=""),
    Column("revoked_why", Text, nullable=False, default=""),
    Index("ix_access_grant_person", "person", "ends"),
)

review = Table(
    "review",
    metadata,
    Column("grant", String(16), ForeignKey("access_grant.id"), primary_key=True),
    Column("opened", BigInteger, nullable=False),
    Column("written", BigInteger),  # None: still owed
    Column("author", String(64), nullable=False, default=""),
    Column("text", Text, nullable=False, default=""),
)

# --- ways to prove and to join ------------------------------------------------------------------------

code = Table(
    "code",
    metadata,
    # Codes that count once: recovery codes, and those that an administrator issues.
    Column("id", String(32), primary_key=True),
    _person(),
    Column("kind", String(16), nullable=False),  # recovery | issued
    Column("mac", LargeBinary, nullable=False),  # keyed by the vault: 50 bits are too few for a plain hash
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger),
    Column("used", BigInteger),
    Index("ix_code_person", "person"),
)

invitation = Table(
    "invitation",
    metadata,
    Column("token", LargeBinary, primary_key=True),  # SHA-256 of the secret
    _person(),
    Column("made", BigInteger, nullable=False),
    Column("made_by", String(64), nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("used", BigInteger),
)

owner = Table(
    "owner",
    metadata,
    _person(),
    Column("scope", String(400), nullable=False),  # a target, `label=value`, or `*`
    UniqueConstraint("person", "scope"),
)

directory_entry = Table(
    "directory_entry",
    metadata,
    Column("person", String(64), ForeignKey("person.name", **_ON_PERSON), primary_key=True),  # type: ignore[arg-type]
    Column("ident", String(64), nullable=False),  # of the entry in the directory
    Column("dn", Text, nullable=False),
    Column("roles", Text, nullable=False),  # what came from there, words
    Column("keys", Text, nullable=False),  # fingerprints, the same
    Column("held", Boolean, nullable=False),  # disabled by the directory, not by hand
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("event", String(64), nullable=False),
    Column("body", Text, nullable=False),  # canonical JSON, the bytes that are hashed
    Column("hash", LargeBinary, nullable=False),
    Index("ix_audit_event", "event"),
)

setting = Table(
    "setting",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
