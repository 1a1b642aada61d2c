"""A password in a directory, set by a bind that may: over TLS or not at all, as `ldap`.

INVARIANT: an answer says "told" if and only if the change may have reached the server.
"""

from typing import Final

from bastion.courier import ldap_modify
from bastion.courier.ldap import Line, answered
from bastion.courier.reach import Reach, Unreachable
from policy.messages import Called, LdapPassword

EXTENDED, UNICODE = "extended", "unicode"
TOLD: Final = "told"
MAX_PASSWORD: Final = 256
"""Bytes; Active Directory takes 256 characters at most."""


async def call(request: LdapPassword, reach: Reach) -> Called:
    """What came of it; never raises for what the other side does."""
    told: list[str] = []
    answer = await answered(request, _made(request, reach, told))
    if told:
        answer.values = [*told, *answer.values]
    return answer


async def _made(request: LdapPassword, reach: Reach, told: list[str]) -> Called:
    change = _change(request)
    if not request.bind or not request.password:
        # RFC 4513 section 5.1.2: a name without a password binds as nobody, and is answered with success.
        raise Unreachable("is not asked without a name and a password")
    line = await Line.connect(request, reach)
    try:
        if status := await line.bind(request.bind, request.password):
            return Called(task=request.task, status=status)
        told.append(TOLD)
        code, text = ldap_modify.result(await line.exchange(change))
        # Attack: a directory that says our passwords back, for a log to keep.
        secrets = [one.decode() for one in (request.new, request.old, request.password) if one]
        for secret in secrets:
            text = text.replace(secret, "[secret]")
        return Called(task=request.task, status=code, values=[text])
    finally:
        line.close()


def _change(request: LdapPassword) -> bytes:
    for password in (request.old, request.new):
        try:
            text = password.decode()
        except UnicodeDecodeError:
            raise Unreachable("takes no password that is not UTF-8") from None
        if len(password) > MAX_PASSWORD or not text.isprintable():
            raise Unreachable(f"takes no password of more than {MAX_PASSWORD} bytes or with control characters")
    if not request.new or not request.entry:
        # RFC 3062 section 2: without a new password the server makes one up, and nobody here would know it.
        raise Unreachable("is not asked without an entry and a new password")
    match request.way:
        case "extended":
            return ldap_modify.password_modify(request.entry, request.old, request.new)
        case "unicode":
            return ldap_modify.unicode_password(request.entry, request.old, request.new)
        case _:
            raise Unreachable("knows no such way to change a password")
