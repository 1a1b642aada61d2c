"""The figures of the README: `python -m tests.bench [--quick] [--only NAME] [--json FILE] [--markdown FILE]`.

Everything is measured beside OpenSSH on the same machine in the same minutes, recording on. Nothing fails because a
figure is bad; a missed goal is red. Takes at most ten minutes, with --quick two.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.bench.bulk import Bulk, DefaultCipher, Unhashed
from tests.bench.dialogues import Whole
from tests.bench.figures import Benchmark, Figure, Samples, fire_all
from tests.bench.injection import Injection
from tests.bench.keystrokes import Idle, UnderBulk
from tests.bench.logins import Refused, SetUp
from tests.bench.policy import Decisions, Dialogues
from tests.bench.report import markdown, show, write_json
from tests.bench.sessions import Silent, Stalled
from tests.bench.site import Site, versions
from tests.bench.workers import Workers

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """A benchmark in its two sizes: how it is made, and how many rounds it takes."""

    make: Callable[[Site, bool], Benchmark]
    rounds: int
    quick_rounds: int


# cheap and sensitive ones first: what comes later warms the machine and leaves recordings behind
PLANS = {
    "decisions": Plan(lambda site, quick: Decisions(site.folder / "decisions", 100 if quick else 500), 3, 1),
    "dialogues": Plan(lambda site, quick: Dialogues(site.folder / "dialogues", 50 if quick else 150, 3), 3, 1),
    "whole-logins": Plan(lambda site, quick: Whole(site, 30 if quick else 60, 3), 3, 1),
    "injection": Plan(lambda site, quick: Injection(site.folder / "injection", 50 if quick else 200), 3, 1),
    "set-up": Plan(lambda site, quick: SetUp(site, 4 if quick else 10), 5, 2),
    "refused": Plan(lambda site, quick: Refused(site, 5 if quick else 10), 3, 1),
    "keystrokes": Plan(lambda site, quick: Idle(site, 100 if quick else 300), 5, 2),
    "keystrokes-under-bulk": Plan(lambda site, quick: UnderBulk(site, 100 if quick else 300), 5, 2),
    "bulk": Plan(lambda site, quick: Bulk(site, (64 if quick else 256) * MIB), 5, 2),
    "unhashed": Plan(lambda site, quick: Unhashed(site, (64 if quick else 256) * MIB), 4, 2),
    "default-cipher": Plan(lambda site, quick: DefaultCipher(site, (64 if quick else 256) * MIB), 4, 2),
    "workers": Plan(lambda site, quick: Workers(site, (32 if quick else 128) * MIB), 4, 2),
    "hostile": Plan(lambda site, quick: Stalled(site), 2, 1),
    "sessions": Plan(lambda site, quick: Silent(site, 40 if quick else 200), 1, 1),
}


def main() -> int:
    """Entry point; 0 unless something did not work at all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of smaller loads: two minutes")
    parser.add_argument("--only", action="append", choices=PLANS, metavar="NAME", help=f"of {', '.join(PLANS)}")
    parser.add_argument("--rounds", type=int, help="instead of each benchmark's own number")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where every value goes")
    parser.add_argument("--markdown", type=Path, help="where the table for the README goes; - is standard output")
    parser.add_argument("--seed", type=int, default=time.time_ns(), help="order of the shots")
    options = parser.parse_args()
    names, dice = options.only or list(PLANS), random.Random(options.seed)
    console, began = Console(stderr=True), time.monotonic()
    figures: list[Figure] = []
    values: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="bastion-bench-") as folder, Site(Path(folder)) as site:
        with _progress(console) as progress:
            for name in names:
                plan = PLANS[name]
                rounds = options.rounds or (plan.quick_rounds if options.quick else plan.rounds)
                samples = run(plan.make(site, options.quick), rounds, dice, progress, figures)
                values[name] = {shot: dict(by_name) for shot, by_name in samples.rounds.items()}
    minutes = (time.monotonic() - began) / 60
    rounds_said = str(options.rounds or ("1 to 2" if options.quick else "1 to 5"))
    facts = versions() | {"date": datetime.now(UTC).date().isoformat(), "rounds": rounds_said,
                          "minutes": f"{minutes:.1f}", "seed": str(options.seed)}  # fmt: skip
    show(Console(), figures)
    write_json(options.json, figures, facts, values)
    if options.markdown:
        text = markdown(figures, facts, "make bench" if names == list(PLANS) else "python -m tests.bench")
        sys.stdout.write(text) if str(options.markdown) == "-" else options.markdown.write_text(text)
    return 0


def run(bench: Benchmark, rounds: int, dice: random.Random, progress: Progress, figures: list[Figure]) -> Samples:
    """All rounds of one benchmark; its figures are appended."""
    samples = Samples()
    bar = progress.add_task(bench.name, total=None, doing="setting up")
    try:
        shots = bench.shots()
        progress.update(bar, total=rounds * len(shots))
        for doing in fire_all(shots, rounds, dice, samples):
            progress.update(bar, doing=doing)
            progress.refresh()
            progress.advance(bar)
        figures.extend(bench.figures(samples))
    finally:
        bench.close()
        progress.update(bar, doing="")
    return samples


def _progress(console: Console) -> Progress:
    # refreshed by hand between shots: a thread that redraws would take its share of what is measured
    return Progress(
        TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}"), console=console, auto_refresh=False,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
