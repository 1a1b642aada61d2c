"""`options` of a `[[rotation]]` entry, which are its driver's: what each takes, and the names built from them. Pure.

ldap     url, entry, login, way, ca, bind, secret
script   script
"""

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

LDAP: Final = "ldap"
SCRIPT: Final = "script"
EXTENDED, UNICODE = "extended", "unicode"
WAYS: Final = (EXTENDED, UNICODE)
ACCOUNT: Final = "{account}"
"""Stands for the account's name in `entry` and `login`."""

_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    LDAP: frozenset({"url", "entry", "login", "way", "ca", "bind", "secret"}),
    SCRIPT: frozenset({"script"}),
}
_NEEDED: Final[Mapping[str, Mapping[str, str]]] = {
    LDAP: {"url": "ldaps://dc1.example.org", "entry": "CN={account},OU=Service,DC=example,DC=org"},
    SCRIPT: {"script": "oracle"},
}
_SPECIAL: Final = frozenset(',+"\\<>;=#')


def problems(driver: str, options: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong with them, by key."""
    known = _KNOWN.get(driver, frozenset())
    for name in options:
        if name not in known:
            takes = ", ".join(sorted(known)) or "none"
            yield name, f"`{driver}` has no such option; it takes {takes}"
    for name, example in _NEEDED.get(driver, {}).items():
        if not options.get(name):
            yield name, f'missing, want something like `{name} = "{example}"`'
    if driver == LDAP:
        yield from _of_ldap(options)


def _of_ldap(options: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    url = options.get("url", "")
    if url and urlsplit(url).scheme not in ("ldaps", "ldap"):
        yield "url", "want ldaps://HOST, or ldap://HOST with STARTTLS"
    if options.get("way", EXTENDED) not in WAYS:
        yield "way", f"want `{EXTENDED}` (RFC 3062) or `{UNICODE}` (Active Directory)"
    for name in ("entry", "login"):
        if options.get(name) and ACCOUNT not in options[name]:
            yield name, f"want `{ACCOUNT}` in it, or every account has one password"
    if bool(options.get("bind")) != bool(options.get("secret")):
        yield "bind", "stands together with `secret`, the name of its password in the vault, or not at all"


def entry_of(options: Mapping[str, str], account: str) -> str:
    """The distinguished name of an account's entry."""
    return options["entry"].replace(ACCOUNT, in_dn(account))


def login_of(options: Mapping[str, str], account: str) -> str:
    """What it binds as: its entry, or a name like `{account}@EXAMPLE.ORG`."""
    login = options.get("login", "")
    if not login:
        return entry_of(options, account)
    return login.replace(ACCOUNT, in_dn(account) if "=" in login else account)


def in_dn(value: str) -> str:
    """A value as it stands in a distinguished name (RFC 4514 section 2.4): it stays one value, whatever is in it."""
    text = "".join(
        f"\\{char}" if char in _SPECIAL else char if char >= " " else "".join(f"\\{byte:02x}" for byte in char.encode())
        for char in value
    )
    if text.startswith(" "):
        text = f"\\{text}"
    return f"{text[:-1]}\\ " if text.endswith(" ") and not text.endswith("\\ ") else text
