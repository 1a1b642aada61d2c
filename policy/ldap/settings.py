"""`[directory]` of policy.toml: text in, `Directory` or every problem with its line out. Pure.

[directory]
url       = "ldaps://ldap.example.org"      # ldap: STARTTLS is demanded
bind      = "cn=bastion,dc=example,dc=org"  # who asks; reads persons and groups, and nothing else
password  = "file:ldap.password"            # or credential:NAME; relative to bastion.toml
ca        = "ldap-ca.pem"                   # the only CAs to trust; left out: the system's
base      = "ou=people,dc=example,dc=org"
kind      = "ldap"                          # or "ad": what the four below are when they are left out
filter    = "(objectClass=inetOrgPerson)"   # ad: (&(objectCategory=person)(objectClass=user))
name      = "uid"                           # ad: sAMAccountName
id        = "entryUUID"                     # ad: objectGUID
groups    = "memberOf"                      # ad: nested; member: groups that list member, uniqueMember or memberUid
keys      = "sshPublicKey"                  # left out: keys are set here
mail      = "mail"                          # left out: addresses are set here
passwords = true                            # are checked there; left out: are set here
every     = "15m"
seconds   = 10
most      = "20%"                           # of its persons may lose something in a sync; more, and it stops
alarm     = 3                               # failed syncs in a row
administer = true                           # roles may come from there that give this right

[directory.roles]
"cn=dba,ou=groups,dc=example,dc=org" = "dba"
"""

import re
from typing import Any, Final
from urllib.parse import urlsplit

from policy.ldap.model import Directory, Groups
from policy.naming import CommandRefused, role_name
from policy.rules.rights import EVERYBODY, Right, Rights
from policy.rules.windows import parse_duration
from policy.tickets.settings import secret
from policy.toml_tables import Table, show

MAX_SECONDS: Final = 30
MIN_EVERY: Final = 60.0
"""Seconds; a directory is read whole each time."""
MAX_ROLES: Final = 200
"""Groups; each is a search of its own."""

USUAL: Final[dict[str, dict[str, str]]] = {
    "ldap": {
        "filter": "(objectClass=inetOrgPerson)", "name": "uid", "id": "entryUUID", "groups": Groups.MEMBER_OF,
    },
    "ad": {
        "filter": "(&(objectCategory=person)(objectClass=user))", "name": "sAMAccountName", "id": "objectGUID",
        "groups": Groups.NESTED,
    },
}  # fmt: skip

_ATTRIBUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9.-]+\s*=[^\x00-\x1f]+")
_PERCENT: Final = re.compile(r"([0-9]{1,3})%", re.ASCII)


def parse_directory(table: Table, rights: Rights) -> Directory | None:
    """None with a problem."""
    before = len(table.reading.problems)
    table.known(
        "url", "bind", "password", "ca", "base", "kind", "filter", "name", "id", "groups", "keys", "mail", "passwords",
        "every", "seconds", "most", "alarm", "administer", "roles",
    )  # fmt: skip
    for key in ("url", "bind", "password", "base"):
        if key not in table.entry:
            table.problem(key, "missing")
    kind = table.choice("kind", table.text("kind"), [*USUAL]) if "kind" in table.entry else "ldap"
    usual = USUAL[kind or "ldap"]
    groups = table.choice("groups", table.text("groups") or usual["groups"], list(Groups))
    found = Directory(
        url=table.parsed("url", address) or "",
        bind=table.parsed("bind", entry_name) or "",
        password=table.parsed("password", secret) or "",
        ca=table.text("ca"),
        base=table.parsed("base", entry_name) or "",
        filter=table.parsed("filter", search_filter) or usual["filter"],
        name=table.parsed("name", attribute) or usual["name"],
        ident=table.parsed("id", attribute) or usual["id"],
        keys=table.parsed("keys", attribute) or "",
        mail=table.parsed("mail", attribute) or "",
        passwords=table.flag("passwords"),
        groups=groups or Groups.MEMBER_OF,
        roles=_roles(table.table("roles"), rights, administer=table.flag("administer")),
        every=max(MIN_EVERY, _every(table)),
        seconds=_number(table, "seconds", 10, MAX_SECONDS, "a directory that answers later is not well"),
        most=table.parsed("most", percent) or 0.2,
        alarm=int(_number(table, "alarm", 3, 1000, "a number of failed syncs")),
    )
    return found if len(table.reading.problems) == before else None


def address(text: str) -> str:
    """ValueError unless it is one of LDAP with TLS."""
    try:
        url: Any = urlsplit(text)
        good = url.scheme in ("ldap", "ldaps") and url.hostname and url.port != 0 and url.path in ("", "/")
    except ValueError:
        good = False
    if not good or url.username is not None or url.query or not text.isascii():
        raise ValueError(f"got `{text[:60]}`, want `ldaps://HOST[:PORT]`, or `ldap:` with STARTTLS")
    return text


def entry_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"got `{text[:60]}`, want a name like `ou=people,dc=example,dc=org`")
    return text


def attribute(text: str) -> str:
    if not _ATTRIBUTE.fullmatch(text):
        raise ValueError(f"got `{text[:40]}`, want an attribute like `uid`")
    return text


def search_filter(text: str) -> str:
    """One filter in parentheses (RFC 4515), so that what is put beside it stays beside it."""
    depth, closed = 0, False
    for char in text:
        if closed:
            break
        depth += (char == "(") - (char == ")")
        closed = depth == 0
    else:
        if closed and text.startswith("("):
            return text
    raise ValueError(f"got `{text[:60]}`, want one filter like `(objectClass=inetOrgPerson)`")


def percent(text: str) -> float:
    match = _PERCENT.fullmatch(text)
    if match is None or not 0 < int(match[1]) <= 100:
        raise ValueError(f"got `{text[:20]}`, want something like `20%`")
    return int(match[1]) / 100


def _roles(table: Table, rights: Rights, *, administer: bool) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    if len(table.entry) > MAX_ROLES:
        table.problem("", f"got {len(table.entry)} groups, want at most {MAX_ROLES}")
    for group in table.entry:
        try:
            found.append((entry_name(group), role := role_name(table.text(group))))
        except (ValueError, CommandRefused) as error:
            table.problem(group, str(error))
            continue
        if rights.has(Right.ADMINISTER, {role}) and not administer and EVERYBODY not in rights.roles[Right.ADMINISTER]:
            # Attack: who may write to one group of the directory makes themselves master of the bastion.
            table.problem(
                group, f"role `{role}` gives the right `{Right.ADMINISTER}`; if it shall, set `administer = true`"
            )
    return tuple(found)


def _every(table: Table) -> float:
    value = table.parsed("every", parse_duration)
    if value is not None and value.total_seconds() < MIN_EVERY:
        table.problem("every", "want at least `1m`: the directory is read whole each time")
    return value.total_seconds() if value is not None else 900.0


def _number(table: Table, key: str, usual: int, most: int, why: str) -> float:
    value: Any = table.entry.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        table.problem(key, f"got {show(value)}, want 1 to {most}: {why}")
        return float(usual)
    return float(value)
