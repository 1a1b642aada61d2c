"""What is lent to whom, taken back, and handed on to another owner. The rules of it are `policy.vault.sharing`.

Each is judged in the transaction that makes it, by the roles and shares of that moment.
"""

import time
from typing import Final

from policy import naming
from policy.authority import Authority
from policy.conversation import Conversation
from policy.leave.concerned import asker
from policy.leave.deciding import new_id
from policy.leave.requests import MAX_SECONDS, SECOND, text
from policy.messages import Done, Rows, SecretChown, SecretShare, SecretShares, SecretUnshare
from policy.naming import CommandRefused, counted, shown_time
from policy.operators import names_behind
from policy.paging import counted_out
from policy.persons.ownership import check_tends, tends
from policy.persons.safeguards import DENIED, not_for_oneself
from policy.records import Share
from policy.rules.rights import Right
from policy.sessions.words import printable
from policy.store import Tables
from policy.vault.commands import checked_owner, hidden, is_kept, seen, subject_of
from policy.vault.names import Scope, ScopeKind, folders_of, scope, scope_of, secret_name, shown
from policy.vault.sharing import (
    APPLICATION,
    EVERYTHING,
    PERSON,
    ROLE,
    Held,
    SecretRight,
    check_account_share,
    given_on,
    held,
    in_force,
    is_for,
    parse_rights,
    parse_subject,
    passed_on,
    subject_text,
)

MAX_SHARES: Final = 200
"""Of one scope: who wants more means a role."""
COLUMNS: Final = ["share", "state", "scope", "with", "rights", "made by", "made", "expires", "reason"]
NO_SHARE: Final = "see: ssh bastion vault shares"


async def secret_share(desk: Authority, talk: Conversation, request: SecretShare) -> Done:
    about, rights = scope(request.scope), parse_rights(request.rights)
    kind, name = parse_subject(request.subject)
    why, now = text(request.reason, "reason"), time.time_ns()
    if not 0 <= request.seconds <= MAX_SECONDS:
        raise CommandRefused(f"{counted(request.seconds, 'second')}, want 1 to {MAX_SECONDS}, or 0 for no end")
    until = now + request.seconds * SECOND if request.seconds else None
    of_account = about.kind is ScopeKind.ACCOUNT
    if of_account:
        check_tends(desk, talk, about.place[1])
        check_account_share(kind, rights)
        if desk.roster.account(about.place[1], about.place[0]) is None:
            raise CommandRefused(f"no account `{shown(about.text)}`", "see `bastion account list`")
    giver = talk.who if of_account else asker(desk, talk).name
    ident = new_id("s")

    def change(t: Tables) -> Share:
        # Who looks after a target may have its passwords used, and views none.
        have = EVERYTHING if of_account else _to_give(t, giver, about)
        end = given_on(have, rights, until, now)
        views = SecretRight.VIEW in have and not of_account
        _check_subject(t, talk, kind, name, views=views)
        if sum(in_force(one, now) for one in t.shares.about([about.text])) >= MAX_SHARES:
            raise CommandRefused(f"`{about.text}` is shared {MAX_SHARES} times already", "share it with a role")
        share = Share(
            id=ident, scope=about.text, subject_kind=kind, subject=name, rights=" ".join(sorted(rights)), made=now,
            made_by=giver, reason=why, expires=end,
        )  # fmt: skip
        t.shares.add(share)
        return share

    detail = {"share": ident, "with": f"{kind} {name}", "rights": " ".join(sorted(rights)),
              "seconds": str(request.seconds or "")}  # fmt: skip
    share = await desk.ledger.write(change, talk.event("secret-share", about.text, detail, why=why), durable=True)
    end = f" until {shown_time(share.expires)}" if share.expires else ""
    return Done(
        text=f"{subject_text(share)} may {' and '.join(share.rights.split())} `{share.scope}`{end} ({share.id})",
        data={"share": share.id, "expires": shown_time(share.expires)},
    )


async def secret_unshare(desk: Authority, talk: Conversation, request: SecretUnshare) -> Done:
    """By who gave it, who has it, who could give it, and administrators: to take away gives nobody anything."""
    why, now = text(request.reason, "reason"), time.time_ns()
    roles = {one.name: one.roles for one in desk.roster.persons() if not one.disabled}

    def query(t: Tables) -> list[Share]:
        found = t.shares.share(request.share[:16])
        if found is None or not in_force(found, now) or not _may_end(t, desk, talk, found):
            raise CommandRefused(f"no share `{printable(request.share)}` for you to end", NO_SHARE, code=77)
        standing = t.shares.all()
        # What lies beside it rests on something else, whoever owns that.
        about = [one for one in standing if _overlap(one, found)]
        owners = {one.scope: _owner(t, one.scope) for one in about}
        return [found, *passed_on(found, about, owners, roles, now)]

    gone = await desk.ledger.read(query)

    def change(t: Tables) -> None:
        if [one.id for one in query(t)] != [one.id for one in gone]:
            raise CommandRefused("what is shared was changed meanwhile", "try again", code=75)
        for one in gone:
            t.shares.end(one.id, talk.who, now)

    events = [
        talk.event("secret-unshare", one.scope, {"share": one.id, "with": f"{one.subject_kind} {one.subject}"},
                   why=why if number == 0 else f"passed on from {gone[0].id}")
        for number, one in enumerate(gone)
    ]  # fmt: skip
    await desk.ledger.write(change, *events, durable=True)
    more = f"; {counted(len(gone) - 1, 'share')} that came of it too" if len(gone) > 1 else ""
    return Done(
        text=f"{subject_text(gone[0])} has `{gone[0].scope}` by `{gone[0].id}` no more{more}",
        data={"share": gone[0].id, "passed_on": " ".join(one.id for one in gone[1:])},
    )


async def secret_shares(desk: Authority, talk: Conversation, request: SecretShares) -> Rows:
    about = scope(request.scope) if request.scope else None
    every = desk.has_right(talk, Right.ADMINISTER) or desk.has_right(talk, Right.AUDIT)
    mine, now = names_behind(talk), time.time_ns()
    if every:
        await desk.ledger.note(talk.event("view", f"shares {request.scope}".strip(), {"after": request.after}))

    def query(t: Tables) -> list[Share]:
        found = [one for one in t.shares.all(ended=request.all) if request.all or in_force(one, now)]
        if about is not None:
            wanted = {about.text, *(folders_of(about.text) if about.kind is not ScopeKind.ACCOUNT else ())}
            found = [one for one in found if one.scope in wanted or about.covers(one.scope)]
        return [one for one in found if every or one.made_by in mine or _concerns(t, mine, one)]

    found = await desk.ledger.read(query)
    rows = [(one.id, _row(one, now)) for one in reversed(found)]
    keys = [key for key, _ in rows]
    start = keys.index(request.after) + 1 if request.after in keys else 0
    return counted_out(COLUMNS, rows[start:], request.limit)


async def secret_chown(desk: Authority, talk: Conversation, request: SecretChown) -> Done:
    """To another: by its owner, or by an administrator for a reason, of which everybody is told who hears of alarms."""
    name, why, now = secret_name(request.name), text(request.reason, "reason"), time.time_ns()
    mine, administers = names_behind(talk), desk.has_right(talk, Right.ADMINISTER)

    def query(t: Tables) -> str:
        record = t.vault.named(name)
        if record is None or not is_kept(record) or not (record.owner in mine or administers):
            raise hidden(name)
        return record.owner

    before = await desk.ledger.read(query)
    heir = checked_owner(desk, request.owner)
    if heir.name == before:
        raise CommandRefused(f"`{name}` is {before}'s already")
    if before not in mine:
        # Attack: an administrator, who may view nothing, makes themselves the owner of everything.
        not_for_oneself(talk.person, heir.name, "a secret")
        if heir.name in mine:
            raise CommandRefused("nobody gives a secret to themselves", "ask another administrator", code=DENIED)
        if not why:
            raise CommandRefused(f"`{name}` is {before}'s", "say why it is to be another's: --reason why")

    def change(t: Tables) -> None:
        if query(t) != before or (record := t.vault.named(name)) is None:
            raise CommandRefused(f"`{name}` was changed meanwhile", "try again", code=75)
        t.vault.set_secret(record.id, owner=heir.name, note=record.note, now=now)

    by_right = "" if before in mine else "administer"
    event = talk.event(
        "secret-chown" if before in mine else "secret-taken", name,
        {"owner before": before, "owner after": heir.name, "by right": by_right}, why=why,
    )  # fmt: skip
    await desk.ledger.write(change, event, durable=True)
    return Done(text=f"`{name}` is {heir.name}'s", data={"name": name, "owner": heir.name, "owner_before": before})


# --- how --------------------------------------------------------------------------------------------


def _to_give(t: Tables, giver: str, about: Scope) -> Held:
    """What the giver has of what they would give. CommandRefused in the words for what is not there, if nothing."""
    if about.kind is ScopeKind.SECRET:
        return seen(t, giver, about.text)[1]
    if t.shares.owners_of(about.text) == {giver}:
        return EVERYTHING
    subject = subject_of(t, giver)
    have = held(subject, t.shares.about(folders_of(about.text)), "", about.text, time.time_ns()) if subject else {}
    if not have:
        raise CommandRefused(
            f"no folder `{shown(about.text)}` that is yours alone, or shared with you", "share its secrets one by one",
            code=77,
        )  # fmt: skip
    return have


def _check_subject(t: Tables, talk: Conversation, kind: str, name: str, *, views: bool) -> None:
    mine = names_behind(talk)
    if kind == PERSON:
        if name in mine:
            raise CommandRefused("nobody shares with themselves", "ask its owner", code=77)
        if subject_of(t, name) is None:
            raise CommandRefused(f"no person `{shown(name)}` who could have it", "see `bastion person list`")
    elif kind == ROLE:
        naming.role_name(name)
    elif kind == APPLICATION:
        found = t.shares.application(name)
        if found is None or found[1]:
            raise CommandRefused(f"no application `{shown(name)}`", "see `bastion application list`")
        # Attack: who may use a secret, and not see it, gives it to an application of their own, which is told it.
        if found[0] in mine and not views:
            raise CommandRefused("what you may not view is not for applications of your own", "ask its owner", code=77)


def _may_end(t: Tables, desk: Authority, talk: Conversation, share: Share) -> bool:
    mine, about = names_behind(talk), scope_of(share.scope)
    if share.made_by in mine or desk.has_right(talk, Right.ADMINISTER):
        return True
    if (share.subject_kind == PERSON and share.subject in mine) or (
        about.kind is ScopeKind.ACCOUNT and tends(desk, talk, about.place[1])
    ):
        return True
    return about.kind is not ScopeKind.ACCOUNT and any(SecretRight.SHARE in _held(t, one, share.scope) for one in mine)


def _concerns(t: Tables, mine: frozenset[str], share: Share) -> bool:
    """Whether it is with one of them, or of what they share."""
    subjects = [one for one in (subject_of(t, name) for name in mine) if one is not None]
    if any(is_for(share, one) for one in subjects):
        return True
    return any(SecretRight.SHARE in _held(t, one.name, share.scope) for one in subjects)


def _held(t: Tables, person: str, text: str) -> Held:
    """What a person has of a secret or a folder."""
    if (subject := subject_of(t, person)) is None:
        return {}
    owner = _owner(t, text)
    return held(subject, t.shares.about([text, *folders_of(text)]), owner, text, time.time_ns())


def _overlap(one: Share, other: Share) -> bool:
    return scope_of(one.scope).covers(other.scope) or scope_of(other.scope).covers(one.scope)


def _owner(t: Tables, text: str) -> str:
    """Of a secret, or the one who owns all that lies in a folder; "" for nobody."""
    if text.endswith("/"):
        owners = t.shares.owners_of(text)
        return next(iter(owners)) if len(owners) == 1 else ""
    record = t.vault.named(text)
    return record.owner if record is not None and is_kept(record) else ""


def _row(one: Share, now: int) -> list[str]:
    state = "active" if in_force(one, now) else f"ended by {one.ended_by}" if one.ended is not None else "over"
    return [
        one.id, state, one.scope, subject_text(one), one.rights, one.made_by, shown_time(one.made),
        shown_time(one.expires), one.reason,
    ]  # fmt: skip
