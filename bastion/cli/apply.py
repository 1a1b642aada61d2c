"""`bastion apply`: persons, targets and accounts as one file says."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bastion.cli.common import JSON, all_pages, config_option, talk
from bastion.errors import BastionError, MisuseError
from bastion.text import neutral

if TYPE_CHECKING:
    from bastion.control import Operator
    from bastion.inventory import Plan, Present, Step, Wanted

MOST_SHOWN = 20
"""Names of one list in words; the rest is counted."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--plan", "only_plan", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--prune", is_flag=True, help="Remove what the file does not name: accounts, targets, persons.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the audit trail.  [apply FILE]")
@JSON
@config_option
def command(
    file: Path, only_plan: bool, prune: bool, yes: bool, reason: str, as_json: bool, config: Path | None
) -> int:
    """Make persons, targets and accounts as FILE says. A second time there is nothing left to do.

    It stops at the first refusal, and says what was done and what was not.
    """
    from bastion import inventory
    from bastion.cli.account import public_line

    text, wanted = _read(file)
    keys = _keys(wanted, file.parent)
    prints = {name: inventory.fingerprint(public_line(key)) for name, key in keys.items()}
    with talk(config) as operator:
        plan = inventory.plan(wanted, present(operator), prints, prune=prune, reason=reason or f"apply {file.name}")
        if plan.problems:
            from bastion.inventory_file import told

            raise _bad(told(text, str(file), list(plan.problems)))
        _show(plan, as_json)
        if only_plan or not plan.steps:
            return 0
        if not yes:
            _confirm(plan)
        _apply(operator, plan, keys, file.parent)
    print(f"{_counted(len(plan.steps), 'change')} made", file=sys.stderr)
    return 0


# --- reading ------------------------------------------------------------------------------------------


def _read(file: Path) -> "tuple[str, Wanted]":
    from bastion.inventory_file import MAX_TEXT, BadInventory, read

    try:
        with file.open("rb") as handle:
            data = handle.read(4 * MAX_TEXT)
        text = data.decode()
    except OSError as error:
        raise MisuseError(f"cannot read `{file}`: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise MisuseError(f"`{file}` is not text") from None
    try:
        return text, read(text, str(file))
    except BadInventory as error:
        raise _bad(error.problems) from None


def _bad(problems: list[str]) -> MisuseError:
    for line in problems[:-1]:
        print(f"bastion: {neutral(line)}", file=sys.stderr)
    return MisuseError(problems[-1], "nothing was changed")


def _keys(wanted: "Wanted", folder: Path) -> dict[str, str]:
    """The private keys that accounts name, by file: read once, since one may ask for its passphrase."""
    from bastion.cli.account import private_key
    from bastion.inventory import Opened

    accounts = [account for target in wanted.targets.values() for account in (target.accounts or {}).values()]
    files = {account.file for account in accounts if account.opened is Opened.KEY}
    return {name: private_key(_path(name, folder)) for name in sorted(files)}


def present(operator: "Operator") -> "Present":
    from bastion.inventory import Present
    from policy.messages import Inventory

    persons, targets, accounts = (
        all_pages(operator, Inventory(kind=kind)).rows for kind in ("persons", "targets", "accounts")
    )
    return Present.read(persons, targets, accounts)


# --- showing ------------------------------------------------------------------------------------------


def _show(plan: "Plan", as_json: bool) -> None:
    if as_json:
        steps = [{"sign": step.sign, "what": step.what, "detail": list(step.detail)} for step in plan.steps]
        print(json.dumps({"changes": steps, "not in the file": list(plan.beside)}))
        return
    colours = {"+": "32", "~": "33", "-": "31"} if sys.stdout.isatty() else {}
    for step in plan.steps:
        line = neutral(f"{step.sign} {step.what}")
        print(f"\x1b[{colours[step.sign]}m{line}\x1b[0m" if colours else line)
        for detail in step.detail:
            print(f"    {neutral(detail)}")
    if plan.beside:
        print(f"not in the file, and left alone (--prune removes them): {_some(plan.beside)}", file=sys.stderr)
    signs = [step.sign for step in plan.steps]
    print(
        f"{signs.count('+')} to add, {signs.count('~')} to change, {signs.count('-')} to remove"
        if signs
        else "nothing to change",
        file=sys.stderr,
    )


def _confirm(plan: "Plan") -> None:
    if not sys.stdin.isatty():
        raise MisuseError("nobody is there to confirm this", "say --yes, or look first with --plan")
    if not click.confirm(f"Make {_counted(len(plan.steps), 'change')}?", err=True):
        raise MisuseError("nothing was changed")


def _some(names: Iterable[str]) -> str:
    words = [neutral(name) for name in names]
    more = f" and {len(words) - MOST_SHOWN} more" if len(words) > MOST_SHOWN else ""
    return ", ".join(words[:MOST_SHOWN]) + more


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# --- doing --------------------------------------------------------------------------------------------


def _apply(operator: "Operator", plan: "Plan", keys: dict[str, str], folder: Path) -> None:
    done = 0
    try:
        for step in _with_progress(plan.steps):
            for one in _commands(step, keys, folder):
                operator.ask(one)
            done += 1
    except BastionError as error:
        left = [f"{step.sign} {step.what}" for step in plan.steps[done:]]
        print(f"bastion: made: {_counted(done, 'change')}; not made: {_some(left)}", file=sys.stderr)
        hint = error.hint or "put it right, and apply the file again: what is done is not done twice"
        error.args = (f"stopped at {plan.steps[done].what}: {error.cause}",)
        error.cause, error.hint = error.args[0], hint
        raise


def _commands(step: "Step", keys: dict[str, str], folder: Path) -> list[Any]:
    """With the secret, which is read before the first of them is sent: a file that is not there removes no account."""
    if step.secret is None:
        return list(step.commands)
    import msgspec

    from bastion.cli.common import read_file, read_secret
    from bastion.inventory import Opened

    *before, last = step.commands
    name = step.secret.file
    if step.secret.opened is Opened.KEY:
        return [*before, msgspec.structs.replace(last, private_key=keys[name])]
    given = read_secret(step.what) if name == "-" else read_file(_path(name, folder))
    if not (secret := given.partition("\n")[0].rstrip("\r")):
        raise MisuseError(f"the password in `{name}` is empty", f"write it there: it opens {step.what}")
    return [*before, msgspec.structs.replace(last, password=secret)]


def _path(name: str, folder: Path) -> str:
    return name if name == "-" else str(folder / name)


def _with_progress(steps: "tuple[Step, ...]") -> "Iterable[Step]":
    if not sys.stderr.isatty() or len(steps) < MOST_SHOWN:
        return steps
    from rich.console import Console
    from rich.progress import track

    return track(steps, description="applying", console=Console(stderr=True))
