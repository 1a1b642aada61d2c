"""Tickets through a real policyd, with the test as its courier: who is asked for, how often, and what comes of it."""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from bastion.courier.pointers import pick
from policy import messages as m
from tests.policy.conftest import copied
from tests.policy.courier import courier_of
from tests.policy.policyd import Gone, Peer, Policyd
from tests.support.net import wait_until

NUMBERS = count()

RULES = """
[[rule]]
name    = "engineers with a ticket"
who     = { roles = ["engineer"] }
where   = { labels = { env = "test" } }
as      = ["*"]
allow   = ["shell"]
require = { ticket = "jira", reason = true }

[[rule]]
name    = "deploy needs nothing for exec"
who     = { roles = ["engineer"] }
where   = { labels = { env = "test" } }
as      = ["deploy"]
allow   = ["exec"]

[tickets.jira]
kind   = "jira"
url    = "https://jira.example.org"
token  = "file:jira.token"
status = ["Approved"]
target = { at = "host" }
"""


def issue(key: str = "OPS-1", status: str = "Approved", name: str = "alice", host: str = "web1") -> dict[str, Any]:
    return {
        "key": key,
        "fields": {"summary": "disk", "status": {"name": status}, "assignee": {"name": name}, "host": host},
    }


@pytest.fixture(scope="module")
def shared(filled: Policyd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policyd]:
    daemon = copied(filled, tmp_path_factory.mktemp("p")).start()
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def policyd(shared: Policyd) -> Policyd:
    """As at its start: rules that it has not seen yet, so nothing found is remembered; a token; nobody disabled."""
    (shared.home / "policy.toml").write_text(f"{RULES}\n# {next(NUMBERS)}")
    shared.done(m.Reload())
    shared.done(m.PersonSet(name="alice", disabled=False))
    token = shared.home / "jira.token"
    token.write_text("s3cret\n")
    token.chmod(0o600)
    return shared


def ask(peer: Peer, account: str = "root", ticket: str = "OPS-1", reason: str = "disk", target: str = "web1") -> Any:
    return peer.ask(m.Authorize(account=account, target=target, ticket=ticket, reason=reason))


def test_a_ticket_in_order_is_leave_and_asked_for_once(policyd: Policyd) -> None:
    with courier_of(policyd, issue()) as courier:
        alice = policyd.login("alice")
        grant = ask(alice)
        assert isinstance(grant, m.Grant), grant.cause
        assert grant.rule == "engineers with a ticket"
        (call,) = courier.calls
        assert call.url.startswith("https://jira.example.org/rest/api/2/issue/OPS-1?")
        assert call.headers["Authorization"] == "Bearer s3cret"
        assert isinstance(alice.ask(m.OpenChannel(session=grant.session, kind="shell")), m.Allowed)
        assert isinstance(ask(policyd.login("alice"), ticket=" OPS-1 "), m.Grant)
        assert len(courier.calls) == 1, "it was asked for again within a minute"
        assert "s3cret" not in policyd.log() + json.dumps(policyd.audit())
        (granted, *_) = policyd.audit("access-granted")
        assert "OPS-1" in granted["detail"]


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (issue(status="Open"), "is `Open`, wants `approved`"), (issue(name="bob"), "is not assigned to alice"),
        (issue(host="db1"), "is not for `web1`"), (issue(key="OPS-2"), "answered with another ticket"), ({}, "another"),
    ],
)  # fmt: skip
def test_a_ticket_that_does_not_do_is_refused_in_words(policyd: Policyd, document: Any, why: str) -> None:
    with courier_of(policyd, issue()) as courier:
        courier.document = document
        refused = ask(policyd.login("alice"))
        assert refused.code == 77
        assert why in refused.cause
        assert refused.hint == "name one that does: -o SetEnv=BASTION_TICKET=NUMBER"
        assert refused.cause.isprintable()


def test_without_a_ticket_nobody_is_called(policyd: Policyd) -> None:
    with courier_of(policyd, issue()) as courier:
        alice = policyd.login("alice")
        assert ask(alice, ticket="").hint == "add: -o SetEnv=BASTION_TICKET=NUMBER"
        assert "is no ticket number of `jira`" in ask(alice, ticket="../../user?x").cause
        assert courier.calls == []


def test_who_lacks_more_than_the_ticket_makes_nobody_be_called(policyd: Policyd) -> None:
    """A stolen key must not become a way to ask a ticket system, nor tell by its answers what is there."""
    with courier_of(policyd, issue()) as courier:
        assert "needs a reason" in ask(policyd.login("alice"), reason="").cause
        for name, target in (("gina", "web1"), ("alice", "hidden"), ("alice", "nowhere")):
            assert "is not allowed or does not exist" in ask(policyd.login(name), target=target).cause
        assert courier.calls == []


@pytest.mark.parametrize(
    ("called", "why"),
    [
        (m.Called(task=0, error="gave no whole answer within 5 s"), "`jira` gave no whole answer within 5 s"),
        (m.Called(task=0, status=401), "`jira` does not let this bastion look"),
        (m.Called(task=0, status=404), "`jira` has no ticket `OPS-1`"),
        (m.Called(task=0, status=200, values=["1"]), "makes no sense"),
        (m.Called(task=0, status=200, error="x\x1b[2J"), "`jira` x [2J"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_up_is_a_denial_in_words(policyd: Policyd, called: m.Called, why: str) -> None:
    with courier_of(policyd, issue()) as courier:

        def reply(call: m.HttpCall) -> m.Called:
            called.task = call.task
            return called

        courier.reply = reply
        refused = ask(policyd.login("alice"))
        assert isinstance(refused, m.Refused)
        assert why in refused.cause


def test_without_a_courier_it_is_a_denial_in_words(policyd: Policyd) -> None:
    alice = policyd.login("alice")
    refused = ask(alice)
    assert (refused.code, refused.need if refused.need else "ticket") == (77, "ticket")
    assert "`jira` cannot be called: the courier is not running" in refused.cause
    assert isinstance(ask(alice, account="deploy"), m.Grant), "what needs no ticket goes on"


def test_a_courier_that_dies_in_the_middle_is_a_denial(policyd: Policyd) -> None:
    with courier_of(policyd, issue()) as courier:

        def die(_: m.HttpCall) -> None:
            courier.peer.sock.shutdown(socket.SHUT_RDWR)

        courier.reply = die
        assert "the courier is not running" in ask(policyd.login("alice")).cause


def test_what_a_courier_says_unasked_is_not_heard(policyd: Policyd) -> None:
    with courier_of(policyd, issue()) as courier:
        good = [json.dumps("OPS-1"), '"disk"', '"Approved"', '"alice"', "", '"web1"']
        for task in range(1, 50):
            courier.say(m.Called(task=task, status=200, values=good))
        courier.document = issue(status="Open")
        assert isinstance(ask(policyd.login("alice")), m.Refused)
    other = policyd.courier(m.Courier(pid=2))
    with courier_of(policyd, issue()) as courier:

        def lie(call: m.HttpCall) -> None:
            other.send(m.encode(9, m.Called(task=call.task, status=200, values=['"OPS-3"', *good[1:]])))

        courier.reply = lie
        refused = ask(policyd.login("alice"), ticket="OPS-3")
        assert isinstance(refused, m.Refused)
        assert "gave no answer in time" in refused.cause
    other.close()


def test_many_at_once_ask_once(policyd: Policyd) -> None:
    with courier_of(policyd, issue()) as courier:
        go, answers = threading.Event(), []

        def wait(call: m.HttpCall) -> m.Called:
            assert go.wait(20)
            return m.Called(task=call.task, status=200, values=pick(json.dumps(issue()).encode(), call.pick))

        courier.reply = wait
        peers = [policyd.login("alice") for _ in range(10)]
        threads = [threading.Thread(target=lambda peer=peer: answers.append(ask(peer))) for peer in peers]
        for thread in threads:
            thread.start()
        wait_until("the call", lambda: courier.calls)
        go.set()
        for thread in threads:
            thread.join(20)
        assert [type(one) for one in answers] == [m.Grant] * 10
        assert len(courier.calls) == 1


def test_who_is_disabled_while_the_ticket_is_looked_up_gets_nothing(policyd: Policyd) -> None:
    with courier_of(policyd, issue()) as courier:

        def disable(call: m.HttpCall) -> m.Called:
            policyd.done(m.PersonSet(name="alice", disabled=True))
            return m.Called(task=call.task, status=200, values=pick(json.dumps(issue()).encode(), call.pick))

        courier.reply = disable
        alice = policyd.login("alice")
        try:
            answer = ask(alice)
        except Gone:
            answer = None
        assert not isinstance(answer, m.Grant)
        assert courier.calls


def test_a_session_keeps_its_ticket_and_loses_it_with_the_window(policyd: Policyd) -> None:
    rules = RULES.replace('target = { at = "host" }', 'window = { end = "end" }')
    (policyd.home / "policy.toml").write_text(rules)
    policyd.done(m.Reload())
    with courier_of(policyd, issue()) as courier:
        document = issue()
        document["fields"]["end"] = (datetime.now(UTC) + timedelta(seconds=8)).isoformat()
        courier.document = document
        alice = policyd.login("alice")
        grant = ask(alice)
        assert isinstance(grant, m.Grant), grant.cause
        assert grant.expires_in is not None
        assert 0 < grant.expires_in <= 8
        ended = alice.push()
        assert isinstance(ended, m.EndSession)
        assert ended.reason == "expired"
        assert "closed" in ask(alice).cause, "remembered, but judged by the time of now"
        assert len(courier.calls) == 1


def test_a_file_of_tickets_and_a_token_that_is_not_there(policyd: Policyd) -> None:
    (policyd.home / "jira.token").unlink()
    with courier_of(policyd, issue()) as courier:
        assert "this bastion is not set up for it" in ask(policyd.login("alice")).cause
        assert courier.calls == []
        assert "jira.token" in policyd.log()
    rules = RULES.partition("[tickets.jira]")[0] + '[tickets.jira]\nkind = "file"\nfile = "t.toml"\nstatus = ["ok"]\n'
    (policyd.home / "policy.toml").write_text(rules)
    policyd.done(m.Reload())
    assert "the file of `jira` cannot be read" in ask(policyd.login("alice"), ticket="C-1").cause
    (policyd.home / "t.toml").write_text('[C-2]\nstatus = "ok"\nassignee = "alice"\ntargets = ["web1"]\n')
    assert isinstance(ask(policyd.login("alice"), ticket="C-2"), m.Grant)


@pytest.mark.parametrize("mode", [0o604, 0o666])
def test_a_token_that_others_may_read_is_not_used(policyd: Policyd, mode: int) -> None:
    (policyd.home / "jira.token").chmod(mode)
    with courier_of(policyd, issue()) as courier:
        assert isinstance(ask(policyd.login("alice")), m.Refused)
        assert courier.calls == []


def test_a_reload_forgets_what_was_found(policyd: Policyd) -> None:
    with courier_of(policyd, issue()) as courier:
        alice = policyd.login("alice")
        grant = ask(alice)
        assert isinstance(grant, m.Grant)
        (policyd.home / "policy.toml").write_text(RULES.replace('["Approved"]', '["Done"]'))
        policyd.done(m.Reload())
        assert "wants `done`" in ask(alice).cause
        assert len(courier.calls) == 2
        assert isinstance(alice.ask(m.OpenChannel(session=grant.session, kind="shell")), m.Allowed)


def held(courier: Any, go: threading.Event) -> None:
    def wait(call: m.HttpCall) -> m.Called:
        assert go.wait(20)
        return m.Called(task=call.task, status=200, values=pick(json.dumps(issue()).encode(), call.pick))

    courier.reply = wait


def test_what_lives_on_the_connection_does_not_wait_for_a_ticket(policyd: Policyd) -> None:
    with courier_of(policyd) as courier:
        go = threading.Event()
        held(courier, go)
        alice = policyd.login("alice")
        grant = ask(alice, account="deploy", ticket="")
        assert isinstance(grant, m.Grant), grant.cause
        alice.send(m.encode(900, m.Authorize(account="root", target="web1", ticket="OPS-1", reason="x")))
        wait_until("the call", lambda: courier.calls)
        assert isinstance(alice.ask(m.OpenChannel(session=grant.session, kind="exec")), m.Allowed)
        assert [getattr(one, "cause", one) for one in alice.pushes] == []
        go.set()
        ident, answer = alice.receive()
        assert isinstance(answer, m.Grant), answer.cause
        assert ident == 900


def test_who_hangs_up_while_a_ticket_is_looked_up_has_no_session(policyd: Policyd) -> None:
    with courier_of(policyd) as courier:
        go = threading.Event()
        held(courier, go)
        alice = policyd.login("alice")
        alice.send(m.encode(900, m.Authorize(account="root", target="web1", ticket="OPS-1", reason="hung up")))
        wait_until("the call", lambda: courier.calls)
        alice.close()
        wait_until("the end of the login", lambda: policyd.done(m.Whoami()))
        go.set()

        def granted() -> str:
            return next((one["session"] for one in policyd.audit("access-granted") if "hung up" in one["detail"]), "")

        wait_until("the grant", granted)
        session = granted()
        wait_until("its end", lambda: session not in [row[0] for row in policyd.done(m.SessionsList()).rows])


def test_one_person_does_not_have_the_whole_courier(policyd: Policyd) -> None:
    with courier_of(policyd, reply=lambda _: None) as courier:  # a system that is slow
        peers = [policyd.login("alice") for _ in range(5)]
        for number, peer in enumerate(peers[:4]):
            ticket = f"OPS-{number + 10}"
            peer.send(m.encode(900, m.Authorize(account="root", target="web1", ticket=ticket, reason="x")))
        wait_until("four calls", lambda: len(courier.calls) == 4)
        assert "4 of your tickets are being looked up already" in ask(peers[4], ticket="OPS-20").cause
        bob = policyd.login("bob")
        bob.send(m.encode(900, m.Authorize(account="root", target="web1", ticket="OPS-21", reason="x")))
        wait_until("the fifth", lambda: len(courier.calls) == 5)


APPROVED = """
[[rule]]
name    = "guests with approval and ticket"
who     = { roles = ["guest"] }
where   = { targets = ["web1"] }
as      = ["root"]
allow   = ["shell"]
require = { approval = { by = ["engineer"] }, ticket = "jira" }
"""


def test_a_request_names_a_ticket_in_order_and_its_grant_brings_it_along(policyd: Policyd) -> None:
    (policyd.home / "policy.toml").write_text(f"{RULES}{APPROVED}# {next(NUMBERS)}")
    policyd.done(m.Reload())
    with courier_of(policyd, issue(name="gina")) as courier:
        gina = policyd.login("gina")

        def wish(ticket: str) -> Any:
            return gina.ask(m.RequestAccess(account="root", target="web1", seconds=600, reason="demo", ticket=ticket))

        assert "answered with another ticket" in wish("OPS-2").cause
        asked = wish("OPS-1")
        assert isinstance(asked, m.Done), asked.cause
        refused = ask(gina, ticket="OPS-1")
        assert refused.need == "approval"
        decided = policyd.login("alice").ask(m.Decide(request=asked.data["request"], approve=True))
        assert isinstance(decided, m.Done), decided.cause
        calls = len(courier.calls)
        grant = ask(gina, ticket="", reason="")
        assert isinstance(grant, m.Grant), grant.cause
        assert len(courier.calls) == calls, "found a moment ago"
        courier.document = issue(status="Closed", name="gina")
        (policyd.home / "policy.toml").write_text(f"{RULES}{APPROVED}# {next(NUMBERS)}")
        policyd.done(m.Reload())
        again = policyd.login("gina")
        assert "is `Closed`" in ask(again, ticket="", reason="").cause, "a grant outlives no ticket"
