"""Locks: after so many, for so long, per person and per source, and no longer."""

import pytest

from policy.login.lockouts import CODE, MAX_SUBJECTS, PERSON, SOURCE, Lockouts, network_of
from policy.model import PolicySettings

NOW = 1_800_000_000.0


@pytest.fixture
def lockouts() -> Lockouts:
    return Lockouts(PolicySettings(lock_after=5, lock_minutes=15, source_failures=20))


def test_the_fifth_failure_locks_for_a_while(lockouts):
    assert [lockouts.count(PERSON, "alice", NOW + second) for second in range(5)] == [False] * 4 + [True]
    assert lockouts.locked_person("alice", NOW + 4)
    assert lockouts.locked_person("alice", NOW + 4 + 899)
    assert not lockouts.locked_person("alice", NOW + 4 + 900)
    assert not lockouts.locked_person("bob", NOW + 4)


def test_old_failures_do_not_count(lockouts):
    for minute in range(0, 60, 4):
        assert not lockouts.count(PERSON, "alice", NOW + minute * 60)


def test_nobody_is_kept_out_for_ever(lockouts):
    """While it is locked nothing is counted: an attacker cannot make the lock longer."""
    for _ in range(5):
        lockouts.count(PERSON, "alice", NOW)
    for second in range(890):
        assert not lockouts.count(PERSON, "alice", NOW + second)
    assert not lockouts.locked_person("alice", NOW + 900)


def test_each_way_in_has_its_own_lock(lockouts):
    for _ in range(5):
        lockouts.count(CODE, "alice", NOW)
    assert lockouts.locked_code("alice", NOW)
    assert not lockouts.locked_person("alice", NOW)
    lockouts.clear(PERSON, "alice")
    assert lockouts.locked_code("alice", NOW)
    lockouts.clear(CODE, "alice")
    assert not lockouts.locked_code("alice", NOW)


def test_sources(lockouts):
    for number in range(20):
        lockouts.count(SOURCE, network_of("192.0.2.1"), NOW + number)
    assert lockouts.locked_source("192.0.2.1", NOW + 20)
    assert lockouts.locked_source("::ffff:192.0.2.1", NOW + 20), "the same address through an IPv6 socket"
    assert not lockouts.locked_source("192.0.2.2", NOW + 20)


def test_a_network_of_one_customer_is_one_source(lockouts):
    for number in range(20):
        lockouts.count(SOURCE, network_of(f"2001:db8::{number:x}"), NOW)
    assert lockouts.locked_source("2001:db8::ffff", NOW)
    assert not lockouts.locked_source("2001:db8:0:1::1", NOW)


def test_memory_is_bounded(lockouts):
    for number in range(MAX_SUBJECTS + 10):
        lockouts.count(SOURCE, str(number), NOW)
    assert not lockouts.failed(SOURCE, "0")
    assert lockouts.failed(SOURCE, str(MAX_SUBJECTS))


def test_a_restart_remembers(lockouts):
    lockouts.load([(PERSON, "alice", int((NOW + number) * 1e9)) for number in range(5)])
    assert lockouts.locked_person("alice", NOW + 10)
