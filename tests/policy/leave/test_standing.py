"""Grants in memory and in the database: what is over stays over, and what may happen once happens once."""

import os
import pwd
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import operators, store
from policy.leave.standing import Standing
from policy.login.dialogue import Login, Person, Phase, Succeeded, TokenShown, step
from policy.messages import Verdict
from policy.model import ChannelKind, Outcome
from policy.operators import login_names
from policy.peers import Peer
from policy.records import AccessGrant, AccessRequest, Vote
from policy.rules.conditions import FactorKind, Facts, covers
from policy.rules.decide import Allow, Deny, attainable, decide, denial_for_person, need_of
from policy.rules.ruleset import parse_rules
from policy.rules.words import GIVEN, OWNER
from policy.store import Conflict

NOW = 1_800_000_000_000_000_000
SECOND = 1_000_000_000
KINDS = frozenset({"shell", "exec"})
LEAD = Vote(approver="lena", roles=frozenset({"lead"}), approve=True, comment="", source="", at=NOW)
RULES = parse_rules("""
[[rule]]
name    = "asks"
who     = { roles = ["dba"] }
where   = { targets = ["db1"] }
as      = ["*"]
allow   = ["shell", "exec", "sftp"]
require = { approval = { by = ["lead"], count = 1 } }

[[rule]]
name    = "asks nobody"
who     = { roles = ["dba"] }
where   = { targets = ["web1"] }
as      = ["*"]
allow   = ["shell", "exec", "sftp"]
limits  = { session = "8h" }
""")


def grant(ident: str = "g-1", **more) -> AccessGrant:
    parts = {
        "id": ident, "request": "r-1", "person": "alice", "account": "root", "target": "db1", "kinds": KINDS,
        "starts": NOW, "ends": NOW + 3600 * SECOND, "uses": 0, "made": NOW, "made_by": "lena", "votes": (LEAD,),
    }  # fmt: skip
    return AccessGrant(**{**parts, **more})


def facts(standing: Standing, at: int = NOW, target: str = "db1", token: str = "", **more) -> Facts:
    grants = standing.facts("alice", "root", target, at, lambda _: True, token=token)
    parts = {
        "person": "alice", "roles": frozenset({"dba"}), "account": "root", "target": target, "labels": {},
        "now": datetime.fromtimestamp(at / 1e9, UTC), "source": "10.1.2.3", "grants": grants, "token": token,
    }  # fmt: skip
    return Facts(**{**parts, **more})


def allowed(*args, **more) -> bool:
    return isinstance(decide(RULES, facts(*args, **more)), Allow)


# --- in memory ----------------------------------------------------------------------------------------------


def test_a_grant_holds_from_its_start_to_its_end():
    standing = Standing([grant(starts=NOW + 10 * SECOND)])
    assert [allowed(standing, NOW + at * SECOND) for at in (9, 10, 3599)] == [False, True, True]
    assert not allowed(standing, NOW + 3600 * SECOND)


def test_the_end_of_a_grant_is_no_part_of_it():
    (one,) = facts(Standing([grant()])).grants
    at = facts(Standing()).now
    assert [covers(one, facts(Standing(), now=at + timedelta(seconds=s))) for s in (0, 3599, 3600)] == [
        True,
        True,
        False,
    ]


def test_it_is_for_its_person_and_place_alone():
    for other in ({"person": "bob"}, {"account": "postgres"}, {"target": "db2"}):
        assert not allowed(Standing([grant(**other)]))


def test_the_session_ends_with_it():
    decision = decide(RULES, facts(Standing([grant()]), NOW + 600 * SECOND))
    assert isinstance(decision, Allow)
    assert (decision.grant, decision.expires_in) == ("g-1", timedelta(seconds=3000))
    assert decision.kinds == {ChannelKind.SHELL, ChannelKind.EXEC}


def test_used_up_it_begins_nothing_and_what_it_began_goes_on():
    standing = Standing([grant(uses=2, used=1)])
    assert allowed(standing)
    standing.used("g-1")
    assert not allowed(standing)
    assert allowed(standing, using="g-1")
    standing.drop("g-1")
    assert not allowed(standing, using="g-1")


def test_a_session_that_rests_on_one_grant_does_not_go_on_with_another():
    standing = Standing([grant("g-1", kinds=frozenset({"shell"})), grant("g-2", kinds=frozenset({"exec"}))])
    assert allowed(standing, channel=ChannelKind.EXEC)
    assert not allowed(standing, channel=ChannelKind.EXEC, using="g-1")


@pytest.mark.parametrize(
    ("vote", "enough"),
    [
        (LEAD, True),
        (replace(LEAD, roles=frozenset({"dba"})), False),
        (replace(LEAD, roles=frozenset({"dba", OWNER})), False),  # this rule does not name owners
        (replace(LEAD, roles=frozenset({"admin", GIVEN})), True),
        (replace(LEAD, approver="alice"), False),
        (replace(LEAD, approve=False), False),
    ],
)
def test_at_each_use_the_votes_are_judged_by_the_rule_of_now(vote, enough):
    assert allowed(Standing([grant(votes=(vote,))])) is enough


@given(st.lists(st.integers(min_value=-100, max_value=8000), max_size=20))
def test_a_clock_set_back_revives_nothing(seconds):
    """Whatever the clock does: what was seen to be over is over, for sessions that live as well."""
    standing, over = Standing([grant()]), False
    for at in seconds:
        over = over or at >= 3600
        assert allowed(standing, NOW + at * SECOND) is (not over and at >= 0)
        assert allowed(standing, NOW + at * SECOND, using="g-1") is (not over and at >= 0)
    assert bool(standing.over(NOW)) is over


def test_what_is_dropped_leaves_nothing_behind():
    standing = Standing([grant(), grant("g-2", token=b"t")])
    for ident in ("g-1", "g-2", "g-2"):
        standing.drop(ident)
    assert (standing.all(), standing.at("alice", "root", "db1"), standing.by_token(b"t")) == ([], [], None)
    assert standing._places == {}


# --- tokens --------------------------------------------------------------------------------------------------


def test_a_token_is_for_its_own_login_and_that_for_nothing_else():
    standing = Standing([grant("g-t", token=b"t"), grant("g-1", kinds=frozenset({"sftp"}))])
    plain, tokened = facts(standing), facts(standing, token="g-t")
    assert [one.id for one in plain.grants] == ["g-1"]
    assert [one.id for one in tokened.grants] == ["g-t"]


def test_where_rules_ask_nobody_a_token_still_confines():
    standing = Standing([grant("g-t", token=b"t", target="web1", votes=(), uses=1)])
    decision = decide(RULES, facts(standing, target="web1", token="g-t"))
    assert isinstance(decision, Allow)
    assert (decision.grant, decision.kinds) == ("g-t", {ChannelKind.SHELL, ChannelKind.EXEC})
    assert decision.expires_in == timedelta(hours=1)
    assert not allowed(standing, target="web1", token="g-t", channel=ChannelKind.SFTP)
    assert not allowed(standing, target="web1", token="g-t", account="deploy", grants=())
    standing.used("g-t")
    assert not allowed(standing, target="web1", token="g-t")
    assert allowed(standing, target="web1", token="g-t", using="g-t")
    standing.drop("g-t")
    denial = decide(RULES, facts(standing, target="web1", token="g-t", using="g-t"))
    assert isinstance(denial, Deny)
    assert not attainable(denial)


def test_a_token_brings_no_votes_of_its_own():
    assert not allowed(Standing([grant("g-t", token=b"t", votes=())]), token="g-t")
    assert allowed(Standing([grant("g-t", token=b"t")]), token="g-t")


def shown(login: Login, owner: Person | None, claim: str = "", claimed: Person | None = None, **more):
    return step(login, TokenShown(claim=claim, claimed=claimed, now=1.0, owner=owner, **more))


def test_a_token_is_a_login_by_itself():
    login, effects = shown(Login(), Person(name="alice", has_code=True, locked=True, code_locked=True))
    assert login.phase is Phase.DONE
    assert effects[0] == Succeeded(person="alice", factors=(FactorKind.TOKEN,))


@pytest.mark.parametrize(
    ("owner", "more"),
    [
        (None, {}),
        (Person(name="alice", disabled=True), {}),
        (Person(name="alice"), {"claim": "bob", "claimed": Person(name="bob")}),
    ],
)
def test_what_is_no_login(owner, more):
    login, effects = shown(Login(), owner, **more)
    assert login.phase is Phase.FRESH
    verdict = effects[-1].message
    assert isinstance(verdict, Verdict)
    assert verdict.outcome is Outcome.REFUSED


@pytest.mark.parametrize("phase", [Phase.HALFWAY, Phase.ASKED])
def test_a_token_is_no_second_factor(phase):
    """Attack: the key of one person, finished with a token."""
    login, _ = shown(Login(phase=phase, person="alice"), Person(name="alice"))
    assert login.phase is Phase.HALFWAY


def test_a_locked_source_shows_no_tokens():
    login, _ = shown(Login(), Person(name="alice"), source_locked=True)
    assert login.phase is Phase.CLOSED


# --- words ---------------------------------------------------------------------------------------------------


def test_nobody_is_told_to_break_a_glass_while_there_is_another_way():
    glass = """
[[rule]]
name = "fire"
who = { roles = ["dba"] }
where = { targets = ["db1"] }
as = ["*"]
allow = ["shell"]
break-glass = true
"""
    asks = """
[[rule]]
name    = "asks"
who     = { roles = ["dba"] }
where   = { targets = ["db1"] }
as      = ["*"]
allow   = ["shell"]
require = { reason = true, approval = { by = ["lead"] } }
"""
    wanted = facts(Standing())
    denial = decide(parse_rules(glass + asks), wanted)
    assert isinstance(denial, Deny)
    assert need_of(denial) == "approval"
    assert denial_for_person(denial, wanted)[1] == "ask for it: ssh bastion request root@db1 --reason why"
    denial = decide(parse_rules(glass), wanted)
    assert isinstance(denial, Deny)
    assert need_of(denial) == ""
    assert "--break-glass" in denial_for_person(denial, wanted)[1]


def test_cover_is_for_one_kind():
    (one,) = facts(Standing([grant()])).grants
    assert covers(one, facts(Standing(), channel=ChannelKind.EXEC))
    assert not covers(one, facts(Standing(), channel=ChannelKind.SFTP))


# --- in the database ------------------------------------------------------------------------------------------


REQUEST = AccessRequest(
    id="r-1", person="alice", account="root", target="db1", kinds=KINDS, starts=NOW, seconds=60, uses=0, ticket="",
    reason="x", rule="asks", source="10.1.2.3", asked_by=frozenset({"alice", "olga"}), asked=NOW, expires=NOW + SECOND,
)  # fmt: skip


@pytest.fixture
def made(tmp_path: Path):
    database = store.create("sqlite:///bastion.db", tmp_path)
    with database.write() as t:
        t.access.add_request(replace(REQUEST, votes=(LEAD,)))
    yield database
    database.close()


def test_what_is_written_is_read(made):
    with made.write() as t:
        t.access.add_grant(grant(token=b"t"))
        t.access.add_review("g-1", NOW)
    with made.read() as t:
        assert t.access.request("r-1") == replace(REQUEST, votes=(LEAD,))
        assert t.access.request("r-2") is None
        assert t.access.active_grants(NOW) == [grant(token=b"t")]
        assert t.access.grants("alice") == [grant(token=b"t")]
        assert t.access.grants("bob") == []
        (review,) = t.access.reviews()
        assert (review.grant.id, review.written) == ("g-1", None)


def test_a_request_is_closed_once(made):
    with made.write() as t:
        assert t.access.is_pending("r-1")
        assert t.access.close_request("r-1", "approved", "lena", NOW)
        assert not t.access.close_request("r-1", "cancelled", "alice", NOW)
        assert not t.access.is_pending("r-1")
    with made.read() as t:
        assert t.access.request("r-1").state == "approved"
        assert t.access.requests() == []
        assert len(t.access.requests(all=True)) == 1


def test_nobody_votes_twice(made):
    with made.write() as t, pytest.raises(Conflict, match="already"):
        t.access.add_vote("r-1", replace(LEAD, approve=False))


@pytest.mark.parametrize(
    ("state", "at", "uses"),
    [
        ({"uses": 2}, 0, 2),
        ({"uses": 0}, 0, 5),
        ({"uses": 2, "used": 2}, 0, 0),
        ({"starts": NOW + 1}, 0, 0),
        ({}, 3600 * SECOND - 1, 5),
        ({}, 3600 * SECOND, 0),
        ({"revoked": NOW}, 0, 0),
    ],
)
def test_a_use_is_counted_while_there_is_one(made, state, at, uses):
    with made.write() as t:
        t.access.add_grant(grant(**state))
        assert [t.access.use_grant("g-1", NOW + at) for _ in range(5)].count(True) == uses
        assert not t.access.use_grant("g-2", NOW)


@pytest.mark.parametrize(("state", "number", "enough"), [
    ({"uses": 3}, 3, True), ({"uses": 3}, 4, False), ({"uses": 3, "used": 1}, 3, False), ({"uses": 0}, 1, False),
    ({"uses": 3, "revoked": NOW}, 1, False), ({"uses": 3, "ends": NOW}, 1, False),
])  # fmt: skip
def test_uses_are_handed_on_while_there_are_some(made, state, number, enough):
    with made.write() as t:
        t.access.add_grant(grant(**state))
        assert t.access.take_uses("g-1", number, NOW) is enough


def test_revoked_and_reviewed_once(made):
    with made.write() as t:
        t.access.add_grant(grant())
        t.access.add_review("g-1", NOW)
        assert t.access.revoke_grant("g-1", "lena", "odd", NOW)
        assert not t.access.revoke_grant("g-1", "lars", "odd", NOW)
        assert t.access.write_review("g-1", "sue", "fine", NOW)
        assert not t.access.write_review("g-1", "sam", "not fine", NOW)
    with made.read() as t:
        assert t.access.active_grants(NOW) == []
        assert t.access.grants()[0].revoked_by == "lena"
        assert t.access.reviews() == []
        assert t.access.reviews(all=True)[0].author == "sue"


# --- who stands behind an operator ------------------------------------------------------------------------------


def test_the_login_of_an_operator_is_a_name():
    games = pwd.getpwnam("games")
    peer = Peer(pid=os.getpid(), uid=games.pw_uid, gid=games.pw_gid, groups=frozenset())
    assert "games" in login_names(peer)
    assert "root" not in login_names(replace(peer, uid=0))
    assert login_names(replace(peer, uid=4_000_000_000, pid=2**22 + 1)) == frozenset()


def test_sudo_is_no_other_person(monkeypatch):
    """The login that a session began with is still known to the kernel (pam_loginuid)."""
    monkeypatch.setattr(operators, "_login_uid", lambda _: pwd.getpwnam("games").pw_uid)
    assert login_names(Peer(pid=1, uid=0, gid=0, groups=frozenset())) == {"games"}
