"""`replay ls`: recordings, newest first."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from replay.cli.common import JSON, SINCE, key_option, opened, place_options, private_keys, table
from replay.errors import MisuseError
from replay.listing import Row, Wanted, row
from replay.place import directory as recordings_directory
from replay.text import neutral, size, span, wall
from replay.when import instant

SHOWN: Final = 200
"""Rows without `--all`: some screens full; each costs opening a file."""


@click.command("ls")
@click.option("--person", metavar="NAME", default="", help="Sessions of this person.")
@click.option("--target", metavar="NAME", default="", help="Sessions on this target.")
@click.option("--account", metavar="NAME", default="", help="Sessions as this account.")
@SINCE
@click.option("--until", metavar="TIME", help="Started before.")
@click.option("--denied", is_flag=True, help="Only sessions in which something was denied.")
@click.option("--all", "everything", is_flag=True, help=f"All that fit, not only the newest {SHOWN}.")
@place_options
@key_option
@JSON
def command(
    person: str, target: str, account: str, since: str | None, until: str | None, denied: bool, everything: bool,
    config: Path | None, directory: Path | None, keys: tuple[Path, ...], as_json: bool,
) -> None:  # fmt: skip
    """List recordings, newest first."""
    from recorder.reader import RecordingError
    from recorder.store import Store

    wanted = Wanted(person=person, target=target, account=account, since=_time(since), until=_time(until))
    opening = private_keys(keys)
    rows: list[Row] = []
    more = encrypted = 0
    for file in Store(recordings_directory(config, directory)).recordings():
        try:
            recording = opened(file, opening)
            if not wanted.header(recording):
                encrypted += recording.private is None
                continue
            if len(rows) >= SHOWN and not everything:
                more += 1
                continue
            found = row(recording, file, whole=denied)
        except RecordingError as error:  # one bad file must not hide the others, nor pass unseen
            print(f"replay: {neutral(error.cause)}", file=sys.stderr)
            continue
        if found.denied or not denied:
            rows.append(found)
    if as_json:
        print(json.dumps([found.plain() for found in rows]))
    elif rows:
        _show(rows)
    _remarks(rows, more, encrypted, as_json)


def _show(rows: list[Row]) -> None:
    width = _prefix(rows)
    table(
        ("id", "start", "length", "person", "account@target", "kinds", "ended", "size"),
        [
            (
                found.session[:width],
                wall(found.t0_us),
                span(found.duration_ms),
                *_who(found),
                ", ".join(neutral(kind, 32) for kind in found.kinds)
                + (" …" if found.kinds_partial else "")
                + (" (denied)" if found.denied else ""),
                "live or cut off" if found.state == "open" else neutral(found.reason or "complete", 32),
                size(found.size),
            )
            for found in rows
        ],
    )


def _who(found: Row) -> tuple[str, str]:
    if found.private is None:
        return "(encrypted)", ""
    private = found.private
    place = f"{private.get('account', '?')}@{private.get('target', '?')}"
    return neutral(private.get("person", "?"), 100), neutral(place, 200)


def _prefix(rows: list[Row]) -> int:
    """Characters of the ids that tell these rows apart, with some to spare for recordings to come."""
    names = [found.session for found in rows]
    length = 12
    while length < 32 and len({name[:length] for name in names}) < len(names):
        length += 1
    return length


def _remarks(rows: list[Row], more: int, encrypted: int, as_json: bool) -> None:
    if more:
        print(f"replay: {more} older ones are not shown: replay ls --all", file=sys.stderr)
    if encrypted:
        print(
            f"replay: {encrypted} encrypted recordings could not be asked who they are of: --key FILE", file=sys.stderr
        )
    if not rows and not as_json:
        print("no recordings", file=sys.stderr)


def _time(text: str | None) -> int | None:
    if text is None:
        return None
    found = instant(text, datetime.now().astimezone())
    if found is None:
        raise MisuseError(f"`{text}` is no time", "write it as 2026-11-25, 2026-11-25T16:00 or 3d")
    return found
