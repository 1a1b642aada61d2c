"""The login dialogue as playbooks: every cell of its table, and each check by the attack it stops."""

from dataclasses import replace

import pytest

from policy.login import dialogue as lg
from policy.login.dialogue import Login, Person, Phase, step
from policy.messages import Acceptable, Challenge, Verdict
from policy.model import Method, Outcome
from policy.rules.conditions import FactorKind

ALICE = Person(name="alice", has_password=True)
CODED = Person(name="alice", has_password=True, has_code=True)
BOB = Person(name="bob")
NOW = 1_800_000_000.0

REFUSED_FIRST = Verdict(outcome=Outcome.REFUSED, next=[Method.PUBLIC_KEY, Method.PASSWORD])
REFUSED_SECOND = Verdict(outcome=Outcome.REFUSED, next=[Method.CODE])
MORE = Verdict(outcome=Outcome.MORE, next=[Method.CODE])
DONE = Verdict(outcome=Outcome.DONE, person="alice")
DISCONNECT = Verdict(outcome=Outcome.DISCONNECT)
CHALLENGE = Challenge(name="", instructions="", prompts=[("one-time code: ", False)])


def offered(owner=ALICE, claimed=None, claim="", locked=False):
    return lg.KeyOffered(claim=claim, claimed=claimed, now=NOW, source_locked=locked, owner=owner)


def proven(owner=ALICE, claimed=None, claim="", valid=True, locked=False, **more):
    return lg.KeyProven(claim=claim, claimed=claimed, now=NOW, source_locked=locked, owner=owner, valid=valid, **more)


def tried(claimed=ALICE, claim="alice", size=8, locked=False):
    return lg.PasswordTried(claim=claim, claimed=claimed, now=NOW, source_locked=locked, size=size)


def checked(ok=True):
    return lg.PasswordChecked(ok=ok, now=NOW)


def asked(claim="", claimed=None, locked=False):
    return lg.CodeAsked(claim=claim, claimed=claimed, now=NOW, source_locked=locked)


def answered(*answers, person=CODED, claim="", claimed=None, locked=False):
    return lg.CodeAnswered(
        claim=claim, claimed=claimed, now=NOW, source_locked=locked, person=person, answers=answers or ("123456",)
    )


def code(ok=True):
    return lg.CodeChecked(ok=ok, now=NOW + 5)


class Play:
    """`>>` an event, `<<` what it leads to: replies, checks to do, failures."""

    def __init__(self, login=None):
        self.login = login or Login()
        self.effects = ()

    def __rshift__(self, event):
        self.login, self.effects = step(self.login, event)
        return self

    def __lshift__(self, wanted):
        got = [effect.message if isinstance(effect, lg.Reply) else effect for effect in self.effects]
        visible = [one for one in got if not isinstance(one, lg.Failed | lg.Succeeded)]
        assert visible == (wanted if isinstance(wanted, list) else [wanted])
        return self

    @property
    def failed(self):
        return next(effect for effect in self.effects if isinstance(effect, lg.Failed))

    @property
    def succeeded(self):
        return next(effect for effect in self.effects if isinstance(effect, lg.Succeeded))


def closed(message=DISCONNECT):
    return [message, lg.Close()]


# --- the ways in --------------------------------------------------------------------------------------


def test_a_key_alone():
    play = Play() >> offered() << Acceptable(ok=True)
    play = play >> proven() << DONE
    assert play.login.done
    assert play.login.person == "alice"
    assert play.succeeded == lg.Succeeded(person="alice", factors=(FactorKind.KEY,))


def test_a_key_then_a_code():
    play = Play() >> proven(CODED) << MORE
    assert not play.login.done
    play = play >> asked() << CHALLENGE
    play = play >> answered("123456") << lg.VerifyCode(person="alice", code="123456")
    play = play >> code() << DONE
    assert play.login.factors == ((FactorKind.KEY, NOW), (FactorKind.CODE, NOW + 5))


def test_a_password_then_a_code():
    play = Play() >> tried(CODED) << lg.VerifyPassword(person="alice")
    play = play >> checked() << MORE
    play >> asked() << CHALLENGE >> answered() >> code() << DONE


def test_a_certificate_keeps_its_limits():
    speaker = object()
    play = Play() >> proven(kind=FactorKind.CERTIFICATE, speaker=speaker) << DONE
    assert play.login.speaker is speaker
    assert play.login.factors == ((FactorKind.CERTIFICATE, NOW),)


def test_a_wrong_code_leaves_the_first_factor():
    play = Play() >> proven(CODED) >> asked() >> answered() >> code(ok=False) << REFUSED_SECOND
    assert play.failed == lg.Failed(person="alice", method=Method.CODE, reason="code is wrong or used", counts=True)
    play >> asked() << CHALLENGE >> answered() >> code() << DONE


# --- the table: every phase with every request ---------------------------------------------------------

PHASES = {
    Phase.FRESH: Login(),
    Phase.JOINING: Login(phase=Phase.JOINING, trying=CODED),
    Phase.CHECKING_PASSWORD: Login(phase=Phase.CHECKING_PASSWORD, claim="alice", trying=CODED),
    Phase.HALFWAY: Login(phase=Phase.HALFWAY, person="alice", factors=((FactorKind.KEY, NOW),)),
    Phase.ASKED: Login(phase=Phase.ASKED, person="alice", factors=((FactorKind.KEY, NOW),)),
    Phase.CHECKING_CODE: Login(phase=Phase.CHECKING_CODE, person="alice", trying=CODED),
    Phase.DONE: Login(phase=Phase.DONE, person="alice"),
    Phase.CLOSED: Login(phase=Phase.CLOSED),
}
REQUESTS = {
    "KeyOffered": offered(CODED),
    "KeyProven": proven(CODED),
    "PasswordTried": tried(CODED),
    "CodeAsked": asked(),
    "CodeAnswered": answered(),
}
RESULTS = {"PasswordChecked": checked(), "CodeChecked": code(), "KeyJoined": lg.KeyJoined(ok=True, now=NOW)}
CELLS = {  # phase -> request -> (phase afterwards, what is said)
    Phase.FRESH: {
        "KeyOffered": (Phase.FRESH, Acceptable(ok=True)),
        "KeyProven": (Phase.HALFWAY, MORE),
        "PasswordTried": (Phase.CHECKING_PASSWORD, lg.VerifyPassword(person="alice")),
        "CodeAsked": (Phase.FRESH, REFUSED_FIRST),
        "CodeAnswered": (Phase.FRESH, REFUSED_FIRST),
    },
    Phase.HALFWAY: {
        "KeyOffered": (Phase.HALFWAY, Acceptable(ok=False)),
        "KeyProven": (Phase.HALFWAY, REFUSED_SECOND),
        "PasswordTried": (Phase.HALFWAY, REFUSED_SECOND),
        "CodeAsked": (Phase.ASKED, CHALLENGE),
        "CodeAnswered": (Phase.HALFWAY, REFUSED_SECOND),
    },
    Phase.ASKED: {
        "KeyOffered": (Phase.HALFWAY, Acceptable(ok=False)),
        "KeyProven": (Phase.HALFWAY, REFUSED_SECOND),
        "PasswordTried": (Phase.HALFWAY, REFUSED_SECOND),
        "CodeAsked": (Phase.ASKED, CHALLENGE),
        "CodeAnswered": (Phase.CHECKING_CODE, lg.VerifyCode(person="alice", code="123456")),
    },
}


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("phase", PHASES)
def test_every_cell_of_the_table(phase, request_name):
    play = Play(PHASES[phase]) >> REQUESTS[request_name]
    after, said = CELLS.get(phase, {}).get(request_name, (Phase.CLOSED, None))
    if said is None:
        said = closed(Acceptable(ok=False) if request_name == "KeyOffered" else DISCONNECT)
    play << said
    assert play.login.phase is after
    assert not play.login.done


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_result_that_nobody_waits_for_is_our_bug(phase, result):
    waiting = {
        Phase.CHECKING_PASSWORD: "PasswordChecked", Phase.CHECKING_CODE: "CodeChecked", Phase.JOINING: "KeyJoined",
    }  # fmt: skip
    if phase is Phase.CLOSED:
        Play(PHASES[phase]) >> RESULTS[result] << closed()
    elif waiting.get(phase) == result:
        Play(PHASES[phase]) >> RESULTS[result]
    else:
        with pytest.raises(lg.OutOfOrder, match=phase.value):
            step(PHASES[phase], RESULTS[result])


# --- what each check stops ------------------------------------------------------------------------------


def test_an_offered_key_is_not_a_proven_key():
    play = Play() >> offered() << Acceptable(ok=True)
    assert not play.login.person
    play >> asked() << REFUSED_FIRST


def test_a_wrong_signature():
    play = Play() >> proven(valid=False) << REFUSED_FIRST
    assert not play.failed.counts, "a stranger who knows a public key must not lock its owner out"
    assert not play.login.person


@pytest.mark.parametrize(
    "event",
    [
        offered(None), offered(replace(ALICE, disabled=True)),
        offered(ALICE, claimed=BOB, claim="bob"),
    ],
)  # fmt: skip
def test_refused_offers_look_alike(event):
    play = Play() >> event << Acceptable(ok=False)
    assert play.login.failures == 1


@pytest.mark.parametrize("owner", [None, replace(ALICE, disabled=True)])
def test_refused_proofs_look_alike(owner):
    Play() >> proven(owner) << REFUSED_FIRST


def test_a_key_with_the_name_of_another_person():
    play = Play() >> proven(ALICE, claimed=BOB, claim="bob") << REFUSED_FIRST
    assert "another person" in play.failed.reason


def test_a_claim_that_names_nobody_is_ignored():
    Play() >> proven(ALICE, claimed=None, claim="local-user") << DONE


@pytest.mark.parametrize(
    "person", [None, replace(ALICE, disabled=True), replace(ALICE, locked=True), replace(ALICE, has_password=False)]
)
def test_an_unusable_password_costs_a_hash_and_is_refused_even_if_it_fits(person):
    """The answer `ok` cannot come for a dummy hash; were it to come, it would still be no."""
    play = Play() >> tried(person) << lg.BurnPassword()
    play >> checked(ok=True) << REFUSED_FIRST
    assert not play.login.done
    assert not play.failed.counts


def test_a_wrong_password_counts_for_its_person():
    play = Play() >> tried() >> checked(ok=False) << REFUSED_FIRST
    assert play.failed == lg.Failed(person="alice", method=Method.PASSWORD, reason="password is wrong", counts=True)


@pytest.mark.parametrize("size", [0, lg.MAX_PASSWORD + 1])
def test_a_password_of_an_impossible_length_is_not_hashed(size):
    Play() >> tried(size=size) << REFUSED_FIRST
    Play() >> tried(size=lg.MAX_PASSWORD) << lg.VerifyPassword(person="alice")


def test_wrong_passwords_do_not_lock_keys():
    """Anybody can send wrong passwords: a lock must not be a way to keep somebody out."""
    Play() >> proven(replace(ALICE, locked=True)) << DONE


def test_wrong_codes_lock_codes():
    play = Play() >> proven(replace(CODED, code_locked=True)) >> asked()
    play >> answered(person=replace(CODED, code_locked=True)) << REFUSED_SECOND
    (
        Play()
        >> proven(CODED)
        >> asked()
        >> answered(person=replace(CODED, locked=True))
        << lg.VerifyCode(person="alice", code="123456")
    )


def test_disabled_between_the_factors():
    play = Play() >> proven(CODED) >> asked() >> answered(person=replace(CODED, disabled=True)) << REFUSED_SECOND
    assert play.failed.reason == "person is disabled"


@pytest.mark.parametrize("person", [None, BOB])
def test_the_code_of_another_person(person):
    Play() >> proven(CODED) >> asked() >> answered(person=person) << REFUSED_SECOND


@pytest.mark.parametrize(
    "event", [asked("bob", BOB), asked("mallory"), answered(claim="bob", claimed=BOB), proven(BOB, claim="bob")]
)
def test_a_partial_success_is_not_continued_by_another(event):
    """x/crypto b25012b: the permissions of the first leaked into the login of the second."""
    play = Play() >> proven(CODED, claim="") >> event << closed()
    assert play.failed.reason == "continued as another person"


@pytest.mark.parametrize("claim", ["", "alice", "local-user"])
def test_the_same_login_may_go_on(claim):
    play = Play() >> proven(CODED, claim="local-user") >> asked(claim) << CHALLENGE
    assert play.login.person == "alice"


def test_a_demanded_factor_that_is_not_enrolled():
    play = Play() >> proven(replace(ALICE, needs_code=True)) << DONE
    assert play.login.limited, "they get in to enrol one, and to nothing else"
    play = Play() >> proven(replace(ALICE, needs_code=True), kind=FactorKind.VERIFIED_KEY) << DONE
    assert not play.login.limited
    play = Play() >> proven(replace(CODED, needs_code=True)) >> asked() >> answered() >> code() << DONE
    assert not play.login.limited


@pytest.mark.parametrize("answers", [("1", "2"), ("",), ("   ",), ("1" * (lg.MAX_CODE + 1),)])
def test_odd_answers(answers):
    Play() >> proven(CODED) >> asked() >> answered(*answers) << REFUSED_SECOND
    play = Play() >> proven(CODED) >> asked()
    play.login, play.effects = step(play.login, replace(answered(), answers=()))
    play << REFUSED_SECOND


def test_a_code_answers_one_question_once():
    play = Play() >> proven(CODED) >> asked() >> answered() >> code(ok=False)
    play >> answered() << REFUSED_SECOND


def test_requests_beside_another_close():
    """CVE-2023-46446: state confused between awaits."""
    play = Play() >> tried() >> tried() << closed()
    assert "checking password" in play.failed.reason
    Play() >> proven(CODED) >> asked() >> answered() >> answered() << closed()
    Play() >> proven() >> proven() << closed()


@pytest.mark.parametrize("event", [offered(locked=True), proven(locked=True), tried(locked=True), asked(locked=True)])
def test_a_source_that_is_locked_out(event):
    play = Play() >> event
    assert play.login.phase is Phase.CLOSED
    assert play.failed.reason == "source is locked out"


def test_a_source_that_is_locked_out_before_its_answer():
    play = Play() >> proven(CODED) >> asked() >> answered(locked=True) << closed()
    assert play.login.phase is Phase.CLOSED


def test_the_sixth_failure_is_the_last():
    play = Play()
    for _ in range(lg.MAX_FAILURES - 1):
        play >> proven(valid=False) << REFUSED_FIRST
    play >> proven(valid=False) << closed()
    play >> proven() << closed()


def test_the_first_factor_does_not_reset_the_count():
    play = Play()
    for _ in range(lg.MAX_FAILURES - 1):
        play >> proven(valid=False)
    play >> proven(CODED) << MORE
    play >> asked() >> answered() >> code(ok=False) << closed()


def test_abandoned_challenges_count():
    play = Play() >> proven(CODED) >> asked()
    for _ in range(lg.MAX_FAILURES - 1):
        play >> asked() << CHALLENGE
    play >> asked() << closed()


def test_offers_do_not_go_on_for_ever():
    play = Play()
    for _ in range(lg.MAX_REQUESTS):
        play >> offered() << Acceptable(ok=True)
    play >> offered() << closed(Acceptable(ok=False))


def test_a_code_does_not_show():
    assert "123456" not in repr(lg.VerifyCode(person="alice", code="123456"))


# --- shown lately, verified, asked further, joined, and newer codes -----------------------------------------


def test_who_showed_a_code_lately_is_not_asked():
    play = Play() >> proven(replace(CODED, fresh=True)) << DONE
    assert play.login.factors == ((FactorKind.KEY, NOW),), "what is remembered is no factor of this login"
    Play() >> tried(replace(CODED, fresh=True)) >> checked() << DONE


def test_a_key_that_verified_its_owner_is_a_second_factor():
    Play() >> proven(CODED, kind=FactorKind.VERIFIED_KEY) << DONE


def question(text="PIN: "):
    return lg.CodeChecked(ok=False, now=NOW, question=text)


def test_a_further_question():
    play = Play() >> proven(CODED) >> asked() >> answered("1") << lg.VerifyCode(person="alice", code="1")
    play = play >> question() << Challenge(name="", instructions="", prompts=[("PIN: ", False)])
    play = play >> answered("2") << lg.VerifyCode(person="alice", code="2", again=True)
    play >> code() << DONE


def test_a_further_question_is_forgotten_when_asked_anew():
    """Else the state of one round would go with the answer of another."""
    play = Play() >> proven(CODED) >> asked() >> answered("1") >> question()
    play = play >> answered("2") >> code(ok=False) << REFUSED_SECOND
    play >> asked() >> answered("3") << lg.VerifyCode(person="alice", code="3")
    play = Play() >> proven(CODED) >> asked() >> answered("1") >> question() >> asked()
    play >> answered("3") << lg.VerifyCode(person="alice", code="3")


def test_questions_come_to_an_end():
    play = Play() >> proven(CODED) >> asked()
    for _ in range(lg.MAX_QUESTIONS):
        play >> answered("1") >> question() << Challenge(name="", instructions="", prompts=[("PIN: ", False)])
    play >> answered("1") >> question() << REFUSED_SECOND
    assert play.failed.counts


def joined(ok=True):
    return lg.KeyJoined(ok=ok, now=NOW)


def test_a_key_that_joins():
    play = Play() >> proven(joins=True, claim="join-...") << lg.JoinKey(person="alice")
    assert not play.login.done
    play >> joined() << DONE
    Play() >> proven(CODED, joins=True) >> joined() << MORE


def test_a_key_that_may_not_join():
    play = Play() >> proven(joins=True) >> joined(ok=False) << REFUSED_FIRST
    assert not play.login.person
    Play() >> proven(joins=True, valid=False) << REFUSED_FIRST
    Play() >> proven(joins=True) >> proven() << closed()


def test_a_newer_code():
    inside = (Play() >> proven(CODED) >> asked() >> answered() >> code()).login
    play = Play(lg.step_up(inside)) >> asked() << CHALLENGE
    play >> answered("222222") >> code() << DONE
    assert [kind for kind, _ in play.login.factors] == [FactorKind.KEY, FactorKind.CODE, FactorKind.CODE]
    Play(lg.step_up(inside)) >> answered() << REFUSED_SECOND
    Play(lg.step_up(inside)) >> proven() << REFUSED_SECOND


def test_a_newer_code_does_not_reset_the_count():
    play = Play(lg.step_up((Play() >> proven()).login))
    for _ in range(lg.MAX_FAILURES - 1):
        play >> asked() >> answered() >> code(ok=False) << REFUSED_SECOND
    play = Play(lg.step_up(play.login)) >> asked() >> answered() >> code(ok=False)
    assert play.login.phase is Phase.CLOSED
