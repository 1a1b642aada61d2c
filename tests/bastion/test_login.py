"""The login string, every spelling that people bring along, and what is refused before any use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.errors import MisuseError
from bastion.login import MAX_PART, Login, Secret, parse

WEB1 = Login(account="root", target="web1")
ALICE = Login(person="alice", account="root", target="web1")


@pytest.mark.parametrize(
    ("text", "login"),
    [
        ("root@web1", WEB1),
        ("root#web1", WEB1),
        ("root~web1", WEB1),
        ("root%web1", WEB1),
        ("root:web1", WEB1),
        ("alice@root@web1", ALICE),
        ("alice#root#web1", ALICE),
        ("alice~root~web1", ALICE),
        ("alice%root%web1", ALICE),
        ("alice:root:web1", ALICE),
        ("alice@corp.com@root@web1", Login(person="alice@corp.com", account="root", target="web1")),
        ("root@web1#2222", Login(account="root", target="web1", port=2222)),
        ("root@web1:2222", Login(account="root", target="web1", port=2222)),
        ("root#web1#2222", Login(account="root", target="web1", port=2222)),
        ("alice:root:web1:22", Login(person="alice", account="root", target="web1", port=22)),
        ("alice", Login(person="alice")),
        ("CORP\\svc$@win01", Login(account="CORP\\svc$", target="win01")),
    ],
)
def test_spellings(text: str, login: Login) -> None:
    assert parse(text) == login


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "@web1", "root@", "@root@web1", "@@", "root@web1#", "root@web1#0", "root@web1#65536", "root@web1#x",
        "root@web1#2 2", "a#b#c#d", "#", "root#", "#web1", "-oProxyCommand=id@web1", "root@-web1", "-alice",
        "ro ot@web1", "root@web1\n", "ro\0ot@web1", "root\x1b[31m@web1", "ro\u202eot@web1", "root@../web1",
        "root@web1/x", "root@wéb1", "x" * 257, "a" * 129 + "@web1", "root@web1#١",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(MisuseError) as raised:
        parse(text)
    assert all(line.isprintable() for line in raised.value.lines())


def test_lengths_are_told_apart() -> None:
    with pytest.raises(MisuseError, match="user name is longer than"):
        parse("a" * 100 + "@" + "b" * 100 + "@" + "c" * 100)
    with pytest.raises(MisuseError, match="account is longer than"):
        parse("a" * (MAX_PART + 1) + "@web1")


@given(st.text(max_size=300))
def test_any_text_is_parsed_or_misuse(text: str) -> None:
    try:
        login = parse(text)
    except MisuseError:
        return
    assert bool(login.target) == bool(login.account)
    assert login.target or login.person
    assert (login.person + login.account + login.target).isprintable()


_NAME = st.from_regex(r"\A[a-z_][a-z0-9_.-]{0,20}\Z")


@given(person=_NAME, account=_NAME, target=_NAME, port=st.integers(1, 65535))
def test_the_documented_form_reads_back(person: str, account: str, target: str, port: int) -> None:
    assert parse(f"{person}@{account}@{target}#{port}") == Login(
        person=person, account=account, target=target, port=port
    )


TICKET, JOIN = "ticket-" + "a2" * 20, "join-" + "b3" * 20


@pytest.mark.parametrize(
    ("text", "login", "joins"),
    [
        (TICKET, Login(secret=Secret(TICKET)), False),
        (TICKET[:-1], Login(secret=Secret(TICKET[:-1])), False),
        (f"{TICKET}@root@web1", Login(secret=Secret(TICKET), account="root", target="web1"), False),
        (JOIN, Login(secret=Secret(JOIN)), True),
    ],
)
def test_a_secret_in_the_place_of_a_person(text: str, login: Login, joins: bool) -> None:
    """A log line, a traceback with locals, a list: none of them shows a token."""
    found = parse(text)
    assert found == login
    assert found.secret is not None
    assert found.secret.joins is joins
    assert found.secret.reveal() == text.partition("@")[0]
    for shown in (repr(found), str(found), f"{found.secret}", f"{found.secret!r:>80}"):
        assert text[:12] not in shown
        assert "-…" in shown


@pytest.mark.parametrize("text", ["ticket-seller", "joiner", "join-me", "ticket-AAAAAAAAAAAAAAAAAAAA"])
def test_persons_may_be_called_nearly_so(text: str) -> None:
    assert parse(text) == Login(person=text)
