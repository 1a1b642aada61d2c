"""The command: check the lists, run the named tests as they are, then each mutant; say what survived."""

import argparse
import importlib
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.mutation import runner
from tests.mutation.mutant import Mutant, select
from tests.mutation.runner import End, Result

LISTS: Final = (
    "policy", "access", "grants", "factors", "persons", "directory", "views", "words", "bastion", "gateway", "outside",
    "hands", "recorder", "replay", "rotation", "vault", "masters", "sharing", "broker", "authorities",
)  # fmt: skip


def main() -> int:
    words = _words()
    mutants = select([one for name in words.lists for one in importlib.import_module(name).GUARDS], words.only)
    root = Path(words.root).resolve()
    if words.list:
        print("\n".join(one.name for one in mutants))
        return 0
    began = time.monotonic()
    results = [Result(mutant=one, end=End.WRONG, why=why) for one in mutants if (why := one.problem(root))]
    twice = Counter((one.path, one.source, one.replacement) for one in mutants)
    results += [
        Result(mutant=one, end=End.WRONG, why="it stands twice in the lists")
        for one in mutants if twice[one.path, one.source, one.replacement] > 1
    ]  # fmt: skip
    good = [one for one in mutants if one not in {result.mutant for result in results}]
    runner.preload()
    with runner.workshop() as folder:
        _run(good, results, words, folder, root)
    if words.json:
        Path(words.json).write_text(json.dumps([result.plain() for result in results], indent=1))
    return _summary(results, time.monotonic() - began)


def _run(good: list[Mutant], results: list[Result], words: argparse.Namespace, folder: Path, root: Path) -> None:
    bar = _Bar(len(good), quiet=words.quiet)
    bar.say(f"running the tests of {len(good)} guards as they are")
    failing = runner.check_tests(good, words.jobs, folder, root)
    ready = []
    for one in good:
        why = next((failing[name] for test in one.tests for name in (test.partition("[")[0], test.partition("::")[0])
                    if name in failing), "")  # fmt: skip
        if why:
            results.append(Result(mutant=one, end=End.WRONG, why=why, broken=True))
        else:
            ready.append(one)
    for result in runner.run(ready, words.jobs, folder, root):
        results.append(result)
        bar.step(result)
    bar.done()


def _words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="guards with these words in module, attack or test"
    )
    parser.add_argument("--json", default="", metavar="FILE", help="write every result there")
    parser.add_argument("--list", action="store_true", help="list the guards and run nothing")
    parser.add_argument("--jobs", type=int, default=min(3 * (os.cpu_count() or 1), 16), help="children at a time")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "--lists", nargs="+", default=[f"tests.mutation.{name}" for name in LISTS], help=argparse.SUPPRESS
    )
    parser.add_argument("--root", default=str(runner.ROOT), help=argparse.SUPPRESS)
    return parser.parse_args()


class _Bar:
    """On a terminal one line that moves; elsewhere a line per tenth. Trouble is told when it is met."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self.total, self.quiet = max(total, 1), quiet
        self.at = 0
        self.live = sys.stderr.isatty()

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr)

    def step(self, result: Result) -> None:
        self.at += 1
        if result.end is not End.NOTICED:
            self.say(f"{self._clear()}{result.end.value}: {result.mutant.name}: {result.why}")
        if self.quiet:
            return
        if self.live:
            full = 40 * self.at // self.total
            print(f"\r[{'#' * full}{'.' * (40 - full)}] {self.at}/{self.total} ", end="", file=sys.stderr, flush=True)
        elif self.at * 10 // self.total != (self.at - 1) * 10 // self.total:
            self.say(f"{self.at}/{self.total}")

    def done(self) -> None:
        if self.live and not self.quiet:
            print(self._clear(), end="", file=sys.stderr)

    def _clear(self) -> str:
        return "\r\x1b[K" if self.live else ""


def _summary(results: list[Result], seconds: float) -> int:
    modules = sorted({result.mutant.module for result in results})
    width = max((len(name) for name in modules), default=6)
    print(f"{'module':<{width}}  guards  noticed  survived  wrong  seconds")
    for name in [*modules, "all"]:
        mine = [result for result in results if name in (result.mutant.module, "all")]
        ends = Counter(result.end for result in mine)
        print(
            f"{name:<{width}}  {len(mine):6}  {ends[End.NOTICED]:7}  {ends[End.SURVIVED]:8}  {ends[End.WRONG]:5}"
            f"  {sum(result.seconds for result in mine):7.1f}"
        )
    bad = [result for result in results if result.end is not End.NOTICED]
    told: set[str] = set()
    for result in bad:
        if result.broken and result.why in told:
            continue  # one broken test, many guards
        told.add(result.why)
        print(f"\n{result.end.value}: {result.mutant.name}")
        print(f"  {result.why}")
        print(f"  {result.mutant.path}: `{result.mutant.source}` -> `{result.mutant.replacement}`")
        print(f"  {' '.join(result.mutant.tests)}")
    if not results:
        print("no guard has these words")
    print(f"{len(results) - len(bad)} of {len(results)} guards have a test that notices, in {seconds:.0f} s")
    return int(bool(bad) or not results)


def all_guards() -> list[Mutant]:
    return [one for name in LISTS for one in importlib.import_module(f"tests.mutation.{name}").GUARDS]


if __name__ == "__main__":
    sys.exit(main())
