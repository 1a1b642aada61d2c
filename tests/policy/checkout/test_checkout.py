"""Passwords that are out: life and end of one without a database, then all of it in a real policyd."""

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policy import messages as m
from policy.checkout.lease import SECOND, Checkouts, how_long
from policy.checkout.settings import LONGEST, CheckoutRules
from policy.model import CHANNELS, ChannelKind, Outcome
from policy.naming import CommandRefused
from policy.records import Checkout
from policy.rules.conditions import Facts, concerns
from policy.rules.decide import Allow, Deny, decide
from policy.rules.ruleset import BadRules, parse_rules
from tests.policy.policyd import Policyd
from tests.policy.proving import enrolled
from tests.policy.vaulting import RULES, bring, done, no, out, revealed, take
from tests.support.net import wait_until

ROW = Checkout(id="c-1", account="root", target="web1", person="alice", version=1, source="192.0.2.1", rule="r",
               taken=100 * SECOND, ends=160 * SECOND)  # fmt: skip
_numbers = itertools.count(1)

# --- without a database -------------------------------------------------------------------------------------------


def test_one_password_is_out_once() -> None:
    found = Checkouts([ROW], now=100 * SECOND, clock=7.0)
    with pytest.raises(AssertionError):
        found.put(replace(ROW, id="c-2", person="bob"), 1.0, 0.0)
    assert found.at("root", "web1") is ROW
    assert found.find("c-1") is found.find("root@web1") is ROW
    assert found.find("c-2") is found.find("root@web2") is None
    found.drop(replace(ROW, id="c-2"))
    assert len(found) == 1
    found.drop(ROW)
    assert len(found) == 0


def test_it_is_over_by_the_clock_that_says_so_first() -> None:
    found = Checkouts([ROW], now=100 * SECOND, clock=7.0)
    assert not found.is_over(ROW, 159 * SECOND, 66.9)
    assert found.is_over(ROW, 160 * SECOND, 7.0), "the wall clock, as people are told"
    assert found.is_over(ROW, 1 * SECOND, 67.0), "a wall clock set back lends no time"
    assert found.next_moment(130 * SECOND, 7.0) == 30
    assert found.next_moment(1 * SECOND, 60.0) == 7
    assert found.next_moment(999 * SECOND, 0.0) == 0
    assert Checkouts().next_moment(0, 0.0) is None


def test_a_start_with_a_clock_set_back_lends_no_longer_than_it_was_given_for() -> None:
    found = Checkouts([ROW], now=1 * SECOND, clock=7.0)
    assert found.is_over(ROW, 1 * SECOND, 67.0)
    assert Checkouts([ROW], now=500 * SECOND, clock=7.0).is_over(ROW, 0, 7.0)


def test_each_warning_once_and_by_the_clock_that_says_so_first() -> None:
    row = replace(ROW, ends=700 * SECOND)
    found = Checkouts([row], now=100 * SECOND, clock=0.0)
    assert found.next_moment(100 * SECOND, 0.0) == 300
    assert found.to_warn(399 * SECOND, 299.0) == []
    assert found.to_warn(1 * SECOND, 300.0) == [(row, 300.0, True)], "a wall clock set back keeps nobody from hearing"
    assert found.to_warn(400 * SECOND, 300.0) == []
    assert found.next_moment(400 * SECOND, 300.0) == 240
    assert found.to_warn(640 * SECOND, 300.0) == [(row, 60.0, False)]
    assert found.next_moment(640 * SECOND, 300.0) == 60
    late = Checkouts([row], now=100 * SECOND, clock=0.0)
    assert late.to_warn(690 * SECOND, 0.0) == [(row, 60.0, True)], "of two that are due the one that is true"
    assert Checkouts([row], now=100 * SECOND, clock=0.0).to_warn(700 * SECOND, 0.0) == [], "it is over: that is told"


def test_who_has_it_for_a_minute_knows_it() -> None:
    found = Checkouts([ROW], now=100 * SECOND, clock=7.0)
    assert found.to_warn(159 * SECOND, 66.0) == []


@pytest.mark.parametrize(
    ("asked", "limits", "seconds"),
    [(0, [None, timedelta(hours=8)], 28800), (60, [timedelta(hours=1), LONGEST], 60),
     (0, [timedelta(hours=1), LONGEST], 3600),
     (3600, [timedelta(hours=1), LONGEST], 3600)],
)  # fmt: skip
def test_how_long(asked: int, limits: list[timedelta | None], seconds: int) -> None:
    assert how_long(asked, *limits) == seconds


@pytest.mark.parametrize(
    ("asked", "limit"), [(3601, timedelta(hours=1)), (-1, timedelta(hours=1)), (0, timedelta(0)), (0, timedelta(-1))]
)
def test_never_longer(asked: int, limit: timedelta) -> None:
    with pytest.raises(CommandRefused):
        how_long(asked, limit, LONGEST)


def test_settings() -> None:
    assert parse_rules("").checkout == CheckoutRules()
    found = parse_rules('[checkout]\nlongest = "1h"\nunrotated = true').checkout
    assert found == CheckoutRules(longest=timedelta(hours=1), unrotated=True)
    for wrong in ('longest = "x"', "unrotated = 1", "more = true"):
        with pytest.raises(BadRules):
            parse_rules(f"[checkout]\n{wrong}")


ALLOW = '[[rule]]\nname = "x"\nwho = { roles = ["x"] }\nwhere = { targets = ["*"] }\nas = ["*"]\nallow = ["*"]\n'


def test_everything_holds_no_password() -> None:
    assert parse_rules(ALLOW).rules[0].kinds == CHANNELS
    assert ChannelKind.CHECKOUT not in CHANNELS
    forbids = '[[rule]]\nname = "x"\neffect = "forbid"\nwho = { roles = ["x"] }\n'
    for text in (forbids, forbids + 'allow = ["*"]\n'):
        assert ChannelKind.CHECKOUT in parse_rules(text).rules[0].kinds, "and forbidding everything forbids it"


def test_a_rule_of_passwords_is_none_of_sessions() -> None:
    rules = parse_rules(ALLOW.replace('["*"]\n', '["*"]\n', 1).replace('allow = ["*"]', 'allow = ["checkout"]'))
    facts = Facts(person="alice", roles=frozenset({"x"}), account="root", target="web1", labels={},
                  now=datetime(2026, 11, 25, tzinfo=UTC), source="192.0.2.1")  # fmt: skip
    assert not concerns(rules.rules[0], facts), "nothing is told of it, either"
    assert isinstance(decide(rules, facts), Deny)
    allowed = decide(rules, replace(facts, channel=ChannelKind.CHECKOUT))
    assert isinstance(allowed, Allow)
    assert allowed.kinds == {ChannelKind.CHECKOUT}


# --- in a real policyd --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lending(filled: Policyd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policyd]:
    from tests.policy.conftest import copied

    daemon = copied(filled, tmp_path_factory.mktemp("p"), "source_failures = 100000\nrecheck_seconds = 1")
    daemon.rules = RULES
    daemon.write()
    daemon.start()
    try:
        daemon.person("lena", "lead")
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def make_lending(make_policyd) -> Iterator[object]:  # type: ignore[no-untyped-def]
    def make(rules: str = RULES) -> Policyd:
        policyd: Policyd = make_policyd()
        return ruled(policyd, rules)

    return make  # type: ignore[return-value]


def ruled(policyd: Policyd, rules: str) -> Policyd:
    (policyd.home / "policy.toml").write_text(rules)
    policyd.done(m.Reload())
    return policyd


@pytest.fixture
def place(lending: Policyd) -> str:
    """An account of the test's own."""
    target = f"t{next(_numbers)}"
    lending.target(target, "root")
    return f"root@{target}"


def back(policyd: Policyd, place: str) -> dict[str, str]:
    """The newest of its checkouts, once it came back."""
    wait_until("the return", lambda: place not in [f"{one['account']}@{one['target']}" for one in out(policyd)])
    rows = policyd.done(m.CheckoutList(all=True))
    every = [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]
    return next(one for one in every if f"{one['account']}@{one['target']}" == place)


def test_out_and_back(lending, place):
    with lending.login("alice") as alice:
        found = revealed(take(alice, place, seconds=600))
        assert found.value == b"password of root"
        (mine,) = [row for row in alice.ask(m.CheckoutList()).rows if row[0] == found.data["checkout"]]
        assert mine[1:3] == ["out", "alice"]
        event = lending.audit("checkout")[0]
        assert (event["who"], event["what"], event["why"]) == ("alice", place, "repair")
        assert "seconds=600" in event["detail"]
        done(bring(alice, found.data["checkout"]))
        assert lending.audit("checkin")[0]["what"] == place
        no(bring(alice, found.data["checkout"]))
    assert back(lending, place)["by"] == "alice"


def test_shown_once(lending, place):
    with lending.login("alice") as alice:
        ident = revealed(take(alice, place)).data["checkout"]
        assert "shown once" in no(take(alice, place), 75).cause
        done(bring(alice, place))
        assert revealed(take(alice, place)).data["checkout"] != ident
        done(bring(alice, place))


def test_exclusive_and_who_has_it(lending, place):
    with lending.login("alice") as alice, lending.login("bob") as bob, lending.login("gina") as gina:
        revealed(take(alice, place))
        refused = no(take(bob, place), 75)
        assert "`alice` until 20" in refused.cause
        told = no(take(gina, place))
        assert "alice" not in told.cause, "who could not have it hears nothing of it"
        nowhere = no(take(gina, "root@nowhere"))
        target = place.partition("@")[2]
        assert told.cause.replace(target, "nowhere") == nowhere.cause
        assert [one for one in bob.ask(m.CheckoutList()).rows if one[4] == target] == []
        done(bring(alice, place))
        revealed(take(bob, place))
        done(bring(bob, place))


def test_of_twenty_at_once_one_has_it(lending, place):
    start = threading.Barrier(20)

    def attempt(number: int) -> object:
        with lending.login("alice" if number % 2 else "bob") as peer:
            start.wait()
            return take(peer, place)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(attempt, range(20)))
    won = [one for one in answers if isinstance(one, m.Revealed)]
    assert len(won) == 1
    assert all(no(one, 75).cause for one in answers if one not in won)
    lending.done(bring_by_force(won[0].data["checkout"]))


def bring_by_force(word: str) -> m.CheckoutReturn:
    return m.CheckoutReturn(checkout=word, force=True, reason="the test is over")


def test_twenty_returns_at_once_are_one(lending, place):
    with lending.login("alice") as alice:
        ident = revealed(take(alice, place)).data["checkout"]

    def attempt(_: int) -> bool:
        with lending.login("alice") as peer:
            return isinstance(bring(peer, ident), m.Done)

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(attempt, range(20))) == 1
    assert len([row for row in lending.audit("checkin") if ident in row["detail"]]) == 1


# --- the gate -----------------------------------------------------------------------------------------------------


def test_who_may_open_sessions_has_no_password_by_it(make_lending):
    policyd = make_lending(ALLOW.replace('"x"', '"engineer"') + "[checkout]\nunrotated = true\n")
    with policyd.login("alice") as alice:
        grant = alice.ask(m.Authorize(account="root", target="web1"))
        assert set(grant.kinds) == set(CHANNELS)
        no(take(alice))
        assert isinstance(alice.ask(m.OpenChannel(session=grant.session, kind="checkout")), m.Refused)


def test_who_may_have_a_password_has_no_session_by_it(make_lending):
    rules = ALLOW.replace('"x"', '"engineer"').replace('allow = ["*"]', 'allow = ["checkout"]')
    policyd = make_lending(rules + "[checkout]\nunrotated = true\n")
    with policyd.login("alice") as alice:
        revealed(take(alice))
        no(alice.ask(m.Authorize(account="root", target="web1")))
        assert alice.ask(m.Reachable()).rows == []
        assert ["root@web1", "checkout"] in [[row[0], row[3]] for row in alice.ask(m.SecretList()).rows]


def test_a_reason_and_a_code(lending):
    lending.target("p1", "root", env="prod")
    lending.person("eve", "engineer")
    with lending.login("eve") as eve:
        assert no(take(eve, "root@p1", reason="x")).need == "mfa"
        phone = enrolled(lending, "eve")
        assert isinstance(eve.ask(m.AskCode(person="eve")), m.Challenge)
        assert eve.ask(m.AnswerCode(person="eve", answers=[phone.code()])).outcome is Outcome.DONE
        assert no(take(eve, "root@p1", reason=" ")).need == "reason"
        revealed(take(eve, "root@p1"))
        done(bring(eve, "root@p1"))


def test_there_is_always_a_reason(lending, place):
    """Also where no rule wants one; who may not have it at all is not asked."""
    with lending.login("alice") as alice, lending.login("gina") as gina:
        for empty in ("", "  "):
            refused = no(take(alice, place, reason=empty))
            assert (refused.need, f"ssh bastion vault checkout {place} --reason why" in refused.hint) == (
                "reason",
                True,
            )
            assert no(take(gina, place, reason=empty)).need == ""
        assert out(lending) == []


def test_leave_for_a_while_is_leave_for_what_is_left_of_it(lending):
    lending.target("l9", "root", env="leave")
    lending.done(m.GrantAdd(person="alice", account="root", target="l9", kinds=["checkout"], seconds=1800, reason="x"))
    with lending.login("alice") as alice:
        assert 1790 < int(revealed(take(alice, "root@l9", seconds=1800)).data["seconds"]) <= 1800
        done(bring(alice, "root@l9"))
        assert revealed(take(alice, "root@l9", seconds=60)).data["seconds"] == "60"
        done(bring(alice, "root@l9"))


def test_with_leave_that_is_for_passwords(lending):
    lending.target("l1", "root", env="leave")
    with lending.login("alice") as alice, lending.login("lena") as lena:
        refused = no(take(alice, "root@l1"), 75)
        assert refused.need == "approval"
        assert "--kinds checkout" in refused.hint
        # Leave for sessions is none for a password ...
        asked = done(alice.ask(m.RequestAccess(account="root", target="l1", reason="x")))
        done(lena.ask(m.Decide(request=asked.data["request"], approve=True)))
        assert "checkout" not in alice.ask(m.RequestShow(request=asked.data["request"])).rows[5][1]
        no(take(alice, "root@l1"), 75)
        no(alice.ask(m.RequestAccess(account="root", target="l1", kinds=["checkout", "shell"], reason="x")), 64)
        # ... and the other way round.
        asked = done(alice.ask(m.RequestAccess(account="root", target="l1", kinds=["checkout"], uses=1, reason="x")))
        grant = done(lena.ask(m.Decide(request=asked.data["request"], approve=True))).data["grant"]
        found = revealed(take(alice, "root@l1"))
        assert found.data["seconds"] <= "3600"
        done(bring(alice, "root@l1"))
        no(take(alice, "root@l1"), 75)
        assert [row[12] for row in lending.done(m.CheckoutList(all=True)).rows if row[0] == found.data["checkout"]] == [
            grant
        ]


def test_leave_for_a_password_is_none_for_sessions(lending):
    lending.target("l2", "root", env="leave")
    with lending.login("bob") as bob, lending.login("lena") as lena:
        asked = done(bob.ask(m.RequestAccess(account="root", target="l2", kinds=["checkout"], reason="x")))
        done(lena.ask(m.Decide(request=asked.data["request"], approve=True)))
        refused = no(bob.ask(m.Authorize(account="root", target="l2")), 75)
        assert refused.need == "approval"
        no(bob.ask(m.TokenAdd(account="root", target="l2", kinds=["checkout"])), 64)


def test_a_use_of_leave_is_counted_for_good(make_lending):
    policyd = make_lending()
    policyd.target("l1", "root", env="leave")
    policyd.person("lena", "lead")
    policyd.done(m.GrantAdd(person="alice", account="root", target="l1", kinds=["checkout"], uses=1, reason="x"))
    with policyd.login("alice") as alice:
        revealed(take(alice, "root@l1"))
        done(bring(alice, "root@l1"))
    policyd.restart()
    with policyd.login("alice") as alice:
        no(take(alice, "root@l1"), 75)


def test_a_gateway_opens_no_password(make_lending):
    policyd = make_lending(ALLOW.replace('"x"', '"engineer"').replace('allow = ["*"]', 'allow = ["*", "checkout"]'))
    with policyd.login("alice") as alice:
        grant = alice.ask(m.Authorize(account="root", target="web1"))
        assert set(grant.kinds) == set(CHANNELS)
        refused = no(alice.ask(m.OpenChannel(session=grant.session, kind="checkout")))
        assert "does not exist" in refused.cause


def test_no_longer_than_the_rule(lending, place):
    with lending.login("alice") as alice:
        assert "at most 2h" in no(take(alice, place, seconds=7201), 64).cause
        assert revealed(take(alice, place)).data["seconds"] == "7200"
        done(bring(alice, place))


def test_what_nothing_changes_is_not_given_out(make_lending):
    policyd = make_lending(RULES.replace("unrotated = true", ""))
    with policyd.login("alice") as alice, policyd.login("gina") as gina:
        assert "nothing changes" in no(take(alice), 78).cause
        assert "nothing changes" not in no(take(gina)).cause


def test_what_has_no_password(lending):
    lending.target("k1")
    lending.done(m.AccountAdd(account="root", target="k1", user_ca=True))
    with lending.login("alice") as alice, lending.login("gina") as gina:
        assert "without a password" in no(take(alice, "root@k1"), 78).cause
        assert "without a password" not in no(take(gina, "root@k1")).cause


def test_an_operator_has_none(lending, place):
    account, _, target = place.partition("@")
    answer = lending.command(m.CheckoutTake(account=account, target=target, reason="x"))
    assert "by a person" in no(answer).cause


# --- sessions while it is out -------------------------------------------------------------------------------------


def test_while_it_is_out_nobody_else_begins(lending, place):
    target = place.partition("@")[2]
    with lending.login("alice") as alice, lending.login("bob") as bob:
        before = bob.ask(m.Authorize(account="root", target=target))
        assert isinstance(before, m.Grant)
        revealed(take(alice, place))
        refused = no(bob.ask(m.Authorize(account="root", target=target)), 75)
        assert "checked out by `alice`" in refused.cause
        assert isinstance(alice.ask(m.Authorize(account="root", target=target)), m.Grant)
        assert isinstance(bob.ask(m.OpenChannel(session=before.session, kind="shell")), m.Allowed), "what lives goes on"
        done(bring(alice, place))
        assert isinstance(bob.ask(m.Authorize(account="root", target=target)), m.Grant)


# --- it comes back by itself --------------------------------------------------------------------------------------


def test_its_time_is_over(lending, place):
    with lending.login("alice") as alice:
        revealed(take(alice, place, seconds=1))
        assert (row := back(lending, place))["why"] == "over"
        assert row["by"] == "policyd"
        revealed(take(alice, place))
        done(bring(alice, place))


def test_over_while_policyd_was_not_there(make_lending):
    policyd = make_lending()
    with policyd.login("alice") as alice:
        revealed(take(alice, seconds=1))
        policyd.kill()
    time.sleep(1.1)
    policyd.start()
    assert back(policyd, "root@web1")["why"] == "over"


def test_it_is_still_out_after_a_restart(make_lending):
    policyd = make_lending()
    with policyd.login("alice") as alice:
        revealed(take(alice, seconds=600))
    policyd.kill()
    policyd.start()
    with policyd.login("bob") as bob, policyd.login("alice") as alice:
        no(take(bob), 75)
        no(bob.ask(m.Authorize(account="root", target="web1")), 75)
        done(bring(alice, "root@web1"))


GONE = {
    "disabled": (m.PersonSet(name="alice", disabled=True), "alice is disabled or has left"),
    "without the role": (m.PersonSet(name="alice", remove_roles=["engineer"]), "no rule allows it any more"),
    "offboarded": (m.PersonOffboard(name="alice"), "alice is disabled or has left"),
    "account removed": (m.AccountRemove(account="root", target="web1"), "the account is gone"),
    "target of another sort": (m.TargetSet(name="web1", set_labels={"env": "secret"}), "no rule allows it any more"),
}


@pytest.mark.parametrize("how", GONE)
def test_what_it_rested_on_is_gone(make_lending, how):
    policyd = make_lending()
    with policyd.login("alice") as alice:
        revealed(take(alice))
        change, why = GONE[how]
        policyd.done(change)
        assert back(policyd, "root@web1")["why"] == why
        (event,) = policyd.audit("checkin-forced")
        assert (event["who"], event["what"], event["why"]) == ("policyd", "root@web1", why)


def test_a_rule_that_begins_to_forbid(make_lending):
    policyd = make_lending()
    with policyd.login("alice") as alice:
        revealed(take(alice))
        ruled(policyd, RULES + '\n[[rule]]\nname = "stop"\neffect = "forbid"\n')
        back(policyd, "root@web1")


def test_leave_that_is_taken_back(lending):
    lending.target("l3", "root", env="leave")
    with lending.login("alice") as alice, lending.login("lena") as lena:
        asked = done(alice.ask(m.RequestAccess(account="root", target="l3", kinds=["checkout"], reason="x")))
        grant = done(lena.ask(m.Decide(request=asked.data["request"], approve=True))).data["grant"]
        revealed(take(alice, "root@l3"))
        done(lena.ask(m.GrantRevoke(grant=grant, reason="enough")))
        assert back(lending, "root@l3")["why"] == "the leave for it is over or was taken back"


# --- taken away ---------------------------------------------------------------------------------------------------


def test_forced(lending, place):
    with lending.login("alice") as alice, lending.login("bob") as bob, lending.login("sue") as sue:
        ident = revealed(take(alice, place)).data["checkout"]
        assert "have not checked" in no(bring(bob, ident, force=True, reason="x")).cause
        assert no(bring(bob, "c-aaaaaaaa")).hint == no(bring(bob, ident)).hint
        assert "--force" in no(bring(sue, ident)).hint
        assert "--force" in no(bring(sue, ident, force=True)).hint
        done(bring(sue, place, force=True, reason="she is on holiday"))
        event = lending.audit("checkin-forced")[0]
        assert (event["who"], event["why"], event["what"]) == ("sue", "she is on holiday", place)


# --- the one who has it hears of it ------------------------------------------------------------------------------


def news(peer, place: str) -> list[list[str]]:
    return [[row[0], row[2], row[3]] for row in peer.ask(m.Notices()).rows if place in row[2]]


def test_before_its_end_the_holder_is_warned(lending, place):
    with lending.login("alice") as alice, lending.login("alice") as working, lending.login("bob") as bob:
        lending.target("w1", "root")
        grant, other = (one.ask(m.Authorize(account="root", target="w1")) for one in (working, bob))
        assert isinstance(grant, m.Grant)
        assert isinstance(other, m.Grant)
        ident = revealed(take(alice, place, seconds=70)).data["checkout"]
        said = working.push()
        assert isinstance(said, m.Warn)
        assert said.session == grant.session
        assert f"the password of `{place}` is yours for 1 minute more" in said.text
        ((kind, text, command),) = news(alice, place)
        assert (kind, command) == ("checkout", f"ssh bastion vault checkin {ident}")
        assert "is yours until" in text
        assert news(bob, place) == [], "it is not for others to hear"
        wait_until("the event", lambda: [one for one in lending.audit("checkout-ending") if one["what"] == place])
        event = lending.audit("checkout-ending")[0]
        assert f"checkout={ident}" in event["detail"]
        assert "person=alice" in event["detail"]
        done(bring(alice, ident))
        assert news(alice, place) == [], "and not who brought it back"
        assert len([one for one in lending.audit("checkout-ending") if one["what"] == place]) == 1
        assert news(bob, place) == bob.pushes == []


def test_who_loses_it_hears_by_whom_and_why(lending, place):
    with lending.login("alice") as alice, lending.login("bob") as bob, lending.login("sue") as sue:
        lending.target("w2", "root")
        grant = alice.ask(m.Authorize(account="root", target="w2"))
        revealed(take(alice, place))
        done(bring(sue, place, force=True, reason="she is on holiday"))
        said = alice.push()
        assert isinstance(said, m.Warn)
        assert said.session == grant.session
        assert "sue took the password" in said.text
        assert "she is on holiday" in said.text
        (row,) = news(alice, place)
        assert row[0] == "taken"
        assert "sue" in row[1]
        assert "she is on holiday" in row[1]
        assert news(bob, place) == news(sue, place) == []
        revealed(take(alice, place, seconds=7000))
        assert news(alice, place) == [], "who has it again need not hear that"
        done(bring(sue, place, force=True, reason="once more"))
        ((_, text, _),) = news(alice, place)
        assert "once more" in text, "the newest of each"


def test_who_loses_it_to_a_rule_hears_of_it(lending, place):
    target = place.partition("@")[2]
    with lending.login("alice") as alice:
        revealed(take(alice, place))
        lending.done(m.TargetSet(name=target, set_labels={"env": "secret"}))
        back(lending, place)
        (row,) = news(alice, place)
        assert "policyd took" in row[1]
        assert "no rule allows it any more" in row[1]


def test_its_end_is_no_news_the_day_after(lending, place):
    with lending.login("alice") as alice:
        revealed(take(alice, place, seconds=1))
        back(lending, place)
        assert news(alice, place) == []


# --- races --------------------------------------------------------------------------------------------------------


def test_an_end_and_a_return_at_once_are_one(lending, place):
    for _ in range(3):
        with lending.login("alice") as alice:
            ident = revealed(take(alice, place, seconds=1)).data["checkout"]
            time.sleep(0.98)  # about when it is over: either may be first
            bring(alice, ident)
            back(lending, place)
            assert len([row for row in lending.audit("checkin") if ident in row["detail"]]) == 1


def test_disabled_while_it_is_taken(make_lending):
    policyd = make_lending()
    for _ in range(4):
        with policyd.login("alice") as alice, ThreadPoolExecutor(2) as pool:
            taking = pool.submit(take, alice)
            policyd.done(m.PersonSet(name="alice", disabled=True))
            taking.result()
            wait_until("nothing is out", lambda: not out(policyd))
        policyd.done(m.PersonSet(name="alice", disabled=False))


def test_revoked_while_it_is_taken(lending):
    lending.target("l4", "root", env="leave")
    for _ in range(4):
        with lending.login("alice") as alice, lending.login("lena") as lena, ThreadPoolExecutor(2) as pool:
            asked = done(alice.ask(m.RequestAccess(account="root", target="l4", kinds=["checkout"], reason="x")))
            grant = done(lena.ask(m.Decide(request=asked.data["request"], approve=True))).data["grant"]
            taking = pool.submit(take, alice, "root@l4")
            done(lena.ask(m.GrantRevoke(grant=grant)))
            taking.result()
            wait_until("it is not out", lambda: "l4" not in [one["target"] for one in out(lending)])
