"""`[tickets.NAME]` of policy.toml: text in, `System` or every problem with its line out. Pure.

[tickets.jira]
kind     = "jira"                        # jira | servicenow | github | gitlab | http | file
url      = "https://jira.example.org"
token    = "file:jira.token"             # or credential:NAME; relative to bastion.toml
user     = "bastion@example.org"         # Jira's cloud and ServiceNow: the token is this user's password
ca       = "jira-ca.pem"                 # the only CAs to trust; left out: the system's
status   = ["Approved", "In Progress"]
assignee = "email"                       # name (default), email, any
email    = "{person}@example.org"
persons  = { alice = "a.smith@example.org" }   # those whose name or address is another one there
target   = { at = "customfield_10042", is = "{target}" }   # field or JSON pointer; is: a template
window   = { start = "customfield_10050", end = "customfield_10051", zone = "Europe/Berlin" }
seconds  = 5

`project` (github: OWNER/NAME, gitlab: path or id), `table` (servicenow), `file`, and for http `headers` and
`fields = { key, title, status, assignee, email }`, which others may set as well.
"""

import re
from typing import Any, Final
from urllib.parse import urlsplit

from policy.names import BadName, check_person_name
from policy.rules.windows import parse_zone
from policy.tickets.model import Assignee, Fields, Kind, Match, System, Window, check_template
from policy.tickets.shapes import SHAPES, Shape
from policy.toml_tables import Table, show

MAX_SECONDS: Final = 15
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
_SECRET: Final = re.compile(r"file:.+|credential:[^/]+")
_PROJECT: Final = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", re.ASCII)
_TABLE: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_HEADER: Final = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
_ALL: Final = (
    "kind", "url", "user", "token", "ca", "status", "assignee", "email", "persons", "target", "window", "seconds",
    "fields",
)  # fmt: skip


def parse_tickets(table: Table) -> dict[str, System]:
    """Those without a problem, by name."""
    found = {}
    for name, entry in table.entry.items():
        if not _NAME.fullmatch(name):
            table.problem(name, "want a name of small letters, digits, `-` and `_`")
            continue
        before = len(table.reading.problems)
        system = _system(name, Table(table.reading, entry, f"tickets.{name}"))
        if system is not None and len(table.reading.problems) == before:
            found[name] = system
    return found


def secret(text: str) -> str:
    """Where a secret is kept; ValueError for anything else, such as the secret itself, which is not repeated."""
    if not _SECRET.fullmatch(text):
        raise ValueError("want `file:PATH` or `credential:NAME`; secrets do not stand in this file")
    return text


def address(text: str) -> str:
    """An address that can be called; ValueError. Without TLS only what does not leave this machine."""
    try:
        url = urlsplit(text)
        port_is_good = url.port != 0
    except ValueError:
        raise ValueError(f"got `{text[:60]}`, want an address like `https://jira.example.org`") from None
    if url.scheme not in ("http", "https") or not url.hostname or not port_is_good or not text.isascii():
        raise ValueError(f"got `{text[:60]}`, want an address like `https://jira.example.org`")
    if url.username is not None or url.password is not None:
        raise ValueError("a password does not stand in an address; want `user` and `token`")
    if url.scheme == "http" and url.hostname not in LOOPBACK:
        raise ValueError("want https: whoever sits on the way could answer in its place")
    return text.rstrip("/")


def _system(name: str, table: Table) -> System | None:
    if "kind" not in table.entry:
        table.problem("kind", f"missing, want one of {', '.join(Kind)}")
        return None
    kind = table.choice("kind", table.text("kind"), list(Kind))
    if kind is None:
        return None
    shape = SHAPES[kind]
    table.known(*_ALL, *shape.takes)
    for key in (*shape.needs, "status"):
        if key not in table.entry:
            table.problem(key, f"missing: `{kind}` needs it")
    fields = _fields(table.table("fields"), shape)
    by = table.choice("assignee", table.text("assignee"), list(Assignee)) if "assignee" in table.entry else None
    system = System(
        name=name,
        kind=kind,
        url=_url(table, kind) or shape.url,
        status=frozenset(word.lower() for word in table.words("status", str))
        if "status" in table.entry
        else frozenset(),
        user=table.text("user"),
        token=table.parsed("token", secret) or "",
        ca=table.text("ca"),
        project=table.parsed("project", _project) or "",
        table=table.parsed("table", _table) or "change_request",
        headers=_headers(table.table("headers")),
        assignee=by or Assignee.NAME,
        email=table.parsed("email", check_template) or "",
        persons=_persons(table.table("persons")),
        fields=fields,
        target=_target(table.table("target"), shape) if "target" in table.entry else None,
        window=_window(table.table("window"), shape) if "window" in table.entry else None,
        seconds=_seconds(table),
    )
    _fits(table, system)
    return system


def _fits(table: Table, system: System) -> None:
    """What makes no sense together."""
    if system.assignee is Assignee.EMAIL and not system.email:
        table.problem("email", 'missing, want something like `email = "{person}@example.org"`')
    if system.kind is Kind.FILE:
        for key in ("url", "user", "token", "ca", "fields", "target"):
            if key in table.entry:
                table.problem(key, "a file has no such key")
        return
    if not system.fields.status and "fields" in table.entry:
        table.problem("fields.status", "missing: where the status stands in an answer")
    known = system.fields.names if system.assignee is Assignee.NAME else system.fields.emails
    if system.assignee is not Assignee.ANY and not known:
        key = "assignee" if system.assignee is Assignee.NAME else "email"
        table.problem("assignee", f"`{system.kind}` does not say it by itself; want `fields.{key}`, or `any`")
    if system.kind is Kind.HTTP and "{ticket}" not in system.url and "url" in table.entry:
        table.problem("url", "want {ticket} in it")


def _url(table: Table, kind: Kind) -> str:
    if kind is Kind.FILE:
        return table.text("file")
    url = table.parsed("url", address) or ""
    if kind is Kind.HTTP and url:
        return table.parsed("url", check_template) or ""
    return url


def _fields(table: Table, shape: Shape) -> Fields:
    """The places this kind of system has, but for those that are said otherwise."""
    table.known("key", "title", "status", "assignee", "email")
    usual = shape.fields

    def one(key: str, default: str) -> str:
        return shape.pointer(table.text(key)) if key in table.entry else default

    def some(key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        return (one(key, ""),) if key in table.entry else default

    return Fields(
        key=one("key", usual.key), title=one("title", usual.title), status=one("status", usual.status),
        names=some("assignee", usual.names), emails=some("email", usual.emails), single=usual.single,
    )  # fmt: skip


def _target(table: Table, shape: Shape) -> Match | None:
    table.known("at", "is")
    if "at" not in table.entry:
        table.problem("at", "missing, want the field of a ticket that names a target or service")
    wanted = table.parsed("is", check_template) if "is" in table.entry else "{target}"
    return Match(at=shape.pointer(table.text("at")), wanted=wanted or "")


def _window(table: Table, shape: Shape) -> Window:
    table.known("start", "end", "zone")
    if shape is not SHAPES[Kind.FILE]:
        table.some("start", "end")
    zone = table.parsed("zone", parse_zone) or parse_zone("UTC")
    return Window(start=shape.pointer(table.text("start")), end=shape.pointer(table.text("end")), zone=zone)


def _persons(table: Table) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in table.entry:
        try:
            found[check_person_name(name)] = table.text(name)
        except BadName as error:
            table.problem(name, str(error))
    return found


def _headers(table: Table) -> tuple[tuple[str, str], ...]:
    found = []
    for name in table.entry:
        if not _HEADER.fullmatch(name) or not (value := table.text(name)).isascii():
            table.problem(name, "is no header that can be sent")
        else:
            found.append((name, value))
    return tuple(found)


def _seconds(table: Table) -> float:
    value: Any = table.entry.get("seconds", 5)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_SECONDS:
        table.problem("seconds", f"got {show(value)}, want up to {MAX_SECONDS}: a person is waiting")
        return 5.0
    return float(value)


def _project(text: str) -> str:
    # `..` would lead to another project, or out of the API
    if not _PROJECT.fullmatch(text) or any(part in (".", "..") for part in text.split("/")):
        raise ValueError(f"got `{text[:60]}`, want a project like `ops/changes`")
    return text


def _table(text: str) -> str:
    if not _TABLE.fullmatch(text):
        raise ValueError(f"got `{text[:40]}`, want a table like `change_request`")
    return text
