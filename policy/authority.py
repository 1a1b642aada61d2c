"""What every handler works with, and the ways to say no."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog
import trio

from policy.applications.judging import Registry
from policy.applications.rates import Rates
from policy.authorities.life import Authorities
from policy.checkout.lease import Checkouts
from policy.configuration import BadConfiguration, Configuration, read_all
from policy.conversation import Conversation, State
from policy.ldap.synced import Synced
from policy.leave.standing import OPERATOR, Standing
from policy.login.lockouts import Lockouts
from policy.login.passwords import Passwords
from policy.login.proofs import Proofs
from policy.messages import Refused
from policy.model import PolicySettings
from policy.naming import counted, password
from policy.outside.couriers import Couriers
from policy.outside.runners import Runners
from policy.outside.workers import Workers
from policy.persons.safeguards import administrators
from policy.records import Account, Person, Target
from policy.roster import Roster
from policy.rotation.due import NoRotations, Rotations
from policy.rules.conditions import Factor
from policy.rules.rights import Right
from policy.rules.ruleset import RuleSet, differences
from policy.sessions.live import Live, Sessions
from policy.store import Tables
from policy.tickets.ticketing import Ticketing
from policy.trail.audit import Event, clean
from policy.trail.ledger import Ledger, side_by_side
from policy.vault.envelope import Vault
from policy.vault.rekeying import Rekeying
from policy.vault.secret import Secret
from policy.vault.secrets import Secrets

NO_ACCESS: Final = "no access to this account on this target"
"""The same words for a target that does not exist, an account that does not, and one that is not allowed."""


@dataclass(slots=True, kw_only=True, eq=False)
class Authority:
    """One policyd. `rules` is replaced as a whole when the file is read again."""

    settings: PolicySettings
    config: Configuration
    rules: RuleSet
    ledger: Ledger
    roster: Roster
    vault: Vault
    secrets: Secrets
    rekeying: Rekeying
    authorities: Authorities
    trusted_cas: frozenset[bytes]  # public key blobs whose user certificates prove a person
    revoked_keys: frozenset[str]  # fingerprints that prove nobody any more
    sessions: Sessions
    lockouts: Lockouts
    checkouts: Checkouts = field(default_factory=Checkouts)
    rotations: Rotations = field(default_factory=NoRotations)
    standing: Standing = field(default_factory=Standing)
    workers: Workers = field(default_factory=Workers)
    couriers: Couriers = field(default_factory=Couriers)
    runners: Runners = field(default_factory=Runners)
    tickets: Ticketing = field(default_factory=Ticketing)
    synced: Synced = field(default_factory=Synced)
    passwords: Passwords = field(default_factory=Passwords)
    proofs: Proofs = field(default_factory=Proofs)
    applications: Registry = field(default_factory=Registry)
    rates: Rates = field(default_factory=Rates)
    deciding: trio.Lock = field(default_factory=trio.Lock)  # requests and grants change one after the other
    awaited: dict[str, trio.Event] = field(default_factory=dict)  # requests that somebody waits for, by id
    _changing: trio.Lock = field(default_factory=trio.Lock)  # memory follows the database in the same order

    def __post_init__(self) -> None:
        self.sessions.returned = lambda grant: self.standing.used(grant, -1)

    def factors(self, talk: Conversation) -> tuple[Factor, ...]:
        """What proves the person of a conversation, here and remembered."""
        return self.proofs.factors(talk.person, talk.source, talk.factors, trio.current_time())

    def has_right(self, talk: Conversation, right: Right) -> bool:
        """By the person's roles of now; an operator on this machine has every right."""
        if talk.state is State.OPERATOR:
            return True
        person = self.roster.person(talk.person)
        return person is not None and not person.disabled and self.rules.rights.has(right, person.roles)

    def counts(self, name: str) -> bool:
        """Whether the vote of this person, or operator, still does: not once they are disabled or gone."""
        person = self.roster.person(name)
        return name.startswith(OPERATOR) or (person is not None and not person.disabled)

    def revoked(self, ca: str, _serial: int, key: str) -> bool:
        """Whether a user certificate was revoked, by the key it certifies or by its CA."""
        return bool({ca, key} & self.revoked_keys)

    async def reload(self, who: str, source: str, why: str = "") -> list[str]:
        """Read the rules again; the problems that keep the old ones in force."""
        try:
            rules, trusted, revoked = await trio.to_thread.run_sync(read_all, self.config)
        except BadConfiguration as error:
            return await self._kept(who, source, error.problems)
        persons, certificates = self.roster.persons(), bool(trusted)
        before = administrators(persons, self.rules.rights, certificates=bool(self.trusted_cas))
        if before and not administrators(persons, rules.rights, certificates=certificates):
            return await self._kept(who, source, [f"{self.config.rules}: [rights] would leave no administrator"])
        detail = {"rules": str(len(rules.rules)), "digest": rules.digest, "before": self.rules.digest}
        detail |= differences(self.rules, rules)
        await self.ledger.note(
            Event(event="reload", who=who, source=source, why=why, what=str(self.config.rules), detail=detail)
        )
        self.rules, self.trusted_cas, self.revoked_keys = rules, trusted, revoked
        self.checkouts.wake()
        structlog.get_logger().info("rules", rules=len(rules.rules), digest=rules.digest)
        return []

    async def _kept(self, who: str, source: str, problems: list[str]) -> list[str]:
        structlog.get_logger().error("rules-kept", problems=problems[:20])
        event = Event(event="reload-refused", who=who, source=source, why=problems[0], what=str(self.config.rules))
        await self.ledger.note(event)
        return problems

    async def refuse(
        self, talk: Conversation, event: str, why: str, cause: str, hint: str = "",
        *, code: int = 77, what: str = "", session: str = "", need: str = "",
    ) -> Refused:  # fmt: skip
        """Say no: `cause` and `hint` to the person, `why` to the audit trail and the log, one `ref` to all three."""
        ref = secrets.token_hex(4)
        structlog.get_logger().warning(
            event, who=talk.who, what=clean(what), why=clean(why), source=talk.source, session=session, ref=ref
        )
        await self.ledger.note(
            Event(event=event, who=talk.who, what=what, why=why, source=talk.source, session=session, ref=ref)
        )
        return Refused(code=code, cause=clean(cause, 512), hint=clean(hint, 512), ref=ref, need=need)

    async def refuse_access(self, talk: Conversation, what: str, why: str) -> Refused:
        """Say no to a name or a right, in words that do not tell which."""
        return await self.refuse(
            talk, "access-refused", why, NO_ACCESS, "see what you may use: `ssh BASTION ls`", what=what
        )

    async def change_person(
        self, name: str, change: Callable[[Tables], object], *events: Event, check: Callable[[], None] = lambda: None
    ) -> None:
        """Change a person in the database and in memory, one change after the other. Conflict, or LedgerError."""
        await self.change_persons([name], change, *events, check=check)

    async def change_persons(
        self, names: list[str], change: Callable[[Tables], object], *events: Event,
        check: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """The same for several at once. `check` raises what stands against it, while nobody else changes anything."""

        def run(t: Tables) -> list[Person | None]:
            change(t)
            return [next(iter(t.persons(name)), None) for name in names]

        async with self._changing:
            check()
            for name, found in zip(names, await self.ledger.write(run, *events, durable=True), strict=True):
                self.roster.put_person(name, found)
        self.checkouts.wake()  # what a person has who is disabled or gone comes back

    def speaker(self, talk: Conversation) -> Person | None:
        """Who asks, as they are now; None for an operator on this machine."""
        return None if talk.state is State.OPERATOR else self.roster.person(talk.person)

    async def change_target(self, name: str, change: Callable[[Tables], object], event: Event) -> None:
        """The same for a target with its accounts."""

        def run(t: Tables) -> tuple[Target | None, list[Account]]:
            change(t)
            return next(iter(t.targets(name)), None), t.accounts(name)

        async with self._changing:
            self.roster.put_target(name, *await self.ledger.write(run, event, durable=True))
        self.checkouts.wake()

    async def hashed(self, text: str) -> str:
        """The PHC string of a new password; empty for none."""
        return await self.passwords.hash(Secret(password(text))) if text else ""

    async def end_person(self, person: str, by: str, reason: str) -> int:
        """End what a person has open; how many sessions that were."""
        return await self.end_sessions(self.sessions.of_person(person), by, reason)

    async def end_target(self, target: str, by: str, reason: str, *, account: str = "") -> int:
        """End what is open on a target, or on one account of it."""
        open_there = [live for live in self.sessions.all() if live.target == target]
        return await self.end_sessions([live for live in open_there if account in ("", live.account)], by, reason)

    async def end_sessions(self, lives: list[Live], by: str, reason: str) -> int:
        """A gateway that does not read saves the sessions of no other one. LedgerError when all have ended."""
        end = partial(self.sessions.end, reason=reason, by=by, event="session-kill")
        await side_by_side(partial(end, live) for live in lives)
        return len(lives)


def ended_note(sessions: int) -> str:
    return f"; ended {counted(sessions, 'live session')}" if sessions else ""
