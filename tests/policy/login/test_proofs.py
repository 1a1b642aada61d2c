"""What is remembered of second factors: for one person at one address, until it is reset, and no more than that."""

from datetime import UTC, datetime, timedelta

from policy.login.proofs import MAX_REMEMBERED, Proofs, allowed_age, is_fresh
from policy.rules.conditions import Factor, FactorKind, Facts
from policy.rules.ruleset import parse_rules

HOME = "192.0.2.1"


def remembering(*factors: tuple[FactorKind, float]) -> Proofs:
    proofs = Proofs()
    proofs.remember("alice", HOME, factors or [(FactorKind.CODE, 100.0)])
    return proofs


def test_what_is_remembered_is_not_here():
    """A rule that asks for a code on this very connection is not content with another's."""
    (found,) = remembering().factors("alice", HOME, [], 160.0)
    assert found == Factor(kind=FactorKind.CODE, age=timedelta(seconds=60), here=False)


def test_what_was_proven_here_is_here():
    (found,) = Proofs().factors("alice", HOME, [(FactorKind.CODE, 100.0)], 90.0)
    assert found == Factor(kind=FactorKind.CODE, age=timedelta(0), here=True)
    (found,) = Proofs().factors("alice", HOME, [(FactorKind.CODE, 100.0)], 160.0)
    assert found.age == timedelta(seconds=60), "a connection may last all day"


def test_first_factors_are_not_remembered():
    proofs = remembering((FactorKind.KEY, 100.0), (FactorKind.PASSWORD, 100.0), (FactorKind.CERTIFICATE, 100.0))
    assert proofs.factors("alice", HOME, [], 101.0) == ()
    assert remembering((FactorKind.VERIFIED_KEY, 100.0)).factors("alice", HOME, [], 101.0)


def test_another_address_has_proven_nothing():
    """A thief of a key gains nothing from the owner's code."""
    assert remembering().factors("alice", "192.0.2.2", [], 101.0) == ()
    assert remembering().factors("bob", HOME, [], 101.0) == ()


def test_a_proof_of_the_future_is_none():
    assert remembering().factors("alice", HOME, [], 99.0) == ()


def test_an_older_proof_does_not_take_the_place_of_a_newer():
    proofs = remembering()
    proofs.remember("alice", HOME, [(FactorKind.CODE, 50.0)])
    assert proofs.factors("alice", HOME, [], 100.0)[0].age == timedelta(0)


def test_what_was_reset_is_forgotten():
    proofs = remembering()
    proofs.forget("bob")
    assert proofs.factors("alice", HOME, [], 101.0)
    proofs.forget("alice")
    assert proofs.factors("alice", HOME, [], 101.0) == ()


def test_memory_is_bounded():
    proofs = remembering()
    for number in range(MAX_REMEMBERED):
        proofs.remember(f"p{number}", HOME, [(FactorKind.CODE, 100.0)])
    assert proofs.factors("alice", HOME, [], 101.0) == ()
    assert proofs.factors(f"p{MAX_REMEMBERED - 1}", HOME, [], 101.0)


# --- when a code is due -------------------------------------------------------------------------------

RULES = """
[[rule]]
name    = "production"
who     = { roles = ["engineer"] }
where   = { labels = { env = "prod" } }
as      = ["*"]
allow   = ["shell"]
require = { mfa = "15m" }

[[rule]]
name    = "files of production"
who     = { roles = ["engineer"] }
where   = { labels = { env = "prod" } }
as      = ["*"]
allow   = ["sftp"]
require = { mfa = "5m" }

[[rule]]
name    = "production, from the office"
who     = { roles = ["engineer"] }
where   = { labels = { env = "prod" } }
as      = ["root"]
allow   = ["shell"]
from    = ["10.0.0.0/8"]
require = { mfa = "always" }

[[rule]]
name   = "not the crown jewels"
effect = "forbid"
where  = { targets = ["jewels"] }

[login]
mfa = "%s"
"""


def place(target="db1", account="postgres", source="192.0.2.1", known=True, **labels):
    return Facts(
        person="alice", roles=frozenset({"engineer"}), account=account, target=target, labels=labels or {"env": "prod"},
        now=datetime(2026, 11, 25, 12, tzinfo=UTC), source=source, known=known,
    )  # fmt: skip


def allowed(login, facts):
    return allowed_age(parse_rules(RULES % login), facts)


def test_the_strictest_asks():
    assert allowed("8h", place()) == timedelta(minutes=5)
    assert allowed("1m", place()) == timedelta(minutes=1)
    assert allowed("rules", place()) == timedelta(minutes=5)
    assert allowed("8h", None) == timedelta(hours=8)
    assert allowed("rules", None) is None


def test_a_place_that_is_not_open_to_one_asks_nothing():
    """Attack: a thief of a key, who learns by being asked which targets there are."""
    for facts in (place("jewels"), place(known=False), place(env="test"), place("nowhere", known=False, env="x")):
        assert allowed("8h", facts) == timedelta(hours=8)


def test_a_rule_of_another_network_asks_nothing():
    assert allowed("8h", place(account="root")) == timedelta(minutes=5)
    assert allowed("8h", place(account="root", source="10.1.1.1")) == timedelta()


def test_always_is_always():
    assert not is_fresh(timedelta(), timedelta())
    assert not is_fresh(None, timedelta())


def test_an_old_code_is_asked_for_again():
    assert is_fresh(timedelta(minutes=15), timedelta(minutes=15))
    assert not is_fresh(timedelta(minutes=15, seconds=1), timedelta(minutes=15))
    assert not is_fresh(None, timedelta(minutes=15))
    assert is_fresh(None, None), "nobody asks"


def test_the_newest_counts():
    proofs = remembering((FactorKind.CODE, 100.0), (FactorKind.VERIFIED_KEY, 130.0))
    assert proofs.newest("alice", HOME, 160.0) == timedelta(seconds=30)
    assert proofs.newest("alice", "192.0.2.2", 160.0) is None
    assert proofs.newest("alice", HOME, 90.0) is None, "of the future"
