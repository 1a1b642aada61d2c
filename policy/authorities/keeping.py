"""Authorities in the vault: opened when policyd starts, and put there."""

from typing import Final

from policy.authorities.life import SECRETS, Authorities, Ca, Stage, Use
from policy.keys import sshkeys
from policy.keys.sshkeys import PrivateKey, PublicKey
from policy.keys.sshwire import BadKey
from policy.records import SecretVersion
from policy.store import Tables
from policy.store.vault_tables import CURRENT, PENDING, PREVIOUS, RETIRED
from policy.vault.envelope import Vault
from policy.vault.secret import Secret, VaultError
from policy.vault.secrets import new_secret, next_version

CA: Final = "ca"
"""Kind of secret."""
STAGES: Final = {
    PENDING: Stage.NEXT, CURRENT: Stage.CURRENT, PREVIOUS: Stage.RETIRING, RETIRED: Stage.RETIRED,
}  # fmt: skip


def load(tables: Tables, vault: Vault) -> Authorities:
    """All of them. VaultError if one of each use that signs is not there, or one does not open."""
    times = {(secret, version): (since, until) for secret, version, since, until in tables.authorities.times()}
    found: list[Ca] = []
    for use, name in SECRETS.items():
        record = tables.vault.named(name)
        versions = tables.vault.versions(record.id) if record is not None else []
        if record is None or [one.state for one in versions].count(CURRENT) != 1:
            raise VaultError(f"{name} is missing from the database", "restore it from a backup")
        for one in versions:
            since, until = times.get((record.id, one.version), (None, None))
            stage = STAGES[one.state]
            public, key = _keys(name, stage, vault.open(CA, record.record, one.version, one.sealed))
            found.append(
                Ca(
                    use=use, number=one.version, stage=stage, made=one.made, since=since, until=until,
                    public=public, key=key,
                )
            )  # fmt: skip
    return Authorities(tuple(found))


def make_first(tables: Tables, vault: Vault, now: int) -> list[str]:
    """Both authorities of a new bastion; what they are, in words."""
    said = []
    for name in SECRETS.values():
        key = sshkeys.generate_private_key()
        record, version = new_secret(vault, CA, name, _sealable(key), "init")
        tables.vault.add_secret(record, version)
        tables.authorities.signs(record.id, version.version, now)
        said.append(f"{name} {key.public.fingerprint}")
    return said


def make_next(tables: Tables, vault: Vault, use: Use, number: int, key: PrivateKey, by: str) -> str:
    """One more, that signs nothing yet; the id of its secret. KeyError if there is no secret of that use."""
    record = tables.vault.named(SECRETS[use])
    if record is None:
        raise KeyError(SECRETS[use])
    version: SecretVersion = next_version(vault, record, number, _sealable(key), by, state=PENDING)
    tables.vault.add_version(version)
    return record.id


def end(tables: Tables, vault: Vault, ca: Ca) -> str:
    """Retire it; the id of its secret. In the place of its private key the public one is sealed from now on."""
    record = tables.vault.named(SECRETS[ca.use])
    if record is None:
        raise KeyError(SECRETS[ca.use])
    tables.vault.retire(record.id, ca.number)
    retired = next(one for one in tables.vault.versions(record.id) if one.version == ca.number)
    # Attack: whoever opens the vault one day certifies for every target that was never told of the end.
    tables.vault.reseal(retired, vault.seal(CA, record.record, ca.number, Secret(ca.public.blob)))
    return record.id


def _sealable(key: PrivateKey) -> Secret:
    return Secret(sshkeys.write_private_key(key))


def _keys(name: str, stage: Stage, secret: Secret) -> tuple[PublicKey, PrivateKey | None]:
    try:
        if stage is Stage.RETIRED:
            return sshkeys.parse_public_key(secret.reveal()), None
        key = sshkeys.parse_private_key(secret.reveal())
        return key.public, key
    except BadKey:
        raise VaultError(f"{name} is no key", "restore the database from a backup") from None
