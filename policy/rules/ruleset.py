"""policy.toml: who may do what. Text in, a frozen `RuleSet` or every problem with its line out. Pure.

A file is a list of `[[rule]]`. Within a rule all keys must match; within a key any of its words may:

    name     unique
    effect   "allow" (default) or "forbid", which wins over every allow
    who      roles, persons        one of the roles OR one of the persons; "*" is everybody
    where    labels, targets       all of the labels AND one of the target names; "*" and "?" in names
    as       accounts              "*" is every account; "$person" is the account named like the person
    allow    channel kinds         what is allowed, or, in a forbid rule, what is forbidden; "*" is every kind,
                                   and never `checkout`, which has to be named
    require  mfa, ticket, reason, approval, watcher
    break-glass   true: in place of an approval; alarms everybody, and owes a review
    when     days, hours, zone
    from     networks
    limits   session, idle
    record   sync, content
    certificate   force-command, source-address, minutes, principals (policy.rules.terms)

Beside the rules stand `[rights]`, who may do what to the bastion itself, `[login]` (policy.rights),
`[tickets.NAME]`, the ticket systems that `require.ticket` names (policy.tickets.settings), `[[notify]]`, who is told
what (policy.notify), `[directory]`, where persons come from (policy.ldap.settings), `[checkout]`, how long a password
may be out (policy.checkout.settings), and `[[rotation]]`, what changes the secrets of accounts when
(policy.rotation.settings).

An allow rule has to say who, where, as and allow: nothing widens by being left out. In a forbid rule what is left
out means everybody, everywhere, every account, every kind, a checkout too.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final

from policy.checkout.settings import CheckoutRules, parse_checkout
from policy.ldap.model import Directory
from policy.ldap.settings import parse_directory
from policy.model import CHANNELS, ChannelKind
from policy.notices.notify import Destination, parse_notify
from policy.rotation.settings import Entry, parse_rotation
from policy.rules.rights import LoginRules, Rights, parse_login, parse_rights
from policy.rules.terms import PLAIN, Terms, parse_terms
from policy.rules.windows import When, parse_days, parse_duration, parse_hours, parse_zone
from policy.rules.words import OWN_ACCOUNT as OWN_ACCOUNT
from policy.rules.words import OWNER as OWNER
from policy.rules.words import Network, account, approver, glob, label, mfa_age, network, person, role
from policy.tickets.model import System
from policy.tickets.settings import parse_tickets
from policy.toml_lines import key_lines, line_of
from policy.toml_tables import Problem, Reading, Table, show

MAX_TEXT: Final = 1024 * 1024  # characters; 5000 rules of 200 characters, more than people can review
MAX_PROBLEMS: Final = 200  # more than a terminal holds; the rest comes with the next run
MAX_NAME: Final = 100  # characters of a rule's name: it stands in lists, logs and grants

LONGEST: Final = timedelta(hours=8)  # a working day: what a grant lasts at most, if its rule says nothing
WAIT: Final = timedelta(hours=24)  # so that a request of tonight is decided tomorrow

ALL_KINDS: Final = frozenset(ChannelKind)


class Effect(StrEnum):
    ALLOW = "allow"
    FORBID = "forbid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    roles: frozenset[str] = frozenset()
    persons: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    labels: tuple[tuple[str, frozenset[str]], ...] = ()  # name, any of the values; "*": any value
    targets: tuple[str, ...] = ()  # patterns


@dataclass(frozen=True, slots=True, kw_only=True)
class Mfa:
    max_age: timedelta | None  # None: proven in this very connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A grant is needed, made by a request that `count` persons approved; 0: everybody grants it to themselves."""

    by: tuple[str, ...]  # roles, or OWNER; empty with a count of 0
    count: int
    longest: timedelta = LONGEST  # the most that a grant lasts
    wait: timedelta = WAIT  # after which an undecided request is void


@dataclass(frozen=True, slots=True, kw_only=True)
class Require:
    mfa: Mfa | None = None
    ticket: str = ""  # name of a ticket system
    reason: bool = False
    approval: Approval | None = None
    watcher: bool = False  # nothing passes while nobody looks on


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """None in `who` ... `kinds` is possible in forbid rules only, and means all."""

    name: str
    line: int
    effect: Effect
    who: Who | None
    where: Where | None
    accounts: frozenset[str] | None
    kinds: frozenset[ChannelKind]
    require: Require
    when: When | None
    networks: tuple[Network, ...]  # empty: from everywhere
    session: timedelta | None
    idle: timedelta | None
    record_sync: bool
    keep_content: bool
    break_glass: bool = False  # holds only with a grant that broke the glass
    certificate: Terms = PLAIN  # what certificates for the target say


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    rules: tuple[Rule, ...] = ()
    rights: Rights = field(default_factory=Rights)
    login: LoginRules = field(default_factory=LoginRules)
    tickets: Mapping[str, System] = field(default_factory=dict)
    notify: tuple[Destination, ...] = ()
    directory: Directory | None = None
    checkout: CheckoutRules = field(default_factory=CheckoutRules)
    rotation: tuple[Entry, ...] = ()
    digest: str = ""  # SHA-256 of the text, hexadecimal: which version of the file decided


def differences(old: RuleSet, new: RuleSet) -> dict[str, str]:
    """Which rules came, went or say something else, by name, and which other tables; nothing for nothing."""
    was = {rule.name: replace(rule, line=0) for rule in old.rules}
    now = {rule.name: replace(rule, line=0) for rule in new.rules}
    tables = ("rights", "login", "tickets", "notify", "checkout", "rotation")
    found = {
        "added": sorted(now.keys() - was.keys()),
        "removed": sorted(was.keys() - now.keys()),
        "changed": sorted(name for name in was.keys() & now.keys() if was[name] != now[name]),
        "tables": [name for name in tables if getattr(old, name) != getattr(new, name)],
    }
    return {key: ", ".join(names) for key, names in found.items() if names}


class BadRules(Exception):
    """All problems of a file, in the order of its lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def parse_rules(text: str, file: str = "policy.toml") -> RuleSet:
    """Rules from the text of a file; BadRules with every problem at once."""
    if len(text) > MAX_TEXT:
        raise BadRules([Problem(file=file, line=1, rule="", key="", text=f"more than {MAX_TEXT} characters")])
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadRules([_syntax(file, error)]) from None
    except ValueError as error:  # a number of 5000 digits, a date that no calendar has
        raise BadRules([Problem(file=file, line=1, rule="", key="", text=f"not TOML: {error}")]) from None
    reading = Reading(file, key_lines(text))
    rules = _rules(reading, document)
    reading.at, reading.rule = (), ""
    top = Table(reading, document, "")
    rights, login = parse_rights(top.table("rights")), parse_login(top.table("login"))
    named = top.table("tickets")
    tickets = parse_tickets(named)
    _known_tickets(reading, document, list(named.entry))
    directory = parse_directory(top.table("directory"), rights) if "directory" in document else None
    checkout = parse_checkout(top.table("checkout"))
    notify = parse_notify(reading, document.get("notify", []))
    rotation = parse_rotation(reading, document.get("rotation", []))
    if reading.problems:
        raise BadRules(sorted(reading.problems, key=lambda problem: problem.line)[:MAX_PROBLEMS])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return RuleSet(
        rules=tuple(rules), rights=rights, login=login, tickets=tickets, notify=notify, directory=directory,
        checkout=checkout, rotation=rotation, digest=digest,
    )  # fmt: skip


def _syntax(file: str, error: Exception) -> Problem:
    match = re.search(r"\(at line (\d+), column \d+\)", str(error))
    message = re.sub(r" \(at .*\)$", "", str(error)).lower() if not isinstance(error, RecursionError) else "too deep"
    return Problem(file=file, line=int(match[1]) if match else 1, rule="", key="", text=f"not TOML: {message}")


def _rules(reading: Reading, document: dict[str, Any]) -> list[Rule]:
    Table(reading, document, "").known(
        "rule", "rights", "login", "tickets", "notify", "directory", "checkout", "rotation"
    )
    entries = document.get("rule", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        reading.problem("rule", f"got {show(entries)}, want tables that begin with `[[rule]]`")
        return []
    rules: list[Rule] = []
    names: dict[str, int] = {}
    for index, entry in enumerate(entries):
        reading.at = ("rule", index)
        reading.rule = str(index + 1)
        name = _name(reading, entry)
        reading.rule = name or reading.rule
        line = line_of(reading.lines, reading.at)
        if name in names:
            reading.problem("name", f"stands already on line {names[name]}")
        elif name:
            names[name] = line
        before = len(reading.problems)
        rule = _rule(reading, entry, name, line)
        if len(reading.problems) == before:
            rules.append(rule)
    return rules


def _known_tickets(reading: Reading, document: dict[str, Any], known: list[str]) -> None:
    """A ticket system that does not exist would deny for ever, and nobody would see why."""
    entries = document.get("rule", [])
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        require = entry.get("require") if isinstance(entry, dict) else None
        name = require.get("ticket") if isinstance(require, dict) else None
        if not isinstance(name, str) or not name or name in known:
            continue
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean `{near[0]}`" if near else f"; want a table `[tickets.{name[:40]}]`"
        reading.at = ("rule", index)
        reading.rule = (
            called if isinstance(called := entry.get("name"), str) and called.isprintable() else str(index + 1)
        )
        reading.problem("require.ticket", f"no ticket system `{name[:40]}`{hint}")
    reading.at, reading.rule = (), ""


def _name(reading: Reading, entry: dict[str, Any]) -> str:
    name = entry.get("name", "")
    if not isinstance(name, str) or not name.strip():
        reading.problem("name", f"got {show(name)}, want a name that people will read in logs")
        return ""
    if len(name) > MAX_NAME or not name.isprintable():
        reading.problem("name", f"want at most {MAX_NAME} printable characters")
        return ""
    return name


def _rule(reading: Reading, entry: dict[str, Any], name: str, line: int) -> Rule:
    table = Table(reading, entry, "")
    table.known(
        "name", "effect", "who", "where", "as", "allow", "require", "when", "from", "limits", "record",
        "break-glass", "certificate",
    )  # fmt: skip
    effect = Effect.ALLOW
    if word := table.text("effect"):
        effect = table.choice("effect", word, list(Effect)) or Effect.ALLOW
    if effect is Effect.FORBID:
        for key in ("require", "limits", "record", "break-glass", "certificate"):
            if key in entry:
                reading.problem(key, "a forbid rule has no such key")
    else:
        for key, example in (
            ("who", '{ roles = ["dba"] }'),
            ("where", '{ labels = { env = "prod" } }'),
            ("as", '["postgres"]'),
            ("allow", '["shell"]'),
        ):
            if key not in entry:
                reading.problem(key, f"missing, want something like `{key} = {example}`")
    limits, record = table.table("limits"), table.table("record")
    require, break_glass = _require(table.table("require")), table.flag("break-glass")
    if break_glass and require.approval is not None:
        reading.problem("break-glass", "stands beside `require.approval`, which it is there to do without")
    limits.known("session", "idle")
    record.known("sync", "content")
    return Rule(
        name=name,
        line=line,
        effect=effect,
        who=_who(table.table("who")) if "who" in entry else None,
        where=_where(table.table("where")) if "where" in entry else None,
        accounts=frozenset(table.words("as", account)) if "as" in entry else None,
        kinds=_kinds(table, ALL_KINDS if effect is Effect.FORBID else CHANNELS) if "allow" in entry else ALL_KINDS,
        require=require,
        when=_when(table.table("when")) if "when" in entry else None,
        networks=tuple(table.words("from", network)) if "from" in entry else (),
        session=limits.parsed("session", parse_duration),
        idle=limits.parsed("idle", parse_duration),
        record_sync=record.flag("sync"),
        keep_content=record.flag("content"),
        break_glass=break_glass,
        certificate=parse_terms(table.table("certificate")) if "certificate" in entry else PLAIN,
    )


def _who(table: Table) -> Who:
    table.known("roles", "persons")
    table.some("roles", "persons")
    return Who(
        roles=frozenset(table.words("roles", role)) if "roles" in table.entry else frozenset(),
        persons=frozenset(table.words("persons", person)) if "persons" in table.entry else frozenset(),
    )


def _where(table: Table) -> Where:
    table.known("labels", "targets")
    table.some("labels", "targets")
    labels: list[tuple[str, frozenset[str]]] = []
    if "labels" in table.entry:
        inner = table.table("labels")
        labels = [(key, frozenset(inner.words(key, label, one=True))) for key in inner.entry]
        if not labels:
            table.problem("labels", "empty, want at least one label")
    targets = tuple(table.words("targets", glob)) if "targets" in table.entry else ()
    return Where(labels=tuple(labels), targets=targets)


def _kinds(table: Table, everything: frozenset[ChannelKind]) -> frozenset[ChannelKind]:
    kinds: set[ChannelKind] = set()
    for word in table.words("allow", str):
        if word == "*":
            kinds |= everything
        elif (kind := table.choice("allow", word, list(ChannelKind))) is not None:
            kinds.add(kind)
    return frozenset(kinds)


def _require(table: Table) -> Require:
    table.known("mfa", "ticket", "reason", "approval", "watcher")
    mfa: Mfa | None = None
    if "mfa" in table.entry and (word := table.text("mfa")):
        age = None if word == "always" else table.parsed("mfa", mfa_age)
        mfa = Mfa(max_age=age)
    return Require(
        mfa=mfa,
        ticket=table.text("ticket"),
        reason=table.flag("reason"),
        approval=_approval(table.table("approval")) if "approval" in table.entry else None,
        watcher=table.flag("watcher"),
    )


def _approval(table: Table) -> Approval:
    table.known("by", "count", "longest", "wait")
    count = table.entry.get("count", 1)
    if type(count) is not int or not 0 <= count <= 10:
        table.problem("count", f"got {show(count)}, want 0 to 10; with 0 everybody grants it to themselves for a time")
        count = 1
    by: tuple[str, ...] = ()
    if count:
        by = tuple(table.words("by", approver))
    elif "by" in table.entry:
        table.problem("by", "stands beside a count of 0, with which nobody is asked")
    return Approval(
        by=by,
        count=count,
        longest=table.parsed("longest", parse_duration) or LONGEST,
        wait=table.parsed("wait", parse_duration) or WAIT,
    )


def _when(table: Table) -> When:
    table.known("days", "hours", "zone")
    table.some("days", "hours")
    default = When()
    days: frozenset[int] = frozenset().union(*table.words("days", parse_days, one=True)) if "days" in table.entry else (
        default.days
    )  # fmt: skip
    hours = tuple(table.words("hours", parse_hours, one=True)) if "hours" in table.entry else default.hours
    zone = table.parsed("zone", parse_zone) or default.zone
    written = ", ".join(f"{key} {_plain(value)}" for key, value in table.entry.items())
    return When(days=days, hours=hours, zone=zone, text=written)


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
