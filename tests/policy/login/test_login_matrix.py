"""Every order of up to five events, for every state of factors and locks: nothing but the right order logs in.

The oracle is ten lines that know the rules and nothing of the machine: a first factor of one person, then, where a code
is due, a question, and next to it a right and unused answer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from policy.login import dialogue as lg
from policy.login.dialogue import Login, Person, Phase, step
from policy.messages import Challenge, Verdict
from policy.model import Outcome
from policy.rules.conditions import FactorKind

NOW = 1_800_000_000.0
LENGTH = 5
RIGHT = "123456"


@dataclass
class World:
    """What is true of alice, and what was used up."""

    alice: Person
    source_locked: bool = False
    used: frozenset[str] = frozenset()

    def event(self, name: str) -> lg.Event:
        common = {"claim": "", "claimed": None, "now": NOW, "source_locked": self.source_locked}
        bob = Person(name="bob", has_code=True, has_password=True)
        match name:
            case "offer":
                return lg.KeyOffered(**common, owner=self.alice)
            case "key" | "verified key":
                kind = FactorKind.KEY if name == "key" else FactorKind.VERIFIED_KEY
                return lg.KeyProven(**common, owner=self.alice, valid=True, kind=kind)
            case "forged key":
                return lg.KeyProven(**common, owner=self.alice, valid=False)
            case "bob's key":
                return lg.KeyProven(**common, owner=bob, valid=True)
            case "password" | "wrong password":
                return lg.PasswordTried(**common | {"claim": "alice", "claimed": self.alice}, size=8)
            case "no token":
                return lg.TokenShown(**common, owner=None)
            case "ask":
                return lg.CodeAsked(**common)
            case _:
                answers = {"code": (RIGHT,), "wrong code": ("000000",), "empty": ("",), "blank": (" ",),
                           "two": (RIGHT, RIGHT), "none": ()}[name]  # fmt: skip
                return lg.CodeAnswered(**common, person=self.alice, answers=answers)


EVENTS = (
    "offer", "key", "verified key", "forged key", "bob's key", "password", "wrong password", "ask", "code",
    "wrong code", "empty",
)  # fmt: skip


@dataclass(frozen=True)
class Told:
    """What the oracle knows: who is proven, whether a question is open, which codes are used, who is in."""

    person: str = ""
    open: bool = False
    used: bool = False
    inside: str = ""
    over: bool = False
    failures: int = 0


def told(world: World, before: Told, name: str) -> Told:
    alice = world.alice
    if before.over or before.inside or world.source_locked:
        return replace(before, over=True)
    due = alice.has_code and not alice.fresh
    if not before.person:
        good = {"key": True, "verified key": True, "password": not alice.locked}.get(name, False)
        if good and not alice.disabled:
            inside = "alice" if name == "verified key" or not due else ""
            return replace(before, person="alice", inside=inside)
        if name == "bob's key":
            return replace(before, person="bob")
        return before
    if name == "ask":
        return replace(before, open=True)
    right = name == "code" and before.open and not before.used and before.person == "alice"
    if right and not alice.disabled and not alice.code_locked:
        return replace(before, used=True, inside="alice")
    return replace(before, open=False)


def played(world: World, login: Login, name: str, used: frozenset[str]) -> tuple[Login, frozenset[str], list[object]]:
    """One event and everything that follows from it, as the adapter does."""
    event = world.event(name)
    if isinstance(event, lg.CodeAnswered) and login.person == "bob":
        event = replace(event, person=Person(name="bob", has_code=True))
    login, effects = step(login, event)
    said: list[object] = []
    todo = list(effects)
    while todo:
        effect = todo.pop(0)
        result: lg.Event | None = None
        match effect:
            case lg.VerifyPassword():
                result = lg.PasswordChecked(ok=name == "password", now=NOW)
            case lg.BurnPassword():
                result = lg.PasswordChecked(ok=False, now=NOW)
            case lg.VerifyCode(person=person, code=code):
                ok = code == RIGHT and person == "alice" and code not in used
                used = used | {code} if ok else used
                result = lg.CodeChecked(ok=ok, now=NOW)
            case lg.Reply(message=message):
                said.append(message)
        if result is not None:
            login, more = step(login, result)
            todo += more
    return login, used, said


WORLDS = {
    "none enrolled": Person(name="alice", has_password=True),
    "enrolled": Person(name="alice", has_password=True, has_code=True),
    "shown lately": Person(name="alice", has_password=True, has_code=True, fresh=True),
    "demanded, none enrolled": Person(name="alice", has_password=True, needs_code=True),
    "demanded and enrolled": Person(name="alice", has_password=True, has_code=True, needs_code=True),
    "password locked": Person(name="alice", has_password=True, has_code=True, locked=True),
    "code locked": Person(name="alice", has_password=True, has_code=True, code_locked=True),
    "disabled": Person(name="alice", has_password=True, has_code=True, disabled=True),
}


@dataclass
class Walk:
    """All sequences of events from the beginning; each step is compared with the oracle."""

    world: World
    length: int
    steps: int = 0
    logins: int = 0
    path: list[str] = field(default_factory=list)

    def go(self, login: Login, used: frozenset[str], before: Told) -> None:
        if len(self.path) == self.length:
            return
        for name in EVENTS:
            self.path.append(name)
            after = told(self.world, before, name)
            now, more, said = played(self.world, login, name, used)
            self.steps += 1
            self.check(now, after, said)
            if now.phase is not Phase.CLOSED:
                self.go(now, more, after)
            self.path.pop()

    def check(self, login: Login, after: Told, said: list[object]) -> None:
        done = [one for one in said if isinstance(one, Verdict) and one.outcome is Outcome.DONE]
        if after.over:
            assert login.phase is Phase.CLOSED, self.path
            assert not done, self.path
            return
        assert login.done == bool(after.inside), self.path
        assert [one.person for one in done] == ([after.inside] if after.inside else []), self.path
        assert login.person == after.person, self.path
        assert len(said) == 1, f"{self.path}: one answer to each request"
        if isinstance(said[0], Challenge):
            assert after.person, f"{self.path}: asked before anything was proven"
        if login.done:
            self.logins += 1
            limited = self.world.alice.needs_code and not self.world.alice.has_code
            assert login.limited == (limited and login.factors[0][0] is not FactorKind.VERIFIED_KEY), self.path


@pytest.mark.parametrize("name", WORLDS)
def test_every_order(name: str) -> None:
    walk = Walk(World(WORLDS[name]), LENGTH if name in ("enrolled", "shown lately") else LENGTH - 1)
    walk.go(Login(), frozenset(), Told())
    assert walk.steps > 1000
    assert bool(walk.logins) == (name != "disabled")


def test_from_a_source_that_is_locked_out_nothing_is_heard() -> None:
    walk = Walk(World(WORLDS["enrolled"], source_locked=True), 3)
    walk.go(Login(), frozenset(), Told())
    assert walk.logins == 0


def sequences(length: int) -> Iterator[tuple[str, ...]]:
    if not length:
        yield ()
        return
    for rest in sequences(length - 1):
        for name in ("ask", "code", "wrong code", "empty", "blank", "two", "none", "key", "password"):
            yield (*rest, name)


def test_every_order_of_a_newer_code() -> None:
    """The same for a person who is in: a question, and next to it a right and unused answer."""
    world = World(WORLDS["enrolled"])
    inside = Login(phase=Phase.DONE, person="alice", factors=((FactorKind.KEY, NOW),))
    for names in sequences(4):
        login, used, is_open, right = lg.step_up(inside), frozenset[str](), False, False
        for name in names:
            if login.phase in (Phase.DONE, Phase.CLOSED):
                break
            right = name == "code" and is_open
            is_open = name == "ask"
            login, used, _ = played(world, login, name, used)
            assert login.done == right, names
            assert login.person == "alice", names


@pytest.mark.parametrize("change", [lambda login: login, lg.step_up])
def test_a_used_code_is_used_on_every_way(change: Callable[[Login], Login]) -> None:
    world = World(WORLDS["enrolled"])
    login = change(Login(phase=Phase.HALFWAY, person="alice", factors=((FactorKind.KEY, NOW),)))
    login, used, _ = played(world, login, "ask", frozenset({RIGHT}))
    login, used, _ = played(world, login, "code", used)
    assert not login.done
