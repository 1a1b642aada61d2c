"""Sealing everything anew while all goes on: a new root key beside the old one, then the old one is forgotten.

Each durable step leaves what the next start goes on from:

    a new root key, wrapped       two generations: the newer one seals, whatever the older one sealed is sealed anew
    a batch sealed anew           the same, with less left
    nothing left of the older     its root key is taken out of the database, in the transaction that finds that so
    taken out                     one generation; what SQLite kept of the old pages is zeros (secure_delete), and out
                                  of the log

Another master wraps all root keys in one transaction: before it the old one opens them, after it the new one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog
import trio

from policy.records import SecretRecord, SecretVersion
from policy.store import Conflict, StoreError, Tables
from policy.store.vault_tables import version_entry
from policy.trail.audit import Event
from policy.trail.ledger import Ledger, LedgerError
from policy.vault import keyring
from policy.vault.envelope import Vault
from policy.vault.masters import Master
from policy.vault.secret import VaultError

BATCH: Final = 100
"""Rows sealed anew in one transaction: some 30 ms in which no other change is made."""
PAUSE_SECONDS: Final = 0.02
"""Between batches, for those who wait to write."""
AGAIN_SECONDS: Final = 600.0
"""After trouble: a full disk may have room by then. An altered row is told once, until policyd starts again."""
MASTER: Final = "master"
"""Setting: the place of the master, for the words of a start that is given another one."""

log = structlog.get_logger()


class Rekeying:
    """The root keys of a running policyd. `run` in a nursery seals anew what is sealed with an older one."""

    def __init__(self, ledger: Ledger, vault: Vault, master: Master, place: str) -> None:
        self.master = master
        self.place = place  # as bastion.toml named it
        self.stopped = ""  # why nothing is sealed anew, though something should be
        self._ledger = ledger
        self._vault = vault
        self._turn = trio.Lock()
        self._wanted = trio.Event()

    @property
    def under_way(self) -> bool:
        return len(self._vault.generations) > 1

    async def begin(self, event: Event) -> int:
        """The number of a new generation, which is on disk when this returns. VaultError, or LedgerError."""
        async with self._turn:
            generation, root = self._vault.generation + 1, keyring.new_root()
            key = await keyring.wrap(self.master, generation, root)
            await self._ledger.write(lambda t: t.vault.add_key(key), event, durable=True)
            self._vault.add_root(generation, root)
            self._wanted.set()
            return generation

    async def rewrap(self, master: Master, place: str, event: Event) -> list[str]:
        """From now on `master` opens the vault, and the old one does not. What it made, in words. VaultError."""
        async with self._turn:
            said = await master.make()
            keys = [await keyring.wrap(master, one, self._vault.root(one)) for one in self._vault.generations]
            if await keyring.unwrap(master, keys) != {one: self._vault.root(one) for one in self._vault.generations}:
                raise VaultError("the new master does not give back what it was given")  # before the old one is gone

            def change(t: Tables) -> None:
                for key in keys:
                    t.vault.wrap_key(key.generation, key.wrapped)
                t.put_setting(MASTER, place.encode())

            await self._ledger.write(change, event, durable=True)
            self.master, self.place = master, place
            await self.wipe()
            return said

    async def run(self) -> None:
        """Until cancelled."""
        await self.wipe()  # of one that died before it did
        while True:
            try:
                while self.under_way:
                    if not await self._batch():
                        await self._finish()
                    await trio.sleep(PAUSE_SECONDS)
            except (VaultError, LedgerError) as error:
                await self._stop(str(error))
            with trio.move_on_after(AGAIN_SECONDS if self.under_way else float("inf")):
                await self._wanted.wait()
            self._wanted = trio.Event()

    async def _batch(self) -> int:
        """Seal some rows anew; how many there were."""
        generation = self._vault.generation
        rows = await self._ledger.read(lambda t: t.vault.sealed_before(generation, BATCH))
        if rows:
            sealed = await trio.to_thread.run_sync(self._seal, rows)
            detail = {"generation": str(generation), "rows": str(len(rows))}
            event = Event(event="vault-resealed", who="policyd", detail=detail)
            await self._ledger.write(partial(self._change, rows, sealed), event, durable=True)
        self.stopped = ""
        return len(rows)

    def _seal(self, rows: Sequence[tuple[SecretRecord, SecretVersion]]) -> list[bytes]:
        return [
            self._vault.seal(
                record.kind, record.record, one.version,
                self._vault.open(record.kind, record.record, one.version, one.sealed),
            )
            for record, one in rows
        ]  # fmt: skip

    def _change(self, rows: Sequence[tuple[SecretRecord, SecretVersion]], sealed: Sequence[bytes], t: Tables) -> None:
        for (record, before), anew in zip(rows, sealed, strict=True):
            if (now := t.vault.version(record.id, before.version)) is None or now.sealed != before.sealed:
                continue  # gone or changed since it was read; what is left is read again
            # Attack: a row that was put back is sealed anew, and is from then on the one that was written last.
            if not self._ledger.register.knows(version_entry(record, now)):
                raise VaultError(f"secret `{record.name}` is not the one that was written: the database was altered")
            t.vault.reseal(now, anew)

    async def _finish(self) -> None:
        async with self._turn:
            generation = self._vault.generation
            old = [one for one in self._vault.generations if one != generation]

            def change(t: Tables) -> None:
                if t.vault.sealed_before(generation, 1):
                    raise Conflict("something was sealed with the old root key meanwhile")
                for one in old:
                    t.vault.remove_key(one)

            detail = {"generation": str(generation), "forgotten": " ".join(map(str, old))}
            try:
                await self._ledger.write(
                    change, Event(event="vault-rekeyed", who="policyd", detail=detail), durable=True
                )
            except Conflict:
                return
            for one in old:
                self._vault.drop_root(one)
            await self.wipe()
            log.info("vault-rekeyed", **detail)

    async def wipe(self) -> None:
        """What was overwritten is out of the log, too; not at once if somebody reads, and then at the next start."""
        try:
            await self._ledger.checkpoint()
        except (StoreError, LedgerError) as error:
            log.warning("checkpoint-failed", error=str(error))

    async def _stop(self, why: str) -> None:
        if why != self.stopped:
            log.error("vault-rekey-stopped", why=why)
            self.stopped = why
            event = Event(event="vault-rekey-stopped", who="policyd", why=why)
            try:
                await self._ledger.note(event, durable=True)
            except LedgerError as error:
                log.error("vault-rekey-stopped", error=str(error))
