"""A thousand passwords changed in one run: `python -m tests.bench.rotation [--accounts N] [--real N] [--at-once N]`.

Twice: with a real policyd, the real command, and one worker whose targets are in memory and take 20 ms for a login and
20 ms for a change, so what is measured is what policyd and the command cost, and that no more are under way than the
entry says. And `--real`: a whole bastion, and sshds with PAM and `passwd` as targets on the same machine, each with its
share of the accounts (as root; not done otherwise). Their work and the gateway's are in that figure.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from threading import Thread
from typing import Any, Final

import trio

from policy import messages as m
from policy.keys import sshkeys
from tests.bench.machine import cpu
from tests.policy.policyd import Policyd
from tests.support.accounts_target import PASSWORD, AccountsTarget, missing
from tests.support.site import Site

LOGIN_SECONDS: Final = 0.02
CHANGE_SECONDS: Final = 0.02
SITE: Final = """
[[rule]]
name  = "all"
who   = { roles = ["engineer"] }
where = { labels = { env = "real" } }
as    = ["*"]
allow = ["exec"]
"""
ON_EACH: Final = 4
"""Accounts of one target, which are changed one after the other."""
RULES: Final = """
[[rotation]]
name    = "all"
where   = {{ targets = ["*"] }}
as      = ["*"]
at_once = {at_once}
"""


class Targets:
    """A worker and what is behind it, in a loop of its own."""

    def __init__(self, path: Path, opens: dict[str, bytes]) -> None:
        self.opens = opens
        self.under_way: Counter[str] = Counter()
        self.most = self.most_on_one = self.orders = 0
        self._path = path
        self._answers: dict[int, tuple[trio.Event, list[Any]]] = {}
        self._number = 1
        Thread(target=trio.run, args=(self._run,), daemon=True).start()

    async def _run(self) -> None:
        self._sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_SEQPACKET)
        await self._sock.connect(str(self._path))
        await self._sock.send(m.encode(1, m.Worker(pid=os.getpid())))
        async with trio.open_nursery() as nursery:
            while data := await self._sock.recv(m.MAX_MESSAGE + 1):
                ident, body = m.decode_reply(data)
                if isinstance(body, m.ChangeSecret | m.VerifyLogin):
                    nursery.start_soon(self._work, body)
                elif ident in self._answers:
                    event, kept = self._answers.pop(ident)
                    kept.append(body)
                    event.set()

    async def _ask(self, body: m.Request) -> Any:
        self._number += 1
        number, event, kept = self._number, trio.Event(), []
        self._answers[number] = event, kept
        await self._sock.send(m.encode(number, body))
        await event.wait()
        return kept[0]

    async def _work(self, order: m.ChangeSecret | m.VerifyLogin) -> None:
        grant = order.grant
        self.orders += 1
        self.under_way[grant.target] += 1
        self.most = max(self.most, self.under_way.total())
        self.most_on_one = max(self.most_on_one, self.under_way[grant.target])
        await self._ask(m.SessionStarted(session=grant.session, recording="bench.brec"))
        given = await self._ask(m.Credential(session=grant.session, session_key=b""))
        await trio.sleep(LOGIN_SECONDS)
        place = f"{grant.account}@{grant.target}"
        opens = isinstance(given, m.UsePassword) and self.opens[place] == given.password
        if opens and isinstance(order, m.ChangeSecret):
            await trio.sleep(CHANGE_SECONDS)
            self.opens[place] = order.new
        await self._ask(m.SessionEnded(session=grant.session, reason="closed"))
        self.under_way[grant.target] -= 1
        self._number += 1
        worked = m.Worked(task=order.task, outcome="done" if opens else "refused")
        await self._sock.send(m.encode(self._number, worked))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--real", type=int, default=1000, help="accounts on real sshds; 0: none")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    if options.real and not (why := missing()):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            _on_sshds(Path(folder), options)
    elif options.real:
        print(f"not measured with real targets: {why}", file=sys.stderr)
    if not options.accounts:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        policyd = Policyd(Path(folder), rules=RULES.format(at_once=options.at_once)).make().start()
        try:
            return _measured(policyd, options)
        finally:
            policyd.stop()


def _measured(policyd: Policyd, options: argparse.Namespace) -> int:
    opens = _populate(policyd, options.accounts)
    before = dict(opens)
    targets = Targets(policyd.home / "run/policyd.sock", opens)
    idle, began, memory = policyd.cpu(), time.monotonic(), _memory(policyd, "VmRSS")
    command = [sys.executable, "-m", "bastion", "vault", "rotate", "--all", "--json", "-c", str(policyd.config)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    took, cpu = time.monotonic() - began, policyd.cpu() - idle
    changed = sum(opens[place] != before[place] for place in opens)
    assert done.returncode == 0, done.stdout[-2000:]
    assert changed == len(opens), f"{changed} of {len(opens)} were changed"
    assert targets.most <= options.at_once, f"{targets.most} at once"
    assert targets.most_on_one == 1, f"{targets.most_on_one} at once on one target"
    each = 1000 / len(opens)
    figures = [
        (f"{len(opens)} passwords on {len(opens) // ON_EACH} targets, {options.at_once} at once", f"{took:.1f} s"),
        ("CPU of policyd for each (two sessions, two sealed versions, seven events)", f"{cpu * each:.1f} ms"),
        ("under way at once, at most; on one target", f"{targets.most}; {targets.most_on_one}"),
        ("orders to the worker", str(targets.orders)),
        ("memory of policyd at its highest, beyond before", f"{(_memory(policyd, 'VmHWM') - memory) / 1024:.1f} MiB"),
    ]
    _show(figures, options)
    return 0


def _on_sshds(home: Path, options: argparse.Namespace) -> None:
    """A target for each that may be under way, so that none waits for another on its own."""
    names = [f"a{number:04}" for number in range(-(-options.real // options.at_once))]
    targets = [AccountsTarget(home / f"t{number}", more=tuple(names)) for number in range(options.at_once)]
    site = Site(home / "site", {"policy": ["source_failures = 100000"]}, SITE + RULES.format(at_once=options.at_once))
    try:
        for target in targets:
            target.start()
        site.start()
        places = [(name, number) for name in names for number in range(options.at_once)][: options.real]
        for number, target in enumerate(targets):
            pins = [target.host_key.read_text().strip()]
            site.ask(m.TargetAdd(name=f"t{number}", address=target.address, labels={"env": "real"}, host_keys=pins))
        for name, number in places:
            site.ask(m.AccountAdd(account=name, target=f"t{number}", password=PASSWORD))
        roles = {role: site.pid(role) for role in ("policy", "bastion.ssh", "recorder")}
        before, began = {role: cpu(pid) for role, pid in roles.items()}, time.monotonic()
        command = ["vault", "rotate", "--label", "env=real", "--json", "-c", str(site.config)]
        done = subprocess.run([sys.executable, "-m", "bastion", *command], stdout=subprocess.PIPE, check=False)
        took = time.monotonic() - began
        each = {role: (cpu(pid) - before[role]) * 1000 / len(places) for role, pid in roles.items()}
        states = Counter(row["state"] for row in json.loads(done.stdout))
        assert states == {"committed": len(places)}, states
        for number, target in enumerate(targets):
            shadow = (target.home / "etc/shadow").read_text()
            mine = {line.split(":")[1] for line in shadow.splitlines() if line.split(":")[0] in names}
            assert len(mine) == len(names), f"t{number}: each has a password of its own now"
        name, number = places[-1]
        said = site.ssh("direct", "id", "-un", options=("-o", f"User={name}@t{number}"))
        assert said.stdout.decode().strip() == name, said.stderr
    finally:
        site.stop()
        for target in targets:
            target.stop()
    figures = [
        (f"{len(places)} passwords on {options.at_once} real sshds of this machine, {options.at_once} at once",
         f"{took:.1f} s"),
        ("one after the other at this pace", f"{len(places) / took:.1f} a second"),
        ("CPU for each: policyd; gateway worker; recorderd", "; ".join(f"{one:.1f} ms" for one in each.values())),
        ("load of the machine at the end", f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"),
    ]  # fmt: skip
    _show(figures, options)


def _show(figures: list[tuple[str, str]], options: argparse.Namespace) -> None:
    line = "| {} | {} |" if options.markdown else "{:80} {}"
    for figure in figures:
        print(line.format(*figure))


def _populate(policyd: Policyd, many: int) -> dict[str, bytes]:
    key = sshkeys.generate_private_key().public.line()
    opens: dict[str, bytes] = {}
    with policyd.operator() as operator:
        for number in range(-(-many // ON_EACH)):
            target = f"t{number:04}"
            operator.ask(m.TargetAdd(name=target, address="127.0.0.1:9", host_keys=[key]))
            for account in [f"a{one}" for one in range(ON_EACH)][: many - len(opens)]:
                password = f"the first of {account}@{target}"
                operator.ask(m.AccountAdd(account=account, target=target, password=password))
                opens[f"{account}@{target}"] = password.encode()
    return opens


def _memory(policyd: Policyd, name: str) -> int:
    """KiB."""
    assert policyd.process is not None
    found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{policyd.process.pid}/status").read_text())
    assert found
    return int(found[1])


if __name__ == "__main__":
    sys.exit(main())
