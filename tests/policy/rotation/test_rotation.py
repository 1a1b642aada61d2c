"""Rotations by a real policyd, with a worker of the test's that has a target in memory behind it."""

import signal
import threading

import pytest

from policy import messages as m
from policy.keys import sshkeys
from tests.policy.rotating import Targets, Worker, rotated, rows, versions
from tests.support.net import wait_until


def test_a_password_is_changed_proven_and_in_force(policyd, worker, targets) -> None:
    (row,) = rotated(policyd, "root@web1")
    assert (row["state"], row["problem"], row["entry"]) == ("committed", "", "passwords")
    (new,) = targets.opens["root@web1"]
    assert new != b"password of root"
    assert len(new) == 20
    assert new.isalnum()
    assert [type(order).__name__ for order in worker.orders] == ["ChangeSecret", "VerifyLogin"]
    assert versions(policyd) == {"current": 1, "previous": 1}
    peer, grant = policyd.session("alice")
    assert peer.ask(m.Credential(session=grant.session, session_key=b"")).password == new


def test_what_happened_is_in_the_trail_and_no_secret_is(policyd, worker, targets) -> None:
    rotated(policyd, "root@web1")
    said = [row["event"] for row in policyd.audit() if row["event"].startswith("rotation")]
    assert said == ["rotation-done", "rotation-begin", "rotation-due"]
    (new,) = targets.opens["root@web1"]
    for file in (policyd.home / "state").rglob("*"):
        if file.is_file():
            assert new not in file.read_bytes(), file
    assert new not in (policyd.home / "log").read_bytes()


def test_sessions_of_the_bastion_are_kept_like_a_persons(policyd, worker) -> None:
    rotated(policyd, "root@web1")
    answer = policyd.done(m.SessionsList(all=True))
    mine = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    assert {row["person"] for row in mine} == {"bastion"}
    assert len(mine) == 2


@pytest.mark.parametrize(
    ("does", "says", "state"),
    [
        (False, "done", "rolled-back"),  # a lie
        (True, "refused", "committed"),  # another
        (False, "refused", "rolled-back"),
        (True, "unknown", "committed"),
        (False, "unreachable", "rolled-back"),
    ],
)
def test_a_login_decides_what_is_in_force(policyd, worker, targets, does, says, state) -> None:
    targets.does, targets.says = does, says
    (row,) = rotated(policyd, "root@web1")
    assert row["state"] == state
    (opens,) = targets.opens["root@web1"]
    peer, grant = policyd.session("alice")
    assert peer.ask(m.Credential(session=grant.session, session_key=b"")).password == opens
    assert versions(policyd)["pending"] == 0


def test_what_was_rolled_back_is_still_wanted(policyd, worker, targets) -> None:
    targets.does = False
    rotated(policyd, "root@web1")
    assert len(rows(policyd)) == 1
    (waits,) = rows(policyd)
    assert (waits["state"], waits["tries"], waits["account"]) == ("wanted", "1", "root")
    assert waits["next try"]
    targets.does = True
    (row,) = rotated(policyd, "deploy@web1")  # another one is not held up
    assert row["state"] == "committed"
    policyd.done(m.Rotate(places=["root@web1"]))  # pressed: it waits no more
    wait_until("the second try", lambda: not rows(policyd))
    assert versions(policyd)["current"] == 1


def test_doubt_keeps_both_alarms_and_is_cleared_up_by_the_next_run(policyd, worker, targets) -> None:
    targets.logins = "unknown"
    (row,) = rotated(policyd, "root@web1")
    assert row["state"] == "both-kept"
    assert versions(policyd) == {"current": 1, "pending": 1}
    assert len(policyd.audit("rotation-in-doubt")) == 1
    targets.logins = ""
    policyd.done(m.Rotate(places=["root@web1"]))
    wait_until("what opens", lambda: not rows(policyd))
    (opens,) = targets.opens["root@web1"]
    peer, grant = policyd.session("alice")
    assert peer.ask(m.Credential(session=grant.session, session_key=b"")).password == opens


def test_a_key_is_added_proven_and_the_old_one_taken_away(policyd, targets) -> None:
    old = sshkeys.generate_private_key()
    pem = sshkeys.write_private_key(old).decode()
    policyd.done(m.AccountAdd(account="key", target="web1", private_key=pem))
    targets.opens["key@web1"] = {old.public.blob}
    worker = Worker(policyd, targets)
    (row,) = rotated(policyd, "key@web1")
    assert row["state"] == "committed"
    changes = [order for order in worker.orders if isinstance(order, m.ChangeSecret)]
    assert [(order.how, order.keep) for order in changes] == [("authorized-keys", True), ("authorized-keys", False)]
    assert changes[0].new.startswith(b"ssh-ed25519 ")
    (blob,) = targets.opens["key@web1"]
    assert blob != old.public.blob
    peer, grant = policyd.session("alice", "key")
    assert peer.ask(m.Credential(session=grant.session, session_key=b"")).public == blob
    worker.close()


@pytest.mark.parametrize("does", [True, False])
def test_killed_while_the_target_is_told(policyd, targets, does) -> None:
    """Nobody hears what the target says. The next policyd finds out what opens, unasked, and people log in with it."""
    targets.does, targets.hold = does, threading.Event()
    worker = Worker(policyd, targets)
    policyd.done(m.Rotate(places=["root@web1"]))
    wait_until("the order", lambda: bool(worker.orders))
    policyd.stop(signal.SIGKILL)
    targets.hold.set()
    worker.close()
    assert versions(policyd) == {"current": 1, "pending": 1}
    policyd.start()
    again = Worker(policyd, Targets(opens=targets.opens))
    wait_until("what opens", lambda: not versions(policyd)["pending"])
    (opens,) = targets.opens["root@web1"]
    peer, grant = policyd.session("alice")
    assert peer.ask(m.Credential(session=grant.session, session_key=b"")).password == opens
    assert (opens == b"password of root") is not does or versions(policyd)["current"] == 1
    again.close()


@pytest.mark.parametrize("moment", ["comes", "has the credential", "is done"])
@pytest.mark.parametrize("order", ["ChangeSecret", "VerifyLogin"])
def test_killed_between_any_two_steps(policyd, targets, order, moment) -> None:
    """Whatever is on disk then: the next policyd finds what opens, and so do the people."""
    targets.dies = f"{order} {moment}", policyd
    worker = Worker(policyd, targets)
    policyd.done(m.Rotate(places=["root@web1"]))
    wait_until("its death", lambda: policyd.process is not None and policyd.process.poll() is not None)
    assert versions(policyd) == {"current": 1, "pending": 1}, "the new one was on disk before anybody heard of it"
    worker.close()
    policyd.process = None
    policyd.start()
    again = Worker(policyd, Targets(opens=targets.opens))
    wait_until("what opens", lambda: not versions(policyd)["pending"])
    (opens,) = targets.opens["root@web1"]
    peer, grant = policyd.session("alice")
    assert peer.ask(m.Credential(session=grant.session, session_key=b"")).password == opens
    again.close()


def test_a_worker_that_leaves_in_the_middle_proves_nothing(policyd, targets) -> None:
    targets.hold = threading.Event()
    worker = Worker(policyd, targets)
    policyd.done(m.Rotate(places=["root@web1"]))
    wait_until("the order", lambda: bool(worker.orders))
    wait_until("the change", lambda: b"password of root" not in targets.opens["root@web1"])
    worker.peer.sock.shutdown(2)
    second = Worker(policyd, Targets(opens=targets.opens))
    wait_until("what opens", lambda: versions(policyd)["previous"] == 1)
    targets.hold.set()
    assert isinstance(second.orders[0], m.VerifyLogin)
    second.close()


def test_a_login_meanwhile_waits_and_gets_the_new_one(policyd, targets) -> None:
    """Else who logs in between the change and its proof is refused by the target, with a password that was good."""
    targets.hold = threading.Event()
    worker = Worker(policyd, targets)
    policyd.done(m.Rotate(places=["root@web1"]))
    wait_until("the order", lambda: bool(worker.orders))
    peer, grant = policyd.session("alice")
    threading.Timer(0.3, targets.hold.set).start()
    given = peer.ask(m.Credential(session=grant.session, session_key=b"")).password
    assert {given} == targets.opens["root@web1"]
    worker.close()


def test_the_last_session_of_an_account_ends_and_its_password_is_changed(policyd, worker, targets) -> None:
    one, grant = policyd.session("alice")
    two, _ = policyd.session("bob")
    one.ask(m.SessionEnded(session=grant.session, reason="closed"))
    assert not rows(policyd, all=True)
    two.close()
    wait_until("the rotation", lambda: b"password of root" not in targets.opens["root@web1"])
    wait_until("its end", lambda: bool(rows(policyd, all=True)) and bool(rows(policyd, all=True)[0]["ended"]))
    assert rows(policyd, all=True)[0]["why"] == "use"


def test_a_use_that_a_crash_hid_is_found_at_the_start(policyd, targets) -> None:
    policyd.session("alice")
    policyd.stop(signal.SIGKILL)
    policyd.start()
    worker = Worker(policyd, targets)
    wait_until("the rotation", lambda: b"password of root" not in targets.opens["root@web1"])
    worker.close()


def test_bad_commands_say_what_to_do(policyd) -> None:
    for places, cause in (
        (["root"], "ACCOUNT@TARGET"),
        ([], "no account"),
        (["nobody@web1"], "no account `nobody@web1`"),
    ):
        answer = policyd.command(m.Rotate(places=places))
        assert isinstance(answer, m.Refused)
        assert cause in answer.cause
    answer = policyd.command(m.Rotate(places=["postgres@db1"]))  # no entry is about production
    assert isinstance(answer, m.Refused)
    assert (answer.code, "[[rotation]]" in answer.cause) == (78, True)


def test_strangers_and_engineers_may_neither_rotate_nor_look(policyd) -> None:
    peer = policyd.login("alice")
    for body in (m.Rotate(places=["root@web1"]), m.RotationPlan(), m.RotationList()):
        assert isinstance(peer.ask(body), m.Refused)


def test_the_plan_shows_what_changes_how(policyd) -> None:
    answer = policyd.done(m.RotationPlan())
    assert [row[:5] for row in answer.rows] == [
        ["deploy", "web1", "passwords", "ssh", "deploy"], ["root", "web1", "passwords", "ssh", "root"],
    ]  # fmt: skip
    assert policyd.done(m.RotationPlan(labels={"env": "prod"})).rows == []
    (row,) = policyd.done(m.RotationPlan(places=["postgres@db1"])).rows
    assert "no [[rotation]] entry" in row[-1]
