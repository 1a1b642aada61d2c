"""One question, answered twice: what an application may use, by the database and by the rules of sharing.

The broker asks the database, in the transaction that keeps a lease; people are judged by `policy.vault.sharing`. Where
they differ, an application reads what nobody has lent it, or is refused what somebody has.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policy import store
from policy.records import Application, LeaseRecord, Share
from policy.store import Store
from policy.vault.sharing import APPLICATION, PERSON, ROLE, SecretRight, Subject, held, may

NOW = 1_800_000_000_000_000_000
USE = SecretRight.USE
NAMES = ("db/prod/main", "db/prod/main2", "db/prod", "db/pro/d", "db/x", "d_/x", "d./x", "root@web1", "db@web1")
"""Neighbours that a careless comparison takes for each other."""
SCOPES = (*NAMES, "db/", "db/prod/", "db/prod/main/", "d_/", "root@web2", "d/")
SUBJECTS = ("shop", "sho", "shop2", "sh_p", "dba")

moments = st.one_of(st.none(), st.sampled_from([NOW - 1, NOW, NOW + 1, NOW + 10**12]), st.integers(1, 2 * NOW))
rights = st.sets(st.sampled_from([*SecretRight]), min_size=1).map(lambda found: " ".join(sorted(found)))
shares = st.builds(
    lambda **values: Share(id="", made=0, made_by="olga", **values),
    scope=st.sampled_from(SCOPES), subject_kind=st.sampled_from([APPLICATION, APPLICATION, PERSON, ROLE]),
    subject=st.sampled_from(SUBJECTS), rights=rights, expires=moments,
    ended=st.one_of(st.none(), st.none(), st.integers(1, 2 * NOW)),
)  # fmt: skip


class _Undone(Exception):
    """Every example begins with an empty store."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = store.create("sqlite:///bastion.db", tmp_path_factory.mktemp("d"))
    with made.write() as t:
        for name in SUBJECTS:
            t.applications.add(Application(name=name, uid=1, rate=1, created=0, made_by="olga"))
    yield made
    made.close()


def lent(scope: str = "db/", subject: str = "shop", kind: str = APPLICATION, rights: str = "use", **more: int) -> Share:
    return Share(id="", scope=scope, subject_kind=kind, subject=subject, rights=rights, made=0, made_by="olga", **more)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(shares, max_size=8), st.integers(-1, 1))
@example([lent(expires=NOW)], 0)
@example([lent(expires=NOW + 1), lent("db/prod/main")], 0)
@example([lent(expires=NOW + 9), lent(expires=NOW + 5), lent("db/prod/", expires=NOW + 7)], 0)
@example([lent(ended=2 * NOW)], 0)
@example([lent("d_/"), lent("d./x", rights="share view")], 0)
@example([lent(kind=PERSON), lent(kind=ROLE, subject="shop"), lent(subject="sh_p")], 0)
def test_the_database_and_the_rules_agree(database: Store, drawn: list[Share], late: int) -> None:
    """For every application and every secret: whether, until when, and whether a lease of it is kept."""
    kept, now = [replace(one, id=f"s-{number}") for number, one in enumerate(drawn)], NOW + late
    with suppress(_Undone), database.write() as t:
        for one in kept:
            t.shares.add(one)
        for number, (application, name) in enumerate(product(SUBJECTS, NAMES)):
            subject = Subject(kind=APPLICATION, name=application)
            rights = held(subject, kept, "olga", name, now)
            usable, end = t.applications.usable(application, name, now)
            assert usable == may(subject, kept, "olga", name, USE, now) == (USE in rights)
            assert not usable or (math.inf if end is None else end) == rights[USE]
            lease = LeaseRecord(id=f"{number:032x}", application=application, secret=name, version=1, source="x",
                                at=now, expires=now + 1, longest=now + 1)  # fmt: skip
            assert t.applications.add_lease(lease) == usable
            assert (t.applications.lease(lease.id) is not None) == usable
        raise _Undone


def test_of_the_examples_some_are_usable_and_some_not(database: Store) -> None:
    """The property above is not true because nothing is ever lent."""
    with suppress(_Undone), database.write() as t:
        t.shares.add(replace(lent(expires=NOW + 5), id="s-1"))
        assert t.applications.usable("shop", "db/prod/main", NOW) == (True, NOW + 5)
        assert t.applications.usable("shop", "db@web1", NOW) == (False, None)
        assert t.applications.usable("shop", "db/prod/main", NOW + 5) == (False, None)
        raise _Undone
