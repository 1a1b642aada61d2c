"""How fast policyd decides, with an estate of 1,000 persons, 10,000 targets and 200 rules: message in to message out.

`Decisions` measures one answer after the other on a warm policyd; `Dialogues` whole logins, key, one-time code, reason,
decision, certificate, channel and end, eight at a time, as fast as they go.
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyotp

from policy import messages as m
from policy.keys import sshkeys
from policy.keys.sshkeys import PrivateKey
from policy.model import Outcome
from policy.records import Account, Target
from policy.store import Tables, open_store
from tests.bench.figures import Figure, Goal, Samples, Shot, quantile
from tests.policy.policyd import Peer, Policyd, hello, proof

PERSONS, TARGETS, TEAMS = 1000, 10_000, 200
WARM_UP = 50
AT_ONCE = 8

RULES = "".join(
    f"""
[[rule]]
name    = "team {number}"
who     = {{ roles = ["team{number}"] }}
where   = {{ labels = {{ team = "{number}" }} }}
as      = ["deploy"]
allow   = ["shell", "exec"]
require = {{ mfa = "12h", reason = true }}
when    = {{ hours = "00:00-24:00", zone = "Europe/Berlin" }}
from    = ["192.0.2.0/24"]
limits  = {{ session = "8h", idle = "1h" }}
"""
    for number in range(TEAMS)
)


@dataclass
class Estate:
    """A policyd with a state of its own; persons get a key, and with `codes` a one-time password."""

    folder: Path
    keys: dict[str, PrivateKey] = field(default_factory=dict)
    secrets: dict[str, pyotp.TOTP] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policyd = Policyd(self.folder, rules=RULES).make()
        store = open_store("sqlite:///bastion.db", self.folder / "state")
        try:
            with store.write() as tables:
                self._fill(tables)
        finally:
            store.close()
        self.policyd.start()

    def _fill(self, tables: Tables) -> None:
        """Into the database at once: over the socket each of them would wait for the disk."""
        now = time.time_ns()
        for number in range(PERSONS):
            name = f"person{number:04}"
            key = self.keys[name] = sshkeys.generate_private_key()
            tables.add_person(name, now)
            tables.add_role(name, f"team{number % TEAMS}")
            tables.add_key(name, key.public.fingerprint, key.public.line(name), now)
        pin = sshkeys.generate_private_key().public
        for number in range(TARGETS):
            name = f"target{number:05}"
            labels = {"team": str(number % TEAMS), "env": "prod"}
            tables.add_target(
                Target(name=name, address="127.0.0.1", port=9, protocol="ssh", labels=labels, created=now)
            )
            tables.pin(name, pin.fingerprint, pin.blob, now)
            tables.add_account(Account(target=name, name="deploy", kind="user-ca", secret=None, created=now))

    def enrol(self, names: Iterable[str]) -> None:
        with self.policyd.operator() as operator:
            for name in names:
                answer = operator.ask(m.MfaEnrol(person=name))
                self.secrets[name] = pyotp.TOTP(answer.data["secret"])

    def prove(self, name: str, source: str = "192.0.2.10") -> Peer:
        """A conversation in which this person has shown a key and a code."""
        peer = self.policyd.gateway(hello(source))
        key = self.keys[name]
        assert peer.ask(m.OfferKey(person="", blob=key.public.blob)).ok
        verdict = peer.ask(proof(key))
        if name in self.secrets:
            assert verdict.outcome is Outcome.MORE, verdict
            peer.ask(m.AskCode(person=""))
            verdict = peer.ask(m.AnswerCode(person="", answers=[self.secrets[name].now()]))
        assert verdict.outcome is Outcome.DONE, verdict
        return peer

    def close(self) -> None:
        self.policyd.stop()


@dataclass
class Decisions:
    """Authorize and OpenChannel of one person, on targets that rules allow and on others."""

    folder: Path
    asked: int
    name: str = "decisions"
    _estate: Estate | None = None
    _peer: Peer | None = None

    def shots(self) -> list[Shot]:
        estate = self._estate = Estate(self.folder)
        estate.enrol(["person0007"])
        self._peer = estate.prove("person0007")
        for _ in range(WARM_UP):
            list(self._one(0))
        return [Shot("decisions", self._measure)]

    def _measure(self) -> dict[str, float]:
        took: dict[str, list[float]] = {"granted": [], "denied": [], "channel": []}
        for number in range(self.asked):
            for what, seconds in self._one(number):
                took[what].append(seconds * 1000)
        return {f"{what} p{part}": quantile(times, part / 100) for what, times in took.items() for part in (50, 99)}

    def _one(self, number: int) -> Iterator[tuple[str, float]]:
        peer = self._peer
        assert peer is not None

        def timed(body: m.Request) -> tuple[float, object]:
            began = time.perf_counter()
            answer = peer.ask(body)
            return time.perf_counter() - began, answer

        mine = f"target{(7 + TEAMS * number) % TARGETS:05}"
        other = f"target{(8 + TEAMS * number) % TARGETS:05}"
        seconds, grant = timed(m.Authorize(account="deploy", target=mine, reason="measured"))
        assert isinstance(grant, m.Grant), getattr(grant, "cause", grant)
        yield "granted", seconds
        seconds, allowed = timed(m.OpenChannel(session=grant.session, kind="shell"))
        assert isinstance(allowed, m.Allowed), allowed
        yield "channel", seconds
        seconds, refused = timed(m.Authorize(account="deploy", target=other, reason="measured"))
        assert isinstance(refused, m.Refused), refused
        yield "denied", seconds
        peer.ask(m.SessionEnded(session=grant.session, reason="closed"))

    def figures(self, samples: Samples) -> Iterable[Figure]:
        words = {"granted": "a session", "channel": "a channel", "denied": "a refusal"}
        for part, limit in ((50, 1.0), (99, 5.0)):
            values = {words[what]: samples.median("decisions", f"{what} p{part}") for what in words}
            yield Figure(
                what=f"a decision, message in to message out, p{part}", measured=values, unit="ms",
                value=max(values.values()), value_unit="ms", goal=Goal("<=", limit),
                note=f"{PERSONS:,} persons, {TARGETS:,} targets, {TEAMS} rules; told once it is in the trail",
            )  # fmt: skip

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()
        if self._estate is not None:
            self._estate.close()


@dataclass
class Dialogues:
    """Everything policyd does for a login, its clients on the same machine."""

    folder: Path
    logins: int  # of as many persons: a one-time code counts once
    rounds: int
    name: str = "dialogues"
    _estate: Estate | None = None
    _next: int = 0

    def shots(self) -> list[Shot]:
        estate = self._estate = Estate(self.folder)
        estate.enrol(f"person{number:04}" for number in range(self.logins * self.rounds))
        return [Shot("dialogues", self._measure)]

    def _measure(self) -> dict[str, float]:
        assert self._estate is not None
        first, self._next = self._next, self._next + self.logins
        before, began = self._estate.policyd.cpu(), time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._one, range(first, self._next)))
        seconds = time.perf_counter() - began
        cpu = self._estate.policyd.cpu() - before
        return {"a minute": self.logins * 60 / seconds, "cpu ms": cpu * 1000 / self.logins}

    def _one(self, number: int) -> None:
        estate = self._estate
        assert estate is not None
        name, team = f"person{number:04}", number % TEAMS
        key = estate.keys[name]
        with estate.prove(name, f"192.0.2.{number % 250}") as peer:
            grant = peer.ask(m.Authorize(account="deploy", target=f"target{team:05}", reason="measured"))
            assert isinstance(grant, m.Grant), getattr(grant, "cause", grant)
            certificate = peer.ask(m.Credential(session=grant.session, session_key=key.public.blob))
            assert isinstance(certificate, m.UseCertificate), certificate
            peer.ask(m.SessionStarted(session=grant.session, recording=grant.session))
            assert isinstance(peer.ask(m.OpenChannel(session=grant.session, kind="shell")), m.Allowed)
            peer.ask(m.SessionEnded(session=grant.session, reason="closed"))

    def figures(self, samples: Samples) -> Iterable[Figure]:
        yield Figure(
            what="logins a minute through the whole dialogue: key, code, reason, decision, certificate, channel, end",
            measured={"policyd": samples.median("dialogues", "a minute")}, unit="/min",
            value=samples.median("dialogues", "a minute"), value_unit="/min", goal=Goal(">=", 500),
            note=f"policyd {samples.median('dialogues', 'cpu ms'):.1f} ms CPU each, clients on the same cores",
        )  # fmt: skip

    def close(self) -> None:
        if self._estate is not None:
            self._estate.close()
