"""How one secret is changed on one target: state and event in, state and effect out. Pure.

    WANTED --begin--> CHANGING --told--> VERIFYING --the new one opens--> COMMITTED  (a password)
                         |                  |                       `--> CLEANING --the old line is gone--> COMMITTED
                         |                  |--only the old one opens--> ROLLED_BACK
                         |                  `--none is proven----------> BOTH_KEPT --next run--> VERIFYING
                         `--the target heard nothing--> ROLLED_BACK

# INVARIANT: at every point, also between any two steps, the vault holds the secret that opens the account in one of its
# versions. So a new secret is stored before the target hears of it, none is thrown away, and which of them comes into
# force is decided by a login alone: a target's word that it did what it was told, or did not, decides nothing.

A crash is an event like any other: `resume` is what a run begins with, whatever the journal says.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

MAX_SPARES: Final = 2
"""Older versions that are tried when neither the new nor the last one opens. Each is a failed login, and targets lock
accounts after some five of those (pam_faillock: three)."""


class State(StrEnum):
    """Of a rotation, as the journal has it."""

    WANTED = "wanted"  # nothing was done yet
    CHANGING = "changing"  # the target may have been told
    VERIFYING = "verifying"  # logins find out what opens
    CLEANING = "cleaning"  # the new key is in force; the old line is still to go
    COMMITTED = "committed"
    ROLLED_BACK = "rolled-back"  # the old one opens, as before
    BOTH_KEPT = "both-kept"  # none is proven


ENDED: Final = frozenset({State.COMMITTED, State.ROLLED_BACK})
DOUBTFUL: Final = frozenset({State.CHANGING, State.VERIFYING, State.BOTH_KEPT})
"""It is not known whether the secret in force opens."""


class Outcome(StrEnum):
    """What came of an order to a target."""

    DONE = "done"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"  # it heard nothing
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """One rotation under way. Versions count as in the vault; 0 is none."""

    state: State
    pending: int = 0
    previous: int = 0
    spares: tuple[int, ...] = ()  # older ones, newest first
    additive: bool = False  # the target keeps the old one beside the new one, until told otherwise: authorized keys
    trying: int = 0  # the version of the login under way
    unsure: bool = False  # whether the new one opens could not be found out in this run
    problem: str = ""


# --- events -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Changed:
    """What the target, or the way there, said to the order to take the new secret."""

    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Removed:
    """The same for the order to take the old line away."""

    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of the login with `trying`."""

    outcome: Outcome
    detail: str = ""


Event = Changed | Removed | Tried

# --- effects ----------------------------------------------------------------------------------------


class Effect(StrEnum):
    """What is to be done once the new state is on disk."""

    CHANGE = "change"  # tell the target the new secret
    TRY = "try"  # log in with the version `trying`
    REMOVE = "remove"  # tell the target to drop the old line, as who logs in with the new one
    STOP = "stop"  # nothing more in this run


class OutOfOrder(Exception):
    """An event that the state does not know: a mistake of ours, never of a target."""


def begin(*, pending: int, previous: int, additive: bool) -> tuple[Rotation, Effect]:
    """What is stored with the new version, in one write, before the target hears of it."""
    one = Rotation(state=State.CHANGING, pending=pending, previous=previous, additive=additive)
    return one, Effect.CHANGE


def resume(one: Rotation) -> tuple[Rotation, Effect]:
    """Go on after a crash, or in the next run: never by repeating the order, first by finding out what opens."""
    match one.state:
        case State.CHANGING | State.VERIFYING | State.BOTH_KEPT:
            return _try(replace(one, unsure=False), one.pending)
        case State.CLEANING:
            return one, Effect.REMOVE
        case _:
            raise OutOfOrder(f"a rotation that is {one.state} does not go on")


def step(one: Rotation, event: Event) -> tuple[Rotation, Effect]:
    """The next state and what it demands. OutOfOrder names state and event."""
    match one.state, event:
        case State.CHANGING, Changed(outcome=Outcome.UNREACHABLE):
            return _stop(one, State.ROLLED_BACK, event.detail or "the target cannot be reached")
        case State.CHANGING, Changed():
            # Attack: it says `refused` and has changed it, or `done` and has not. Both are only reasons to look.
            told = "" if event.outcome is Outcome.DONE else event.detail or f"the change was {event.outcome}"
            return _try(replace(one, problem=told), one.pending)
        case State.VERIFYING, Tried() if one.trying:
            return _tried(one, event)
        case State.CLEANING, Removed(outcome=Outcome.UNREACHABLE):
            return _stop(one, State.CLEANING, event.detail or "the target cannot be reached")
        case State.CLEANING, Removed():
            # The old one is tried and not the new one: that it opens no more is what is wanted.
            told = "" if event.outcome is Outcome.DONE else event.detail or f"the removal was {event.outcome}"
            return replace(one, trying=one.previous, problem=told), Effect.TRY
        case State.CLEANING, Tried() if one.trying:
            return _gone(one, event)
        case _:
            raise OutOfOrder(f"{type(event).__name__} while a rotation is {one.state}")


def _tried(one: Rotation, event: Tried) -> tuple[Rotation, Effect]:
    if event.outcome is Outcome.DONE:
        return _opened(one)
    if event.outcome is not Outcome.REFUSED:
        # Neither yes nor no. The others may still say yes, but no `no` of theirs would prove this one.
        told = event.detail or f"the login was {event.outcome}"
        one = replace(one, problem=told, unsure=one.unsure or one.trying == one.pending)
    order = (one.pending, one.previous, *one.spares[:MAX_SPARES])
    left = order[order.index(one.trying) + 1 :]
    if event.outcome in (Outcome.UNREACHABLE, Outcome.UNKNOWN) and one.trying != one.pending:
        left = ()  # twice no answer: the target is away, and more failed logins only lock the account
    if left:
        return _try(one, left[0])
    return _stop(one, State.BOTH_KEPT, one.problem or "no version of the secret opens the account")


def _opened(one: Rotation) -> tuple[Rotation, Effect]:
    if one.trying != one.pending and one.additive and one.unsure:
        # That the old key opens says nothing of the new one, which would stay on the target with nobody to miss it.
        return _stop(one, State.BOTH_KEPT, one.problem)
    if one.trying != one.pending:
        return _stop(one, State.ROLLED_BACK, one.problem or "the target said that it was changed, and it was not")
    if one.additive:
        return replace(one, state=State.CLEANING, trying=0, problem=""), Effect.REMOVE
    return _stop(one, State.COMMITTED, "")


def _gone(one: Rotation, event: Tried) -> tuple[Rotation, Effect]:
    if event.outcome is Outcome.REFUSED:
        return _stop(one, State.COMMITTED, "")
    if event.outcome is Outcome.DONE:
        return _stop(one, State.CLEANING, one.problem or "the old key still opens the account")
    return _stop(one, State.CLEANING, event.detail or "whether the old key still opens could not be found out")


def _try(one: Rotation, version: int) -> tuple[Rotation, Effect]:
    return replace(one, state=State.VERIFYING, trying=version), Effect.TRY


def _stop(one: Rotation, state: State, problem: str) -> tuple[Rotation, Effect]:
    trying = one.trying if state is State.ROLLED_BACK else 0  # which of them opens
    return replace(one, state=state, trying=trying, problem=problem), Effect.STOP
