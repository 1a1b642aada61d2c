"""What people knew is changed: after a checkout, whatever brought it back and whoever died in between."""

import sqlite3
from collections.abc import Iterator

import pytest

from policy import messages as m
from tests.policy.conftest import copied
from tests.policy.policyd import Policyd
from tests.policy.rotating import ROTATION, Targets, Worker, rotated, rows
from tests.policy.vaulting import RULES, bring, done, no, revealed, take
from tests.support.net import wait_until

CHANGED = RULES.replace("unrotated = true", "") + ROTATION
OLD = b"password of root"


@pytest.fixture
def policyd(filled: Policyd, tmp_path) -> Iterator[Policyd]:
    daemon = copied(filled, tmp_path, "recheck_seconds = 1")
    daemon.rules = CHANGED
    daemon.write()
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def targets() -> Targets:
    return Targets(opens={f"{name}@web1": {f"password of {name}".encode()} for name in ("root", "deploy")})


@pytest.fixture
def worker(policyd: Policyd, targets: Targets) -> Iterator[Worker]:
    made = Worker(policyd, targets)
    yield made
    made.close()


def changed(targets: Targets) -> bytes:
    """The new password, once there is one."""
    wait_until("another password", lambda: targets.opens["root@web1"] - {OLD})
    (new,) = targets.opens["root@web1"]
    return new


def test_brought_back_it_is_changed(policyd, worker, targets):
    with policyd.login("alice") as alice:
        assert revealed(take(alice)).value == OLD
        assert "to be changed now" in done(bring(alice, "root@web1")).text
        new = changed(targets)
        wait_until("it to be in force", lambda: not rows(policyd))
        found = revealed(take(alice))
        assert (found.value, found.version, "doubt" in found.data) == (new, 2, False)
    assert rows(policyd, all=True)[-1]["why"] == "checkout"


@pytest.mark.parametrize("how", ["over", "disabled", "forced"])
def test_however_it_came_back(policyd, worker, targets, how):
    with policyd.login("alice") as alice, policyd.login("sue") as sue:
        revealed(take(alice, seconds=1 if how == "over" else 600))
        if how == "disabled":
            policyd.done(m.PersonSet(name="alice", disabled=True))
        if how == "forced":
            done(bring(sue, "root@web1", force=True, reason="x"))
        assert changed(targets) != OLD


def test_killed_between_the_return_and_the_change(policyd, targets):
    """As if policyd had died after the one was written and before the other: the next start finds it due."""
    with policyd.login("alice") as alice:
        revealed(take(alice))
    policyd.kill()
    with sqlite3.connect(policyd.database) as db:
        db.execute("update checkout set returned = taken + 1, returned_by = 'alice'")
        assert db.execute("select count(*) from rotation").fetchone() == (0,)
    policyd.start()
    worker = Worker(policyd, targets)
    try:
        assert changed(targets) != OLD
    finally:
        worker.close()


def test_killed_while_it_is_out_and_over_then(policyd, targets):
    with policyd.login("alice") as alice:
        revealed(take(alice, seconds=1))
    policyd.kill()
    policyd.start()
    worker = Worker(policyd, targets)
    try:
        assert changed(targets) != OLD
    finally:
        worker.close()


def test_while_it_is_out_it_is_not_changed_under_the_persons_hands(policyd, worker, targets):
    with policyd.login("alice") as alice:
        revealed(take(alice))
        assert "checked out" in policyd.command(m.Rotate(places=["root@web1"], reason="x")).cause
        grant = alice.ask(m.Authorize(account="root", target="web1"))
        alice.ask(m.SessionEnded(session=grant.session, reason="closed"))
        wait_until("it to be due after use", lambda: rows(policyd))
        policyd.done(m.Rotate(places=["deploy@web1"], reason="x"))
        wait_until("the other one", lambda: targets.opens["deploy@web1"] - {b"password of deploy"})
        assert targets.opens["root@web1"] == {OLD}
        done(bring(alice, "root@web1"))
        assert changed(targets) != OLD


def test_what_was_begun_goes_on_while_somebody_has_it(policyd, worker, targets):
    targets.logins = "unknown"
    assert rotated(policyd, "root@web1")[0]["state"] == "both-kept"
    with policyd.login("alice") as alice:
        found = revealed(take(alice))
        assert found.data["doubt"] == "yes"
        assert "it may not open" in found.text
        targets.logins = ""
        policyd.restart()
        again = Worker(policyd, targets)
        wait_until("what opens", lambda: not rows(policyd))
        again.close()


def test_what_is_being_changed_is_not_shown_before_it_is(policyd, worker, targets):
    with policyd.login("alice") as alice:
        policyd.done(m.Rotate(places=["root@web1"], reason="x"))
        wait_until("its beginning", lambda: worker.orders)
        found = take(alice)
        if isinstance(found, m.Revealed):
            (new,) = targets.opens["root@web1"]
            assert found.value == new


def test_an_account_that_no_entry_changes_after_a_checkout(policyd, worker):
    (policyd.home / "policy.toml").write_text(CHANGED.replace('"use", "checkout"', '"use"'))
    policyd.done(m.Reload())
    with policyd.login("alice") as alice:
        assert "nothing changes" in no(take(alice), 78).cause
