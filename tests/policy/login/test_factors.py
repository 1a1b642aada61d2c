"""Second factors of one's own and of others: enrolled, confirmed, lost, replaced; and what a thief cannot do."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pyotp
import pytest

from policy import messages as m
from policy.model import Outcome
from tests.policy.conftest import copied
from tests.policy.jit import authorize, no
from tests.policy.policyd import Policyd
from tests.policy.proving import RULES, Phone, enrolled, first, login_with, shown

_names = itertools.count(1)


@pytest.fixture(scope="module")
def policyd(filled: Policyd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policyd]:
    """Who has a second factor is asked once in eight hours, and where rules want a newer one."""
    daemon = copied(filled, tmp_path_factory.mktemp("p"), "source_failures = 100000")
    daemon.rules = RULES % "8h"
    daemon.write()
    daemon.start()
    daemon.done(m.AccountAdd(account="deploy", target="db1", password="x"))
    try:
        yield daemon
    finally:
        daemon.stop()


def somebody(policyd: Policyd, *roles: str) -> str:
    name = f"eng{next(_names)}"
    policyd.person(name, "engineer", *roles)
    return name


# --- enrolment ----------------------------------------------------------------------------------------


def test_what_one_enrols_counts_after_its_first_code(policyd):
    name = somebody(policyd)
    with policyd.login(name) as peer:
        done = peer.ask(m.MfaEnrol())
        phone = Phone(done.data["secret"])
        with policyd.login(name):
            pass  # who never scanned the picture is not locked out
        assert no(peer.ask(m.MfaConfirm(code="000000")), 64).cause == "this code is wrong"
        done = peer.ask(m.MfaConfirm(code=phone.code()))
        assert len(done.data["codes"].split()) == 10
        assert no(peer.ask(m.MfaConfirm(code=phone.code())), 64).cause == "nothing waits for its first code"
    _, verdict = first(policyd, name, source="198.51.100.1")
    assert verdict.outcome is Outcome.MORE
    rows = {row[1] for row in policyd.done(m.MfaList(person=name)).rows}
    assert rows == {"totp", "10 recovery codes left"}
    trail = policyd.audit("mfa-confirm", limit=1)
    assert trail[0]["what"] == name


def test_a_second_picture_makes_the_first_void(policyd):
    name = somebody(policyd)
    with policyd.login(name) as peer:
        old = Phone(peer.ask(m.MfaEnrol()).data["secret"])
        peer.ask(m.MfaEnrol())
        no(peer.ask(m.MfaConfirm(code=old.code())), 64)


def test_a_thief_of_a_key_does_not_add_a_phone(policyd):
    """Nor look away at what was shown on another connection: that is remembered for logins alone."""
    name = somebody(policyd)
    phone = enrolled(policyd, name)
    login_with(policyd, name, phone.code()).close()
    peer, verdict = first(policyd, name)
    assert verdict.outcome is Outcome.DONE, "the same address, a code of just now"
    with peer:
        for command in (
            m.MfaEnrol(),
            m.MfaRecovery(),
            m.MfaRemove(ident=policyd.done(m.MfaList(person=name)).rows[0][0]),
        ):
            no(peer.ask(command), need="mfa")
        assert shown(peer, phone.code()).outcome is Outcome.DONE
        assert isinstance(peer.ask(m.MfaEnrol()), m.Done)


def test_nor_by_confirming_what_its_owner_began(policyd):
    name = somebody(policyd)
    phone = enrolled(policyd, name)
    with login_with(policyd, name, phone.code()) as peer:
        second = Phone(peer.ask(m.MfaEnrol()).data["secret"])
    peer, _ = first(policyd, name)
    with peer:
        no(peer.ask(m.MfaConfirm(code=second.code())), need="mfa")


def test_two_phones(policyd):
    name = somebody(policyd)
    phone = enrolled(policyd, name)
    with login_with(policyd, name, phone.code()) as peer:
        second = Phone(peer.ask(m.MfaEnrol()).data["secret"])
        assert isinstance(peer.ask(m.MfaConfirm(code=second.code())), m.Done)
    for number, one in enumerate((phone, second)):
        login_with(policyd, name, one.code(), source=f"198.51.100.{number + 10}").close()


def test_factors_of_others(policyd):
    name, other = somebody(policyd), somebody(policyd)
    with policyd.login(name) as peer, policyd.login("ada") as ada:
        assert no(peer.ask(m.MfaEnrol(person=other))).cause == "you may not do this"
        assert no(peer.ask(m.MfaReset(person=other))).cause == "you may not do this"
        assert no(peer.ask(m.MfaIssue(person=other))).cause == "you may not do this"
        enrol = ada.ask(m.MfaEnrol(person=other))
        assert isinstance(enrol, m.Done)
        no(ada.ask(m.MfaEnrol(person=other)), 64)
        assert "to their owner alone" in no(ada.ask(m.MfaRecovery(person=other)), 64).cause
        for command in (m.MfaReset(person="ada"), m.MfaIssue(person="ada")):
            assert no(ada.ask(command)).cause == "this is done by somebody else"


def test_an_operator_has_none(policyd):
    for command in (m.MfaEnrol(), m.MfaConfirm(code="1"), m.MfaRemove(ident="x"), m.MfaRecovery()):
        assert isinstance(policyd.command(command), m.Refused)


def test_a_picture_is_good_for_a_quarter_of_an_hour(make_policyd):
    policyd = make_policyd()
    with policyd.login("alice") as peer:
        phone = Phone(peer.ask(m.MfaEnrol()).data["secret"])
    policyd.stop()
    age(policyd, "authenticator", "created", 16 * 60)
    policyd.start()
    with policyd.login("alice") as peer:
        assert no(peer.ask(m.MfaConfirm(code=phone.code())), 64).cause == "nothing waits for its first code"


def age(policyd: Policyd, table: str, column: str, seconds: int) -> None:
    """Make what is in a table older, as if the clock had gone on."""
    import sqlite3

    with sqlite3.connect(policyd.database) as db:
        db.execute(f"UPDATE {table} SET {column} = {column} - ?", (seconds * 10**9,))


# --- removal ------------------------------------------------------------------------------------------


def test_the_last_one_stays_while_rules_ask_for_one(policyd):
    name = somebody(policyd)
    phone = enrolled(policyd, name)
    with login_with(policyd, name, phone.code()) as peer:
        ident = peer.ask(m.MfaList()).rows[0][0]
        assert "last second factor" in no(peer.ask(m.MfaRemove(ident=ident))).cause
        second = Phone(peer.ask(m.MfaEnrol()).data["secret"])
        assert isinstance(peer.ask(m.MfaRemove(ident=peer.ask(m.MfaList()).rows[1][0])), m.Done), "it did not count yet"
        second = Phone(peer.ask(m.MfaEnrol()).data["secret"])
        peer.ask(m.MfaConfirm(code=second.code()))
        assert isinstance(peer.ask(m.MfaRemove(ident=ident)), m.Done)
        no(peer.ask(m.MfaRemove(ident=ident)), 64)
    login_with(policyd, name, second.code(), source="198.51.100.2").close()


def test_the_last_one_of_whom_nobody_asks(policyd):
    policyd.person("gast", "guest")
    phone = enrolled(policyd, "gast")
    with login_with(policyd, "gast", phone.code()) as peer:
        codes = peer.ask(m.MfaRecovery()).data["codes"].split()
        assert isinstance(peer.ask(m.MfaRemove(ident=peer.ask(m.MfaList()).rows[0][0])), m.Done)
        assert peer.ask(m.MfaList()).rows == []
    _, verdict = first(policyd, "gast", source="198.51.100.3")
    assert verdict.outcome is Outcome.DONE
    assert codes


def test_a_reset_takes_everything(policyd):
    name = somebody(policyd)
    phone = enrolled(policyd, name)
    with login_with(policyd, name, phone.code()) as peer:
        codes = peer.ask(m.MfaRecovery()).data["codes"].split()
    policyd.done(m.MfaReset(person=name))
    phone = enrolled(policyd, name)
    peer, verdict = first(policyd, name)
    assert verdict.outcome is Outcome.MORE, "what was shown before is forgotten"
    with peer:
        assert shown(peer, codes[0]).outcome is Outcome.REFUSED
        assert shown(peer, phone.code()).outcome is Outcome.DONE


# --- codes that count once ----------------------------------------------------------------------------


def test_recovery_codes_count_once(policyd):
    name = somebody(policyd)
    phone = enrolled(policyd, name)
    with login_with(policyd, name, phone.code()) as peer:
        codes = peer.ask(m.MfaRecovery()).data["codes"].split()
    login_with(policyd, name, codes[0].upper().replace("-", " "), source="198.51.100.4").close()
    (event,) = policyd.audit("code-used", limit=1)
    assert event["who"] == name
    with login_with(policyd, name, codes[9], source="198.51.100.44") as peer:
        assert ["recovery", "", "you logged in with a recovery code; 8 recovery codes left",
                "ssh bastion mfa recovery"] in peer.ask(m.Notices()).rows  # fmt: skip
    assert codes[0] not in str(policyd.audit()), "a code is a secret, used or not"
    peer, _ = first(policyd, name, source="198.51.100.5")
    with peer:
        assert shown(peer, codes[0]).outcome is Outcome.REFUSED
        assert shown(peer, codes[1]).outcome is Outcome.DONE
        assert "7 recovery codes left" in {row[1] for row in peer.ask(m.MfaList()).rows}
        fresh = peer.ask(m.MfaRecovery()).data["codes"].split()
    peer, _ = first(policyd, name, source="198.51.100.6")
    with peer:
        assert shown(peer, codes[2]).outcome is Outcome.REFUSED, "the old ones are void"
        assert shown(peer, fresh[0]).outcome is Outcome.DONE


def test_a_recovery_code_is_used_across_a_restart(make_policyd):
    policyd = make_policyd()
    phone = enrolled(policyd, "alice")
    with login_with(policyd, "alice", phone.code()) as peer:
        codes = peer.ask(m.MfaRecovery()).data["codes"].split()
    login_with(policyd, "alice", codes[0]).close()
    policyd.kill()
    policyd.start()
    peer, _ = first(policyd, "alice")
    with peer:
        assert shown(peer, codes[0]).outcome is Outcome.REFUSED
        assert shown(peer, codes[1]).outcome is Outcome.DONE


def test_the_codes_of_somebody_else(policyd):
    name, other = somebody(policyd), somebody(policyd)
    phone = enrolled(policyd, name)
    with login_with(policyd, name, phone.code()) as peer:
        codes = peer.ask(m.MfaRecovery()).data["codes"].split()
    enrolled(policyd, other)
    peer, _ = first(policyd, other)
    with peer:
        assert shown(peer, codes[0]).outcome is Outcome.REFUSED


def test_an_issued_code_is_for_one_login(policyd):
    name = somebody(policyd)
    enrolled(policyd, name)
    code = policyd.done(m.MfaIssue(person=name)).data["code"]
    again = policyd.done(m.MfaIssue(person=name)).data["code"]
    peer, _ = first(policyd, name, source="198.51.100.7")
    with peer:
        assert shown(peer, code).outcome is Outcome.REFUSED, "the newer one took its place"
        assert shown(peer, again).outcome is Outcome.DONE
    peer, verdict = first(policyd, name, source="198.51.100.8")
    with peer:
        assert verdict.outcome is Outcome.MORE
        assert shown(peer, again).outcome is Outcome.REFUSED


def test_an_issued_code_is_asked_for_though_nothing_is_enrolled(policyd):
    """Who lost the phone and was reset is not open to the thief of a key until they are back."""
    name = somebody(policyd)
    code = policyd.done(m.MfaIssue(person=name)).data["code"]
    with login_with(policyd, name, code) as peer:
        assert isinstance(peer.ask(m.MfaEnrol()), m.Done)


def test_an_issued_code_expires(make_policyd):
    policyd = make_policyd()
    enrolled(policyd, "alice")
    code = policyd.done(m.MfaIssue(person="alice", seconds=60)).data["code"]
    policyd.stop()
    age(policyd, "code", "expires", 61)
    policyd.start()
    peer, _ = first(policyd, "alice")
    with peer:
        assert shown(peer, code).outcome is Outcome.REFUSED


@pytest.mark.parametrize("seconds", [0, 59, 7 * 24 * 3600 + 1])
def test_an_issued_code_lasts_not_for_ever(policyd, seconds):
    no(policyd.command(m.MfaIssue(person="alice", seconds=seconds)), 64)


# --- when a code is due -------------------------------------------------------------------------------


def test_who_showed_a_code_lately_is_not_asked_again(policyd):
    """Ansible opens fifty connections, and VS Code two."""
    name = somebody(policyd)
    phone = enrolled(policyd, name)
    login_with(policyd, name, phone.code()).close()
    for place in ("", "root@web1", "postgres@db1"):
        assert first(policyd, name, place=place)[1].outcome is Outcome.DONE, place
    assert first(policyd, name, source="198.51.100.9")[1].outcome is Outcome.MORE, "another address"
    other = somebody(policyd)
    enrolled(policyd, other)
    assert first(policyd, other)[1].outcome is Outcome.MORE, "another person"


def test_a_place_that_asks_always(policyd):
    name = somebody(policyd)
    phone = enrolled(policyd, name)
    login_with(policyd, name, phone.code()).close()
    assert first(policyd, name, place="deploy@db1")[1].outcome is Outcome.MORE
    # What one cannot come to asks no more than what does not exist.
    said = {first(policyd, name, place=place)[1].outcome for place in ("root@hidden", "root@nowhere", "@", "x@")}
    assert said == {Outcome.DONE}


def test_always_means_each_login(make_policyd):
    policyd = make_policyd(files={"policy.toml": RULES % "always"})
    phone = enrolled(policyd, "alice")
    login_with(policyd, "alice", phone.code()).close()
    assert first(policyd, "alice")[1].outcome is Outcome.MORE


def test_where_rules_alone_ask(make_policyd):
    policyd = make_policyd(files={"policy.toml": RULES % "rules"})
    policyd.done(m.AccountAdd(account="deploy", target="db1", password="x"))
    phone = enrolled(policyd, "alice")
    for place, outcome in (("", Outcome.DONE), ("root@web1", Outcome.DONE), ("postgres@db1", Outcome.MORE),
                           ("deploy@db1", Outcome.MORE), ("root@hidden", Outcome.DONE)):  # fmt: skip
        assert first(policyd, "alice", place=place)[1].outcome is outcome, place
    login_with_place, _ = first(policyd, "alice", place="postgres@db1")
    with login_with_place as peer:
        assert shown(peer, phone.code()).outcome is Outcome.DONE
        assert isinstance(authorize(peer, "db1", "postgres"), m.Grant)
    assert first(policyd, "alice", place="postgres@db1")[1].outcome is Outcome.DONE


# --- a newer code -------------------------------------------------------------------------------------


def test_a_newer_code_on_the_same_connection(policyd):
    name = somebody(policyd)
    phone = enrolled(policyd, name)
    login_with(policyd, name, phone.code()).close()
    peer, _ = first(policyd, name)
    with peer:
        no(authorize(peer, "db1", "deploy"), need="mfa")
        assert shown(peer, "000000").outcome is Outcome.REFUSED
        assert shown(peer, phone.code()) == m.Verdict(outcome=Outcome.DONE, person=name)
        assert peer.ask(m.AnswerCode(person="", answers=["1"])).outcome is Outcome.REFUSED, "nobody asked"
        assert isinstance(authorize(peer, "db1", "deploy"), m.Grant)
    assert policyd.audit("code-shown", limit=1)[0]["who"] == name


def test_wrong_codes_end_no_session_and_lock_codes(policyd):
    name = somebody(policyd)
    phone = enrolled(policyd, name)
    with login_with(policyd, name, phone.code()) as peer:
        assert isinstance(authorize(peer, "web1"), m.Grant)
        for _ in range(5):
            assert shown(peer, "000000").outcome is Outcome.REFUSED
        assert shown(peer, phone.code()).outcome is Outcome.REFUSED, "locked"
        assert peer.ask(m.AskCode(person="")).outcome is Outcome.REFUSED
        assert isinstance(peer.ask(m.Whoami()), m.Rows), "and still in"


def test_an_answer_that_nobody_asked_for(policyd):
    name = somebody(policyd)
    phone = enrolled(policyd, name)
    with login_with(policyd, name, phone.code()) as peer:
        assert peer.ask(m.AnswerCode(person="", answers=[phone.code()])) == m.Verdict(outcome=Outcome.REFUSED)
        assert isinstance(peer.ask(m.Whoami()), m.Rows)


def test_whom_no_code_can_be_asked_of(policyd):
    name = somebody(policyd)
    with policyd.login(name) as peer:
        refused = no(peer.ask(m.AskCode(person="")))
        assert refused.hint == "enrol one: ssh -t bastion mfa enrol"
        refused = no(authorize(peer, "db1", "postgres"), need="mfa")
        assert refused.hint == "enrol one: ssh -t bastion mfa enrol"


# --- a factor that is demanded --------------------------------------------------------------------------


def test_who_has_none_though_one_is_demanded_may_enrol_and_nothing_else(policyd):
    name = somebody(policyd, "careful", "admin")
    with policyd.login(name) as peer:
        for _ in range(2):
            refused = no(authorize(peer, "web1"), need="mfa")
            assert refused.hint == "enrol one: ssh -t bastion mfa enrol"
        for command in (m.PersonList(), m.Reachable(), m.MfaReset(person="bob"), m.MfaEnrol(person="bob")):
            answer = peer.ask(command)
            assert isinstance(answer, m.Refused), command
        phone = Phone(peer.ask(m.MfaEnrol()).data["secret"])
        assert isinstance(peer.ask(m.MfaConfirm(code=phone.code())), m.Done)
        assert isinstance(authorize(peer, "web1"), m.Grant)
        assert isinstance(peer.ask(m.PersonList()), m.Rows)
        ident = peer.ask(m.MfaList()).rows[0][0]
        assert "last second factor" in no(peer.ask(m.MfaRemove(ident=ident))).cause


# --- clocks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "outcome"), [(-2, "refused"), (-1, "done"), (1, "done"), (2, "refused")])
def test_a_clock_may_be_off_by_one_step(policyd, steps, outcome):
    name = somebody(policyd)
    totp = pyotp.TOTP(policyd.done(m.MfaEnrol(person=name)).data["secret"])
    peer, _ = first(policyd, name)
    with peer:
        while time.time() % 30 > 27:  # else the step may end in between
            time.sleep(0.1)
        asked = shown(peer, totp.generate_otp(int(time.time()) // 30 + steps))
    assert asked.outcome == outcome
    if outcome == "done":
        (event,) = policyd.audit("login", limit=1)
        assert f"{steps * 30:+d} s" in str(event), "how far it is off can be seen"


def test_nothing_of_it_is_in_the_database_or_the_log(policyd):
    name = somebody(policyd)
    with policyd.login(name) as peer:
        secret = peer.ask(m.MfaEnrol()).data["secret"]
        codes = peer.ask(m.MfaConfirm(code=Phone(secret).code())).data["codes"].split()
    issued = policyd.done(m.MfaIssue(person=name)).data["code"]
    files = [path for path in Path(policyd.home).rglob("*") if path.is_file()]
    data = b"".join(path.read_bytes() for path in files)
    for word in (secret, *codes, issued):
        for form in (word, word.replace("-", "")):
            assert form.encode() not in data
