"""Schema versions: where the database is, where this program wants it, and the way there.

A migration is a file `NNNN_words.py` whose revision is `NNNN` (tests/policy/store/test_store.py), so that a start of
policyd, which only compares versions, need not import Alembic: that takes half a second.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, inspect, text

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS: Final = Path(__file__).parent / "migrations"


class CannotUpgrade(Exception):
    """What is in this database cannot be taken over; the database is as it was."""


def wanted() -> str:
    """The revision this program was written for."""
    return _revisions()[-1]


def current(engine: Engine) -> str | None:
    """The revision of the database; None if it has no schema."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return found


def known(revision: str) -> bool:
    """Whether this program knows `revision`; a newer program's database is not known."""
    return revision in _revisions()


def upgrade(connection: Connection) -> None:
    """Bring the database to `wanted()`, inside the caller's transaction."""
    from alembic import command

    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def alembic_config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _revisions() -> list[str]:
    return sorted(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))
