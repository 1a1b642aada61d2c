"""The root keys, one a generation: made, wrapped by the master, opened again."""

import secrets
import time
from collections.abc import Sequence
from typing import Final

from policy.records import SecretRecord, SecretVersion, VaultKey
from policy.store.vault_tables import CURRENT
from policy.vault.envelope import SEED, Vault
from policy.vault.masters import Master
from policy.vault.secret import KEY_BYTES, Secret, VaultError

FIRST: Final = 1


def new_root() -> Secret:
    return Secret(secrets.token_bytes(KEY_BYTES))


def bound_to(generation: int) -> bytes:
    """What a wrapped root key is bound to."""
    return f"bastion root key|{generation}".encode()


async def wrap(master: Master, generation: int, root: Secret) -> VaultKey:
    """A root key as the database keeps it. VaultError if the master does not do it."""
    wrapped = await master.wrap(root, bound_to(generation))
    return VaultKey(generation=generation, wrapped=wrapped, made=time.time_ns())


async def unwrap(master: Master, keys: Sequence[VaultKey]) -> dict[int, Secret]:
    """The root keys by generation. VaultError if there is none, or the master does not open one."""
    if not keys:
        raise VaultError("the database holds no root key", "restore it from a backup")
    return {key.generation: await master.unwrap(key.wrapped, bound_to(key.generation)) for key in keys}


def make_seed(vault: Vault, now: int) -> tuple[Secret, SecretRecord, SecretVersion]:
    """A new seed, and the rows it is kept in."""
    seed = new_root()
    record = SecretRecord(id=secrets.token_hex(16), kind=SEED, name=SEED, created=now, changed=now)
    sealed = vault.seal(SEED, record.record, 1, seed)
    return seed, record, SecretVersion(secret=record.id, version=1, state=CURRENT, sealed=sealed, made=now)
