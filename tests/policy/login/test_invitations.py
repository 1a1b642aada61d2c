"""Invitations: one person, one key, once."""

import itertools
from pathlib import Path

import pytest

from policy import messages as m
from policy.keys import sshkeys
from policy.model import Outcome
from tests.policy.jit import no
from tests.policy.policyd import SOURCE, Gone, Policyd, proof

_names = itertools.count(1)


def invited(policyd: Policyd, **more: object) -> tuple[str, str]:
    """A new name, and the login name that brings them in."""
    name = f"new{next(_names)}"
    done = policyd.done(m.Invite(name=name, roles=["engineer"], **more))
    return name, done.data["token"]


def join(policyd: Policyd, token: str, key: sshkeys.PrivateKey | None = None, source: str = SOURCE) -> m.Verdict:
    with policyd.connection(source) as peer:
        return peer.ask(proof(key or sshkeys.generate_private_key(), person=token))


def test_a_new_person_takes_their_first_key_along(policyd):
    name, token = invited(policyd)
    key = sshkeys.generate_private_key()
    with policyd.connection() as peer:
        assert peer.ask(m.OfferKey(person=token, blob=key.public.blob)) == m.Acceptable(ok=True)
        assert peer.ask(proof(key, person=token)) == m.Verdict(outcome=Outcome.DONE, person=name)
        assert isinstance(peer.ask(m.Authorize(account="root", target="web1")), m.Grant)
    policyd.keys[name] = key
    policyd.login(name).close()
    (event,) = policyd.audit("person-join", limit=1)
    assert event["what"] == name
    assert join(policyd, token).outcome is Outcome.REFUSED, "an invitation is for once"


def test_a_void_invitation_logs_nobody_in(policyd):
    """Attack, or mistake: a dead `join-...` name, and the key of somebody who is here, who would be told welcome."""
    _, token = invited(policyd)
    key = sshkeys.generate_private_key()
    assert join(policyd, token, key).outcome is Outcome.DONE
    _, other = invited(policyd)
    for void in (token, other, "join-" + "a" * 40):
        with policyd.connection() as peer:
            assert peer.ask(m.OfferKey(person=void, blob=key.public.blob)) == m.Acceptable(ok=False)
            assert peer.ask(proof(key, person=void)).outcome is Outcome.REFUSED
    assert join(policyd, other).outcome is Outcome.DONE, "and it is there for a key that is nobody's"


def test_an_offered_key_joins_nobody(policyd):
    name, token = invited(policyd)
    key = sshkeys.generate_private_key()
    with policyd.connection() as peer:
        peer.ask(m.OfferKey(person=token, blob=key.public.blob))
        wrong = proof(sshkeys.generate_private_key(), person=token)
        verdict = peer.ask(
            m.ProveKey(person=token, blob=key.public.blob, signed=wrong.signed, signature=wrong.signature)
        )
        assert verdict.outcome is Outcome.REFUSED
    assert ["key", "0"] not in policyd.done(m.PersonShow(name=name)).rows
    assert not [row for row in policyd.done(m.PersonShow(name=name)).rows if row[0] == "key"]
    assert join(policyd, token).outcome is Outcome.DONE


def test_a_key_of_somebody_joins_nobody_else(policyd):
    """Attack: one key for two persons, so that approvals come from two."""
    name, token = invited(policyd)
    verdict = join(policyd, token, policyd.keys["bob"])
    assert verdict.person in ("", "bob")
    assert not [row for row in policyd.done(m.PersonShow(name=name)).rows if row[0] == "key"]
    assert join(policyd, token).person == name


def test_two_at_once_are_one(policyd):
    name, token = invited(policyd)
    peers = [policyd.connection(f"198.51.100.{number}") for number in range(1, 9)]
    keys = [sshkeys.generate_private_key() for _ in peers]
    for number, (peer, key) in enumerate(zip(peers, keys, strict=True)):
        peer.send(m.encode(100 + number, proof(key, person=token)))
    verdicts = [peer.receive()[1] for peer in peers]
    assert [verdict.outcome for verdict in verdicts].count(Outcome.DONE) == 1
    assert len([row for row in policyd.done(m.PersonShow(name=name)).rows if row[0] == "key"]) == 1


def test_what_does_not_let_in(policyd):
    name, token = invited(policyd)
    newer = policyd.done(m.Invite(name=name)).data["token"]
    assert join(policyd, token).outcome is Outcome.REFUSED, "a newer invitation takes its place"
    for wrong in (newer[:-1], newer + "a", newer.upper(), "join-", "join-" + "a" * 40, newer.replace("join", "ticket")):
        assert join(policyd, wrong).outcome is Outcome.REFUSED, wrong
    policyd.done(m.PersonSet(name=name, disabled=True))
    assert join(policyd, newer).outcome is Outcome.REFUSED
    policyd.done(m.PersonSet(name=name, disabled=False))
    policyd.person(f"{name}x")
    line = sshkeys.generate_private_key().public.line()
    policyd.done(m.PersonSet(name=name, add_keys=[line]))
    assert join(policyd, newer).outcome is Outcome.REFUSED, "they have a key by now"


def test_a_password_is_no_key(policyd):
    _, token = invited(policyd)
    with policyd.connection() as peer:
        assert peer.ask(m.TryPassword(person=token, password=b"x")).outcome is Outcome.REFUSED
        assert peer.ask(m.AskCode(person=token)).outcome is Outcome.REFUSED


def test_an_invitation_ends(make_policyd):
    import sqlite3

    policyd = make_policyd()
    name, token = invited(policyd)
    key = sshkeys.generate_private_key()
    with policyd.connection() as peer:
        assert peer.ask(m.OfferKey(person=token, blob=key.public.blob)).ok
        with sqlite3.connect(policyd.database) as db:
            db.execute("UPDATE invitation SET expires = expires - ?", (73 * 3600 * 10**9,))
        assert not peer.ask(m.OfferKey(person=token, blob=key.public.blob)).ok
    assert join(policyd, token).outcome is Outcome.REFUSED
    policyd.done(m.Invite(name=name))
    policyd.done(m.PersonOffboard(name=name))
    with pytest.raises(AssertionError, match="offboarded"):
        policyd.done(m.Invite(name=name))


@pytest.mark.parametrize(
    "invite",
    [
        m.Invite(name="alice"), m.Invite(name="root"), m.Invite(name="ticket-x"), m.Invite(name="join-x"),
        m.Invite(name="somebody", roles=["BAD ROLE"]), m.Invite(name="somebody", seconds=59),
        m.Invite(name="somebody", seconds=31 * 24 * 3600),
    ],
)  # fmt: skip
def test_whom_nobody_invites(policyd, invite):
    no(policyd.command(invite), 64)


def test_who_may_invite(policyd):
    with policyd.login("alice") as alice, policyd.login("ada") as ada:
        assert no(alice.ask(m.Invite(name="mallory"))).cause == "you may not do this"
        assert isinstance(ada.ask(m.Invite(name="newcomer")), m.Done)


def test_a_revoked_key_does_not_join(make_policyd):
    key = sshkeys.generate_private_key()
    policyd = make_policyd('revoked_keys = "revoked"', files={"revoked": key.public.fingerprint + "\n"})
    _, token = invited(policyd)
    assert join(policyd, token, key).outcome is Outcome.REFUSED


def test_the_secret_is_kept_nowhere(policyd):
    """Neither what was used nor what was tried in vain: who reads the trail or the log must not become somebody."""
    _, token = invited(policyd)
    wrong = token[:-4] + "aaaa"
    for one in (wrong, token):
        try:
            join(policyd, one)
        except Gone:
            pass
    _, unused = invited(policyd)
    data = b"".join(path.read_bytes() for path in Path(policyd.home).rglob("*") if path.is_file())
    for one in (wrong, token, unused):
        assert one[5:].encode() not in data
