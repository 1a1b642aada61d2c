"""Secrets of accounts on a real sshd change by themselves; and nothing that goes wrong locks anybody out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.rotating import There, has_heard, rotating
from tests.support.accounts_target import ANN, OPS, PASSWORD, ROOT, AccountsTarget, missing
from tests.support.chaos import FaultSite, patience
from tests.support.net import wait_until
from tests.support.sshd import keygen

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountsTarget]:
    made = AccountsTarget(tmp_path_factory.mktemp("accounts") / "target")
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultSite]:
    with rotating(tmp_path_factory.mktemp("rotation")) as made:
        yield made


@pytest.fixture
def there(site: FaultSite, target: AccountsTarget, request: pytest.FixtureRequest) -> Iterator[There]:
    number = abs(hash(request.node.nodeid)) % 10**8
    made = There(site, target, f"{getattr(request, 'param', 'self')}-{number}")
    yield made
    target.fault()
    for account in (ANN, OPS, ROOT):
        target.set_password(account, PASSWORD)


def test_a_password_that_changes_itself(there: There) -> None:
    place = there.account(ANN)
    row = there.rotate(place)
    assert (row["state"], row["problem"]) == ("committed", "")
    assert not there.target.opens(ANN, PASSWORD)
    assert there.works()
    assert there.rotate(place)["state"] == "committed", "and again, with the new one"
    assert there.works()


@pytest.mark.parametrize(("there", "by"), [("by", ROOT), ("sudo", OPS)], indirect=["there"])
def test_a_password_that_another_account_changes(there: There, by: str) -> None:
    there.account(by)
    place = there.account(ANN)
    row = there.rotate(place)
    assert (row["state"], row["problem"]) == ("committed", "")
    assert not there.target.opens(ANN, PASSWORD)
    assert there.target.opens(by, PASSWORD), "who changes is not changed"
    assert there.works()


def test_a_key_is_exchanged_and_other_lines_stay(there: There, tmp_path: Path) -> None:
    keygen(tmp_path / "old")
    file = there.target.authorized_keys(ANN)
    before = file.read_text()
    with file.open("a") as lines:
        lines.write((tmp_path / "old.pub").read_text())
    place = there.keyed(ANN, tmp_path / "old")
    assert there.works()
    row = there.rotate(place)
    assert (row["state"], row["problem"]) == ("committed", "")
    assert not there.target.opens(ANN, key=tmp_path / "old")
    assert there.works()
    kept = file.read_text().splitlines()
    assert len(kept) == len(before.splitlines()) + 1
    assert set(before.splitlines()) <= set(kept)
    file.write_text(before)


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        ("lies", "rolled-back"),
        ("denies", "committed"),
        ("drops", "committed"),
        ("drops-before", "rolled-back"),
        ("floods", "rolled-back"),
        ("echoes", "committed"),
        ("absent", "rolled-back"),
    ],
)
@pytest.mark.parametrize("there", ["by"], indirect=True)
def test_whatever_the_target_says_a_login_decides(there: There, fault: str, state: str) -> None:
    there.account(ROOT)
    place = there.account(ANN)
    there.target.fault(fault)
    row = there.rotate(place)
    assert row["state"] == state, row["problem"]
    assert there.works()
    there.target.fault()
    assert there.rotate(place)["state"] == "committed"
    assert there.works()


@pytest.mark.parametrize("there", ["by"], indirect=True)
def test_a_target_that_dies_when_it_was_told_leaves_both_until_one_is_proven(there: There) -> None:
    """It is away, and nobody can know what it has done. It comes back, and a login finds out."""
    there.account(ROOT)
    place = there.account(ANN)
    there.target.fault("hangs")
    there.site.bastion("account", "rotate", place, "--no-wait")
    wait_until("the change", lambda: has_heard(there.target), patience(20))
    there.target.stop()
    try:
        wait_until("the doubt", lambda: there.state() == "both-kept", patience(30))
        assert [one for one in there.site.audit() if one["event"] == "rotation-in-doubt" and one["what"] == place]
    finally:
        there.target.fault()
        there.target.start()
    assert there.rotate(place)["state"] == "rolled-back"
    assert there.works()


@pytest.mark.parametrize("role", ["policy", "bastion.ssh"])
@pytest.mark.parametrize("there", ["by"], indirect=True)
def test_killed_while_the_target_is_told(there: There, role: str) -> None:
    """The next run finds out what opens, without being asked, and people get there."""
    there.account(ROOT)
    place = there.account(ANN)
    there.target.fault("hangs")
    there.site.bastion("account", "rotate", place, "--no-wait")
    wait_until("the change", lambda: has_heard(there.target), patience(20))
    there.target.fault()
    there.site.kill(role)
    there.site.recovers(patience(20))
    wait_until("it is found out", lambda: there.state() in ("", "wanted"), patience(60))
    assert there.works()
    assert there.rotate(place)["state"] == "committed"
    assert there.works()


@pytest.mark.parametrize("there", ["used"], indirect=True)
def test_after_the_last_session_it_changes(there: There) -> None:
    there.account(ANN)
    assert there.works()
    wait_until("the rotation", lambda: not there.target.opens(ANN, PASSWORD), patience(30))
    wait_until("its end", lambda: there.state() == "", patience(30))
    assert there.works()


def test_no_secret_stays_anywhere(there: There) -> None:
    """Not in the recordings either, which have the session of the change."""
    place = there.account(ANN, "seeded-Password-4711")
    there.rotate(place)
    there.site.stop_bastion()
    try:
        for file in there.site.folder.rglob("*"):
            if file.is_file() and file.suffix != ".sock":
                assert b"seeded-Password-4711" not in file.read_bytes(), file
        assert b"seeded-Password-4711" not in there.site.log.read_bytes()
    finally:
        there.site.start_bastion()
