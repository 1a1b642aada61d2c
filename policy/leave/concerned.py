"""Who is concerned by a request or a grant: who asks, who may see, who may decide, and by which rule."""

from datetime import UTC, datetime

from policy.authority import Authority
from policy.conversation import Conversation, State
from policy.leave.requests import Approver, Beside, Wish, asks_about, behind, owns, rule_for
from policy.model import ChannelKind
from policy.naming import CommandRefused
from policy.operators import names_behind
from policy.records import AccessRequest, Person
from policy.rules.conditions import Facts, concerns, named
from policy.rules.rights import Right
from policy.rules.ruleset import Rule


def asker(desk: Authority, talk: Conversation) -> Person:
    """The person who speaks: by login, or by the user that an operator is on this machine."""
    for name in sorted(names_behind(talk)):
        if (person := desk.roster.person(name)) is not None and not person.disabled:
            return person
    raise CommandRefused("an operator is no person", "do it as a person: ssh bastion help", code=77)


def approver_of(desk: Authority, talk: Conversation, target: str) -> Approver:
    person, record = asker(desk, talk), desk.roster.target(target)
    return Approver(
        name=person.name,
        names=names_behind(talk),
        roles=person.roles,
        owner=record is not None and owns(person.owns, record.name, record.labels),
        approves=desk.rules.rights.has(Right.APPROVE, person.roles),
    )


def facts_about(
    desk: Authority, person: Person, account: str, target: str, talk: Conversation,
    kinds: frozenset[ChannelKind] = frozenset(),
) -> Facts:  # fmt: skip
    """Of a person who need not be here, without anything brought along."""
    record = desk.roster.target(target)
    return Facts(
        person=person.name,
        roles=person.roles,
        account=account,
        target=target,
        labels=record.labels if record else {},
        now=datetime.now(UTC),
        source=talk.source if talk.state is State.PERSON else "127.0.0.1",
        channel=asks_about(kinds),
        disabled=person.disabled,
        known=desk.roster.account(target, account) is not None,
    )


def the_rule(desk: Authority, facts: Facts, wish: Wish, *, glass: bool = False, anywhere: bool = False) -> Rule:
    """By which it may be given; in the words of every other denial where there is none."""
    try:
        return rule_for(desk.rules, facts, wish.kinds, glass=glass, anywhere=anywhere)
    except Beside as beside:
        where = f"`{facts.account}` on `{facts.target}`"
        if beside.allowed:
            raise CommandRefused(
                f"{where} needs nobody's leave", f"log in: ssh {facts.account}@{facts.target}@bastion"
            ) from None
        raise CommandRefused(
            f"{where} is not allowed or does not exist", "list what you may use: ssh bastion ls", code=77
        ) from None


def current_rule(desk: Authority, request: AccessRequest) -> Rule | None:
    """The rule a request is for, if it still is about this person and place."""
    person, record = desk.roster.person(request.person), desk.roster.target(request.target)
    if person is None or record is None:
        return None
    facts = Facts(
        person=person.name, roles=person.roles, account=request.account, target=request.target, labels=record.labels,
        now=datetime.now(UTC), source="127.0.0.1", disabled=person.disabled, channel=asks_about(request.kinds),
        known=desk.roster.account(request.target, request.account) is not None,
    )  # fmt: skip
    for rule in desk.rules.rules:
        if rule.name == request.rule and not facts.disabled and facts.known and concerns(rule, facts):
            return rule if rule.require.approval is not None or rule.break_glass else None
    return None


def may_see(desk: Authority, talk: Conversation, request: AccessRequest) -> bool:
    return (
        bool(names_behind(talk) & behind(request))
        or desk.has_right(talk, Right.AUDIT)
        or may_decide(desk, talk, request)
    )


def may_decide(desk: Authority, talk: Conversation, request: AccessRequest) -> bool:
    """Whether they are among those who decide it, voted or not; what stands against it besides is said when they do."""
    rule = current_rule(desk, request)
    if rule is None or rule.require.approval is None:
        return False
    try:
        who = approver_of(desk, talk, request.target)
    except CommandRefused:
        return False
    return who.approves and named(rule.require.approval, who.roles, owner=who.owner)


def gives_anything(desk: Authority, who: Approver) -> bool:
    """Whether any rule names them as one who approves."""
    needs = [rule.require.approval for rule in desk.rules.rules]
    return who.approves and any(
        need.count > 0 and named(need, who.roles, owner=who.owner) for need in needs if need is not None
    )


def may_give(desk: Authority, who: Approver, facts: Facts) -> bool:
    """Whether a rule about this person and place names them as one who approves."""
    return who.approves and any(
        rule.require.approval is not None
        and rule.require.approval.count > 0
        and named(rule.require.approval, who.roles, owner=who.owner)
        for rule in desk.rules.rules
        if facts.known and concerns(rule, facts)
    )
