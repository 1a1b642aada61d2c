"""`bastion vault rotate`, `bastion account rotate`: have secrets changed now, watch it, and say what came of it."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bastion.cli.common import JSON, REASON, account_at, all_pages, config_option, show, talk
from bastion.errors import Denied, ExitCode, MisuseError
from bastion.text import neutral

if TYPE_CHECKING:
    from bastion.control import Operator

AT_A_TIME: Final = 100
"""Accounts of one message, which all their answers fit into as well."""
QUICKEST, SLOWEST = 0.2, 2.0
"""Seconds between two looks: one account is done in one, a thousand take minutes."""
EVERY: Final = 10.0
"""Seconds between two lines where nobody sees a bar."""
_BAR: Final = 30

PLACES: Final = click.argument("places", metavar="ACCOUNT@TARGET...", nargs=-1)
LABEL: Final = click.option("--label", "labels", multiple=True, metavar="K=V", help="Accounts on targets with it.")
DRY_RUN: Final = click.option("--dry-run", is_flag=True, help="Show what would be changed, and change nothing.")
NO_WAIT: Final = click.option("--no-wait", is_flag=True, help="Do not stay until it is done.")


@click.command("rotate")
@PLACES
@click.option("--all", "everything", is_flag=True, help="All accounts that a [[rotation]] entry is about.")
@LABEL
@DRY_RUN
@NO_WAIT
@REASON
@JSON
@config_option
def rotate(
    places: tuple[str, ...], everything: bool, labels: tuple[str, ...], dry_run: bool, no_wait: bool, reason: str,
    as_json: bool, config: Path | None,
) -> None:  # fmt: skip
    """Change passwords and keys of accounts now.

    Exit status: 0 all are changed, 75 some are not and are tried again by themselves.
    """
    if bool(places) + everything + bool(labels) != 1:
        raise click.UsageError("give accounts, or --label, or --all")
    _rotate(list(places), labels, dry_run=dry_run, wait=not no_wait, reason=reason, as_json=as_json, config=config)


@click.command("rotate")
@click.argument("place", metavar="ACCOUNT@TARGET")
@NO_WAIT
@REASON
@JSON
@config_option
def rotate_one(place: str, no_wait: bool, reason: str, as_json: bool, config: Path | None) -> None:
    """Change what opens an account now: its password or key."""
    _rotate([place], (), dry_run=False, wait=not no_wait, reason=reason, as_json=as_json, config=config)


def _rotate(
    places: Sequence[str], labels: Sequence[str], *, dry_run: bool, wait: bool, reason: str, as_json: bool,
    config: Path | None,
) -> None:  # fmt: skip
    from policy.messages import RotationPlan, Rows

    named = list(dict.fromkeys("@".join(account_at(place)) for place in places))
    with talk(config) as policyd:
        if dry_run or not named:
            plan = _joined(
                all_pages(policyd, RotationPlan(places=part, labels=_labels(labels))) for part in _parts(named) or [[]]
            )
            if dry_run:
                show(plan, as_json)
                return
            named = [f"{row[0]}@{row[1]}" for row in plan.rows if not row[7]]
            for row in plan.rows:
                if row[7]:
                    _tell(f"{row[0]}@{row[1]} is left out: {row[7]}")
        if not named:
            raise MisuseError("there is nothing to change", "see which are: bastion vault rotate --all --dry-run")
        asked = _asked(policyd, named, reason)
        if wait:
            rows = _watched(policyd, asked, bar=sys.stderr.isatty() and not as_json)
        else:
            rows = [dict(zip(("rotation", "account", "target", "state"), row, strict=False)) for row in asked.values()]
    columns = list(rows[0]) if rows else []
    kept = [name for name in columns if as_json or name in ("account", "target", "state", "problem")]
    show(Rows(columns=kept, rows=[[row[name] for name in kept] for row in rows]), as_json)
    if wait:
        _judge(rows)


def _asked(policyd: "Operator", places: list[str], reason: str) -> dict[str, list[str]]:
    """Rows of Rotate by id."""
    from policy.messages import Rotate, Rows

    asked: dict[str, list[str]] = {}
    for part in _parts(places):
        answer = policyd.ask(Rotate(places=part, reason=reason))
        assert isinstance(answer, Rows)
        asked |= {row[0]: row for row in answer.rows}
    return asked


def _watched(policyd: "Operator", asked: dict[str, list[str]], *, bar: bool) -> list[dict[str, str]]:
    """What each has come to, once it has."""
    from policy.messages import RotationList, Rows

    over: dict[str, dict[str, str]] = {}
    began = told = time.monotonic()
    wait = QUICKEST
    while len(over) < len(asked):
        time.sleep(wait)
        wait = min(wait * 1.3, SLOWEST)
        for part in _parts([ident for ident in asked if ident not in over]):
            answer = policyd.ask(RotationList(ids=part))
            assert isinstance(answer, Rows)
            for row in (dict(zip(answer.columns, cells, strict=True)) for cells in answer.rows):
                if row["ended"] or row["tries"] != asked[row["rotation"]][4]:
                    over[row["rotation"]] = row
        counts = Counter(row["state"] for row in over.values())
        if bar:
            print(f"\r{_bar(len(over), len(asked), counts)}\x1b[K", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - told >= EVERY:
            told = time.monotonic()
            _tell(f"{len(over)} of {len(asked)} after {told - began:.0f} s: {_counted(counts)}")
    if bar:
        print("\r\x1b[K", end="", file=sys.stderr)
    counts = Counter(row["state"] for row in over.values())
    _tell(f"{len(over)} of {len(asked)} in {time.monotonic() - began:.1f} s: {_counted(counts)}")
    return [over[ident] for ident in asked]


def _judge(rows: Iterable[dict[str, str]]) -> None:
    """Exit status and the next command, if not everything is well."""
    bad = [row for row in rows if row["state"] != "committed"]
    if not bad:
        return
    doubt = [f"{row['account']}@{row['target']}" for row in bad if row["state"] == "both-kept"]
    what = f"{len(bad)} of them are not changed"
    if doubt:
        what += f"; what opens {', '.join(doubt[:3])}{' and more' * (len(doubt) > 3)} is in doubt, both are kept"
    raise Denied(what, "they are tried again by themselves; see: bastion vault rotations", code=ExitCode.PENDING)


def _parts(words: list[str]) -> list[list[str]]:
    return [words[at : at + AT_A_TIME] for at in range(0, len(words), AT_A_TIME)]


def _joined(pages: Iterator[Any]) -> Any:
    first, *others = pages
    for page in others:
        first.rows += page.rows
    return first


def _labels(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise MisuseError(f"`--label {word[:64]}` is no label", "write it as --label env=prod")
        found[name] = value
    return found


def _bar(done: int, all_: int, counts: Counter[str]) -> str:
    full = _BAR * done // all_
    return f"[{'#' * full}{' ' * (_BAR - full)}] {done}/{all_}  {_counted(counts)}"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.most_common()) or "none yet"


def _tell(line: str) -> None:
    print(f"bastion: {neutral(line)}", file=sys.stderr)
