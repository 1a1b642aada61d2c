"""Who could come to a target, and what a person could come to: `foresight` over what is in the roster now."""

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from policy.authority import Authority
from policy.conversation import Conversation
from policy.messages import Rows, WhatCan, WhoCan
from policy.model import ChannelKind
from policy.naming import CommandRefused
from policy.paging import paged
from policy.rules import foresight
from policy.rules.foresight import Place, Reach, Subject
from policy.rules.ruleset import RuleSet

MAX_WAYS: Final = 240  # characters of one row's ways; the rest is what `bastion policy explain` is for


async def who_can(desk: Authority, talk: Conversation, request: WhoCan) -> Rows:
    target = desk.roster.target(request.target)
    if target is None:
        raise CommandRefused(f"no target `{request.target[:64]}`", "see `bastion target list`")
    accounts = [one for one in desk.roster.accounts(target.name) if request.account in ("", one.name)]
    if not accounts:
        raise CommandRefused(f"`{target.name}` has no such account", f"see `bastion account list {target.name}`")
    places = [Place(account=one.name, target=target.name, labels=target.labels) for one in accounts]
    first = request.after.partition(" ")[0]  # earlier persons were on earlier pages
    subjects = [Subject(one.name, one.roles) for one in desk.roster.persons() if not one.disabled and one.name >= first]
    await _note_view(desk, talk, f"who can come to {target.name}", more=bool(request.after))
    return await _page(
        desk.rules, subjects, places, request.channel, request.after, ["person", "account", "channels", "by"],
        lambda subject, place: (subject.person, place.account),
    )  # fmt: skip


async def what_can(desk: Authority, talk: Conversation, request: WhatCan) -> Rows:
    person = desk.roster.person(request.person)
    if person is None:
        raise CommandRefused(f"no person `{request.person[:64]}`", "see `bastion person list`")
    targets = {target.name: target for target in desk.roster.targets()}
    first = request.after.partition(" ")[0]  # earlier targets were on earlier pages
    places = [
        Place(account=one.name, target=one.target, labels=targets[one.target].labels)
        for one in desk.roster.accounts()
        if one.target in targets and one.target >= first
    ]
    await _note_view(desk, talk, f"what {person.name} can come to", more=bool(request.after))
    subjects = [] if person.disabled else [Subject(person.name, person.roles)]
    rows = await _page(
        desk.rules, subjects, places, request.channel, request.after, ["target", "account", "channels", "by"],
        lambda _, place: (place.target, place.account),
    )  # fmt: skip
    return msgspec.structs.replace(rows, note=f"`{person.name}` is disabled") if person.disabled else rows


async def _note_view(desk: Authority, talk: Conversation, what: str, *, more: bool) -> None:
    """Once for all pages of a list. Attack: to ask for its later pages alone, and be in no trail."""
    if not more or talk.listed != what:
        await desk.ledger.note(talk.event("view", what))
        talk.listed = what


async def _page(
    rules: RuleSet, subjects: list[Subject], places: list[Place], channel: str, after: str,
    columns: list[str], key: Callable[[Subject, Place], tuple[str, str]],
) -> Rows:  # fmt: skip
    """In the order of `key`; worked out in a thread, since ten thousand targets are some tenths of a second."""
    try:
        kind = ChannelKind(channel) if channel else None
    except ValueError:
        raise CommandRefused(f"no channel `{channel[:32]}`", f"one of {', '.join(ChannelKind)}") from None

    def work() -> Rows:
        rows = (
            (" ".join(names), [*names, *_shown(ways)])
            for subject, place, ways in foresight.who_can(rules, subjects, places, kind)
            for names in [key(subject, place)]
        )
        return paged(columns, rows, after)

    return await trio.to_thread.run_sync(work)


def _shown(reach: Reach) -> tuple[str, str]:
    """Channels, and the ways to them: those with the same ways are named together where they differ."""
    kinds = [kind for kind in ChannelKind if kind in reach]
    groups: dict[str, list[str]] = {}
    for kind in kinds:
        groups.setdefault("; ".join(map(str, sorted(reach[kind]))), []).append(kind)
    if len(groups) == 1:
        ways = next(iter(groups))
    else:
        ways = "; ".join(f"{' '.join(group)} by {way}" for way, group in groups.items())
    return " ".join(kinds), ways if len(ways) <= MAX_WAYS else f"{ways[: MAX_WAYS - 1]}…"
