"""What is remembered of second factors: for one person at one address, until it is reset, and no more than that."""

from datetime import timedelta

from policy.conditions import Factor, FactorKind
from policy.proofs import MAX_REMEMBERED, Proofs

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
