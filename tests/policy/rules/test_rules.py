"""policy.toml: every problem at once, each with its line and what was meant; nothing widens by being left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.rules.ruleset import BadRules, Effect, parse_rules

GOOD = """
[[rule]]
name    = "dba on production databases"
who     = { roles = ["dba"] }
where   = { labels = { env = "prod" } }
as      = ["postgres"]
allow   = ["shell", "exec", "sftp", "forward-local"]
require = { mfa = "15m", ticket = "jira", reason = true, approval = { by = ["lead"], count = 1 } }
when    = { days = "mon-fri", hours = "08:00-18:00", zone = "Europe/Berlin" }
from    = ["10.0.0.0/8"]
limits  = { session = "4h", idle = "15m" }
[tickets.jira]
kind   = "file"
file   = "tickets.toml"
status = ["approved"]
"""


def problems(text: str) -> list[str]:
    with pytest.raises(BadRules) as caught:
        parse_rules(text)
    return [str(problem) for problem in caught.value.problems]


def test_the_example_of_the_design():
    (rule,) = parse_rules(GOOD).rules
    assert (rule.name, rule.line, rule.effect) == ("dba on production databases", 2, Effect.ALLOW)
    assert rule.require.approval is not None


def test_an_empty_file_allows_nothing():
    assert parse_rules("").rules == ()


def test_every_error_with_its_line_and_what_was_meant():
    found = problems(
        """
[[rule]]
name  = "one"
who   = { role = ["dba"] }
where = { labels = { env = "prod" } }
as    = ["postgres"]
allow = ["shel"]

[[rule]]
name   = "one"
who    = { roles = ["dba"] }
where  = { targets = ["DB1"] }
as     = []
allow  = ["exec"]
wen    = { days = "mon" }
from   = ["10.0.0.1/8"]
limits = { session = "4 hours" }
when   = { hours = "08:00-18:00", zone = "Europe/Berln" }
"""
    )
    text = "\n".join(found)
    for wanted in (
        'policy.toml:4: rule "one": who.role: unknown key; did you mean `roles`',
        'policy.toml:7: rule "one": allow: got `shel`, want one of',
        "did you mean `shell`",
        'policy.toml:10: rule "one": name: stands already on line 2',
        'policy.toml:12: rule "one": where.targets: got `DB1`',
        'policy.toml:13: rule "one": as: got an empty list',
        'policy.toml:15: rule "one": wen: unknown key; did you mean `when`',
        'policy.toml:16: rule "one": from: got `10.0.0.1/8`, want a network like',
        "did you mean `10.0.0.0/8`",
        'policy.toml:17: rule "one": limits.session: got `4 hours`',
        "did you mean `Europe/Berlin`",
    ):
        assert wanted in text, f"{wanted}\n{text}"
    lines = [int(problem.split(":")[1]) for problem in found]
    assert lines == sorted(lines)


@pytest.mark.parametrize("key", ["who", "where", "as", "allow"])
def test_an_allow_rule_says_all_of_it(key):
    text = "\n".join(line for line in GOOD.splitlines() if not line.startswith(key))
    assert any(f"{key}: missing" in problem for problem in problems(text))


@pytest.mark.parametrize(
    "line",
    [
        "who = {}", "who = { roles = [] }", 'who = { roles = "dba" }', "where = {}", "where = { labels = {} }",
        'where = { labels = { env = "" } }', "as = 'root'", 'as = ["a@b"]', "allow = []", 'allow = "shell"',
        'who = { persons = ["Alice"] }', 'who = { persons = ["root"] }', "require = { mfa = true }",
        'require = { mfa = "soon" }', "require = { reason = 1 }", "require = { approval = { by = [], count = 1 } }",
        'require = { approval = { by = ["lead"], count = -1 } }',
        'require = { approval = { by = ["lead"], count = 0 } }', 'from = ["everywhere"]', "from = []",
        'limits = { session = "0s" }', 'limits = { idle = "99d" }', "when = {}", 'when = { days = "monday" }',
        'when = { zone = "UTC" }', 'record = { sync = "yes" }', 'effect = "permit"', "who = 7", "limits = []",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(line):
    key = line.split(" ")[0]
    kept = [one for one in GOOD.splitlines() if one.split(" ")[0] != key]
    assert problems("\n".join([*kept, line]))


@pytest.mark.parametrize("key", ["require = { reason = true }", "limits = { idle = '1m' }", "record = { sync = true }"])
def test_a_forbid_rule_asks_for_nothing(key):
    name = key.split(" ", maxsplit=1)[0]
    assert f'policy.toml:4: rule "no": {name}: a forbid rule has no such key' in problems(
        f'[[rule]]\nname = "no"\neffect = "forbid"\n{key}'
    )


def test_an_unknown_table():
    assert "rules: unknown key; did you mean `rule`" in problems("[[rules]]\nname = 'x'")[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [("[[rule]]\nname = \n", 2), ("\n\n[[rule]\n", 3), ("a = 1\na = 2\n", 2), ("x = " + "[" * 100_000, 1)],
)
def test_no_toml(text, line):
    (problem,) = problems(text)
    assert problem.startswith(f"policy.toml:{line}: not TOML")


def test_too_long():
    assert "more than" in problems("#" * (1024 * 1024 + 1))[0]


def test_text_that_cannot_be_printed_does_not_reach_the_terminal():
    for problem in problems('[[rule]]\nname = "\\u001b[2J"\nwho = { roles = ["\\u202e"] }\n"\\u001b" = 1\n'):
        assert problem.isprintable(), repr(problem)


@given(st.text(max_size=400))
def test_any_text_is_rules_or_problems(text):
    assert all(line >= 1 for line in lines_of_problems(text))


def lines_of_problems(text: str) -> list[int]:
    """None for rules; any other exception is a fault of the parser's."""
    try:
        parse_rules(text)
    except BadRules as error:
        return [problem.line for problem in error.problems]
    return []


KEYS = ["who", "where", "as", "allow", "when", "from", "require", "name"]
VALUES = ["1", "true", "[]", "{}", '"x"', "[1]", "1979-05-27", "{ a = { b = [1] } }", '["*"]', "1e400", "nan"]


@given(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)))
def test_any_values_are_rules_or_problems(entries):
    text = "[[rule]]\n" + "\n".join(f"{key} = {value}" for key, value in entries.items())
    assert all(line >= 1 for line in lines_of_problems(text))
