"""Two worker processes against one: does the second do as much as the first."""

import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from tests.bench.figures import Figure, Goal, Samples, Shot
from tests.bench.site import Bastion, Site
from tests.bench.transfers import GB, LINGER, PATIENCE, Load

AT_ONCE = 6  # downloads; the kernel deals connections out by hash, so fewer would often meet in one worker


@dataclass
class Workers:
    """Downloads that have nothing to do with each other."""

    site: Site
    size: int
    name: str = "workers"

    def shots(self) -> list[Shot]:
        self.load = Load.make(self.size)
        self.two = self.site.bastion("workers = 2")
        bastions = {"one": self.site.main, "two": self.two}
        return [Shot(name, partial(self._measure, bastion)) for name, bastion in bastions.items()]

    def _measure(self, bastion: Bastion) -> dict[str, float]:
        command = self.site.ssh("bastion", f"cat {self.load.path}", bastion=bastion)
        before, began = bastion.cpu(), time.perf_counter()
        running = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(AT_ONCE)
        ]
        assert [process.wait(PATIENCE) for process in running] == [0] * AT_ONCE
        seconds = time.perf_counter() - began
        time.sleep(LINGER)
        moved = self.load.size * AT_ONCE
        spent = bastion.cpu()["gateway"] - before["gateway"]
        return {"MB/s": moved / seconds / 1e6, "ms/GB": spent * 1000 * GB / moved}

    def figures(self, samples: Samples) -> Iterable[Figure]:
        cost = {f"{name} worker{'s' * (name == 'two')}": samples.median(name, "ms/GB") for name in ("one", "two")}
        yield Figure(what=f"CPU of the gateway, two workers against one, {AT_ONCE} downloads at once",
                     value=samples.ratio("ms/GB", "two", "one"), goal=Goal("<=", 1 / 0.9), unit="ms/GB",
                     note=", ".join(f"{name} {value:.0f} ms/GB" for name, value in cost.items()))  # fmt: skip
        speed = {name: samples.median(name, "MB/s") for name in ("one", "two")}
        yield Figure(what="throughput, two workers against one; clients and targets on the same cores",
                     value=samples.ratio("MB/s", "two", "one"),
                     note=f"one {speed['one']:.0f} MB/s, two {speed['two']:.0f} MB/s")  # fmt: skip

    def close(self) -> None:
        self.load.remove()
        self.two.stop()
