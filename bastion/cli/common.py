"""What the groups share: options, asking policyd, showing answers, reading secrets."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from bastion.errors import MisuseError
from bastion.text import neutral

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from bastion.control import Operator

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

MAX_SECRET: Final = 1024
"""Characters of a password; the limit of the login itself."""

MAX_KEY_FILE: Final = 64 * 1024
"""Bytes of a key file; what policyd takes in one message."""

DEFAULT_CONFIGS: Final = ("bastion.toml", "/etc/bastion/bastion.toml")

JSON: Final = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
REASON: Final = click.option("--reason", default="", metavar="TEXT", help="Why, for the audit trail.")
PASSWORD_STDIN: Final = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


def config_option(function: Decorated) -> Decorated:
    """`-c FILE`, else $BASTION_CONFIG, else ./bastion.toml, else /etc/bastion/bastion.toml."""
    return click.option(
        "-c", "--config", "config", type=click.Path(path_type=Path), envvar="BASTION_CONFIG", metavar="FILE",
        default=None, help="bastion.toml  [$BASTION_CONFIG, ./bastion.toml, /etc/bastion/bastion.toml]",
    )(function)  # fmt: skip


def found_config(config: Path | None) -> Path:
    """The file that is meant; MisuseError when there is none."""
    if config is not None:
        return config
    for name in DEFAULT_CONFIGS:
        if os.path.exists(name):
            return Path(name)
    raise MisuseError("no bastion.toml here", "name one with -c FILE, or make one: bastion init DIR")


def ask(config: Path | None, command: Any, patience: float | None = None) -> Any:
    """Send one command to policyd; its Rows or Done. `patience`: seconds, for what takes long."""
    with talk(config, patience) as operator:
        return operator.ask(command)


def pages(config: Path | None, first: Any) -> Any:
    """All Rows of a list: `first` asked, and asked again for what follows, in one conversation."""
    with talk(config) as operator:
        return all_pages(operator, first)


def all_pages(operator: "Operator", first: Any) -> Any:
    """The same in a conversation that goes on."""
    import msgspec

    from policy.messages import Rows

    rows: list[list[str]] = []
    question = first
    while True:
        page = operator.ask(question)
        assert isinstance(page, Rows)
        rows += page.rows
        # What policyd says to go on with is not what we went on with before: a list without end would fill the memory.
        if not page.next or page.next == question.after:
            return Rows(columns=page.columns, rows=rows, note=page.note)
        question = msgspec.structs.replace(question, after=page.next)


def talk(config: Path | None, patience: float | None = None) -> "AbstractContextManager[Operator]":
    """For several commands of one conversation with policyd."""
    from bastion import config as configuration
    from bastion import control

    settings = configuration.load(found_config(config))
    start = f"bastion run -c {settings.path}"
    if settings.path.is_relative_to("/etc"):
        start = "systemctl start bastion.target"
    said = " ".join(["bastion", *sys.argv[1:]])
    return control.talk(settings.run, said, start=start, patience=patience or control.PATIENCE)


def check_rules(config: Path, file: str | None = None) -> tuple[list[str], str]:
    """What policyd finds wrong with the rules and the files beside them, and what it says when nothing is."""
    return run_policy("check", *([file] if file else []), config=config)


def run_policy(command: str, *words: str, config: Path) -> tuple[list[str], str]:
    """Problems, or what `python -m policy COMMAND` prints: the rules are policy's to read, and not ours."""
    import subprocess

    line = [sys.executable, "-m", "policy", command, "--config", str(config), *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    problems = [text for text in done.stderr.splitlines() if text.strip()] if done.returncode else []
    return problems or ["policyd cannot read the rules"] * (done.returncode != 0), done.stdout.strip()


def show(answer: Any, as_json: bool) -> None:
    """Rows as a table, Done as a sentence; JSON has the same facts."""
    from bastion import present
    from policy.messages import Revealed, Rows

    if as_json:
        print(present.as_json(answer))
        return
    if isinstance(answer, Revealed) and not sys.stdout.isatty():
        sys.stdout.buffer.write(answer.value)  # every byte, and nothing else: it may go to a file
        sys.stdout.buffer.flush()
        print(f"bastion: {neutral(answer.text)}", file=sys.stderr)
        return
    # a pipe gets whole lines: folding at 80 columns would cut what `grep` and `awk` look for
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(present.as_text(answer, width), end="")
    if isinstance(answer, Revealed):
        print(f"bastion: {neutral(answer.text)}", file=sys.stderr)
    if isinstance(answer, Rows) and (note := answer.note or ("" if answer.rows else "nothing to show")):
        print(neutral(note), file=sys.stderr)


def read_secret(prompt: str) -> str:
    """One line from standard input, or typed twice at a terminal. Never from argv: `ps` shows that to everyone."""
    if sys.stdin.isatty():
        secret = str(click.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True))
    else:
        secret = sys.stdin.readline(MAX_SECRET + 2).rstrip("\r\n")
    if not secret:
        raise MisuseError("the password is empty", "give it on standard input: --password-stdin < FILE")
    if len(secret) > MAX_SECRET:
        raise MisuseError(f"the password is longer than {MAX_SECRET} characters")
    return secret


def read_value(name: str, *, binary: bool) -> bytes:
    """A secret from standard input, or typed twice at a terminal."""
    from bastion.values import MAX_VALUE, brought

    if sys.stdin.isatty() and not binary:
        return brought(
            str(click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True, err=True)).encode(),
            binary=binary,
        )
    return brought(sys.stdin.buffer.read(MAX_VALUE + 1), binary=binary)


def read_file(name: str) -> str:
    """A small text file, or standard input for `-`."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_KEY_FILE + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_KEY_FILE + 1)
        text = data.decode()
    except OSError as error:
        raise MisuseError(f"cannot read `{name}`: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise MisuseError(f"`{name}` is not text") from None
    if len(data) > MAX_KEY_FILE:
        raise MisuseError(f"`{name}` is larger than {MAX_KEY_FILE // 1024} KiB")
    return text


def key_lines(names: tuple[str, ...]) -> list[str]:
    """Public keys, one authorized_keys line each, from files as `ssh-keygen` and `authorized_keys` have them."""
    lines: list[str] = []
    for name in names:
        text = read_file(name)
        if "PRIVATE KEY" in text:
            raise MisuseError(f"`{name}` is a private key", f"give the public one: --key {name}.pub")
        found = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if not found:
            raise MisuseError(f"no public key in `{name}`", "make one: ssh-keygen -t ed25519")
        lines += found
    return lines


def labels(pairs: tuple[str, ...]) -> dict[str, str]:
    """`("env=prod", ...)` -> a map; MisuseError for a pair without `=` or a name given twice."""
    result: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise MisuseError(f"`{pair}` is not a label", "write it as --label env=prod")
        if name in result:
            raise MisuseError(f"label `{name}` is given twice")
        result[name] = value
    return result


def account_at(text: str) -> tuple[str, str]:
    """`root@web1` -> account and target; the account may hold `@` itself."""
    account, _, target = text.rpartition("@")
    if not account or not target:
        raise MisuseError(
            f"`{text}` does not name an account on a target", "write it as ACCOUNT@TARGET, like root@web1"
        )
    return account, target
