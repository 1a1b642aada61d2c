"""Who may do what: forbid wins, nothing matching is no, and each condition of a rule by itself."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policy.model import ChannelKind
from policy.rules.conditions import Factor, FactorKind, Facts, Why
from policy.rules.decide import (
    Allow,
    Cause,
    Deny,
    attainable,
    decide,
    denial_for_audit,
    denial_for_person,
    explain,
)
from policy.rules.ruleset import RuleSet, parse_rules

TUESDAY = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ALICE = Facts(
    person="alice", roles=frozenset({"dba"}), account="postgres", target="db1", labels={"env": "prod", "kind": "db"},
    now=TUESDAY, source="10.1.2.3",
)  # fmt: skip


def rules(*bodies: str) -> RuleSet:
    text = "\n".join(f'[[rule]]\nname = "r{index}"\n{body}' for index, body in enumerate(bodies))
    return parse_rules(f'{text}\n[tickets.jira]\nkind = "file"\nfile = "tickets.toml"\nstatus = ["approved"]')


def rule(who='who = { roles = ["dba"] }', where='where = { labels = { env = "prod" } }', **more: str) -> str:
    parts = {
        "as": '["postgres"]',
        "allow": '["shell", "exec"]',
        **{key.strip("_"): value for key, value in more.items()},
    }
    return "\n".join([who, where, *(f"{key} = {value}" for key, value in parts.items())])


FORBID = 'effect = "forbid"'


def whys(decision) -> list[Why]:
    assert isinstance(decision, Deny), decision
    return [cause.why for cause in decision.causes]


def test_what_a_rule_allows():
    found = decide(rules(rule(limits='{ session = "4h", idle = "15m" }', record="{ sync = true }")), ALICE)
    assert found == Allow(
        rule="r0", rules=("r0",), kinds=frozenset({ChannelKind.SHELL, ChannelKind.EXEC}),
        expires_in=timedelta(hours=4), idle=timedelta(minutes=15), record_sync=True, keep_content=False,
    )  # fmt: skip


def test_nothing_matching_is_no():
    assert whys(decide(RuleSet(), ALICE)) == [Why.NO_RULE]
    assert whys(decide(rules(rule(), rule()), replace(ALICE, roles=frozenset()))) == [Why.NO_RULE]


@pytest.mark.parametrize(
    "facts",
    [
        replace(ALICE, roles=frozenset({"dbas"})),
        replace(ALICE, labels={"env": "test"}),
        replace(ALICE, labels={}),
        replace(ALICE, account="root"),
        replace(ALICE, account="Postgres"),
        replace(ALICE, channel=ChannelKind.SFTP),
    ],
)
def test_each_condition_has_to_hold(facts):
    assert whys(decide(rules(rule()), facts)) == [Why.NO_RULE]


def test_forbid_wins_wherever_it_stands():
    forbidding = f"{FORBID}\nwhere = {{ labels = {{ env = 'prod' }} }}"
    for ordered in (rules(rule(), forbidding), rules(forbidding, rule())):
        assert whys(decide(ordered, ALICE)) == [Why.FORBIDDEN]
    assert isinstance(decide(rules(rule(), forbidding), replace(ALICE, labels={"env": "prod"})), Deny)


def test_forbid_takes_its_kinds_only():
    found = decide(rules(rule(), f'{FORBID}\nallow = ["exec"]'), ALICE)
    assert isinstance(found, Allow)
    assert found.kinds == {ChannelKind.SHELL}
    assert found.rules == ("r0",), "a rule that forbids is no reason to allow"
    denied = decide(rules(rule(), f'{FORBID}\nallow = ["exec"]'), replace(ALICE, channel=ChannelKind.EXEC))
    assert whys(denied) == [Why.FORBIDDEN]


def test_a_forbid_rule_out_of_its_hours_forbids_nothing():
    night = f'{FORBID}\nwhen = {{ hours = "22:00-06:00" }}'
    assert isinstance(decide(rules(rule(), night), ALICE), Allow)
    assert whys(decide(rules(rule(), night), replace(ALICE, now=TUESDAY.replace(hour=23)))) == [Why.FORBIDDEN]


def test_rules_add_up_and_the_tightest_limit_holds():
    found = decide(
        rules(
            rule(limits='{ session = "4h", idle = "5m" }'),
            rule(allow='["sftp"]', limits='{ session = "1h", idle = "30m" }', record="{ content = true }"),
        ),
        ALICE,
    )
    assert isinstance(found, Allow)
    assert found.kinds == {ChannelKind.SHELL, ChannelKind.EXEC, ChannelKind.SFTP}
    assert (found.expires_in, found.idle) == (timedelta(hours=1), timedelta(minutes=5))
    assert found.keep_content


def test_disabled_or_unknown_is_no_whatever_the_rules_say():
    everything = rules('who = { persons = ["*"] }\nwhere = { targets = ["*"] }\nas = ["*"]\nallow = ["*"]')
    assert isinstance(decide(everything, ALICE), Allow)
    assert whys(decide(everything, replace(ALICE, disabled=True))) == [Why.DISABLED]
    assert whys(decide(everything, replace(ALICE, known=False))) == [Why.NO_TARGET]


def test_the_account_named_like_the_person():
    own = rules(rule(_as='["$person"]'))
    assert isinstance(decide(own, replace(ALICE, account="alice")), Allow)
    assert isinstance(decide(own, replace(ALICE, account="bob")), Deny)
    assert isinstance(decide(own, replace(ALICE, account="$person")), Deny)


def test_label_values_and_target_patterns():
    either = rules(rule(where='where = { labels = { env = ["prod", "test"], kind = "*" }, targets = ["db?", "x-*"] }'))
    assert isinstance(decide(either, ALICE), Allow)
    for facts in (
        replace(ALICE, target="db10"), replace(ALICE, labels={"env": "prod"}),
        replace(ALICE, labels={"env": "dev", "kind": "db"}),
    ):  # fmt: skip
        assert isinstance(decide(either, facts), Deny)
    assert isinstance(decide(either, replace(ALICE, target="x-1")), Allow)


@pytest.mark.parametrize(
    ("source", "inside"),
    [
        ("10.0.0.1", True), ("11.0.0.1", False), ("::ffff:10.0.0.1", True), ("2001:db8::1", True),
        ("2001:db9::1", False), ("fe80::1%eth0", False),
    ],
)  # fmt: skip
def test_sources(source, inside):
    decision = decide(rules(rule(_from='["10.0.0.0/8", "2001:db8::/32"]')), replace(ALICE, source=source))
    assert isinstance(decision, Allow) is inside
    if not inside:
        assert whys(decision)[0] is Why.SOURCE


def test_a_thief_elsewhere_is_not_told_what_else_is_missing():
    facts = replace(ALICE, source="192.0.2.1")
    denial = decide(rules(rule(_from='["10.0.0.0/8"]', require='{ mfa = "15m", reason = true }')), facts)
    assert isinstance(denial, Deny)
    assert denial_for_person(denial, facts)[0] == "`postgres` on `db1` is not allowed or does not exist"
    assert not attainable(denial)


def code(age: float, *, here=True, kind=FactorKind.CODE) -> Factor:
    return Factor(kind=kind, age=timedelta(seconds=age), here=here)


@pytest.mark.parametrize(
    ("need", "factor", "enough"),
    [
        ("15m", code(899), True), ("15m", code(901), False), ("15m", code(60, here=False), True),
        ("always", code(60, here=False), False), ("always", code(7200), True),
        ("15m", code(1, kind=FactorKind.KEY), False), ("15m", code(1, kind=FactorKind.PASSWORD), False),
        ("15m", code(1, kind=FactorKind.VERIFIED_KEY), True), ("15m", code(-5), False),
    ],
)  # fmt: skip
def test_second_factors(need, factor, enough):
    decision = decide(rules(rule(require=f'{{ mfa = "{need}" }}')), replace(ALICE, factors=(factor,)))
    assert isinstance(decision, Allow) is enough
    if not enough:
        assert whys(decision) == [Why.MFA]


@pytest.mark.parametrize(("reason", "enough"), [("", False), ("  ", False), ("deploy", True)])
def test_reasons(reason, enough):
    decision = decide(rules(rule(require="{ reason = true }")), replace(ALICE, reason=reason))
    assert isinstance(decision, Allow) is enough


@pytest.mark.parametrize("need", ['ticket = "jira"', 'approval = { by = ["lead"] }'])
def test_what_this_bastion_cannot_check_is_no(need):
    facts = replace(ALICE, ticket="ANY-1", reason="any", factors=(code(0),))
    assert isinstance(decide(rules(rule(require=f"{{ {need} }}")), facts), Deny)


def test_a_certificate_takes_kinds_away():
    withheld = frozenset({ChannelKind.SHELL})
    found = decide(rules(rule()), replace(ALICE, withheld=withheld))
    assert isinstance(found, Allow)
    assert found.kinds == {ChannelKind.EXEC}
    assert whys(decide(rules(rule()), replace(ALICE, withheld=withheld, channel=ChannelKind.SHELL))) == [Why.WITHHELD]


def test_closing_hours_end_a_session():
    found = decide(rules(rule(when='{ hours = "08:00-18:00" }', limits='{ session = "12h" }')), ALICE)
    assert isinstance(found, Allow)
    assert found.expires_in == timedelta(hours=6)


def test_an_error_while_deciding_is_no():
    assert whys(decide(rules(rule()), replace(ALICE, now=TUESDAY.replace(tzinfo=None)))) == [Why.ERROR]
    assert whys(decide(rules(rule(_from='["10.0.0.0/8"]')), replace(ALICE, source="no address"))) == [Why.ERROR]


def test_what_is_missing_can_be_brought_along():
    for need in ("require = { reason = true, mfa = '1m' }", 'when = { hours = "01:00-02:00" }'):
        assert attainable(decide(rules(f"{rule()}\n{need}"), ALICE))
    assert attainable(decide(rules(rule()), ALICE))
    for facts in (replace(ALICE, roles=frozenset()), replace(ALICE, known=False), replace(ALICE, disabled=True)):
        assert not attainable(decide(rules(f"{rule()}\nrequire = {{ reason = true }}"), facts))
    assert not attainable(decide(rules(rule(), FORBID), ALICE))
    assert attainable(decide(rules(f"{rule()}\nrequire = {{ approval = {{ by = ['lead'] }} }}"), ALICE))
    one_of_two = rules(f"{rule()}\nfrom = ['192.0.2.0/24']", f"{rule()}\nrequire = {{ reason = true }}")
    assert attainable(decide(one_of_two, ALICE))


def test_who_is_not_entitled_learns_nothing():
    known, unknown = replace(ALICE, roles=frozenset()), replace(ALICE, known=False, labels={})
    said = {
        denial_for_person(decide(rules(rule()), known), known),
        denial_for_person(decide(rules(rule()), unknown), unknown),
        denial_for_person(decide(rules(rule(), FORBID), ALICE), ALICE),
        denial_for_person(decide(rules(rule()), replace(ALICE, disabled=True)), ALICE),
    }
    assert len(said) == 1


def test_the_audit_trail_learns_everything():
    denial = decide(rules(rule(require="{ reason = true }"), rule(when='{ hours = "01:00-02:00" }')), ALICE)
    assert isinstance(denial, Deny)
    text = denial_for_audit(denial)
    assert "reason-needed: rule `r0`" in text
    assert "outside-of-hours: rule `r1`" in text


def test_explain_and_decide_do_not_disagree():
    made = rules(rule(), rule(require="{ reason = true }"), f'{FORBID}\nallow = ["exec"]')
    for facts in (
        ALICE,
        replace(ALICE, account="x"),
        replace(ALICE, channel=ChannelKind.EXEC),
        replace(ALICE, known=False),
    ):
        rows = explain(made, facts)
        assert (rows[-1][2] == "allow") is isinstance(decide(made, facts), Allow)
        by_rule: dict[str, bool] = {}
        for name, _, _, condition, holds, _ in rows:
            if condition != "decision":
                by_rule[name] = by_rule.get(name, True) and holds == "yes"
        if isinstance(decided := decide(made, facts), Allow):
            assert {name for name, holds in by_rule.items() if holds} >= set(decided.rules)


def test_explain_shows_every_condition():
    """A rule for others must not look like one's own, whatever it lacks besides."""
    whole = rule(require='{ mfa = "15m", reason = true }', when='{ hours = "08:00-18:00" }', _from='["10.0.0.0/8"]')
    rows = explain(rules(whole), replace(ALICE, roles=frozenset({"guest"}), account="root", labels={}))
    assert [(row[3], row[4]) for row in rows[:-1]] == [
        ("who", "no"), ("where", "no"), ("as", "no"), ("allow", "yes"), ("from", "yes"), ("when", "yes"),
        ("require.mfa", "no"), ("require.reason", "no"),
    ]  # fmt: skip


def test_a_cause_has_its_rule():
    denial = decide(rules(rule(require="{ reason = true }")), ALICE)
    assert denial == Deny(causes=(Cause(why=Why.REASON, text="no reason is given", rule="r0"),))
