"""Syncs and password checks through a real policyd, with the test as its courier and so as its directory."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from policy import messages as m
from policy.keys.sshkeys import generate_private_key
from policy.model import Outcome
from tests.policy.conftest import copied
from tests.policy.courier import courier_of
from tests.policy.policyd import RULES, Policyd
from tests.support.net import wait_until

NUMBERS = count()

DIRECTORY = """
[directory]
url       = "ldaps://ldap.example.org"
bind      = "cn=bastion,dc=example,dc=org"
password  = "file:ldap.password"
base      = "ou=people,dc=example,dc=org"
passwords = true
every     = "1h"
alarm     = 2
most      = "100%"

[directory.roles]
"cn=engineers,dc=example,dc=org" = "engineer"
"""
SERVICE = "cn=bastion,dc=example,dc=org"
INVALID_CREDENTIALS = 49


@dataclass
class Directory:
    """Names, and who of them is in the group; `says` replaces an answer."""

    persons: dict[str, dict[str, list[bytes]]] = field(default_factory=dict)
    engineers: set[str] = field(default_factory=set)
    passwords: dict[str, bytes] = field(default_factory=dict)
    says: Callable[[m.LdapCall], m.Called | None] = lambda call: None
    binds: list[m.LdapCall] = field(default_factory=list)

    def add(self, *names: str, **values: list[bytes]) -> None:
        for name in names:
            self.persons[name] = {"uid": [name.encode()], "entryUUID": [f"id-of-{name}".encode()], **values}

    def __call__(self, call: m.LdapCall) -> m.Called:
        if (said := self.says(call)) is not None:
            return m.Called(task=call.task, status=said.status, error=said.error, entries=said.entries, next=said.next)
        if call.bind != SERVICE:
            self.binds.append(call)
            good = self.passwords.get(call.bind.removeprefix("uid=")) == call.password
            return m.Called(task=call.task, status=0 if good else INVALID_CREDENTIALS)
        names = [name for name in self.persons if "(uid=" not in call.filter or f"(uid={name})" in call.filter]
        if "memberOf" in call.filter:
            names = sorted(self.engineers & {*names})
        return m.Called(task=call.task, entries=[(f"uid={name}", self.persons[name]) for name in names])


@pytest.fixture(scope="module")
def shared(filled: Policyd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policyd]:
    with started(filled, tmp_path_factory.mktemp("p")) as daemon:
        yield daemon


@pytest.fixture
def policyd(shared: Policyd) -> Policyd:
    """Its settings stay what they are."""
    return shared


@pytest.fixture
def own(filled: Policyd, tmp_path: Path) -> Iterator[Policyd]:
    """One whose settings a test may change."""
    with started(filled, tmp_path) as daemon:
        yield daemon


@contextmanager
def started(filled: Policyd, home: Path) -> Iterator[Policyd]:
    """A policyd that has read its directory by itself, as it does within seconds of each change of its settings: what
    changes in the directory from now on is for the syncs of a test to find.
    """
    daemon = copied(filled, home, "source_failures = 100000\nlock_after = 2")
    daemon.rules = f"{RULES}\n{DIRECTORY}"
    daemon.write()
    secret = daemon.home / "ldap.password"
    secret.write_text("s3rvice\n")
    secret.chmod(0o600)
    daemon.start()
    try:
        with courier_of(daemon, reply=Directory()) as courier:
            wait_until("the first sync", lambda: courier.calls, 60)
            sync(daemon)  # in its turn, behind that one
        yield daemon
    finally:
        daemon.stop()


def reload(policyd: Policyd, directory: str) -> None:
    (policyd.home / "policy.toml").write_text(f"{RULES}\n{directory}")
    policyd.done(m.Reload())


@contextmanager
def serving(policyd: Policyd, *names: str) -> Iterator[Directory]:
    """A directory that has these persons, all of them known here and engineers."""
    directory = Directory()
    directory.add(*names)
    directory.engineers.update(names)
    with courier_of(policyd, reply=directory):
        sync(policyd)
        yield directory
        directory.says = lambda call: None
        directory.persons.clear()
        sync(policyd)  # those that came are away again for the next test


def sync(policyd: Policyd, *, plan: bool = False) -> list[tuple[str, str]]:
    rows = policyd.done(m.DirectorySync(plan=plan)).rows
    return [(row[0], row[1]) for row in rows]


def refused(policyd: Policyd) -> m.Refused:
    answer = policyd.command(m.DirectorySync())
    assert isinstance(answer, m.Refused), answer
    return answer


def cause(answers: list[Any]) -> str:
    """Why it was refused; "" if it was not."""
    return answers[0].cause if isinstance(answers[0], m.Refused) else ""


def state(policyd: Policyd, name: str) -> str:
    rows = {row[0]: row for row in policyd.done(m.PersonList()).rows}
    return str(rows[name][-1]) if name in rows else "unknown"


def fresh() -> str:
    return f"p{next(NUMBERS)}"


def try_password(policyd: Policyd, name: str, password: bytes) -> Outcome:
    with policyd.connection() as peer:
        answer = peer.ask(m.TryPassword(person=name, password=password))
        assert isinstance(answer, m.Verdict)
        return answer.outcome


# --- what is not certain changes nothing --------------------------------------------------------------


@pytest.mark.parametrize("status", [3, 4, 10, 11, 49, 80])
@pytest.mark.parametrize("what", ["persons", "group"])
def test_half_an_answer_offboards_nobody(policyd: Policyd, status: int, what: str) -> None:
    """Entries may come with it: a server sends what it has before it says that this was not all."""
    name = fresh()
    with serving(policyd, name) as directory:
        directory.says = lambda call: (
            m.Called(task=0, status=status) if ("memberOf" in call.filter) is (what == "group") else None
        )
        assert refused(policyd).code == 69
        assert state(policyd, name) == "active"


def test_a_sync_ends_whatever_the_directory_does(policyd: Policyd) -> None:
    name = fresh()
    with serving(policyd, name) as directory:
        directory.says = lambda call: m.Called(task=0, next=b"more")
        assert "pages without entries" in refused(policyd).cause
        assert state(policyd, name) == "active"


def test_no_courier_no_sync(policyd: Policyd) -> None:
    assert "the courier is not running" in refused(policyd).cause


def test_no_secret_no_sync(policyd: Policyd) -> None:
    with serving(policyd, fresh()):
        secret = policyd.home / "ldap.password"
        secret.chmod(0o644)
        try:
            answer = refused(policyd)
            assert "not set up for it" in answer.cause
            assert str(policyd.home) not in answer.cause
        finally:
            secret.chmod(0o600)


def test_an_entry_of_one_kilobyte_in_its_name(policyd: Policyd) -> None:
    with serving(policyd) as directory:
        directory.persons["x"] = {"uid": [b"x" * 5000], "entryUUID": [b"i"]}
        directory.persons["y"] = {"uid": [b"\x1b]0;title\x07"], "entryUUID": [b"j"]}
        assert sync(policyd) == []
        shown = [row[1] for row in policyd.done(m.DirectoryStatus()).rows if row[0] == "not taken"]
        assert len(shown) == 2
        assert all(text.isprintable() and len(text) < 400 for text in shown)


# --- while a sync is at work --------------------------------------------------------------------------


@contextmanager
def held(directory: Directory) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The answer about the group waits for the second event; the first says that it was asked for."""
    asked, go = threading.Event(), threading.Event()

    def wait(call: m.LdapCall) -> None:
        if "memberOf" in call.filter:
            asked.set()
            go.wait(60)

    directory.says = wait
    try:
        yield asked, go
    finally:
        go.set()
        directory.says = lambda call: None


def start_sync(policyd: Policyd) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(policyd.command(m.DirectorySync())))
    thread.start()
    return thread, answers


def test_rules_that_change_meanwhile_stop_it(own: Policyd) -> None:
    """Else a role that gives nothing might give the right to administer by the time it is given."""
    name = fresh()
    with serving(own) as directory:
        with held(directory) as (asked, go):
            directory.add(name)
            thread, answers = start_sync(own)
            assert asked.wait(60)
            reload(own, f"{DIRECTORY}# others\n")
            go.set()
            thread.join(60)
        assert "settings changed" in cause(answers)
        wait_until("the sync that follows new settings", lambda: state(own, name) == "active")


def test_who_was_offboarded_meanwhile_does_not_come_back(policyd: Policyd) -> None:
    name = fresh()
    with serving(policyd, name) as directory:
        directory.engineers.clear()
        with held(directory) as (asked, go):
            thread, answers = start_sync(policyd)
            assert asked.wait(60)
            policyd.done(m.PersonOffboard(name=name))
            go.set()
            thread.join(60)
        assert answers[0].rows == []
        assert state(policyd, name) == "offboarded"


def test_who_was_offboarded_before_their_turn_does_not_come_back(policyd: Policyd) -> None:
    """The plan knows them, and when it is carried out they are gone."""
    name, first = f"zz{next(NUMBERS)}", f"a{next(NUMBERS)}"
    with serving(policyd, name) as directory:
        directory.add(*(f"{first}-{number}" for number in range(100, 400)))
        directory.engineers.clear()
        thread, answers = start_sync(policyd)
        wait_until("the first of many", lambda: state(policyd, f"{first}-100") == "active")
        policyd.done(m.PersonOffboard(name=name))
        thread.join(60)
        assert "they are another by now" in cause(answers)
        assert state(policyd, name) == "offboarded"
        assert state(policyd, f"{first}-399") == "active"


def test_an_address_comes_from_there_and_is_set_nowhere_else(policyd: Policyd) -> None:
    name = fresh()

    def mail() -> str:
        return dict(policyd.done(m.PersonShow(name=name)).rows).get("mail", "")

    with serving(policyd, name) as directory:
        policyd.done(m.PersonSet(name=name, mail="by.hand@example.org"))
        directory.persons[name]["mail"] = [b"from.there@example.org"]
        assert sync(policyd) == [], "as long as the settings name no attribute"
        assert mail() == "by.hand@example.org"
        reload(policyd, DIRECTORY.replace("every ", 'mail = "mail"\nevery '))
        wait_until("the address", lambda: mail() == "from.there@example.org")
        assert "mail=from.there@example.org" in policyd.audit("directory-change", limit=1)[0]["detail"]
        answer = policyd.command(m.PersonSet(name=name, mail="by.hand@example.org"))
        assert isinstance(answer, m.Refused)
        assert "comes from the directory" in answer.cause
        del directory.persons[name]["mail"]
        assert sync(policyd) == [(name, "change")]
        assert mail() == ""


def test_who_was_disabled_by_hand_meanwhile_stays_so(policyd: Policyd) -> None:
    name, other = fresh(), fresh()
    with serving(policyd, name, other) as directory:
        gone = directory.persons.pop(name)
        assert sync(policyd) == [(name, "disable")]
        directory.persons[name] = gone
        with held(directory) as (asked, go):
            thread, answers = start_sync(policyd)
            assert asked.wait(60)
            policyd.done(m.PersonSet(name=name, disabled=True))
            go.set()
            thread.join(60)
        assert state(policyd, name) == "disabled", answers


def test_a_session_ends_with_the_role_it_rests_on(policyd: Policyd) -> None:
    name, others = fresh(), [fresh() for _ in range(10)]
    with serving(policyd, name, *others) as directory:
        directory.passwords[name] = b"secret"
        with policyd.connection() as peer:
            assert peer.ask(m.TryPassword(person=name, password=b"secret")).outcome is Outcome.DONE
            grant = peer.ask(m.Authorize(account="root", target="web1"))
            assert isinstance(grant, m.Grant), grant
            directory.engineers.remove(name)
            assert sync(policyd) == [(name, "change")]
            end = peer.push()
            assert isinstance(end, m.EndSession)
            assert end.session == grant.session


def test_the_last_who_could_administer_stays(own: Policyd) -> None:
    policyd = own
    name = fresh()
    everybody = DIRECTORY.replace("[directory.roles]", "administer = true\n[directory.roles]")
    key = generate_private_key()
    with serving(policyd, name) as directory:
        reload(
            policyd, everybody.replace("passwords ", 'keys = "key"\npasswords ') + '[rights]\nadminister = ["engineer"]'
        )
        directory.add(name, key=[key.public.line().encode()])
        sync(policyd)
        for one in ("alice", "bob"):
            policyd.done(m.PersonSet(name=one, disabled=True))
        try:
            directory.persons.clear()
            assert "is the last person with the right `administer`" in refused(policyd).cause
            assert state(policyd, name) == "active"
            policyd.done(m.PersonSet(name="alice", disabled=False))
            sync(policyd)  # by itself it may have been faster
            assert state(policyd, name) == "disabled"
        finally:
            for one in ("alice", "bob"):
                policyd.done(m.PersonSet(name=one, disabled=False))


# --- passwords ----------------------------------------------------------------------------------------


def test_a_password_is_checked_where_the_search_says(policyd: Policyd) -> None:
    name = fresh()
    with serving(policyd, name) as directory:
        directory.passwords[name] = b"secret"
        assert try_password(policyd, name, b"secret") is Outcome.DONE
        assert try_password(policyd, name, b"wrong") is Outcome.REFUSED
        assert [(call.bind, call.base) for call in directory.binds] == [(f"uid={name}", "")] * 2
        directory.binds.clear()
        assert try_password(policyd, name, b"") is Outcome.REFUSED  # RFC 4513 section 5.1.2
        assert directory.binds == []


def test_a_local_password_of_somebody_from_the_directory_counts_for_nothing(policyd: Policyd) -> None:
    name = fresh()
    with serving(policyd, name) as directory:
        policyd.done(m.PersonSet(name=name, password="of here"))
        assert try_password(policyd, name, b"of here") is Outcome.REFUSED
        directory.passwords[name] = b"of there"
        assert try_password(policyd, name, b"of there") is Outcome.DONE


@pytest.mark.parametrize("case", ["two", "none", "another id", "another name", "disabled", "partial", "away"])
def test_no_password_for_a_name_that_is_not_clear(policyd: Policyd, case: str) -> None:
    name = fresh()
    with serving(policyd, name) as directory:
        directory.passwords[name] = b"secret"
        good = directory.persons[name]

        def says(call: m.LdapCall) -> m.Called | None:
            if "(uid=" not in call.filter:
                return None
            match case:
                case "two":
                    return m.Called(task=0, entries=[(f"uid={name}", good), ("uid=x", good)])
                case "none":
                    return m.Called(task=0)
                case "another id":
                    return m.Called(task=0, entries=[(f"uid={name}", {**good, "entryUUID": [b"other"]})])
                case "another name":
                    return m.Called(task=0, entries=[(f"uid={name}", {**good, "uid": [b"somebody"]})])
                case "disabled":
                    return m.Called(task=0, entries=[(f"uid={name}", {**good, "nsAccountLock": [b"TRUE"]})])
                case "partial":
                    return m.Called(task=0, status=4, entries=[(f"uid={name}", good)])
            return m.Called(task=0, error="cannot be reached: connection refused")

        directory.says = says
        for _ in range(3):
            assert try_password(policyd, name, b"secret") is Outcome.REFUSED
        assert directory.binds == []
        why = policyd.audit("login-failed")[0]["why"]
        assert why != "password is wrong"
        directory.says = lambda call: None
        assert try_password(policyd, name, b"secret") is Outcome.DONE  # and nobody was locked for it


def test_guesses_at_once_do_not_all_get_there(policyd: Policyd) -> None:
    """Attack: a hundred guesses before the first is answered; the account is locked there, too, if all arrive."""
    name = fresh()
    with serving(policyd, name) as directory:
        directory.passwords[name] = b"secret"
        threads = [
            threading.Thread(target=lambda: try_password(policyd, name, b"guess"), daemon=True) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(directory.binds) == 2  # `lock_after = 2`
        assert try_password(policyd, name, b"secret") is Outcome.REFUSED
        policyd.done(m.PersonSet(name=name, disabled=False))


def test_people_are_told_of_a_directory_that_cannot_be_read_once(policyd: Policyd) -> None:
    with serving(policyd, fresh()) as directory:
        before = len(policyd.audit("directory-failed"))
        directory.says = lambda call: m.Called(task=0, error="gave no answer in time")
        for expected in (0, 1, 1, 1):  # `alarm = 2`
            refused(policyd)
            assert len(policyd.audit("directory-failed")) - before == expected
        directory.says = lambda call: None
        back = len(policyd.audit("directory-back"))
        sync(policyd)
        sync(policyd)
        assert len(policyd.audit("directory-back")) - back == 1
