"""What a call wants of a JSON document: values by JSON pointer (RFC 6901), within limits. Pure."""

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 64
"""Ticket systems nest some ten deep; Python's parser gives up, or the process, somewhere above a thousand."""
MAX_POINTERS: Final = 256
MAX_VALUE: Final = 4 * 1024
"""Bytes of one value as JSON. A status, a name, a time; a description is not asked for."""
MAX_VALUES: Final = 48 * 1024
"""Bytes of all of them: a message holds 64 KiB."""

# A string that does not end takes the rest, so that each byte is looked at once.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class BadDocument(ValueError):
    """The text is for people, and quotes nothing of the document."""


def pick(document: bytes, pointers: Sequence[str]) -> list[str]:
    """The values as JSON text, "" for what is not there. BadDocument if it is no JSON, or too much of it."""
    if len(pointers) > MAX_POINTERS:
        raise BadDocument(f"more than {MAX_POINTERS} values are wanted of it")
    value = parse(document)
    found = [_found(value, pointer) for pointer in pointers]
    if sum(map(len, found)) > MAX_VALUES:
        raise BadDocument(f"the values in its answer are longer than {MAX_VALUES // 1024} KiB")
    return found


def parse(document: bytes) -> Any:
    """BadDocument if it is no JSON (RFC 8259): NaN is none, and neither is a byte that is not UTF-8."""
    depth = deepest = 0
    for match in _TOKEN.finditer(document):
        first = match[0][:1]
        depth += (first in b"[{") - (first in b"]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise BadDocument(f"its answer is nested more than {MAX_DEPTH} deep")
    try:
        return json.loads(document.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadDocument("its answer is no JSON") from None


def _found(value: Any, pointer: str) -> str:
    if pointer and not pointer.startswith("/"):
        raise BadDocument(f"`{pointer[:40]}` is no JSON pointer")
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        match value:
            case dict() if name in value:
                value = value[name]
            case list() if re.fullmatch(r"0|[1-9][0-9]{0,5}", name) and int(name) < len(value):
                value = value[int(name)]
            case _:
                return ""
    text = json.dumps(value, separators=(",", ":"))
    if len(text) > MAX_VALUE:
        raise BadDocument(f"the value at `{pointer[:60]}` of its answer is longer than {MAX_VALUE // 1024} KiB")
    return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
