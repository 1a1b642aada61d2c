"""Four eyes: a session whose rule wants a watcher is frozen while nobody looks on. And warnings before an end."""

from collections.abc import Iterator

import pytest

from policy import messages as m
from policy.model import WARNINGS
from tests.policy.conftest import copied
from tests.policy.jit import RULES, authorize, dba, no, prepared
from tests.policy.policyd import Policyd


@pytest.fixture(scope="module")
def policyd(filled: Policyd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policyd]:
    daemon = copied(filled, tmp_path_factory.mktemp("p"), "source_failures = 100000")
    daemon.rules = RULES
    daemon.write()
    try:
        yield prepared(daemon.start())
    finally:
        daemon.stop()


@pytest.mark.parametrize("kind", ["shell", "exec", "sftp"])
def test_it_goes_on_while_somebody_looks(policyd, kind):
    with policyd.login(dba(policyd)) as peer, policyd.login("sue") as sue:
        grant = authorize(peer, "db5")
        assert grant.watched
        assert isinstance(sue.ask(m.WatchBegin(session=grant.session)), m.Done)
        assert peer.push() == m.Thaw(session=grant.session)
        assert peer.ask(m.OpenChannel(session=grant.session, kind=kind)) == m.Allowed()
        sue.ask(m.WatchEnd(session=grant.session))
        push = peer.push()
        assert isinstance(push, m.Freeze)
        assert push.session == grant.session
    assert policyd.audit("watch-begin")[0]["who"] == "sue"
    assert policyd.audit("watch-end")[0]["who"] == "sue"


def test_it_stops_with_the_last_one(policyd):
    watcher = dba(policyd, "watcher")
    with policyd.login(dba(policyd)) as peer, policyd.login(watcher) as other:
        grant = authorize(peer, "db5")
        with policyd.login("sue") as sue:
            assert ["watch", grant.session] in [row[:2] for row in sue.ask(m.Notices()).rows]
            assert ["watch", grant.session] not in [row[:2] for row in peer.ask(m.Notices()).rows]
            sue.ask(m.WatchBegin(session=grant.session))
            assert ["watch", grant.session] not in [row[:2] for row in other.ask(m.Notices()).rows]
            other.ask(m.WatchBegin(session=grant.session))
            other.ask(m.WatchBegin(session=grant.session))
            assert isinstance(peer.push(), m.Thaw)
        other.ask(m.Whoami())
        peer.ask(m.Whoami())
        assert peer.pushes == [], "sue is gone, but somebody is there"
        other.close()
        assert isinstance(peer.push(), m.Freeze)


def test_who_loses_the_right_looks_no_more(policyd):
    watcher = dba(policyd, "watcher")
    with policyd.login(dba(policyd)) as peer, policyd.login(watcher) as other:
        grant = authorize(peer, "db5")
        other.ask(m.WatchBegin(session=grant.session))
        assert isinstance(peer.push(), m.Thaw)
        policyd.done(m.PersonSet(name=watcher, disabled=True))
        assert isinstance(peer.push(), m.Freeze)
        no(other.ask(m.WatchBegin(session=grant.session)))


def test_nobody_watches_over_themselves(policyd):
    name = dba(policyd, "watcher")
    with policyd.login(name) as peer, policyd.login(name) as again, policyd.login("bob") as bob:
        grant = authorize(peer, "db5")
        assert "themselves" in no(again.ask(m.WatchBegin(session=grant.session))).cause
        no(bob.ask(m.WatchBegin(session=grant.session)))
        no(peer.ask(m.WatchBegin(session="0" * 32)), 64)
        peer.ask(m.Whoami())
        assert peer.pushes == []


def test_a_session_nobody_has_to_watch_is_not_frozen(policyd):
    peer, grant = policyd.session("alice")
    assert not grant.watched
    with policyd.login("sue") as sue:
        sue.ask(m.WatchBegin(session=grant.session))
    policyd.done(m.SessionsList())
    peer.ask(m.Whoami())
    assert peer.pushes == []


def test_a_rule_that_wants_a_watcher_from_now_on(make_policyd):
    policyd = prepared(make_policyd(files={"policy.toml": RULES.replace("require = { watcher = true }", "")}))
    with policyd.login(dba(policyd)) as peer:
        grant = authorize(peer, "db5")
        assert not grant.watched
        (policyd.home / "policy.toml").write_text(RULES)
        policyd.done(m.Reload())
        assert isinstance(peer.push(), m.Freeze)
        with policyd.login("sue") as sue:
            sue.ask(m.WatchBegin(session=grant.session))
            assert isinstance(peer.push(), m.Thaw)


def test_a_warning_before_the_end(make_policyd):
    seconds = int(WARNINGS[-1]) + 1
    policyd = prepared(make_policyd(files={"policy.toml": RULES}))
    name = dba(policyd)
    with policyd.login(name) as peer:
        peer.ask(m.RequestAccess(account="root", target="db3", seconds=seconds, reason="x"))
        grant = authorize(peer, "db3")
        push = peer.push()
        assert isinstance(push, m.Warn)
        assert push.session == grant.session
        assert push.text.startswith("this session ends in 1 minute:")
