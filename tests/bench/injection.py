"""What a login waits for the vault: from the question for a credential to the answer, told once it is in the trail.

A direct ssh needs no such question, so this is what injection adds; `set-up` in `logins` holds it, with all the rest.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from policy import messages as m
from policy.keys import sshkeys
from policy.keys.sshkeys import PrivateKey
from policy.keys.sshwire import string
from tests.bench.figures import Figure, Goal, Samples, Shot, quantile
from tests.policy.policyd import SESSION, Policyd

KINDS = ("password", "key", "certificate")
OTHERS = 1000
"""Secrets beside those that are asked for: a register and tables of some size."""


@dataclass
class Injection:
    """A session a question, as at a login; the clock runs for what the vault takes part in."""

    folder: Path
    asked: int
    name: str = "injection"
    _policyd: Policyd | None = None
    _key: PrivateKey = field(default_factory=sshkeys.generate_private_key)

    def shots(self) -> list[Shot]:
        policyd = self._policyd = Policyd(self.folder).make().start()
        policyd.person("alice", "engineer")
        policyd.target("web1", "password")
        pem = sshkeys.write_private_key(self._key).decode()
        policyd.done(m.AccountAdd(account="key", target="web1", private_key=pem))
        policyd.done(m.AccountAdd(account="certificate", target="web1", user_ca=True))
        with policyd.operator() as operator:
            for number in range(OTHERS):
                operator.ask(m.AccountAdd(account=f"other{number}", target="web1", password="x" * 20))
        return [Shot("injection", self._measure)]

    def _measure(self) -> dict[str, float]:
        took: dict[str, list[float]] = {kind: [] for kind in KINDS}
        assert self._policyd is not None
        with self._policyd.login("alice") as peer:
            for number in range(self.asked * len(KINDS)):
                kind = KINDS[number % len(KINDS)]
                grant = peer.ask(m.Authorize(account=kind, target="web1"))
                blob, algorithm = self._key.public.blob, self._key.public.signature_algorithms[0]
                began = time.perf_counter()
                answer = peer.ask(m.Credential(session=grant.session, session_key=blob))
                if isinstance(answer, m.UseKey):
                    answer = peer.ask(m.Sign(session=grant.session, data=_login(blob, algorithm), algorithm=algorithm))
                seconds = time.perf_counter() - began
                assert isinstance(answer, m.UsePassword | m.Signature | m.UseCertificate), answer
                took[kind].append(seconds * 1000)
                peer.ask(m.SessionEnded(session=grant.session, reason="closed"))
        return {f"{kind} p{part}": quantile(times, part / 100) for kind, times in took.items() for part in (50, 99)}

    def figures(self, samples: Samples) -> Iterable[Figure]:
        for part in (50, 99):
            values = {kind: samples.median("injection", f"{kind} p{part}") for kind in KINDS}
            said = ", ".join(f"{kind} {value:.2f}" for kind, value in values.items())
            yield Figure(
                what=f"injection adds to a login, p{part}: a credential out of the vault, kept in the trail",
                measured=values, unit="ms", value=max(values.values()), value_unit="ms", goal=Goal("<=", 3.0),
                note=f"{said}; with a key the signature, {OTHERS:,} secrets in the vault",
            )  # fmt: skip

    def close(self) -> None:
        if self._policyd is not None:
            self._policyd.stop()


def _login(blob: bytes, algorithm: str) -> bytes:
    """What a client signs to log in (RFC 4252 section 7)."""
    return (
        string(SESSION) + b"\x32" + string("key") + string("ssh-connection") + string("publickey") + b"\x01"
        + string(algorithm) + string(blob)
    )  # fmt: skip
