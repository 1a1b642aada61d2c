"""What rules want certificates to say: read, and added up where several rules allow one session."""

from typing import Any

import pytest

from policy.rules.decide import Allow, Deny, decide, denial_for_person
from policy.rules.ruleset import BadRules, parse_rules
from policy.rules.terms import PLAIN, Contradiction, Terms, combined
from policy.rules.words import network
from tests.policy.rules.test_decide import ALICE

RULE = """
[[rule]]
name = "{name}"
who = {{ roles = ["dba"] }}
where = {{ targets = ["*"] }}
as = ["*"]
allow = ["shell", "exec"]
certificate = {{ {certificate} }}
"""


def rule(certificate: str, name: str = "r") -> str:
    return RULE.format(name=name, certificate=certificate)


def terms(**parts: Any) -> Terms:
    if "sources" in parts:
        parts["sources"] = tuple(map(network, parts["sources"]))
    return Terms(**parts)


def test_everything_that_can_be_said() -> None:
    text = rule(
        'force-command = "/usr/bin/backup", source-address = ["10.0.0.7", "10.1.0.0/16"], minutes = 2, '
        'principals = ["$account", "$person", "ops"]'
    )
    found = parse_rules(text).rules[0].certificate
    assert found == terms(
        force_command="/usr/bin/backup", sources=["10.0.0.7", "10.1.0.0/16"], minutes=2,
        principals=("$account", "$person", "ops"),
    )  # fmt: skip
    assert found.principals_of("root", "alice") == ["root", "alice", "ops"]
    assert PLAIN.principals_of("root", "alice") == ["root"]
    assert str(found).startswith(
        "force-command `/usr/bin/backup`, from 10.0.0.7/32 10.1.0.0/16, 2 minutes, as $account"
    )


@pytest.mark.parametrize(
    ("certificate", "problem"),
    [
        ("", "empty"),
        ("minutes = 0", "want 1 to 1440"),
        ("minutes = 1441", "want 1 to 1440"),
        ("minutes = true", "want 1 to 1440"),
        ("minute = 1", "did you mean `minutes`"),
        ('source-address = ["10.0.0.1/8"]', "did you mean `10.0.0.0/8`"),
        ("source-address = []", "want a list"),
        ('force-command = "a\\nb"', "want text"),
        ('force-command = ""', "want text"),
        (f'force-command = "{"x" * 1025}"', "at most 1024"),
        ('principals = ["a,b"]', "a,b"),
        (f"principals = {[f'p{n}' for n in range(17)]}".replace("'", '"'), "at most 16"),
    ],
)
def test_what_is_wrong_is_said_where_it_is(certificate: str, problem: str) -> None:
    with pytest.raises(BadRules, match=problem) as caught:
        parse_rules(rule(certificate))
    assert caught.value.problems[0].line == 8


def test_a_forbid_rule_certifies_nothing() -> None:
    text = '[[rule]]\nname = "no"\neffect = "forbid"\ncertificate = { minutes = 1 }\n'
    with pytest.raises(BadRules, match="a forbid rule has no such key"):
        parse_rules(text)


# --- several rules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("some", "others", "expected"),
    [
        (PLAIN, PLAIN, PLAIN),
        (terms(minutes=5), terms(minutes=3), terms(minutes=3)),
        (terms(minutes=5), PLAIN, terms(minutes=5)),
        (terms(force_command="x"), PLAIN, terms(force_command="x")),
        (terms(force_command="x"), terms(force_command="x", minutes=1), terms(force_command="x", minutes=1)),
        (terms(sources=["10.0.0.0/8"]), terms(sources=["10.1.0.0/16"]), terms(sources=["10.1.0.0/16"])),
        (terms(sources=["10.1.0.0/16"]), terms(sources=["10.0.0.0/8", "fd00::/8"]), terms(sources=["10.1.0.0/16"])),
        (terms(principals=("b", "a")), terms(principals=("a", "b")), terms(principals=("a", "b"))),
    ],
)
def test_rules_add_up(some: Terms, others: Terms, expected: Terms) -> None:
    assert combined([("one", some), ("two", others)]) == expected
    assert combined([("two", others), ("one", some)]) == expected


@pytest.mark.parametrize(
    ("some", "others"),
    [
        (terms(force_command="x"), terms(force_command="y")),
        (terms(sources=["10.0.0.0/8"]), terms(sources=["192.0.2.0/24"])),
        (terms(sources=["10.0.0.0/8"]), terms(sources=["fd00::/8"])),
        (terms(principals=("a",)), terms(principals=("a", "b"))),
    ],
)
def test_rules_that_contradict_each_other(some: Terms, others: Terms) -> None:
    with pytest.raises(Contradiction):
        combined([("one", some), ("two", others)])


def test_what_a_session_began_on_holds_or_not() -> None:
    forced = terms(force_command="x")
    assert forced.holds(forced)
    assert forced.holds(PLAIN), "what it is held to may be more than is wanted by now"
    assert not PLAIN.holds(forced)
    assert not forced.holds(terms(force_command="y"))
    assert PLAIN.holds(terms(minutes=1, sources=["192.0.2.0/24"])), "these are over with the handshake"


def test_a_decision_carries_them() -> None:
    asked = ALICE
    one, two = rule('force-command = "x"', "one"), rule("minutes = 4", "two")
    allowed = decide(parse_rules(one + two), asked)
    assert isinstance(allowed, Allow)
    assert allowed.certificate == terms(force_command="x", minutes=4)
    assert allowed.certificate.binding
    denied = decide(parse_rules(one + two + rule('force-command = "y"', "three")), asked)
    assert isinstance(denied, Deny), "nobody gets in by what neither rule meant"
    assert "rules `one` and `three` force different commands" in denied_text(denied, asked)


def denied_text(denied: Deny, asked: Any) -> str:
    return " ".join(denial_for_person(denied, asked))
