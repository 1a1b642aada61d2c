"""Leave asked for, given, used, taken back and over, against a running policyd."""

import os
import pwd
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from policy import messages as m
from tests.policy.conftest import copied
from tests.policy.jit import RULES, asked, authorize, dba, given, no, prepared
from tests.policy.policyd import Peer, Policyd
from tests.support.net import wait_until


@pytest.fixture(scope="module")
def policyd(filled: Policyd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policyd]:
    daemon = copied(filled, tmp_path_factory.mktemp("p"), "source_failures = 100000")
    daemon.rules = RULES
    daemon.write()
    try:
        yield prepared(daemon.start())
    finally:
        daemon.stop()


def grants(policyd: Policyd, ident: str) -> dict[str, str]:
    rows = policyd.done(m.GrantList(all=True))
    return next(dict(zip(rows.columns, row, strict=True)) for row in rows.rows if row[0] == ident)


# --- asked and given --------------------------------------------------------------------------------------


def test_without_leave_it_says_what_to_do(policyd):
    with policyd.login(dba(policyd)) as peer:
        refused = no(authorize(peer), 75, need="approval")
        assert "1 of lead or $owner" in refused.cause
        assert refused.hint == "ask for it: ssh bastion request root@db1 --reason why"
        request = asked(peer)
        refused = no(authorize(peer), 75, need="approval")
        assert request in refused.cause


def test_leave_given_lets_in_until_it_ends(policyd):
    name = dba(policyd)
    with policyd.login(name) as peer, policyd.login("lena") as lena:
        request = asked(peer, seconds=1800, kinds=["shell"])
        (row,) = lena.ask(m.RequestList()).rows[:1]
        assert row[:5] == [request, "pending", name, "root", "db1"]
        done = lena.ask(m.Decide(request=request, approve=True, comment="go on"))
        assert done.data["state"] == "approved"
        grant = authorize(peer)
        assert isinstance(grant, m.Grant)
        assert (grant.rule, grant.kinds) == ("one lead", ["shell"])
        assert 1790 < grant.expires_in <= 1800
        assert peer.ask(m.OpenChannel(session=grant.session, kind="shell")) == m.Allowed()
        no(peer.ask(m.OpenChannel(session=grant.session, kind="exec")), 75, need="approval")
    session = policyd.audit("access-granted")[0]
    assert done.data["grant"] in session["detail"]
    (event,) = [one for one in policyd.audit("grant") if done.data["grant"] in one["detail"]]
    assert (event["who"], event["what"], event["why"]) == ("lena", f"{name} on root@db1", "upgrade")


def test_the_one_who_waits_hears_of_it_at_once(policyd):
    with policyd.login(dba(policyd)) as peer, policyd.login("lena") as lena:
        request = asked(peer)
        peer.send(m.encode(77, m.RequestAwait(request=request, seconds=30)))
        began = time.monotonic()
        lena.ask(m.Decide(request=request, approve=False, comment="not today"))
        answer = peer.receive()[1]
        assert answer.data["state"] == "denied"
        assert "not today" in answer.text
        assert time.monotonic() - began < 20
        no(authorize(peer), 75, need="approval")


def test_waiting_ends_by_itself(policyd):
    with policyd.login(dba(policyd)) as peer:
        assert peer.ask(m.RequestAwait(request=asked(peer), seconds=0.05)).data["state"] == "pending"
        assert peer.ask(m.RequestAwait(request=asked(peer), seconds=float("nan"))).data["state"] == "pending"


def test_two_of_them_and_never_one_twice(policyd):
    name = dba(policyd)
    with policyd.login(name) as peer, policyd.login("lena") as lena, policyd.login("lars") as lars:
        request = asked(peer, "db2")
        done = lena.ask(m.Decide(request=request, approve=True))
        assert done.data == {"request": request, "state": "pending", "missing": "1"}
        assert "already" in no(lena.ask(m.Decide(request=request, approve=True))).cause
        no(authorize(peer, "db2"), 75, need="approval")
        assert lars.ask(m.Decide(request=request, approve=True)).data["state"] == "approved"
        assert isinstance(authorize(peer, "db2"), m.Grant)


def test_one_no_is_no(policyd):
    with policyd.login(dba(policyd)) as peer, policyd.login("lena") as lena, policyd.login("lars") as lars:
        request = asked(peer, "db2")
        lena.ask(m.Decide(request=request, approve=True))
        assert lars.ask(m.Decide(request=request, approve=False)).data["state"] == "denied"
        assert "denied already" in no(lena.ask(m.Decide(request=request, approve=True))).cause
        no(authorize(peer, "db2"), 75, need="approval")


def test_nobody_approves_themselves(policyd):
    name = dba(policyd, "lead")
    with policyd.login(name) as peer:
        request = asked(peer)
        assert "for themselves" in no(peer.ask(m.Decide(request=request, approve=True))).cause
        no(authorize(peer), 75, need="approval")


def test_who_has_no_say_sees_nothing_and_decides_nothing(policyd):
    with policyd.login(dba(policyd)) as peer, policyd.login("bob") as bob, policyd.login(dba(policyd)) as other:
        request = asked(peer)
        unknown = no(bob.ask(m.Decide(request="r-nowhere", approve=True))).cause
        for stranger in (bob, other):
            for word in (
                m.Decide(request=request, approve=True),
                m.RequestShow(request=request),
                m.RequestAwait(request=request),
                m.RequestCancel(request=request),
            ):
                assert no(stranger.ask(word)).cause == unknown.replace("r-nowhere", request)
            assert stranger.ask(m.RequestList(all=True)).rows == []


def test_an_operator_is_no_approver(policyd):
    with policyd.login(dba(policyd)) as peer:
        answer = policyd.command(m.Decide(request=asked(peer), approve=True))
        assert "operator is no person" in answer.cause


def test_a_wish_that_comes_twice_gives_nothing_twice(policyd):
    with policyd.login(dba(policyd)) as peer:
        assert asked(peer, seconds=60) == asked(peer, seconds=60)
        assert asked(peer, seconds=60) != asked(peer, seconds=61)
        first, again = (
            peer.ask(m.RequestAccess(account="root", target="db3", uses=1, reason="disk full")) for _ in range(2)
        )
        assert first.data["grant"] == again.data["grant"]
        assert isinstance(authorize(peer, "db3"), m.Grant)
        no(authorize(peer, "db3"), 75, need="approval")


def test_requests_of_one_person_have_a_limit(policyd):
    with policyd.login(dba(policyd)) as peer:
        for seconds in range(60, 80):
            asked(peer, seconds=seconds)
        no(peer.ask(m.RequestAccess(account="root", target="db1", seconds=99, reason="x")), 64)


def test_what_is_not_for_one_cannot_be_asked_for(policyd):
    said = set()
    with policyd.login("bob") as peer:
        for account, target in (("root", "db1"), ("root", "hidden"), ("root", "nowhere"), ("nobody", "db1")):
            answer = no(peer.ask(m.RequestAccess(account=account, target=target, reason="x")))
            said.add((answer.cause.replace(account, "A").replace(target, "T"), answer.hint))
        answer = no(peer.ask(m.RequestAccess(account="root", target="web1", reason="x")), 64)
        assert "nobody's leave" in answer.cause
    assert len(said) == 1


def test_taken_back_it_is_not_given(policyd):
    with policyd.login(dba(policyd)) as peer, policyd.login("lena") as lena:
        request = asked(peer)
        assert peer.ask(m.RequestCancel(request=request)).data["state"] == "cancelled"
        assert "cancelled already" in no(lena.ask(m.Decide(request=request, approve=True))).cause


def test_what_nobody_decides_expires(policyd):
    with policyd.login(dba(policyd)) as peer, policyd.login("lena") as lena:
        request = asked(peer, "db2")
        assert peer.ask(m.RequestAwait(request=request, seconds=30)).data["state"] == "expired"
        assert "expired already" in no(lena.ask(m.Decide(request=request, approve=True))).cause
    assert any(one["what"] == request for one in policyd.audit("request-expired"))


# --- used up, over, taken back ------------------------------------------------------------------------------


def test_each_session_takes_one_use(policyd):
    name = dba(policyd)
    ident = given(policyd, name, uses=2)
    with policyd.login(name) as peer:
        first, second = authorize(peer), authorize(peer)
        assert isinstance(first, m.Grant)
        assert isinstance(second, m.Grant)
        no(authorize(peer), 75, need="approval")
        assert peer.ask(m.OpenChannel(session=first.session, kind="exec")) == m.Allowed(), (
            "what it began with, it keeps"
        )
    assert grants(policyd, ident)["used"] == "2"


@pytest.mark.parametrize("report", ["target-unreachable", "login-failed-at-target", "host-key-mismatch"])
@pytest.mark.parametrize("how", ["ended", "hung up", "killed"])
def test_a_use_that_came_to_nothing_is_given_back(policyd, report, how):
    name = dba(policyd)
    ident = given(policyd, name, uses=1)
    with policyd.login(name) as peer:
        grant = authorize(peer)
        peer.ask(m.Credential(session=grant.session, session_key=b""))
        peer.ask(m.Report(session=grant.session, event=report))
        no(authorize(peer), 75, need="approval")
        if how == "ended":
            peer.ask(m.SessionEnded(session=grant.session, reason="target-lost"))
        if how == "killed":
            policyd.done(m.SessionKill(session=grant.session, reason="x"))
    wait_until("the use", lambda: grants(policyd, ident)["used"] == "0")
    (event,) = policyd.audit("grant-use-returned", limit=1)
    assert (event["what"], event["why"]) == (ident, report)
    with policyd.login(name) as peer:
        assert isinstance(authorize(peer), m.Grant), "memory knows it, too"
        no(authorize(peer), 75, need="approval")


def test_a_use_that_came_to_something_is_not(policyd):
    """Attack: work on the target, and let the gateway say, before or after, that there was none; or try again."""
    name = dba(policyd)
    ident = given(policyd, name, uses=3)
    with policyd.login(name) as peer:
        first, second, third = authorize(peer), authorize(peer), authorize(peer)
        peer.ask(m.Report(session=third.session, event="target-unreachable"))
        assert peer.ask(m.OpenChannel(session=third.session, kind="exec")) == m.Allowed()
        peer.ask(m.SessionEnded(session=third.session, reason="closed"))
        assert peer.ask(m.OpenChannel(session=first.session, kind="exec")) == m.Allowed()
        peer.ask(m.Report(session=first.session, event="target-unreachable"))
        peer.ask(m.SessionEnded(session=first.session, reason="closed"))
        peer.ask(m.Credential(session=second.session, session_key=b""))
        peer.ask(m.Report(session=second.session, event="target-unreachable"))
        peer.ask(m.Credential(session=second.session, session_key=b""))
        peer.ask(m.SessionEnded(session=second.session, reason="closed"))
    assert grants(policyd, ident)["used"] == "3"


def test_of_many_at_once_one_gets_the_last_use(policyd):
    name = dba(policyd)
    given(policyd, name, uses=1)
    peers = [policyd.login(name) for _ in range(8)]
    for peer in peers:
        peer.send(m.encode(50, m.Authorize(account="root", target="db1")))
    answers = [peer.receive()[1] for peer in peers]
    assert [type(one) for one in answers].count(m.Grant) == 1


def test_a_session_ends_with_its_grant(policyd):
    name = dba(policyd)
    ident = given(policyd, name, seconds=6)
    with policyd.login(name) as peer:
        grant = authorize(peer)
        assert grant.expires_in <= 6
        assert peer.push().reason == "expired"
        no(authorize(peer), 75, need="approval")
    wait_until("the end to be written", lambda: grants(policyd, ident)["state"] == "over")


def test_revoked_it_ends_at_once(policyd):
    name = dba(policyd)
    ident = given(policyd, name)
    with policyd.login(name) as peer, policyd.login("lena") as lena, policyd.login("bob") as bob:
        grant = authorize(peer)
        no(bob.ask(m.GrantRevoke(grant=ident)))
        done = lena.ask(m.GrantRevoke(grant=ident, reason="wrong machine"))
        assert done.data["sessions_ended"] == "1"
        push = peer.push()
        assert (push.session, push.by) == (grant.session, "lena")
        assert "wrong machine" in push.reason
        no(authorize(peer), 75, need="approval")
        no(lena.ask(m.GrantRevoke(grant=ident)))
    assert grants(policyd, ident)["state"] == "revoked by lena"


def test_revoked_while_it_is_being_used(policyd):
    """Whoever comes first: there is no session that outlives its grant."""
    for _ in range(6):
        name = dba(policyd)
        ident = given(policyd, name)
        with policyd.login(name) as peer, policyd.operator() as operator:
            peer.send(m.encode(50, m.Authorize(account="root", target="db1")))
            operator.ask(m.GrantRevoke(grant=ident))
            number, answer = peer.receive()
            while number != 50:
                number, answer = peer.receive()
            if isinstance(answer, m.Grant):
                refused = peer.ask(m.OpenChannel(session=answer.session, kind="shell"))
                assert isinstance(refused, m.Refused)
        assert not [row for row in policyd.done(m.SessionsList()).rows if row[1] == name]


def test_the_vote_of_who_is_disabled_counts_no_more(policyd):
    name = dba(policyd)
    policyd.person(f"l-{name}", "lead")
    with policyd.login(name) as peer, policyd.login(f"l-{name}") as lead:
        lead.ask(m.Decide(request=asked(peer), approve=True))
        assert isinstance(authorize(peer), m.Grant)
        done = policyd.done(m.PersonSet(name=f"l-{name}", disabled=True))
        assert "ended 1 live session" in done.text
        assert peer.push().reason == "no longer allowed"
        no(authorize(peer), 75, need="approval")
        policyd.done(m.PersonSet(name=f"l-{name}", disabled=False))
        assert isinstance(authorize(peer), m.Grant), "a vote counts while its person does"


def test_approved_taken_back_and_expired_at_once_it_ends_once(policyd):
    """Three want to close the same request: one does, and the state is the one that was answered."""
    for _ in range(5):
        name = dba(policyd)
        with policyd.login(name) as peer, policyd.login("lena") as lena, policyd.login("lars") as lars:
            request = asked(peer)
            words = [
                (peer, m.RequestCancel(request=request)),
                (lena, m.Decide(request=request, approve=True)),
                (lars, m.Decide(request=request, approve=False)),
            ]
            threads = [threading.Thread(target=who.send, args=(m.encode(60, word),)) for who, word in words]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            answers = [who.receive()[1] for who, _ in words]
            (done,) = [one for one in answers if isinstance(one, m.Done)]
            state = peer.ask(m.RequestAwait(request=request, seconds=0)).data["state"]
            assert done.data["state"] == state
            assert isinstance(authorize(peer), m.Grant) is (state == "approved")


def test_grants_survive_a_restart_and_what_is_over_stays_over(make_policyd):
    policyd = make_policyd(files={"policy.toml": RULES})
    prepared(policyd)
    name = dba(policyd)
    given(policyd, name, uses=2)
    with policyd.login(name) as peer:
        assert isinstance(authorize(peer), m.Grant)
        waiting = asked(peer, seconds=60)
    policyd.restart()
    with policyd.login(name) as peer, policyd.login("lena") as lena:
        assert isinstance(authorize(peer), m.Grant)
        no(authorize(peer), 75, need="approval")
        assert lena.ask(m.Decide(request=waiting, approve=True)).data["state"] == "approved"


def test_approved_in_the_very_moment_it_expires(policyd):
    """Whoever comes first: what was answered is how it is."""
    for early in (0.004, 0.001, 0.0, -0.001, -0.02):
        name = dba(policyd)
        with policyd.login(name) as peer, policyd.login("lena") as lena:
            began = time.time()
            request = asked(peer, "db7")
            while time.time() < began + 1 - early:
                pass
            answer = lena.ask(m.Decide(request=request, approve=True))
            state = peer.ask(m.RequestAwait(request=request, seconds=20)).data["state"]
            assert state == ("approved" if isinstance(answer, m.Done) else "expired")
            assert isinstance(authorize(peer, "db7"), m.Grant) is (state == "approved")


def test_a_locked_database_gives_nothing_and_takes_no_use(make_policyd):
    policyd = prepared(make_policyd(files={"policy.toml": RULES}))
    name = dba(policyd)
    given(policyd, name, uses=1)
    with policyd.login(name) as peer, policyd.login("lena") as lena:
        request = asked(peer, seconds=60)
        locker = sqlite3.connect(policyd.database, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        for answer in (authorize(peer), lena.ask(m.Decide(request=request, approve=True))):
            assert (answer.code, answer.cause) == (69, "the bastion cannot keep its audit trail")
        locker.execute("ROLLBACK")
        locker.close()
        assert peer.ask(m.RequestAwait(request=request, seconds=0)).data["state"] == "pending"
        assert isinstance(authorize(peer), m.Grant)
        no(authorize(peer), 75, need="approval")


def test_revoked_with_a_locked_database_who_is_in_goes(make_policyd):
    policyd = prepared(make_policyd(files={"policy.toml": RULES}))
    name = dba(policyd)
    ident = given(policyd, name, uses=9)
    with policyd.login(name) as peer, policyd.operator() as operator:
        grant = authorize(peer)
        locker = sqlite3.connect(policyd.database, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        assert operator.ask(m.GrantRevoke(grant=ident)).code == 69
        assert peer.push().session == grant.session
        locker.execute("ROLLBACK")
        locker.close()
        assert isinstance(operator.ask(m.GrantRevoke(grant=ident)), m.Done)
        no(authorize(peer), 75, need="approval")


def test_a_use_that_was_answered_survives_a_kill(make_policyd):
    policyd = prepared(make_policyd(files={"policy.toml": RULES}))
    name = dba(policyd)
    given(policyd, name, uses=1)
    with policyd.login(name) as peer:
        assert isinstance(authorize(peer), m.Grant)
        policyd.kill()
    policyd.start()
    with policyd.login(name) as peer:
        no(authorize(peer), 75, need="approval")


# --- given without being asked --------------------------------------------------------------------------------


def test_a_lead_gives_leave(policyd):
    name = dba(policyd)
    with policyd.login("lena") as lena, policyd.login(name) as peer, policyd.login("bob") as bob:
        word = m.GrantAdd(person=name, account="root", target="db1", seconds=60, reason="night shift")
        nobody = m.GrantAdd(person="nobody-here", account="root", target="db1", reason="x")
        assert {no(bob.ask(one)).cause for one in (word, nobody)} == {"you may not give this"}
        no(peer.ask(word))
        assert lena.ask(word).data["state"] == "approved"
        assert isinstance(authorize(peer), m.Grant)
        assert [row[2] for row in peer.ask(m.GrantList()).rows] == [name]
        no(bob.ask(m.GrantList(person=name)))


def test_an_administrator_gives_leave_but_not_to_themselves(policyd):
    name = dba(policyd, "admin")
    other = dba(policyd)
    with policyd.login(name) as admin, policyd.login(other) as peer:
        no(admin.ask(m.GrantAdd(person=name, account="root", target="db1", reason="x")))
        assert admin.ask(m.GrantAdd(person=other, account="root", target="db1", reason="x")).data["grant"]
        assert isinstance(authorize(peer), m.Grant)


def test_one_who_gives_is_one_of_those_the_rule_wants(policyd):
    name = dba(policyd)
    done = policyd.done(m.GrantAdd(person=name, account="root", target="db2", reason="x"))
    assert done.data["missing"] == "1"
    with policyd.login(name) as peer, policyd.login("lars") as lars:
        no(authorize(peer, "db2"), 75, need="approval")
        assert lars.ask(m.Decide(request=done.data["request"], approve=True)).data["state"] == "approved"
        assert isinstance(authorize(peer, "db2"), m.Grant)


def test_leave_widens_no_rule(policyd):
    for person, target in (("bob", "db1"), ("alice", "hidden")):
        answer = policyd.command(m.GrantAdd(person=person, account="root", target=target, reason="x"))
        assert "not allowed or does not exist" in answer.cause


# --- emergencies ----------------------------------------------------------------------------------------------


def test_breaking_the_glass(policyd):
    name = dba(policyd, "security")
    with policyd.login(name) as peer, policyd.login("sue") as sue:
        refused = no(authorize(peer, "db4"))
        assert "--break-glass" in refused.hint
        word = m.RequestAccess(account="root", target="db4", break_glass=True)
        no(peer.ask(word), 64)
        done = peer.ask(m.RequestAccess(account="root", target="db4", break_glass=True, reason="on fire"))
        assert isinstance(authorize(peer, "db4"), m.Grant)
        (event,) = [one for one in policyd.audit("break-glass") if done.data["grant"] in one["detail"]]
        assert (event["who"], event["why"]) == (name, "on fire")
        assert policyd.audit("access-granted")[0]["detail"].count("break-glass=yes") == 1
        ident = done.data["grant"]
        assert ["review", ident] in [row[:2] for row in sue.ask(m.Notices()).rows]
        assert ["review", ident] not in [row[:2] for row in peer.ask(m.Notices()).rows]
        assert "themselves" in no(peer.ask(m.ReviewWrite(grant=ident, text="all fine"))).cause
        no(sue.ask(m.ReviewWrite(grant=ident, text="  ")), 64)
        assert isinstance(sue.ask(m.ReviewWrite(grant=ident, text="it was on fire")), m.Done)
        no(sue.ask(m.ReviewWrite(grant=ident, text="again")), 64)
        assert ident not in [row[0] for row in sue.ask(m.ReviewList()).rows]
        assert ident in [row[0] for row in sue.ask(m.ReviewList(all=True)).rows]


def test_a_glass_is_broken_where_a_rule_says_so_and_nowhere_else(policyd):
    with policyd.login(dba(policyd)) as peer, policyd.login("bob") as bob:
        word = m.RequestAccess(account="root", target="db1", break_glass=True, reason="on fire")
        no(peer.ask(word))
        no(bob.ask(m.RequestAccess(account="root", target="db4", break_glass=True, reason="on fire")))
        no(peer.ask(m.RequestAccess(account="root", target="db4", reason="no fire")))


# --- what is gone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["account", "target", "person"])
def test_what_comes_back_under_an_old_name_finds_no_leave(make_policyd, gone):
    policyd = prepared(make_policyd(files={"policy.toml": RULES}))
    name = dba(policyd)
    ident = given(policyd, name)
    with policyd.login(name) as peer:
        waiting = asked(peer, seconds=60)
    word = {
        "account": m.AccountRemove(account="root", target="db1"),
        "target": m.TargetRemove(name="db1"),
        "person": m.PersonOffboard(name=name),
    }[gone]
    policyd.done(word)
    assert grants(policyd, ident)["state"].startswith("revoked")
    (row,) = [row for row in policyd.done(m.RequestList(all=True)).rows if row[0] == waiting]
    assert row[1] == "cancelled"
    if gone == "person":
        return
    if gone == "target":
        policyd.target("db1", env="prod")
    policyd.done(m.AccountAdd(account="root", target="db1", password="x"))
    with policyd.login(name) as peer:
        no(authorize(peer), 75, need="approval")


# --- one person, two ways in ------------------------------------------------------------------------------------


@contextmanager
def operator_as(policyd: Policyd, user: str) -> Iterator[Peer]:
    """An operator who is this user of the machine, as the kernel tells policyd."""
    uid, before = pwd.getpwnam(user).pw_uid, Path.cwd()
    os.chdir(policyd.home / "run")
    os.seteuid(uid)
    try:
        peer = Peer(Path("policyd-admin.sock"), m.Admin(command="test"))
    finally:
        os.seteuid(0)
        os.chdir(before)
    with peer:
        yield peer


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_who_asked_as_an_operator_does_not_approve_as_a_person(policyd):
    policyd.person("games", "dba", "lead", "security", "watcher", "admin")
    with operator_as(policyd, "games") as operator, policyd.login("games") as games:
        request = asked(operator)
        assert "themselves" in no(games.ask(m.Decide(request=request, approve=True))).cause
        request = asked(games, seconds=60)
        assert "themselves" in no(operator.ask(m.Decide(request=request, approve=True))).cause
        no(operator.ask(m.GrantAdd(person="games", account="root", target="db1", reason="x")))
        done = operator.ask(m.RequestAccess(account="root", target="db4", break_glass=True, reason="x"))
        assert "themselves" in no(operator.ask(m.ReviewWrite(grant=done.data["grant"], text="fine"))).cause
        grant = authorize(games, "db5")
        assert "themselves" in no(operator.ask(m.WatchBegin(session=grant.session))).cause


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_an_operator_who_is_a_person_approves_as_that_person(policyd):
    policyd.person("news", "lead")
    with operator_as(policyd, "news") as operator, policyd.login(dba(policyd)) as peer:
        request = asked(peer)
        assert operator.ask(m.Decide(request=request, approve=True)).data["state"] == "approved"
        assert peer.ask(m.RequestShow(request=request)).rows[-2][1].startswith("news ")


# --- owners -----------------------------------------------------------------------------------------------------


def test_an_owner_approves_where_the_rule_says_so_and_gives_and_revokes(make_policyd):
    policyd = prepared(make_policyd(files={"policy.toml": RULES}))
    policyd.person("olga")
    name = dba(policyd)
    policyd.stop()
    with sqlite3.connect(policyd.database) as database:
        database.execute("INSERT INTO owner (person, scope) VALUES ('olga', 'db1'), ('olga', 'env=db')")
    database.close()
    policyd.start()
    with policyd.login("olga") as olga, policyd.login(name) as peer:
        done = olga.ask(m.Decide(request=asked(peer), approve=True))
        assert isinstance(authorize(peer), m.Grant)
        assert isinstance(olga.ask(m.GrantRevoke(grant=done.data["grant"])), m.Done)
        assert olga.ask(m.GrantAdd(person=name, account="root", target="db1", reason="x")).data["state"] == "approved"
        assert isinstance(authorize(peer), m.Grant)
        no(olga.ask(m.Decide(request=asked(peer, "db7"), approve=True)))
        assert olga.ask(m.GrantAdd(person=name, account="root", target="db7", reason="x")).data["state"] == "approved"
        no(olga.ask(m.GrantAdd(person="olga", account="root", target="db1", reason="x")))


# --- what waits for whom --------------------------------------------------------------------------------------------


def test_notices_are_for_those_who_can_do_something(policyd):
    name = dba(policyd)
    with policyd.login(name) as peer, policyd.login("lena") as lena, policyd.login("bob") as bob:
        request = asked(peer, "db2")
        (notice,) = [row for row in lena.ask(m.Notices()).rows if row[1] == request]
        assert notice == ["request", request, f"{name} asks for root@db2: upgrade", f"ssh bastion approve {request}"]
        assert bob.ask(m.Notices()).rows == []
        assert peer.ask(m.Notices()).rows == []
        lena.ask(m.Decide(request=request, approve=True))
        assert request not in [row[1] for row in lena.ask(m.Notices()).rows]
        rows = dict(peer.ask(m.RequestShow(request=request)).rows)
        assert rows["waits for"] == "1 of lead"
        assert rows["approved"].startswith("lena ")
        peer.ask(m.RequestAccess(account="root", target="db3", seconds=300, reason="x"))
        assert [row[0] for row in peer.ask(m.Notices()).rows] == ["grant"]
