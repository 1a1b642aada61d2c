"""The grammar of `ssh bastion WORDS` and of `bastion WORDS`. What there is to say stands in `bastion.vocabulary`. Pure.

ssh joins its words with blanks and drops the quotes around them, so nothing is left that a shell's rules could read:
a free text (`--reason`, `--comment`, `--text`) goes on to the next option of the same command, or to the end. The same
rule holds on the bastion itself, where quotes do no harm.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from bastion.errors import MisuseError
from bastion.text import neutral

MAX_WORDS: Final = 512
"""Words of one command; a review of a page has as many."""
SHOWN: Final = 64
"""Characters of a wrong word that its error repeats."""
HELP: Final = frozenset({"--help", "-h"})

_DURATION: Final = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,7})s)?")
_UNITS: Final = (86_400, 3_600, 60, 1)


class Takes(Enum):
    NOTHING = "nothing"
    WORD = "one word"
    TEXT = "a text"


@dataclass(frozen=True, slots=True)
class Option:
    name: str  # `--for`
    about: str
    takes: Takes = Takes.WORD
    value: str = ""  # what stands for it in the help
    needed: bool = False
    repeats: bool = False  # may be given again, and all of them count

    @property
    def usage(self) -> str:
        words = f"{self.name} {self.value}".rstrip()
        return words if self.needed else f"[{words}]"


JSON: Final = Option("--json", "for programs", Takes.NOTHING)
ALL: Final = Option("--all", "those that are over, too", Takes.NOTHING)
_EVERYWHERE: Final = (JSON,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was said, taken apart: the words that are no options, and the options by name."""

    rest: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.options

    def text(self, name: str) -> str:
        """The value of an option, empty if it was not given."""
        return " ".join(self.options.get(name, ()))

    def names(self, name: str) -> list[str]:
        """`a,b` and `--kinds a --kinds b` alike."""
        return [one for value in self.options.get(name, ()) for one in value.split(",") if one]

    def number(self, name: str, default: int = 0) -> int:
        value = self.text(name)
        if not value:
            return default
        if not (value.isascii() and value.isdigit() and len(value) <= 9):
            raise MisuseError(f"`{name} {shown(value)}` is no number", f"write {name} 1")
        return int(value)

    def seconds(self, name: str, default: int = 0) -> int:
        """`2h`, `90m`, `1d12h`."""
        value = self.text(name)
        if not value:
            return default
        match = _DURATION.fullmatch(value)
        if match is None:
            raise MisuseError(f"`{name} {shown(value)}` is no length of time", f"write {name} 2h, or 90m, or 1d12h")
        return sum(int(number) * unit for number, unit in zip(match.groups("0"), _UNITS, strict=True))

    def word(self, at: int) -> str:
        """The positional word at this place, or nothing."""
        return self.rest[at] if at < len(self.rest) else ""

    def place(self, at: int = 0) -> tuple[str, str]:
        """`root@web1` -> account and target; the account may hold `@` itself."""
        account, _, target = self.rest[at].rpartition("@")
        if not account or not target:
            raise MisuseError(f"`{shown(self.rest[at])}` names no account on a target", "write it as root@web1")
        return account, target


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One command. `ask` makes the question for policyd out of what was said; None where the answer is ours."""

    name: str  # `mfa enrol`
    about: str
    ask: Callable[[Given], Any] | None = None
    arguments: str = ""  # `PERSON ACCOUNT@TARGET`; in brackets what may be left out
    options: tuple[Option, ...] = ()
    here: bool = False  # an operator may say it on the bastion itself, too

    @property
    def usage(self) -> str:
        return " ".join([self.name, *self.arguments.split(), *(option.usage for option in self.options)])

    @property
    def most(self) -> int:
        return len(self.arguments.split())

    @property
    def least(self) -> int:
        return sum(not one.startswith("[") for one in self.arguments.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A command, and what was said with it. `help`: only how it is used is wanted."""

    word: Word
    given: Given
    help: bool = False


def split(command: bytes) -> list[str]:
    """The words of an exec request."""
    try:
        words = command.decode().split()
    except UnicodeDecodeError:
        words = []
    if not 0 < len(words) <= MAX_WORDS:
        raise MisuseError("the command is not understood", "see: ssh bastion help")
    return words


def parse(vocabulary: Mapping[str, Word], words: Sequence[str], program: str = "ssh bastion") -> Said:
    """MisuseError says what is wrong, and how it is right."""
    word, others = _find(vocabulary, words, program)
    if HELP & set(others[:1]):
        return Said(word=word, given=Given(), help=True)
    given, wants_help = _given(word, others, program)
    if wants_help:
        return Said(word=word, given=given, help=True)
    use = f"use: {program} {word.usage}"
    if not word.least <= len(given.rest) <= word.most:
        what = (
            "something is missing" if len(given.rest) < word.least else f"`{shown(given.rest[word.most])}` is too much"
        )
        raise MisuseError(f"`{word.name}`: {what}", use)
    for option in word.options:
        if option.needed and not given.text(option.name):
            raise MisuseError(f"`{word.name}` needs {option.name}: {option.about}", use)
    return Said(word=word, given=given)


def _find(vocabulary: Mapping[str, Word], words: Sequence[str], program: str) -> tuple[Word, list[str]]:
    for length in (2, 1):
        if (word := vocabulary.get(" ".join(words[:length]))) is not None and len(words) >= length:
            return word, list(words[length:])
    group = [word for name, word in vocabulary.items() if name.startswith(f"{words[0]} ")]
    if group:
        if len(words) > 1 and not words[1].startswith("-"):
            said, known = words[1], [word.name.split()[1] for word in group]
            raise MisuseError(
                f"`{words[0]} {shown(said)}` is not understood", _meant(said, known, program, f"{words[0]} ")
            )
        ways = " | ".join(word.usage.removeprefix(f"{words[0]} ") for word in group)
        raise MisuseError(f"`{words[0]}` needs one more word", f"use: {program} {words[0]} {ways}")
    first = [name.split()[0] for name in vocabulary]
    raise MisuseError(
        f"`{shown(words[0])}` is no command of the bastion, and no target is named",
        _meant(words[0], first, program, ""),
    )


def _meant(said: str, known: Iterable[str], program: str, before: str) -> str:
    close = difflib.get_close_matches(said[:SHOWN], list(known), n=1)
    return f"did you mean: {program} {before}{close[0]}" if close else f"see: {program} help"


def _given(word: Word, words: list[str], program: str) -> tuple[Given, bool]:
    known = {option.name: option for option in (*word.options, *_EVERYWHERE)}
    rest: list[str] = []
    options: dict[str, tuple[str, ...]] = {}
    wants_help = False
    at = 0
    while at < len(words):
        name, equals, value = words[at].partition("=")
        at += 1
        if words[at - 1] in HELP:
            wants_help = True
            continue
        if not name.startswith("--"):
            rest.append(words[at - 1])
            continue
        if (option := known.get(name)) is None:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean: {close[0]}" if close else f"use: {program} {word.usage}"
            raise MisuseError(f"`{word.name}` has no option `{shown(name)}`", hint)
        if name in options and not option.repeats:
            raise MisuseError(f"`{name}` is given twice", f"use: {program} {word.usage}")
        values = [value] if equals else []
        if option.takes is Takes.NOTHING and equals:
            raise MisuseError(f"`{name}` takes no value", f"use: {program} {word.usage}")
        if option.takes is Takes.WORD and not equals:
            values = [] if at == len(words) or words[at].partition("=")[0] in known else [words[at]]
            at += len(values)
        if option.takes is Takes.TEXT:
            while at < len(words) and words[at].partition("=")[0] not in (*known, "--help"):
                values.append(words[at])
                at += 1
        if option.takes is not Takes.NOTHING and not any(values):
            raise MisuseError(f"`{name}` has no value: {option.about}", f"use: {program} {word.usage}")
        options[name] = (*options.get(name, ()), *values)
    return Given(rest=tuple(rest), options=options), wants_help


def help_of(word: Word, program: str = "ssh bastion") -> str:
    """How one command is used."""
    lines = [f"{program} {word.usage}", f"  {word.about}"]
    options = (*word.options, *_EVERYWHERE)
    width = max(len(f"{option.name} {option.value}") for option in options)
    lines += ["", *(f"  {f'{option.name} {option.value}':<{width}}  {option.about}" for option in options)]
    if any(option.takes is Takes.TEXT for option in options):
        lines += ["", "a text goes on to the next option, or to the end; ssh drops quotes: none are needed"]
    return "\n".join(lines) + "\n"


def shown(text: str) -> str:
    """A wrong word as its error repeats it."""
    return neutral(text[:SHOWN])
