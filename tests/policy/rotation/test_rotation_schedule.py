"""`[[rotation]]`, new passwords, and what is due when: pure, so by example and by property."""

import hashlib
import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.records import Account, RotationRow, Target
from policy.rotation.generate import CLASSES, PasswordPolicy, password
from policy.rotation.plan import State
from policy.rotation.schedule import (
    LONGEST_WAIT,
    SECOND,
    SPREAD,
    Place,
    due_at,
    entry_for,
    next_try,
    runnable,
    unfit,
    wake_at,
)
from policy.rotation.settings import After, Entry
from policy.rules.ruleset import BadRules, parse_rules

DAY = 24 * 3600
NOW = 1_800_000_000 * SECOND


# --- settings ---------------------------------------------------------------------------------------

GOOD = """
[[rotation]]
name     = "linux servers"
where    = { labels = { os = "linux" } }
as       = ["*"]
via      = "root"
every    = "30d"
after    = ["use", "checkout"]
at_once  = 4
password = { length = 32, classes = ["lower", "digit"], avoid = "" }
"""


def test_an_entry_of_policy_toml() -> None:
    (entry,) = parse_rules(GOOD).rotation
    assert entry == Entry(
        name="linux servers", labels=(("os", frozenset({"linux"})),), accounts=frozenset({"*"}), via="root",
        every=30 * DAY, after=frozenset(After), at_once=4,
        password=PasswordPolicy(length=32, classes=("lower", "digit"), avoid=""),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('via = "*"', "via: want the name of one account"),
        ('driver = "telnet"', "driver: got `telnet`, want one of"),
        ('every = "5m"', "every: want at least `1h`"),
        ('every = "400d"', "every: got `400d`"),
        ('after = ["lunch"]', "after: got `lunch`"),
        ("at_once = 0", "at_once: got `0`, want 1 to 64"),
        ("password = { length = 11 }", "password.length: got `11`, want 12 to 128"),
        ('password = { length = 12, classes = ["digit"] }', "password.length: want a longer one"),
        ('password = { classes = ["digit"], avoid = "0123456789" }', "password.avoid: leaves nothing"),
        ('password = { symbols = ":" }', "password.symbols: want ASCII characters"),
        ('password = { classes = ["kanji"] }', "password.classes: got `kanji`"),
        ('pasword = { length = 30 }', "pasword: unknown key; did you mean `password`"),
    ],
)  # fmt: skip
def test_each_problem_with_its_line(line: str, problem: str) -> None:
    with pytest.raises(BadRules) as raised:
        parse_rules(f'[[rotation]]\nname = "x"\nwhere = {{ targets = ["*"] }}\nas = ["*"]\n{line}\n')
    assert f'policy.toml:5: rule "x": {problem}' in str(raised.value)


def test_what_must_be_said() -> None:
    with pytest.raises(BadRules) as raised:
        parse_rules('[[rotation]]\nname = "x"\n[[rotation]]\nname = "x"\nwhere = {}\nas = ["*"]\n')
    text = str(raised.value)
    for problem in ("where: missing", "as: missing", "name: stands already on line 1", "where: empty"):
        assert problem in text


# --- passwords --------------------------------------------------------------------------------------


def stream(seed: int):
    """Random bytes that are the same each time."""
    numbers = itertools.count()

    def random(count: int) -> bytes:
        return hashlib.sha256(f"{seed} {next(numbers)}".encode()).digest()[:count]

    return random


@given(st.integers(0, 10**6), st.integers(12, 64), st.sets(st.sampled_from(sorted(CLASSES)), min_size=1))
def test_a_password_is_as_its_policy_says(seed: int, length: int, classes: set[str]) -> None:
    policy = PasswordPolicy(length=length, classes=tuple(sorted(classes)))
    made = password(policy, stream(seed))
    assert len(made) == length
    assert set(made) <= set(policy.everything)
    assert not set(made) & set(policy.avoid)
    assert all(set(made) & set(policy.alphabet(name)) for name in classes)


def test_no_letter_comes_more_often_than_another() -> None:
    """A remainder of 256 would give the first letters of the alphabet a fifth more."""
    policy = PasswordPolicy(length=64, classes=("lower", "upper", "digit"), avoid="")
    random = stream(1)
    text = "".join(password(policy, random) for _ in range(400))
    often = [text.count(letter) for letter in string.ascii_letters + string.digits]
    mean = len(text) / 62
    assert sum((one - mean) ** 2 / mean for one in often) < 105  # chi square with 61 degrees, one in 2,500


def test_symbols_are_none_that_a_hand_refuses() -> None:
    assert not set(CLASSES["symbol"]) & set(" :'\"\\`$*;&|<>(){}[]")


# --- which, when ------------------------------------------------------------------------------------


def place(name: str = "ann", target: str = "web1", kind: str = "password", **labels: str) -> Place:
    return Place(
        account=Account(target=target, name=name, kind=kind, secret="s"),
        target=Target(name=target, address="192.0.2.1", port=22, protocol="ssh", labels=labels),
    )


EVERY = Entry(name="all", targets=("*",), accounts=frozenset({"*"}), every=30.0 * DAY)


def test_the_first_entry_that_fits_counts() -> None:
    entries = [
        Entry(name="label", labels=(("os", frozenset({"linux"})),), accounts=frozenset({"root"})),
        Entry(name="name", targets=("web?",), accounts=frozenset({"*"})),
    ]
    assert entry_for(entries, place("root", os="linux")).name == "label"
    assert entry_for(entries, place("ann", os="linux")).name == "name"
    assert entry_for(entries, place("root", os="bsd")).name == "name"
    assert entry_for(entries, place("ann", "db1")) is None
    assert entry_for(entries, place("ann", kind="user-ca")) is None, "nothing is there to change"


def test_who_changes_others_must_be_there() -> None:
    by_root = Entry(name="x", targets=("*",), accounts=frozenset({"*"}), via="root")
    ann, root = place().account, place("root").account
    assert "no account `root@web1`" in unfit(by_root, place(), [ann])
    assert unfit(by_root, place(), [ann, root]) == ""
    assert unfit(by_root, place("root"), [root]) == "", "it changes itself"


@given(st.text(min_size=1, max_size=20))
def test_due_before_its_time_and_spread(name: str) -> None:
    at = due_at(EVERY, place(name), NOW)
    assert at is not None
    assert 30 * DAY * (1 - SPREAD) <= (at - NOW) / SECOND <= 30 * DAY


def test_a_thousand_of_one_hour_are_not_due_in_one_hour() -> None:
    days = [(due_at(EVERY, place(f"a{number}"), NOW) - NOW) // (DAY * SECOND) for number in range(1000)]
    assert max(days.count(day) for day in set(days)) < 300
    assert len(set(days)) >= 6


def row(name: str, target: str = "web1", state: State = State.WANTED, **more) -> RotationRow:
    return RotationRow(
        id=f"{target}-{name}", account=name, target=target, state=state,
        **{"began": NOW - SECOND, "changed": NOW - SECOND, **more},
    )  # fmt: skip


def started(rows: list[RotationRow], entries: dict | None = None, *, busy=(), running=None, pressed=()) -> list[str]:
    known = {one.place: EVERY for one in rows} if entries is None else entries
    found = runnable(rows, known, NOW, busy=busy, running=running or {}, pressed=frozenset(pressed))
    return [one.id for one in found]


def test_one_at_a_time_on_each_target_and_so_many_of_an_entry() -> None:
    assert started([row("a"), row("b"), row("c", "web2")]) == ["web1-a", "web2-c"]
    assert started([row("a"), row("c", "web2")], busy=["web1"]) == ["web2-c"]
    many = [row("a", f"t{number:02}") for number in range(20)]
    assert len(started(many)) == EVERY.at_once
    assert len(started(many, running={"all": 5})) == EVERY.at_once - 5


def test_what_a_crash_left_is_first() -> None:
    assert started([row("a", began=NOW - 9 * SECOND), row("b", state=State.CHANGING)]) == ["web1-b"]


def test_never_both_of_a_pair_are_in_doubt() -> None:
    """Attack on ourselves: root's password is changed and in doubt, and so is that of whom root would have mended."""
    by_root = Entry(name="x", targets=("*",), accounts=frozenset({"*"}), via="root")
    entries = {("web1", "ann"): by_root, ("web1", "root"): by_root}
    both = [row("root", began=NOW - 9 * SECOND), row("ann")]
    assert started(both, entries) == ["web1-ann"], "who changes others waits for them"
    assert started([row("root"), row("ann", state=State.BOTH_KEPT, attempts=1, changed=NOW)], entries) == []
    assert started([row("root", state=State.BOTH_KEPT, attempts=1, changed=NOW), row("ann")], entries) == []
    failed = row("ann", attempts=3, changed=NOW)
    assert started([row("root"), failed], entries) == ["web1-root"], "but not for ever"


def test_tries_are_rarer_and_rarer_and_never_end() -> None:
    waits = [(next_try(row("a", attempts=tries)) - (NOW - SECOND)) / SECOND for tries in range(1, 30)]
    assert waits[:4] == [60, 240, 960, 3840]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT
    waiting = row("a", attempts=1)
    assert started([waiting]) == []
    assert started([waiting], pressed=[waiting.id]) == [waiting.id]
    assert wake_at([waiting], NOW) == NOW + 59 * SECOND
    assert wake_at([], NOW) is None
