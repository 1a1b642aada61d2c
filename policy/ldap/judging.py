"""Entries of a directory in, persons out; what is not clear about one of them makes it nobody. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from policy.keys.sshkeys import parse_authorized_key
from policy.keys.sshwire import BadKey
from policy.ldap.asking import MEMBERS
from policy.ldap.model import Directory, DirectoryProblem, Entry, Found, Groups, Refused
from policy.names import BadName, check_mail, check_person_name
from policy.naming import MAX_KEYS

MAX_IDENT: Final = 64
_DISABLED: Final = 0x2  # of userAccountControl
_NEVER: Final = frozenset({0, 0x7FFF_FFFF_FFFF_FFFF})  # of accountExpires
_SINCE_1601: Final = 11_644_473_600  # seconds from there to 1970
_FOR_EVER: Final = b"000001010000Z"  # of pwdAccountLockedTime: by an administrator, not by wrong passwords
_UUID: Final = re.compile(rb"[0-9a-fA-F-]{8,64}")


def merged(entries: Iterable[Entry]) -> dict[str, dict[str, list[bytes]]]:
    """By name; a large entry comes in parts."""
    found: dict[str, dict[str, list[bytes]]] = {}
    for dn, values in entries:
        mine = found.setdefault(dn, {})
        for name, more in values.items():
            mine.setdefault(name, []).extend(more)
    return found


def read(
    directory: Directory, entries: Iterable[Entry], groups: Mapping[str, Iterable[Entry]], now: float
) -> tuple[dict[str, Found], list[Refused]]:
    """Persons by name, and the entries that are nobody. `groups`: what was answered about each group.

    `now`: Unix seconds. DirectoryProblem if a group cannot be read.
    """
    found: list[Found] = []
    refused: list[Refused] = []
    for dn, values in merged(entries).items():
        try:
            found.append(person(directory, dn, values, now))
        except DirectoryProblem as problem:
            refused.append(Refused(dn=dn, why=str(problem)))
    for kind in ("name", "ident"):
        # Two entries of one name: which of them is the person that the name stands for here?
        often = {word for word, count in Counter(getattr(one, kind) for one in found).items() if count > 1}
        for one in [one for one in found if getattr(one, kind) in often]:
            found.remove(one)
            refused.append(Refused(dn=one.dn, why=f"another entry has the same {kind}, `{getattr(one, kind)}`"))
    for group, role in directory.roles:
        names, dns = _members(directory, group, groups[group])
        found = [
            replace(one, roles=one.roles | {role}) if one.name in names or _plain(one.dn) in dns else one
            for one in found
        ]
    return {one.name: one for one in found}, refused


def person(directory: Directory, dn: str, values: Mapping[str, list[bytes]], now: float) -> Found:
    """DirectoryProblem if it is nobody that could be a person here."""
    name = _name(_single(values, directory.name))
    return Found(
        name=name,
        dn=dn,
        ident=_ident(_single(values, directory.ident)),
        disabled=_disabled(values, now),
        keys=_keys(values.get(directory.keys, [])) if directory.keys else (),
        mail=_mail(values.get(directory.mail, [])) if directory.mail else "",
    )


def _single(values: Mapping[str, list[bytes]], name: str) -> bytes:
    found = values.get(name, [])
    if len(found) != 1:
        raise DirectoryProblem(f"it has {len(found)} values of `{name}`, want one")
    return found[0]


def _name(value: bytes) -> str:
    """Directories take no notice of case; look-alikes from elsewhere in Unicode are nobody."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise DirectoryProblem("its name is no text") from None
    try:
        return check_person_name(text.lower() if text.isascii() else text)
    except BadName as error:
        raise DirectoryProblem(str(error)) from None


def _ident(value: bytes) -> str:
    """A UUID as text, or 16 bytes of one."""
    if len(value) == 16 and not _UUID.fullmatch(value):
        return value.hex()
    if not 0 < len(value) <= MAX_IDENT or not value.isascii() or not value.decode("ascii").isprintable():
        raise DirectoryProblem("its id is no id")
    return value.decode("ascii").lower()


def _keys(values: Iterable[bytes]) -> tuple[tuple[str, str], ...]:
    """Those that this bastion takes; people write here themselves, and a bad one is no reason to lose the others."""
    found: dict[str, str] = {}
    for value in values:
        try:
            key = parse_authorized_key(value.decode().strip())
        except (BadKey, UnicodeDecodeError):
            continue
        found.setdefault(key.key.fingerprint, key.line)
        if len(found) >= MAX_KEYS:
            break
    return tuple(sorted(found.items()))


def _mail(values: Iterable[bytes]) -> str:
    """The first that is an address, in an order that does not change with the server's mood."""
    for value in sorted(values):
        try:
            return check_mail(value.decode())
        except (BadName, UnicodeDecodeError):
            continue
    return ""


def _disabled(values: Mapping[str, list[bytes]], now: float) -> str:
    """Why the account is, by the words of each kind of directory; what cannot be read is."""
    try:
        if _number(values, "userAccountControl", 0) & _DISABLED:
            return "userAccountControl says disabled"
        expires = _number(values, "accountExpires", 0)
        if expires not in _NEVER and expires / 10_000_000 - _SINCE_1601 <= now:
            return "accountExpires is over"
        days = _number(values, "shadowExpire", -1)
        if days >= 0 and now // 86400 >= days:
            return "shadowExpire is over"
    except ValueError as error:
        return f"{error} cannot be read"
    if any(value.strip().lower() == b"true" for value in values.get("nsAccountLock", [])):
        return "nsAccountLock is set"
    return "pwdAccountLockedTime is for ever" if _FOR_EVER in values.get("pwdAccountLockedTime", []) else ""


def _number(values: Mapping[str, list[bytes]], name: str, usual: int) -> int:
    """ValueError names the attribute."""
    found = values.get(name, [])
    if not found:
        return usual
    if len(found) != 1 or not re.fullmatch(rb"-?[0-9]{1,20}", found[0]):
        raise ValueError(name)
    return int(found[0])


def _members(directory: Directory, group: str, entries: Iterable[Entry]) -> tuple[set[str], set[str]]:
    """Names of persons, and plain names of entries."""
    found = merged(entries)
    if directory.groups is not Groups.MEMBER:
        return set(), {_plain(dn) for dn in found}
    mine = next((values for dn, values in found.items() if _plain(dn) == _plain(group)), None)
    if mine is None:
        raise DirectoryProblem(f"has no group `{group[:100]}`")
    dns = {_plain(value.decode("utf-8", "replace")) for name in MEMBERS[:2] for value in mine.get(name, [])}
    return {value.decode("utf-8", "replace").lower() for value in mine.get(MEMBERS[2], [])}, dns


def _plain(dn: str) -> str:
    """Two ways to write one name of an entry, as servers do it: case, and blanks around separators."""
    return re.sub(r"\s*(?<!\\)([,=+])\s*", r"\1", dn).strip().lower()
