"""`replay play`: watch a session as it went, or print it."""

import sys
import time
from dataclasses import dataclass
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
from replay.errors import MisuseError
from replay.facts import Channel, Facts, gather
from replay.text import moment, neutral
from replay.views import Verb


@click.command("play")
@click.argument("recording")
@click.option("--speed", type=click.FloatRange(0.1, 10_000), help="How many times faster; a pipe has no wait without.")
@click.option("--no-skip-idle", is_flag=True, help="Wait as long as it took; else silence is cut to 2 s.")
@click.option("--from", "start", metavar="TIME", help="Begin there: 90, 1:30, 1:00:00.")
@click.option("--input", "typed", is_flag=True, help="Also show what was typed.")
@CHANNEL
@place_options
@key_option
@REASON
def command(
    recording: str, speed: float | None, no_skip_idle: bool, start: str | None, typed: bool, channel: int | None,
    config: Path | None, directory: Path | None, keys: tuple[Path, ...], reason: str,
) -> int:  # fmt: skip
    """Watch a session as it went. A live one is played up to now.

    Only what draws reaches your terminal: no clipboard, title, answers or modes from the recorded side.

    \b
    space  pause, go on             left right  5 s back, forth     .    next event, then wait
    + -    faster, slower           down up     60 s back, forth    g    go to a time: 1:30 Enter
    i      cut idle time or not     home end    first, last         tab  next channel
    q      quit

    Into a pipe or file, everything is printed at once, in order; --speed makes it take its time.
    """
    path = located(recording, config, directory)
    found = readable(opened(path, private_keys(keys)))
    begin = _place(start)
    facts = gather(found.events())
    if channel is not None and channel not in facts.channels:
        raise MisuseError(f"there is no channel {channel}", f"see which there are: replay show {found.session}")
    words = [f"from {start}"] * bool(begin) + [f"channel {channel}"] * (channel is not None) + ["input"] * typed
    with told(path, config, Verb.PLAY, found, words=words, reason=reason) as view:
        seen = Seen(begin)
        try:
            if sys.stdout.isatty():
                return _watch(found, facts, channel, speed or 1.0, not no_skip_idle, seen, typed)
            _print(found, channel, speed, not no_skip_idle, seen, typed)
        finally:  # whatever ended it: a key, a pipe that was closed, a signal
            view.over(until_ms=seen.ms)
    warn(found)
    return 0


@dataclass(slots=True)
class Seen:
    """How far it was watched, in milliseconds of the recording; at first where it begins."""

    ms: int


def _watch(
    found: Recording, facts: Facts, channel: int | None, speed: float, skip_idle: bool, seen: Seen, typed: bool
) -> int:
    import trio

    from replay.player import Player
    from replay.terminal import ours
    from replay.timeline import Pace

    terminal = ours()
    assert terminal is not None
    player = Player(found, terminal, _choice(facts, channel), Pace(speed=speed, skip_idle=skip_idle), typed, seen.ms)
    try:
        number = trio.run(player.play)
    finally:
        seen.ms = player.furthest
    if number:
        return 128 + number
    print(_closing(found, facts))
    warn(found)
    return 0


def _choice(facts: Facts, channel: int | None) -> list[Channel | None]:
    """What TAB goes through: the channels with a terminal, then everything as lines."""
    if channel is not None:
        return [facts.channels[channel]]
    return [*(one for one in facts.channels.values() if one.has_terminal), None]


def _closing(found: Recording, facts: Facts) -> str:
    if facts.end:
        return f"replay: {found.session}: {neutral(facts.end[1].reason)}"
    return f"replay: {found.session}: {'complete' if found.complete else 'this is what there is up to now'}"


def _print(
    found: Recording, channel: int | None, speed: float | None, skip_idle: bool, seen: Seen, typed: bool
) -> None:
    from replay.chronicle import Chronicle
    from replay.timeline import Pace

    chronicle = Chronicle(channel=channel, typed=typed)
    begin = seen.ms
    pace = Pace(speed=speed or 1.0, skip_idle=skip_idle, shown_ms=begin)
    for event in found.events():
        text = chronicle.show(event)
        if event.ms < begin or not text:
            continue
        if speed is not None:
            wait = pace.due(event.ms, time.monotonic())
            if wait:
                sys.stdout.flush()
                time.sleep(wait)
            pace.show(event.ms, time.monotonic())
        seen.ms = max(seen.ms, event.ms)
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.flush()


def _place(text: str | None) -> int:
    if text is None:
        return 0
    found = moment(text)
    if found is None:
        raise MisuseError(f"`{text}` is no place in a recording", "write it as 90, 1:30 or 1:00:00")
    return found
