"""Who may do what with a secret: names and shares, judged without a database."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.naming import CommandRefused
from policy.records import Share
from policy.vault.names import Scope, ScopeKind, folders_of, is_named, meant, scope, secret_name
from policy.vault.sharing import (
    EVERYTHING,
    SecretRight,
    Subject,
    check_account_share,
    given_on,
    held,
    in_force,
    may,
    parse_rights,
    parse_subject,
    passed_on,
)

USE, VIEW, SHARE = SecretRight.USE, SecretRight.VIEW, SecretRight.SHARE
ALICE = Subject(name="alice", roles=frozenset({"engineer"}))
BOB = Subject(name="bob")
NAME = "db/prod/main"


def share(
    scope: str = NAME, subject: str = "alice", rights: str = "view", kind: str = "person", **more: object
) -> Share:
    values = {"id": "s-1", "made": 0, "made_by": "olga"} | more
    return Share(scope=scope, subject_kind=kind, subject=subject, rights=rights, **values)  # type: ignore[arg-type]


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["db/x", "db/prod/main-1.key_a", "0/1", "a/b/c/d/e/f/g/h"])
def test_names_of_secrets(name: str) -> None:
    assert secret_name(name) == name
    assert is_named(name)
    assert scope(name) == Scope(ScopeKind.SECRET, name)


@pytest.mark.parametrize(
    "name",
    ["", "seed", "user-ca", "/x", "x/", "a//b", "DB/x", "a/B", "a b/c", "a/../b", "a/.b", "ä/b", "a/b\n",
     "a/b|c", "a/%",
     "x/" * 8 + "y", "a/" + "b" * 200],
)  # fmt: skip
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(CommandRefused):
        secret_name(name)


def test_an_account_is_no_name_of_a_secret() -> None:
    with pytest.raises(CommandRefused, match="checked out"):
        secret_name("root@web1")
    assert not is_named("root@web1")
    assert not is_named("root@web1/x")
    assert scope("root@web1") == Scope(ScopeKind.ACCOUNT, "root@web1")
    assert scope("DOM\\svc$@web1").place == ("DOM\\svc$", "web1")


@pytest.mark.parametrize(
    ("said", "hint"), [("DB/Prod", "db/prod"), ("db\\prod", "db/prod"), ("/db/my secret/", "db/my-secret")]
)
def test_what_was_meant(said: str, hint: str) -> None:
    with pytest.raises(CommandRefused, match=f"did you mean `{hint}`|is a folder"):
        secret_name(said)


def test_only_names_that_one_may_know_are_meant() -> None:
    assert meant("db/prod/mian", [NAME]) == f"; did you mean `{NAME}`"
    assert meant("db/prod/mian", []) == ""


def test_folders() -> None:
    assert folders_of(NAME) == ["db/", "db/prod/"]
    assert folders_of("db/prod/") == ["db/", "db/prod/"]
    assert scope("db/prod/").covers(NAME)
    assert not scope("db/pro/").covers(NAME)
    assert not scope(NAME).covers(f"{NAME}2")


# --- rights -------------------------------------------------------------------------------------------------------


def test_the_owner_has_everything_and_others_nothing() -> None:
    assert held(ALICE, [], "alice", NAME, 1) == EVERYTHING
    assert held(BOB, [], "alice", NAME, 1) == {}


def test_nobody_owns_what_belongs_to_nobody() -> None:
    assert held(Subject(name=""), [], "", NAME, 1) == {}


def test_an_application_is_not_the_person_of_its_name() -> None:
    assert held(Subject(kind="application", name="alice"), [share()], "alice", NAME, 1) == {}
    assert held(ALICE, [share(kind="application")], "olga", NAME, 1) == {}
    assert not may(Subject(kind="application", name="x", roles=frozenset({"engineer"})),
                   [share(subject="engineer", kind="role")], "olga", NAME, VIEW, 1)  # fmt: skip


@pytest.mark.parametrize(
    "one",
    [share(), share("db/"), share("db/prod/"), share(subject="engineer", kind="role"),
     share("db/", "engineer", kind="role", expires=2)],
)  # fmt: skip
def test_a_share_gives_what_it_says_and_no_more(one: Share) -> None:
    assert may(ALICE, [one], "olga", NAME, VIEW, 1)
    for right in (USE, SHARE):
        assert not may(ALICE, [one], "olga", NAME, right, 1)
    assert not may(BOB, [one], "olga", NAME, VIEW, 1)
    assert not may(ALICE, [one], "olga", "other/x", VIEW, 1)


@pytest.mark.parametrize(
    "one", [share(expires=1), share(ended=0), share(expires=0), share(ended=5, expires=9), share("db/prod/main2")]
)
def test_what_is_over_or_of_something_else_gives_nothing(one: Share) -> None:
    assert not may(ALICE, [one], "olga", NAME, VIEW, 1)


def test_shares_add_up() -> None:
    both = [share(rights="use", expires=5), share("db/", rights="view share"), share(rights="view", expires=2)]
    assert held(ALICE, both, "olga", NAME, 1) == {USE: 5, VIEW: math.inf, SHARE: math.inf}


def test_a_folder_covers_what_is_put_there_later_and_itself() -> None:
    assert may(ALICE, [share("db/")], "olga", "db/later/thing", VIEW, 1)
    assert may(ALICE, [share("db/")], "", "db/prod/", VIEW, 1)
    assert not may(ALICE, [share("db/prod/")], "", "db/", VIEW, 1)


# --- giving on ----------------------------------------------------------------------------------------------------


def test_who_may_share_gives_what_they_have() -> None:
    have = {VIEW: math.inf, SHARE: 100.0}
    assert given_on(have, {VIEW}, 50, 1) == 50
    assert given_on(have, {VIEW}, None, 1) == 100
    assert given_on(EVERYTHING, {VIEW, USE, SHARE}, None, 1) is None


@pytest.mark.parametrize(
    ("have", "wanted", "until"),
    [
        ({}, {VIEW}, None),
        ({VIEW: math.inf}, {VIEW}, None),
        ({SHARE: math.inf}, {VIEW}, None),
        ({USE: math.inf, SHARE: math.inf}, {USE, VIEW}, None),
        ({VIEW: math.inf, SHARE: 100}, {VIEW}, 101),
        ({VIEW: 100, SHARE: math.inf}, {VIEW}, 101),
        ({VIEW: 1, SHARE: math.inf}, {VIEW}, None),
    ],
)
def test_nobody_gives_more_or_longer_than_they_have(have: dict[SecretRight, float], wanted: set[SecretRight],
                                                    until: int | None) -> None:  # fmt: skip
    with pytest.raises(CommandRefused):
        given_on(have, wanted, until, 1)


@pytest.mark.parametrize(("kind", "rights"), [("person", {USE}), ("role", {USE}), ("application", {USE, VIEW}),
                                              ("application", {VIEW}), ("application", {USE, SHARE})])  # fmt: skip
def test_what_opens_an_account_goes_to_applications_alone(kind: str, rights: set[SecretRight]) -> None:
    check_account_share("application", {USE})
    with pytest.raises(CommandRefused):
        check_account_share(kind, rights)


def test_words() -> None:
    assert parse_rights(["view", "use"]) == {USE, VIEW}
    for wrong in ([], ["read"], ["View"]):
        with pytest.raises(CommandRefused):
            parse_rights(wrong)
    assert parse_subject("alice") == ("person", "alice")
    assert parse_subject("role:dba") == ("role", "dba")
    for text in ("group:x", "role:", ":x"):
        with pytest.raises(CommandRefused):
            parse_subject(text)


# --- taking back --------------------------------------------------------------------------------------------------

ROLES = {"alice": frozenset({"engineer"}), "bob": frozenset[str](), "carl": frozenset[str](), "olga": frozenset[str]()}
FIRST = share(rights="view share", id="s-a")
SECOND = share(subject="bob", rights="view share", id="s-b", made_by="alice")
THIRD = share(subject="carl", rights="view", id="s-c", made_by="bob")


def test_what_was_passed_on_goes_too() -> None:
    assert passed_on(FIRST, [FIRST, SECOND, THIRD], {NAME: "olga"}, ROLES, 1) == [SECOND, THIRD]


def test_what_its_giver_could_still_give_stays() -> None:
    again = share("db/", "engineer", "view share", kind="role", id="s-d")
    assert passed_on(FIRST, [FIRST, again, SECOND, THIRD], {NAME: "olga"}, ROLES, 1) == []
    assert passed_on(FIRST, [FIRST, SECOND], {NAME: "alice"}, ROLES, 1) == []
    less = replace(again, rights="share")
    assert passed_on(FIRST, [FIRST, less, SECOND, THIRD], {NAME: "olga"}, ROLES, 1) == [SECOND, THIRD]


def test_two_who_share_with_each_other_hold_each_other_up_not() -> None:
    """Attack: alice and bob each pass it on to the other, so that each seems to have it from somebody."""
    back = share(rights="view share", id="s-e", made_by="bob")
    gone = passed_on(FIRST, [FIRST, SECOND, back], {NAME: "olga"}, ROLES, 1)
    assert {one.id for one in gone} == {"s-b", "s-e"}


def test_of_a_folder_what_lies_in_it() -> None:
    folder = share("db/", rights="view share", id="s-f")
    assert passed_on(folder, [folder, SECOND], {NAME: "olga"}, ROLES, 1) == [SECOND]
    other = replace(SECOND, scope="web/x")
    assert passed_on(folder, [folder, other], {}, ROLES, 1) == []


def test_what_somebody_gave_who_has_left_stays() -> None:
    assert passed_on(FIRST, [FIRST, SECOND], {NAME: "olga"}, {"bob": frozenset()}, 1) == []


names = st.sampled_from(["alice", "bob", "carl"])
scopes = st.sampled_from([NAME, "db/", "db/prod/", "web/x"])
rights_words = st.sets(st.sampled_from(list(SecretRight)), min_size=1).map(lambda found: " ".join(sorted(found)))
shares = st.builds(share, scopes, names, rights_words, made_by=names, id=st.uuids().map(str),
                   expires=st.none() | st.integers(0, 4), ended=st.none() | st.integers(0, 4))  # fmt: skip


@given(st.lists(shares, max_size=6), scopes, names, st.sampled_from(list(SecretRight)), st.integers(0, 4))
@settings(deadline=None)
def test_a_right_comes_from_the_owner_or_from_a_share_that_says_so(
    lent: list[Share], name: str, who: str, right: SecretRight, now: int
) -> None:
    inside = lambda one: name == one.scope or (one.scope.endswith("/") and name.startswith(one.scope))  # noqa: E731
    by_hand = any(
        one.ended is None and (one.expires is None or now < one.expires) and one.subject == who
        and right in one.rights.split() and inside(one)
        for one in lent
    )  # fmt: skip
    assert may(Subject(name=who), lent, "olga", name, right, now) == by_hand


@given(st.lists(shares, min_size=1, max_size=6, unique_by=lambda one: one.id))
@settings(deadline=None)
def test_what_goes_could_not_be_given_any_more_or_only_by_what_goes(lent: list[Share]) -> None:
    owners = dict.fromkeys((NAME, "web/x"), "olga")
    gone = passed_on(lent[0], lent, owners, ROLES, 2)
    assert lent[0] not in gone
    assert all(in_force(one, 2) for one in gone)
    left = [one for one in lent[1:] if one not in gone and in_force(one, 2)]
    for one in left:  # what stays goes with nothing that went
        assert one not in passed_on(lent[0], [lent[0], *left], owners, ROLES, 2)
