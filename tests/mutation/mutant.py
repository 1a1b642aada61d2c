"""One guard, how it is removed, and the import hook that shows a process the module without it. No pytest here."""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
VARIABLE: Final = "BASTION_TEST_MUTANT"
"""Names the mutant to our processes that a test starts; `site/sitecustomize.py` reads it, the product does not."""
ASSERTION: Final = "AssertionError"
"""What a test must end with; pytest's own failures (DID NOT RAISE) count as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """`tests` are pytest ids. `escapes` names the error that is to come out of the test instead of an assertion."""

    path: str  # of the module, from the root
    source: str
    replacement: str
    attack: str
    tests: tuple[str, ...]
    escapes: str = ""

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def name(self) -> str:
        return f"{self.module}: {self.attack}"

    def text(self, root: Path = ROOT) -> str:
        """The module without its guard. ValueError if the guard does not stand there exactly once."""
        text = _read(root / self.path)
        if (count := text.count(self.source)) != 1:
            raise ValueError(f"its text stands {count} times in {self.path}, want once")
        mutated = text.replace(self.source, self.replacement)
        compile(mutated, self.path, "exec")  # SyntaxError is a ValueError of ours: see `problem`
        return mutated

    def problem(self, root: Path = ROOT) -> str:
        """What is wrong with the entry itself; "" for nothing."""
        try:
            self.text(root)
        except (OSError, ValueError) as error:
            return str(error)
        except SyntaxError as error:
            return f"with the replacement it is no Python: {error.msg}"
        if self.source == self.replacement:
            return "the replacement is the text itself"
        missing = next((test for test in self.tests if not _is_test(root, test)), None)
        if missing is not None:
            return f"no such test: {missing}"
        return "" if self.tests else "it names no test"


def _is_test(root: Path, test: str) -> bool:
    file, _, name = test.partition("::")
    path = root / file
    return path.is_file() and f"def {name.rpartition('::')[2].partition('[')[0]}(" in _read(path)


@cache
def _read(path: Path) -> str:
    return path.read_text()


def guards(path: str, test_file: str, *rows: Sequence[str]) -> list[Mutant]:
    """Mutants of one module: (source, replacement, attack, names of tests[, what escapes]).

    Names of tests are separated by blanks; one with `::` brings its own file.
    """
    return [
        Mutant(
            path=path,
            source=source,
            replacement=replacement,
            attack=attack,
            tests=tuple(name if "::" in name else f"{test_file}::{name}" for name in tests.split()),
            escapes=escapes[0] if escapes else "",
        )
        for source, replacement, attack, tests, *escapes in rows
    ]


# --- the import hook --------------------------------------------------------------------------------


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the text it was given, past the byte code that is cached for the file."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)


class Hook(importlib.abc.MetaPathFinder):
    """Gives the mutated source for one module, and nothing for any other; makes `mark` when it was asked for it."""

    def __init__(self, module: str, path: Path, text: str, mark: Path) -> None:
        self.module, self.path, self.text, self.mark = module, path, text, mark

    def find_spec(self, name: str, _: object = None, __: ModuleType | None = None) -> Any:
        if name != self.module:
            return None
        self.mark.touch()
        return importlib.util.spec_from_file_location(name, self.path, loader=_Loader(name, str(self.path), self.text))


def install(mutant: Mutant, folder: Path, root: Path = ROOT) -> Path:
    """Mutate this process and those it will start; `folder` keeps what they read. A file that is there once used."""
    text = mutant.text(root)
    copy = folder / "mutated.py"
    copy.write_text(text)
    mark = folder / "used"
    words = {"module": mutant.module, "path": str(root / mutant.path), "copy": str(copy), "mark": str(mark)}
    os.environ[VARIABLE] = json.dumps(words)
    mine = str(Path(__file__).parent / "site")
    os.environ["PYTHONPATH"] = os.pathsep.join([mine, *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.meta_path.insert(0, Hook(mutant.module, root / mutant.path, text, mark))
    return mark


def install_from(environ: Mapping[str, str]) -> None:
    """In a process that a test started."""
    if words := environ.get(VARIABLE):
        mutant = json.loads(words)
        path, copy, mark = (Path(mutant[name]) for name in ("path", "copy", "mark"))
        sys.meta_path.insert(0, Hook(mutant["module"], path, copy.read_text(), mark))


def select(mutants: Iterable[Mutant], pattern: str) -> list[Mutant]:
    """Those with the words of `pattern` in module, attack or tests."""
    words = pattern.split()
    return [one for one in mutants if all(word in f"{one.name} {' '.join(one.tests)}" for word in words)]
