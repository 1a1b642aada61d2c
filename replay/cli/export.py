"""`replay export`: a recording in other programs' words."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from recorder.reader import Recording
from replay.cli.common import CHANNEL, key_option, located, opened, place_options, private_keys, readable, warn
from replay.errors import MisuseError, ReplayError
from replay.facts import Channel, gather


@click.command("export")
@click.argument("recording")
@click.option("--format", "form", type=click.Choice(["asciicast", "text", "jsonl"]), required=True)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Instead of standard output.")
@click.option("--input", "typed", is_flag=True, help="Also what was typed (jsonl always has it).")
@CHANNEL
@place_options
@key_option
def command(
    recording: str, form: str, output: Path | None, typed: bool, channel: int | None,
    config: Path | None, directory: Path | None, keys: tuple[Path, ...],
) -> None:  # fmt: skip
    """Write a recording for other programs.

    asciicast: version 2, one terminal, for asciinema and its web player; lossy, and it says so. text: what stood on
    the screens, and a line for each thing that happened. jsonl: every event, exact and complete.
    """
    found = readable(opened(located(recording, config, directory), private_keys(keys)))
    lines = _lines(found, form, typed, channel)
    if output is None:
        for line in lines:
            print(line)
    else:
        _write(output, lines)
    warn(found)


def _lines(found: Recording, form: str, typed: bool, number: int | None) -> Iterator[str]:
    from replay import export
    from replay.cli.show import about

    if form == "asciicast":
        return export.asciicast(found.events(), chosen(found, number), about(found), typed=typed)
    events = (event for event in found.events() if number is None or event.channel == number)
    if form == "jsonl":
        return export.jsonl(events, about(found))
    return export.Transcript(typed=typed).events(events)


def chosen(found: Recording, number: int | None) -> Channel:
    """The channel that is meant; without a number the first with a terminal, else the first with output."""
    channels = gather(found.events()).channels
    if number is not None:
        if number not in channels:
            raise MisuseError(f"there is no channel {number}", f"see which there are: replay show {found.session}")
        return channels[number]
    shown = [one for one in channels.values() if one.output or one.stderr]
    best = sorted(shown, key=lambda one: (not one.has_terminal, one.number))
    if best:
        return best[0]
    raise MisuseError(
        "nothing was shown on a terminal in this session",
        f"see what happened: replay export {found.session} --format text",
    )


def _write(output: Path, lines: Iterator[str]) -> None:
    """Into a new file, mode 0600: what was confidential in the recording is confidential here."""
    part = output.with_name(f".{output.name}.part")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{line}\n" for line in lines)
        part.replace(output)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ReplayError(f"cannot write `{output}`: {(error.strerror or str(error)).lower()}") from None
    print(f"written: {output}", file=sys.stderr)
