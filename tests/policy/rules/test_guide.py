"""The policy guide says what the program does: its rules are read, and its cases answered as written."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from policy.rules.cases import parse_cases, run
from policy.rules.ruleset import RuleSet, parse_rules

TEXT = (Path(__file__).parents[3] / "policy" / "GUIDE.md").read_text()
HEAD, *SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)


def blocks(text: str, language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


class Nobody:
    """A case of the guide describes whom and what it is about."""

    def roles(self, person: str) -> frozenset[str] | None:
        return None

    def disabled(self, person: str) -> bool:
        return False

    def labels(self, target: str) -> Mapping[str, str] | None:
        return None

    def account(self, target: str, account: str) -> bool:
        return False


def rules(*sections: str) -> RuleSet:
    return parse_rules("\n".join(blocks(section, "toml") for section in (HEAD, *sections)), "GUIDE.md")


def test_there_are_ten_and_all_are_read_together():
    assert len(SECTIONS) == 10
    assert len(rules(*SECTIONS).rules) >= 10


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_its_cases_are_answered_as_written(section):
    mine = rules(section)
    verdicts = run(parse_cases(blocks(section, "cases"), Nobody(), mine), mine)
    assert {verdict.case.expect == "allow" for verdict in verdicts} == {True, False}, "a rule that refuses nothing"
    assert [f"{one.case.name}: {one.got}: {one.detail}" for one in verdicts if not one.ok] == []
