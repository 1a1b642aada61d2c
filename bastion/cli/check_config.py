"""`bastion check-config`."""

import json
from pathlib import Path

import click

from bastion.cli.common import JSON, config_option, found_config, neutral
from bastion.errors import ExitCode


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@JSON
@config_option
def command(file: Path | None, as_json: bool, config: Path | None) -> int:
    """Show everything that is wrong with bastion.toml and the files it names."""
    from dataclasses import asdict

    from bastion.config import check

    path = file or found_config(config)
    problems = check(path)
    if as_json:
        print(json.dumps([asdict(problem) for problem in problems]))
    else:
        for problem in problems:
            print(neutral(str(problem)))
        if not problems:
            print(f"{path}: fine")
    return ExitCode.MISCONFIGURED if problems else 0
