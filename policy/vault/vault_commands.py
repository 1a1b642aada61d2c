"""Commands on the vault as a whole, and on the versions of a secret. None of them shows one."""

import os
import time
from collections.abc import Sequence
from typing import Final

import trio

from policy.authority import Authority
from policy.configuration import BadConfiguration, read_configuration
from policy.conversation import Conversation, State
from policy.keys import sshkeys
from policy.leave.requests import text
from policy.memory import memory_protection
from policy.messages import Done, Rows, VaultRekey, VaultRestore, VaultStatus, VaultUnlock, VaultVersions
from policy.naming import CommandRefused, counted, shown_time
from policy.persons.ownership import tends
from policy.records import SecretRecord, SecretVersion
from policy.rules.rights import Right
from policy.store import Tables
from policy.store.vault_tables import CURRENT, PENDING
from policy.vault.envelope import generation_of
from policy.vault.masters import parse
from policy.vault.masters.passphrase import PassphraseMaster
from policy.vault.secret import Secret

SHOWN: Final = 20
"""Accounts whose change goes on and has trouble; all of them: bastion vault rotations."""
RESTORED: Final = frozenset({"password", "key", "generic"})
"""Kinds of which an earlier version may come into force again."""


async def vault_status(desk: Authority, talk: Conversation, _: VaultStatus) -> Rows:
    if not (desk.has_right(talk, Right.ADMINISTER) or desk.has_right(talk, Right.AUDIT)):
        raise CommandRefused("you may not do this", "ask an administrator of this bastion", code=77)
    await desk.ledger.note(talk.event("view", "vault status"))
    counts = await desk.ledger.walk(lambda t: t.vault.counts())
    vault, keys = desk.vault, await desk.ledger.read(lambda t: t.vault.keys())
    rows = [["master", desk.rekeying.master.kind]]
    rows += [["root key", f"generation {key.generation}, since {shown_time(key.made)}"] for key in keys]
    total = sum(counts.by_generation.values())
    done = counts.by_generation.get(vault.generation, 0)
    going = f"{done} of {total} to generation {vault.generation}" if desk.rekeying.under_way else "no"
    stopped = f"; stopped: {desk.rekeying.stopped}" if desk.rekeying.stopped else ""
    rows.append(["sealed anew now", f"{going}{stopped}"])
    rows += [[f"secrets: {kind}", str(number)] for kind, number in sorted(counts.by_kind.items())]
    rows += [[f"versions: {state}", str(number)] for state, number in sorted(counts.by_state.items())]
    rows += [[f"sealed with generation {one}", str(number)] for one, number in sorted(counts.by_generation.items())]
    if counts.oldest:
        rows.append(["oldest in force", f"{counts.oldest_name}, since {shown_time(counts.oldest)}"])
    changing = await desk.ledger.read(lambda t: t.rotations.open())
    rows.append(["changed on targets now", str(len(changing))])
    rows += [["not changed", f"{one.account}@{one.target}: {one.problem}"] for one in changing[:SHOWN] if one.problem]
    rows.append(["checked out", str(len(await desk.ledger.read(lambda t: t.checkouts.out())))])
    rows.append(["register", counted(len(desk.ledger.register), "row")])
    rows += [[f"memory: {what}", how] for what, how in memory_protection().items()]
    return Rows(columns=["what", "value"], rows=rows)


async def vault_unlock(_: Authority, __: Conversation, ___: VaultUnlock) -> Done:
    """The command that opens a locked vault (`policy.vault.unlocking`), said to a policyd that is not."""
    return Done(text="the vault is open: nothing was changed")


async def vault_rekey(desk: Authority, talk: Conversation, request: VaultRekey) -> Done:
    """Begin to seal everything anew; or, at once, have another master wrap the root keys."""
    why = text(request.reason, "reason")
    if not why:
        raise CommandRefused("say why", "--reason TEXT")
    if request.master:
        return await _rewrap(desk, talk, request, why)
    if desk.rekeying.under_way:
        raise CommandRefused("the vault is being sealed anew already", "see: bastion vault status", code=75)
    detail = {"generation": str(desk.vault.generation + 1)}
    generation = await desk.rekeying.begin(talk.event("vault-rekey", "vault", detail, why=why))
    return Done(
        text=f"everything is sealed anew now, with the root key of generation {generation}: bastion vault status",
        data={"generation": str(generation), "state": "rekeying"},
    )


async def _rewrap(desk: Authority, talk: Conversation, request: VaultRekey, why: str) -> Done:
    """Attack, and accident: a start that finds the root keys wrapped by what bastion.toml does not name. So the file
    says so first, and the running policyd, which has them open, follows it.
    """
    if talk.state is not State.OPERATOR:
        raise CommandRefused("another master is set up on the bastion itself", "bastion vault rekey --master", code=77)
    try:
        config = await trio.to_thread.run_sync(read_configuration, desk.config.path)
    except BadConfiguration as error:
        raise CommandRefused(error.problems[0], "bastion check-config", code=78) from None
    place = config.policy.master_key
    if place == desk.rekeying.place and not request.passphrase:
        raise CommandRefused(
            f"bastion.toml names the master that wraps the root keys already: `{place}`",
            "write the new one as [policy] master_key, then say this again",
        )
    master = parse(place, config.state, os.environ, desk.couriers.http)
    if isinstance(master, PassphraseMaster) and request.passphrase:
        master.supply(Secret(request.passphrase))
    detail = {"before": desk.rekeying.master.kind, "after": master.kind}
    said = await desk.rekeying.rewrap(master, place, talk.event("vault-rewrapped", "vault", detail, why=why))
    if isinstance(master, PassphraseMaster):
        master.forget_passphrase()
    made = "".join(f"; made {line}" for line in said)
    return Done(
        text=f"the root keys are wrapped by `{place}`{made}; old backups still open with the old master: seal anew with"
        " bastion vault rekey",
        data={"master": master.kind, "state": "rewrapped"},
    )


async def vault_versions(desk: Authority, talk: Conversation, request: VaultVersions) -> Rows:
    record, versions = await _of(desk, talk, request.name)
    await desk.ledger.note(talk.event("view", record.name, {"of": "versions"}))
    rows = [
        [str(one.version), one.state, shown_time(one.made), one.made_by, str(generation_of(one.sealed) or "")]
        for one in versions
    ]
    return Rows(columns=["version", "state", "made", "by", "generation"], rows=rows)


async def vault_restore(desk: Authority, talk: Conversation, request: VaultRestore) -> Done:
    """What was in force then stays as the previous version, so this can be taken back the same way."""
    why = text(request.reason, "reason")
    if not why:
        raise CommandRefused("say why", "--reason TEXT")
    record, versions = await _of(desk, talk, request.name)
    found = next((one for one in versions if one.version == request.version), None)
    if record.kind not in RESTORED or found is None:
        raise CommandRefused(
            f"`{record.name}` has no version {request.version} to restore", f"bastion vault versions {record.name}"
        )
    if found.state == CURRENT:
        raise CommandRefused(f"version {found.version} of `{record.name}` is in force already")
    if any(one.state == PENDING for one in versions):
        raise CommandRefused(f"`{record.name}` is being changed at this moment", "wait for its end", code=75)
    opened = await desk.secrets.open(record.id, found.version)  # what does not open is not put in force
    account, at, target = record.name.rpartition("@")
    public = sshkeys.parse_private_key(opened.value.reveal()).public.blob if record.kind == "key" and at else None

    def change(t: Tables) -> None:
        t.vault.promote(record.id, found.version, time.time_ns())
        if public is not None:
            t.set_public(target, account, public)

    event = talk.event("secret-restore", record.name, {"version": str(found.version)}, why=why)
    if at:
        await desk.change_target(target, change, event)
    else:
        await desk.ledger.write(change, event, durable=True)
    return Done(
        text=f"version {found.version} of `{record.name}` is in force again",
        data={"name": record.name, "version": str(found.version)},
    )


async def _of(desk: Authority, talk: Conversation, name: str) -> tuple[SecretRecord, Sequence[SecretVersion]]:
    """A secret and its versions; the same words for one that is not there and one that is not theirs."""

    def query(t: Tables) -> tuple[SecretRecord | None, list[SecretVersion]]:
        record = t.vault.named(name)
        return record, t.vault.versions(record.id) if record else []

    record, versions = await desk.ledger.read(query)
    if record is None or not _may(desk, talk, record):
        raise CommandRefused(f"no secret `{name[:128]}` of yours", "see: bastion vault ls")
    return record, versions


def _may(desk: Authority, talk: Conversation, record: SecretRecord) -> bool:
    if desk.has_right(talk, Right.ADMINISTER):
        return True
    person = desk.speaker(talk)
    mine = person is not None and not person.disabled and record.owner == person.name
    _, at, target = record.name.rpartition("@")
    return mine or (bool(at) and tends(desk, talk, target))
