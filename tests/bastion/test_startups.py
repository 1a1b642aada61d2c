"""Startups: who may begin to log in."""

import pytest

from bastion.settings import SshSettings
from bastion.startups import LONGEST, MAX_SOURCES, Outcome, Refusal, Startups, source_of


def startups(dice: float = 0.999, **settings: object) -> Startups:
    return Startups(SshSettings(**{"penalty_exempt": [], **settings}), lambda: dice)  # type: ignore[arg-type]


def other(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def test_one_source_cannot_take_the_place_of_others() -> None:
    limit = startups()
    assert [limit.admit("192.0.2.1", 0) for _ in range(10)] == [None] * 10
    assert limit.admit("192.0.2.1", 0) is Refusal.SOURCE
    assert limit.admit("192.0.2.2", 0) is None
    limit.left("192.0.2.1", 1, Outcome.LOGGED_IN)
    assert limit.admit("192.0.2.1", 1) is None


def test_near_the_limit_chance_decides_and_at_the_limit_all_are_refused() -> None:
    limit = startups(0.5, startups_begin=10, startups_rate=30, startups=20)
    for number in range(12):
        assert limit.admit(other(number), 0) is None  # 30 percent at 10, 44 at 12
    assert limit.pending == 12
    for number in range(12, 14):
        limit.admit(other(number), 0)
    assert limit.admit(other(99), 0) is Refusal.CHANCE
    limit = startups(startups_begin=10, startups_rate=30, startups=20)
    refusals = [limit.admit(other(number), 0) for number in range(25)]
    assert refusals == [None] * 20 + [Refusal.FULL] * 5
    assert limit.pending == 20


def test_failures_add_up_and_decay() -> None:
    limit = startups()
    for now in range(3):
        assert limit.admit("192.0.2.1", now) is None
        limit.left("192.0.2.1", now, Outcome.AUTH_FAILED)
    assert limit.admit("192.0.2.1", 0) is None  # 15 seconds are no more than the minimum
    limit.left("192.0.2.1", 0, Outcome.GRACE_EXCEEDED)
    assert limit.admit("192.0.2.1", 2) is Refusal.PENALTY
    assert limit.admit("192.0.2.2", 2) is None
    assert limit.admit("192.0.2.1", 10) is None


def test_a_penalty_has_an_end() -> None:
    limit = startups()
    for _ in range(1000):
        limit.admit("192.0.2.1", 0)
        limit._pending["192.0.2.1"] = 1
        limit.left("192.0.2.1", 0, Outcome.PROTOCOL_ERROR)
    assert limit.admit("192.0.2.1", 0) is Refusal.PENALTY
    assert limit.admit("192.0.2.1", LONGEST) is None


def test_logins_cost_nothing_and_exempt_sources_pay_nothing() -> None:
    limit = startups(penalty_exempt=["127.0.0.0/8", "2001:db8::/32"])
    for address, outcome in (
        ("192.0.2.1", Outcome.LOGGED_IN),
        ("127.0.0.9", Outcome.PROTOCOL_ERROR),
        ("::ffff:127.0.0.9", Outcome.PROTOCOL_ERROR),
        ("2001:db8::1", Outcome.AUTH_FAILED),
    ):
        for _ in range(50):
            assert limit.admit(address, 0) is None
            limit.left(address, 0, outcome)


def test_penalties_can_be_switched_off() -> None:
    limit = startups(penalties=False)
    for _ in range(50):
        assert limit.admit("192.0.2.1", 0) is None
        limit.left("192.0.2.1", 0, Outcome.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "other"),
        ("/run/socket", "other"),
    ],
)
def test_sources(address: str, source: str) -> None:
    assert source_of(address) == source


def test_a_sweep_does_not_wash_out_who_really_attacks() -> None:
    limit = startups(startups=10**6, startups_begin=10**6)
    for now in range(10):
        limit.admit("192.0.2.1", now)
        limit.left("192.0.2.1", now, Outcome.PROTOCOL_ERROR)
    for number in range(MAX_SOURCES + 5000):
        limit.admit(other(number), 9)
        limit.left(other(number), 9, Outcome.NO_ATTEMPT)
    assert len(limit._until) <= MAX_SOURCES
    assert limit.admit("192.0.2.1", 9) is Refusal.PENALTY


def test_penalties_that_are_over_are_forgotten() -> None:
    limit = startups()
    for number in range(100):
        limit.admit(other(number), 0)
        limit.left(other(number), 0, Outcome.NO_ATTEMPT)
    limit.admit("192.0.2.1", 100)
    limit.left("192.0.2.1", 100, Outcome.AUTH_FAILED)
    assert list(limit._until) == ["192.0.2.1"]
    assert not limit._pending
