"""Who could come to a target, and what a person could come to: `policy.foresight` over what is in the roster now."""

from collections.abc import Callable
from itertools import islice
from typing import Final

import trio

from policy import foresight
from policy.authority import Authority
from policy.conversation import Conversation
from policy.foresight import Place, Reach, Subject
from policy.messages import Rows, WhatCan, WhoCan
from policy.model import ChannelKind
from policy.naming import CommandRefused
from policy.rules import RuleSet

PAGE: Final = 200
"""Rows of one answer: at most some 300 bytes each, so that they fit a message."""
MAX_WAYS: Final = 240  # characters of one row's ways; the rest is what `bastion policy explain` is for


async def who_can(desk: Authority, talk: Conversation, request: WhoCan) -> Rows:
    target = desk.roster.target(request.target)
    if target is None:
        raise CommandRefused(f"no target `{request.target[:64]}`", "see `bastion target list`")
    accounts = [one for one in desk.roster.accounts(target.name) if request.account in ("", one.name)]
    if not accounts:
        raise CommandRefused(f"`{target.name}` has no such account", f"see `bastion account list {target.name}`")
    places = [Place(account=one.name, target=target.name, labels=target.labels) for one in accounts]
    subjects = [Subject(one.name, one.roles) for one in desk.roster.persons() if not one.disabled]
    await desk.ledger.note(talk.event("view", f"who can come to {target.name}"))
    rows = await _page(
        desk.rules, subjects, places, request.channel, request.after,
        lambda subject, place: (subject.person, place.account),
    )  # fmt: skip
    return Rows(columns=["person", "account", "channels", "by"], rows=rows, next=_next(rows))


async def what_can(desk: Authority, talk: Conversation, request: WhatCan) -> Rows:
    person = desk.roster.person(request.person)
    if person is None:
        raise CommandRefused(f"no person `{request.person[:64]}`", "see `bastion person list`")
    targets = {target.name: target for target in desk.roster.targets()}
    places = [
        Place(account=one.name, target=one.target, labels=targets[one.target].labels)
        for one in desk.roster.accounts()
        if one.target in targets
    ]
    await desk.ledger.note(talk.event("view", f"what {person.name} can come to"))
    subjects = [] if person.disabled else [Subject(person.name, person.roles)]
    rows = await _page(
        desk.rules, subjects, places, request.channel, request.after,
        lambda _, place: (place.target, place.account),
    )  # fmt: skip
    note = f"`{person.name}` is disabled" if person.disabled else ""
    return Rows(columns=["target", "account", "channels", "by"], rows=rows, note=note, next=_next(rows))


async def _page(
    rules: RuleSet, subjects: list[Subject], places: list[Place], channel: str, after: str,
    key: Callable[[Subject, Place], tuple[str, str]],
) -> list[list[str]]:  # fmt: skip
    """In the order of `key`; worked out in a thread, since ten thousand targets are some tenths of a second."""
    try:
        kind = ChannelKind(channel) if channel else None
    except ValueError:
        raise CommandRefused(f"no channel `{channel[:32]}`", f"one of {', '.join(ChannelKind)}") from None
    first, _, second = after.partition(" ")

    def work() -> list[list[str]]:
        found = foresight.who_can(rules, subjects, places, kind)
        later = ((key(subject, place), ways) for subject, place, ways in found)
        return [
            [*names, *_shown(ways)] for names, ways in islice((one for one in later if one[0] > (first, second)), PAGE)
        ]

    return await trio.to_thread.run_sync(work)


def _next(rows: list[list[str]]) -> str:
    return " ".join(rows[-1][:2]) if len(rows) == PAGE else ""


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
