"""`bastion run`."""

from pathlib import Path

import click

from bastion.cli.common import config_option, found_config


@click.command("run")
@config_option
def command(config: Path | None) -> int:
    """Run every process of this bastion in the foreground: recorderd, policyd, ssh workers."""
    from bastion import supervisor

    return supervisor.run(found_config(config))
