"""Which tickets have to be looked up before a decision can be made. Pure."""

from typing import Final

from policy.rules.conditions import Facts, Why, concerns, conditions
from policy.rules.ruleset import Effect, RuleSet

MOST: Final = 8
"""Tickets looked up for one decision: as many rules as may be about one account, and the grants that name tickets."""


def needed(rules: RuleSet, facts: Facts, despite: frozenset[Why] = frozenset()) -> list[tuple[str, str]]:
    """System and number. Only where nothing but the ticket is missing, and what is named in `despite`.

    INVARIANT: who is not entitled, or has not shown what the rule wants, makes this bastion call nobody.
    """
    if not rules.tickets or facts.disabled or not facts.known:
        return []
    found: dict[tuple[str, str], None] = {}
    for rule in rules.rules:
        system = rule.require.ticket
        if rule.effect is Effect.FORBID or system not in rules.tickets or not concerns(rule, facts):
            continue
        if {check.why for check in conditions(rule, facts) if not check.ok} - {Why.TICKET} - despite:
            continue
        given = facts.ticket.strip()
        for ticket in [given] if given else [grant.ticket.strip() for grant in facts.grants]:
            if ticket:
                found[system, ticket] = None
    return list(found)[:MOST]
