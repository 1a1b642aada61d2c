"""`bastion request`, `bastion approve`, ...: what can be said over ssh, said by an operator on this machine.

The grammar is the one of `ssh bastion WORDS` (`bastion.words`), so that what is learned there holds here.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bastion.cli.common import found_config, read_value, show, talk
from bastion.errors import Denied, ExitCode, MisuseError
from bastion.text import neutral
from bastion.vocabulary import VOCABULARY
from bastion.vocabulary_vault import BINARY
from bastion.words import Said, Word, help_of, parse
from policy.messages import Done, MfaEnrol, RequestAwait, SecretAdd, SecretSet

if TYPE_CHECKING:
    from bastion.control import Operator

HERE: Final[dict[str, Word]] = {name: word for name, word in VOCABULARY.items() if word.here}
PROGRAM: Final = "bastion"
AWAIT: Final = 25.0
"""Seconds of one RequestAwait; policyd takes up to 30."""
_CONFIG: Final = ("-c", "--config")


class Words(click.Command):
    """Everything behind the name is read by `bastion.words`, and not by click."""

    def __init__(self, name: str) -> None:
        super().__init__(name, add_help_option=False)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = []
        config, words = _config(args)
        ctx.params = {"config": config, "words": [self.name or "", *words]}
        return []

    def invoke(self, ctx: click.Context) -> Any:
        return run(ctx.params["words"], ctx.params["config"])


class Group(click.Group):
    """`bastion review list`: each of its words is a command of its own."""

    def __init__(self, name: str) -> None:
        members = [full for full in HERE if full.startswith(f"{name} ")]
        super().__init__(name, commands={full.split()[1]: Words(full.split()[1]) for full in members})
        for command in self.commands.values():
            command.short_help = HERE[f"{name} {command.name}"].about
            command.invoke = within(name, command)  # type: ignore[method-assign]


def within(group: str, command: click.Command) -> Any:
    def invoke(ctx: click.Context) -> Any:
        return run([group, *ctx.params["words"]], ctx.params["config"])

    return invoke


def command_of(name: str) -> click.Command:
    """What click knows of a word."""
    return Words(name) if name in HERE else Group(name)


def _config(args: Sequence[str]) -> tuple[Path | None, list[str]]:
    """`-c FILE` is no word of the grammar: it says which bastion is spoken to."""
    words = list(args)
    for at, word in enumerate(words):
        if word in _CONFIG:
            if at + 1 == len(words):
                raise MisuseError(f"`{word}` names no file", "name it: -c bastion.toml")
            return Path(words[at + 1]), words[:at] + words[at + 2 :]
        if word.startswith("--config="):
            return Path(word.partition("=")[2]), words[:at] + words[at + 1 :]
    return None, words


def run(words: Sequence[str], config: Path | None) -> None:
    said = parse(HERE, words, PROGRAM)
    if said.help:
        print(help_of(said.word, PROGRAM))
        print("  -c, --config FILE  which bastion; else $BASTION_CONFIG, ./bastion.toml, /etc/bastion/bastion.toml")
        return
    assert said.word.ask is not None
    question = said.word.ask(said.given)
    if isinstance(question, SecretAdd | SecretSet) and question.value is not None:
        question.value = read_value(question.name, binary=said.given.has(BINARY))
    with talk(found_config(config)) as policyd:
        answer = policyd.ask(question)
        as_json = said.given.has("--json")
        if isinstance(question, MfaEnrol) and isinstance(answer, Done) and not as_json and sys.stdout.isatty():
            from bastion.present import qr

            print(qr(answer.data.get("uri", "")), end="")
        show(answer, as_json)
        _go_on(policyd, said, answer, as_json)


def _go_on(policyd: "Operator", said: Said, answer: Any, as_json: bool) -> None:
    """What is not over with the first answer."""
    if said.word.name == "watch":
        sys.stdout.flush()  # a pipe would keep it until the end
        print("ctrl-c ends it", file=sys.stderr)
        try:
            print(f"bastion: {neutral(policyd.until_over(said.given.rest[0]))}", file=sys.stderr)
        except KeyboardInterrupt:
            return  # policyd takes the end of the conversation for it
    if said.given.has("--wait") and isinstance(answer, Done) and answer.data.get("state") == "pending":
        request = answer.data["request"]
        while answer.data.get("state") == "pending":
            answer = policyd.ask(RequestAwait(request=request, seconds=AWAIT))
        show(answer, as_json)
        if answer.data.get("state") != "approved":
            raise Denied(f"request `{request}` was not approved", "see: bastion requests --all", code=ExitCode.DENIED)
