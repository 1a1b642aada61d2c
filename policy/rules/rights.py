"""`[rights]` and `[login]` of policy.toml: who may do what to the bastion itself, and what a login asks. Pure.

[rights]
administer = ["admin"]              # roles; "*" is everybody; what is left out has this default
approve    = ["*"]                  # decide requests, where the rule's `approval.by` names them as well
audit      = ["admin", "security"]  # read the trail, list sessions, requests and grants of others
watch      = ["security"]           # look at live sessions
see-typed  = []                     # see what was typed there, too
kill       = ["admin", "security"]  # end sessions, revoke grants

[login]
mfa = "always"    # who has a second factor shows it at each login; "8h": when the last one from the same address
                  # is older; "rules": only where a rule asks for it
demand = []       # roles; who has one of them and no second factor gets in to enrol one, and to nothing else
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final

from policy.rules.words import mfa_age, role
from policy.toml_tables import Table


class Right(StrEnum):
    ADMINISTER = "administer"
    APPROVE = "approve"
    AUDIT = "audit"
    WATCH = "watch"
    SEE_TYPED = "see-typed"
    KILL = "kill"


EVERYBODY: Final = "*"

DEFAULTS: Final[dict[Right, frozenset[str]]] = {
    Right.ADMINISTER: frozenset({"admin"}),
    Right.APPROVE: frozenset({EVERYBODY}),
    Right.AUDIT: frozenset({"admin", "security"}),
    Right.WATCH: frozenset({"security"}),
    Right.SEE_TYPED: frozenset(),
    Right.KILL: frozenset({"admin", "security"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    roles: dict[Right, frozenset[str]] = field(default_factory=lambda: dict(DEFAULTS))

    def has(self, right: Right, roles: Iterable[str]) -> bool:
        """Whether one of these roles gives the right."""
        wanted = self.roles[right]
        return EVERYBODY in wanted or not wanted.isdisjoint(roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRules:
    """`max_age` counts for those who have a second factor: zero, a new one each time; None, only where a rule asks.
    `demand`: roles whose persons have to have one."""

    max_age: timedelta | None = timedelta()
    demand: frozenset[str] = frozenset()


def parse_rights(table: Table) -> Rights:
    table.known(*Right)
    found = dict(DEFAULTS)
    for right in Right:
        if table.entry.get(right) == []:
            found[right] = frozenset()
        elif right in table.entry:
            found[right] = frozenset(table.words(right, role))
    if not found[Right.ADMINISTER]:
        table.problem(Right.ADMINISTER, "empty: nobody could change anything any more")
    return Rights(roles=found)


def parse_login(table: Table) -> LoginRules:
    table.known("mfa", "demand")
    demand = frozenset(table.words("demand", role)) if table.entry.get("demand") else frozenset()
    match table.text("mfa") if "mfa" in table.entry else "always":
        case "" | "always":
            return LoginRules(demand=demand)
        case "rules":
            return LoginRules(max_age=None, demand=demand)
        case _:
            return LoginRules(max_age=table.parsed("mfa", mfa_age) or timedelta(), demand=demand)
