"""Who could come where: agrees with `decide` for everybody and everything, and is quick for a large estate."""

import random
import time
from datetime import UTC, datetime, timedelta

import pytest

from policy import messages as m
from policy.model import ChannelKind
from policy.rules.conditions import ApprovalFact, Factor, FactorKind, Facts, GrantFact, TicketFact
from policy.rules.decide import Allow, decide
from policy.rules.foresight import Place, Subject, changes, reach, who_can
from policy.rules.ruleset import RuleSet, parse_rules

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)  # a Wednesday
EVERY = frozenset(ChannelKind)
SHELL, EXEC, SFTP = ChannelKind.SHELL, ChannelKind.EXEC, ChannelKind.SFTP

RULES = """
[[rule]]
name = "dba"
who = { roles = ["dba"] }
where = { labels = { env = "prod" } }
as = ["postgres"]
allow = ["shell", "exec"]
require = { mfa = "15m", approval = { by = ["lead"] } }

[[rule]]
name = "own account"
who = { persons = ["*"] }
where = { targets = ["web*"] }
as = ["$person"]
allow = ["sftp"]

[[rule]]
name = "no shell for interns"
effect = "forbid"
who = { roles = ["intern"] }
allow = ["shell"]

[[rule]]
name = "no exec at night"
effect = "forbid"
allow = ["exec"]
when = { hours = "22:00-06:00" }
"""


def rules(text: str = RULES) -> RuleSet:
    return parse_rules(f'{text}\n[tickets.jira]\nkind = "file"\nfile = "tickets.toml"\nstatus = ["approved"]')


DEMANDS = [
    "require = { reason = true, mfa = '1h' }", "require = { ticket = 'jira' }",
    "require = { approval = { by = ['lead'] } }", "break-glass = true",
]  # fmt: skip
DB = Place(account="postgres", target="db1", labels={"env": "prod"})
HOME = Place(account="alice", target="web1", labels={"env": "test"})
ALICE = Subject("alice", frozenset({"dba"}))
INTERN = Subject("ivan", frozenset({"dba", "intern"}))


def test_each_way_says_what_it_asks_for():
    found = reach(rules(), ALICE, DB)
    assert set(found) == {SHELL, EXEC}
    assert [str(way) for way in found[SHELL]] == ["dba (approval by 1 of lead, second factor of 15m)"]
    (way,) = found[EXEC]
    assert way.needs[-1] == "not within hours 22:00-06:00 (`no exec at night`)"


def test_a_forbid_rule_without_hours_takes_its_kinds_away():
    assert set(reach(rules(), INTERN, DB)) == {EXEC}


def test_one_own_account_is_nobody_elses():
    assert set(reach(rules(), ALICE, HOME)) == {SFTP}
    assert reach(rules(), Subject("bob", frozenset()), HOME) == {}


def test_who_can_by_one_kind_alone():
    people = [ALICE, INTERN, Subject("bob", frozenset())]
    assert [(one.person, set(found)) for one, _, found in who_can(rules(), people, [DB])] == [
        ("alice", {SHELL, EXEC}), ("ivan", {EXEC}),
    ]  # fmt: skip
    assert [one.person for one, _, _ in who_can(rules(), people, [DB], SHELL)] == ["alice"]


def test_it_agrees_with_decide():
    """Nobody is left out and nobody is named wrongly: both look at the same rules, one with everything in hand."""
    dice = random.Random(7)
    roles, names, envs = ["dba", "dev", "intern", "*"], ["alice", "bob", "root"], ["prod", "test"]
    for _ in range(300):
        text = ""
        for number in range(dice.randint(1, 6)):
            forbid = dice.random() < 0.3
            lines = [f'name = "r{number}"', f"who = {{ roles = {dice.sample(roles, 2)} }}"]
            where = dice.choice([f'labels = {{ env = "{dice.choice(envs)}" }}', f'targets = ["{dice.choice("wd")}*"]'])
            lines += [f"where = {{ {where} }}", f"as = {dice.choice([['root'], ['$person'], ['*'], ['alice', 'bob']])}"]
            lines += [f"allow = {dice.sample(['shell', 'exec', 'sftp', 'x11'], 2)}"]
            if forbid:
                lines += ['effect = "forbid"']
            elif dice.random() < 0.5:
                lines += [dice.choice(DEMANDS)]
            text += "[[rule]]\n" + "\n".join(lines).replace("'", '"') + "\n"
        found = rules(text)
        for _ in range(20):
            who = Subject(dice.choice(names[:2]), frozenset(dice.sample(roles[:3], dice.randint(0, 2))))
            place = Place(
                account=dice.choice(names), target=dice.choice(["web1", "db1"]), labels={"env": dice.choice(envs)}
            )
            wanted = set()
            for kind in ChannelKind:
                facts = Facts(
                    person=who.person, roles=who.roles, account=place.account, target=place.target, labels=place.labels,
                    now=NOW, source="10.0.0.1", channel=kind, factors=(Factor(kind=FactorKind.CODE, age=timedelta()),),
                    ticket="T-1", reason="because",
                    tickets=(TicketFact(system="jira", ticket="T-1", ok=True, detail=""),),
                    grants=tuple(
                        GrantFact(
                            id=f"g{glass}", kinds=EVERY, starts=NOW, ends=NOW + timedelta(hours=1), break_glass=glass,
                            approvals=(ApprovalFact(approver="lena", roles=frozenset({"lead"})),),
                        )
                        for glass in (False, True)
                    ),
                )  # fmt: skip
                if isinstance(decide(found, facts), Allow):
                    wanted.add(kind)
            assert set(reach(found, who, place)) == wanted, (text, who, place)


def test_what_changes_when_rules_change():
    new = rules(
        RULES.replace('roles = ["dba"]', 'roles = ["dev"]').replace('allow = ["sftp"]', 'allow = ["sftp", "scp"]')
    )
    dave, alan = Subject("dave", frozenset({"dev"})), Subject("alan", frozenset({"dba"}))
    found = changes(
        rules(), new, [ALICE, alan, dave], [DB, HOME, Place(account="postgres", target="db2", labels=DB.labels)]
    )
    shown = {(one.persons, one.places, one.gained, one.lost) for one in found}
    dbs = ("postgres@db1", "postgres@db2")
    assert shown == {
        (("dave",), dbs, frozenset({SHELL, EXEC}), frozenset()),
        (("alan",), dbs, frozenset(), frozenset({SHELL, EXEC})),
        (("alice",), dbs, frozenset(), frozenset({SHELL, EXEC})),
        (("alice",), ("alice@web1",), frozenset({ChannelKind.SCP}), frozenset()),
    }
    assert changes(new, new, [ALICE, dave], [DB, HOME]) == []


def test_what_only_asks_for_other_things_is_shown_as_such():
    new = rules(RULES.replace('mfa = "15m", ', ""))
    (one,) = changes(rules(), new, [ALICE], [DB])
    assert (one.gained, one.lost, one.otherwise) == (frozenset(), frozenset(), {SHELL, EXEC})


def test_a_large_estate_takes_seconds():
    """1,000 persons, 10,000 targets with two accounts, 200 rules: 20 million pairs, few classes."""
    text = "".join(
        f'[[rule]]\nname = "r{number}"\nwho = {{ roles = ["team{number % 40}"] }}\n'
        f'where = {{ labels = {{ group = "g{number}" }} }}\nas = ["root", "$person"]\nallow = ["shell"]\n'
        for number in range(200)
    )
    people = [Subject(f"p{number}", frozenset({f"team{number % 40}"})) for number in range(1000)]
    places = [
        Place(account=account, target=f"t{number}", labels={"group": f"g{number % 200}"})
        for number in range(10_000)
        for account in ("root", "app")
    ]
    began = time.process_time()
    found = changes(rules(text), rules(text.replace('"team7"', '"team8"')), people, places)
    assert time.process_time() - began < 20
    assert {person for one in found for person in one.persons} == {
        f"p{number}" for number in range(1000) if number % 40 in (7, 8)
    }


# --- over the socket ------------------------------------------------------------------------------------


def everything(peer, question, **words):
    rows = []
    while page := peer.ask(question(**words, after=" ".join(rows[-1][:2]) if rows else "")).rows:
        rows += page
    return rows


def test_asked_of_policyd(policyd):
    operator = policyd.operator()
    web = [row for row in everything(operator, m.WhoCan, target="web1") if row[0] == "alice"]
    assert web
    assert "shell" in web[0][2].split()
    mine = everything(operator, m.WhatCan, person="alice")
    assert ["web1", web[0][1]] in [row[:2] for row in mine]
    assert mine == sorted(mine)
    operator.ask(m.PersonSet(name="alice", disabled=True))
    assert everything(operator, m.WhatCan, person="alice") == []
    assert not [row for row in everything(operator, m.WhoCan, target="web1") if row[0] == "alice"]
    operator.ask(m.PersonSet(name="alice", disabled=False))


def test_pages_are_whole(policyd):
    """More than a page, more than a message: nobody is left out and nobody comes twice."""
    operator = policyd.operator()
    for number in range(450):
        operator.ask(m.PersonAdd(name=f"p{number:03}", roles=["engineer"]))
    found = [tuple(row[:2]) for row in everything(operator, m.WhoCan, target="web1", channel="shell")]
    assert found == sorted(set(found))
    assert {name for name, _ in found if name.startswith("p")} == {f"p{number:03}" for number in range(450)}


def test_a_list_is_one_view_however_many_pages(policyd):
    operator = policyd.operator()

    def views() -> int:
        return sum(" can come to" in event["what"] for event in policyd.audit("view"))

    before = views()
    everything(operator, m.WhoCan, target="web1")
    assert views() == before + 1
    everything(operator, m.WhatCan, person="bob")
    assert views() == before + 2
    everything(operator, m.WhoCan, target="web1")
    assert views() == before + 3, "to look again is to look"
    with policyd.operator() as sly:
        sly.ask(m.WhoCan(target="web1", after="a "))  # attack: later pages alone
    assert views() == before + 4


@pytest.mark.parametrize(
    "question",
    [m.WhoCan(target="nowhere"), m.WhoCan(target="web1", account="nobody"), m.WhatCan(person="nobody"),
     m.WhatCan(person="alice", channel="telepathy")],
)  # fmt: skip
def test_what_is_not_there_is_said(policyd, question):
    answer = policyd.operator().ask(question)
    assert isinstance(answer, m.Refused)
    assert answer.code == 64
    assert answer.hint


def test_not_for_everybody(policyd):
    assert isinstance(policyd.login("alice").ask(m.WhoCan(target="web1")), m.Refused)
