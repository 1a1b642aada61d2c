"""Persons and their sessions against a running policyd: who gets in, what is granted, and how it ends."""

import functools
import resource
import select
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyotp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from policy import messages as m
from policy.keys import signatures, sshkeys
from policy.keys.certificates import parse_certificate
from policy.keys.signatures import verify
from policy.keys.sshwire import BadKey, string
from policy.model import Method, Outcome
from tests.policy import sshbits
from tests.policy.policyd import SESSION, SOURCE, Gone, Policyd, hello, login_data, proof
from tests.support.net import wait_until

GATEWAY_KEY = sshkeys.generate_private_key()


def refused(answer, code=77) -> m.Refused:
    assert isinstance(answer, m.Refused), answer
    assert answer.code == code
    assert answer.ref
    return answer


# --- who ----------------------------------------------------------------------------------------------


def test_a_key_proves_its_owner(policyd):
    with policyd.connection() as peer:
        key = policyd.keys["alice"]
        assert peer.ask(m.OfferKey(person="", blob=key.public.blob)) == m.Acceptable(ok=True)
        assert peer.ask(proof(key)).person == "alice"
        rows = dict(peer.ask(m.Whoami()).rows)
        assert (rows["person"], rows["roles"], rows["proven by"]) == ("alice", "engineer", "key")
    assert [row["who"] for row in policyd.audit("login", limit=1)] == ["alice"]


@pytest.mark.parametrize("claim", ["", "alice", "local-user", "x" * 5000, "\x1b[2J", "аlice"])
def test_a_claim_that_names_nobody_else(policyd, claim):
    with policyd.connection() as peer:
        assert peer.ask(proof(policyd.keys["alice"], person=claim)).outcome is Outcome.DONE


def test_a_claim_of_another_person(policyd):
    with policyd.connection("198.51.100.1") as peer:
        assert peer.ask(proof(policyd.keys["alice"], person="bob")).outcome is Outcome.REFUSED


def test_proofs_that_are_none(policyd):
    stranger = sshkeys.generate_private_key()
    alice = policyd.keys["alice"]
    good = proof(alice)
    for attempt in (
        proof(stranger),
        proof(alice, session=bytes(32)),  # signed for another session: replayed
        m.ProveKey(person="", blob=alice.public.blob, signed=good.signed, signature=proof(stranger).signature),
        m.ProveKey(person="", blob=stranger.public.blob, signed=good.signed, signature=good.signature),
        m.ProveKey(person="", blob=b"", signed=b"", signature=b""),
    ):
        with policyd.connection("198.51.100.2") as peer:
            verdict = peer.ask(attempt)
            assert verdict == m.Verdict(outcome=Outcome.REFUSED, next=[Method.PUBLIC_KEY, Method.PASSWORD])


def test_a_security_key_that_has_to_verify_its_owner(policyd):
    token = sshbits.Token()
    policyd.done(m.PersonAdd(name="vera", keys=[f"verify-required {token.public.line('vera')}"]))
    outcomes = []
    for flags in (1, 5):  # touched; touched, and a PIN was entered
        signed = (
            string(SESSION) + b"\x32" + string("root@web1") + string("ssh-connection") + string("publickey") + b"\x01"
            + string(token.public.algorithm) + string(token.public.blob)
        )  # fmt: skip
        with policyd.connection() as peer:
            request = m.ProveKey(person="", blob=token.public.blob, signed=signed, signature=token.sign(signed, flags))
            outcomes.append(peer.ask(request).outcome)
    assert outcomes == [Outcome.REFUSED, Outcome.DONE]


def test_a_revoked_key_proves_nobody(make_policyd):
    policyd = make_policyd('revoked_keys = "revoked"', {"revoked": ""})
    assert policyd.login("alice")
    (policyd.home / "revoked").write_text(policyd.keys["alice"].public.fingerprint + "\n")
    policyd.done(m.Reload())
    with policyd.connection() as peer:
        assert peer.ask(proof(policyd.keys["alice"])).outcome is Outcome.REFUSED
    assert policyd.login("bob")


def test_a_disabled_person_does_not_log_in(make_policyd):
    policyd = make_policyd()
    policyd.done(m.PersonSet(name="alice", disabled=True))
    with policyd.connection() as peer:
        assert peer.ask(proof(policyd.keys["alice"])).outcome is Outcome.REFUSED
    policyd.done(m.PersonSet(name="alice", disabled=False))
    assert policyd.login("alice")


def test_an_offer_is_neither_kept_nor_counted(make_policyd):
    """Agents offer all their keys, and each stranger could fill the disk."""
    policyd = make_policyd(settings="source_failures = 5")
    for _ in range(2):
        with policyd.connection() as peer:
            for _ in range(5):
                peer.ask(m.OfferKey(person="", blob=sshkeys.generate_private_key().public.blob))
    assert policyd.login("alice")
    assert policyd.audit("login-failed") == []


def test_a_strangers_signatures_lock_nobody(make_policyd):
    """Whoever knows a public key could keep its owner out."""
    policyd = make_policyd(settings="source_failures = 1000")
    good = proof(policyd.keys["alice"])
    spoilt = good.signature[:-1] + bytes([good.signature[-1] ^ 1])
    forged = m.ProveKey(person="", blob=good.blob, signed=good.signed, signature=spoilt)
    for _ in range(2):
        with policyd.connection() as peer:
            for _ in range(5):
                assert peer.ask(forged).outcome is Outcome.REFUSED
    assert dict(policyd.done(m.PersonShow(name="alice")).rows)["locked"] == "no"


def test_a_password(make_policyd):
    policyd = make_policyd()
    policyd.person("pat", "engineer", password="correct horse")
    with policyd.connection() as peer:
        assert peer.ask(m.TryPassword(person="pat", password=b"wrong")).outcome is Outcome.REFUSED
        assert peer.ask(m.TryPassword(person="pat", password=b"correct horse")).person == "pat"
    assert "correct horse" not in policyd.log()
    assert b"correct horse" not in policyd.database.read_bytes()


def test_unknown_persons_and_wrong_passwords_take_as_long(make_policyd):
    policyd = make_policyd(settings="source_failures = 1000\nlock_after = 1000")
    policyd.person("pat", "engineer", password="correct horse")
    spent = {}
    for name in ("pat", "nobody", "alice"):  # alice has no password
        before = policyd.cpu()
        for _ in range(4):
            with policyd.connection() as peer:
                answer = peer.ask(m.TryPassword(person=name, password=b"wrong"))
                assert answer == m.Verdict(outcome=Outcome.REFUSED, next=[Method.PUBLIC_KEY, Method.PASSWORD])
        spent[name] = policyd.cpu() - before
    # CPU and not the clock: other work on the machine must not decide; without the dummy hash it is next to nothing
    assert min(spent.values()) > 0.5 * max(spent.values()) > 0.1, spent


def test_wrong_passwords_lock_the_password_and_not_the_key(make_policyd):
    policyd = make_policyd()
    policyd.person("pat", "engineer", password="correct horse")
    for number in range(5):
        with policyd.connection(f"198.51.100.{number}") as peer:
            peer.ask(m.TryPassword(person="pat", password=b"wrong"))
    with policyd.connection() as peer:
        assert peer.ask(m.TryPassword(person="pat", password=b"correct horse")).outcome is Outcome.REFUSED
    assert policyd.audit("login-failed")[0]["why"] == "person is locked out"
    assert policyd.login("pat")
    assert policyd.audit("person-locked")[0]["what"] == "pat"
    assert dict(policyd.done(m.PersonShow(name="pat")).rows)["locked"] == "password"
    policyd.restart()
    with policyd.connection() as peer:
        assert peer.ask(m.TryPassword(person="pat", password=b"correct horse")).outcome is Outcome.REFUSED
    policyd.done(m.PersonSet(name="pat", password="new password"))
    with policyd.connection() as peer:
        assert peer.ask(m.TryPassword(person="pat", password=b"new password")).outcome is Outcome.DONE


def test_guesses_at_once_get_no_further_than_guesses_one_by_one(make_policyd):
    policyd = make_policyd(settings="source_failures = 1000")
    policyd.person("pat", "engineer", password="right")
    peers = [policyd.connection(f"198.51.100.{number}") for number in range(11)]
    for peer in peers[:10]:
        peer.send(m.encode(2, m.TryPassword(person="pat", password=b"wrong")))
    select.select([peer.sock for peer in peers[:10]], [], [], 20)  # one is answered, the others wait for their hash
    peers[10].send(m.encode(2, m.TryPassword(person="pat", password=b"right")))
    outcomes = [peer.receive()[1].outcome for peer in peers]
    assert outcomes == [Outcome.REFUSED] * 11


def test_a_source_that_fails_too_often_is_cut_off(make_policyd):
    policyd = make_policyd(settings="source_failures = 5")
    with policyd.connection("198.51.100.9") as peer:
        for _ in range(5):
            peer.ask(m.TryPassword(person="nobody", password=b"x"))
    with policyd.connection("198.51.100.9") as peer:
        assert peer.ask(proof(policyd.keys["alice"])).outcome is Outcome.DISCONNECT
    assert policyd.login("alice", "198.51.100.10")


# --- the second factor -----------------------------------------------------------------------------------


def enrol(policyd: Policyd, name: str) -> pyotp.TOTP:
    return pyotp.TOTP(policyd.done(m.MfaEnrol(person=name)).data["secret"])


def test_a_key_and_a_code(make_policyd):
    policyd = make_policyd()
    totp = enrol(policyd, "alice")
    with policyd.connection() as peer:
        assert peer.ask(proof(policyd.keys["alice"])) == m.Verdict(outcome=Outcome.MORE, next=[Method.CODE])
        challenge = peer.ask(m.AskCode(person=""))
        assert challenge.prompts == [("one-time code: ", False)]
        assert peer.ask(m.AnswerCode(person="", answers=["000000"])).outcome is Outcome.REFUSED
        peer.ask(m.AskCode(person=""))
        assert peer.ask(m.AnswerCode(person="", answers=[totp.now()])).person == "alice"
        grant = peer.ask(m.Authorize(account="postgres", target="db1", reason="ticket 7"))
        assert isinstance(grant, m.Grant), "production wants a code and a reason"
        refused(peer.ask(m.Authorize(account="postgres", target="db1")))
    policyd.done(m.MfaReset(person="alice"))
    with policyd.login("alice") as peer:
        assert "second factor" in refused(peer.ask(m.Authorize(account="postgres", target="db1", reason="x"))).cause


def test_a_session_keeps_the_proof_it_was_granted_on(make_policyd):
    """A code entered later on another connection must not take the earlier one's place."""
    policyd = make_policyd()
    totp = enrol(policyd, "alice")
    now = time.time()

    def log_in(at: float):
        peer = policyd.connection()
        peer.ask(proof(policyd.keys["alice"]))
        peer.ask(m.AskCode(person=""))
        assert peer.ask(m.AnswerCode(person="", answers=[totp.at(int(at))])).outcome is Outcome.DONE
        return peer

    first = log_in(now)
    grant = first.ask(m.Authorize(account="postgres", target="db1", reason="x"))
    log_in(now + 30)
    assert first.ask(m.OpenChannel(session=grant.session, kind="shell")) == m.Allowed()
    assert policyd.done(m.Reload()).text == "3 rules in force"


def test_halfway_is_nowhere(make_policyd):
    policyd = make_policyd()
    enrol(policyd, "alice")
    for request in (m.Authorize(account="root", target="web1"), m.Whoami(), m.OpenChannel(session="x", kind="shell")):
        with policyd.connection() as peer:
            peer.ask(proof(policyd.keys["alice"]))
            with pytest.raises(Gone):
                peer.ask(request)


def test_twenty_at_once_with_one_code(make_policyd):
    policyd = make_policyd(settings="lock_after = 1000\nsource_failures = 1000")
    totp = enrol(policyd, "alice")
    peers = [policyd.connection() for _ in range(20)]
    for peer in peers:
        peer.ask(proof(policyd.keys["alice"]))
        peer.ask(m.AskCode(person=""))
    code = totp.now()
    for peer in peers:
        peer.send(m.encode(9, m.AnswerCode(person="", answers=[code])))
    outcomes = [peer.receive()[1].outcome for peer in peers]
    assert outcomes.count(Outcome.DONE) == 1
    assert outcomes.count(Outcome.REFUSED) == 19
    policyd.restart()
    with policyd.connection() as peer:
        peer.ask(proof(policyd.keys["alice"]))
        peer.ask(m.AskCode(person=""))
        assert peer.ask(m.AnswerCode(person="", answers=[code])).outcome is Outcome.REFUSED, "nor after a restart"


def test_wrong_codes_lock_the_code(make_policyd):
    policyd = make_policyd(settings="source_failures = 1000")
    totp = enrol(policyd, "alice")
    for number in range(5):
        with policyd.connection(f"198.51.100.{number}") as peer:
            peer.ask(proof(policyd.keys["alice"]))
            peer.ask(m.AskCode(person=""))
            peer.ask(m.AnswerCode(person="", answers=["000000"]))
    with policyd.connection() as peer:
        peer.ask(proof(policyd.keys["alice"]))
        peer.ask(m.AskCode(person=""))
        assert peer.ask(m.AnswerCode(person="", answers=[totp.now()])).outcome is Outcome.REFUSED
    assert policyd.audit("login-failed")[0]["why"] == "person is locked out"
    assert policyd.audit("code-locked")


# --- certificates -----------------------------------------------------------------------------------------


def certified(policyd: Policyd, **changes):
    now = int(time.time())
    blob = sshbits.certificate(after=now - 60, before=now + 3600, **changes)
    peer = policyd.connection()
    return peer, peer.ask(proof(sshbits.KEY, blob=blob))


def test_a_user_certificate(make_policyd):
    policyd = make_policyd(
        'trusted_user_cas = "cas"\nrevoked_keys = "revoked"',
        {"cas": f"# ours\n{sshbits.CA.public.line('ca')}\n", "revoked": ""},
    )
    peer, verdict = certified(policyd)
    assert verdict.person == "alice"
    grant = peer.ask(m.Authorize(account="root", target="web1"))
    assert set(grant.kinds) == {"shell", "exec", "sftp"}
    assert certified(policyd, principals=[])[1].outcome is Outcome.REFUSED
    assert certified(policyd, principals=[b"nobody"])[1].outcome is Outcome.REFUSED
    peer, _ = certified(policyd, critical=[(b"force-command", string("uptime"))])
    grant = peer.ask(m.Authorize(account="root", target="web1"))
    refused(peer.ask(m.OpenChannel(session=grant.session, kind="shell")))
    refused(peer.ask(m.OpenChannel(session=grant.session, kind="exec", detail="id")))
    assert peer.ask(m.OpenChannel(session=grant.session, kind="exec", detail="uptime")) == m.Allowed()
    peer, _ = certified(policyd, extensions=[])
    grant = peer.ask(m.Authorize(account="root", target="web1"))
    refused(peer.ask(m.OpenChannel(session=grant.session, kind="shell")))
    (policyd.home / "revoked").write_text(sshbits.CA.public.fingerprint + "\n")
    policyd.done(m.Reload())
    assert certified(policyd)[1].outcome is Outcome.REFUSED


# --- may ---------------------------------------------------------------------------------------------------


def test_a_grant(policyd):
    peer, grant = policyd.session("alice")
    assert (grant.person, grant.account, grant.target, grant.address, grant.port) == (
        "alice", "root", "web1", "127.0.0.1", 9,
    )  # fmt: skip
    assert grant.rule == "engineers on test machines"
    assert set(grant.kinds) == {"shell", "exec", "sftp"}
    assert len(grant.commitment_key) == 32
    assert len(grant.session) == 32
    assert grant.session[12] == "7", "a UUIDv7"
    assert peer.ask(m.OpenChannel(session=grant.session, kind="shell")) == m.Allowed()
    refused(peer.ask(m.OpenChannel(session=grant.session, kind="forward-local")))
    refused(peer.ask(m.OpenChannel(session=grant.session, kind="teleport")))
    (event, *_) = policyd.audit("access-granted")
    assert (event["who"], event["what"], event["session"]) == ("alice", "root@web1", grant.session)


def test_what_does_not_exist_and_what_is_not_allowed_look_alike(policyd):
    said = set()
    with policyd.login("alice") as peer:
        for account, target in (("root", "hidden"), ("root", "nowhere"), ("nobody", "web1"), ("nobody", "hidden")):
            answer = refused(peer.ask(m.Authorize(account=account, target=target)))
            said.add((answer.cause.replace(account, "A").replace(target, "T"), answer.hint, answer.code))
    assert len(said) == 1, said


def test_a_host_certificate_is_for_targets_within_reach(policyd):
    public = GATEWAY_KEY.public.blob
    with policyd.login("alice") as peer:
        found = parse_certificate(peer.ask(m.HostCertificate(target="web1", public=public)).blob)
        assert (found.principals, found.kind, found.key.blob) == (("web1",), 2, public)
        assert isinstance(peer.ask(m.HostCertificate(target="db1", public=public)), m.Certificate), "a code would do"
        answers = [refused(peer.ask(m.HostCertificate(target=name, public=public))) for name in ("hidden", "nowhere")]
        assert {(answer.code, answer.cause, answer.hint) for answer in answers} == {
            (77, answers[0].cause, answers[0].hint)
        }
        refused(peer.ask(m.HostCertificate(target="web1", public=b"x")), code=78)
    with policyd.login("ada") as peer:
        refused(peer.ask(m.HostCertificate(target="web1", public=public)))


def test_a_disabled_person_gets_no_host_certificate(make_policyd):
    policyd = make_policyd()
    with policyd.login("alice") as peer:
        policyd.done(m.PersonSet(name="alice", disabled=True))
        refused(peer.ask(m.HostCertificate(target="web1", public=GATEWAY_KEY.public.blob)))


def test_another_port_is_another_place(policyd):
    with policyd.login("alice") as peer:
        assert isinstance(peer.ask(m.Authorize(account="root", target="web1", port=9)), m.Grant)
        refused(peer.ask(m.Authorize(account="root", target="web1", port=22)))
        refused(peer.ask(m.Authorize(account="root", target="web1", via="x")))


def test_a_session_belongs_to_its_conversation(policyd):
    _peer, grant = policyd.session("alice")
    with policyd.login("alice") as other:
        for request in (
            m.OpenChannel(session=grant.session, kind="shell"),
            m.Credential(session=grant.session, session_key=GATEWAY_KEY.public.blob),
            m.Sign(session=grant.session, data=b"x", algorithm="x"),
        ):
            assert refused(other.ask(request)).cause == "this session has ended"


def test_what_is_reachable(policyd):
    with policyd.login("alice") as peer:
        rows = {(row[0], row[1]): row[3] for row in peer.ask(m.Reachable()).rows}
    assert rows == {
        ("db1", "postgres"): "second-factor-needed", ("web1", "deploy"): "", ("web1", "root"): "",
    }  # fmt: skip


def test_sessions_of_one_connection_have_a_limit(policyd):
    with policyd.login("alice") as peer:
        answers = [peer.ask(m.Authorize(account="root", target="web1")) for _ in range(65)]
    assert [type(answer) for answer in answers] == [m.Grant] * 64 + [m.Refused]


# --- rules change under way ---------------------------------------------------------------------------------


def test_a_bad_file_keeps_the_old_rules(make_policyd):
    policyd = make_policyd()
    file = policyd.home / "policy.toml"
    good = file.read_text()
    file.write_text(good.replace('"shell"', '"shel"'))
    answer = policyd.command(m.Reload())
    assert isinstance(answer, m.Refused)
    assert "did you mean `shell`" in answer.cause
    assert isinstance(policyd.session("alice")[1], m.Grant)
    file.unlink()
    assert isinstance(policyd.command(m.Reload()), m.Refused)
    assert isinstance(policyd.session("alice")[1], m.Grant)
    assert policyd.audit("reload-refused")


def test_a_channel_is_decided_by_the_rules_of_its_moment(make_policyd):
    policyd = make_policyd()
    peer, grant = policyd.session("alice")
    assert peer.ask(m.OpenChannel(session=grant.session, kind="shell")) == m.Allowed()
    (policyd.home / "policy.toml").write_text("")
    assert policyd.done(m.Reload()).text == "0 rules in force; ended 1 live session"
    refused(peer.ask(m.OpenChannel(session=grant.session, kind="shell")))


def test_what_is_no_longer_allowed_ends(make_policyd):
    """Design, invariant 3: at revocation the live session ends."""
    policyd = make_policyd()
    peer, grant = policyd.session("alice")
    peer.ask(m.OpenChannel(session=grant.session, kind="shell"))
    other, kept = policyd.session("bob")
    other.ask(m.OpenChannel(session=kept.session, kind="exec"))
    file = policyd.home / "policy.toml"
    file.write_text(file.read_text() + '\n[[rule]]\nname = "no shells"\neffect = "forbid"\nallow = ["shell"]\n')
    assert policyd.done(m.Reload()).text == "4 rules in force; ended 1 live session"
    push = peer.push()
    assert (push.session, push.reason) == (grant.session, "no longer allowed")
    assert other.ask(m.OpenChannel(session=kept.session, kind="exec")) == m.Allowed()
    done = policyd.done(m.PersonSet(name="bob", remove_roles=["engineer"]))
    assert "ended 1 live session" in done.text
    assert other.push().reason == "no longer allowed"


def test_sighup_reloads(make_policyd):
    policyd = make_policyd()
    (policyd.home / "policy.toml").write_text("")
    policyd.process.send_signal(signal.SIGHUP)
    wait_until("the reload", lambda: policyd.audit("reload"))
    with policyd.login("alice") as peer:
        refused(peer.ask(m.Authorize(account="root", target="web1")))


def test_a_role_taken_away_between_grant_and_channel(make_policyd):
    policyd = make_policyd()
    peer, grant = policyd.session("alice")
    policyd.done(m.PersonSet(name="alice", remove_roles=["engineer"]))
    refused(peer.ask(m.OpenChannel(session=grant.session, kind="shell")))


# --- the end --------------------------------------------------------------------------------------------------


def test_a_kill(policyd):
    peer, grant = policyd.session("alice")
    peer.ask(m.SessionStarted(session=grant.session, recording="r"))
    with policyd.login("sue") as security:
        done = security.ask(m.SessionKill(session=grant.session, reason="looks\nodd"))
        assert isinstance(done, m.Done)
        again = security.ask(m.SessionKill(session=grant.session, reason="again"))
        assert isinstance(again, m.Refused)
        assert again.cause.startswith("no live session")
        assert security.ask(m.SessionKill(session=grant.session, reason=" ")).cause.startswith("a reason is needed")
    push = peer.push()
    assert push == m.EndSession(session=grant.session, by="sue", reason="looks\\u{a}odd")
    refused(peer.ask(m.OpenChannel(session=grant.session, kind="shell")))
    refused(peer.ask(m.Credential(session=grant.session, session_key=b"")))
    peer.ask(m.SessionEnded(session=grant.session, reason="killed", bytes_in=5, bytes_out=6))
    (row,) = [row for row in policyd.done(m.SessionsList(all=True)).rows if row[0] == grant.session]
    assert row[8] == "looks\\u{a}odd", "the first reason stands"


def test_the_time_is_up(policyd):
    peer, grant = policyd.session("gina")
    assert grant.expires_in == 1
    push = peer.push()
    assert (push.session, push.reason) == (grant.session, "expired")
    assert policyd.audit("session-expired")[0]["session"] == grant.session


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (m.PersonOffboard(name="bob"), "offboarded"),
        (m.PersonSet(name="bob", disabled=True), "disabled"),
        (m.TargetRemove(name="web1"), "target removed"),
        (m.AccountRemove(account="root", target="web1"), "account removed"),
    ],
)
def test_what_ends_sessions(make_policyd, command, reason):
    policyd = make_policyd()
    peer, grant = policyd.session("bob")
    other, kept = policyd.session("alice", "deploy")
    done = policyd.done(command)
    assert "ended 1 live session" in done.text or "ended 2 live sessions" in done.text
    assert peer.push().reason == reason
    refused(peer.ask(m.OpenChannel(session=grant.session, kind="shell")))
    refused(peer.ask(m.Authorize(account="root", target="web1")))
    if not isinstance(command, m.TargetRemove):
        assert other.ask(m.OpenChannel(session=kept.session, kind="shell")) == m.Allowed()


def test_an_offboarded_person_is_gone(make_policyd):
    policyd = make_policyd()
    policyd.done(m.PersonOffboard(name="bob"))
    with policyd.connection() as peer:
        assert peer.ask(proof(policyd.keys["bob"])).outcome is Outcome.REFUSED
    answer = policyd.command(m.PersonAdd(name="bob", roles=["engineer"]))
    assert isinstance(answer, m.Refused), "nobody inherits a history"


def test_nobody_ends_the_session_of_another_conversation(policyd):
    peer, grant = policyd.session("alice")
    with policyd.login("bob") as other:
        other.ask(m.SessionEnded(session=grant.session, reason="forged", bytes_in=5, bytes_out=6))
        other.ask(m.SessionStarted(session=grant.session, recording="forged"))
        other.ask(m.Report(session=grant.session, event="target-unreachable"))
    (row,) = [row for row in policyd.done(m.SessionsList()).rows if row[0] == grant.session]
    assert (row[6], row[8]) == ("", ""), "neither started nor ended"
    with sqlite3.connect(policyd.database) as database:
        counted = database.execute("SELECT bytes_in, bytes_out FROM session WHERE id = ?", (grant.session,)).fetchone()
    database.close()
    assert counted == (0, 0)
    assert policyd.audit("target-unreachable")[0]["session"] == ""
    assert peer.ask(m.OpenChannel(session=grant.session, kind="shell")) == m.Allowed()


def test_a_connection_that_ends_takes_its_sessions_along(policyd):
    peer, grant = policyd.session("alice")
    peer.close()

    def ended() -> list[str] | None:
        rows = policyd.done(m.SessionsList(all=True)).rows
        return next((row for row in rows if row[0] == grant.session and row[8] == "interrupted"), None)

    wait_until("the end of the session", ended)


def test_sessions_of_a_policyd_that_was_killed(make_policyd):
    policyd = make_policyd()
    _peer, grant = policyd.session("alice")
    policyd.kill()
    policyd.start()
    assert policyd.done(m.SessionsList()).rows == []
    (row,) = [row for row in policyd.done(m.SessionsList(all=True)).rows if row[0] == grant.session]
    assert row[8] == "interrupted"
    assert policyd.done(m.AuditVerify()).text.startswith("the audit trail is whole")


def test_reports(policyd):
    peer, grant = policyd.session("alice")
    for event in (
        "host-key-mismatch",
        "target-unreachable",
        "login-failed-at-target",
        "recorder-lost",
        "protocol-error",
    ):
        peer.ask(m.Report(session=grant.session, event=event, detail={"got": "SHA256:x", "want": "\x1b[2J"}))
        (found, *_) = policyd.audit(event)
        assert (found["who"], found["what"], found["session"]) == ("alice", "root@web1", grant.session)
        assert "got=SHA256:x" in found["detail"]
        assert "\x1b" not in found["detail"]
    peer.ask(m.Report(session="", event="access-granted", detail={"forged": "yes"}))
    (forged,) = ["forged=yes" in row["detail"] for row in policyd.audit("access-granted", limit=1)]
    assert not forged, "nobody writes our own events"
    assert "reported=access-granted" in policyd.audit("reported")[0]["detail"]


# --- faults ---------------------------------------------------------------------------------------------------


def test_a_locked_database_is_no(make_policyd):
    policyd = make_policyd()
    peer, grant = policyd.session("alice")
    locker = sqlite3.connect(policyd.database, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    answer = peer.ask(m.OpenChannel(session=grant.session, kind="shell"))
    assert isinstance(answer, m.Refused)
    assert (answer.code, answer.cause) == (69, "the bastion cannot keep its audit trail")
    locker.execute("ROLLBACK")
    locker.close()
    assert peer.ask(m.OpenChannel(session=grant.session, kind="shell")) == m.Allowed()


@contextmanager
def a_database_that_is(how: str, policyd: Policyd) -> Iterator[None]:
    """Gone, which is an error at once; or locked, which is one after as long as who hangs up is waited for."""
    if how == "gone":
        aside = policyd.database.with_suffix(".aside")
        policyd.database.rename(aside)
        yield
        aside.rename(policyd.database)
    else:
        locker = sqlite3.connect(policyd.database, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        yield
        locker.execute("ROLLBACK")
        locker.close()


@pytest.mark.parametrize("how", ["gone", "locked"])
def test_ends_that_cannot_be_kept_end_nobody_else(make_policyd, how):
    """Attack: the disk is full, and a gateway hangs up with two sessions: two errors at once ended policyd."""
    policyd = make_policyd()
    other, _ = policyd.session("alice")
    peer, first = policyd.session("alice")
    second = peer.ask(m.Authorize(account="root", target="web1"))
    with a_database_that_is(how, policyd):
        peer.close()
        said = b"ends-not-noted" if how == "gone" else b"audit-write-failed"
        wait_until("their ends are given up", lambda: said in (policyd.home / "log").read_bytes())
    assert dict(other.ask(m.Whoami()).rows)["person"] == "alice"
    gone = {first.session, second.session}
    if how == "gone":
        assert gone <= {row[0] for row in policyd.done(m.SessionsList()).rows}, "nobody could write that down"

    def made_up() -> bool:
        return not gone & {row[0] for row in policyd.done(m.SessionsList()).rows}

    wait_until("their ends are kept", made_up)
    assert gone <= {row["session"] for row in policyd.audit("session-end")}
    assert len(policyd.audit("session-end")) == 2, "once each"


def test_without_file_descriptors_what_was_committed_is_synced_later(make_policyd):
    """Attack: connections until nothing can be opened. Not to reach the disk is no fault of the disk."""
    policyd = make_policyd()
    peer, grant = policyd.session("alice")
    limits = resource.prlimit(policyd.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(policyd.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    assert peer.ask(m.OpenChannel(session=grant.session, kind="shell")) == m.Allowed()
    log = policyd.home / "log"
    wait_until("the sync waits", lambda: log.read_bytes().count(b'"sync-waits"') > 1)
    resource.prlimit(policyd.process.pid, resource.RLIMIT_NOFILE, limits)
    policyd.person("zoe")  # a change that waits for the disk
    assert dict(peer.ask(m.Whoami()).rows)["person"] == "alice"


def test_a_database_that_is_gone_is_no(make_policyd):
    """SQLite would go on in the file without a name, and its trail would be nowhere."""
    policyd = make_policyd()
    peer, grant = policyd.session("alice")
    aside = policyd.database.with_suffix(".aside")
    policyd.database.rename(aside)
    for _ in range(2):
        answer = peer.ask(m.OpenChannel(session=grant.session, kind="shell"))
        assert isinstance(answer, m.Refused)
        assert (answer.code, answer.cause) == (69, "the bastion cannot keep its audit trail")
        shutil.copy(aside, policyd.database)  # a file of the same name is not the same
    aside.rename(policyd.database)
    assert peer.ask(m.OpenChannel(session=grant.session, kind="shell")) == m.Allowed()


def test_every_answer_is_in_the_trail_after_a_kill(make_policyd):
    """kill -9 while eight gateways ask: what was answered was kept."""
    policyd = make_policyd()
    answered: list[str] = []

    def ask() -> None:
        try:
            peer = policyd.login("alice")
            while True:
                grant = peer.ask(m.Authorize(account="root", target="web1"))
                answered.append(grant.session)
                peer.ask(m.SessionEnded(session=grant.session, reason="done"))
        except (Gone, OSError):
            pass

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until("sessions", lambda: len(answered) > 50)
    policyd.kill()
    for thread in threads:
        thread.join()
    policyd.start()
    kept = {row["session"] for row in policyd.audit("access-granted", limit=1000)}
    assert set(answered) <= kept
    assert policyd.done(m.AuditVerify()).text.startswith("the audit trail is whole")


def test_a_trail_that_was_cut_is_not_served(make_policyd):
    policyd = make_policyd()
    policyd.session("alice")
    policyd.stop()
    with sqlite3.connect(policyd.database) as database:
        database.execute("DELETE FROM audit WHERE seq > 10")
    database.close()
    done = policyd.run("serve")
    assert done.returncode == 78
    assert "the audit trail does not reach its kept head" in done.stderr
    assert "db accept-trail" in done.stderr
    assert policyd.run("db", "accept-trail").returncode == 0
    policyd.start()
    assert policyd.audit("audit-trail-accepted")


def test_an_old_database_is_not_served(make_policyd):
    """A roll-back gives revoked people their keys again."""
    policyd = make_policyd()
    policyd.stop()
    old = policyd.database.read_bytes()
    policyd.start()
    policyd.done(m.PersonOffboard(name="bob"))
    policyd.stop()
    for path in policyd.database.parent.glob("bastion.db-*"):
        path.unlink()
    policyd.database.write_bytes(old)
    assert policyd.run("serve").returncode == 78


def test_an_edited_row_is_found(make_policyd):
    policyd = make_policyd()
    policyd.session("alice")
    with sqlite3.connect(policyd.database) as database:
        database.execute("UPDATE audit SET body = replace(body, 'alice', 'carol') WHERE event = 'access-granted'")
    database.close()
    answer = policyd.command(m.AuditVerify())
    assert isinstance(answer, m.Refused)
    assert answer.code == 78
    assert "broken at row" in answer.cause


# --- dial -----------------------------------------------------------------------------------------------------


def test_a_password_is_leased_once(policyd):
    peer, grant = policyd.session("alice")
    ask = m.Credential(session=grant.session, session_key=b"")
    assert peer.ask(ask) == m.UsePassword(password=b"password of root")
    refused(peer.ask(ask))
    peer.ask(m.Report(session=grant.session, event="target-unreachable"))
    assert isinstance(peer.ask(ask), m.UsePassword), "one dial more after the target could not be reached"
    peer.ask(m.Report(session=grant.session, event="target-unreachable"))
    refused(peer.ask(ask))
    refused(peer.ask(m.Sign(session=grant.session, data=b"x", algorithm="ssh-ed25519")))
    assert grant.session in [row["session"] for row in policyd.audit("credential")]


@pytest.fixture(scope="module")
def keyed(policyd) -> sshkeys.PrivateKey:
    key = sshkeys.generate_private_key()
    pem = sshkeys.write_private_key(key).decode()
    policyd.done(m.AccountAdd(account="git", target="web1", private_key=pem))
    return key


def sign_request(grant: m.Grant, key: sshkeys.PrivateKey, **changes) -> m.Sign:
    data = login_data(key, user=changes.pop("user", "git"), session=changes.pop("ssh_session", bytes(20)))
    return m.Sign(
        session=grant.session, data=changes.pop("data", data), algorithm=changes.pop("algorithm", "ssh-ed25519")
    )


def test_a_key_signs_its_own_logins(policyd, keyed):
    peer, grant = policyd.session("alice", "git")
    assert refused(peer.ask(sign_request(grant, keyed))).cause == "there is no key to sign with", "none was leased yet"
    leased = peer.ask(m.Credential(session=grant.session, session_key=b""))
    assert leased == m.UseKey(public=keyed.public.blob, algorithms=["ssh-ed25519"])
    request = sign_request(grant, keyed)
    assert verify(keyed.public, peer.ask(request).blob, request.data)
    for _ in range(3):
        assert isinstance(peer.ask(request), m.Signature)
    refused(peer.ask(request))


@pytest.mark.parametrize(
    "changes",
    [
        {"user": "root"}, {"user": ""}, {"algorithm": "rsa-sha2-512"}, {"algorithm": ""}, {"data": b""},
        {"data": b"SSHSIG" + string("git")}, {"data": string(bytes(20)) + b"\x32" + string("git")},
    ],
)  # fmt: skip
def test_a_key_signs_nothing_else(policyd, keyed, changes):
    peer, grant = policyd.session("alice", "git")
    peer.ask(m.Credential(session=grant.session, session_key=b""))
    refused(peer.ask(sign_request(grant, keyed, **changes)))


def test_a_key_signs_by_the_algorithm_that_is_signed_for(make_policyd):
    """SHA-512 in the request, SHA-256 in what is signed: the target would see one thing and check another."""
    policyd = make_policyd()
    key = sshkeys.parse_private_key(rsa_pem())
    policyd.done(m.AccountAdd(account="git", target="web1", private_key=rsa_pem().decode()))
    peer, grant = policyd.session("alice", "git")
    peer.ask(m.Credential(session=grant.session, session_key=b""))
    assert isinstance(peer.ask(sign_request(grant, key, algorithm="rsa-sha2-512")), m.Signature)
    refused(peer.ask(sign_request(grant, key, algorithm="rsa-sha2-256")))


@functools.cache
def rsa_pem() -> bytes:
    key = rsa.generate_private_key(65537, 3072)
    form = serialization.PrivateFormat.OpenSSH
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def test_a_key_does_not_sign_for_another_key(policyd, keyed):
    peer, grant = policyd.session("alice", "git")
    peer.ask(m.Credential(session=grant.session, session_key=b""))
    refused(peer.ask(sign_request(grant, GATEWAY_KEY)))


def test_a_private_key_never_leaves(policyd, keyed):
    secret = keyed.crypto.private_bytes_raw()
    assert secret not in policyd.database.read_bytes()
    assert "PRIVATE KEY" not in (policyd.home / "log").read_text()


def test_a_certificate_for_one_handshake(make_policyd):
    policyd = make_policyd()
    policyd.done(m.AccountAdd(account="ops", target="web1", user_ca=True))
    peer, grant = policyd.session("alice", "ops")
    refused(peer.ask(m.Credential(session=grant.session, session_key=b"x")), code=78)
    peer, grant = policyd.session("alice", "ops")
    answer = peer.ask(m.Credential(session=grant.session, session_key=GATEWAY_KEY.public.blob))
    found = parse_certificate(answer.certificate)
    assert (found.principals, found.key.blob) == (("ops",), GATEWAY_KEY.public.blob)
    assert found.key_id == f"bastion:alice:{grant.session}"
    assert found.valid_before - time.time() < 301
    line = next(row[1] for row in peer.ask(m.CaLines()).rows if "TrustedUserCAKeys" in row[0])
    ca = sshkeys.parse_authorized_key(line).key
    assert ca == found.ca
    assert signatures.verify(ca, found.signature, found.signed)
    with pytest.raises(BadKey):
        signatures.verify(ca, found.signature, found.signed + b"x")


def test_a_vault_that_was_tampered_with_gives_nothing(make_policyd):
    policyd = make_policyd()
    peer, grant = policyd.session("alice")
    with sqlite3.connect(policyd.database) as database:
        rows = dict(database.execute(
            "SELECT secret, sealed FROM secret_version JOIN secret ON id = secret WHERE kind IN ('password', 'key')"
        ).fetchall())  # fmt: skip
        first, second, *_ = rows
        for ident, sealed in ((first, rows[second]), (second, rows[first])):
            database.execute("UPDATE secret_version SET sealed = ? WHERE secret = ?", (sealed, ident))
    database.close()
    refused(peer.ask(m.Credential(session=grant.session, session_key=b"")), code=78)


# --- workers -----------------------------------------------------------------------------------------------------


def test_a_scan_is_carried_out_by_a_worker(policyd):
    key = sshkeys.generate_private_key()
    worker = policyd.gateway(m.Worker(pid=1))
    answers: list[object] = []
    thread = threading.Thread(
        target=lambda: answers.append(policyd.command(m.TargetAdd(name="web7", address="192.0.2.7:2200", scan=True)))
    )
    thread.start()
    scan = worker.push()
    assert (scan.address, scan.port) == ("192.0.2.7", 2200)
    worker.send(m.encode(9, m.Scanned(task=scan.task + 1, keys=[key.public.blob])))
    worker.send(m.encode(10, m.Scanned(task=scan.task, keys=[key.public.blob])))
    thread.join(20)
    (answer,) = answers
    assert isinstance(answer, m.Done)
    assert key.public.fingerprint in answer.text
    worker.close()


def test_a_scan_without_a_worker(make_policyd):
    answer = make_policyd().command(m.TargetAdd(name="web7", address="192.0.2.7", scan=True))
    assert isinstance(answer, m.Refused)
    assert "--pin FILE" in answer.hint


def test_another_worker_cannot_answer_for_it(policyd):
    worker, other = policyd.gateway(m.Worker(pid=1)), policyd.gateway(m.Worker(pid=2))
    answers: list[object] = []
    thread = threading.Thread(
        target=lambda: answers.append(policyd.command(m.TargetAdd(name="web8", address="192.0.2.8", scan=True)))
    )
    thread.start()
    scan = worker.push()
    forged, real = sshkeys.generate_private_key(), sshkeys.generate_private_key()
    other.send(m.encode(9, m.Scanned(task=scan.task, keys=[forged.public.blob])))
    wait_until("the forged one is turned away", lambda: f'"task": {scan.task},' in policyd.log())
    worker.send(m.encode(9, m.Scanned(task=scan.task, keys=[real.public.blob])))
    thread.join(20)
    (answer,) = answers
    assert real.public.fingerprint in answer.text
    assert forged.public.fingerprint not in answer.text


def test_a_target_with_no_pin_is_not_dialled(make_policyd):
    policyd = make_policyd()
    (row,) = [row for row in policyd.done(m.TargetShow(name="web1")).rows if row[0] == "host key"]
    policyd.done(m.TargetHostkey(name="web1", forget=row[1].split()[1]))
    with policyd.login("alice") as peer:
        refused(peer.ask(m.Authorize(account="root", target="web1")), code=78)


def test_a_second_policyd_does_not_start(policyd):
    done = policyd.run("serve")
    assert done.returncode == 78
    assert "another policyd is running" in done.stderr


def test_sockets_are_for_their_group(policyd):
    for name in ("policyd.sock", "policyd-admin.sock", "policyd-audit.sock"):
        assert (policyd.home / "run" / name).stat().st_mode & 0o777 == 0o660
    assert hello().source == SOURCE


def test_one_connection_may_have_many_sessions_one_after_the_other(policyd):
    """A ControlMaster lives all day: only those that are open count against its limit."""
    peer = policyd.login("alice")
    for _ in range(70):
        grant = peer.ask(m.Authorize(account="root", target="web1"))
        assert isinstance(grant, m.Grant), grant.cause
        peer.ask(m.SessionEnded(session=grant.session, reason="closed"))
    grants = [peer.ask(m.Authorize(account="root", target="web1")) for _ in range(65)]
    assert [isinstance(one, m.Grant) for one in grants] == [True] * 64 + [False]
    peer.close()
