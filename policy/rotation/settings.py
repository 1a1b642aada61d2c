"""`[[rotation]]` of policy.toml: what changes how, and when. Text in, `Entry` or every problem with its line out. Pure.

[[rotation]]
name     = "linux servers"
where    = { labels = { os = "linux" } }   # labels, targets: as in a rule
as       = ["*"]                           # accounts
driver   = "ssh"                           # ssh (default), or one of DRIVERS
via      = "root"                          # the account on the same target that changes it; left out: it changes itself
every    = "30d"                           # at most this old
after    = ["use", "checkout"]             # when its last session ends; when it comes back
at_once  = 8                               # targets of this entry at a time
password = { length = 24, classes = ["lower", "upper", "digit", "symbol"], symbols = "!#%", avoid = "0O" }
options  = { ... }                         # of the driver: policy.rotation.options

The first entry that fits an account is the one that counts.
"""

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from policy.rotation.generate import CLASSES, MAX_LENGTH, MIN_BITS, MIN_LENGTH, PasswordPolicy
from policy.rotation.options import LDAP, SCRIPT, problems
from policy.rules.windows import parse_duration
from policy.rules.words import account, glob, label
from policy.toml_lines import line_of
from policy.toml_tables import Reading, Table, show

SSH: Final = "ssh"
DRIVERS: Final = (SSH, LDAP, SCRIPT)
AT_ONCE: Final = 8
MAX_AT_ONCE: Final = 64
MIN_EVERY: Final = 3600.0
"""Seconds; who wants a secret changed more often wants it changed after each use."""
MAX_ENTRIES: Final = 200
MAX_OPTIONS: Final = 32

_OPTION: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)


class After(StrEnum):
    USE = "use"
    CHECKOUT = "checkout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    name: str
    labels: tuple[tuple[str, frozenset[str]], ...] = ()
    targets: tuple[str, ...] = ()  # patterns; empty: by labels alone
    accounts: frozenset[str] = frozenset()
    driver: str = SSH
    via: str = ""
    every: float | None = None  # seconds
    after: frozenset[After] = frozenset()
    at_once: int = AT_ONCE
    password: PasswordPolicy = field(default_factory=PasswordPolicy)
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str) -> str:
        return dict(self.options).get(name, "")


def parse_rotation(reading: Reading, entries: object) -> tuple[Entry, ...]:
    """The good ones; problems stand in `reading`."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        reading.problem("rotation", f"got {show(entries)}, want tables that begin with `[[rotation]]`")
        return ()
    if len(entries) > MAX_ENTRIES:
        reading.problem("rotation", f"got {len(entries)} entries, want at most {MAX_ENTRIES}")
        return ()
    found: list[Entry] = []
    names: dict[str, int] = {}
    for index, entry in enumerate(entries):
        reading.at, reading.rule = ("rotation", index), str(index + 1)
        table = Table(reading, entry, "")
        name = table.text("name")
        if not name.strip() or len(name) > 100:
            reading.problem("name", "want a name of at most 100 characters that people will read in logs")
        elif name in names:
            reading.problem("name", f"stands already on line {names[name]}")
        reading.rule = name[:100] or reading.rule
        names.setdefault(name, line_of(reading.lines, reading.at))
        before = len(reading.problems)
        one = _entry(table, name)
        if len(reading.problems) == before:
            found.append(one)
    reading.at, reading.rule = (), ""
    return tuple(found)


def _entry(table: Table, name: str) -> Entry:
    table.known(
        "name", "where", "as", "driver", "via", "every", "after", "at_once", "password", "options"
    )  # fmt: skip
    for key, example in (("where", '{ labels = { os = "linux" } }'), ("as", '["*"]')):
        if key not in table.entry:
            table.problem(key, f"missing, want something like `{key} = {example}`")
    where = table.table("where")
    where.known("labels", "targets")
    if "where" in table.entry:
        where.some("labels", "targets")
    inner = where.table("labels")
    driver = SSH
    if word := table.text("driver"):
        driver = table.choice("driver", word, list(DRIVERS)) or SSH
    via = table.parsed("via", account) or ""
    if via and (driver != SSH or "*" in via or "$" in via):
        table.problem("via", "want the name of one account on the same target; other drivers than ssh have none")
    chosen = _options(table.table("options"))
    for key, text in problems(driver, dict(chosen)):
        table.problem(f"options.{key}", text)
    after = table.words("after", str, one=True) if "after" in table.entry else []
    return Entry(
        name=name,
        labels=tuple((key, frozenset(inner.words(key, label, one=True))) for key in inner.entry),
        targets=tuple(where.words("targets", glob)) if "targets" in where.entry else (),
        accounts=frozenset(table.words("as", account)) if "as" in table.entry else frozenset(),
        driver=driver,
        via=via,
        every=_every(table),
        after=frozenset(found for word in after if (found := table.choice("after", word, list(After)))),
        at_once=_number(table, "at_once", AT_ONCE, 1, MAX_AT_ONCE),
        password=_password(table.table("password")),
        options=chosen,
    )


def _every(table: Table) -> float | None:
    value = table.parsed("every", parse_duration)
    if value is None:
        return None
    if value.total_seconds() < MIN_EVERY:
        table.problem("every", 'want at least `1h`; after each use is `after = ["use"]`')
    return value.total_seconds()


def _password(table: Table) -> PasswordPolicy:
    table.known("length", "classes", "symbols", "avoid")
    usual = PasswordPolicy()
    classes = tuple(dict.fromkeys(table.words("classes", str))) if "classes" in table.entry else usual.classes
    classes = tuple(word for word in classes if table.choice("classes", word, list(CLASSES)) is not None)
    policy = PasswordPolicy(
        length=_number(table, "length", usual.length, MIN_LENGTH, MAX_LENGTH),
        classes=classes,
        symbols=table.text("symbols") or usual.symbols,
        avoid=table.text("avoid") if "avoid" in table.entry else usual.avoid,
    )
    if not policy.symbols.isascii() or any(one in " :" or one.isalnum() for one in policy.symbols):
        table.problem("symbols", "want ASCII characters that are neither letters, digits, blanks nor colons")
    elif empty := [word for word in classes if not policy.alphabet(word)]:
        table.problem("avoid", f"leaves nothing of the class `{empty[0]}`")
    elif classes and policy.length * math.log2(max(2, len(set(policy.everything)))) < MIN_BITS:
        table.problem("length", f"want a longer one, or more classes: it can be guessed in 2^{MIN_BITS:.0f} tries")
    return policy


def _options(table: Table) -> tuple[tuple[str, str], ...]:
    if len(table.entry) > MAX_OPTIONS:
        table.problem("", f"got {len(table.entry)}, want at most {MAX_OPTIONS}")
        return ()
    for key in table.entry:
        if not _OPTION.fullmatch(key):
            table.problem(key, "want a lower-case word")
    return tuple((key, table.text(key)) for key in sorted(table.entry) if _OPTION.fullmatch(key))


def _number(table: Table, key: str, usual: int, least: int, most: int) -> int:
    value: Any = table.entry.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        table.problem(key, f"got {show(value)}, want {least} to {most}")
        return usual
    return value
