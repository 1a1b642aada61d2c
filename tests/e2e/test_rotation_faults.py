"""Targets whose disk is full, that lie about files, or whose session an operator ends: nobody is locked out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policy.messages import RotationList, Rows
from tests.e2e.rotating import There, has_heard, rotating
from tests.support.accounts_target import ANN, PASSWORD, ROOT, AccountsTarget, missing
from tests.support.chaos import FaultSite, patience
from tests.support.net import wait_until
from tests.support.site import stopped
from tests.support.sshd import keygen

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

KEYS = f"/home/{ANN}/.ssh"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultSite]:
    with rotating(tmp_path_factory.mktemp("rotation")) as made:
        yield made


@pytest.fixture
def there(site: FaultSite, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[There]:
    """A target of the test's own: what it does to its disks is not undone."""
    number = abs(hash(request.node.nodeid)) % 10**8
    target = AccountsTarget(tmp_path / "target").start()
    try:
        yield There(site, target, f"{getattr(request, 'param', 'self')}-{number}")
    finally:
        target.stop()


def key_of(there: There, folder: Path, *, size: int = 0) -> str:
    """An account that a key of its own opens; the file of keys is filled up to `size` bytes."""
    keygen(folder / "old")
    file = there.target.authorized_keys(ANN)
    text = file.read_text() + (folder / "old.pub").read_text()
    file.write_text(text + "#" * max(0, size - len(text) - 1) + "\n")
    return there.keyed(ANN, folder / "old")


def lines_of(there: There) -> list[str]:
    """Of authorized_keys, as the target sees it, without ours."""
    return [line for line in there.target.inside(f"cat {KEYS}/authorized_keys").splitlines() if "bastion" not in line]


# --- disks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [0, 1, 2])
@pytest.mark.parametrize("there", ["self", "by"], indirect=True)
def test_no_room_for_the_file_of_passwords(there: There, pages: int) -> None:
    there.account(ROOT)
    place = there.account(ANN)
    there.target.cramp("/etc", pages)
    row = there.rotate(place)
    assert row["state"] in (["rolled-back"] if not pages else ["rolled-back", "committed"]), row
    assert there.works()
    assert there.target.opens(ROOT, PASSWORD), "nobody else is locked out"
    there.target.roomy("/etc")
    assert there.rotate(place)["state"] == "committed"
    assert there.works()
    assert not there.target.opens(ANN, PASSWORD)


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 4])
def test_no_room_for_the_file_of_keys(there: There, tmp_path: Path, pages: int) -> None:
    """The file has nearly a page of 4 KiB: it and its copies fill one each, and with a line more the new one two."""
    place = key_of(there, tmp_path, size=4080)
    before = lines_of(there)
    there.target.cramp(KEYS, pages)
    row = there.rotate(place)
    assert row["state"] in (["rolled-back"] if pages < 3 else ["committed", "cleaning"]), row
    assert there.works()
    there.target.roomy(KEYS)
    assert there.rotate(place)["state"] == "committed"
    assert there.works()
    assert not there.target.opens(ANN, key=tmp_path / "old")
    assert [line for line in before if "ssh-" not in line] == [line for line in lines_of(there) if "ssh-" not in line]
    assert there.target.opens(ANN, key=there.target.client_key), "the key of somebody else is there"
    assert there.target.inside(f"ls -A {KEYS}").split() == ["authorized_keys"], "nothing is left lying about"


@pytest.mark.parametrize("there", ["self", "by"], indirect=True)
def test_the_disk_of_passwords_is_read_only(there: There) -> None:
    there.account(ROOT)
    place = there.account(ANN)
    there.target.read_only("/etc")
    assert there.rotate(place)["state"] == "rolled-back"
    assert there.works()
    there.target.read_only("/etc", False)
    assert there.rotate(place)["state"] == "committed"
    assert there.works()


def test_the_disk_of_keys_is_read_only(there: There, tmp_path: Path) -> None:
    place = key_of(there, tmp_path)
    there.target.read_only(KEYS)
    row = there.rotate(place)
    assert (row["state"], "no file can be made" in row["problem"]) == ("rolled-back", True)
    assert there.works()
    there.target.read_only(KEYS, False)
    assert there.rotate(place)["state"] == "committed"
    assert there.works()


# --- lies about files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        ("lies", "rolled-back"),
        ("denies", "committed"),
        ("drops", "committed"),
        ("drops-before", "rolled-back"),
        ("turns", "cleaning"),  # the old line is still there, and it says that it is not
    ],
)
def test_whatever_it_says_of_the_file_of_keys_a_login_decides(
    there: There, tmp_path: Path, fault: str, state: str
) -> None:
    place = key_of(there, tmp_path)
    before = lines_of(there)
    there.target.fault(fault, "mv")
    row = there.rotate(place)
    assert row["state"] == state, row
    assert there.works()
    assert there.target.opens(ANN, key=tmp_path / "old") is (state != "committed")
    there.target.fault()
    assert there.rotate(place)["state"] == "committed"
    assert there.works()
    assert not there.target.opens(ANN, key=tmp_path / "old")
    mine = (tmp_path / "old.pub").read_text().strip()
    assert [line for line in before if line != mine] == lines_of(there)


# --- an operator ends it --------------------------------------------------------------------------------


def own_sessions(there: There) -> list[str]:
    """Those of the bastion itself on this target: others may still be on their way out."""
    return [
        one["session"] for one in there.site.sessions() if (one["person"], one["target"]) == ("bastion", there.name)
    ]


def row_of(there: There, place: str) -> dict[str, Any]:
    """The newest row of an account."""
    answer = there.site.ask(RotationList(place=place, all=True))
    assert isinstance(answer, Rows)
    return dict(zip(answer.columns, answer.rows[0], strict=True))


@pytest.mark.parametrize(("fault", "state"), [("hangs", "rolled-back"), ("hangs-after", "committed")])
@pytest.mark.parametrize("there", ["by"], indirect=True)
def test_its_session_is_ended_while_the_target_is_told(there: There, fault: str, state: str) -> None:
    there.account(ROOT)
    place = there.account(ANN)
    there.target.fault(fault)
    there.site.bastion("account", "rotate", place, "--no-wait")
    wait_until("the change", lambda: has_heard(there.target), patience(20))
    (session,) = own_sessions(there)
    there.site.bastion("sessions", "kill", session, "--reason", "what is this")
    there.target.fault()
    wait_until("what opens", lambda: there.state() in ("", "wanted"), patience(30))
    ended = [one["event"] for one in there.site.audit() if one["what"] == place and one["event"].startswith("rotation")]
    assert ended[-1] == {"committed": "rotation-done", "rolled-back": "rotation-rolled-back"}[state]
    assert there.works()
    if there.state():
        assert "what is this" in row_of(there, place)["problem"]
        assert there.rotate(place)["state"] == "committed"
    assert there.works()


@pytest.mark.parametrize("there", ["by"], indirect=True)
def test_the_sessions_that_find_it_out_are_ended_as_well(there: There) -> None:
    """Nobody knows what opens. The next run does."""
    there.account(ROOT)
    place = there.account(ANN)
    there.target.fault("hangs-after")
    there.site.bastion("account", "rotate", place, "--no-wait")
    wait_until("the change", lambda: has_heard(there.target), patience(20))
    (first,) = own_sessions(there)
    with stopped(there.target.listener):
        there.site.bastion("sessions", "kill", first, "--reason", "one")
        ended = {first}
        while there.state() != "both-kept":
            for session in set(own_sessions(there)) - ended:
                there.site.bastion("sessions", "kill", session, "--reason", "and another", check=False)
                ended.add(session)
        assert len(ended) > 1
    there.target.fault()
    assert there.rotate(place)["state"] == "committed", "it was changed, and a login says so"
    assert there.works()
    assert not there.target.opens(ANN, PASSWORD)
