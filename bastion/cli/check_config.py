"""`bastion check-config`."""

import json
from pathlib import Path

import click

from bastion.cli.common import JSON, check_rules, config_option, found_config
from bastion.errors import ExitCode
from bastion.text import neutral


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@JSON
@config_option
def command(file: Path | None, as_json: bool, config: Path | None) -> int:
    """Show everything that is wrong with bastion.toml, policy.toml and the files they name."""
    from dataclasses import asdict

    from bastion.config import check

    path = file or found_config(config)
    problems = check(path)
    # policyd takes nothing from a file that does not hold, so its own complaint would only say the same again
    rules = [] if problems else check_rules(path)[0]
    if as_json:
        print(json.dumps([*(asdict(problem) for problem in problems), *map(_rule_problem, rules)]))
    else:
        for line in (*map(str, problems), *rules):
            print(neutral(line))
        if not problems and not rules:
            print(f"{path}: fine")
    return ExitCode.MISCONFIGURED if problems or rules else 0


def _rule_problem(line: str) -> dict[str, object]:
    """`policy.toml:3: text` in the form of the others."""
    file, _, rest = line.partition(":")
    number, _, text = rest.partition(":")
    found = int(number) if number.isdigit() else 0
    return {"file": file, "line": found, "key": "", "text": (text if found else rest).strip()}
