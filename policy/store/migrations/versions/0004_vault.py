"""The vault: secrets with versions, and what may be done with them; certificate authorities; applications."""

import sqlalchemy as sa
from alembic import op

from policy.store.migrate import CannotUpgrade

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Sealed with the master key itself, and with no register of what is sealed: nothing here could open or vouch for
    # it. No version that made such a database was ever released.
    for table in ("secret", "authenticator"):
        if op.get_bind().scalar(sa.text(f"SELECT count(*) FROM {table}")):
            raise CannotUpgrade("its secrets are of a version before the vault")
    op.drop_table("secret")
    with op.batch_alter_table("authenticator") as batch_op:
        batch_op.drop_column("sealed")
    op.create_table(
        "application",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=64), server_default="", nullable=False),
        sa.Column("disabled", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("uid", sa.Integer(), nullable=True),
        sa.Column("unit", sa.String(length=256), server_default="", nullable=False),
        sa.Column("executable", sa.Text(), server_default="", nullable=False),
        sa.Column("certificate", sa.String(length=64), server_default="", nullable=False),
        sa.Column("addresses", sa.Text(), server_default="", nullable=False),
        sa.Column("rate", sa.Integer(), nullable=False),
        sa.Column("renewable", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("made_by", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_application")),
    )
    op.create_table(
        "checkout",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=253), nullable=False),
        sa.Column("person", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("access_grant", sa.String(length=16), server_default="", nullable=False),
        sa.Column("ticket", sa.String(length=128), server_default="", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("taken", sa.BigInteger(), nullable=False),
        sa.Column("ends", sa.BigInteger(), nullable=False),
        sa.Column("returned", sa.BigInteger(), nullable=True),
        sa.Column("returned_by", sa.String(length=64), server_default="", nullable=False),
        sa.Column("returned_why", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkout")),
    )
    with op.batch_alter_table("checkout", schema=None) as batch_op:
        batch_op.create_index("ix_checkout_person", ["person"], unique=False)
        batch_op.create_index(
            "uq_checkout_out",
            ["target", "account"],
            unique=True,
            sqlite_where=sa.text("returned IS NULL"),
            postgresql_where=sa.text("returned IS NULL"),
        )

    op.create_table(
        "lease",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("application", sa.String(length=64), nullable=False),
        sa.Column("secret", sa.String(length=320), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("longest", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lease")),
    )
    with op.batch_alter_table("lease", schema=None) as batch_op:
        batch_op.create_index("ix_lease_application", ["application", "expires"], unique=False)
        batch_op.create_index("ix_lease_secret", ["secret"], unique=False)

    op.create_table(
        "revoked_certificate",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("by", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revoked_certificate")),
    )
    op.create_table(
        "rotation",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=253), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("driver", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("previous", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("problem", sa.Text(), server_default="", nullable=False),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.Column("made_by", sa.String(length=64), server_default="", nullable=False),
        sa.Column("began", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rotation")),
    )
    with op.batch_alter_table("rotation", schema=None) as batch_op:
        batch_op.create_index("ix_rotation_ended", ["ended"], unique=False)
        batch_op.create_index("ix_rotation_place", ["target", "account", "began"], unique=False)

    op.create_table(
        "secret",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=320), nullable=False),
        sa.Column("owner", sa.String(length=64), server_default="", nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_secret")),
        sa.UniqueConstraint("name", name=op.f("uq_secret_name")),
    )
    op.create_table(
        "share",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("scope", sa.String(length=320), nullable=False),
        sa.Column("subject_kind", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("rights", sa.String(length=32), nullable=False),
        sa.Column("made", sa.BigInteger(), nullable=False),
        sa.Column("made_by", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=True),
        sa.Column("ended", sa.BigInteger(), nullable=True),
        sa.Column("ended_by", sa.String(length=64), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share")),
    )
    with op.batch_alter_table("share", schema=None) as batch_op:
        batch_op.create_index("ix_share_scope", ["scope"], unique=False)
        batch_op.create_index("ix_share_subject", ["subject_kind", "subject"], unique=False)

    op.create_table(
        "vault_key",
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("made", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("generation", name=op.f("pk_vault_key")),
    )
    op.create_table(
        "application_token",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("application", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("certificate", sa.String(length=64), server_default="", nullable=False),
        sa.Column("addresses", sa.Text(), server_default="", nullable=False),
        sa.Column("made", sa.BigInteger(), nullable=False),
        sa.Column("made_by", sa.String(length=64), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("revoked", sa.BigInteger(), nullable=True),
        sa.Column("first", sa.String(length=16), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["application"], ["application.name"], name=op.f("fk_application_token_application"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_application_token")),
        sa.UniqueConstraint("digest", name=op.f("uq_application_token_digest")),
    )
    with op.batch_alter_table("application_token", schema=None) as batch_op:
        batch_op.create_index("ix_application_token_first", ["first"], unique=False)

    op.create_table(
        "authority",
        sa.Column("secret", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=True),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["secret"], ["secret.id"], name=op.f("fk_authority_secret"), ondelete="CASCADE"),
        sa.UniqueConstraint("secret", "version", name=op.f("uq_authority_secret_version")),
    )
    op.create_table(
        "secret_version",
        sa.Column("secret", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("made", sa.BigInteger(), nullable=False),
        sa.Column("made_by", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["secret"], ["secret.id"], name=op.f("fk_secret_version_secret"), ondelete="CASCADE"),
        sa.UniqueConstraint("secret", "version", name=op.f("uq_secret_version_secret_version")),
    )
