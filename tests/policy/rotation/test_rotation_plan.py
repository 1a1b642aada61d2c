"""The plan against every target there may be: what works is never lost, whatever is said, and whenever we die."""

import itertools
from dataclasses import dataclass, field, replace

import pytest

from policy.rotation import plan
from policy.rotation.plan import Changed, Effect, Outcome, Removed, Rotation, State, Tried

OLD, NEW, SPARE = 1, 2, 0
SAID = list(Outcome)


@dataclass
class World:
    """A vault with a journal, and a target. What a crash leaves of us is the vault and the journal."""

    additive: bool
    opens: set[int]  # versions that open the account
    vault: dict[int, str] = field(default_factory=lambda: {OLD: "current"})
    journal: Rotation | None = None
    spares: tuple[int, ...] = ()

    @property
    def current(self) -> int:
        return next(version for version, state in self.vault.items() if state == "current")

    def check(self) -> None:
        """per invariant of policy.rotation.plan."""
        assert self.opens & self.vault.keys(), "no version of the vault opens the account any more"
        if self.journal is None or self.journal.state in plan.ENDED:
            return
        looked_at = {self.journal.pending, self.journal.previous, *self.journal.spares}
        assert self.opens & looked_at, "the journal does not say where to look"

    # what policy.rotation.journal does in one transaction each

    def begin(self) -> tuple[Rotation, Effect]:
        self.vault[NEW] = "pending"
        self.journal, effect = plan.begin(pending=NEW, previous=OLD, additive=self.additive)
        return self.journal, effect

    def keep(self, was: Rotation, one: Rotation) -> None:
        proven = 0
        if was.state is State.VERIFYING and one.state in (State.COMMITTED, State.CLEANING):
            proven = one.pending
        if was.state is State.VERIFYING and one.state is State.ROLLED_BACK and one.trying != one.previous:
            proven = one.trying
        if proven:
            assert proven in self.opens, "what comes into force was proven by a login"
            self.vault = dict.fromkeys(self.vault, "previous") | {proven: "current"}
        self.journal = one


# What the target does with an order, and what it says of it. `late`: it does it, after we have looked.
DEEDS = [(does, said) for does in (True, False) for said in SAID if not (does and said is Outcome.UNREACHABLE)]
LOGINS = [None, Outcome.UNREACHABLE, Outcome.UNKNOWN]  # None: the truth


def run(world: World, script: list[object], *, die_at: int) -> int:
    """One run of policyd until it stops or dies; how many steps there were. `script` says what the target does."""
    step = itertools.count()

    def dies() -> bool:
        world.check()
        return next(step) == die_at

    if world.journal is None or world.journal.state in plan.ENDED:
        one, effect = world.begin()
    else:
        one, effect = plan.resume(world.journal)
    deeds = iter([line for line in script if isinstance(line, tuple)])
    logins = iter([line for line in script if not isinstance(line, tuple)])
    while effect is not Effect.STOP:
        if dies():
            return die_at
        event: plan.Event
        if effect is Effect.TRY:
            truth = Outcome.DONE if one.trying in world.opens else Outcome.REFUSED
            event = Tried(next(logins, None) or truth)  # type: ignore[arg-type]
        else:
            does, said = next(deeds, (True, Outcome.DONE))  # type: ignore[misc]
            if does and effect is Effect.CHANGE:
                world.opens = world.opens | {NEW} if world.additive else {NEW}
            if does and effect is Effect.REMOVE:
                world.opens = world.opens - {OLD}
            event = Changed(said) if effect is Effect.CHANGE else Removed(said)
        if dies():
            return die_at
        was = one
        one, effect = plan.step(one, event)
        world.keep(was, one)
        world.check()
    return next(step)


def scripts(additive: bool) -> list[list[object]]:
    """Everything that can be said in one run: an order, two logins, and where both are had, a removal and one more."""
    first = [[deed, *logins] for deed in DEEDS for logins in itertools.product(LOGINS, repeat=2)]
    if not additive:
        return first
    return [
        [deed, removal, *logins]
        for deed in DEEDS
        for removal in DEEDS
        for logins in itertools.product(LOGINS, repeat=3)
    ]


@pytest.mark.parametrize("additive", [False, True])
def test_what_works_is_never_lost_and_the_next_run_finds_it(additive: bool) -> None:
    """Every deed and lie, every login that says nothing, a death before and after every step; then a target that is
    well. Whatever happened, what is in force at the end opens the account."""
    worlds = 0
    for script in scripts(additive):
        for die_at in range(12):
            world = World(additive=additive, opens={OLD})
            steps = run(world, script, die_at=die_at)
            world.check()
            for _ in range(3):  # restarted, and the target is well: at most one more to finish, and one to clean
                if world.journal is not None and world.journal.state in plan.ENDED:
                    break
                run(world, [], die_at=-1)
            assert world.journal is not None
            assert world.journal.state in plan.ENDED, (script, die_at, world.journal)
            assert world.current in world.opens, (script, die_at, world)
            assert world.opens == {world.current}, "nothing else is left on the target"
            if world.journal.state is State.COMMITTED:
                assert world.current == NEW
                assert OLD not in world.opens, "the old one is gone once it is said that it is"
            worlds += 1
            if steps < die_at:
                break
    assert worlds > 200


@pytest.mark.parametrize(
    ("said", "does", "end"),
    [
        (Outcome.DONE, True, State.COMMITTED),
        (Outcome.DONE, False, State.ROLLED_BACK),  # a lie
        (Outcome.REFUSED, True, State.COMMITTED),  # another
        (Outcome.REFUSED, False, State.ROLLED_BACK),
        (Outcome.UNKNOWN, True, State.COMMITTED),  # the line broke afterwards
        (Outcome.UNKNOWN, False, State.ROLLED_BACK),  # and before
        (Outcome.UNREACHABLE, False, State.ROLLED_BACK),
    ],
)
def test_a_login_decides_and_not_what_the_target_says(said: Outcome, does: bool, end: State) -> None:
    world = World(additive=False, opens={OLD})
    run(world, [(does, said)], die_at=-1)
    assert world.journal is not None
    assert world.journal.state is end


def test_nothing_is_taken_for_a_proof_but_a_login_that_opens() -> None:
    """The new one is refused and the old one's login says nothing: both are kept, and the doubt is told."""
    one, _ = plan.begin(pending=NEW, previous=OLD, additive=False)
    one, _ = plan.step(one, Changed(Outcome.DONE))
    one, effect = plan.step(one, Tried(Outcome.REFUSED))
    assert (effect, one.trying) == (Effect.TRY, OLD)
    one, effect = plan.step(one, Tried(Outcome.UNKNOWN, "connection reset"))
    assert (effect, one.state, one.problem) == (Effect.STOP, State.BOTH_KEPT, "connection reset")
    one, effect = plan.resume(one)
    assert (effect, one.trying) == (Effect.TRY, NEW)


def test_older_versions_are_tried_last_and_not_too_many() -> None:
    """A target restored from last month's backup; and more failed logins would lock the account."""
    one = Rotation(state=State.BOTH_KEPT, pending=9, previous=8, spares=(7, 6, 5, 4))
    one, _ = plan.resume(one)
    tried = [one.trying]
    while (answer := plan.step(one, Tried(Outcome.REFUSED)))[1] is Effect.TRY:
        one = answer[0]
        tried.append(one.trying)
    assert tried == [9, 8, 7, 6]
    one = replace(one, trying=7)
    one, effect = plan.step(one, Tried(Outcome.DONE))
    assert (one.state, one.trying, effect) == (State.ROLLED_BACK, 7, Effect.STOP)


def test_an_old_key_that_still_opens_is_not_forgotten() -> None:
    one, _ = plan.begin(pending=NEW, previous=OLD, additive=True)
    for event in (Changed(Outcome.DONE), Tried(Outcome.DONE), Removed(Outcome.DONE)):
        one, effect = plan.step(one, event)
    assert (effect, one.trying) == (Effect.TRY, OLD)
    one, effect = plan.step(one, Tried(Outcome.DONE))  # it said that it was gone
    assert (one.state, effect) == (State.CLEANING, Effect.STOP)
    assert "still opens" in one.problem
    assert plan.resume(one)[1] is Effect.REMOVE


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.WANTED, Changed(Outcome.DONE)),
        (State.CHANGING, Tried(Outcome.DONE)),
        (State.VERIFYING, Changed(Outcome.DONE)),
        (State.VERIFYING, Tried(Outcome.DONE)),  # no login is under way
        (State.COMMITTED, Tried(Outcome.DONE)),
        (State.BOTH_KEPT, Tried(Outcome.DONE)),
    ],
)
def test_what_is_out_of_order_is_ours_to_mend(state: State, event: plan.Event) -> None:
    with pytest.raises(plan.OutOfOrder, match=str(state)):
        plan.step(Rotation(state=state, pending=NEW, previous=OLD), event)


@pytest.mark.parametrize("state", [State.WANTED, State.COMMITTED, State.ROLLED_BACK])
def test_what_is_over_or_never_began_is_not_resumed(state: State) -> None:
    with pytest.raises(plan.OutOfOrder):
        plan.resume(Rotation(state=state, pending=NEW, previous=OLD))
