"""The `replay` command. Each command is a file; its module is imported when the command is named."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from replay.errors import ExitCode, MisuseError, ReplayError
from replay.text import neutral

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "ls": ("replay.cli.ls", "List recordings, newest first."),
    "show": ("replay.cli.show", "What happened in one session."),
    "play": ("replay.cli.play", "Watch a session as it went, or print it."),
    "verify": ("replay.cli.verify", "Prove that recordings are whole and unaltered."),
    "export": ("replay.cli.export", "Write a recording as asciicast, text or JSON lines."),
    "keygen": ("replay.cli.keygen", "Make the key pair of an auditor."),
}
"""Name -> module and help. Listed here so that `replay --help` imports none of them."""


class Lazy(click.Group):
    """Imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def replay() -> None:
    """List, watch, export and verify what a bastion recorded.

    A recording is named by its id, by the first characters of it, or by its file.

    Before anything of a recording is shown, the bastion writes down who looks; where it cannot, nothing is shown.

    Exit codes: 0 done, 64 usage, 69 no such recording or not readable, 77 denied, 78 misconfigured; `verify` has its
    own.
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: errors in two lines on standard error, never a traceback."""
    try:
        code = replay.main(argv, prog_name="replay", standalone_mode=False)
    except ReplayError as error:
        _complain(error)
        code = error.code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "replay"
        _complain(MisuseError(_sentence(error.format_message()), f"see {where} --help"))
        code = ExitCode.USAGE
    except click.ClickException as error:
        _complain(MisuseError(_sentence(error.format_message())))
        code = ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        # the reader went away (`replay ls | head`); Python would complain again when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        from recorder.reader import RecordingError

        if isinstance(error, RecordingError):
            _complain(ReplayError(error.cause, error.hint))
            sys.exit(ExitCode.UNREACHABLE)
        if os.environ.get("BASTION_DEBUG"):
            raise
        _complain(ReplayError(f"internal error: {_where(error)}", "BASTION_DEBUG=1 shows the details"))
        code = os.EX_SOFTWARE
    sys.exit(int(code) if isinstance(code, int) else 0)


def _complain(error: ReplayError) -> None:
    for line in error.lines():
        print(neutral(line), file=sys.stderr)


def _sentence(text: str) -> str:
    """click's messages in our form: lower case, no full stop, `names` in backticks."""
    text = text.strip().rstrip(".").replace("'", "`")
    return text[:1].lower() + text[1:]


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{place}"  # the text may hold what is confidential, the place does not
