"""Commands that ask what is and what may be: who am I, what can I reach, why is it so."""

import time
from datetime import UTC, datetime

import trio

from policy.authority import Authority
from policy.conversation import Conversation, State
from policy.messages import Explain, Reachable, Rows, Whoami
from policy.model import ChannelKind
from policy.names import plain_address
from policy.naming import CommandRefused, instant, shown_time
from policy.rules.conditions import Facts
from policy.rules.decide import EXPLAIN_COLUMNS, Allow, Deny, attainable, decide, explain
from policy.sessions.access import ONE_KIND, facts_of


async def whoami(desk: Authority, talk: Conversation, _: Whoami) -> Rows:
    if talk.state is State.OPERATOR:
        return Rows(columns=["field", "value"], rows=[["operator", talk.who], ["rights", "everything"]])
    person = desk.roster.person(talk.person)
    roles = sorted(person.roles) if person else []
    rows = [["person", talk.person], ["roles", " ".join(roles)], ["source", talk.source]]
    rows += [["proven by", factor.kind.value] for factor in desk.factors(talk) if factor.here]
    rows += [["session", f"{live.id} {live.account}@{live.target}"] for live in desk.sessions.of_person(talk.person)]
    return Rows(columns=["field", "value"], rows=rows)


async def reachable(desk: Authority, talk: Conversation, _: Reachable) -> Rows:
    """What this person may use now; what needs only more of the person (a code, a reason) is listed with it."""
    if talk.state is State.OPERATOR:
        raise CommandRefused("an operator is no person", "use `bastion policy explain PERSON ACCOUNT@TARGET`")
    rows = []
    for count, account in enumerate(desk.roster.accounts()):
        if count % 64 == 63:
            await trio.lowlevel.checkpoint()  # a thousand decisions take a while; others are served in between
        facts = facts_of(desk, talk, account.name, account.target)
        target = desk.roster.target(account.target)
        match decide(desk.rules, facts):
            case Allow() as allow if target is not None and target.host_keys:
                labels = " ".join(f"{key}={value}" for key, value in sorted(target.labels.items()))
                rows.append([account.target, account.name, " ".join(sorted(allow.kinds)), "", labels])
            case Deny() as deny if target is not None and attainable(deny):
                rows.append([account.target, account.name, "", deny.causes[0].why.value, ""])
    return Rows(columns=["target", "account", "channels", "needs", "labels"], rows=rows)


async def explain_access(desk: Authority, talk: Conversation, request: Explain) -> Rows:
    """Each condition of each rule, for a person who need not be there."""
    person = desk.roster.person(request.person)
    if person is None:
        raise CommandRefused(f"no person `{request.person[:64]}`", "see `bastion person list`")
    try:
        kind = ChannelKind(request.channel) if request.channel else None
    except ValueError:
        raise CommandRefused(ONE_KIND.format(request.channel[:32]), f"one of {', '.join(ChannelKind)}") from None
    moment = instant(request.at) if request.at else time.time_ns()
    if request.source:
        try:
            plain_address(request.source)
        except ValueError:
            raise CommandRefused(f"source `{request.source[:64]}` is no address", "want one like 192.0.2.7") from None
    target = desk.roster.target(request.target)
    facts = Facts(
        person=person.name,
        roles=person.roles,
        account=request.account,
        target=request.target,
        labels=target.labels if target else {},
        now=datetime.fromtimestamp(moment / 1e9, UTC),
        source=request.source or "127.0.0.1",
        channel=kind,
        disabled=person.disabled,
        known=desk.roster.account(request.target, request.account) is not None,
        grants=desk.standing.facts(person.name, request.account, request.target, time.time_ns(), desk.counts),
    )
    what = f"explain {person.name} on {request.account}@{request.target}"
    await desk.ledger.note(talk.event("view", what))
    note = f"at {shown_time(moment)} from {facts.source}, without second factor, ticket or reason"
    if target is not None and not target.host_keys:
        note += "; refused whatever the rules say: the target has no pinned host key"
    return Rows(columns=list(EXPLAIN_COLUMNS), rows=explain(desk.rules, facts), note=note)
