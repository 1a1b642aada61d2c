"""How often keys may be exchanged: storms end, and what people configure never does."""

import itertools

import pytest

from bastion.ssh.renewals import BURST, Renewals

MIB = 1 << 20


def exchanges(renewals: Renewals, *, moved: int = 0, every: float = 0.0, began: float = 0.0, most: int = 10_000) -> int:
    """How many in a row, each after so many bytes and seconds."""
    steps = itertools.count(1)
    return sum(1 for step in itertools.islice(itertools.takewhile(
        lambda step: renewals.may_begin(moved, began + step * every), steps), most) if step)  # fmt: skip


def test_a_storm_ends() -> None:
    assert exchanges(Renewals(0.0), every=0.007) == BURST
    assert exchanges(Renewals(0.0), moved=5_000, every=0.007) < 2 * BURST, "its own packets do not pay for it"


def test_a_storm_cannot_be_saved_up_for() -> None:
    renewals = Renewals(0.0)
    assert renewals.may_begin(1 << 40, 86_400.0)
    assert exchanges(renewals, began=86_400.0) == BURST - 1


@pytest.mark.parametrize(
    ("moved", "every"), [(MIB, 0.002), (MIB, 3600.0), (0, 5.0), (100, 60.0), (600_000, 0.0)],
    ids=["1M, as fast as can be", "1M, slowly", "none 5s", "1h for nothing", "a little early"],
)  # fmt: skip
def test_what_people_configure_goes_on_for_ever(moved: int, every: float) -> None:
    assert exchanges(Renewals(0.0), moved=moved, every=every) == 10_000
