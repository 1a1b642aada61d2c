"""Setting up and tearing down: wall time, CPU of each process, how many a second, and what a refused one costs."""

import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tests.bench.bulk import COLUMNS
from tests.bench.figures import Figure, Goal, Samples, Shot
from tests.bench.site import CIPHER, ROLES, WAYS, Site

PATIENCE = 60.0
SETTLE = 0.4  # seconds after the last session until its recording is closed and its jump sshd reaped


def log_in(site: Site, way: str, cipher: str = CIPHER) -> None:
    """`ssh WAY true`, and it must succeed."""
    done = subprocess.run(site.ssh(way, "true", cipher=cipher), stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=PATIENCE, check=False)  # fmt: skip
    assert done.returncode == 0, f"`{way}`: {done.stderr.decode(errors='replace')}"


def be_refused(site: Site) -> None:
    done = subprocess.run(site.ssh("stranger", "true"), stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=PATIENCE, check=False)  # fmt: skip
    assert done.returncode == 255, f"a stranger was not refused: {done.returncode}"


@dataclass
class SetUp:
    """One login after the other, then eight at a time."""

    site: Site
    logins: int
    parallel: int = 8
    name: str = "set-up"

    def shots(self) -> list[Shot]:
        for way in WAYS:
            log_in(self.site, way)  # the first imports what all later ones find imported
        one = [Shot(f"one {way}", partial(self._one_by_one, way)) for way in WAYS]
        default = [Shot(f"default {way}", partial(self._one_by_one, way, "")) for way in WAYS]
        many = [Shot(f"many {way}", partial(self._at_once, way)) for way in ("direct", "jumped", "bastion")]
        return one + default + many

    def _one_by_one(self, way: str, cipher: str = CIPHER) -> dict[str, float]:
        def all_of_them() -> None:
            for _ in range(self.logins):
                log_in(self.site, way, cipher)

        return self._measured(way, self.logins, all_of_them)

    def _at_once(self, way: str) -> dict[str, float]:
        count = self.logins * 2

        def all_of_them() -> None:
            with ThreadPoolExecutor(self.parallel) as pool:
                list(pool.map(lambda _: log_in(self.site, way), range(count)))

        return self._measured(way, count, all_of_them)

    def _measured(self, way: str, count: int, work: Callable[[], None]) -> dict[str, float]:
        before, jump, began = self.site.main.cpu(), self.site.jump_cpu(), time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        time.sleep(SETTLE)  # not a wait for an event: what closing a session costs belongs to it
        values = {"ms": seconds * 1000 / count, "per second": count / seconds}
        if way == "jumped":
            values["jump"] = (self.site.jump_cpu() - jump) * 1000 / count
        elif way != "direct":
            after = self.site.main.cpu()
            values |= {role: (after[role] - before[role]) * 1000 / count for role in after}
            values["all"] = sum(values[role] for role in ROLES.values())
        return values

    def figures(self, samples: Samples) -> Iterable[Figure]:
        walls = samples.medians("ms", {column: f"one {way}" for column, way in COLUMNS.items()})
        yield Figure(what="set-up (connect, log in, run `true`), added to direct ssh", measured=walls, unit="ms",
                     value=samples.added("ms", "one bastion", "one direct"), value_unit="ms", goal=Goal("<=", 30),
                     note="the same algorithms on all hops")  # fmt: skip
        walls = samples.medians("ms", {column: f"default {way}" for column, way in COLUMNS.items()})
        yield Figure(what="the same, the client's default algorithms", measured=walls, unit="ms",
                     value=samples.added("ms", "default bastion", "default direct"), value_unit="ms")  # fmt: skip
        for role, limit in (("gateway", 8.0), ("all", 20.0)):
            what = "the gateway" if role == "gateway" else "gateway, policyd and recorderd"
            loaded = samples.median("many bastion", role)
            parts = ", ".join(f"{name} {samples.median('many bastion', name):.1f}" for name in ROLES.values())
            yield Figure(
                what=f"CPU per session of {what}, {self.parallel} at a time",
                measured={"ssh -J": samples.median("many jumped", "jump"), "bastion": loaded,
                          "bastion -J": samples.median("one nested", role)},
                unit="ms", value=loaded, value_unit="ms", goal=Goal("<=", limit), note=parts if role == "all" else "",
            )  # fmt: skip
        columns = {column: f"many {way}" for column, way in COLUMNS.items() if way != "nested"}
        yield Figure(
            what="set-ups a second that two cores could carry, by the CPU of all three processes",
            value=2000 / samples.median("many bastion", "all"), value_unit="/s", goal=Goal(">=", 100),
        )  # fmt: skip
        yield Figure(
            what=f"set-ups a second, {self.parallel} at a time, against `ssh -J`; clients on the same cores",
            measured=samples.medians("per second", columns), unit="/s",
            value=samples.ratio("per second", "many bastion", "many jumped"),
        )  # fmt: skip

    def close(self) -> None:
        pass


@dataclass
class Refused:
    """A key that nobody knows."""

    site: Site
    logins: int
    name: str = "refused"

    def shots(self) -> list[Shot]:
        return [Shot("refused", self._measure)]

    def _measure(self) -> dict[str, float]:
        before = self.site.main.cpu()
        for _ in range(self.logins):
            be_refused(self.site)
        time.sleep(SETTLE)
        after = self.site.main.cpu()
        return {role: (after[role] - before[role]) * 1000 / self.logins for role in after}

    def figures(self, samples: Samples) -> Iterable[Figure]:
        gateway, policyd = (samples.median("refused", role) for role in ("gateway", "policyd"))
        yield Figure(what="CPU of the gateway for a failed login", measured={"bastion": gateway}, unit="ms",
                     value=gateway, value_unit="ms", goal=Goal("<=", 5.0), note=f"policyd {policyd:.1f}")  # fmt: skip

    def close(self) -> None:
        pass
