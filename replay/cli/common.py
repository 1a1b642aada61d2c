"""What the commands share: options, opening recordings, tables, passphrases."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from replay import place
from replay.errors import MisuseError, ReplayError
from replay.text import neutral

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from recorder.reader import Recording
    from replay.views import Verb, View

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

MAX_PASSPHRASE: Final = 1024

MAX_PROBLEMS: Final = 10
"""Lines about damage; `replay verify` has them all."""

JSON: Final = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
REASON: Final = click.option("--reason", default="", metavar="TEXT", help="Why you look, for the audit trail.")
CHANNEL: Final = click.option("--channel", type=click.IntRange(0, 0xFFFF), metavar="N", help="This channel alone.")
SINCE: Final = click.option(
    "--since", metavar="TIME", help="Started at or after: 2026-11-25, 2026-11-25T16:00, 3d, 2h."
)


def place_options(function: Decorated) -> Decorated:
    """`-c` and `--directory`: where the recordings are."""
    function = click.option(
        "-c", "--config", "config", type=click.Path(path_type=Path), envvar="BASTION_CONFIG", metavar="FILE",
        default=None, help="bastion.toml  [$BASTION_CONFIG, ./bastion.toml, /etc/bastion/bastion.toml]",
    )(function)  # fmt: skip
    return click.option(
        "--directory", type=click.Path(path_type=Path), metavar="DIR", help="Folder of recordings, instead of -c."
    )(function)


def key_option(function: Decorated) -> Decorated:
    """`--key`: what opens encrypted recordings."""
    return click.option(
        "--key", "keys", type=click.Path(path_type=Path), multiple=True, envvar="REPLAY_KEY", metavar="FILE",
        help="Auditor's private key (PEM), for encrypted recordings; may be given again.  [$REPLAY_KEY]",
    )(function)  # fmt: skip


def private_keys(files: Sequence[Path]) -> list[Any]:
    """The keys, asking for passphrases at the terminal."""
    return [place.private_key(file, lambda name=file: ask_passphrase(name)) for file in files]  # type: ignore[misc]


def ask_passphrase(file: Path) -> str:
    return str(click.prompt(f"passphrase of {neutral(str(file))}", hide_input=True, err=True))


def new_passphrase(stdin: bool) -> str:
    """Typed twice, or one line of standard input. Never from argv: `ps` shows that to everyone."""
    if stdin:
        given = sys.stdin.readline(MAX_PASSPHRASE + 2).rstrip("\r\n")
    else:
        given = str(click.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True))
    if not 1 <= len(given) <= MAX_PASSPHRASE:
        raise MisuseError(f"a passphrase has 1 to {MAX_PASSPHRASE} characters")
    return given


def is_file(name: str) -> bool:
    """True if a recording is named by its file and not by its id."""
    return "/" in name or name.endswith(".brec")


def located(name: str, config: Path | None, directory: Path | None) -> Path:
    """The file that `name` means: a path, or the start of an id."""
    from recorder.store import Store

    if is_file(name):
        path = Path(name)
        if not path.is_file():
            raise ReplayError(f"there is no file `{name}`", "list the recordings: replay ls")
        return path
    return Store(place.directory(config, directory)).find(name)


def opened(path: Path, keys: Sequence[Any]) -> "Recording":
    """The recording at `path`; RecordingError if it is none, or cannot be read."""
    from recorder.reader import open_recording

    return open_recording(path, keys)


def readable(recording: "Recording") -> "Recording":
    """The same recording; ReplayError if there is no key for what it holds."""
    if recording.private is None:
        raise ReplayError(
            f"recording {recording.session} is encrypted and no key opens it", "give an auditor's key: --key FILE"
        )
    return recording


def told(
    path: Path, config: Path | None, verb: "Verb", recording: "Recording", *, words: Sequence[str] = (),
    form: str = "", reason: str = "",
) -> "AbstractContextManager[View]":  # fmt: skip
    """The view of one recording, from when it may begin: see `replay.views`."""
    from replay import views

    home = place.home_of(path, config)
    return views.told(home, verb, [recording.session], words=words, form=form, reason=reason)


def warn(recording: "Recording") -> None:
    """Say what of it could not be read: nobody may take a damaged recording for the whole story."""
    for problem in recording.problems[:MAX_PROBLEMS]:
        print(f"replay: {neutral(problem)}", file=sys.stderr)
    if recording.problems:
        print(f"replay: it is damaged: replay verify {recording.session}", file=sys.stderr)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print cells, which are safe already."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    # a pipe gets whole lines: folding at 80 columns would cut what `grep` and `awk` look for
    Console(width=None if sys.stdout.isatty() else 1000, highlight=False).print(shown)
