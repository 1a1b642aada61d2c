"""The register of what is sealed: any other set of rows than the one that was written is noticed."""

from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.vault.register import Broken, Change, Entry, Register, entry

KEY = b"k" * 32
STATES = ("pending", "current", "previous", "retired")


def sealed(record: str, version: int, state: str = "current", table: str = "secret") -> Entry:
    return entry(table, record, version, state, f"{record} {version}".encode())


rows = st.builds(
    entry, st.sampled_from(["secret", "key"]), st.sampled_from([f"id{n} name{n}" for n in range(8)]), st.integers(0, 5),
    st.sampled_from(STATES), st.binary(max_size=8),
)  # fmt: skip
sets = st.lists(rows, unique_by=lambda one: one.place, max_size=12)


def mac(entries: list[Entry], seq: int = 7, key: bytes = KEY) -> bytes:
    return Register(key, entries).mac(seq)


@given(sets, sets)
def test_another_set_is_noticed(before, after):
    """Put back, swapped, taken away, added, given another state: in any combination."""
    same = sorted(map(repr, before)) == sorted(map(repr, after))
    assert (mac(before) == mac(after)) == same


@given(sets, st.randoms())
def test_the_order_of_rows_does_not_matter(entries, chance):
    mixed = list(entries)
    chance.shuffle(mixed)
    assert mac(mixed) == mac(entries)


@given(sets.filter(bool), st.data())
def test_one_thing_changed(entries, data):
    at = data.draw(st.integers(0, len(entries) - 1))
    one = entries[at]
    others = [
        replace(one, state=next(state for state in STATES if state != one.state)),
        replace(one, version=99),
        replace(one, record="elsewhere"),
        replace(one, digest=bytes(32)),
        replace(one, table="other"),
    ]
    for other in others:
        assert mac([*entries[:at], other, *entries[at + 1 :]]) != mac(entries)
    assert mac(entries[:at] + entries[at + 1 :]) != mac(entries)


@given(st.lists(sets, min_size=3, max_size=5))
def test_what_was_seen_in_the_trail_cannot_be_combined(seen):
    """The XOR of sums would be the sum of another set: so no sum is shown, but the MAC of one."""
    macs = [int.from_bytes(mac(entries)) for entries in seen]
    union: set[Entry] = reduce(lambda a, b: a ^ b, (set(entries) for entries in seen), set())
    if len({one.place for one in union}) == len(union) and sorted(map(repr, union)) not in [
        sorted(map(repr, entries)) for entries in seen
    ]:
        assert reduce(lambda a, b: a ^ b, macs).to_bytes(32) != mac(list(union))


@given(sets, st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_value_holds_for_one_row_of_the_trail(entries, seq, other):
    """Attack: the register of an old database, said again in a row that is added to the trail."""
    assert (mac(entries, seq) == mac(entries, other)) == (seq == other)
    assert mac(entries, seq) != mac(entries, seq, b"x" * 32), "and with one key"


def test_fields_have_borders():
    first, second = entry("secret", "a", 11, "current", b"x"), entry("secret", "a1", 1, "current", b"x")
    assert first.encoded() != second.encoded()
    assert mac([first]) != mac([second])


@given(sets, st.lists(rows, max_size=6))
def test_changes_lead_where_the_set_leads(entries, wanted):
    register, now = Register(KEY, entries), {one.place: one for one in entries}
    for one in wanted:
        register.apply([Change(now.get(one.place), one)])
        now[one.place] = one
    assert register.mac(1) == mac(list(now.values()), 1)
    assert all(register.knows(one) for one in now.values())
    for one in list(now.values()):
        register.apply([Change(one, None)])
    assert register.mac(1) == mac([], 1)


@given(sets, rows, rows)
def test_all_changes_or_none(entries, first, second):
    register, before = Register(KEY, entries), mac(entries)
    known = {one.place: one for one in entries}
    strange = replace(second, digest=bytes(32))
    changes = [Change(known.get(first.place), first), Change(strange, None)]
    if strange != first and known.get(strange.place) != strange:
        with pytest.raises(Broken):
            register.apply(changes)
        with pytest.raises(Broken):
            register.check(changes)
        assert register.mac(7) == before


def test_a_check_changes_nothing():
    one, two = sealed("a", 1), sealed("a", 2)
    register = Register(KEY, [one])
    before = register.mac(1)
    register.check([Change(None, two), Change(two, None), Change(one, replace(one, state="retired"))])
    assert register.mac(1) == before
    assert not register.knows(two)


def test_what_changes_is_what_was_written():
    one = sealed("a", 1)
    register = Register(KEY, [one])
    with pytest.raises(Broken, match="not what was written last"):
        register.apply([Change(replace(one, digest=bytes(32)), None)])
    with pytest.raises(Broken, match="taken away"):
        register.apply([Change(None, replace(one, state="retired"))])
    with pytest.raises(Broken, match="twice"):
        Register(KEY, [one, one])


@given(sets, sets)
def test_what_differs_is_said(written, found):
    said = Register(KEY, written).differences({"secret"}, [one for one in found if one.table == "secret"])
    before, after = ({one.place: one for one in some if one.table == "secret"} for some in (written, found))
    assert sum("was added" in one for one in said) == len(after.keys() - before.keys())
    assert sum("was taken away" in one for one in said) == len(before.keys() - after.keys())
    assert sum("was changed" in one for one in said) == sum(before[at] != after[at] for at in before.keys() & after)
    assert not Register(KEY, written).differences({"secret", "key"}, written)


def test_a_row_that_stands_twice_is_added():
    one = sealed("a", 1)
    assert Register(KEY, [one]).differences({"secret"}, [one, one]) == ["`secret a` was added"]


def test_a_record_that_is_there():
    register = Register(KEY, [sealed("id1 root@web1", 1), sealed("1", 0, table="key")])
    assert register.holds("secret", "id1")
    assert not register.holds("secret", "id")
    assert not register.holds("secret", "1")
