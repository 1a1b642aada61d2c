"""`bastion export-inventory`: what there is, as a file for `bastion apply`."""

import sys
from pathlib import Path

import click

from bastion.cli.common import config_option, talk


@click.command()
@config_option
def command(config: Path | None) -> None:
    """Write persons, targets and accounts as a file for `bastion apply`. Secrets stay where they are."""
    from bastion.cli.apply import present
    from bastion.inventory_file import written

    with talk(config) as operator:
        sys.stdout.write(written(present(operator)))
