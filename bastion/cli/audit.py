"""`bastion audit`: every decision and every view, and proof that none was removed."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from bastion.cli.common import JSON, ask, config_option, show, talk
from bastion.errors import MisuseError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """The audit trail."""


def filters(function: Decorated) -> Decorated:
    """What `list` and `export` share."""
    for option in reversed([
        click.option("--who", default="", metavar="NAME", help="By this person or OS user."),
        click.option("--what", default="", metavar="NAME",
                     help="About this account@target, account, target, person, session or ref."),
        click.option("--about", default="", metavar="PERSON", help="By them, on them, or naming them."),
        click.option("--event", default="", metavar="KIND", help="Only this kind: view, export, access-refused, ..."),
        click.option("--since", default="", metavar="TIME", help="At or after: 2026-11-23, 2026-11-23T14:00:00Z."),
        click.option("--until", default="", metavar="TIME", help="Before."),
    ]):  # fmt: skip
        function = option(function)
    return function


@command.command("list")
@filters
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="The newest so many.")
@JSON
@config_option
def list_events(limit: int, as_json: bool, config: Path | None, **wanted: str) -> None:
    """Show who did what, when and why."""
    from policy.messages import AuditList, Rows

    rows: list[list[str]] = []
    with talk(config) as policyd:
        while True:
            before = int(rows[0][0]) if rows else 0
            page = policyd.ask(AuditList(limit=limit - len(rows), before=before, **wanted))
            assert isinstance(page, Rows)
            rows = page.rows + rows
            if not page.next or len(rows) >= limit:
                break
    show(Rows(columns=page.columns, rows=rows), as_json)


@command.command("show")
@click.argument("event")
@JSON
@config_option
def show_event(event: str, as_json: bool, config: Path | None) -> None:
    """Show all that is kept of one EVENT: its number, or the ref that somebody was told."""
    from policy.messages import AuditShow

    show(ask(config, AuditShow(ident=event)), as_json)


@command.command()
@filters
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Instead of standard output.")
@config_option
def export(output: Path | None, config: Path | None, **wanted: str) -> None:
    """Write events as JSON lines, oldest first, each with its hash.

    Without its `hash`, sorted by key and without spaces, a line is the text of which SHA-256 was taken, behind the
    hash of the line before: a whole export can be checked without the bastion. Times are in nanoseconds since 1970.
    """
    if not wanted["until"]:  # without it, the events of those who work meanwhile would be chased
        wanted["until"] = datetime.now(UTC).isoformat()
    if output is None:
        sys.stdout.writelines(_lines(config, wanted))
        return
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise MisuseError(f"cannot write `{output}`: {(error.strerror or str(error)).lower()}") from None
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.writelines(_lines(config, wanted))
    except BaseException:
        output.unlink(missing_ok=True)  # half a trail must not pass for one
        raise
    print(f"written: {output}", file=sys.stderr)


def _lines(config: Path | None, wanted: dict[str, str]) -> Iterator[str]:
    from policy.messages import AuditExport, Rows

    after = 0
    with talk(config) as policyd:
        while True:
            page = policyd.ask(AuditExport(after=after, **wanted))
            assert isinstance(page, Rows)
            if not page.rows:
                return
            for seq, body, digest in page.rows:
                end = f'"hash":"{digest}"}}\n'
                yield f"{body[:-1]},{end}" if body else f'{{"left_out":"too long","seq":{json.dumps(int(seq))},{end}'
            after = int(page.rows[-1][0])


@command.command()
@JSON
@config_option
def verify(as_json: bool, config: Path | None) -> None:
    """Check the hash chain from the first event to the last."""
    from policy.messages import AuditVerify

    show(ask(config, AuditVerify()), as_json)
