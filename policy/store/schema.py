"""Tables of policyd's database. Times are integers: nanoseconds since the epoch, UTC."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

# Named constraints, so that a later migration can drop one on any database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
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

# --- the vault -----------------------------------------------------------------------------------------

vault_key = Table(
    "vault_key",
    metadata,
    # The root keys that seal everything below, one a generation, each wrapped by the master.
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("made", BigInteger, nullable=False),
)

secret = Table(
    "secret",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),  # password | key | ca | generic | totp | seed
    Column("name", String(320), nullable=False, unique=True),  # ACCOUNT@TARGET, folder/name, or a word of ours
    Column("owner", String(64), nullable=False, server_default=""),  # a person, of named ones
    Column("created", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
)

secret_version = Table(
    "secret_version",
    metadata,
    Column("secret", String(32), ForeignKey("secret.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", String(16), nullable=False),  # pending | current (one of them) | previous | retired
    Column("sealed", LargeBinary, nullable=False),
    Column("made", BigInteger, nullable=False),
    Column("made_by", Text, nullable=False, server_default=""),
    UniqueConstraint("secret", "version"),
)

share = Table(
    "share",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("scope", String(320), nullable=False),  # the name of a secret, or a folder with `/` at its end
    Column("subject_kind", String(16), nullable=False),  # person | role | application
    Column("subject", String(64), nullable=False),
    Column("rights", String(32), nullable=False),  # of use, view, share: words
    Column("made", BigInteger, nullable=False),
    Column("made_by", String(64), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("expires", BigInteger),
    Column("ended", BigInteger),
    Column("ended_by", String(64), nullable=False, server_default=""),
    Index("ix_share_scope", "scope"),
    Index("ix_share_subject", "subject_kind", "subject"),
)

checkout = Table(
    "checkout",
    metadata,
    # Names, not foreign keys, here and below: who had what outlives both.
    Column("id", String(16), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("target", String(253), nullable=False),
    Column("person", String(64), nullable=False),
    Column("version", Integer, nullable=False),  # of the secret that was shown
    Column("source", String(64), nullable=False),
    Column("rule", Text, nullable=False),
    Column("access_grant", String(16), nullable=False, server_default=""),
    Column("ticket", String(128), nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    Column("taken", BigInteger, nullable=False),
    Column("ends", BigInteger, nullable=False),
    Column("returned", BigInteger),
    Column("returned_by", String(64), nullable=False, server_default=""),
    Column("returned_why", Text, nullable=False, server_default=""),
    Index("ix_checkout_person", "person"),
    # Nobody has what another one has: one row at most is out for each account.
    Index(
        "uq_checkout_out", "target", "account", unique=True,
        sqlite_where=text("returned IS NULL"), postgresql_where=text("returned IS NULL"),
    ),
)  # fmt: skip

rotation = Table(
    "rotation",
    metadata,
    # The journal: written before each step on a target, so that a crash leaves what has to be found out.
    Column("id", String(16), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("target", String(253), nullable=False),
    Column("rule", Text, nullable=False),  # name of the [[rotation]] entry
    Column("driver", String(32), nullable=False),
    Column("state", String(16), nullable=False),  # a State of policy.rotation.plan
    Column("pending", Integer, nullable=False),  # version of the secret that is to come
    Column("previous", Integer, nullable=False),  # the one in force when it began
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("problem", Text, nullable=False, server_default=""),
    Column("why", Text, nullable=False, server_default=""),  # schedule, use, checkout, or a person's reason
    Column("made_by", String(64), nullable=False, server_default=""),
    Column("began", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("ended", BigInteger),
    Index("ix_rotation_place", "target", "account", "began"),
    Index("ix_rotation_ended", "ended"),
)

authority = Table(
    "authority",
    metadata,
    Column("secret", String(32), ForeignKey("secret.id"), primary_key=True),
    Column("use", String(8), nullable=False),  # user | host
    Column("state", String(16), nullable=False),  # next | current | retiring | retired
    Column("public", LargeBinary, nullable=False),  # SSH blob
    Column("made", BigInteger, nullable=False),
    Column("since", BigInteger),  # when it became current
    Column("until", BigInteger),  # when it was retired
)

revoked_certificate = Table(
    "revoked_certificate",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),  # serial | key-id | key
    Column("ca", String(64), nullable=False, server_default=""),  # fingerprint
    Column("what", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("by", String(64), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
)

application = Table(
    "application",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("owner", String(64), nullable=False, server_default=""),
    Column("disabled", Boolean, nullable=False, server_default="0"),
    Column("uid", Integer),  # bindings: those that are given must all hold
    Column("unit", String(256), nullable=False, server_default=""),
    Column("executable", Text, nullable=False, server_default=""),
    Column("certificate", String(64), nullable=False, server_default=""),  # SHA-256 of the client's, hexadecimal
    Column("addresses", Text, nullable=False, server_default=""),  # networks, words
    Column("rate", Integer, nullable=False),  # reads a second
    Column("created", BigInteger, nullable=False),
    Column("made_by", String(64), nullable=False),
)

application_token = Table(
    "application_token",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("application", String(64), ForeignKey("application.name", ondelete="CASCADE"), nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),  # SHA-256 of the token
    Column("certificate", String(64), nullable=False, server_default=""),
    Column("addresses", Text, nullable=False, server_default=""),
    Column("made", BigInteger, nullable=False),
    Column("made_by", String(64), nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("revoked", BigInteger),
)

lease = Table(
    "lease",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("application", String(64), nullable=False),
    Column("secret", String(320), nullable=False),  # its name
    Column("version", Integer, nullable=False),
    Column("source", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("longest", BigInteger, nullable=False),  # until when it may be renewed
    Column("ended", BigInteger),
    Index("ix_lease_application", "application", "expires"),
    Index("ix_lease_secret", "secret"),
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
