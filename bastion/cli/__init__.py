"""The `bastion` command. Each group is a file; its module is imported when the group is named."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from bastion.errors import BastionError, ExitCode, MisuseError

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "init": ("bastion.cli.init", "Make a new bastion in a folder."),
    "run": ("bastion.cli.run", "Run every process of this bastion in the foreground."),
    "check-config": ("bastion.cli.check_config", "Show everything that is wrong with bastion.toml."),
    "person": ("bastion.cli.person", "People who may log in."),
    "target": ("bastion.cli.target", "Machines behind the bastion, and their pinned host keys."),
    "account": ("bastion.cli.account", "Accounts on targets, and the credentials that open them."),
    "directory": ("bastion.cli.directory", "The directory (LDAP, Active Directory) that people come from."),
    "apply": ("bastion.cli.apply", "Make persons, targets and accounts as a file says."),
    "export-inventory": ("bastion.cli.export_inventory", "Write them as such a file."),
    "mfa": ("bastion.cli.words", "Second factors."),
    "request": ("bastion.cli.words", "Ask for leave to use an account for a time."),
    "requests": ("bastion.cli.words", "Requests for leave."),
    "approve": ("bastion.cli.words", "Say yes to a request."),
    "deny": ("bastion.cli.words", "Say no to a request."),
    "cancel": ("bastion.cli.words", "Take a request back."),
    "grants": ("bastion.cli.words", "What was granted for a time."),
    "grant": ("bastion.cli.words", "Give somebody leave without being asked."),
    "revoke": ("bastion.cli.words", "Take a grant or a token back; sessions that rest on it end."),
    "token": ("bastion.cli.words", "A secret that logs in by itself, shown once."),
    "review": ("bastion.cli.words", "Broken glass, and what was done with it."),
    "watch": ("bastion.cli.words", "Look on at a session that wants it."),
    "invite": ("bastion.cli.words", "A link with which a new person brings their own key."),
    "owner": ("bastion.cli.words", "Who owns which targets."),
    "notices": ("bastion.cli.words", "What waits for you."),
    "vault": ("bastion.cli.vault", "Secrets: kept, lent to others, checked out; and the key that opens them."),
    "application": ("bastion.cli.words", "Programs that read secrets by the broker."),
    "broker": ("bastion.cli.broker", "Secrets for applications, on standard output."),
    "backup": ("bastion.cli.backup", "A whole bastion in one encrypted file."),
    "restore": ("bastion.cli.backup", "A bastion out of such a file, or a rehearsal of it."),
    "policy": ("bastion.cli.policy", "Who may do what, and why."),
    "sessions": ("bastion.cli.sessions", "Live and past sessions."),
    "audit": ("bastion.cli.audit", "The audit trail."),
    "ca": ("bastion.cli.ca", "Lines that make clients and targets trust this bastion."),
    "version": ("bastion.cli.version", "Versions of everything that matters here."),
}
"""Name -> module and help. Listed here so that `bastion --help` imports none of them."""


class Lazy(click.Group):
    """Imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = module.command if hasattr(module, "command") else module.command_of(cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def bastion() -> None:
    """A jump host that engineers do not notice and auditors can trust.

    Exit codes: 0 done, 64 usage, 69 unreachable, 75 try again, 77 denied, 78 misconfigured.
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: errors in two lines on standard error, never a traceback."""
    try:
        code = bastion.main(argv, prog_name="bastion", standalone_mode=False)
    except BastionError as error:
        _complain(error)
        code = error.code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else error.format_message(), file=sys.stderr)
        code = ExitCode.USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "bastion"
        _complain(MisuseError(_sentence(error.format_message()), f"see {where} --help"))
        code = ExitCode.USAGE
    except click.ClickException as error:
        _complain(MisuseError(_sentence(error.format_message())))
        code = ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        # the reader went away (`bastion audit list | head`); Python would complain again when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        if os.environ.get("BASTION_DEBUG"):
            raise
        _complain(BastionError(f"internal error: {_where(error)}", "BASTION_DEBUG=1 shows the details"))
        code = os.EX_SOFTWARE
    sys.exit(int(code) if isinstance(code, int) else 0)


def _complain(error: BastionError) -> None:
    from bastion.text import neutral

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
    return f"{type(error).__name__}{place}"  # the text may hold a secret, the place does not
