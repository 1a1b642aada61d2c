"""Whole logins through the real gateway: handshake, key, one-time code, decision, dial, channel, `true`, end.

Clients are asyncssh in processes of their own, on the same cores. A code counts once, so each login is another person.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import asyncssh
import pyotp

from bastion import control
from policy import messages as m
from tests.bench.figures import Figure, Goal, Samples, Shot
from tests.bench.site import CIPHER, KEX, ROLES, RULES, Bastion, Site
from tests.support.net import LOOPBACK

CLIENTS = 2
AT_ONCE = 4  # logins under way, per client
SETTLE = 0.4  # seconds after the last session until its recording is closed
MOST = 40.0  # seconds one round may take

CODED = """
[[rule]]
name    = "with a code"
who     = { roles = ["coded"] }
where   = { targets = ["web1"] }
as      = ["*"]
allow   = ["exec"]
require = { mfa = "always" }
"""


@dataclass
class Whole:
    """As `policy.Dialogues`, over SSH and to a command that ran."""

    site: Site
    logins: int
    rounds: int
    name: str = "whole-logins"
    _bastion: Bastion | None = None
    _persons: list[dict[str, str]] = field(default_factory=list)

    def shots(self) -> list[Shot]:
        bastion = self._bastion = self.site.bastion("startups_per_source = 100")
        (bastion.folder / "policy.toml").write_text(RULES + CODED)
        run = bastion.folder / "run"
        control.ask(run, m.Reload(), "bench")
        for number in range(self.logins * self.rounds + CLIENTS):
            key, name = asyncssh.generate_private_key("ssh-ed25519"), f"coded{number:04}"
            control.ask(run, m.PersonAdd(name=name, roles=["coded"], keys=[key.export_public_key().decode()]), "bench")
            enrolled = control.ask(run, m.MfaEnrol(person=name), "bench")
            assert isinstance(enrolled, m.Done)
            self._persons.append({"person": name, "key": key.export_private_key().decode(),
                                  "secret": enrolled.data["secret"]})  # fmt: skip
        self._log_in(CLIENTS)  # the first imports what all later ones find imported
        return [Shot("whole logins", self._measure)]

    def _measure(self) -> dict[str, float]:
        assert self._bastion is not None
        before = self._bastion.cpu()
        seconds = self._log_in(self.logins)
        time.sleep(SETTLE)  # not a wait for an event: what closing a session costs belongs to it
        after = self._bastion.cpu()
        values = {role: (after[role] - before[role]) * 1000 / self.logins for role in ROLES.values()}
        return values | {"a minute": self.logins * 60 / seconds, "all": sum(values.values())}

    def _log_in(self, count: int) -> float:
        """So many persons, once each; how long they took together."""
        assert self._bastion is not None
        jobs, self._persons = self._persons[:count], self._persons[count:]
        words = [sys.executable, "-m", "tests.bench.dialogues", str(self._bastion.port), self.site.target.account]
        clients = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                   for _ in range(CLIENTS)]  # fmt: skip
        for at, client in enumerate(clients):
            assert client.stdin
            assert client.stdout
            client.stdin.write(json.dumps(jobs[at::CLIENTS]) + "\n")
            client.stdin.flush()
            assert client.stdout.readline() == "ready\n"
        began = time.perf_counter()
        done = [client.communicate("go\n", timeout=MOST)[0] for client in clients]
        seconds = time.perf_counter() - began
        assert sum(map(int, done)) == count, done
        return seconds

    def figures(self, samples: Samples) -> Iterable[Figure]:
        median = {name: samples.median("whole logins", name) for name in ("a minute", "all", *ROLES.values())}
        yield Figure(
            what="logins a minute through the gateway: handshake, key, code, decision, dial, `true`, end",
            measured={"bastion": median["a minute"]}, unit="/min", value=median["a minute"], value_unit="/min",
            goal=Goal(">=", 500), note="asyncssh clients and the target on the same cores",
        )  # fmt: skip
        yield Figure(
            what="CPU of such a login, gateway, policyd and recorderd", measured={"bastion": median["all"]}, unit="ms",
            value=median["all"], value_unit="ms",
            note=", ".join(f"{role} {median[role]:.1f}" for role in ROLES.values()),
        )  # fmt: skip

    def close(self) -> None:
        if self._bastion is not None:
            self._bastion.stop()


# --- a client -----------------------------------------------------------------------------------------


async def log_in(port: int, account: str, job: dict[str, Any]) -> None:
    class Person(asyncssh.SSHClient):
        def kbdint_auth_requested(self) -> str:
            return ""

        def kbdint_challenge_received(self, _name: str, _text: str, _lang: str, prompts: Any) -> list[str]:
            return [job["code"].now() for _ in prompts]

    async with asyncssh.connect(
        LOOPBACK, port, username=f"{job['person']}@{account}@web1", client_keys=[job["key"]], known_hosts=None,
        config=None, agent_path=None, client_factory=Person, kex_algs=[KEX], encryption_algs=[CIPHER],
    ) as connection:  # fmt: skip
        await connection.run("true", check=True)


async def client(port: int, account: str) -> int:
    jobs = json.loads(sys.stdin.readline())
    for job in jobs:
        job |= {"key": asyncssh.import_private_key(job["key"]), "code": pyotp.TOTP(job["secret"])}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    waiting = iter(jobs)

    async def one_after_the_other() -> None:
        for job in waiting:
            await log_in(port, account, job)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_the_other())
    return len(jobs)


if __name__ == "__main__":
    sys.stdout.write(str(asyncio.run(client(int(sys.argv[1]), sys.argv[2]))))
