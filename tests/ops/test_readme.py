"""README.md promises commands, targets, exit codes and files: each is there, and none that scripts meet is left out."""

import re
from pathlib import Path

import click
import pytest

from bastion.cli import bastion
from bastion.errors import ExitCode
from replay.cli import replay

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def written(program: str) -> list[str]:
    """`sessions list` for each `bastion sessions list ...` in a code block or between backticks."""
    lines = re.findall(r"^    (?:sudo )?(.*)$", README, re.MULTILINE) + re.findall(r"`([^`\n]+)`", README)
    pieces = [piece.strip() for line in lines for piece in re.split(r"&&|;|# or without systemd:", line)]
    found = [re.match(rf"{program} ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", piece) for piece in pieces]
    return sorted({match[1].strip() for match in found if match})


def leads_to_a_command(group: click.Group, words: str) -> bool:
    context = click.Context(group)
    first, *rest = words.split()
    command = group.get_command(context, first)
    if command is None:
        return False
    if not isinstance(command, click.Group):
        return True
    return command.get_command(context, rest[0]) is not None if rest else command.invoke_without_command


@pytest.mark.parametrize(("program", "group"), [("bastion", bastion), ("replay", replay)])
def test_each_command_is_there(program: str, group: click.Group) -> None:
    commands = written(program)
    assert len(commands) > 5, commands
    for words in commands:
        assert leads_to_a_command(group, words), f"README: `{program} {words}` is no command"


def test_each_make_target_is_there() -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z0-9]+)", " ".join(re.findall(r"`[^`]+`|^    .*$", README, re.MULTILINE))))
    assert {"demo", "test"} <= named
    assert named <= targets | {"python3"}


def test_each_exit_code_is_there() -> None:
    sentence = README[README.index("and exits with") :].partition("\n\n")[0]
    codes = {int(number) for number in re.findall(r"\b\d+\b", sentence)}
    assert codes >= set(ExitCode)


def test_each_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
