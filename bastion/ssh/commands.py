"""`ssh bastion WORDS`: what a person can ask the bastion itself, with their own rights and nothing but ssh."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from bastion.errors import BastionError, Denied, ExitCode, MisuseError
from bastion.present import as_json, as_text, qr
from bastion.ssh import ask, needs, pages, secrets
from bastion.ssh.local import LocalChannel
from bastion.text import neutral
from bastion.vocabulary import VOCABULARY, overview
from bastion.vocabulary_vault import BINARY
from bastion.words import Given, Said, Word, help_of, parse, split
from policy.messages import (
    AccountAdd,
    CheckoutTake,
    Done,
    MfaConfirm,
    MfaEnrol,
    Revealed,
    Rows,
    SecretAdd,
    SecretSet,
    WatchBegin,
    WatchEnd,
)

JSON: Final = "--json"
Watch = Callable[[str], asyncio.Event]
"""A session that is to be looked at -> set when it is over."""


async def run(channel: LocalChannel, policy: Any, person: str, address: str, watch: Watch) -> None:
    """Answer the channel's command and set its exit status. `address` is how people reach this bastion."""
    assert channel.command is not None
    try:
        said = parse(VOCABULARY, split(channel.command))
        if said.help or said.word.ask is None:
            _put(channel, _help(said))
        else:
            await _carry_out(channel, policy, person, said.word, said.given, address, watch)
        channel.exit(0)
    except BastionError as error:
        say(channel, "".join(f"{line}\n" for line in error.lines()))
        channel.exit(int(error.code))
    await channel.drain()


def refuse_no_target(channel: LocalChannel) -> None:
    """Neither a target, nor words, nor a terminal for the menu."""
    error = MisuseError("no target is named, and there is no terminal to choose one", "use: ssh account@target@bastion")
    say(channel, "".join(f"{line}\n" for line in error.lines()))
    channel.exit(int(ExitCode.USAGE))


def say(channel: LocalChannel, text: str) -> None:
    """Beside the answer: on standard error, and on a terminal in the order in which it was said."""
    if channel.terminal:
        channel.write(text.replace("\n", "\r\n").encode())
    else:
        channel.write_error(text.encode())


async def _carry_out(
    channel: LocalChannel, policy: Any, person: str, word: Word, given: Given, address: str, watch: Watch
) -> None:
    assert word.ask is not None
    question = word.ask(given)
    if isinstance(question, AccountAdd) and not question.user_ca:
        question = await secrets.with_secret(channel, question)
    if isinstance(question, SecretAdd | SecretSet) and question.value is not None:
        question = await secrets.with_value(channel, question, binary=given.has(BINARY))
    over = watch(question.session) if isinstance(question, WatchBegin) else None
    if isinstance(question, CheckoutTake):
        answer = await _lent(channel, policy, person, question)
    else:
        answer = await pages.whole(policy, question)
    _show(channel, word, given, answer, address)
    match word.name:
        case "request" if given.has("--wait") and isinstance(answer, Done):
            await _decided(channel, policy, answer, given)
        case "mfa enrol" if isinstance(question, MfaEnrol) and not question.person and channel.terminal:
            await _confirm(channel, policy, word, given)
        case "watch" if over is not None:
            await ask.until_left(channel, "ctrl-c ends it", over)
            if over.is_set():
                return say(channel, "bastion: the session is over\n")
            await pages.answered(policy, WatchEnd(session=given.rest[0]))


async def _lent(channel: LocalChannel, policy: Any, person: str, wish: CheckoutTake) -> Rows | Done | Revealed:
    """A password, once everything that a rule wants for it is there: as at a login."""
    take = partial(pages.answered, policy)
    try:
        return await take(wish)
    except BastionError as failure:
        return await needs.settle(policy, person, wish, failure, channel, take)


async def _decided(channel: LocalChannel, policy: Any, asked: Done, given: Given) -> None:
    if asked.data.get("state") != "pending":
        return
    answer = await ask.decision(channel, policy, asked.data["request"])
    if not given.has(JSON):
        say(channel, f"bastion: {as_text(answer, None).splitlines()[0]}\n")
    else:
        _put(channel, as_json(answer) + "\n")
    if answer.data.get("state") != "approved":
        raise Denied(f"request `{asked.data['request']}` was not approved", "see: ssh bastion requests --all")


async def _confirm(channel: LocalChannel, policy: Any, word: Word, given: Given) -> None:
    """The first code at once: a secret that no phone has must not be asked for tomorrow."""
    for left in reversed(range(ask.TRIES)):
        code = await ask.line(channel, "code that your phone shows now: ")
        if not code:
            say(channel, "bastion: it does not count yet: ssh bastion mfa confirm CODE\n")
            return
        try:
            answer = await pages.answered(policy, MfaConfirm(code=code))
        except BastionError as error:
            if not left:
                raise
            say(channel, f"{error.lines()[0]}\n")
        else:
            return _put(channel, as_text(answer, None))


def _help(said: Said) -> str:
    name = said.word.name
    if name != "help":
        return help_of(said.word)
    if said.given.has(JSON):
        words = [[word.name, word.usage, word.about] for word in VOCABULARY.values()]
        return as_json(Rows(columns=["name", "usage", "text"], rows=words)) + "\n"
    if said.given.rest:
        return help_of(parse(VOCABULARY, [*said.given.rest, "--help"]).word)
    return overview()


def _show(channel: LocalChannel, word: Word, given: Given, answer: Rows | Done | Revealed, address: str) -> None:
    terminal = channel.terminal
    width = terminal.columns or 80 if terminal else None
    if given.has(JSON):
        return _put(channel, as_json(answer) + "\n")
    if isinstance(answer, Revealed):
        if terminal:
            _put(channel, as_text(answer, width))
        else:
            channel.write(answer.value)  # every byte, and nothing else: it may go to a file
        return say(channel, f"bastion: {neutral(answer.text)}\n")
    if isinstance(answer, Rows) and word.name in ("ca", "ca lines"):
        return _put(channel, "".join(f"# {where}\n{line}\n" for where, line in answer.rows))
    if isinstance(answer, Rows) and word.name == "config":
        return _put(channel, _client_config(answer, address))
    if width and isinstance(answer, Done) and (uri := answer.data.get("uri", "")).startswith("otpauth://"):
        _put(channel, qr(uri))
    _put(channel, as_text(answer, width))
    if isinstance(answer, Rows) and (note := answer.note or ("" if answer.rows else "nothing to show")):
        say(channel, f"{note}\n")


def _put(channel: LocalChannel, text: str) -> None:
    channel.write((text.replace("\n", "\r\n") if channel.terminal else text).encode())


def _client_config(answer: Rows, address: str) -> str:
    host, _, port = address.rpartition(":") if address.count(":") == 1 else (address, "", "")
    lines = ["# ~/.ssh/config: then `ssh -J bastion root@web1`, or `ssh root@web1@bastion`", "Host bastion",
             f"    HostName {host or 'ADDRESS-OF-THE-BASTION'}", f"    Port {port or 22}", "",
             "# ~/.ssh/known_hosts: vouches for every target behind the bastion"]  # fmt: skip
    lines += [line for where, line in answer.rows if where.startswith("client")]
    return "\n".join(lines) + "\n"
