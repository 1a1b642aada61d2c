"""On which line of a TOML text each key stands. Pure.

`tomllib` gives values without positions, and an error without a line is half an error. This walks text that
`tomllib` has already accepted, so it only has to know where keys, strings, comments and brackets begin and end.
"""

import tomllib
from typing import Final

KeyPath = tuple[str | int, ...]
"""`("ssh", "listen")`; elements of arrays of tables count from 0: `("rule", 2, "name")`."""

_QUOTES: Final = ('"""', "'''", '"', "'")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line, from 1, of each table and key in valid TOML; keys inside inline tables stand on their outer key's line."""
    lines: dict[KeyPath, int] = {}
    arrays: dict[KeyPath, int] = {}
    table: KeyPath = ()
    position, line = 0, 1
    while position < len(text):
        char = text[position]
        if char == "\n":
            position, line = position + 1, line + 1
        elif char in " \t\r":
            position += 1
        elif char == "#":
            position = _end_of_line(text, position)
        elif char == "[":
            end = _end_of_line(text, position)
            doubled = text.startswith("[[", position)
            names = _names(text[position:end])
            table = _inside(names, arrays)
            if doubled:
                count = arrays.get(table, 0)
                arrays[table] = count + 1
                lines.setdefault(table, line)
                table = (*table, count)
            lines[table] = line
            position = end
        else:
            end_of_key = _end_of_value(text, position, "=")
            path: KeyPath = (*table, *_names(f"{text[position:end_of_key]} = 0"))
            for length in range(len(table) + 1, len(path) + 1):
                lines.setdefault(path[:length], line)
            end = _end_of_value(text, end_of_key + 1, "\n")
            line += text.count("\n", position, end)
            position = end
    return lines


def line_of(lines: dict[KeyPath, int], path: KeyPath) -> int:
    """The line of a path or of the nearest thing around it; 1 when nothing is near."""
    for length in range(len(path), 0, -1):
        if (found := lines.get(path[:length])) is not None:
            return found
    return 1


def _names(line: str) -> KeyPath:
    """`[a."b.c"]` or `a."b.c" = 0` -> `("a", "b.c")`; tomllib itself does the unquoting."""
    names: list[str] = []
    value: object = tomllib.loads(line)
    while isinstance(value, dict) and value:
        name, value = next(iter(value.items()))
        names.append(name)
    return tuple(names)


def _inside(names: KeyPath, arrays: dict[KeyPath, int]) -> KeyPath:
    """Names after which an array of tables stands refer to its newest element."""
    path: KeyPath = ()
    for index, name in enumerate(names):
        path = (*path, name)
        if index < len(names) - 1 and path in arrays:
            path = (*path, arrays[path] - 1)
    return path


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _end_of_value(text: str, position: int, stop: str) -> int:
    """Where `stop` next stands outside strings, comments and brackets."""
    depth = 0
    while position < len(text):
        char = text[position]
        if char == stop and depth == 0:
            return position
        if char in "\"'":
            position = _end_of_string(text, position)
            continue
        if char == "#":
            position = _end_of_line(text, position)
            continue
        depth += (char in "[{") - (char in "]}")
        position += 1
    return position


def _end_of_string(text: str, position: int) -> int:
    quote = next(mark for mark in _QUOTES if text.startswith(mark, position))
    position += len(quote)
    while not text.startswith(quote, position):
        position += 2 if quote[0] == '"' and text[position] == "\\" else 1
    position += len(quote)
    while len(quote) == 3 and text.startswith(quote[0], position):  # `""""` may end with quotes of its own
        position += 1
    return position
