"""What is fuzzed, from which samples, and which errors are allowed."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).resolve().parents[1] / "corpus"

Parser = Callable[[bytes], object]


@dataclass(frozen=True, kw_only=True)
class Target:
    """`errors` are what the parser declares; anything else that it raises is a finding. `weight`: share of inputs."""

    name: str
    parse: Parser
    errors: tuple[type[Exception], ...]
    samples: tuple[bytes, ...]
    slow: float = 2.0  # seconds for one input from which on it counts as a finding
    weight: float = 1.0

    def inputs(self) -> list[bytes]:
        """Samples and corpus, in an order that does not change."""
        files = sorted(path for path in (CORPUS / self.name).glob("*") if path.is_file())
        return [*self.samples, *(path.read_bytes() for path in files)]


TARGETS: Final[dict[str, Target]] = {}


def target(
    name: str,
    *,
    errors: tuple[type[Exception], ...] = (),
    samples: Iterable[bytes] = (),
    slow: float = 2.0,
    weight: float = 1.0,
) -> Callable[[Parser], Parser]:
    """Register a function of bytes. It fails by raising; its own assertions are findings too."""

    def register(parse: Parser) -> Parser:
        assert name not in TARGETS, f"two targets are called {name}"
        TARGETS[name] = Target(name=name, parse=parse, errors=errors, samples=tuple(samples), slow=slow, weight=weight)
        return parse

    return register


def load() -> dict[str, Target]:
    """All targets, by name."""
    package = importlib.import_module("tests.fuzz.targets")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"tests.fuzz.targets.{module.name}")
    return dict(sorted(TARGETS.items()))
