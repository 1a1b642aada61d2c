"""Rows of secrets for tests of tables, which open nothing."""

from policy.records import SecretRecord, SecretVersion
from policy.store.vault_tables import CURRENT

NOW = 1_800_000_000_000_000_000


def sealed_rows(ident: str, kind: str, name: str, sealed: bytes = b"sealed") -> tuple[SecretRecord, SecretVersion]:
    """A secret and its first version."""
    record = SecretRecord(id=ident, kind=kind, name=name, created=NOW, changed=NOW)
    return record, SecretVersion(secret=ident, version=1, state=CURRENT, sealed=sealed, made=NOW)
