"""Tables of the vault. Times are nanoseconds since the epoch, UTC."""

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
    text,
)

from policy.store.metadata import metadata

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
    # Nobody has what another one has: one row at most is out for each account. Of other databases' conditions the
    # migration knows: to name them here would load their dialects.
    Index("uq_checkout_out", "target", "account", unique=True, sqlite_where=text("returned IS NULL")),
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
    # Each is a version of the secret `user-ca` or `host-ca`, whose state says whether it is trusted.
    Column("secret", String(32), ForeignKey("secret.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("since", BigInteger),  # when it began to sign
    Column("until", BigInteger),  # when it was retired
    UniqueConstraint("secret", "version"),
)

revoked_certificate = Table(
    "revoked_certificate",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),  # serial | key-id | key
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
    Column("renewable", Integer, nullable=False, server_default="0"),  # seconds that its tokens last by renewing
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
    Column("first", String(16), nullable=False),  # the one that a person made, and this one came of by renewing
    Column("since", BigInteger, nullable=False),  # when that was made
    Column("seconds", Integer, nullable=False),  # each of them lasts
    Index("ix_application_token_first", "first"),
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
