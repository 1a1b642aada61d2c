"""Between an end and the timer that writes it down: what is over is over, though nothing has closed it yet.

A policyd within the test, whose timers run when the test says so: without them that moment lasts as long as it takes.
"""

import math
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from policy import messages as m
from policy.conversation import Conversation
from policy.leave import asking, grants
from policy.login import authenticate
from policy.model import Outcome
from policy.records import AccessGrant
from policy.rules.ruleset import parse_rules
from policy.sessions import access, dial
from tests.policy.inside import Desk, within
from tests.policy.policyd import Policyd, hello

SECOND = 1_000_000_000
LONG = 3600 * SECOND
TOKEN = "ticket-" + 40 * "a"
OWN = """
[[rule]]
name    = "by oneself, for a time"
who     = { roles = ["engineer"] }
where   = { targets = ["web1"] }
as      = ["root"]
allow   = ["shell"]
require = { approval = { count = 0, longest = "1h" } }
"""
RULES = parse_rules(
    OWN
    + """
[[rule]]
name    = "one of security"
who     = { roles = ["engineer"] }
where   = { targets = ["web1"] }
as      = ["deploy"]
allow   = ["shell"]
require = { approval = { by = ["security"], count = 1 } }
"""
)
WISH = m.RequestAccess(account="root", target="web1", reason="disk full")
ASKED = m.RequestAccess(account="deploy", target="web1", reason="disk full")


@pytest.fixture
async def desk(filled: Policyd, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Desk]:
    async with within(filled, tmp_path) as made:
        made.authority.rules = RULES
        nursery.start_soon(made.authority.ledger.run)
        yield made


def grant(**more) -> AccessGrant:
    now = time.time_ns()
    parts = {
        "id": "g-over", "request": None, "person": "alice", "account": "root", "target": "web1",
        "kinds": frozenset({"shell"}), "starts": now - LONG, "ends": now + LONG, "uses": 0, "made": now - LONG,
        "made_by": "alice",
    }  # fmt: skip
    return AccessGrant(**{**parts, **more})


async def leave(desk: Desk, talk: Conversation) -> str:
    """The id of a grant for root on web1, in memory and in the database."""
    return (await asking.request_access(desk.authority, talk, WISH)).data["grant"]


def is_over(desk: Desk, ident: str) -> AccessGrant:
    """Its end has come, and nobody has looked since."""
    standing = desk.authority.standing
    over = replace(standing.get(ident), ends=time.time_ns())
    standing._grants[ident] = over
    return over


# --- used ---------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_grant_that_is_over_lets_nobody_in(desk):
    talk = await desk.login("alice")
    ident = await leave(desk, talk)
    assert len(access.facts_of(desk.authority, talk, "root", "web1").grants) == 1
    is_over(desk, ident)
    refused = await access.authorize(desk.authority, talk, m.Authorize(account="root", target="web1"))
    assert (refused.code, refused.need) == (75, "approval")


@pytest.mark.trio
@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ({}, Outcome.DONE),
        ({"ends": 1}, Outcome.REFUSED),
        ({"starts": 2**62}, Outcome.REFUSED),
        ({"uses": 1, "used": 1}, Outcome.REFUSED),
    ],
)
async def test_a_token_that_is_over_logs_nobody_in(desk, state, outcome):
    digest = authenticate.as_token(TOKEN.encode())
    desk.authority.standing.put(grant(token=digest, **state))
    talk = desk.talk()
    await authenticate.hello(desk.authority, talk, hello())
    verdict = await authenticate.try_token(desk.authority, talk, m.TryToken(token=TOKEN))
    assert verdict.outcome is outcome
    assert talk.token == ("g-over" if outcome is Outcome.DONE else "")


@pytest.mark.trio
async def test_a_request_that_is_over_is_decided_by_nobody(desk):
    talk, sue = await desk.login("alice"), await desk.login("sue")
    asked = await asking.request_access(desk.authority, talk, ASKED)
    requests = desk.authority.standing.requests
    ident = asked.data["request"]
    requests[ident] = replace(requests[ident], expires=time.time_ns())
    with pytest.raises(grants.CommandRefused, match="waited too long"):
        await asking.decide_request(desk.authority, sue, m.Decide(request=ident, approve=True))


@pytest.mark.trio
async def test_who_asks_again_is_not_given_what_is_over(desk):
    """Else they wait for an answer to a request that nobody can answer any more."""
    talk = await desk.login("alice")
    requests = desk.authority.standing.requests
    first = await asking.request_access(desk.authority, talk, ASKED)
    assert (await asking.request_access(desk.authority, talk, ASKED)).data["request"] == first.data["request"]
    requests[first.data["request"]] = replace(requests[first.data["request"]], expires=time.time_ns())
    assert (await asking.request_access(desk.authority, talk, ASKED)).data["request"] != first.data["request"]
    given = await leave(desk, talk)
    desk.authority.standing._grants[given] = replace(is_over(desk, given), made=2**62)
    assert await leave(desk, talk) != given


@pytest.mark.trio
async def test_a_session_whose_time_is_up_opens_nothing(desk):
    """Attack: the credential of a session, asked for when it is over: a login that nobody ends."""
    talk = await desk.login("alice")
    await leave(desk, talk)
    held = await access.authorize(desk.authority, talk, m.Authorize(account="root", target="web1"))
    opening = partial(access.open_channel, desk.authority, talk, m.OpenChannel(session=held.session, kind="shell"))
    leasing = partial(dial.credential, desk.authority, talk, m.Credential(session=held.session, session_key=b""))
    signing = partial(dial.sign, desk.authority, talk, m.Sign(session=held.session, algorithm="", data=b""))
    assert await opening() == m.Allowed()
    assert isinstance(await leasing(), m.UsePassword)
    assert (await signing()).cause == "there is no key to sign with", "asked whether there is one, so it was in time"
    live = desk.authority.sessions.get(held.session)
    live.leases, live.deadline = 0, trio.current_time()
    for late in (opening, leasing, signing):
        refused = await late()
        assert isinstance(refused, m.Refused)
        assert refused.cause == dial.NOT_LIVE


@pytest.mark.trio
async def test_a_session_whose_time_is_up_while_its_password_is_changed_has_none(desk):
    talk = await desk.login("alice")
    await leave(desk, talk)
    held = await access.authorize(desk.authority, talk, m.Authorize(account="root", target="web1"))
    live = desk.authority.sessions.get(held.session)

    class Changing(type(desk.authority.rotations)):
        async def settled(self, account: str, target: str) -> None:
            live.deadline = trio.current_time()

    desk.authority.rotations = Changing()
    refused = await dial.credential(desk.authority, talk, m.Credential(session=held.session, session_key=b""))
    assert isinstance(refused, m.Refused)
    assert live.leases == 0


# --- written down ---------------------------------------------------------------------------------------------


@pytest.fixture
def no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but its own end, or being told, leads to a look."""
    monkeypatch.setattr(grants, "SWEEP_SECONDS", math.inf)


async def gone(*left) -> None:
    with trio.fail_after(20):
        while any(one() for one in left):  # noqa: ASYNC110 - the disk answers in its own time
            await trio.sleep(0.01)


@pytest.mark.trio
async def test_what_comes_to_its_end_is_closed_then(desk, nursery, no_sweeps):
    standing, talk = desk.authority.standing, await desk.login("alice")
    asked = await asking.request_access(desk.authority, talk, ASKED)
    ident = asked.data["request"]
    standing.drop(await leave(desk, talk))
    soon = time.time_ns() + SECOND
    with desk.authority.ledger.store.read() as t:
        (row,) = t.access.grants("alice")
    standing.put(replace(row, ends=soon))
    nursery.start_soon(grants.close_what_is_over, desk.authority)
    await gone(standing.all)
    standing.ask(replace(standing.requests[ident], expires=time.time_ns() + SECOND))
    await gone(lambda: standing.requests)
    with desk.authority.ledger.store.read() as t:
        assert t.access.grants("alice")[0].revoked_by == "policyd"
        assert t.access.request(ident).state == "expired"


@pytest.mark.trio
async def test_a_wall_clock_that_is_set_on_ends_what_rests_on_it(desk):
    """Sessions keep their time by another clock, which nobody has set."""
    standing, talk = desk.authority.standing, await desk.login("alice")
    given = await leave(desk, talk)
    held = await access.authorize(desk.authority, talk, m.Authorize(account="root", target="web1"))
    live = desk.authority.sessions.get(held.session)
    asked = (await asking.request_access(desk.authority, talk, ASKED)).data["request"]
    assert live.deadline > trio.current_time()
    is_over(desk, given)
    standing.requests[asked] = replace(standing.requests[asked], expires=time.time_ns())
    await grants._close_what_is_over(desk.authority)
    assert standing.all() == []
    assert standing.requests == {}
    assert live.deadline <= trio.current_time()


@pytest.mark.trio
async def test_a_session_that_goes_on_with_a_grant_ends_with_it(desk):
    talk = await desk.login("alice")
    desk.authority.rules = parse_rules(
        OWN
        + """
[[rule]]
name = "free"
who = { roles = ["engineer"] }
where = { targets = ["web1"] }
as = ["root"]
allow = ["exec"]
"""
    )
    held = await access.authorize(desk.authority, talk, m.Authorize(account="root", target="web1"))
    live = desk.authority.sessions.get(held.session)
    assert live.deadline == math.inf
    await leave(desk, talk)
    assert await access.open_channel(desk.authority, talk, m.OpenChannel(session=live.id, kind="shell")) == m.Allowed()
    assert live.deadline <= trio.current_time() + 3600
