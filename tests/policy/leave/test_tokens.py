"""Access tokens: where they come from, the one place they lead to, and everything they do not."""

import re
import time
from collections.abc import Iterator

import pyotp
import pytest

from policy import messages as m
from policy.keys.sshwire import string
from policy.model import Outcome
from tests.policy import sshbits
from tests.policy.conftest import copied
from tests.policy.jit import RULES, authorize, by_token, dba, given, no, prepared
from tests.policy.policyd import Gone, Policyd, proof


@pytest.fixture(scope="module")
def policyd(filled: Policyd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policyd]:
    daemon = copied(filled, tmp_path_factory.mktemp("p"), "source_failures = 100000")
    daemon.rules = RULES
    daemon.write()
    try:
        yield prepared(daemon.start())
    finally:
        daemon.stop()


def made(policyd: Policyd, person: str, target: str = "web1", **more) -> str:
    with policyd.login(person) as peer:
        done = peer.ask(m.TokenAdd(account="root", target=target, **more))
        assert isinstance(done, m.Done), done
        assert re.fullmatch(r"ticket-[a-z2-7]{40}", done.data["token"])
        return done.data["token"]


def test_a_token_logs_in_for_one_place_and_one_session(policyd):
    token = made(policyd, "alice")
    with by_token(policyd, token) as (peer, verdict):
        assert verdict == m.Verdict(outcome=Outcome.DONE, person="alice", account="root", target="web1")
        assert ["proven by", "token"] in peer.ask(m.Whoami()).rows
        assert [row[:2] for row in peer.ask(m.Reachable()).rows] == [["web1", "root"]]
        grant = authorize(peer, "web1")
        assert isinstance(grant, m.Grant)
        assert 3590 < grant.expires_in <= 3600
        assert peer.ask(m.OpenChannel(session=grant.session, kind="exec")) == m.Allowed()
        no(authorize(peer, "web1"))
    with by_token(policyd, token) as (_, verdict):
        assert verdict.outcome is Outcome.REFUSED, "used up, it is no token"


def test_as_a_password_too(policyd):
    token = made(policyd, "alice", uses=3)
    for claim in ("", "alice", "local-user"):
        with policyd.connection() as peer:
            assert peer.ask(m.TryPassword(person=claim, password=token.encode())).person == "alice"
    with policyd.connection() as peer:
        assert peer.ask(m.TryPassword(person="bob", password=token.encode())).outcome is Outcome.REFUSED


def test_it_leads_nowhere_else(policyd):
    with by_token(policyd, made(policyd, "alice", kinds=["exec"])) as (peer, _):
        for account, target in (("deploy", "web1"), ("root", "hidden"), ("root", "db1")):
            answer = no(authorize(peer, target, account))
            assert "not allowed or does not exist" in answer.cause
        grant = authorize(peer, "web1")
        assert grant.kinds == ["exec"]
        no(peer.ask(m.OpenChannel(session=grant.session, kind="shell")))


def test_it_commands_nothing(policyd):
    """Attack: the token of an administrator, found in a script."""
    name = dba(policyd, "admin", "engineer")
    with by_token(policyd, made(policyd, name)) as (peer, _):
        for word in (
            m.PersonAdd(name="mallory", roles=["admin"]),
            m.TokenAdd(account="root", target="web1", uses=1000),
            m.RequestAccess(account="root", target="db3", reason="x"),
            m.RequestList(all=True),
            m.GrantList(),
            m.Notices(),
            m.SessionsList(),
            m.MfaList(),
            m.Reload(),
        ):
            assert "a token leads to one account" in no(peer.ask(word)).cause


@pytest.mark.parametrize(
    "token",
    ["", "ticket-", "ticket-" + "a" * 39, "ticket-" + "a" * 40, "ticket-" + "a" * 41, "ticket-" + "A" * 40, "x"],
)
def test_what_is_no_token(policyd, token):
    with by_token(policyd, token, "198.51.100.7") as (peer, verdict):
        assert verdict.outcome is Outcome.REFUSED
        with pytest.raises(Gone):
            authorize(peer, "web1")


def test_guesses_count_for_their_source(make_policyd):
    policyd = make_policyd("source_failures = 3", {"policy.toml": RULES})
    for number in range(3):
        with by_token(policyd, f"ticket-{number + 2}" + "a" * 39, "198.51.100.9") as (_, verdict):
            assert verdict.outcome is Outcome.REFUSED
    with policyd.connection("198.51.100.9") as peer:
        assert peer.ask(proof(policyd.keys["alice"])).outcome is Outcome.DISCONNECT
    token = made(policyd, "alice")
    with by_token(policyd, token, "198.51.100.9") as (_, verdict):
        assert verdict.outcome is Outcome.DISCONNECT


def test_two_who_show_one_token_at_once(policyd):
    for _ in range(5):
        token = made(policyd, "alice")
        peers = [policyd.connection() for _ in range(4)]
        for peer in peers:
            assert peer.ask(m.TryToken(token=token)).person == "alice"
        for peer in peers:
            peer.send(m.encode(50, m.Authorize(account="root", target="web1")))
        answers = [type(peer.receive()[1]) for peer in peers]
        assert answers.count(m.Grant) == 1
        assert answers.count(m.Refused) == 3


def test_revoked_it_ends_what_it_began(policyd):
    token = made(policyd, "alice", uses=5)
    with by_token(policyd, token) as (peer, _), policyd.login("alice") as alice:
        grant = authorize(peer, "web1")
        (ident,) = [row[0] for row in alice.ask(m.GrantList()).rows if row[10] == "yes" and row[8] == "5"]
        assert alice.ask(m.GrantRevoke(grant=ident)).data["sessions_ended"] == "1"
        assert peer.push().session == grant.session
        no(authorize(peer, "web1"))
    with by_token(policyd, token) as (_, verdict):
        assert verdict.outcome is Outcome.REFUSED


def test_its_end_ends_its_sessions(policyd):
    with by_token(policyd, made(policyd, "alice", seconds=6, uses=9)) as (peer, _):
        authorize(peer, "web1")
        assert peer.push().reason == "expired"
        no(authorize(peer, "web1"))


def test_disabled_its_person_is_not_in(policyd):
    name = dba(policyd, "engineer")
    token = made(policyd, name, uses=9)
    with by_token(policyd, token) as (peer, _):
        policyd.done(m.PersonSet(name=name, disabled=True))
        no(authorize(peer, "web1"))
    with by_token(policyd, token) as (_, verdict):
        assert verdict.outcome is Outcome.REFUSED


def test_rules_stand_for_tokens_as_well(policyd):
    """A role taken away takes the token's place away."""
    name = dba(policyd, "engineer")
    with by_token(policyd, made(policyd, name, uses=9)) as (peer, _):
        policyd.done(m.PersonSet(name=name, remove_roles=["engineer"]))
        no(authorize(peer, "web1"))


def test_of_a_grant_a_token_takes_uses_and_end(policyd):
    name = dba(policyd)
    given(policyd, name, uses=3, seconds=600)
    with policyd.login(name) as peer:
        no(peer.ask(m.TokenAdd(account="root", target="db1", uses=4)))
        done = peer.ask(m.TokenAdd(account="root", target="db1", uses=2, seconds=3600))
        assert isinstance(done, m.Done)
        assert isinstance(authorize(peer), m.Grant)
        no(authorize(peer), 75, need="approval")
    with by_token(policyd, done.data["token"]) as (peer, _):
        grant = authorize(peer)
        assert grant.expires_in <= 600
        assert isinstance(authorize(peer), m.Grant)
        no(authorize(peer))


def test_without_leave_no_token(policyd):
    with policyd.login(dba(policyd)) as peer:
        no(peer.ask(m.TokenAdd(account="root", target="db1")), need="approval")
        no(peer.ask(m.TokenAdd(account="root", target="hidden")))
        no(peer.ask(m.TokenAdd(account="root", target="db6")), need="mfa")


def test_who_makes_it_shows_the_second_factor(policyd):
    name = dba(policyd)
    totp = pyotp.TOTP(policyd.done(m.MfaEnrol(person=name)).data["secret"])
    with policyd.connection() as peer:
        peer.ask(proof(policyd.keys[name]))
        peer.ask(m.AskCode(person=""))
        assert peer.ask(m.AnswerCode(person="", answers=[totp.now()])).person == name
        token = peer.ask(m.TokenAdd(account="root", target="db6")).data["token"]
    with by_token(policyd, token, "198.51.100.20") as (peer, verdict):
        assert verdict.person == name, "no code belongs to a token"
        assert isinstance(authorize(peer, "db6"), m.Grant)
    policyd.done(m.MfaReset(person=name))
    with policyd.login(name, "198.51.100.20") as peer:
        no(authorize(peer, "db6"), need="mfa")  # what a token proved is remembered nowhere


def test_a_token_for_somebody_else(policyd):
    name = dba(policyd)
    with policyd.login("lena") as lena, policyd.login("bob") as bob:
        said = {
            no(bob.ask(m.TokenAdd(account="root", target="db1", person=who, reason="x"))).cause
            for who in (name, "nobody-here")
        }
        assert said == {"you may not make tokens for others"}
        no(lena.ask(m.TokenAdd(account="root", target="db1", person="bob", reason="x")))
        done = lena.ask(m.TokenAdd(account="root", target="db1", person=name, reason="from outside"))
        assert isinstance(done, m.Done), done
    with by_token(policyd, done.data["token"]) as (peer, verdict):
        assert verdict.person == name
        assert isinstance(authorize(peer), m.Grant)
    with policyd.login(name) as peer:
        no(authorize(peer), 75, need="approval")


@pytest.mark.parametrize(
    ("limits", "may"),
    [
        ({}, True),
        ({"critical": [(b"force-command", string("uptime"))]}, False),
        ({"critical": [(b"source-address", string("192.0.2.0/24"))]}, False),
        ({"extensions": []}, False),
    ],
)
def test_a_limited_certificate_makes_no_unlimited_token(make_policyd, limits, may):
    policyd = make_policyd('trusted_user_cas = "cas"', {"cas": sshbits.CA.public.line("ca"), "policy.toml": RULES})
    now = int(time.time())
    extensions = [(f"permit-{name}".encode(), b"") for name in (
        "X11-forwarding", "agent-forwarding", "port-forwarding", "pty", "user-rc")]  # fmt: skip
    blob = sshbits.certificate(**{"after": now - 60, "before": now + 300, "extensions": extensions, **limits})
    with policyd.connection() as peer:
        assert peer.ask(proof(sshbits.KEY, blob=blob)).person == "alice"
        done = peer.ask(m.TokenAdd(account="root", target="web1"))
        assert isinstance(done, m.Done) is may, done
    if may:
        with by_token(policyd, done.data["token"]) as (peer, _):
            assert authorize(peer, "web1").expires_in <= 300, "nor one that outlives it"


def test_the_secret_is_nowhere(make_policyd):
    policyd = make_policyd(files={"policy.toml": RULES})
    token = made(policyd, "alice", uses=3)
    with by_token(policyd, token) as (peer, _):
        authorize(peer, "web1")
    with by_token(policyd, token[:-1] + ("a" if token[-1] != "a" else "b")) as (_, verdict):
        assert verdict.outcome is Outcome.REFUSED
    policyd.stop()
    for path in [policyd.home / "log", *policyd.home.glob("state/bastion.db*")]:
        assert token[:20].encode() not in path.read_bytes(), path
