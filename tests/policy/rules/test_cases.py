"""Cases: rules are tried before they are in force, and what is wrong in the file is said at its line."""

from collections.abc import Mapping

import pytest

from policy.rules.cases import EXPECTED, parse_cases, run
from policy.rules.ruleset import BadRules, parse_rules
from tests.policy.rules.test_foresight import RULES

TICKETED = """
[[rule]]
name = "web with a ticket"
who = { roles = ["dev"] }
where = { targets = ["web*"] }
as = ["*"]
allow = ["shell"]
require = { ticket = "jira", reason = true }
from = ["10.0.0.0/8"]
[tickets.jira]
kind = "file"
file = "tickets.toml"
status = ["approved"]
"""


class Known:
    def roles(self, person: str) -> frozenset[str] | None:
        return {"dora": frozenset({"dba"}), "lena": frozenset({"lead"})}.get(person)

    def disabled(self, person: str) -> bool:
        return person == "gone"

    def labels(self, target: str) -> Mapping[str, str] | None:
        return {"db1": {"env": "prod"}}.get(target)

    def account(self, target: str, account: str) -> bool:
        return (target, account) in {("db1", "postgres"), ("web1", "root")}


RULE_SET = parse_rules(RULES + TICKETED)


def verdicts(text: str):
    return run(parse_cases(text, Known(), RULE_SET), RULE_SET)


def case(**fields: str) -> str:
    return "[[case]]\n" + "".join(f"{key.replace('_', '-')} = {value}\n" for key, value in fields.items())


@pytest.mark.parametrize(
    ("fields", "expect"),
    [
        ({"mfa": '"5m"', "approved_by": '["lena"]'}, "allow"),
        ({"mfa": '"here"', "approved_by": '["anna:lead,ops"]'}, "allow"),
        ({"mfa": '"5m"', "approved_by": '["anna:ops"]'}, "needs-approval"),
        ({"mfa": '"5m"', "approved_by": '["dora:lead"]'}, "needs-approval"),
        ({"mfa": '"16m"', "approved_by": '["lena"]'}, "needs-mfa"),
        ({"approved_by": '["lena"]'}, "needs-mfa"),
        ({}, "needs-mfa"),
        ({"roles": "[]"}, "no-rule"),
        ({"labels": '{ env = "test" }'}, "no-rule"),
        ({"to": '"postgres@db9"'}, "no-target"),
        ({"channel": '"exec"', "at": '"2026-11-25T23:00:00Z"', "mfa": '"5m"', "approved_by": '["lena"]'}, "forbidden"),
        ({"roles": '["dba", "intern"]', "channel": '"shell"'}, "forbidden"),
    ],
)  # fmt: skip
def test_the_words_of_a_case_are_facts(fields, expect):
    body = {"person": '"dora"', "to": '"postgres@db1"', **fields}
    assert [(one.got, one.ok) for one in verdicts(case(**body, expect=f'"{expect}"'))] == [(expect, True)]
    others = [word for word in EXPECTED if word not in (expect, "deny") and not expect.startswith("needs")]
    for other in others:
        assert not verdicts(case(**body, expect=f'"{other}"'))[0].ok, other
    assert verdicts(case(**body, expect='"deny"'))[0].ok == (expect != "allow")


def test_tickets_reasons_and_networks():
    web = {"person": '"dev1"', "roles": '["dev"]', "to": '"root@web1"', "from": '"10.1.1.1"'}
    text = (
        case(**web, ticket='"OPS-1"', reason='"fix"', expect='"allow"', rule='"web with a ticket"')
        + case(**web, reason='"fix"', expect='"needs-ticket"')
        + case(**web, ticket='"OPS-1"', expect='"needs-reason"')
        + case(**{**web, "from": '"192.0.2.1"'}, ticket='"OPS-1"', reason='"fix"', expect='"wrong-network"')
    )
    assert [one.got for one in verdicts(text) if not one.ok] == []


def test_another_rule_than_the_one_that_was_meant_is_a_miss():
    text = case(person='"dev1"', roles='["dev"]', to='"root@web1"', ticket='"T"', reason='"x"', expect='"allow"',
                rule='"dba"') .replace("expect", 'from = "10.0.0.1"\nexpect')  # fmt: skip
    (one,) = verdicts(text)
    assert (one.ok, one.got) == (False, "allow")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "`[[case]]`"),
        ("[[case]]\nexpect = 'allwo'\nperson = 'dora'\nto = 'a@b'", "did you mean `allow`"),
        ("[[case]]\nexpect = 'allow'\nperson = 'nobody'\nto = 'a@b'", "`nobody` is not known"),
        ("[[case]]\nexpect = 'allow'\nperson = 'dora'\nto = 'db1'", "ACCOUNT@TARGET"),
        ("[[case]]\nexpekt = 'allow'\nperson = 'dora'\nto = 'a@b'", "did you mean `expect`"),
        ("[[case]]\nexpect = 'allow'\nperson = 'dora'\nto = 'a@b'\nat = 'noon'", "2026-11-25T"),
        ("[[case]]\nexpect = 'allow'\nperson = 'dora'\nto = 'a@b'\nrule = 'dbas'", "no rule is called"),
        ("[[case]]\nexpect = 'allow'\nperson = 'dora'\nto = 'a@b'\nfrom = 'home'", "home"),
        ("[[case", "not TOML"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text, said):
    with pytest.raises(BadRules) as caught:
        verdicts(text)
    assert said in str(caught.value)
    assert "cases.toml:" in str(caught.value)
