"""`bastion vault unlock`: the passphrase that policyd waits for after each start, if its vault is behind one."""

import sys
from pathlib import Path
from typing import Final

import click

from bastion.cli.common import JSON, MAX_SECRET, ask, config_option, show
from bastion.errors import MisuseError

PATIENCE: Final = 300.0
"""Seconds. One try takes one; after wrong ones policyd lets each wait for up to a minute, one after the other."""


@click.command()
@click.option("--passphrase-stdin", is_flag=True, help="Read the passphrase from standard input.")
@JSON
@config_option
def unlock(config: Path | None, passphrase_stdin: bool, as_json: bool) -> None:
    """Open the vault of a policyd that waits for its passphrase.

    It is typed without being shown, or read from the first line of standard input; there is no option for it,
    since everybody on the machine can read the words of a command.
    """
    from policy.messages import VaultUnlock

    if passphrase_stdin or not sys.stdin.isatty():
        typed = sys.stdin.readline(MAX_SECRET + 2).rstrip("\r\n")
    else:
        typed = str(click.prompt("passphrase of the vault", hide_input=True, err=True))
    if not 0 < len(typed) <= MAX_SECRET:
        raise MisuseError(f"the passphrase has {len(typed)} characters, want 1 to {MAX_SECRET}")
    show(ask(config, VaultUnlock(passphrase=typed.encode()), PATIENCE), as_json)
