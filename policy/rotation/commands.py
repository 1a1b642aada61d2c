"""Commands on rotations, for administrators and for owners of the targets."""

import time
from collections.abc import Iterator
from typing import Final

from policy.authority import Authority
from policy.conversation import Conversation
from policy.leave.requests import text
from policy.messages import Rotate, RotationList, RotationPlan, Rows
from policy.naming import CommandRefused, counted, shown_time
from policy.paging import counted_out, paged
from policy.persons.ownership import check_tends, tended
from policy.records import RotationRow
from policy.rotation.runner import Runner
from policy.rotation.schedule import USER_CA, Place, due_at, entry_for, next_try, unfit
from policy.rules.rights import Right
from policy.targets.estate import the_target

AT_A_TIME: Final = 200
"""Accounts or ids of one message."""
NO_ENTRY: Final = "no [[rotation]] entry is about it"

_COLUMNS: Final = [
    "rotation", "account", "target", "state", "problem", "tries", "next try", "entry", "why", "asked by", "began",
    "ended",
]  # fmt: skip


async def rotation_plan(desk: Authority, talk: Conversation, request: RotationPlan) -> Rows:
    wanted = _places(request.places)
    targets = {target for _, target in wanted}
    seen = [one for one in tended(desk, talk, desk.roster.targets()) if not wanted or one.name in targets]
    seen = [one for one in seen if request.labels.items() <= one.labels.items()]
    made = await desk.ledger.read(lambda t: t.rotations.made())
    await desk.ledger.note(talk.event("view", "rotations", {"after": request.after}))

    def rows() -> Iterator[tuple[str, list[str]]]:
        for target in seen:
            if target.name < request.after.partition(" ")[0]:
                continue
            accounts = desk.roster.accounts(target.name)
            for account in accounts:
                if wanted and (account.name, target.name) not in wanted:
                    continue
                place = Place(account=account, target=target)
                entry = entry_for(desk.rules.rotation, place)
                if entry is None and not wanted:
                    continue  # of all accounts, those are shown that change
                when = made.get(place.key)
                due = due_at(entry, place, when) if entry is not None and when is not None else None
                problem = _problem(place) if entry is None else unfit(entry, place, accounts)
                if (taken := desk.checkouts.at(account.name, target.name)) is not None:
                    problem = problem or f"checked out by {taken.person}"
                row = [
                    account.name, target.name, entry.name if entry else "", entry.driver if entry else "",
                    (entry.via or account.name) if entry else "", shown_time(when), shown_time(due), problem,
                ]  # fmt: skip
                yield f"{target.name} {account.name}", row

    columns = ["account", "target", "entry", "driver", "changed by", "last changed", "due", "problem"]
    return paged(columns, rows(), request.after, request.limit)


async def rotate(desk: Authority, talk: Conversation, request: Rotate) -> Rows:
    wanted = _places(request.places)
    if not wanted:
        raise CommandRefused("no account is named", "name some: `bastion vault rotate ACCOUNT@TARGET`")
    why = text(request.reason, "reason")
    for account, target in wanted:
        check_tends(desk, talk, target)
        one = desk.roster.account(the_target(desk, target).name, account)
        if one is None:
            raise CommandRefused(f"no account `{account}@{target}`", "see `bastion account list`")
        there = desk.roster.target(target)
        assert there is not None, "it was found above"
        place = Place(account=one, target=there)
        entry = entry_for(desk.rules.rotation, place)
        problem = _problem(place) if entry is None else unfit(entry, place, desk.roster.accounts(target))
        if (taken := desk.checkouts.at(account, target)) is not None:
            raise CommandRefused(
                f"`{account}@{target}` is checked out by {taken.person}, and is changed when it comes back",
                f"have it brought back: bastion vault checkin {account}@{target} --force", code=75,
            )  # fmt: skip
        if problem:
            raise CommandRefused(
                f"`{account}@{target}` cannot be changed: {problem}",
                "write an entry into policy.toml (VAULT.md, Rotation), then `bastion policy reload`", code=78,
            )  # fmt: skip
    rows = await _runner(desk).want(wanted, why or "asked for", talk.who, source=talk.source)
    return Rows(
        columns=["rotation", "account", "target", "state", "tries"],
        rows=[[row.id, row.account, row.target, row.state, str(row.attempts)] for row in rows],
    )


async def rotation_list(desk: Authority, talk: Conversation, request: RotationList) -> Rows:
    if len(request.ids) > AT_A_TIME:
        raise CommandRefused(f"{counted(len(request.ids), 'id')}, at most {AT_A_TIME}")
    mine = {one.name for one in tended(desk, talk, desk.roster.targets())}
    at = _at(request.after)
    place = next(iter(_places([request.place])), None) if request.place else None
    if request.ids:
        found = await desk.ledger.read(lambda t: t.rotations.by_id(request.ids))
    else:
        found = await desk.ledger.read(
            lambda t: t.rotations.newest(
                after=at, ended=request.all, place=(place[1], place[0]) if place is not None else None
            )
        )
        await desk.ledger.note(talk.event("view", "rotations", {"after": request.after}))
    everything = desk.has_right(talk, Right.ADMINISTER)
    shown = ((f"{one.began} {one.id}", _row(one)) for one in found if everything or one.target in mine)
    return counted_out(_COLUMNS, shown, request.limit)


def _row(one: RotationRow) -> list[str]:
    later = next_try(one) if one.ended is None and one.attempts else None
    return [
        one.id, one.account, one.target, one.state, one.problem, str(one.attempts),
        shown_time(later) if later is not None and later > time.time_ns() else "", one.rule, one.why, one.made_by,
        shown_time(one.began), shown_time(one.ended),
    ]  # fmt: skip


def _places(words: list[str]) -> list[tuple[str, str]]:
    """(account, target) of ACCOUNT@TARGET; whether there is one is not looked at."""
    if len(words) > AT_A_TIME:
        raise CommandRefused(f"{counted(len(words), 'account')}, at most {AT_A_TIME} at a time")
    found = []
    for word in words:
        account, at, target = word.rpartition("@")
        if not (account and at and target):
            raise CommandRefused("an account is written ACCOUNT@TARGET", "see `bastion account list`")
        found.append((account, target))
    return found


def _at(after: str) -> tuple[int, str] | None:
    began, _, ident = after.partition(" ")
    if not after:
        return None
    if not began.isdecimal() or len(began) > 20:
        raise CommandRefused("a page begins after a row that was shown before")
    return int(began), ident


def _problem(place: Place) -> str:
    return (
        "certificates of the user CA open it: there is nothing to change"
        if place.account.kind == USER_CA
        else (NO_ENTRY)
    )


def _runner(desk: Authority) -> Runner:
    if not isinstance(desk.rotations, Runner):
        raise CommandRefused("nothing is changed on targets here", code=78)
    return desk.rotations
