"""Names of persons, targets and accounts: what may be stored, so that no two look alike. Pure.

Persons and targets are lower-case ASCII, so Unicode look-alikes, case and normalisation forms cannot make one name
pass for another. Accounts keep their case, because targets tell it apart.
"""

import ipaddress
import re
import unicodedata
from typing import Final

from policy.model import PersonName, TargetName

MAX_PERSON: Final = 64
MAX_TARGET: Final = 128  # one part of a login string
MAX_ACCOUNT: Final = 64

_PERSON: Final = re.compile(r"[a-z0-9][a-z0-9._-]*(@[a-z0-9][a-z0-9._-]*)?", re.ASCII)
_TARGET: Final = re.compile(r"[a-z0-9_][a-z0-9._-]*", re.ASCII)
_APPLICATION: Final = re.compile(r"[a-z0-9][a-z0-9._-]*", re.ASCII)
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.$\\+-]*", re.ASCII)

_COMMON: Final = (
    "admin administrator almalinux ansible apache azureuser backup bastion policyd bin centos cloud-user core daemon "
    "debian deploy ec2-user elasticsearch fedora git guest jenkins mariadb mongodb mysql nginx nobody opc "
    "oracle pi postgres redis rocky root service sshd sys test toor ubuntu user vagrant www-data "
)
COMMON_ACCOUNTS: Final = frozenset(_COMMON.split())
"""A person is one human. `ssh -J` sends the local user name as a claim, so a person named `root` would be claimed by
everybody who works as root."""

SECRET_NAMES: Final = ("ticket-", "join-")
"""How login names begin that are secrets: access tokens and invitations."""


_LOOK: Final = str.maketrans({"0": "o", "1": "l", ".": None, "-": None, "_": None})

MAX_MAIL: Final = 254  # RFC 5321 section 4.5.3.1.3, without the brackets


class BadName(ValueError):
    """What is wrong with a name, fit for a person."""


def check_person_name(name: str) -> PersonName:
    """The name itself; BadName otherwise."""
    _check("person", name, _PERSON, MAX_PERSON, "lower-case letters, digits, `.`, `_`, `-`, one `@`")
    if look(name) in _COMMON_LOOKS:
        how = "is" if name in COMMON_ACCOUNTS else "looks like"
        raise BadName(f"person name `{name}` {how} that of a common account: name the human, not the account")
    if name.startswith(SECRET_NAMES):
        raise BadName(f"person name `{name}` begins as an access token or an invitation does")
    return PersonName(name)


def check_mail(address: str) -> str:
    """An e-mail address that stands for one mailbox, wherever it is put; BadName otherwise.

    Attack: `alice@example.org, all@example.org`, or a line break and what a mail server or a header then reads.
    """
    local, _, domain = address.rpartition("@")
    plain = address.isascii() and address.isprintable() and not set(address) & set(" <>,;:\"'\\()[]`$")
    if not (local and domain and plain) or "@" in local or len(address) > MAX_MAIL:
        raise BadName(f"got `{address[:60]}`, want an address like `ops@example.org`")
    return address


def look(name: str) -> str:
    """The same for names that people take for one another: `0` and `o`, `1` and `l`, with and without `.`, `-`, `_`.

    Attack: `a1ice` asks for leave, and an approver who knows alice reads what they expect. Unicode's confusables
    need no table here: names are lower-case ASCII.
    """
    return name.translate(_LOOK)


def check_target_name(name: str) -> TargetName:
    """The name itself; BadName otherwise."""
    _check("target", name, _TARGET, MAX_TARGET, "lower-case letters, digits, `.`, `_`, `-`")
    return TargetName(name)


def check_account_name(name: str) -> str:
    """The name itself; BadName otherwise. No `@`: the login string is split there."""
    _check("account", name, _ACCOUNT, MAX_ACCOUNT, "letters, digits, `.`, `_`, `-`, `+`, `$`, `\\`")
    return name


def check_application_name(name: str) -> str:
    """The name itself; BadName otherwise."""
    _check("application", name, _APPLICATION, MAX_PERSON, "lower-case letters, digits, `.`, `_`, `-`")
    return name


def check_network(text: str) -> str:
    """`10.1.0.0/16`, or an address, as one writes it; BadName otherwise."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise BadName(f"network `{text[:64]}`: want an address, or one like `10.1.0.0/16`") from error
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise BadName(f"network `{text[:64]}`: write the IPv4 one")  # addresses are compared as what they are
    return str(network)


def without_secret(claim: str) -> str:
    """A login name as it may be kept: an access token or an invitation is a secret, whatever became of it."""
    start = next((start for start in SECRET_NAMES if claim.startswith(start)), None)
    return claim if start is None else f"{start}..."


def plain_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; an IPv4 one that came through an IPv6 socket as what it is, a zone left out. ValueError."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


_COMMON_LOOKS: Final = frozenset(look(name) for name in COMMON_ACCOUNTS)


def _check(what: str, name: str, wanted: re.Pattern[str], most: int, words: str) -> None:
    if not name:
        raise BadName(f"{what} name is empty")
    if len(name) > most:
        raise BadName(f"{what} name has {len(name)} characters, want at most {most}")
    if wanted.fullmatch(name):
        return
    if not name.isprintable():
        raise BadName(f"{what} name holds a character that cannot be printed")
    plain = unicodedata.normalize("NFKC", name).lower()
    hint = f"; did you mean `{plain}`" if plain != name and wanted.fullmatch(plain) else ""
    raise BadName(f"{what} name `{name}` is not made of {words}, beginning with a letter or digit{hint}")
