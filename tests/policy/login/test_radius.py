"""Codes that a RADIUS server judges, as policyd sees it: the courier is the test's to play."""

from collections.abc import Callable

import pytest

from policy import messages as m
from policy.model import Outcome
from tests.policy.courier import courier_of
from tests.policy.jit import no
from tests.policy.policyd import Policyd
from tests.policy.proving import RULES, enrolled, first, shown
from tests.support.net import wait_until

SETTINGS = """
[policy.radius]
servers = ["radius.example.org"]
secret  = "file:radius.secret"
roles   = ["engineer"]
seconds = 2.0
"""
FILES = {"policy.toml": RULES % "always", "radius.secret": "s3cret\n"}


@pytest.fixture
def policyd(make_policyd: Callable[..., Policyd]) -> Policyd:
    policyd = make_policyd(SETTINGS, files=FILES)
    policyd.stop()
    (policyd.home / "radius.secret").chmod(0o600)
    return policyd.start()


def judge(call: m.RadiusCall) -> m.Called:
    """`tok-1` is right at once; `pin` leads to a question, and then `next` is right."""
    if call.state:
        return m.Called(task=call.task, status=2 if (call.state, call.password) == (b"S", b"next") else 3)
    if call.password == b"pin":
        return m.Called(task=call.task, status=11, values=["next \x1b[31mtoken?"], next=b"S")
    return m.Called(task=call.task, status=2 if call.password == b"tok-1" else 3)


def test_yes_and_no(policyd):
    with courier_of(policyd, reply=judge) as courier:
        peer, verdict = first(policyd, "alice")
        assert verdict.outcome is Outcome.MORE, "nothing is enrolled here, and a code is asked for all the same"
        with peer:
            assert shown(peer, "wrong").outcome is Outcome.REFUSED
            assert shown(peer, "tok-1") == m.Verdict(outcome=Outcome.DONE, person="alice")
        call = courier.calls[-1]
        assert (call.user, call.secret, call.servers) == ("alice", b"s3cret", ["radius.example.org"])
        assert first(policyd, "gina")[1].outcome is Outcome.DONE, "not of these roles"


def test_a_further_question(policyd):
    with courier_of(policyd, reply=judge):
        peer, _ = first(policyd, "alice")
        with peer:
            asked = shown(peer, "pin")
            assert asked == m.Challenge(name="", instructions="", prompts=[("next [31mtoken? ", False)])
            assert peer.ask(m.AnswerCode(person="", answers=["next"])).person == "alice"
        peer, _ = first(policyd, "alice")
        with peer:
            assert isinstance(shown(peer, "pin"), m.Challenge)
            assert shown(peer, "next").outcome is Outcome.REFUSED, "asked anew, the question before is forgotten"


def test_one_s_own_phone_does_as_well_and_is_not_passed_on(policyd):
    phone = enrolled(policyd, "alice")
    with courier_of(policyd, reply=judge) as courier:
        peer, _ = first(policyd, "alice")
        with peer:
            assert shown(peer, phone.code()).outcome is Outcome.DONE
        assert courier.calls == []


@pytest.mark.parametrize(
    "called",
    [
        m.Called(task=0, error="gave no answer in time"), m.Called(task=0, status=2, error="x"), m.Called(task=0),
        m.Called(task=0, status=5), m.Called(task=0, status=1),
    ],
)  # fmt: skip
def test_what_is_no_clear_yes(policyd, called):
    with courier_of(policyd, reply=lambda call: m.Called(task=call.task, status=called.status, error=called.error)):
        peer, _ = first(policyd, "alice")
        with peer:
            assert shown(peer, "tok-1").outcome is Outcome.REFUSED


def test_questions_without_end(policyd):
    with courier_of(policyd, reply=lambda call: m.Called(task=call.task, status=11, values=["again?"], next=b"S")):
        peer, _ = first(policyd, "alice")
        with peer:
            asked = [shown(peer, "a")]
            while isinstance(asked[-1], m.Challenge):
                asked.append(peer.ask(m.AnswerCode(person="", answers=["a"])))
        assert len(asked) == 4
        assert asked[-1].outcome is Outcome.REFUSED


def test_without_a_courier_it_is_no(policyd):
    peer, _ = first(policyd, "alice")
    with peer:
        assert shown(peer, "tok-1").outcome is Outcome.REFUSED
    assert "cannot be called" in policyd.log()


def test_a_secret_that_others_may_read_is_used_for_nothing(policyd):
    (policyd.home / "radius.secret").chmod(0o644)
    with courier_of(policyd, reply=judge) as courier:
        peer, _ = first(policyd, "alice")
        with peer:
            assert shown(peer, "tok-1").outcome is Outcome.REFUSED
        assert courier.calls == []


def test_wrong_answers_lock_as_wrong_codes_do(policyd):
    with courier_of(policyd, reply=judge):
        peer, _ = first(policyd, "alice")
        with peer:
            for _ in range(5):
                shown(peer, "wrong")
        peer, _ = first(policyd, "alice", source="198.51.100.1")
        with peer:
            assert shown(peer, "tok-1").outcome is Outcome.REFUSED


def test_a_newer_code_holds_up_nothing_else(policyd):
    """The server asks a phone, and the person's sessions go on meanwhile."""
    with courier_of(policyd, reply=judge) as courier:
        peer, _ = first(policyd, "alice")
        with peer:
            shown(peer, "tok-1")
            courier.reply = lambda _: None
            peer.ask(m.AskCode(person=""))
            peer.send(m.encode(900, m.AnswerCode(person="", answers=["tok-1"])))
            assert isinstance(peer.ask(m.Authorize(account="root", target="web1")), m.Grant)
            wait_until("the call", lambda: len(courier.calls) == 2)
            courier.say(judge(courier.calls[-1]))
            ident, verdict = peer.receive()
            assert (ident, verdict.outcome) == (900, Outcome.DONE)
            no(peer.ask(m.MfaEnrol(person="bob")))
