"""Which application stands at the other end: what the broker saw, held against bindings and tokens. Pure.

    local   SO_PEERCRED, /proc        every binding that the application has must hold; there is at least one
    HTTPS   address, certificate      a token that is in force, from where it is good; and every binding as above

What cannot be seen does not hold: an application bound to a uid is nobody over HTTPS, one bound to a certificate is
nobody on the local socket.
"""

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from policy.messages import Applicant
from policy.records import Application, BrokerToken

TOKEN_PREFIX: Final = "app-"


@dataclass(frozen=True, slots=True)
class Known:
    application: Application
    token: BrokerToken | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """`why` is for the audit trail; they are told nothing but that nobody is known."""

    why: str
    name: str = ""  # whom it might have been


class Registry:
    """Every application, and every token that has not expired. policyd puts changes here before it answers."""

    def __init__(self, applications: Iterable[Application] = (), tokens: Iterable[BrokerToken] = ()) -> None:
        self._applications = {one.name: one for one in applications}
        self._tokens = {one.digest: one for one in tokens}

    def get(self, name: str) -> Application | None:
        return self._applications.get(name)

    def all(self) -> list[Application]:
        return [self._applications[name] for name in sorted(self._applications)]

    def put(self, application: Application) -> None:
        self._applications[application.name] = application

    def remove(self, name: str) -> None:
        self._applications.pop(name, None)
        self._tokens = {digest: one for digest, one in self._tokens.items() if one.application != name}

    def pass_on(self, owner: str, heir: str, now: int) -> None:
        """As `ApplicationTables.pass_on`."""
        for one in [one for one in self._applications.values() if one.owner == owner]:
            self.put(replace(one, owner=heir))
        for token in [one for one in self._tokens.values() if one.made_by == owner and one.revoked is None]:
            self._tokens[token.digest] = replace(token, revoked=now)

    def tokens(self, name: str, now: int) -> list[BrokerToken]:
        """Those in force, oldest first."""
        mine = [one for one in self._tokens.values() if one.application == name and _in_force(one, now)]
        return sorted(mine, key=lambda one: (one.made, one.id))

    def put_token(self, token: BrokerToken, now: int) -> None:
        """Expired ones of whomever make room."""
        self._tokens = {digest: one for digest, one in self._tokens.items() if one.expires > now}
        self._tokens[token.digest] = token

    def renewed(self, old: BrokerToken, new: BrokerToken, overlap: int) -> None:
        """As `ApplicationTables.renew_token`. What became of the old one while that was written holds for the new one.

        Attack: a token taken back, or its application removed, between the row and the memory of its successor.
        """
        known = self._tokens.get(old.digest)
        if known is None or new.application not in self._applications:
            return
        self._tokens[old.digest] = replace(known, expires=min(known.expires, overlap))
        self.put_token(replace(new, revoked=known.revoked), new.made)

    def revoke(self, name: str, now: int, ident: str = "") -> list[BrokerToken]:
        """As `ApplicationTables.revoke_tokens`; those that were in force."""
        ended = self.of_row(name, now, ident)
        for token in ended:
            self._tokens[token.digest] = replace(token, revoked=now)
        return ended

    def of_row(self, name: str, now: int, ident: str = "") -> list[BrokerToken]:
        """Those in force that came of the same first one as this does; all without it."""
        firsts = {one.first for one in self._tokens.values() if ident in ("", one.id, one.first)}
        return [one for one in self.tokens(name, now) if one.first in firsts]

    def judge(self, seen: Applicant, now: int) -> Known | Unknown:
        return self._local(seen) if seen.local else self._remote(seen, now)

    def _local(self, seen: Applicant) -> Known | Unknown:
        """By what binds it alone. Who fits several says which they are; nobody becomes one that does not fit."""
        named = self._applications.get(seen.name)
        among = ([named] if named else []) if seen.name else self.all()
        fit = [one for one in among if not one.disabled and not (missed(one, seen))]
        if len(fit) == 1:
            return Known(fit[0])
        if fit:
            return Unknown(f"fits {len(fit)} applications, and does not say which: {fit[0].name}, {fit[1].name}")
        if named is None:
            return Unknown("no such application" if seen.name else "fits no application", seen.name)
        return Unknown("disabled" if named.disabled else f"not bound so: {missed(named, seen)}", named.name)

    def _remote(self, seen: Applicant, now: int) -> Known | Unknown:
        # looked up by hash: how long it takes says nothing about how much of a guess was right
        token = self._tokens.get(digest_of(seen.token))
        if token is None:
            return Unknown("no such token, or one that is over" if seen.token else "no token")
        application = self._applications.get(token.application)
        if application is None:
            return Unknown("the token's application is gone", token.application)
        if token.revoked is not None:
            return Unknown(f"token {token.id} was revoked", application.name)
        if token.expires <= now:
            return Unknown(f"token {token.id} has expired", application.name)
        if application.disabled:
            return Unknown("disabled", application.name)
        if seen.name not in ("", application.name):
            return Unknown(f"says it is another than its token {token.id} is of", application.name)
        # Attack: a token read from a file or a log, used from another machine.
        if not (token.certificate or token.addresses):
            return Unknown(f"token {token.id} is bound to nothing", application.name)
        if token.certificate and token.certificate != seen.certificate:
            return Unknown(f"token {token.id} came without its certificate", application.name)
        if token.addresses and not within(seen.address, token.addresses):
            return Unknown(f"token {token.id} came from elsewhere", application.name)
        if why := missed(application, seen):
            return Unknown(f"not bound so: {why}", application.name)
        return Known(application, token)


def missed(application: Application, seen: Applicant) -> str:
    """The first binding that does not hold; empty if all do. One without any is held by nobody."""
    if not any(bindings(application).values()):
        return "it has no binding"
    if application.uid is not None and not (seen.local and seen.uid == application.uid):
        return "another uid"
    if application.unit and not (seen.local and seen.unit == application.unit):
        return "another unit"
    if application.executable and not (seen.local and seen.executable == application.executable):
        return "another executable"
    if application.certificate and (seen.local or seen.certificate != application.certificate):
        return "another certificate"
    if application.addresses and (seen.local or not within(seen.address, application.addresses)):
        return "another address"
    return ""


def bindings(application: Application) -> dict[str, str]:
    """By name, as people write them; empty for what does not bind."""
    return {
        "uid": "" if application.uid is None else str(application.uid),
        "unit": application.unit,
        "executable": application.executable,
        "certificate": application.certificate,
        "addresses": " ".join(application.addresses),
    }


def within(address: str, networks: Iterable[str]) -> bool:
    """Whether an address lies in one of the networks; false for what is none."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in ipaddress.ip_network(network) for network in networks)


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def source_of(seen: Applicant) -> str:
    """Where it comes from, for the audit trail."""
    return f"uid {seen.uid} pid {seen.pid}" if seen.local else seen.address


def _in_force(token: BrokerToken, now: int) -> bool:
    return token.revoked is None and token.expires > now
