"""`replay show`: what happened in one session."""

import json
from pathlib import Path
from typing import Any, Final

import click

from recorder.reader import Recording
from replay import notes
from replay.cli.common import (
    JSON,
    REASON,
    key_option,
    located,
    opened,
    place_options,
    private_keys,
    readable,
    table,
    told,
    warn,
)
from replay.export import plain
from replay.facts import Channel, Facts, gather
from replay.text import clock, iso, neutral, size, span, wall
from replay.views import Verb

ROWS: Final = 500
"""Operations shown as a table; all are in `--json`."""


@click.command("show")
@click.argument("recording")
@place_options
@key_option
@REASON
@JSON
def command(
    recording: str, config: Path | None, directory: Path | None, keys: tuple[Path, ...], reason: str, as_json: bool
) -> None:
    """Show who did what in a session: its channels, file operations, forwards, decisions, and how it ended."""
    path = located(recording, config, directory)
    found = readable(opened(path, private_keys(keys)))
    facts = gather(found.events())
    with told(path, config, Verb.SHOW, found, reason=reason):
        warn(found)
        if as_json:
            print(json.dumps(_plain(found, facts, path)))
            return
        _header(found, facts, path)
        _channels(facts)
        _operations(facts)
        _lines(facts)


def about(found: Recording) -> dict[str, Any]:
    """The header of a recording, for `--json` and exports."""
    return {
        "session": found.session,
        "t0_us": found.t0_us,
        "start": iso(found.t0_us),
        "seconds": found.duration_ms / 1000,
        "node": found.node,
        "complete": found.complete,
        **found.public,
        **(found.private or {}),
    }


def _plain(found: Recording, facts: Facts, path: Path) -> dict[str, Any]:
    def at(listed: list[Any]) -> list[dict[str, Any]]:
        return [{"ms": event.ms, "channel": event.channel, **plain(said)} for event, said in listed]

    return {
        **about(found),
        "file": str(path),
        "channels": [_channel(channel) for channel in facts.channels.values()],
        "sftp": at(facts.operations),
        "forwards": at(facts.forwards),
        "agents": at(facts.agents),
        "access": at(facts.access),
        "digests": at(facts.digests),
        "markers": at(facts.markers),
        "end": at([facts.end])[0] if facts.end else None,
        "hidden": [_word(hidden) for hidden in found.skipped_classes],
        "problems": found.problems,
        "unlisted": facts.unlisted,
        "unreadable": facts.unreadable,
    }


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "channel": channel.number,
        "begun_ms": channel.begun,
        "finished_ms": channel.finished,
        **(plain(channel.start) if channel.start else {"kind": "?"}),
        "exit": plain(channel.exit) if channel.exit else None,
        "typed": channel.typed,
        "typed_unseen": channel.typed_unseen,
        "output": channel.output,
        "stderr": channel.stderr,
    }


def _word(hidden: Any) -> str:
    return str(getattr(hidden, "name", hidden)).lower()


def _header(found: Recording, facts: Facts, path: Path) -> None:
    private = dict(found.private or {})
    person, account, target = (private.pop(name, "?") for name in ("person", "account", "target"))
    print(f"session    {found.session}")
    print(f"who        {neutral(person)} as {neutral(account)}@{neutral(target)}")
    print(f"when       {wall(found.t0_us)}, for {span(found.duration_ms)}")
    for name, value in {**private, **found.public, "node": found.node}.items():
        if value:
            print(f"{neutral(name, 32):<10} {neutral(value)}")
    if facts.end:
        print(f"end        {notes.access(facts.end[1]).removeprefix('session ended: ')}")
    elif found.complete:
        print("end        complete, but nothing says how it ended")
    else:
        print("end        none: still live, or cut off (see: replay verify)")
    if found.skipped_classes:
        hidden = ", ".join(neutral(_word(one)) for one in found.skipped_classes)
        print(f"hidden     {hidden}: the key given does not open it")
    print(f"file       {neutral(str(path))}")


def _channels(facts: Facts) -> None:
    if not facts.channels:
        return
    print("\nchannels")
    rows = []
    for channel in facts.channels.values():
        start = channel.start
        what = notes.describe(start) if start else "?"
        end = notes.ended(channel.exit) if channel.exit else "not closed"
        length = span(channel.finished - channel.begun) if channel.finished is not None else ""
        unseen = f" + {size(channel.typed_unseen)} unseen" if channel.typed_unseen else ""
        out = size(channel.output + channel.stderr)
        rows.append((str(channel.number), clock(channel.begun), length, what, size(channel.typed) + unseen, out, end))
    table(("#", "at", "length", "what", "typed", "output", "end"), rows)


def _operations(facts: Facts) -> None:
    if not facts.operations:
        return
    print("\nfile operations")
    rows = []
    for event, found in facts.operations[:ROWS]:
        path = neutral(found.path, 1000) + (f" -> {neutral(found.to, 1000)}" if found.to else "")
        rows.append(
            (clock(event.ms), str(event.channel), neutral(found.op, 32), path, size(found.size) if found.size else "",
             notes.status(found), found.sha256.hex()[:16], neutral(found.detail, 200))
        )  # fmt: skip
    table(("at", "#", "what", "path", "size", "result", "sha256", "detail"), rows)
    left = len(facts.operations) - ROWS + facts.unlisted
    if left > 0:
        print(f"and {left} more: replay show --json")


def _lines(facts: Facts) -> None:
    for title, listed in (
        ("forwards", facts.forwards),
        ("agent and X11", facts.agents),
        ("decisions", facts.access),
        ("not kept", facts.digests),
        ("marks", facts.markers),
    ):
        if listed:
            print(f"\n{title}")
            for event, said in listed:
                print(f"  {clock(event.ms):>8}  {notes.describe(said)}")
