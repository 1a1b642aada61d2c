"""Several sessions that have to end while nothing can be written: all of them do, and each end is kept later, once."""

import signal
from pathlib import Path

import pytest
import trio

from policy import daemon
from policy import messages as m
from policy.rules.ruleset import RuleSet
from policy.sessions import access, live
from policy.trail.ledger import LedgerError
from tests.policy.inside import within
from tests.policy.jit import RULES, authorize, dba, given, no, prepared
from tests.policy.policyd import Policyd
from tests.support.net import wait_until


def gone(database: Path) -> Path:
    """Out of the way: SQLite would go on in the file without a name, which policyd notices."""
    return database.rename(database.with_suffix(".aside"))


def test_two_sessions_of_one_grant_end_though_neither_end_can_be_kept(make_policyd):
    """Attack: a full disk, and leave that is taken back: who is in stays in, or two errors at once are no answer."""
    policyd: Policyd = prepared(make_policyd(files={"policy.toml": RULES}))
    name = dba(policyd)
    ident = given(policyd, name)
    with policyd.login(name) as one, policyd.login(name) as other, policyd.operator() as operator:
        sessions = {peer: authorize(peer).session for peer in (one, other)}
        aside = gone(policyd.database)
        refused = operator.ask(m.GrantRevoke(grant=ident, reason="wrong machine"))
        assert (refused.code, refused.cause) == (69, "the bastion cannot keep its audit trail")
        for peer, session in sessions.items():
            pushed = peer.push()
            assert (pushed.session, "wrong machine" in pushed.reason) == (session, True)
        aside.rename(policyd.database)
        wait_until("the ends are kept", lambda: len(policyd.audit("session-kill")) == 2, 60)
        assert {event["session"] for event in policyd.audit("session-kill")} == set(sessions.values())
        assert operator.ask(m.GrantRevoke(grant=ident)).data["sessions_ended"] == "0", "said again, it is done"
        no(authorize(one), 75, need="approval")
    assert policyd.process.poll() is None


def test_a_reload_that_cannot_be_kept_keeps_the_old_rules_and_policyd(make_policyd):
    policyd: Policyd = make_policyd()
    peer, grant = policyd.session("alice")
    aside = gone(policyd.database)
    policyd.process.send_signal(signal.SIGHUP)
    log = policyd.home / "log"
    wait_until("it says so", lambda: b"rules-kept" in log.read_bytes())
    aside.rename(policyd.database)
    assert peer.ask(m.OpenChannel(session=grant.session, kind="shell")) == m.Allowed()


@pytest.mark.trio
async def test_what_no_rule_allows_any_more_ends_though_no_end_can_be_kept(filled, tmp_path, monkeypatch, nursery):
    """As policyd looks again and again: one error, not a group of them, and nothing of it ends who looks."""
    monkeypatch.setattr(live, "RETRY_SECONDS", 0.01)
    async with within(filled, tmp_path) as desk:
        authority = desk.authority
        nursery.start_soon(authority.ledger.run)
        talks = [await desk.login(name) for name in ("alice", "bob", "alice")]
        word = m.Authorize(account="root", target="web1")
        sessions = {(await access.authorize(authority, talk, word)).session for talk in talks}
        authority.rules = RuleSet()
        aside = gone(tmp_path / "state" / "bastion.db")
        with pytest.raises(LedgerError):
            await access.recheck(authority)
        assert len(authority.sessions) == 0
        aside.rename(tmp_path / "state" / "bastion.db")
        nursery.start_soon(authority.sessions.make_up)
        with trio.fail_after(20):
            while await authority.ledger.read(lambda t: t.sessions(limit=9)):  # noqa: ASYNC110 - the disk answers
                await trio.sleep(0.01)
        kept = await authority.ledger.read(
            lambda t: t.audit_of(["session-kill"], after=0, before=2**62, since=0, limit=9)
        )
        assert len(kept) == len(sessions) == 3


@pytest.mark.trio
async def test_whoever_looks_again_outlives_it(filled, tmp_path, nursery):
    async with within(filled, tmp_path) as desk:
        nursery.start_soon(desk.authority.ledger.run)
        for name in ("alice", "bob"):
            talk = await desk.login(name)
            await access.authorize(desk.authority, talk, m.Authorize(account="root", target="web1"))
        desk.authority.rules = RuleSet()
        aside = gone(tmp_path / "state" / "bastion.db")
        await daemon._recheck(desk.authority)
        assert len(desk.authority.sessions) == 0
        aside.rename(tmp_path / "state" / "bastion.db")
