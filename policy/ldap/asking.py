"""What a directory is asked, and what it means when it has no answer. Pure.

Whatever is put into a filter is escaped (RFC 4515 section 3); a name in the directory is never built from a person's,
but found by a search.
"""

from dataclasses import dataclass
from typing import Final

from policy.ldap.model import Directory, DirectoryProblem, Groups
from policy.messages import Called, LdapCall

ACCOUNT_STATE: Final = (
    "userAccountControl",  # Active Directory
    "accountExpires",
    "nsAccountLock",  # 389, FreeIPA
    "shadowExpire",  # RFC 2307
    "pwdAccountLockedTime",  # OpenLDAP's password policy
)
MEMBERS: Final = ("member", "uniqueMember", "memberUid")

_IN_CHAIN: Final = "1.2.840.113556.1.4.1941"
"""LDAP_MATCHING_RULE_IN_CHAIN of Active Directory: through groups in groups."""

INVALID_CREDENTIALS: Final = 49
_PARTIAL: Final = frozenset({3, 4, 11})  # time, size, administrative limit exceeded
_WORDS: Final = {
    8: "wants a stronger way to log in than a password",
    10: "refers to another server, which is not followed",
    13: "wants more encryption than this",
    32: "has nothing at the base of the search",
    INVALID_CREDENTIALS: "does not accept the name and password in `bind` and `password`",
    50: "does not let the name in `bind` search there",
    51: "is busy",
    52: "is not available",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    base: str
    filter: str
    attributes: tuple[str, ...]


def persons(directory: Directory) -> Search:
    """Everybody."""
    wanted = (directory.name, directory.ident, *ACCOUNT_STATE, directory.keys, directory.mail)
    return Search(base=directory.base, filter=directory.filter, attributes=tuple(filter(None, wanted)))


def one(directory: Directory, name: str) -> Search:
    """The person of this name."""
    everybody = persons(directory)
    beside = f"(&{directory.filter}({directory.name}={escaped(name)}))"
    return Search(base=directory.base, filter=beside, attributes=everybody.attributes)


def members(directory: Directory, group: str) -> Search:
    """Persons in a group, or the group with its members."""
    match directory.groups:
        case Groups.MEMBER:
            return Search(base=group, filter="(objectClass=*)", attributes=MEMBERS)
        case Groups.MEMBER_OF | Groups.NESTED:
            rule = f":{_IN_CHAIN}:" if directory.groups is Groups.NESTED else ""
            return Search(
                base=directory.base,
                filter=f"(&{directory.filter}(memberOf{rule}={escaped(group)}))",
                attributes=(directory.name,),
            )


def escaped(text: str) -> str:
    """A value as it stands in a filter: whatever could end it, or is no printable ASCII, by its bytes."""
    return "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte not in b"\\*()" else f"\\{byte:02x}" for byte in text.encode()
    )


def search_call(
    directory: Directory, search: Search, *, password: str, trust: str, after: bytes = b""
) -> LdapCall:  # fmt: skip
    return LdapCall(
        task=0, url=directory.url, bind=directory.bind, password=password.encode(), base=search.base,
        filter=search.filter, attributes=list(search.attributes), after=after, seconds=directory.seconds, trust=trust,
    )  # fmt: skip


def password_call(directory: Directory, dn: str, password: bytes, *, trust: str) -> LdapCall:
    """Is this the password of the person with this name in the directory? DirectoryProblem if it cannot be asked."""
    if not password or not dn:
        # RFC 4513 section 5.1.2: a name without a password binds as nobody, and is answered with success.
        raise DirectoryProblem("is not asked about an empty password")
    return LdapCall(task=0, url=directory.url, bind=dn, password=password, seconds=directory.seconds, trust=trust)


def check_answer(called: Called) -> None:
    """DirectoryProblem unless it is a whole answer: half of the persons, taken for all, would offboard the others."""
    if called.error:
        raise DirectoryProblem(called.error[:200])
    if called.status in _PARTIAL:
        raise DirectoryProblem("gave only a part of its entries: its limits are too low for the name in `bind`")
    if called.status:
        raise DirectoryProblem(_WORDS.get(called.status, f"refused with LDAP's code {called.status}"))
