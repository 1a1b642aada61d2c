"""`bastion ca`: what clients and targets have to know of us."""

import json
from pathlib import Path

import click

from bastion.cli.common import JSON, ask, config_option
from bastion.text import neutral

_WHAT = {
    "client known_hosts": "for ~/.ssh/known_hosts of people who use `ssh -J`",
    "target TrustedUserCAKeys": "for the file that TrustedUserCAKeys names in sshd_config of targets",
}


@click.command("ca")
@JSON
@config_option
def command(as_json: bool, config: Path | None) -> None:
    """Show the lines that make clients and targets trust this bastion's certificates."""
    from policy.messages import CaLines

    answer = ask(config, CaLines())
    if as_json:
        print(json.dumps([dict(zip(answer.columns, row, strict=True)) for row in answer.rows]))
        return
    for where, line in answer.rows:
        print(f"# {_WHAT.get(where, where)}\n{neutral(line)}")
