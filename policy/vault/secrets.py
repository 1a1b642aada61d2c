"""Secrets taken out and put in: each row that is read must be the one that was written last."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Final

import structlog

from policy.store import Tables
from policy.store.records import SecretRecord, SecretVersion
from policy.store.vault_tables import CURRENT, version_entry
from policy.trail.audit import Event
from policy.trail.ledger import Ledger
from policy.vault.envelope import Vault
from policy.vault.secret import Secret, VaultError

ALTERED: Final = "vault-altered"
"""Event: a row of the vault is not the one that policyd wrote. Everybody who is told of alarms is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """One version of a secret, in the clear."""

    record: SecretRecord
    version: int
    state: str
    made: int
    value: Secret = field(repr=False)


class Secrets:
    """The vault over the database. Changes are made by callers, with `Tables.vault`, in transactions of theirs."""

    def __init__(self, ledger: Ledger, vault: Vault) -> None:
        self._ledger = ledger
        self._vault = vault

    async def open(self, ident: str, version: int = 0) -> Opened:
        """That version, or the one in force. VaultError if there is none, or it is not what was written."""

        def query(t: Tables) -> tuple[SecretRecord | None, SecretVersion | None]:
            return t.vault.secret(ident), t.vault.version(ident, version)

        record, found = await self._ledger.read(query)
        if record is None or found is None:
            raise VaultError("the secret is missing")
        return await self.opened(record, found)

    async def opened(self, record: SecretRecord, found: SecretVersion) -> Opened:
        """The same for rows that were read already."""
        if not self._ledger.register.knows(version_entry(record, found)):
            structlog.get_logger().error(ALTERED, secret=record.name, version=found.version)
            detail = {"version": str(found.version)}
            await self._ledger.note(Event(event=ALTERED, who="policyd", what=record.name, detail=detail), durable=True)
            raise VaultError(
                f"secret `{record.name}` is not the one that was written: the database was altered",
                "find out who wrote to it: bastion audit show --event vault-altered",
            )
        value = self._vault.open(record.kind, record.record, found.version, found.sealed)
        return Opened(record=record, version=found.version, state=found.state, made=found.made, value=value)


def new_secret(
    vault: Vault, kind: str, name: str, value: Secret, by: str, *, ident: str = "", owner: str = "", note: str = ""
) -> tuple[SecretRecord, SecretVersion]:
    """The rows of a new secret, its first version in force: for `Tables.vault.add_secret`."""
    now = time.time_ns()
    record = SecretRecord(
        id=ident or secrets.token_hex(16), kind=kind, name=name, created=now, changed=now, owner=owner, note=note
    )
    return record, next_version(vault, record, 1, value, by, state=CURRENT)


def next_version(
    vault: Vault, record: SecretRecord, number: int, value: Secret, by: str, *, state: str
) -> SecretVersion:
    """The row of one more version: for `Tables.vault.add_version`."""
    sealed = vault.seal(record.kind, record.record, number, value)
    return SecretVersion(
        secret=record.id, version=number, state=state, sealed=sealed, made=time.time_ns(), made_by=by[:256]
    )
