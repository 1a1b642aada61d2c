"""`bastion policy`: who may do what, and why."""

import json
import sys
from pathlib import Path

import click

from bastion.cli.common import (
    JSON,
    REASON,
    account_at,
    ask,
    check_rules,
    config_option,
    found_config,
    pages,
    run_policy,
    show,
)  # fmt: skip
from bastion.errors import ExitCode
from bastion.text import neutral


@click.group()
def command() -> None:
    """Who may do what, and why."""


@command.command()
@click.argument("person")
@click.argument("place", metavar="ACCOUNT@TARGET")
@click.option("--channel", default="shell", show_default=True, help="shell, exec, sftp, scp, forward-local, ...")
@click.option("--at", default="", metavar="TIME", help="RFC 3339; now when left out.")
@click.option("--from", "source", default="", metavar="ADDRESS", help="Where the person would come from.")
@JSON
@config_option
def explain(person: str, place: str, channel: str, at: str, source: str, as_json: bool, config: Path | None) -> None:
    """Would this be allowed, by which rule, and what does each other rule miss."""
    from policy.messages import Explain

    account, target = account_at(place)
    question = Explain(person=person, account=account, target=target, channel=channel, at=at, source=source)
    show(ask(config, question), as_json)


@command.command()
@REASON
@JSON
@config_option
def reload(reason: str, as_json: bool, config: Path | None) -> None:
    """Read policy.toml again. A bad file changes nothing, and is answered with what is wrong."""
    from policy.messages import Reload

    show(ask(config, Reload(reason=reason)), as_json)


@command.command()
@click.argument("file", required=False)
@JSON
@config_option
def check(file: str | None, as_json: bool, config: Path | None) -> int:
    """Show everything that is wrong with policy.toml and the key files beside it, or with another file of rules."""
    problems, said = check_rules(found_config(config), file)
    if as_json:
        print(json.dumps(problems))
    else:
        print("\n".join(map(neutral, problems)) or neutral(said))
    return ExitCode.MISCONFIGURED if problems else 0


@command.command("who-can")
@click.argument("target")
@click.option("--account", default="", help="Only this account.")
@click.option("--channel", default="", help="Only by this: shell, exec, sftp, ...")
@JSON
@config_option
def who_can(target: str, account: str, channel: str, as_json: bool, config: Path | None) -> None:
    """Show who may come to a target, by which rule, and with what in hand."""
    from policy.messages import WhoCan

    show(pages(config, WhoCan(target=target, account=account, channel=channel)), as_json)


@command.command("what-can")
@click.argument("person")
@click.option("--channel", default="", help="Only by this: shell, exec, sftp, ...")
@JSON
@config_option
def what_can(person: str, channel: str, as_json: bool, config: Path | None) -> None:
    """Show which accounts a person may come to, by which rule, and with what in hand."""
    from policy.messages import WhatCan

    show(pages(config, WhatCan(person=person, channel=channel)), as_json)


@command.command()
@click.argument("cases")
@click.option("--rules", default="", metavar="FILE", help="Rules to try in place of those in force.")
@JSON
@config_option
def test(cases: str, rules: str, as_json: bool, config: Path | None) -> int:
    """Try CASES, a TOML file of what the rules have to answer; exit status 1 if one is answered otherwise."""
    words = [cases, *(["--rules", rules] if rules else [])]
    problems, said = run_policy("test", *words, config=found_config(config))
    if problems:
        return _show_problems(problems, as_json)
    verdicts = json.loads(said)
    misses = [one for one in verdicts if not one["ok"]]
    if as_json:
        print(said)
    else:
        rows = [[str(one["line"]), one["case"], one["want"], one["got"], one["detail"]] for one in misses]
        if rows:
            _table(["line", "case", "want", "got", "why"], rows)
        print(f"{len(verdicts) - len(misses)} of {len(verdicts)} cases are answered as written")
    return 1 if misses else 0


@command.command()
@click.argument("old")
@click.argument("new", required=False)
@JSON
@config_option
def diff(old: str, new: str | None, as_json: bool, config: Path | None) -> int:
    """Show who gains (+), loses (-) or gets otherwise (~) what, when rules NEW follow rules OLD.

    Without NEW the rules in force are taken. Persons, targets and accounts are those of the database.
    """
    problems, said = run_policy("diff", old, *([new] if new else []), config=found_config(config))
    if problems:
        return _show_problems(problems, as_json)
    if as_json:
        print(said)
        return 0
    rows = []
    for one in json.loads(said):
        signs = {"+": one["gained"], "-": one["lost"], "~": one["otherwise"]}
        kinds = [f"{sign} {' '.join(names)}" for sign, names in signs.items() if names]
        ways = f"{'; '.join(one['before']) or 'nothing'} -> {'; '.join(one['after']) or 'nothing'}"
        rows.append([_several(one["persons"]), _several(one["places"]), ", ".join(kinds), ways])
    if rows:
        _table(["persons", "accounts", "channels", "by"], rows)
    else:
        print("nobody gains or loses anything")
    return 0


def _table(columns: list[str], rows: list[list[str]]) -> None:
    from policy.messages import Rows

    show(Rows(columns=columns, rows=rows), False)


def _several(names: list[str]) -> str:
    shown = " ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _show_problems(problems: list[str], as_json: bool) -> int:
    print(json.dumps({"problems": problems}) if as_json else "\n".join(map(neutral, problems)), file=sys.stderr)
    return ExitCode.MISCONFIGURED
