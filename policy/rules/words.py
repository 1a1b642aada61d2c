"""Single words of policy.toml: roles, names, networks, labels; ValueError says what is wrong. Pure."""

import ipaddress
import re
from datetime import timedelta
from typing import Final

from policy.names import BadName, check_account_name, check_person_name
from policy.rules.windows import parse_duration

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

OWN_ACCOUNT: Final = "$person"
OWNER: Final = "$owner"
"""In `approval.by`: whoever owns the target."""
GIVEN: Final = "$given"
"""Beside the roles of a vote: it gave the grant unasked, by a right that stands beside every rule's `approval.by`."""

_GLOB: Final = re.compile(r"[a-z0-9._*?-]+", re.ASCII)
_ROLE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@/-]*|\*", re.ASCII)


def mfa_age(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError(f"got `{text[:40]}`, want a duration like `15m`, or `always`") from None


def approver(text: str) -> str:
    return text if text == OWNER else role(text)


def role(text: str) -> str:
    if not _ROLE.fullmatch(text):
        raise ValueError(f"got `{text[:40]}`, want the name of a role")
    return text


def person(text: str) -> str:
    try:
        return text if text == "*" else check_person_name(text)
    except BadName as error:
        raise ValueError(str(error)) from None


def account(text: str) -> str:
    try:
        return text if text in ("*", OWN_ACCOUNT) else check_account_name(text)
    except BadName as error:
        raise ValueError(str(error)) from None


def glob(text: str) -> str:
    if not _GLOB.fullmatch(text):
        raise ValueError(f"got `{text[:40]}`, want a target name in lower case; `*` and `?` stand for others")
    return text


def label(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("want a printable value; `*` stands for any")
    return text


def network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        hint = f"; did you mean `{ipaddress.ip_network(text, strict=False)}`"
    except ValueError:
        hint = ""
    raise ValueError(f"got `{text[:60]}`, want a network like `10.0.0.0/8`{hint}")
