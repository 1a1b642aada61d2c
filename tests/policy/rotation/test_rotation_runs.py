"""What keeps many rotations from each other's way, and a secret that opens from getting lost in any of them."""

import signal
import sqlite3
import threading
from collections import Counter

import pytest

from policy import messages as m
from policy.keys import sshkeys
from tests.policy.conftest import copied
from tests.policy.policyd import Policyd
from tests.policy.rotating import ROTATION, Targets, Worker, password_of, rotated, rows, versions
from tests.support.net import wait_until

PAIR = """
[[rotation]]
name    = "pair"
where   = { targets = ["p*"] }
as      = ["*"]
at_once = 2
"""


@pytest.fixture
def policyd(filled, tmp_path):
    daemon = copied(filled, tmp_path)
    (daemon.home / "policy.toml").write_text(daemon.rules + PAIR + ROTATION)
    daemon.start()
    yield daemon
    daemon.stop()


def alter(policyd: Policyd, change: str) -> None:
    with sqlite3.connect(policyd.database) as db:
        assert db.execute(change).rowcount == 1


def heard(worker: Worker, account: str) -> list[str]:
    return [type(order).__name__ for order in worker.orders if order.grant.account == account]


def many(policyd: Policyd, targets: Targets, count: int, *accounts: str) -> list[str]:
    """Targets p0, p1, ... with these accounts."""
    places = []
    for number in range(count):
        policyd.target(f"p{number}", *accounts)
        for account in accounts:
            places.append(f"{account}@p{number}")
            targets.opens[places[-1]] = {f"password of {account}".encode()}
    return places


# --- the secret in force --------------------------------------------------------------------------------


def test_what_cannot_be_gone_back_to_is_not_left(policyd, worker) -> None:
    """The row in force was written by somebody else: it opens nothing, so the target must keep what it has."""
    alter(policyd, "update secret_version set sealed = cast(substr(sealed, 1, length(sealed) - 1) || x'00' as blob) "
                   "where state = 'current' and secret = (select id from secret where name = 'root@web1')")  # fmt: skip
    (row,) = rotated(policyd, "root@web1")
    assert (row["state"], row["tries"], row["ended"]) == ("wanted", "1", ""), "who waits for it is told"
    assert row["problem"]
    assert "fault of the bastion" not in row["problem"]
    assert not policyd.audit("rotation-begin")
    assert not worker.orders
    (other,) = rotated(policyd, "deploy@web1")
    assert other["state"] == "committed", "the others go on"


def test_a_target_that_heard_nothing_leaves_no_version(policyd, worker, targets) -> None:
    targets.does, targets.says = False, "unreachable"
    (row,) = rotated(policyd, "root@web1")
    assert (row["state"], row["problem"]) == ("rolled-back", "as the test says")
    assert versions(policyd) == {"current": 1}
    assert heard(worker, "root") == ["ChangeSecret"], "and its login, which was as it is, is not tried"


def test_what_may_be_known_to_the_target_is_kept(policyd, worker, targets) -> None:
    targets.does, targets.says = False, "unknown"
    rotated(policyd, "root@web1")
    assert versions(policyd) == {"current": 1, "retired": 1}


def test_a_target_restored_from_a_backup_is_found_out(policyd, worker, targets) -> None:
    """It has neither the new one nor the last one, but one from before; and that is in force then."""
    first = targets.opens["root@web1"]
    for _ in range(2):
        assert rotated(policyd, "root@web1")[0]["state"] == "committed"
    targets.opens["root@web1"] = set(first)
    (row,) = rotated(policyd, "root@web1")
    assert row["state"] == "both-kept"
    policyd.done(m.Rotate(places=["root@web1"]))
    wait_until("what opens", lambda: "rolled-back" in [row["state"] for row in rows(policyd, all=True)])
    assert {password_of(policyd)} == first
    policyd.done(m.Rotate(places=["root@web1"]))
    wait_until("the next one, from there", lambda: not rows(policyd))
    assert {password_of(policyd)} == targets.opens["root@web1"] != first


def test_versions_are_not_kept_without_end(policyd, worker) -> None:
    for _ in range(7):
        assert rotated(policyd, "root@web1")[0]["state"] == "committed"
    assert versions(policyd) == {"current": 1, "previous": 1, "retired": 3}


# --- what is written down -------------------------------------------------------------------------------


def test_what_is_in_doubt_is_looked_at_right_after_a_start(policyd, targets) -> None:
    """People cannot log in until it is known what opens; its next try would be in a minute."""
    targets.logins = "unknown"
    worker = Worker(policyd, targets)
    assert rotated(policyd, "root@web1")[0]["state"] == "both-kept"
    policyd.stop(signal.SIGKILL)
    worker.close()
    targets.logins = ""
    policyd.start()
    again = Worker(policyd, targets)
    wait_until("what opens", lambda: not rows(policyd))
    assert {password_of(policyd)} == targets.opens["root@web1"]
    again.close()


def test_its_entry_is_taken_away_while_it_is_in_doubt(policyd, worker, targets) -> None:
    targets.logins = "unknown"
    assert rotated(policyd, "root@web1")[0]["state"] == "both-kept"
    (policyd.home / "policy.toml").write_text(policyd.rules + ROTATION.replace('"test"', '"other"'))
    policyd.done(m.Reload())
    targets.logins = ""
    policyd.restart()
    again = Worker(policyd, targets)
    wait_until("what opens", lambda: not rows(policyd))
    assert {password_of(policyd)} == targets.opens["root@web1"]
    again.close()


def test_the_account_is_removed_meanwhile(policyd, worker, targets) -> None:
    targets.logins = "unknown"
    assert rotated(policyd, "root@web1")[0]["state"] == "both-kept"
    policyd.done(m.AccountRemove(account="root", target="web1"))
    policyd.restart()
    wait_until("its end", lambda: not rows(policyd))
    assert rows(policyd, all=True)[0]["problem"] == "the account is gone"


def test_two_that_ask_at_once_have_one_rotation(policyd, targets) -> None:
    targets.hold = threading.Event()
    worker = Worker(policyd, targets)
    idents = {policyd.done(m.Rotate(places=["root@web1"])).rows[0][0] for _ in range(3)}
    assert len(idents) == 1
    wait_until("the order", lambda: bool(worker.orders))
    assert {policyd.done(m.Rotate(places=["root@web1"])).rows[0][0]} == idents
    targets.hold.set()
    wait_until("its end", lambda: not rows(policyd))
    assert len(policyd.audit("rotation-due")) == 1
    worker.close()


# --- how many at once -----------------------------------------------------------------------------------


def under_way(policyd: Policyd) -> Counter[str]:
    """Targets of the sessions that the bastion itself has now."""
    answer = policyd.done(m.SessionsList())
    return Counter(dict(zip(answer.columns, row, strict=True))["target"] for row in answer.rows)


def test_no_more_at_once_than_the_entry_says(policyd, targets) -> None:
    targets.hold = threading.Event()
    worker = Worker(policyd, targets)
    policyd.done(m.Rotate(places=many(policyd, targets, 4, "root")))
    wait_until("two of them", lambda: under_way(policyd).total() >= 2)
    policyd.done(
        m.Rotate(places=["root@web1"])
    )  # of another entry; asked for later, and begun: so they were passed over
    wait_until("that one", lambda: under_way(policyd)["web1"])
    assert under_way(policyd).total() == 3
    targets.hold.set()
    wait_until("all", lambda: not rows(policyd), 60)
    assert {row["state"] for row in rows(policyd, all=True)} == {"committed"}
    worker.close()


def test_accounts_of_one_target_come_one_after_the_other(policyd, targets) -> None:
    targets.hold = threading.Event()
    worker = Worker(policyd, targets)
    policyd.done(m.Rotate(places=many(policyd, targets, 1, "root", "deploy")))
    wait_until("one of them", lambda: under_way(policyd)["p0"])
    policyd.done(m.Rotate(places=["root@web1"]))
    wait_until("the other target", lambda: under_way(policyd)["web1"])
    assert under_way(policyd) == {"p0": 1, "web1": 1}
    targets.hold.set()
    wait_until("all", lambda: not rows(policyd))
    worker.close()


def test_who_has_just_been_given_it_logs_in_first(policyd, targets) -> None:
    """A session that has its password is still in its handshake: it would be refused with what was good."""
    worker = Worker(policyd, targets)
    peer, grant = policyd.session("alice")
    peer.ask(m.Credential(session=grant.session, session_key=b""))
    policyd.done(m.Rotate(places=["root@web1", "deploy@web1"]))
    policyd.done(m.Rotate(places=many(policyd, targets, 1, "root")))
    wait_until("another one", lambda: worker.orders and worker.orders[-1].grant.target == "p0")
    wait_until("its end", lambda: "p0" not in [row["target"] for row in rows(policyd)])
    assert [order.grant.target for order in worker.orders] == ["p0", "p0"]
    wait_until("its turn", lambda: not rows(policyd), 30)
    worker.close()


def test_sessions_of_the_bastion_are_no_use(policyd, worker) -> None:
    """Else the login that proves a change would be the reason for the next."""
    rotated(policyd, "root@web1")
    policyd.restart()  # where what was used and not seen is looked for
    again = Worker(policyd, worker.targets)
    rotated(policyd, "deploy@web1")
    assert [row["account"] for row in rows(policyd, all=True)] == ["deploy", "root"]
    again.close()


# --- who does it, with what -----------------------------------------------------------------------------


def test_passwd_is_told_the_old_one_and_chpasswd_is_not(policyd, worker, targets) -> None:
    rotated(policyd, "root@web1")
    order = worker.orders[0]
    assert isinstance(order, m.ChangeSecret)
    assert (order.how, order.old) == ("passwd", b"password of root")
    (policyd.home / "policy.toml").write_text(policyd.rules + ROTATION + 'via = "root"\n')
    policyd.done(m.Reload())
    assert rotated(policyd, "deploy@web1")[0]["state"] == "committed"
    order = worker.orders[2]
    assert isinstance(order, m.ChangeSecret)
    assert (order.how, order.old, order.grant.account) == ("chpasswd", b"", "root")


def test_a_grant_of_the_bastion_opens_commands_alone_and_ends_by_itself(policyd, worker) -> None:
    rotated(policyd, "root@web1")
    for order in worker.orders:
        assert set(order.grant.kinds) == {"exec", "sftp"}
        assert order.grant.expires_in is not None
        assert order.grant.expires_in <= 70
        assert len(order.grant.commitment_key) == 32
    assert not [row for row in policyd.done(m.SessionsList()).rows if "bastion" in row], "none is left"


def test_a_worker_that_leaves_its_sessions_open(policyd, worker, targets) -> None:
    targets.ends = False
    assert rotated(policyd, "root@web1")[0]["state"] == "committed"
    wait_until("their end", lambda: not under_way(policyd))


def test_no_rule_ends_a_session_of_the_bastion(policyd, targets) -> None:
    """None allows it either: it is policyd's own."""
    targets.hold = threading.Event()
    worker = Worker(policyd, targets)
    policyd.done(m.Rotate(places=["root@web1"]))
    wait_until("the order", lambda: bool(worker.orders))
    policyd.done(m.Reload())
    assert under_way(policyd) == {"web1": 1}
    targets.hold.set()
    wait_until("its end", lambda: not rows(policyd))
    assert [type(order).__name__ for order in worker.orders] == ["ChangeSecret", "VerifyLogin"]
    assert rows(policyd, all=True)[0]["state"] == "committed"
    worker.close()


def test_a_key_of_another_is_never_in_an_order(policyd, targets) -> None:
    """What goes to a worker is a public line: private keys stay in policyd, the new one as well."""
    old = sshkeys.generate_private_key()
    policyd.done(m.AccountAdd(account="key", target="web1", private_key=sshkeys.write_private_key(old).decode()))
    targets.opens["key@web1"] = {old.public.blob}
    worker = Worker(policyd, targets)
    assert rotated(policyd, "key@web1")[0]["state"] == "committed"
    for order in worker.orders:
        assert b"PRIVATE" not in m.encode(1, order)
    add, take = (order for order in worker.orders if isinstance(order, m.ChangeSecret))
    assert (add.old, add.keep, take.keep) == (old.public.blob, True, False)
    worker.close()
