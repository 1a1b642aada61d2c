"""Secrets taken out and put in: each row that is read must be the one that was written last."""

import secrets
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from policy.records import SecretRecord, SecretVersion
from policy.store import Tables
from policy.store.vault_tables import CURRENT, version_entry
from policy.trail.audit import Event
from policy.trail.ledger import Ledger
from policy.vault.envelope import Vault
from policy.vault.secret import Secret, VaultError

ALTERED: Final = "vault-altered"
"""Event: a row of the vault is not the one that policyd wrote. Everybody who is told of alarms is told."""


TRIMMED: Final = 100
"""Versions forgotten in one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """One version of a secret, in the clear."""

    record: SecretRecord
    version: int
    state: str
    made: int
    value: Secret = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Found:
    record: SecretRecord | None
    version: SecretVersion | None
    known: bool


class Secrets:
    """The vault over the database. Changes are made by callers, with `Tables.vault`, in transactions of theirs."""

    def __init__(self, ledger: Ledger, vault: Vault) -> None:
        self._ledger = ledger
        self._vault = vault

    async def open(self, ident: str, version: int = 0, *, kind: str = "", name: str = "") -> Opened:
        """That version, or the one in force. VaultError if there is none, or it is not what was written.

        `kind` and `name` are what whoever points at it says it is: a row that points elsewhere opens nothing.
        """
        look = partial(self._look, ident, version)
        found = await self._ledger.read(look)
        if not found.known:
            found = await self._ledger.write(look)  # per `_look`
        return await self._open(found, ident, kind, name)

    async def opened(self, record: SecretRecord, version: SecretVersion) -> Opened:
        """The same for rows that were read already."""
        found = _Found(record, version, self._ledger.register.knows(version_entry(record, version)))
        if not found.known:
            found = await self._ledger.write(partial(self._look, record.id, version.version))
        return await self._open(found, record.id, "", "")

    def _look(self, ident: str, number: int, t: Tables) -> "_Found":
        """The rows, and whether the register knows them.

        For a moment it does not: the writer tells the register what it is about to commit. Whoever then asks in the
        writer's own turn sees what both have in common.
        """
        record, version = t.vault.opening(ident, number)
        register = self._ledger.register
        if record is None or version is None:  # a number that was never used is nobody's fault
            return _Found(record, version, bool(number) or not register.holds("secret", ident))
        return _Found(record, version, register.knows(version_entry(record, version)))

    async def _open(self, found: "_Found", ident: str, kind: str, name: str) -> Opened:
        record, version = found.record, found.version
        if not found.known:
            raise await self.alarm(record.name if record else ident, "the row is not the one that was written")
        if record is None or version is None:
            raise VaultError("the secret is missing")
        if (kind and record.kind != kind) or (name and record.name != name):
            raise await self.alarm(name or record.name, f"it points at the secret `{record.name}`")
        value = self._vault.open(record.kind, record.record, version.version, version.sealed)
        return Opened(record=record, version=version.version, state=version.state, made=version.made, value=value)

    async def alarm(self, name: str, why: str) -> VaultError:
        """Keep, and tell, that somebody else wrote to the database; the error to raise."""
        structlog.get_logger().error(ALTERED, secret=name, why=why)
        await self._ledger.note(Event(event=ALTERED, who="policyd", what=name, why=why), durable=True)
        return VaultError(
            f"`{name}`: the database was altered: {why}",
            "find out who wrote to it: bastion audit list --event vault-altered; then restore a backup, or stop policyd"
            " and accept what is there: bastion-policyd db accept-trail",
        )


async def trim(ledger: Ledger, keep: int) -> None:
    """Forget retired versions, but for the `keep` newest of each secret. LedgerError."""
    while gone := await ledger.read(lambda t: t.vault.retired_beyond(keep, TRIMMED)):

        def change(t: Tables, gone: list[SecretVersion] = gone) -> None:
            for one in gone:
                t.vault.remove_version(one.secret, one.version)

        detail = {"kept": str(keep), "forgotten": str(len(gone))}
        await ledger.write(change, Event(event="vault-versions-forgotten", who="policyd", detail=detail), durable=True)


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
