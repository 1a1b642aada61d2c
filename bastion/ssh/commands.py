"""`ssh bastion WORDS`: what a person can ask the bastion itself, with their own rights and nothing but ssh."""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import Any, Final

import segno

from bastion.errors import BastionError, ExitCode, MisuseError
from bastion.present import as_json, as_text
from bastion.ssh.local import LocalChannel
from bastion.ssh.upstream import refused
from policy.messages import (
    AuditList,
    AuditShow,
    AuditVerify,
    CaLines,
    Done,
    MfaEnrol,
    MfaList,
    MfaReset,
    Reachable,
    Rows,
    SessionKill,
    SessionsList,
    Whoami,
)

MAX_WORDS: Final = 64
"""Words of one command."""
_FLAGS: Final = {"--json", "--all", "--help", "-h"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A command taken apart: positional words, flags, and options with a value."""

    rest: list[str]
    flags: set[str]
    options: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`request` makes the question for policyd; None where the answer is ours."""

    usage: str
    text: str
    request: Callable[[Words], Any] | None = None
    least: int = 0
    most: int = 0
    options: frozenset[str] = frozenset()


def _mfa(words: Words) -> Any:
    action, *names = words.rest
    person = names[0] if names else ""
    match action:
        case "list":
            return MfaList(person=person)
        case "enrol" if person:
            return MfaEnrol(person=person)
        case "reset" if person:
            return MfaReset(person=person)
    raise MisuseError(f"`mfa {action}` is not understood", "use: mfa list | mfa enrol PERSON | mfa reset PERSON")


def _audit(words: Words) -> Any:
    action, *names = words.rest
    match action:
        case "list":
            return AuditList(what=names[0] if names else "")
        case "show" if names:
            return AuditShow(ident=names[0])
        case "verify" if not names:
            return AuditVerify()
    raise MisuseError(f"`audit {action}` is not understood", "use: audit list [NAME] | audit show ID | audit verify")


def _kill(words: Words) -> Any:
    if not words.options.get("--reason"):
        raise MisuseError("a reason is needed: the person is shown it", "use: kill SESSION --reason TEXT")
    return SessionKill(session=words.rest[0], reason=words.options["--reason"])


COMMANDS: Final[dict[str, Command]] = {
    "help": Command(usage="help", text="this list"),
    "ls": Command(usage="ls", text="targets and accounts you may use", request=lambda _: Reachable()),
    "whoami": Command(usage="whoami", text="who you are here, and how that was proven", request=lambda _: Whoami()),
    "config": Command(usage="config", text="lines for your ~/.ssh/config and known_hosts", request=lambda _: CaLines()),
    "ca": Command(usage="ca", text="public keys of this bastion's CAs", request=lambda _: CaLines()),
    "sessions": Command(usage="sessions [--all]", text="live sessions; ended ones too with --all (security)",
                        request=lambda words: SessionsList(all="--all" in words.flags)),
    "kill": Command(usage="kill SESSION --reason TEXT", text="end a session now (security)", request=_kill,
                    least=1, most=1, options=frozenset({"--reason"})),
    "audit": Command(usage="audit list [NAME] | show ID | verify", request=_audit, least=1, most=2,
                     text="who did what, viewed what; NAME: a person, target, account@target, session (security)"),
    "mfa": Command(usage="mfa list [PERSON] | enrol PERSON | reset PERSON", text="second factors", request=_mfa,
                   least=1, most=2),
}  # fmt: skip


async def run(channel: LocalChannel, policy: Any, address: str) -> None:
    """Answer the channel's command and set its exit status. `address` is how people reach this bastion."""
    assert channel.command is not None
    try:
        words = _split(channel.command)
        name, command = _find(words)
        if "--help" in words.flags or "-h" in words.flags or name == "help":
            channel.write(_help(name, words).encode())
            return channel.exit(0)
        assert command.request is not None
        answer = await policy.ask(command.request(words))
        if not isinstance(answer, Rows | Done):
            raise refused(answer)
        _show(channel, name, answer, words, address)
        channel.exit(0)
    except BastionError as error:
        channel.write_error("".join(f"{line}\n" for line in error.lines()).encode())
        channel.exit(int(error.code))
    await channel.drain()


def refuse_no_target(channel: LocalChannel) -> None:
    """Neither a target, nor words, nor a terminal for the menu."""
    error = MisuseError("no target is named, and there is no terminal to choose one", "use: ssh account@target@bastion")
    channel.write_error("".join(f"{line}\n" for line in error.lines()).encode())
    channel.exit(int(ExitCode.USAGE))


def _split(command: bytes) -> Words:
    # ssh joins words with blanks and drops the quotes around them: nothing is left that a shell's rules could read.
    try:
        parts = command.decode().split()
    except UnicodeDecodeError:
        raise MisuseError("the command is not understood", "see: ssh bastion help") from None
    if not parts or len(parts) > MAX_WORDS:
        raise MisuseError("the command is not understood", "see: ssh bastion help")
    rest: list[str] = []
    flags: set[str] = set()
    options: dict[str, str] = {}
    for number, word in enumerate(parts):
        if word in _FLAGS:
            flags.add(word)
        elif word.startswith("--"):
            # An option takes the rest of the line: `--reason left an hour ago`.
            key, _, value = word.partition("=")
            options[key] = " ".join([*([value] if value else []), *parts[number + 1 :]])
            break
        else:
            rest.append(word)
    return Words(rest=rest, flags=flags, options=options)


def _find(words: Words) -> tuple[str, Command]:
    name = words.rest.pop(0) if words.rest else "help"
    command = COMMANDS.get(name)
    if command is None:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean: ssh bastion {close[0]}" if close else "see: ssh bastion help"
        raise MisuseError(f"`{name[:64]}` is no command of the bastion, and no target is named", meant)
    unknown = sorted(set(words.options) - command.options)
    if unknown and "--help" not in words.flags:
        raise MisuseError(f"`{name}` has no option `{unknown[0][:64]}`", f"use: {command.usage}")
    if not command.least <= len(words.rest) <= command.most and name != "help" and "--help" not in words.flags:
        raise MisuseError(f"`{name}` is used otherwise", f"use: {command.usage}")
    return name, command


def _help(name: str, words: Words) -> str:
    if name != "help":
        command = COMMANDS[name]
        return f"ssh bastion {command.usage}\n  {command.text}\n"
    if "--json" in words.flags:
        return json.dumps({key: {"usage": one.usage, "text": one.text} for key, one in COMMANDS.items()}) + "\n"
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = ["a session:   ssh [person@]account@target@bastion      or  ssh -J bastion account@target",
             "a file:      scp FILE account@target@bastion:PATH      sftp, rsync, git, ansible alike",
             "a choice:    ssh -t bastion", "", "ssh bastion ..."]  # fmt: skip
    lines += [f"  {command.usage:<{width}}  {command.text}" for command in COMMANDS.values()]
    lines += ["", "each of them with --json and --help"]
    return "\n".join(lines) + "\n"


def _show(channel: LocalChannel, name: str, answer: Rows | Done, words: Words, address: str) -> None:
    terminal = channel.terminal
    if "--json" in words.flags:
        text = as_json(answer) + "\n"
    elif isinstance(answer, Rows) and name == "ca":
        text = "".join(f"# {where}\n{line}\n" for where, line in answer.rows)
    elif isinstance(answer, Rows) and name == "config":
        text = _client_config(answer, address)
    else:
        text = as_text(answer, terminal.columns or 80 if terminal else None)
        if terminal and isinstance(answer, Done) and (uri := answer.data.get("uri", "")).startswith("otpauth://"):
            text = _qr(uri) + text
        if isinstance(answer, Rows) and (note := answer.note or ("" if answer.rows else "nothing to show")):
            channel.write_error(f"{note}\n".encode())
    channel.write((text.replace("\n", "\r\n") if terminal else text).encode())


def _client_config(answer: Rows, address: str) -> str:
    host, _, port = address.rpartition(":") if address.count(":") == 1 else (address, "", "")
    lines = ["# ~/.ssh/config: then `ssh -J bastion root@web1`, or `ssh root@web1@bastion`", "Host bastion",
             f"    HostName {host or 'ADDRESS-OF-THE-BASTION'}", f"    Port {port or 22}", "",
             "# ~/.ssh/known_hosts: vouches for every target behind the bastion"]  # fmt: skip
    lines += [line for where, line in answer.rows if where.startswith("client")]
    return "\n".join(lines) + "\n"


def _qr(text: str) -> str:
    out = StringIO()
    segno.make(text).terminal(out=out, compact=True)
    return out.getvalue()
