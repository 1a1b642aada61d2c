"""Notices: their texts, how they are signed, and through a real policyd that they arrive, wait for nobody, and end."""

import hashlib
import hmac
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from policy import daemon
from policy import messages as m
from policy.configuration import read_all
from policy.notices.notify import (
    CONCERNS,
    ONE_ALONE,
    PERSON,
    TOPICS,
    Destination,
    Topic,
    notice,
    parse_notify,
    signed,
    void_soon,
    webhook_body,
)
from policy.outside.couriers import Couriers
from policy.records import Checkout
from policy.rules.ruleset import BadRules, parse_rules
from policy.setup import open_state
from policy.store import open_store
from policy.toml_tables import Reading
from policy.trail.audit import Event
from policy.vault.masters import parse
from tests.policy.courier import courier_of
from tests.policy.inside import within
from tests.policy.policyd import RULES, Policyd
from tests.policy.vaulting import RULES as LENDING
from tests.policy.vaulting import bring, done, out, revealed, take
from tests.support.net import wait_until

OWN = Destination(name="own", on=frozenset(Topic), mail=(PERSON,))
ALL = Destination(name="all", on=frozenset(Topic), link="https://bastion.example.org/r/{id}")
ASKED = Event(
    event="request", who="alice", what="root@web1", why="disk full", source="192.0.2.7",
    detail={"request": "r-abcd2345", "person": "alice", "seconds": "7200", "ticket": "OPS-1", "kinds": "shell"},
)  # fmt: skip


def test_a_request_is_told_with_the_command_that_decides_it() -> None:
    told = notice(ASKED, ALL)
    assert told is not None
    assert told.topic is Topic.REQUEST
    assert told.text.splitlines() == [
        "alice asks for root@web1 for 2h",
        "reason: `disk full`",
        "ticket: `OPS-1`",
        "decide: ssh bastion approve r-abcd2345",
        "or: ssh bastion deny r-abcd2345",
        "https://bastion.example.org/r/r-abcd2345",
    ]


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Event(event="request-approve", who="lena", what="r-1", why="go",
               detail={"person": "alice", "place": "root@web1"}),
         ["r-1 of alice for root@web1 approved by lena", "comment: `go`"]),
        (Event(event="request-deny", who="lena", what="r-1"), ["r-1 denied by lena"]),
        (Event(event="break-glass", who="alice", what="alice on root@web1", why="fire", source="192.0.2.7",
               detail={"grant": "g-1", "seconds": "60"}),
         ["BREAK GLASS: alice on root@web1 for 1m", "by alice from 192.0.2.7", "end it: ssh bastion revoke g-1"]),
        (Event(event="host-key-mismatch", who="alice", what="root@web1", source="192.0.2.7",
               detail={"got": "SHA256:x"}),
         ["host key of root@web1 is not the pinned one: refused", "got: SHA256:x"]),
        (Event(event="person-locked", what="alice", source="192.0.2.7"), ["too many failures: password of alice"]),
        (Event(event="code-locked", what="alice"), ["second factor of alice"]),
        (Event(event="source-locked", what="192.0.2.7"), ["source 192.0.2.7"]),
        (Event(event="checkout-ending", who="policyd", what="root@web1", detail={
            "checkout": "c-1", "person": "alice", "until": "2026-11-25 10:00"}),
         ["the password of root@web1 is alice's until 2026-11-25 10:00",
          "bring it back: ssh bastion vault checkin c-1"]),
        (Event(event="checkin-forced", who="sue", what="root@web1", why="<holiday>", detail={"person": "alice"}),
         ["the password of root@web1 was taken from alice by sue", "reason: `<holiday>`"]),
        (Event(event="rotation-in-doubt", who="bastion", what="root@web1", why="the line broke"),
         ["what opens root@web1 is in doubt", "the line broke", "try now: ssh bastion account rotate root@web1"]),
        (Event(event="request-expiring", what="r-1", detail={"person": "alice", "place": "root@web1"}),
         ["request r-1 of alice for root@web1 is void soon", "decide: ssh bastion approve r-1"]),
    ],
)  # fmt: skip
def test_each_event_in_words(event: Event, words: list[str]) -> None:
    told = notice(event, ALL)
    assert told is not None
    for word in words:
        assert word in told.text
    assert told.text.startswith(told.subject)


@pytest.mark.parametrize("kind", TOPICS)
def test_hostile_text_is_quoted_and_cut(kind: str) -> None:
    """A reason is written by whoever asks: it must not wake a channel, hide a link, or steer a terminal."""
    evil = "\x1b[2J<!channel> <https://evil|approve> `x` \u202e\nBcc: x\r\n" + "y" * 5000
    told = notice(
        Event(event=kind, who=evil, what=evil, why=evil, source=evil, detail=dict.fromkeys(
            ("request", "person", "seconds", "ticket", "place", "grant", "ends", "until", "checkout"), evil)),
        OWN if kind in ONE_ALONE else ALL,
    )  # fmt: skip
    assert told is not None
    assert told.subject.isprintable()
    assert all(line.isprintable() for line in told.text.split("\n"))
    assert len(told.text) < 3000
    text = json.loads(webhook_body(told))["text"]
    assert "<" not in text
    assert ">" not in text


def test_nothing_else_is_told() -> None:
    only = Destination(name="some", on=frozenset({Topic.LOCK_OUT}))
    assert notice(ASKED, only) is None
    assert notice(Event(event="login", who="alice"), ALL) is None


@pytest.mark.parametrize("kind", TOPICS)
def test_what_concerns_one_person_reaches_them_and_nothing_else_does(kind: str) -> None:
    """Attack: an event with somebody's name in it, whoever it is about, is a mail to them."""
    told = notice(Event(event=kind, who="bob", what="carol", detail={"person": "alice"}), OWN)
    assert (told.person if told is not None else None) == ("alice" if kind in CONCERNS else None)
    assert notice(Event(event=kind, who="bob", what="carol"), OWN) is None, "nobody is named"
    everybody = notice(Event(event=kind, detail={"person": "alice"}), ALL)
    assert (everybody is None) is (kind in ONE_ALONE)
    assert everybody is None or everybody.person == "", "to the addresses of the file"


def test_the_signature_is_over_time_and_body() -> None:
    headers = signed("key", 1_764_064_800, b'{"text": "x"}')
    expected = hmac.new(b"key", b'v1:1764064800:{"text": "x"}', hashlib.sha256).hexdigest()
    assert headers == {"X-Bastion-Timestamp": "1764064800", "X-Bastion-Signature": f"v1={expected}"}


@pytest.mark.parametrize(
    ("minutes", "left", "soon"),
    [
        (1440, 31, False),
        (1440, 30, True),
        (1440, 1, True),
        (1440, 0, False),
        (40, 11, False),
        (40, 10, True),
        (40, -1, False),
    ],
)
def test_a_request_is_told_of_again_before_it_is_void(minutes: int, left: int, soon: bool) -> None:
    asked, minute = 1_764_064_800 * 10**9, 60 * 10**9
    assert void_soon(asked, asked + minutes * minute, asked + (minutes - left) * minute) is soon


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[[notify]]\nname = "a"', 1, "want either `webhook` or `mail`"),
        ('[[notify]]\nname = "a"\nwebhook = "https://x"\nmail = "a@b"\nserver = "smtps://x"\nsender = "a@b"', 3,
         "either"),
        ('[[notify]]\nname = "a"\nwebhook = "https://x"', 1, "key: missing: nobody could tell"),
        ('[[notify]]\nname = "a"\nwebhook = "http://x.example.org"\nkey = "file:k"', 3, "want https"),
        ('[[notify]]\nname = "a"\nwebhook = "https://x"\nkey = "hunter2"', 4, "do not stand in this file"),
        ('[[notify]]\nname = "a"\nwebhook = "https://x"\nkey = "file:k"\non = ["requests"]', 5,
         "did you mean `request`"),
        ('[[notify]]\nname = "a"\nwebhook = "https://x"\nkey = "file:k"\nserver = "smtps://x"', 5, "does not go with"),
        ('[[notify]]\nwebhook = "file:u"', 1, "want a name"),
        ('[[notify]]\nname = "a"\nwebhook = "file:u"\n[[notify]]\nname = "a"\nwebhook = "file:u"', 5,
         "want a name of its"),
        ('[[notify]]\nname = "a"\nmail = ["a@b"]', 1, "server: missing"),
        ('[[notify]]\nname = "a"\nmail = ["$person", "a@b"]\nserver = "smtps://x"\nsender = "a@b"', 3, "stands alone"),
        ('[[notify]]\nname = "a"\nmail = ["$owner"]\nserver = "smtps://x"\nsender = "a@b"', 3, "want an address like"),
        ('[[notify]]\nname = "a"\nmail = ["a@b\\nRCPT"]\nserver = "smtps://x"\nsender = "a@b"', 3, "want an address"),
        ('[[notify]]\nname = "a"\nmail = "$person"\nserver = "smtps://x"\nsender = "a@b"\non = ["lock-out"]', 6,
         "want one of decision, expiring, vault"),
        ('[[notify]]\nname = "a"\nmail = ["a b"]\nserver = "smtps://x"\nsender = "a@b"', 3, "want an address like"),
        ('[[notify]]\nname = "a"\nmail = ["a@b"]\nserver = "http://x"\nsender = "a@b"', 4, "want `smtps://HOST"),
        ('[[notify]]\nname = "a"\nmail = ["a@b"]\nserver = "smtp://u:p@x"\nsender = "a@b"', 4, "want `smtps://HOST"),
        ('[[notify]]\nname = "a"\nwebhok = "file:u"', 3, "did you mean `webhook`"),
        ('notify = "x"', 1, "want tables that begin with `[[notify]]`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(BadRules) as caught:
        parse_rules(text)
    shown = [str(one) for one in caught.value.problems]
    assert any(one.startswith(f"policy.toml:{line}: ") and problem in one for one in shown), shown
    assert "hunter2" not in str(caught.value)


def test_no_more_than_people_can_oversee() -> None:
    reading = Reading("policy.toml", {})
    parse_notify(reading, [{"name": f"n{index}", "webhook": "file:u"} for index in range(21)])
    assert ["at most 20" in str(problem) for problem in reading.problems] == [True]


# --- through policyd ----------------------------------------------------------------------------------

NOTIFY = """
[[notify]]
name    = "chat"
webhook = "https://chat.example.org/hook"
key     = "file:hook.key"
on      = ["host-key-mismatch"]

[[notify]]
name   = "ops"
mail   = ["ops@example.org", "sue@example.org"]
server = "smtps://mail.example.org"
sender = "bastion@example.org"
on     = ["host-key-mismatch", "lock-out"]
"""


@pytest.fixture
def policyd(make_policyd: Callable[..., Policyd]) -> Policyd:
    daemon = make_policyd(files={"policy.toml": RULES + NOTIFY})
    (daemon.home / "hook.key").write_text("k3y")
    (daemon.home / "hook.key").chmod(0o600)
    return daemon


def mismatch(policyd: Policyd) -> None:
    peer, grant = policyd.session("alice")
    peer.ask(m.Report(session=grant.session, event="host-key-mismatch", detail={"got": "SHA256:new"}))
    peer.close()


def arrived(call: Any) -> m.Called:
    return m.Called(task=call.task, status=204 if isinstance(call, m.HttpCall) else 250)


def test_each_destination_is_told_once(policyd: Policyd) -> None:
    with courier_of(policyd, reply=arrived) as courier:
        mismatch(policyd)
        wait_until("two calls", lambda: len(courier.calls) == 2)
        (post,) = [call for call in courier.calls if isinstance(call, m.HttpCall)]
        (mail,) = [call for call in courier.calls if isinstance(call, m.MailCall)]
        assert (post.method, post.url) == ("POST", "https://chat.example.org/hook")
        signature = signed("k3y", int(post.headers["X-Bastion-Timestamp"]), post.body)["X-Bastion-Signature"]
        assert post.headers["X-Bastion-Signature"] == signature
        assert "host key of root@web1 is not the pinned one" in json.loads(post.body)["text"]
        assert mail.to == ["ops@example.org", "sue@example.org"]
        assert mail.subject == "bastion: host key of root@web1 is not the pinned one: refused"
        assert "got: SHA256:new" in mail.text
        assert policyd.audit("notify-failed") == []


def test_a_lock_out_is_told(policyd: Policyd) -> None:
    policyd.person("pat", "engineer", password="correct horse battery")
    with courier_of(policyd, reply=arrived) as courier:
        for _ in range(5):
            peer = policyd.connection("198.51.100.9")
            peer.ask(m.TryPassword(person="pat", password=b"wrong"))
            peer.close()
        wait_until("the mail", lambda: courier.calls)
        assert "password of pat" in courier.calls[0].text


def test_what_does_not_arrive_is_tried_again_and_then_audited_once(policyd: Policyd) -> None:
    """No login waits for it: the calls that are not answered hang for as long as they like."""
    with courier_of(policyd) as courier:

        def fail(call: Any) -> m.Called | None:
            if isinstance(call, m.MailCall):
                return None  # nothing is ever said
            return m.Called(task=call.task, error="cannot be reached: connection refused")

        courier.reply = fail
        mismatch(policyd)
        mismatch(policyd)
        wait_until("the second try", lambda: sum(isinstance(call, m.HttpCall) for call in courier.calls) > 2)
        policyd.login("alice").close()
        assert policyd.audit("notify-failed") == [], "there are two tries more"
        wait_until("both given up", lambda: policyd.log().count('"event": "notify-failed"') == 2, 60)
        assert sum(isinstance(call, m.HttpCall) for call in courier.calls) == 8
        events = [(event["what"], event["why"]) for event in policyd.audit("notify-failed")]
        assert events == [("chat", "cannot be reached: connection refused")]
    assert "k3y" not in policyd.log()


def test_what_waits_when_policyd_stops_is_told_by_the_next_and_once(policyd: Policyd) -> None:
    with courier_of(policyd, reply=lambda _: None) as courier:  # nothing is ever answered
        mismatch(policyd)
        wait_until("both calls", lambda: len(courier.calls) == 2)
        wait_until("the mark", lambda: marked(policyd) >= newest(policyd) - 1)
    policyd.kill()
    policyd.start()
    with courier_of(policyd, reply=arrived) as courier:
        wait_until("both calls", lambda: len(courier.calls) == 2)
        assert {type(call) for call in courier.calls} == {m.HttpCall, m.MailCall}
        assert "host key of root@web1" in str(next(one for one in courier.calls if isinstance(one, m.MailCall)).subject)
        wait_until("all told", lambda: marked(policyd) >= newest(policyd))


def newest(policyd: Policyd) -> int:
    """Row of the last event that is told of."""
    return sql(policyd, "SELECT max(seq) FROM audit WHERE event = 'host-key-mismatch'")


NEWEST_TOLD = "SELECT max(seq) FROM audit WHERE event IN ('grant-revoke', 'request-deny', 'checkin-forced')"


def marked(policyd: Policyd) -> int:
    """Up to which row all is told."""
    return int.from_bytes(sql(policyd, "SELECT value FROM setting WHERE name = 'notices-told'") or b"")


def sql(policyd: Policyd, query: str) -> Any:
    with closing(sqlite3.connect(policyd.database)) as database:
        found = database.execute(query).fetchone()
        return found[0] if found else None


def test_what_is_told_or_a_day_old_is_not_told_again(policyd: Policyd) -> None:
    mismatch(policyd)
    row = newest(policyd)
    policyd.stop()
    with open_store("sqlite:///bastion.db", policyd.database.parent).read() as tables:

        def found(**more: int) -> list[int]:
            bounds = {"after": 0, "before": row + 1, "since": 0, "limit": 9} | more
            return [one.seq for one in tables.audit_of(["host-key-mismatch"], **bounds)]

        (at,) = (one.at for one in tables.audit_from(row, 1))
        assert found() == [row]
        assert found(since=at + 1) == [], "too old"
        assert found(after=row) == [], "told"
        assert found(before=row) == [], "this policyd's own"


def test_a_destination_that_comes_later_hears_nothing_of_the_past(policyd: Policyd) -> None:
    rules = (policyd.home / "policy.toml").read_text()
    (policyd.home / "policy.toml").write_text(RULES)
    policyd.done(m.Reload())
    mismatch(policyd)
    policyd.stop()
    (policyd.home / "policy.toml").write_text(rules)
    policyd.start()
    with courier_of(policyd, reply=arrived) as courier:
        mismatch(policyd)
        wait_until("the new one", lambda: len(courier.calls) >= 2)
        assert len(courier.calls) == 2


def test_a_flood_is_cut_and_said_so(policyd: Policyd) -> None:
    with courier_of(policyd, reply=arrived) as courier:
        peer, grant = policyd.session("alice")
        for _ in range(80):
            peer.ask(m.Report(session=grant.session, event="host-key-mismatch"))
        policyd.done(m.Whoami())
        wait_until("the log", lambda: policyd.log().count("too many in this minute") > 5)
        posts = sum(isinstance(call, m.HttpCall) for call in courier.calls)
        assert posts <= 60, "thirty in a minute, of which there may be two"


def test_an_address_that_is_secret(policyd: Policyd) -> None:
    text = RULES + '[[notify]]\nname = "slack"\nwebhook = "file:slack.url"\n'
    (policyd.home / "policy.toml").write_text(text)
    (policyd.home / "slack.url").write_text("https://hooks.slack.example/services/T0/B0/s3cret\n")
    (policyd.home / "slack.url").chmod(0o600)
    policyd.done(m.Reload())
    with courier_of(policyd, reply=arrived) as courier:
        mismatch(policyd)
        wait_until("the call", lambda: courier.calls)
        assert courier.calls[0].url == "https://hooks.slack.example/services/T0/B0/s3cret"
        assert set(json.loads(courier.calls[0].body)) == {"text"}
        assert "X-Bastion-Signature" not in courier.calls[0].headers
    assert "s3cret" not in policyd.log() + json.dumps(policyd.audit())


APPROVED = """
[[rule]]
name    = "guests are let in"
who     = { roles = ["guest"] }
where   = { targets = ["web1"] }
as      = ["deploy"]
allow   = ["shell"]
require = { approval = { by = ["engineer"] } }
"""


def test_a_request_and_its_decision_are_told(policyd: Policyd) -> None:
    (policyd.home / "policy.toml").write_text(
        RULES + APPROVED + '[[notify]]\nname = "chat"\nwebhook = "https://chat.example.org/"\nkey = "file:hook.key"\n'
    )
    policyd.done(m.Reload())
    with courier_of(policyd, reply=arrived) as courier:
        gina = policyd.login("gina")
        asked = gina.ask(m.RequestAccess(account="deploy", target="web1", seconds=3600, reason="<!channel> demo"))
        assert isinstance(asked, m.Done), asked.cause
        wait_until("the request", lambda: len(courier.calls) == 1)
        text = json.loads(courier.calls[0].body)["text"]
        assert text.startswith("gina asks for deploy@web1 for 1h\nreason: `&lt;!channel&gt; demo`\n")
        assert f"decide: ssh bastion approve {asked.data['request']}\n" in text
        decided = policyd.login("alice").ask(m.Decide(request=asked.data["request"], approve=True, comment="go"))
        assert isinstance(decided, m.Done), decided.cause
        wait_until("the decision", lambda: len(courier.calls) == 2)
        text = json.loads(courier.calls[1].body)["text"]
        assert text.startswith(f"{asked.data['request']} of gina for deploy@web1 approved by alice\ncomment: `go`")


CONCERNED = """
[[notify]]
name   = "those concerned"
mail   = ["$person"]
server = "smtps://mail.example.org"
sender = "bastion@example.org"
"""


@pytest.fixture
def personal(policyd: Policyd) -> Policyd:
    """gina asks for leave, and has an address; hana, who asks as well, has none."""
    (policyd.home / "policy.toml").write_text(RULES + APPROVED + CONCERNED)
    policyd.person("hana", "guest")
    policyd.done(m.PersonSet(name="gina", mail="gina@example.org"))
    policyd.done(m.PersonSet(name="alice", mail="alice@example.org"))
    policyd.done(m.Reload())
    return policyd


def asked_and_denied(policyd: Policyd, person: str) -> None:
    wish = m.RequestAccess(account="deploy", target="web1", seconds=3600, reason="demo")
    asked = policyd.login(person).ask(wish)
    assert isinstance(asked, m.Done), asked.cause
    decided = policyd.login("alice").ask(m.Decide(request=asked.data["request"], approve=False, comment="no"))
    assert isinstance(decided, m.Done), decided.cause


def test_a_person_is_told_at_their_own_address_and_nobody_else_is(personal: Policyd) -> None:
    with courier_of(personal) as courier:
        courier.reply = arrived
        asked_and_denied(personal, "gina")
        wait_until("the decision", lambda: courier.calls)
        mismatch(personal)
        asked_and_denied(personal, "hana")
        wait_until("the word that there is nowhere to tell it", lambda: personal.audit("notify-failed"))
        personal.done(m.PersonSet(name="gina", mail="gina@elsewhere.example"))
        asked_and_denied(personal, "gina")
        wait_until("the second decision", lambda: len(courier.calls) == 2)
        assert [call.to for call in courier.calls] == [["gina@example.org"], ["gina@elsewhere.example"]]
        assert all("of gina for deploy@web1 denied by alice" in call.text for call in courier.calls)


def test_who_has_no_address_is_named_once_until_there_is_one(personal: Policyd) -> None:
    with courier_of(personal) as courier:
        courier.reply = arrived
        asked_and_denied(personal, "hana")
        wait_until("the event", lambda: personal.audit("notify-failed"))
        asked_and_denied(personal, "hana")
        wait_until("the log", lambda: personal.log().count('"event": "notify-failed"') == 2)
        (event,) = personal.audit("notify-failed")
        assert (event["what"], event["why"]) == ("those concerned", "has no mail address")
        assert event["detail"] == "person=hana"
        personal.done(m.PersonSet(name="hana", mail="hana@example.org"))
        asked_and_denied(personal, "hana")
        wait_until("the mail", lambda: courier.calls)
        assert courier.calls[0].to == ["hana@example.org"]
        assert len(personal.audit("notify-failed")) == 1


@pytest.mark.parametrize("gone", [m.PersonSet(name="gina", disabled=True), m.PersonOffboard(name="gina")])
def test_who_is_disabled_or_has_left_is_told_nothing_any_more(personal: Policyd, gone: m.Command) -> None:
    with courier_of(personal) as courier:
        courier.reply = arrived
        personal.done(m.GrantAdd(person="gina", account="deploy", target="web1", seconds=3600, reason="demo"))
        wait_until("what she was given", lambda: len(courier.calls) == 2)
        personal.done(gone)
        (row,) = personal.done(m.GrantList(person="gina", all=True)).rows
        if isinstance(gone, m.PersonSet):
            personal.done(m.GrantRevoke(grant=row[0], reason="over"))
        personal.done(m.PersonSet(name="hana", mail="hana@example.org"))
        asked_and_denied(personal, "hana")
        wait_until("what comes after it", lambda: ["hana@example.org"] in [call.to for call in courier.calls])
        assert [event["event"] for event in personal.audit("grant-revoke")] == ["grant-revoke"]
        wait_until("all of it", lambda: marked(personal) >= sql(personal, NEWEST_TOLD))
        assert [call.to for call in courier.calls] == [["gina@example.org"]] * 2 + [["hana@example.org"]]
        assert personal.audit("notify-failed") == []


def test_ones_many_requests_leave_anothers_minute_alone(personal: Policyd) -> None:
    """Attack: whoever floods what is told to themselves keeps somebody else from hearing what was taken from them."""
    with courier_of(personal) as courier:
        courier.reply = arrived
        gina = personal.login("gina")

        def one_more() -> bool:
            asked = gina.ask(m.RequestAccess(account="deploy", target="web1", seconds=3600, reason="demo"))
            assert isinstance(gina.ask(m.RequestCancel(request=asked.data["request"])), m.Done)
            return "too many in this minute" in personal.log()

        wait_until("gina's minute is full", one_more, 60)
        personal.done(m.PersonSet(name="hana", mail="hana@example.org"))
        asked_and_denied(personal, "hana")
        wait_until("hana's mail", lambda: ["hana@example.org"] in [call.to for call in courier.calls])


def test_a_password_that_policyd_takes_back_is_told_to_who_had_it_and_to_the_channels(personal: Policyd) -> None:
    channel = NOTIFY.replace('"host-key-mismatch"', '"vault"')
    (personal.home / "policy.toml").write_text(LENDING + CONCERNED + channel)
    personal.done(m.Reload())
    with courier_of(personal, reply=arrived) as courier, personal.login("alice") as alice:
        done(bring(alice, revealed(take(alice)).data["checkout"]))
        revealed(take(alice, seconds=1))
        wait_until("its end", lambda: not out(personal))
        revealed(take(alice))
        personal.done(m.PersonSet(name="alice", remove_roles=["engineer"]))
        wait_until("three calls", lambda: len(courier.calls) == 3)
        (post,) = [call for call in courier.calls if isinstance(call, m.HttpCall)]
        mails = {tuple(call.to): call for call in courier.calls if isinstance(call, m.MailCall)}
        assert set(mails) == {("alice@example.org",), ("ops@example.org", "sue@example.org")}
        said = "the password of root@web1 was taken from alice by policyd\nreason: `no rule allows it any more`"
        assert json.loads(post.body)["text"] == said
        assert {mail.text for mail in mails.values()} == {f"{said}\n"}
        wait_until("all of it", lambda: marked(personal) >= sql(personal, NEWEST_TOLD))
        assert len(courier.calls) == 3, "of what came back by hand, or in time, nobody is told"


def ends_soon(policyd: Policyd) -> None:
    """As if most of what was given were over, and policyd had been away meanwhile."""
    policyd.kill()
    with closing(sqlite3.connect(policyd.database)) as database:
        database.execute("UPDATE access_grant SET starts = starts - 7200000000000")
        database.commit()
    policyd.start()


def test_leave_that_ends_is_told_to_who_has_it_and_told_once(personal: Policyd) -> None:
    word = m.GrantAdd(person="gina", account="deploy", target="web1", seconds=1200, reason="demo")
    first = personal.done(word).data["grant"]
    ends_soon(personal)
    with courier_of(personal, reply=arrived) as courier:
        wait_until("the mail", lambda: [one for one in courier.calls if "ends at" in one.subject], 60)
        (ending,) = [one for one in courier.calls if "ends at" in one.subject]
        assert ending.to == ["gina@example.org"]
        assert ending.subject.startswith("bastion: leave of gina for deploy@web1 ends at ")
        assert "ask again: ssh bastion request deploy@web1" in ending.text
    second = personal.done(word).data["grant"]
    ends_soon(personal)

    def told() -> list[str]:
        return [event["what"] for event in reversed(personal.audit("grant-ending"))]

    wait_until("the other one, which is looked at later", lambda: second in told(), 60)
    assert told() == [first, second], "a restart is no reason to say it again"


@pytest.mark.trio
async def test_the_end_of_a_checkout_is_told_once_though_policyd_restarts(filled: Policyd, tmp_path: Path) -> None:
    row = Checkout(id="c-1", account="root", target="web1", person="alice", version=1, source="", rule="r",
                   taken=time.time_ns(), ends=time.time_ns() + 3600 * 10**9)  # fmt: skip
    others = [replace(row, id=f"c-{number}", target=target) for number, target in ((2, "db1"), (3, "hidden"))]
    async with within(filled, tmp_path) as before, trio.open_nursery() as writing:
        ledger = before.authority.ledger
        writing.start_soon(ledger.run)
        await ledger.write(lambda t: [t.checkouts.add(one) for one in (row, *others)])
        for one in (row, others[0]):
            await ledger.note(Event(event="checkout-ending", what=one.place, detail={"checkout": one.id}))
        writing.cancel_scope.cancel()
    config = before.authority.config
    state = await open_state(config, parse(config.policy.master_key, config.state, {}))
    try:
        after = daemon._desk(config, read_all(config), state, Couriers())
        told = after.checkouts.to_warn(row.ends - 50 * 10**9, trio.current_time())
    finally:
        state.store.close()
    assert {(one.id, first) for one, _, first in told} == {("c-1", False), ("c-2", False), ("c-3", True)}
