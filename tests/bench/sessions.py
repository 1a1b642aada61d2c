"""Many sessions held at once: memory while they are silent, CPU while they type; and peers that do not read."""

import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.bench.figures import Figure, Goal, Samples, Shot
from tests.bench.site import ROLES, Bastion, Site

SETTLE = 2.0  # seconds: recorderd has synced, buffers of the set-up are free
TYPING = 6  # seconds
FLOOD = 4.0  # seconds that a peer who does not read is sent something
WARM = 8  # sessions opened before the first measurement, so that imports and pools are not counted


class Held:
    """A holder process; `say` sends a word and waits for its answer."""

    def __init__(self, site: Site, bastion: Bastion, nested: bool = False) -> None:
        account = site.target.account
        words = [str(bastion.port), "--key", str(site.folder / "alice")]
        words += ["--user", "alice", "--nested", f"{account}@web1"] if nested else ["--user", f"{account}@web1"]
        self.process = subprocess.Popen([sys.executable, "-m", "tests.bench.holder", *words], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip

    def say(self, word: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None  # noqa: PT018
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline(), f"the holder ended at `{word}`"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Silent:
    """Sessions that do nothing, then type. On a fresh bastion: memory that others have freed would hide theirs."""

    site: Site
    count: int
    name: str = "sessions"

    def shots(self) -> list[Shot]:
        return [Shot("direct", lambda: self._measure(False)), Shot("nested", lambda: self._measure(True))]

    def _measure(self, nested: bool) -> dict[str, float]:
        bastion = self.site.bastion()
        held = Held(self.site, bastion, nested)
        try:
            held.say(f"open {WARM}")
            time.sleep(SETTLE)
            before = bastion.memory()
            held.say(f"open {self.count}")
            time.sleep(SETTLE)
            after = bastion.memory()
            values = {role: (after[role] - before[role]) / self.count / 1024 for role in after}
            values["all"] = sum(values[role] for role in ROLES.values())
            cpu = bastion.cpu()
            held.say(f"type {TYPING}")
            spent = {role: seconds - cpu[role] for role, seconds in bastion.cpu().items()}
            values["cores per 500"] = sum(spent.values()) / TYPING / (self.count + WARM) * 500
            return values
        finally:
            held.close()
            bastion.stop()

    def figures(self, samples: Samples) -> Iterable[Figure]:
        parts = ", ".join(f"{role} {samples.median('direct', role):.0f}" for role in ROLES.values())
        for role, what, limit, nested in (
            ("gateway", "the gateway", 64.0, 120.0),
            ("all", "gateway, policyd and recorderd", 200.0, None),
        ):
            measured = {"bastion": samples.median("direct", role), "bastion -J": samples.median("nested", role)}
            yield Figure(what=f"memory of an idle session in {what}, of {self.count}", measured=measured, unit="KiB",
                         value=measured["bastion"], value_unit="KiB", goal=Goal("<=", limit),
                         note=parts if role == "all" else "")  # fmt: skip
            if nested:
                yield Figure(what=f"the same, `-J`, in {what}", value=measured["bastion -J"], value_unit="KiB",
                             goal=Goal("<=", nested))  # fmt: skip
        cores = samples.median("direct", "cores per 500")
        yield Figure(what="cores for 500 people typing 139 keys a minute, all three processes",
                     measured={"bastion": cores, "bastion -J": samples.median("nested", "cores per 500")},
                     unit="cores", value=cores, value_unit="cores", goal=Goal("<=", 1.0),
                     note=f"measured with {self.count + WARM} sessions")  # fmt: skip

    def close(self) -> None:
        pass


@dataclass
class Stalled:
    """Peers that grant a window of 2 GiB, ask for /dev/zero and never read."""

    site: Site
    count: int = 4
    name: str = "hostile"

    def shots(self) -> list[Shot]:
        return [Shot("stalled", self._measure)]

    def _measure(self) -> dict[str, float]:
        bastion = self.site.bastion()
        held = Held(self.site, bastion)
        try:
            held.say(f"open {WARM}")
            before = bastion.memory()
            held.say(f"stall {self.count}")
            time.sleep(FLOOD)
            after = bastion.memory()
            return {role: (after[role] - before[role]) / self.count / 1024**2 for role in after}
        finally:
            held.close()
            bastion.stop()

    def figures(self, samples: Samples) -> Iterable[Figure]:
        values = {role: samples.median("stalled", role) for role in ROLES.values()}
        yield Figure(what="memory for a peer that grants 2 GiB and never reads",
                     measured={"bastion": values["gateway"]}, unit="MiB",
                     value=sum(values.values()), value_unit="MiB", goal=Goal("<=", 4.0),
                     note=", ".join(f"{role} {value:.2f}" for role, value in values.items()))  # fmt: skip

    def close(self) -> None:
        pass
