"""TOML tables read with the problems collected, each at its line. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from policy.toml_lines import KeyPath, line_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    file: str
    line: int
    rule: str  # name or number of the rule, "" outside of rules
    key: str
    text: str

    def __str__(self) -> str:
        rule = f'rule "{self.rule}": ' if self.rule else ""
        return f"{self.file}:{self.line}: {rule}{self.key + ': ' if self.key else ''}{self.text}"


class Reading:
    """The problems found so far, and where we are."""

    def __init__(self, file: str, lines: dict[KeyPath, int]) -> None:
        self.file = file
        self.lines = lines
        self.rule = ""
        self.at: KeyPath = ()
        self.problems: list[Problem] = []

    def problem(self, key: str, text: str, *below: str) -> None:
        path = (*self.at, *key.split("."), *below) if key else self.at
        # It is read on a terminal, which a file from elsewhere must not steer.
        text = "".join(char if char.isprintable() else f"\\u{{{ord(char):x}}}" for char in text)
        self.problems.append(
            Problem(file=self.file, line=line_of(self.lines, path), rule=self.rule, key=key, text=text)
        )


class Table:
    """One TOML table; what it is asked for is there and well typed, or has become a problem."""

    def __init__(self, reading: Reading, entry: object, prefix: str) -> None:
        self.reading = reading
        self._prefix = prefix
        self.entry: dict[str, Any] = {}
        if isinstance(entry, dict):
            self.entry = entry
        else:
            reading.problem(prefix, f"got {show(entry)}, want a table")

    def problem(self, key: str, text: str) -> None:
        key = key if key.isprintable() and len(key) <= 40 else "?"
        self.reading.problem(f"{self._prefix}.{key}" if self._prefix else key, text)

    def known(self, *names: str) -> None:
        for key in self.entry:
            if key not in names:
                near = get_close_matches(key, names, n=1)
                self.problem(key, f"unknown key{f'; did you mean `{near[0]}`' if near else ''}")

    def some(self, *names: str) -> None:
        if not any(name in self.entry for name in names):
            self.reading.problem(self._prefix, f"empty, want {' or '.join(f'`{name}`' for name in names)}")

    def table(self, key: str) -> "Table":
        return Table(self.reading, self.entry.get(key, {}), f"{self._prefix}.{key}" if self._prefix else key)

    def text(self, key: str) -> str:
        value = self.entry.get(key, "")
        if isinstance(value, str) and value.isprintable() and (value or key not in self.entry):
            return value
        self.problem(key, f"got {show(value)}, want text")
        return ""

    def flag(self, key: str) -> bool:
        value = self.entry.get(key, False)
        if isinstance(value, bool):
            return value
        self.problem(key, f"got {show(value)}, want true or false")
        return False

    def parsed(self, key: str, parse: Callable[[str], T]) -> T | None:
        """None if the key is absent or wrong."""
        if not (text := self.text(key)):
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.problem(key, str(error))
            return None

    def words(self, key: str, parse: Callable[[str], T], *, one: bool = False) -> list[T]:
        """A list of texts; with `one` a single text will do."""
        value = self.entry.get(key, [])
        if one and isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
            self.problem(key, f'got {show(value)}, want a list of texts like `["..."]`')
            return []
        found: list[T] = []
        for word in value:
            try:
                found.append(parse(word))
            except ValueError as error:
                self.problem(key, str(error))
        return found

    def choice(self, key: str, word: str, choices: list[Any]) -> Any:
        """The member of an enumeration that `word` names; None, and a problem, if none."""
        if word in choices:
            return next(choice for choice in choices if choice == word)
        near = get_close_matches(word, choices, n=1)
        hint = f"; did you mean `{near[0]}`" if near else ""
        self.problem(key, f"got `{word[:40]}`, want one of {', '.join(choices)}{hint}")
        return None


def show(value: object) -> str:
    match value:
        case str():
            return f"`{value[:40]}`" if value.isprintable() else "text that cannot be printed"
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float() if abs(value) < 10**15:
            return f"`{value}`"
        case int() | float():
            return "a number"
        case list():
            return "an empty list" if not value else "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"
