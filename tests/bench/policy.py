"""How fast policyd decides: `python -m tests.bench.policy [LOGINS]`.

One gateway connection after the other goes the whole way: Hello, OfferKey, ProveKey, Authorize, Credential,
OpenChannel, SessionStarted, SessionEnded, against a real policyd with 200 rules, 500 targets and its database on disk.
Shows the median and the 99th percentile of each answer, and policyd's own CPU time per login.
"""

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from policy import messages as m
from tests.policy.policyd import RULES, Policyd, hello, proof

OTHERS = "".join(
    f"""
[[rule]]
name  = "team {number}"
who   = {{ roles = ["team{number}"] }}
where = {{ labels = {{ team = "{number}" }}, targets = ["t{number}-*"] }}
as    = ["deploy"]
allow = ["shell", "exec"]
when  = {{ days = "mon-fri", hours = "08:00-18:00", zone = "Europe/Berlin" }}
"""
    for number in range(197)
)


def main(logins: int = 200) -> None:
    with tempfile.TemporaryDirectory() as folder:
        policyd = Policyd(Path(folder), rules=RULES + OTHERS).make().start()
        try:
            _fill(policyd)
            _run(policyd, 20)
            before = policyd.cpu()
            took = _run(policyd, logins)
            cpu = (policyd.cpu() - before) / logins
        finally:
            policyd.stop()
    print(f"{'answer to':<16}{'p50 ms':>8}{'p99 ms':>8}")
    for name, times in took.items():
        times.sort()
        print(f"{name:<16}{statistics.median(times) * 1e3:8.2f}{times[len(times) * 99 // 100] * 1e3:8.2f}")
    print(f"policyd CPU per login: {cpu * 1e3:.2f} ms ({logins} logins)")


def _fill(policyd: Policyd) -> None:
    policyd.person("alice", "engineer")
    policyd.target("web1", "root")
    for number in range(100):
        policyd.target(f"t{number}-a", "deploy", env="other")


def _run(policyd: Policyd, logins: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = defaultdict(list)
    key = policyd.keys["alice"]
    proven = proof(key)
    for _ in range(logins):
        with policyd.gateway() as peer:

            def ask(body: m.Request, peer: object = peer) -> object:
                began = time.perf_counter()
                answer = peer.ask(body)  # type: ignore[attr-defined]
                took[type(body).__name__].append(time.perf_counter() - began)
                return answer

            ask(hello())
            ask(m.OfferKey(person="", blob=key.public.blob))
            ask(proven)
            grant = ask(m.Authorize(account="root", target="web1"))
            assert isinstance(grant, m.Grant), grant
            ask(m.Credential(session=grant.session, session_key=key.public.blob))
            ask(m.OpenChannel(session=grant.session, kind="shell"))
            ask(m.SessionStarted(session=grant.session, recording=grant.session))
            ask(m.SessionEnded(session=grant.session, reason="done"))
    return took


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
