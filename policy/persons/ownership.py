"""Owners: persons to whom some targets are delegated. They need no right to administer, and see nothing beside them.

A scope is a target, `label=value`, or `*`. Within it an owner adds and removes accounts, pins host keys, gives grants,
and is `$owner` where a rule's approval says so. Addresses and labels are not theirs to change: labels decide which
rules, and which owners, a target has.
"""

from policy.authority import Authority
from policy.conversation import Conversation
from policy.leave.requests import owns, text
from policy.messages import Done, OwnerAdd, OwnerList, OwnerRemove, Rows
from policy.naming import CommandRefused, labels, target_name
from policy.persons.safeguards import not_for_oneself
from policy.records import Person, Target
from policy.rules.rights import Right
from policy.sessions.access import recheck
from policy.store import Conflict


async def owner_add(desk: Authority, talk: Conversation, request: OwnerAdd) -> Done:
    person = _person(desk, request.person)
    if person.disabled:
        raise CommandRefused(f"person `{person.name}` is disabled", f"`bastion person set {person.name} --enable`")
    scope = scope_name(request.scope)
    not_for_oneself(talk.person, person.name, "ownership")
    if scope != "*" and "=" not in scope and desk.roster.target(scope) is None:
        raise CommandRefused(f"no target `{scope}`", "see `bastion target list`; a label is written `env=prod`")
    why = text(request.reason, "reason")
    owned = " ".join(sorted({*person.owns, scope}))
    event = talk.event("owner-add", person.name, _change(person, owned) | {"scope": scope}, why=why)
    try:
        await desk.change_person(person.name, lambda t: t.add_owner(person.name, scope), event)
    except Conflict:
        raise CommandRefused(f"`{person.name}` owns `{scope}` already") from None
    return Done(text=f"`{person.name}` owns `{scope}`", data={"person": person.name, "scope": scope})


async def owner_remove(desk: Authority, talk: Conversation, request: OwnerRemove) -> Done:
    person = _person(desk, request.person)
    if request.scope not in person.owns:
        raise CommandRefused(f"`{person.name}` does not own `{_shown(request.scope)}`", "see `bastion owner list`")
    why = text(request.reason, "reason")
    owned = " ".join(one for one in person.owns if one != request.scope)
    event = talk.event("owner-remove", person.name, _change(person, owned) | {"scope": request.scope}, why=why)
    await desk.change_person(person.name, lambda t: t.remove_owner(person.name, request.scope), event)
    await recheck(desk, by=talk.who)
    return Done(
        text=f"`{person.name}` does not own `{request.scope}` any more",
        data={"person": person.name, "scope": request.scope},
    )


async def owner_list(desk: Authority, talk: Conversation, request: OwnerList) -> Rows:
    """One's own; everybody's for administrators and auditors."""
    every = desk.has_right(talk, Right.ADMINISTER) or desk.has_right(talk, Right.AUDIT)
    if not every and request.person not in ("", talk.person):
        raise CommandRefused("what others own is not shown to you", "see yours: ssh bastion owner list", code=77)
    wanted = request.person if every else talk.person
    if every:
        await desk.ledger.note(talk.event("view", "owners", {"person": wanted}))
    rows = [
        [one.name, scope, str(sum(owns([scope], target.name, target.labels) for target in desk.roster.targets()))]
        for one in desk.roster.persons()
        for scope in one.owns
        if wanted in ("", one.name)
    ]
    return Rows(columns=["person", "scope", "targets"], rows=rows)


# --- what they may --------------------------------------------------------------------------------------


def check_tends(desk: Authority, talk: Conversation, target: str) -> None:
    """CommandRefused unless this target is an administrator's or its owner's; the same words whether it exists."""
    if not tends(desk, talk, target):
        raise CommandRefused("you may not do this", "ask an administrator of this bastion", code=77)


def tends(desk: Authority, talk: Conversation, target: str) -> bool:
    """Whether this target is theirs to look after: as an administrator, or as its owner."""
    return desk.has_right(talk, Right.ADMINISTER) or _is_owner(desk, talk, desk.roster.target(target))


def tended(desk: Authority, talk: Conversation, targets: list[Target]) -> list[Target]:
    """Those of the targets that this person sees; CommandRefused for who tends nothing at all."""
    if desk.has_right(talk, Right.ADMINISTER):
        return targets
    person = desk.speaker(talk)
    if person is None or not person.owns:
        raise CommandRefused("you may not do this", "ask an administrator of this bastion", code=77)
    return [one for one in targets if owns(person.owns, one.name, one.labels)]


def scope_name(word: str) -> str:
    """A scope that means something."""
    key, equals, value = word.partition("=")
    if word == "*":
        return word
    if not equals:
        return target_name(word)
    labels({key: value})
    if not value:
        raise CommandRefused(f"scope `{_shown(word)}` has no value", "write it as `env=prod`")
    return word


def _is_owner(desk: Authority, talk: Conversation, target: Target | None) -> bool:
    person = desk.speaker(talk)
    return person is not None and target is not None and owns(person.owns, target.name, target.labels)


def _change(person: Person, after: str) -> dict[str, str]:
    return {"owned before": " ".join(person.owns), "owned after": after}


def _person(desk: Authority, name: str) -> Person:
    if (person := desk.roster.person(name)) is None:
        raise CommandRefused(f"no person `{_shown(name)}`", "see `bastion person list`")
    return person


def _shown(word: str) -> str:
    return "".join(char for char in word[:64] if char.isprintable() and char != "`")
