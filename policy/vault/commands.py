"""Named secrets: kept, changed, listed, viewed, removed. Who may what is `policy.vault.sharing`.

What is changed, and what is viewed, is judged in the transaction that keeps its event: nothing that was taken back
before is seen after. `no such secret` and `not yours` look alike, but that a name is taken cannot be hidden.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import trio

from policy.authority import Authority
from policy.checkout.commands import check_unlimited
from policy.conversation import Conversation, State
from policy.leave.concerned import asker
from policy.leave.requests import text
from policy.messages import (
    Done,
    Refused,
    Revealed,
    Rows,
    SecretAdd,
    SecretList,
    SecretRemove,
    SecretSet,
    SecretShow,
    SecretView,
)
from policy.model import ChannelKind
from policy.naming import CommandRefused, counted, shown_time
from policy.operators import names_behind
from policy.paging import counted_out
from policy.records import Person, SecretRecord, Share
from policy.rules.decide import attainable, decide
from policy.rules.rights import Right
from policy.sessions.access import facts_of
from policy.store import Conflict, Tables
from policy.store.share_tables import KEPT_KINDS
from policy.store.share_tables import LIMIT as PAGE
from policy.store.vault_tables import PENDING
from policy.vault.names import folder_name, folders_of, is_named, meant, secret_name, shown
from policy.vault.secret import Secret, VaultError
from policy.vault.secrets import new_secret, next_version
from policy.vault.sharing import Held, SecretRight, Subject, held, in_force

MAX_VALUE: Final = 60 * 1024
"""Bytes of a secret: with all that is said about it, one message."""
MAX_NOTE: Final = 500
MAX_OWNED: Final = 2000
"""Secrets of one person: more are a program's, and a program's mistake fills no disk."""
ELSEWHERE: Final = "see what there is for you: ssh bastion vault ls"
COLUMNS: Final = ["name", "kind", "owner", "rights", "changed", "note"]


async def secret_add(desk: Authority, talk: Conversation, request: SecretAdd) -> Done:
    name, value = secret_name(request.name), checked_value(request.value)
    if request.kind not in KEPT_KINDS:
        raise CommandRefused(f"kind `{shown(request.kind)}`", f"one of {', '.join(KEPT_KINDS)}")
    owner, why = _owner(desk, talk, request.owner), text(request.reason, "reason")
    note = text(request.note, "note", MAX_NOTE)
    rows = new_secret(desk.vault, request.kind, name, Secret(value), talk.who, owner=owner.name, note=note)

    def change(t: Tables) -> None:
        if len(t.shares.owned_by(owner.name)) >= MAX_OWNED:
            raise CommandRefused(f"`{owner.name}` owns {counted(MAX_OWNED, 'secret')} already", "remove some first")
        # Attack: a folder that its first owner has shared with a friend, for what others will put there.
        lent = [one for one in t.shares.about(folders_of(name)) if in_force(one, time.time_ns())]
        if not request.shared and any(one.made_by != owner.name for one in lent):
            raise CommandRefused(
                f"the folder of `{name}` is shared, so others would have this too", "if they may: --shared", code=77
            )
        t.vault.add_secret(*rows)

    detail = {"kind": request.kind, "owner": owner.name, "shared": "yes" if request.shared else ""}
    try:
        await desk.ledger.write(change, talk.event("secret-add", name, detail, why=why), durable=True)
    except Conflict:
        raise CommandRefused(f"name `{name}` is taken", f"choose another, or: ssh bastion vault set {name}") from None
    return Done(text=f"`{name}` is kept, and {owner.name}'s", data={"name": name, "owner": owner.name})


async def secret_set(desk: Authority, talk: Conversation, request: SecretSet) -> Done:
    name, why = secret_name(request.name), text(request.reason, "reason")
    if request.value is None and request.note is None:
        raise CommandRefused("neither a value nor a note is given", f"ssh bastion vault set {name} < FILE")
    value = None if request.value is None else checked_value(request.value)
    note = None if request.note is None else text(request.note, "note", MAX_NOTE)
    record, newest = await desk.ledger.read(lambda t: _to_change(t, desk, talk, name))
    number = newest + 1
    version = None
    if value is not None:
        version = next_version(desk.vault, record, number, Secret(value), talk.who, state=PENDING)

    def change(t: Tables) -> None:
        found, last = _to_change(t, desk, talk, name)
        if (found.id, last) != (record.id, newest):
            raise CommandRefused(f"`{name}` was changed meanwhile", "look at it, and try again", code=75)
        now = time.time_ns()
        if version is not None:
            t.vault.add_version(version)
            t.vault.promote(found.id, number, now)
        if note is not None:
            t.vault.set_secret(found.id, owner=found.owner, note=note, now=now)

    detail = {"version": str(number) if version else "", "note": "yes" if note is not None else ""}
    await desk.ledger.write(change, talk.event("secret-set", name, detail, why=why), durable=True)
    said = f"version {number} of `{name}` is in force" if version else f"the note of `{name}` is changed"
    return Done(text=said, data={"name": name, "version": str(number if version else newest)})


async def secret_view(desk: Authority, talk: Conversation, request: SecretView) -> Revealed | Refused:
    """Its event is on disk before it leaves."""
    name, why = secret_name(request.name), text(request.reason, "reason")
    if not why:
        raise CommandRefused("a reason is needed: the owner may ask for it", f"vault view {name} --reason why")
    check_unlimited(talk)
    person = asker(desk, talk)

    def check(t: Tables) -> tuple[SecretRecord, int]:
        record, have = seen(t, person.name, name)
        if SecretRight.VIEW not in have or (request.version and record.owner != person.name):
            raise hidden(name)
        version = t.vault.version(record.id, request.version)
        if version is None:
            raise hidden(name)
        return record, version.version

    def check_again(t: Tables) -> None:
        if check(t) != (record, number):
            raise CommandRefused(f"`{name}` was changed meanwhile", "ask again", code=75)

    try:
        record, number = await desk.ledger.read(check)
        opened = await desk.secrets.open(record.id, number)
        detail = {"version": str(number), "as": person.name if person.name != talk.who else ""}
        event = talk.event("secret-view", name, detail, why=why)
        await desk.ledger.write(check_again, event, durable=True)
    except CommandRefused as error:
        return await desk.refuse(
            talk, "secret-view-refused", error.cause, error.cause, error.hint, code=error.code, what=name
        )
    except VaultError as error:
        cause = "the secret cannot be shown"
        return await desk.refuse(talk, "secret-view-refused", error.cause, cause, error.hint, code=78, what=name)
    return Revealed(
        name=name, kind=record.kind, version=number, value=opened.value.reveal(),
        text=f"`{name}`, version {number}, of {shown_time(opened.made)}", data={"owner": record.owner},
    )  # fmt: skip


async def secret_list(desk: Authority, talk: Conversation, request: SecretList) -> Rows:
    """Names for who may at least use them; and what may be checked out."""
    folder = folder_name(request.folder) if request.folder else ""
    every = request.all and (desk.has_right(talk, Right.ADMINISTER) or desk.has_right(talk, Right.AUDIT))
    if request.all and not every:
        raise CommandRefused("all names are not shown to you", ELSEWHERE, code=77)
    if every:
        await desk.ledger.note(talk.event("view", f"secrets {folder}".strip(), {"after": request.after}))
    person = None if every else asker(desk, talk)
    # Two lists in one, so the keys say of which: 0 named, 1 accounts.
    of_names, after = request.after[:1] != "1", request.after[1:]

    def query(t: Tables) -> list[tuple[str, list[str]]]:
        return [(f"0{row[0]}", row) for row in _rows(t, person, folder, after, time.time_ns())]

    rows = await desk.ledger.read(query) if of_names else []
    if not (folder or every or len(rows) > PAGE):
        rows += await _to_check_out(desk, talk, "" if of_names else after)
    return counted_out(COLUMNS, rows, request.limit)


async def secret_show(desk: Authority, talk: Conversation, request: SecretShow) -> Rows:
    name, now = secret_name(request.name), time.time_ns()
    every = desk.has_right(talk, Right.ADMINISTER) or desk.has_right(talk, Right.AUDIT)
    who = names_behind(talk) if every else {asker(desk, talk).name}

    def query(t: Tables) -> tuple[SecretRecord, Held, list[str], int]:
        record, have = max(
            (seen(t, one, name, every=every) for one in sorted(who) or [""]), key=lambda two: len(two[1])
        )
        versions = [
            f"{one.version} {one.state} {shown_time(one.made)} {one.made_by}" for one in t.vault.versions(record.id)
        ]
        return record, have, versions, sum(in_force(one, now) for one in t.shares.about([name, *folders_of(name)]))

    record, have, versions, shares = await desk.ledger.read(query)
    await desk.ledger.note(talk.event("view", f"secret {name}"))
    rows = [["name", name], ["kind", record.kind], ["owner", record.owner], ["note", record.note],
            ["created", shown_time(record.created)], ["changed", shown_time(record.changed)]]  # fmt: skip
    rows += [["your right", f"{right}{_until(have[right])}"] for right in SecretRight if right in have]
    rows += [["version", line] for line in versions]
    if every or SecretRight.SHARE in have:
        rows.append(["shares", str(shares)])
    return Rows(columns=["field", "value"], rows=rows)


async def secret_remove(desk: Authority, talk: Conversation, request: SecretRemove) -> Done:
    """Its owner's to do, or an administrator's; shares of it end with it."""
    name, why, now = secret_name(request.name), text(request.reason, "reason"), time.time_ns()
    administers, mine = desk.has_right(talk, Right.ADMINISTER), names_behind(talk)

    def change(t: Tables) -> None:
        record = t.vault.named(name)
        if record is None or not is_kept(record) or not (administers or record.owner in mine):
            raise hidden(name)
        if record.owner not in mine and not why:
            raise CommandRefused(f"`{name}` is {record.owner}'s", "say why: --reason why")
        t.vault.remove_secret(record.id)
        for one in t.shares.about([name]):
            t.shares.end(one.id, talk.who, now)

    await desk.ledger.write(change, talk.event("secret-remove", name, why=why), durable=True)
    return Done(text=f"`{name}` and all of its versions are gone", data={"name": name})


# --- who sees what ----------------------------------------------------------------------------------


def seen(t: Tables, person: str, name: str, *, every: bool = False) -> tuple[SecretRecord, Held]:
    """A secret, and what this person has of it now. CommandRefused if that is nothing, unless `every`one's is meant."""
    record, subject = t.vault.named(name), subject_of(t, person)
    if record is not None and is_kept(record):
        have = (
            held(subject, t.shares.about([name, *folders_of(name)]), record.owner, name, time.time_ns())
            if subject
            else {}
        )
        if have or every:
            return record, have
    raise hidden(name, _known(t, subject))


def subject_of(t: Tables, person: str) -> Subject | None:
    """With the roles of now; None for who is disabled or nobody."""
    found = next(iter(t.persons(person)), None)
    return Subject(name=found.name, roles=found.roles) if found is not None and not found.disabled else None


def is_kept(record: SecretRecord) -> bool:
    """Whether it is one of those that people keep: the vault's own have other words."""
    return record.kind in KEPT_KINDS and is_named(record.name)


def hidden(name: str, known: list[str] | None = None) -> CommandRefused:
    """The same words for a secret that is not there and one that is not theirs."""
    return CommandRefused(f"no secret `{shown(name)}` for you{meant(name, known or [])}", ELSEWHERE, code=77)


def checked_owner(desk: Authority, name: str) -> Person:
    person = desk.roster.person(name)
    if person is None or person.disabled:
        raise CommandRefused(f"no person `{shown(name)}` who could own it", "see `bastion person list`")
    return person


def checked_value(value: bytes) -> bytes:
    if not 0 < len(value) <= MAX_VALUE:
        raise CommandRefused(f"a secret of {counted(len(value), 'byte')}, want 1 to {MAX_VALUE}")
    return value


# --- how --------------------------------------------------------------------------------------------


def _known(t: Tables, subject: Subject | None) -> list[str]:
    """Names that the subject may know, of the first many."""
    if subject is None:
        return []
    mine = t.shares.with_subject(subject.kind, subject.name, subject.roles)
    return [record.name for record, have in _with_rights(t.shares.named(), mine, subject, time.time_ns()) if have]


def _rows(t: Tables, person: Person | None, folder: str, after: str, now: int) -> Iterator[list[str]]:
    """Of one person, or (None) of everybody; enough for one page."""
    subject = subject_of(t, person.name) if person else None
    if person is not None and subject is None:
        return
    mine = t.shares.with_subject(subject.kind, subject.name, subject.roles) if subject else []
    found = 0
    while (page := t.shares.named(folder, after=after)) and found <= PAGE:
        after = page[-1].name
        for record, have in _with_rights(page, mine, subject, now):
            if subject is None or have:
                found += 1
                rights = " ".join(right for right in SecretRight if right in have)
                yield [record.name, record.kind, record.owner, rights, shown_time(record.changed), record.note]


def _with_rights(
    records: list[SecretRecord], shares: list[Share], subject: Subject | None, now: int
) -> Iterator[tuple[SecretRecord, Held]]:
    by_scope: dict[str, list[Share]] = defaultdict(list)
    for share in shares:
        by_scope[share.scope].append(share)
    for record in records:
        if not is_kept(record):
            continue
        about = [one for scope in (record.name, *folders_of(record.name)) for one in by_scope.get(scope, ())]
        yield record, held(subject, about, record.owner, record.name, now) if subject else {}


async def _to_check_out(desk: Authority, talk: Conversation, after: str) -> list[tuple[str, list[str]]]:
    """Accounts whose password this person could have, now or with something in hand."""
    if talk.state is not State.PERSON:
        return []
    rows = []
    for count, account in enumerate(desk.roster.accounts()):
        if count % 64 == 63:
            await trio.lowlevel.checkpoint()  # a thousand decisions take a while; others are served in between
        if account.kind != "password":
            continue
        facts = facts_of(desk, talk, account.name, account.target, ChannelKind.CHECKOUT)
        if attainable(decide(desk.rules, facts)):
            place = f"{account.name}@{account.target}"
            out = desk.checkouts.at(account.name, account.target)
            note = f"out to {out.person} until {shown_time(out.ends)}" if out else ""
            rows.append((f"1{place}", [place, account.kind, "", "checkout", "", note]))
    return [row for row in sorted(rows) if row[0][1:] > after]


def _to_change(t: Tables, desk: Authority, talk: Conversation, name: str) -> tuple[SecretRecord, int]:
    """A secret whose value is this speaker's to change, and the number of its newest version."""
    record = t.vault.named(name)
    # An operator on this machine keeps secrets for people, and gains none by it; the right to administer is not enough.
    if (
        record is None
        or not is_kept(record)
        or not (record.owner in names_behind(talk) or talk.state is State.OPERATOR)
    ):
        raise hidden(name)
    return record, max(one.version for one in t.vault.versions(record.id))


def _owner(desk: Authority, talk: Conversation, name: str) -> Person:
    if not name:
        try:
            return asker(desk, talk)
        except CommandRefused:
            raise CommandRefused("an operator is no person, and a secret is somebody's", "--owner NAME") from None
    if talk.state is not State.OPERATOR and name != talk.person:
        raise CommandRefused("what you add is yours", "hand it on then: ssh bastion vault chown NAME PERSON", code=77)
    return checked_owner(desk, name)


def _until(end: float) -> str:
    return "" if end == float("inf") else f" until {shown_time(int(end))}"
