"""What a rule wants certificates for targets to say: `certificate = { ... }`. Pure.

    force-command    what runs, whatever the person asked for (which sshd puts into SSH_ORIGINAL_COMMAND)
    source-address   networks from which the certificate counts; in place of [policy] certificate_sources
    minutes          how long it lives, 1 to 1440; else [policy] certificate_minutes
    principals       whom it may be for, in place of the account: `$account` and `$person` stand for these

Several rules that allow one session add up as limits do: the fewest minutes, the addresses that all of them name, the
command that any of them forces. Two that force different commands, name different principals, or share no address,
contradict each other: nobody gets in by what neither of them meant.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from policy.names import BadName, check_account_name
from policy.rules.words import OWN_ACCOUNT, Network, network
from policy.toml_tables import Table, show

MAX_MINUTES: Final = 24 * 60
MAX_COMMAND: Final = 1024  # characters; it stands in every certificate, list and event
MAX_PRINCIPALS: Final = 16
ACCOUNT: Final = "$account"


class Contradiction(Exception):
    """Rules that cannot all be followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Each as the text above says; what is empty is as ever."""

    force_command: str = ""
    sources: tuple[Network, ...] = ()
    minutes: int = 0  # 0: as the setting says
    principals: tuple[str, ...] = ()

    @property
    def binding(self) -> bool:
        """Whether they restrict what only a certificate can restrict."""
        return self != PLAIN

    def holds(self, wanted: "Terms") -> bool:
        """Whether a session that began on these runs what is wanted by now."""
        return wanted.force_command in ("", self.force_command)

    def principals_of(self, account: str, person: str) -> list[str]:
        words = {ACCOUNT: account, OWN_ACCOUNT: person}
        return [words.get(word, word) for word in self.principals] or [account]

    def __str__(self) -> str:
        parts = [f"force-command `{self.force_command}`"] if self.force_command else []
        parts += [f"from {' '.join(map(str, self.sources))}"] if self.sources else []
        parts += [f"{self.minutes} minutes"] if self.minutes else []
        parts += [f"as {' '.join(self.principals)}"] if self.principals else []
        return ", ".join(parts)


PLAIN: Final = Terms()
"""Nothing special."""


def parse_terms(table: Table) -> Terms:
    table.known("force-command", "source-address", "minutes", "principals")
    table.some("force-command", "source-address", "minutes", "principals")
    command = table.text("force-command")
    if len(command) > MAX_COMMAND:
        table.problem("force-command", f"want at most {MAX_COMMAND} characters")
    minutes = table.entry.get("minutes", 1)
    if type(minutes) is not int or not 1 <= minutes <= MAX_MINUTES:
        table.problem("minutes", f"got {show(minutes)}, want 1 to {MAX_MINUTES}")
    principals = table.words("principals", _principal) if "principals" in table.entry else []
    if len(principals) > MAX_PRINCIPALS:
        table.problem("principals", f"want at most {MAX_PRINCIPALS}")
    return Terms(
        force_command=command,
        sources=tuple(table.words("source-address", network)) if "source-address" in table.entry else (),
        minutes=minutes if "minutes" in table.entry and type(minutes) is int else 0,
        principals=tuple(dict.fromkeys(principals)),
    )


def combined(offers: Iterable[tuple[str, Terms]]) -> Terms:
    """What holds where all of these rules, by name, do. Contradiction if they cannot."""
    command, principals = ("", ""), ("", frozenset[str]())  # each with the rule that said it
    sources: tuple[Network, ...] = ()
    minutes: list[int] = []
    for name, terms in offers:
        if terms.force_command:
            if command[1] not in ("", terms.force_command):
                raise Contradiction(f"rules `{command[0]}` and `{name}` force different commands")
            command = name, terms.force_command
        if terms.principals:
            if principals[1] and principals[1] != frozenset(terms.principals):
                raise Contradiction(f"rules `{principals[0]}` and `{name}` name different principals")
            principals = name, frozenset(terms.principals)
        if terms.sources:
            both = _shared(sources, terms.sources) if sources else terms.sources
            if not both:
                raise Contradiction(f"rule `{name}` and another share no source-address")
            sources = both
        minutes += [terms.minutes] if terms.minutes else []
    return Terms(
        force_command=command[1],
        sources=sources,
        minutes=min(minutes, default=0),
        principals=tuple(sorted(principals[1])),
    )


def _shared(some: Iterable[Network], others: Iterable[Network]) -> tuple[Network, ...]:
    """Networks that lie in both: of two that overlap, one holds the other."""
    others = tuple(others)
    found = [_inner(one, other) for one in some for other in others]
    return tuple(dict.fromkeys(one for one in found if one is not None))


def _inner(one: Network, other: Network) -> Network | None:
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):
        return one if one.subnet_of(other) else other if other.subnet_of(one) else None
    if isinstance(one, IPv6Network) and isinstance(other, IPv6Network):
        return one if one.subnet_of(other) else other if other.subnet_of(one) else None
    return None


def _principal(text: str) -> str:
    try:
        return text if text in (ACCOUNT, OWN_ACCOUNT) else check_account_name(text)
    except BadName as error:
        raise ValueError(str(error)) from None
