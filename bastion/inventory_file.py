"""inventory.toml: persons, targets and accounts as text, read with every problem at its line, and written. Pure.

    [persons.alice]
    roles = ["engineer"]
    keys = ["ssh-ed25519 AAAA... alice@laptop"]
    disabled = false
    owns = ["env=test"]                  # a target, a label, or "*"
    mail = "alice@example.org"           # where she is told of what concerns her; "": nowhere

    [targets.web1]
    address = "web1.example.org:22"
    labels = { env = "test" }
    host-keys = ["ssh-ed25519 AAAA..."]  # or "scan": what a new target shows is pinned
    accounts.root = "user-ca"
    accounts.app = { password-file = "secrets/app" }
    accounts.deploy = { key-file = "secrets/deploy" }  # "-": standard input, for one account
    accounts.old = "kept"                # what is stored for it stays

A secret itself never stands here: the file is made to be read, compared and kept.
"""

import json
import re
import tomllib
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final, TypeVar

from bastion.inventory import Account, Opened, Person, Present, Target, Wanted, fingerprint
from bastion.toml_lines import key_lines, line_of

T = TypeVar("T")

MAX_TEXT: Final = 16 * 1024 * 1024  # characters; 10,000 targets with their keys are a quarter of it
MAX_PROBLEMS: Final = 100  # more than a terminal holds
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_PERSON: Final = re.compile(r"[a-z0-9][a-z0-9._-]*(@[a-z0-9][a-z0-9._-]*)?", re.ASCII)
_MAIL: Final = re.compile(r"""[^\s<>,;:"'\\()\[\]`$@]+@[^\s<>,;:"'\\()\[\]`$@]+""", re.ASCII)
_TARGET: Final = re.compile(r"[a-z0-9_][a-z0-9._-]*", re.ASCII)
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.$\\+-]*", re.ASCII)
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9._/-]{0,63}", re.ASCII)
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(:[0-9]{1,5})?|[0-9A-Fa-f:.]+", re.ASCII)

Path = tuple[str, ...]


class BadInventory(Exception):
    """Every problem, as `FILE:LINE: key: what is wrong`, in the order of the lines."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read(text: str, file: str) -> Wanted:
    """What the file wants. BadInventory with every problem at once."""
    if len(text) > MAX_TEXT:
        raise BadInventory([f"{file}: {len(text)} characters, at most {MAX_TEXT}"])
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        line = found[1] if found else str(text.count("\n") + 1)
        raise BadInventory([f"{file}:{line}: {str(error).partition(' (at')[0].lower()}"]) from None
    except RecursionError:
        raise BadInventory([f"{file}:1: nested too deep"]) from None
    reading = _Reading()
    reading.known((), data, "persons", "targets")
    wanted = Wanted(
        persons={name: _person(reading, name, entry) for name, entry in reading.table((), data, "persons").items()},
        targets={name: _target(reading, name, entry) for name, entry in reading.table((), data, "targets").items()},
    )
    stdin = [
        ("targets", target.name, "accounts", account.name)
        for target in wanted.targets.values()
        for account in (target.accounts or {}).values()
        if account.file == "-"
    ]
    for path in stdin[1:]:
        reading.problem(path, "standard input holds one secret, which another account takes")
    if reading.problems:
        raise BadInventory(told(text, file, reading.problems))
    return wanted


def told(text: str, file: str, problems: list[tuple[Path, str]]) -> list[str]:
    """Problems of paths in the file, each at its line."""
    lines = key_lines(text)
    found = sorted((line_of(lines, path), ".".join(map(_name, path)), said) for path, said in problems)
    shown = [f"{file}:{line}: {f'{key}: ' if key else ''}{said}" for line, key, said in found[:MAX_PROBLEMS]]
    # They are read on a terminal, which a file from elsewhere must not steer.
    shown = ["".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in line) for line in shown]
    return shown + [f"{file}: and {len(found) - MAX_PROBLEMS} more"] * (len(found) > MAX_PROBLEMS)


def written(present: Present) -> str:
    """What there is, as a file that `read` takes and that changes nothing. Who left is not in it."""
    lines = ["# The inventory of this bastion. `bastion apply FILE --plan` shows what would change."]
    for person in present.persons.values():
        if person.state == "offboarded":
            continue
        lines += ["", f"[persons.{_name(person.name)}]", f"roles = {_list(sorted(person.roles))}"]
        lines += [f"keys = {_list(person.keys)}"]
        lines += ["disabled = true"] * (person.state == "disabled")
        lines += [f"owns = {_list(person.owns)}"]
        lines += [f"mail = {_text(person.mail)}"] * bool(person.mail)
    for target in present.targets.values():
        host, _, port = target.address.rpartition(":")
        address = f"[{host}]:{port}" if ":" in host else target.address
        labels = ", ".join(f"{_name(key)} = {_text(value)}" for key, value in target.labels.items())
        lines += ["", f"[targets.{_name(target.name)}]", f"address = {_text(address)}"]
        lines += [f"labels = {{ {labels} }}" if labels else "labels = {}"]
        lines += [f"host-keys = {_list(target.host_keys)}"]
        lines += ["accounts = {}"] * (not target.accounts)
        for name, (kind, _) in target.accounts.items():
            opened = Opened.USER_CA if kind == Opened.USER_CA else Opened.KEPT
            lines.append(f"accounts.{_name(name)} = {_text(opened)}")
    return "\n".join(lines) + "\n"


# --- reading ------------------------------------------------------------------------------------------


class _Reading:
    def __init__(self) -> None:
        self.problems: list[tuple[Path, str]] = []

    def problem(self, path: Path, said: str) -> None:
        self.problems.append((path, said))

    def known(self, path: Path, entry: dict[str, Any], *names: str) -> None:
        for key in entry:
            if key not in names:
                near = get_close_matches(key, names, n=1)
                hint = f"; did you mean `{near[0]}`" if near else f", want one of {', '.join(names)}"
                self.problem((*path, key), f"unknown key{hint}")

    def table(self, path: Path, entry: object, key: str) -> dict[str, Any]:
        found = entry.get(key, {}) if isinstance(entry, dict) else entry
        if isinstance(found, dict):
            return found
        self.problem((*path, key), f"got {_show(found)}, want a table")
        return {}

    def texts(self, path: Path, entry: dict[str, Any], key: str, parse: Callable[[str], T]) -> list[T] | None:
        if key not in entry:
            return None
        value = entry[key]
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self.problem((*path, key), f'got {_show(value)}, want a list of texts like `["..."]`')
            return []
        found: list[T] = []
        for one in value:
            try:
                found.append(parse(one))
            except ValueError as error:
                self.problem((*path, key), str(error))
        if len(set(value)) != len(value):
            self.problem((*path, key), "the same twice")
        return found

    def text(self, path: Path, entry: dict[str, Any], key: str) -> str:
        value = entry.get(key, "")
        if isinstance(value, str) and value.isprintable() and (value or key not in entry):
            return value
        self.problem((*path, key), f"got {_show(value)}, want text")
        return ""


def _person(reading: _Reading, name: str, entry: object) -> Person:
    path = ("persons", name)
    if not isinstance(entry, dict):
        reading.problem(path, f"got {_show(entry)}, want a table")
        return Person(name=name)
    if not _PERSON.fullmatch(name):
        reading.problem(path, "want a name of lower-case letters, digits, `.`, `_`, `-`, one `@`")
    reading.known(path, entry, "roles", "keys", "disabled", "owns", "mail")
    roles = reading.texts(path, entry, "roles", _matching(_WORD, "a role of lower-case letters and digits"))
    keys = reading.texts(path, entry, "keys", _key)
    owns = reading.texts(path, entry, "owns", _scope)
    disabled = entry.get("disabled")
    if disabled is not None and not isinstance(disabled, bool):
        reading.problem((*path, "disabled"), f"got {_show(disabled)}, want true or false")
        disabled = None
    mail = entry.get("mail")
    if mail is not None and not (isinstance(mail, str) and (not mail or _MAIL.fullmatch(mail))):
        reading.problem((*path, "mail"), f"got {_show(mail)}, want an address like `ops@example.org`, or none")
        mail = None
    return Person(
        name=name, roles=None if roles is None else frozenset(roles), keys=None if keys is None else tuple(keys),
        disabled=disabled, owns=None if owns is None else frozenset(owns), mail=mail,
    )  # fmt: skip


def _target(reading: _Reading, name: str, entry: object) -> Target:
    path = ("targets", name)
    if not isinstance(entry, dict):
        reading.problem(path, f"got {_show(entry)}, want a table")
        return Target(name=name)
    if not _TARGET.fullmatch(name):
        reading.problem(path, "want a name of lower-case letters, digits, `.`, `_`, `-`")
    reading.known(path, entry, "address", "labels", "host-keys", "accounts")
    address = reading.text(path, entry, "address")
    if address and not _ADDRESS.fullmatch(address):
        reading.problem((*path, "address"), f"got {_show(address)}, want HOST[:PORT]")
    labels = reading.table(path, entry, "labels")
    for key, value in labels.items():
        if not _WORD.fullmatch(key) or not isinstance(value, str) or not value.isprintable():
            reading.problem((*path, "labels", key), f"got {_show(value)}, want a lower-case word and printable text")
    scan = entry.get("host-keys") == "scan"
    pins = None if scan else reading.texts(path, entry, "host-keys", _key)
    if pins == [] and entry.get("host-keys") == []:
        reading.problem((*path, "host-keys"), "empty: nothing would prove the target")
    accounts = {one: _account(reading, (*path, "accounts", one), value)
                for one, value in reading.table(path, entry, "accounts").items()}  # fmt: skip
    return Target(
        name=name, address=address, labels=labels if "labels" in entry else None, scan=scan,
        host_keys=None if pins is None else tuple(pins), accounts=accounts if "accounts" in entry else None,
    )  # fmt: skip


def _account(reading: _Reading, path: Path, entry: object) -> Account:
    name = path[-1]
    if not _ACCOUNT.fullmatch(name):
        reading.problem(path, "want a name of letters, digits, `.`, `_`, `-`, `+`, `$`, `\\`")
    match entry:
        case Opened.USER_CA | Opened.KEPT:
            return Account(name=name, opened=Opened(str(entry)))
        case {"password": _} | {"key": _} | {"private-key": _}:
            reading.problem(path, 'a secret does not stand in this file: { password-file = "..." } names where it does')
        case {"password-file": str(file), **more} if file and not more:
            return Account(name=name, opened=Opened.PASSWORD, file=file)
        case {"key-file": str(file), **more} if file and not more:
            return Account(name=name, opened=Opened.KEY, file=file)
        case str():
            near = get_close_matches(entry, [Opened.USER_CA, Opened.KEPT], n=1)
            reading.problem(path, f'got {_show(entry)}, want "user-ca", "kept", or a table with a file'
                                  f"{f'; did you mean `{near[0]}`' if near else ''}")  # fmt: skip
        case dict():
            reading.known(path, entry, "password-file", "key-file")
            reading.problem(path, "want exactly one of `password-file` and `key-file`")
        case _:
            reading.problem(path, f'got {_show(entry)}, want "user-ca", "kept", or a table with a file')
    return Account(name=name, opened=Opened.KEPT)


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"got {_show(text)}, want {what}")
        return text

    return parse


def _key(line: str) -> str:
    line = line.strip()
    if "PRIVATE KEY" in line:
        raise ValueError("this is a private key, and belongs into nobody's file but its owner's")
    fingerprint(line)
    if not line.isprintable():
        raise ValueError("a key holds a character that cannot be printed")
    return line


def _scope(text: str) -> str:
    key, equals, value = text.partition("=")
    if text == "*" or (equals and _WORD.fullmatch(key) and value.isprintable() and value) or _TARGET.fullmatch(text):
        return text
    raise ValueError(f"got {_show(text)}, want a target, a label like `env=test`, or `*`")


def _show(value: object) -> str:
    match value:
        case str():
            return f"`{value[:40]}`"
        case bool():
            return f"`{str(value).lower()}`"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return f"`{str(value)[:40]}`"


# --- writing ------------------------------------------------------------------------------------------


def _text(value: str) -> str:
    """A basic string of TOML: JSON's escapes are among its own, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(values: Any) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"


def _name(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)
