"""`bastion directory`: the directory (LDAP, Active Directory) that people come from."""

from pathlib import Path
from typing import Final

import click

from bastion.cli.common import JSON, ask, config_option, show

PATIENCE: Final = 900.0
"""Seconds: policyd reads for ten minutes at most, and takes 15 ms for each of ten thousand new persons."""


@click.group()
def command() -> None:
    """The directory (LDAP, Active Directory) that people come from; its settings stand in policy.toml."""


@command.command()
@click.option("--plan", is_flag=True, help="Show what would be changed, and change nothing.")
@JSON
@config_option
def sync(plan: bool, as_json: bool, config: Path | None) -> None:
    """Read it now, and take over who came, changed and left."""
    from policy.messages import DirectorySync

    show(ask(config, DirectorySync(plan=plan), PATIENCE), as_json)


@command.command()
@JSON
@config_option
def status(as_json: bool, config: Path | None) -> None:
    """Show when it was read last, what is wrong with it, and which of its entries are nobody here."""
    from policy.messages import DirectoryStatus

    show(ask(config, DirectoryStatus()), as_json)
