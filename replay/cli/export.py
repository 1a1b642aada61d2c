"""`replay export`: a recording in other programs' words."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import click

from recorder.reader import Recording
from replay.cli.common import (
    CHANNEL,
    REASON,
    key_option,
    located,
    opened,
    place_options,
    private_keys,
    readable,
    told,
    warn,
)
from replay.errors import MisuseError, ReplayError
from replay.facts import Channel, gather
from replay.views import Verb, View


@click.command("export")
@click.argument("recording")
@click.option("--format", "form", type=click.Choice(["asciicast", "text", "jsonl"]), required=True)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Instead of standard output.")
@click.option("--input", "typed", is_flag=True, help="Also what was typed (jsonl always has it).")
@CHANNEL
@place_options
@key_option
@REASON
def command(
    recording: str, form: str, output: Path | None, typed: bool, channel: int | None,
    config: Path | None, directory: Path | None, keys: tuple[Path, ...], reason: str,
) -> None:  # fmt: skip
    """Write a recording for other programs.

    asciicast: version 2, one terminal, for asciinema and its web player; lossy, and it says so. text: what stood on
    the screens, and a line for each thing that happened. jsonl: every event, exact and complete.
    """
    path = located(recording, config, directory)
    found = readable(opened(path, private_keys(keys)))
    written = Written(_lines(found, form, typed, channel))
    words = [f"channel {channel}"] * (channel is not None) + ["input"] * (typed or form == "jsonl")
    with told(path, config, Verb.EXPORT, found, words=words, form=form, reason=reason) as view:
        if output is None:
            try:
                sys.stdout.buffer.writelines(written)
                sys.stdout.flush()
            finally:  # also if the pipe was closed: what went out before is out
                view.over(length=written.length, sha256=written.digest)
        else:
            _write(output, written, view)
    warn(found)


class Written:
    """Lines as they go into the file, UTF-8 whatever the locale, and what that comes to."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = lines
        self._hash = sha256()
        self.length = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            data = f"{line}\n".encode("utf-8", "surrogateescape")
            self.length += len(data)
            self._hash.update(data)
            yield data

    @property
    def digest(self) -> bytes:
        return self._hash.digest()


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


def _write(output: Path, written: Written, view: View) -> None:
    """Into a new file, mode 0600: what was confidential in the recording is confidential here.

    It gets its name when its digest is in the audit trail: no export lies about that nobody knows of.
    """
    part = output.with_name(f".{output.name}.part")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.writelines(written)
        view.over(length=written.length, sha256=written.digest)
        part.replace(output)
    except OSError as error:
        raise ReplayError(f"cannot write `{output}`: {(error.strerror or str(error)).lower()}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    print(f"written: {output}", file=sys.stderr)
