"""One request's life: what may be asked, who may decide, what the votes come to, and what is granted then."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from policy.leave.requests import (
    MAX_USES,
    SECOND,
    Approver,
    Beside,
    State,
    Wish,
    approvals,
    drawn_up,
    granted,
    missing,
    need_of,
    objection,
    owns,
    rule_for,
    same,
    tally,
)
from policy.naming import CommandRefused
from policy.records import AccessRequest, Vote
from policy.rules.conditions import Facts
from policy.rules.ruleset import RuleSet, parse_rules
from policy.rules.words import GIVEN, OWNER

HOUR = 3600
NOON = int(datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()) * SECOND
RULES = """
[[rule]]
name    = "two leads"
who     = { roles = ["dba"] }
where   = { labels = { env = "prod" } }
as      = ["postgres"]
allow   = ["shell", "exec"]
require = { approval = { by = ["lead", "$owner"], count = 2, longest = "4h", wait = "1h" } }

[[rule]]
name        = "fire"
who         = { roles = ["dba"] }
where       = { labels = { env = "prod" } }
as          = ["postgres"]
allow       = ["*"]
break-glass = true
"""
ALICE = Facts(
    person="alice", roles=frozenset({"dba"}), account="postgres", target="db1", labels={"env": "prod"},
    now=datetime(2026, 11, 24, 12, 0, tzinfo=UTC), source="10.1.2.3",
)  # fmt: skip


def rules(text: str = RULES) -> RuleSet:
    return parse_rules(text)


NEED = need_of(rules().rules[0])


def wish(**more) -> Wish:
    parts = {"kinds": [], "start": "", "seconds": 0, "uses": 0, "reason": "upgrade", "now": NOON}
    return Wish.of(**{**parts, **more})


def asked(text: str = RULES, **more) -> AccessRequest:
    return drawn_up(wish(**more), rules(text).rules[0], ALICE, ident="r-1", now=NOON, asked_by={"alice"})


def vote(approver: str, *roles: str, approve: bool = True) -> Vote:
    return Vote(approver=approver, roles=frozenset(roles or {"lead"}), approve=approve, comment="", source="", at=NOON)


def lead(name: str = "lena", **more) -> Approver:
    parts = {"name": name, "names": frozenset({name}), "roles": frozenset({"lead"})}
    return Approver(**{**parts, **more})


def everybody(_: str) -> bool:
    return True


# --- what may be asked ----------------------------------------------------------------------------------


def test_a_request_asks_for_the_most_there_is_if_it_says_nothing():
    request = asked()
    assert (request.state, request.seconds, request.uses) == ("pending", 4 * HOUR, 0)
    assert request.kinds == {"shell", "exec"}
    assert request.expires == NOON + HOUR * SECOND


@pytest.mark.parametrize(
    "bad",
    [
        {"kinds": ["teleport"]},
        {"seconds": -1},
        {"seconds": 10**12},
        {"uses": -1},
        {"uses": MAX_USES + 1},
        {"start": "yesterday"},
        {"start": "2026-11-24T11:59:00Z"},
        {"start": "2027-11-24T12:00:00Z"},
        {"reason": "x" * 501},
        {"reason": "two\nlines"},
        {"reason": "\x1b[2J"},
        {"ticket": "T" * 129},
    ],
)
def test_wishes_that_make_no_sense(bad):
    with pytest.raises(CommandRefused):
        wish(**bad)


def test_nobody_gets_longer_than_the_rule_says():
    with pytest.raises(CommandRefused, match="too long"):
        asked(seconds=4 * HOUR + 1)


def test_a_request_without_a_reason_is_none():
    with pytest.raises(CommandRefused, match="reason"):
        asked(reason="  ")


def test_a_rule_that_wants_a_ticket_wants_it_when_asked():
    with pytest.raises(CommandRefused, match="ticket"):
        drawn_up(
            wish(),
            replace(rules().rules[0], require=replace(rules().rules[0].require, ticket="jira")),
            ALICE,
            ident="r-1",
            now=NOON,
            asked_by={"alice"},
        )


def test_a_start_ahead_fixes_the_hours():
    request = asked(start="2026-11-24T12:30:00Z", seconds=600)
    assert request.expires == NOON + 2400 * SECOND, "leave for an hour that has passed is worth nothing"
    grant = granted(request, NEED, ident="g-1", now=NOON + 2000 * SECOND, by="lena")
    assert (grant.starts, grant.ends) == (NOON + 2000 * SECOND, NOON + 2400 * SECOND)
    early = granted(request, NEED, ident="g-1", now=NOON, by="lena")
    assert (early.starts, early.ends) == (NOON + 1800 * SECOND, NOON + 2400 * SECOND)


def test_a_rule_that_became_stricter_meanwhile_holds():
    grant = granted(asked(), need_of(rules(RULES.replace('"4h"', '"1h"')).rules[0]), ident="g-1", now=NOON, by="lena")
    assert grant.ends == NOON + HOUR * SECOND


def test_the_rule_is_one_that_asks_for_leave():
    assert rule_for(rules(), ALICE, frozenset(), glass=False).name == "two leads"
    assert rule_for(rules(), ALICE, frozenset(), glass=True).name == "fire"


@pytest.mark.parametrize(
    "facts",
    [
        replace(ALICE, roles=frozenset()),
        replace(ALICE, account="root"),
        replace(ALICE, labels={}),
        replace(ALICE, known=False),
        replace(ALICE, disabled=True),
    ],
)
@pytest.mark.parametrize("glass", [False, True])
def test_who_is_not_entitled_cannot_ask(facts, glass):
    with pytest.raises(Beside) as beside:
        rule_for(rules(), facts, frozenset(), glass=glass)
    assert not beside.value.allowed


def test_what_needs_nobodys_leave_is_not_asked_for():
    plain = (
        '[[rule]]\nname = "p"\nwho = { roles = ["dba"] }\nwhere = { targets = ["*"] }\nas = ["*"]\nallow = ["shell"]'
    )
    with pytest.raises(Beside) as beside:
        rule_for(rules(plain), ALICE, frozenset(), glass=False)
    assert beside.value.allowed


def test_what_is_forbidden_cannot_be_asked_for():
    forbid = '[[rule]]\nname = "no"\neffect = "forbid"\nallow = ["shell"]\n'
    assert rule_for(rules(RULES + forbid), ALICE, frozenset({"exec"}), glass=False)
    for kinds in (frozenset({"shell"}), frozenset({"shell", "exec"})):
        with pytest.raises(Beside):
            rule_for(rules(RULES + forbid), ALICE, kinds, glass=False)


def test_out_of_its_networks_a_rule_tells_nothing():
    here = rules(RULES.replace("[[rule]]", '[[rule]]\nfrom = ["192.0.2.0/24"]', 1))
    with pytest.raises(Beside):
        rule_for(here, ALICE, frozenset(), glass=False)
    assert rule_for(here, ALICE, frozenset(), glass=False, anywhere=True), "who gives does not know from where"


def test_a_wish_that_comes_twice_is_one():
    assert same(asked(), replace(asked(), id="r-2", asked=NOON + 5, starts=NOON + 5, expires=0))
    for other in (asked(reason="other"), asked(seconds=60), asked(uses=1), asked(kinds=["shell"])):
        assert not same(asked(), other)
    assert not same(asked(start="2026-11-24T12:30:00Z"), asked())
    assert not same(asked(start="2026-11-24T12:30:00Z"), asked(start="2026-11-24T12:40:00Z"))


# --- who may decide -------------------------------------------------------------------------------------


def test_a_lead_may():
    assert objection(asked(), NEED, lead(), NOON) == ""


def test_an_owner_may_where_the_rule_says_so():
    assert objection(asked(), NEED, lead(roles=frozenset(), owner=True), NOON) == ""
    others = need_of(rules(RULES.replace(', "$owner"', "")).rules[0])
    assert "not among those" in objection(asked(), others, lead(roles=frozenset(), owner=True), NOON)


@pytest.mark.parametrize(
    ("who", "why"),
    [
        (lead("alice"), "for themselves"),
        (lead(names=frozenset({"lena", "alice"})), "for themselves"),  # as an operator whose login is alice's
        (lead(roles=frozenset({"dba"})), "not among those"),
        (lead(approves=False), "not among those"),
    ],
)
def test_others_may_not(who, why):
    assert why in objection(asked(), NEED, who, NOON)


def test_who_asked_for_somebody_else_may_not():
    request = replace(asked(), asked_by=frozenset({"alice", "lena"}))
    assert "for themselves" in objection(request, NEED, lead(), NOON)


def test_nobody_decides_twice():
    request = replace(asked(), votes=(vote("lena"),))
    assert "already" in objection(request, NEED, lead(), NOON)


def test_what_is_closed_or_too_late_is_not_decided():
    for state in set(State) - {State.PENDING}:
        assert state in objection(replace(asked(), state=state), NEED, lead(), NOON)
    assert objection(asked(), NEED, lead(), asked().expires - 1) == ""
    assert "waited too long" in objection(asked(), NEED, lead(), asked().expires)


# --- what the votes come to -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "state"),
    [
        ((), State.PENDING),
        ((vote("lena"),), State.PENDING),
        ((vote("lena"), vote("lars")), State.APPROVED),
        ((vote("lena"), vote("lena")), State.PENDING),  # the database would not even keep it
        ((vote("lena"), vote("alice")), State.PENDING),
        ((vote("lena"), vote("mia", "dba")), State.PENDING),
        ((vote("lena"), vote("omar", "dba", OWNER)), State.APPROVED),
        ((vote("lena"), vote("ada", "admin", GIVEN)), State.APPROVED),
        ((vote("lena", approve=False),), State.DENIED),
        ((vote("lena"), vote("lars"), vote("liv", approve=False)), State.DENIED),
    ],
)
def test_n_of_m(votes, state):
    request = replace(asked(), votes=votes)
    assert tally(request, NEED, everybody) is state
    if state is State.PENDING:
        assert missing(request, NEED, everybody) == 2 - bool(votes)


def test_votes_of_those_behind_a_request_do_not_count():
    request = replace(asked(), votes=(vote("lena"), vote("lars")), asked_by=frozenset({"alice", "lars"}))
    assert tally(request, NEED, everybody) is State.PENDING


def test_the_vote_of_who_was_disabled_since_does_not_count():
    request = replace(asked(), votes=(vote("lena"), vote("lars")))
    assert tally(request, NEED, lambda name: name != "lena") is State.PENDING
    assert missing(request, NEED, lambda name: name != "lena") == 1


def test_a_no_is_no_approval():
    assert approvals((vote("lena", approve=False),), everybody) == ()


def test_what_is_granted_is_what_was_asked():
    request = asked(seconds=600, uses=3, kinds=["shell"], ticket="OPS-1")
    grant = granted(request, NEED, ident="g-1", now=NOON + SECOND, by="lena")
    assert (grant.person, grant.account, grant.target) == ("alice", "postgres", "db1")
    assert (grant.kinds, grant.uses, grant.used, grant.ticket) == ({"shell"}, 3, 0, "OPS-1")
    assert (grant.starts, grant.ends) == (NOON + SECOND, NOON + 601 * SECOND)


def test_scopes_of_owners():
    labels = {"env": "prod"}
    for scope in ("*", "db1", "env=prod"):
        assert owns([scope], "db1", labels)
    for scope in ("db", "env=test", "env=", "env", "=prod", ""):
        assert not owns([scope], "db1", labels)
