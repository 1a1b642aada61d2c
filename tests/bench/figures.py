"""Samples, medians, ratios and goals: pure, so that the arithmetic has tests and the rest only measures.

A benchmark is a list of shots. Each round fires all of them once, in random order; what is compared was therefore
measured within the same seconds, and a ratio is the median of the rounds' own ratios. On a shared machine absolute
figures move by half from hour to hour, such ratios by a few percent.
"""

import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Shot:
    """One thing to measure once: `fire` returns values by name, units in the name."""

    name: str
    fire: Callable[[], dict[str, float]]


class Benchmark(Protocol):
    """What `python -m tests.bench` runs. `shots` may start what it needs; `close` ends it."""

    name: str

    def shots(self) -> list[Shot]: ...
    def figures(self, samples: "Samples") -> "Iterable[Figure]": ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit that a figure is to keep, and where it stands."""

    sign: Literal["<=", ">="]
    limit: float

    def is_met(self, value: float) -> bool:
        return value <= self.limit if self.sign == "<=" else value >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table: what was measured where, and the one value that is judged."""

    what: str
    measured: dict[str, float] = field(default_factory=dict)  # column -> median
    unit: str = ""
    value: float
    value_unit: str = "×"
    goal: Goal | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        return None if self.goal is None else self.goal.is_met(self.value)


@dataclass
class Samples:
    """shot -> value name -> one value per round."""

    rounds: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def add(self, shot: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.rounds[shot][name].append(value)

    def of(self, shot: str, name: str) -> list[float]:
        """The values in order of the rounds; KeyError names what was never measured."""
        if shot not in self.rounds or name not in self.rounds[shot]:
            raise KeyError(f"no `{name}` of `{shot}`")
        return self.rounds[shot][name]

    def median(self, shot: str, name: str) -> float:
        return statistics.median(self.of(shot, name))

    def medians(self, name: str, shots: dict[str, str]) -> dict[str, float]:
        """The medians of one value, column -> figure, for `column -> shot`."""
        return {column: self.median(shot, name) for column, shot in shots.items()}

    def ratio(self, name: str, shot: str, base: str) -> float:
        """The median of the rounds' own ratios."""
        return statistics.median(
            ours / theirs for ours, theirs in zip(self.of(shot, name), self.of(base, name), strict=True)
        )

    def added(self, name: str, shot: str, base: str) -> float:
        """The median of the rounds' own differences."""
        return statistics.median(
            ours - theirs for ours, theirs in zip(self.of(shot, name), self.of(base, name), strict=True)
        )


def fire_all(shots: list[Shot], rounds: int, dice: random.Random, samples: Samples) -> Iterator[str]:
    """Fire every shot `rounds` times, each round in a new order; yields the name of each before it is fired."""
    for _ in range(rounds):
        for shot in dice.sample(shots, len(shots)):
            yield shot.name
            samples.add(shot.name, shot.fire())


def quantile(values: Iterable[float], part: float) -> float:
    """The value below which `part` of them lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
