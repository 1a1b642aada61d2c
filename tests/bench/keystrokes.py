"""How long one key takes until its echo is on the screen: real ssh clients on real terminals, the far tty echoes."""

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.bench.bulk import COLUMNS
from tests.bench.figures import Figure, Goal, Samples, Shot, quantile
from tests.bench.site import WAYS, Site

PAUSE = 0.003  # seconds between keys, so that each finds the way idle
PATIENCE = 20.0  # seconds for one echo; ssh logging in on a busy machine needs some


class Terminal:
    """One `ssh -tt`, with a program at the far end that reads and says nothing."""

    def __init__(self, command: list[str]) -> None:
        self.far, near = pty.openpty()  # left as it is: ssh takes its modes, echo among them, to the far end
        self.process = subprocess.Popen(command, stdin=near, stdout=near, stderr=near, start_new_session=True)
        os.close(near)
        self._read_until(b"ready")

    def key(self) -> float:
        """Milliseconds from pressing a key to its echo."""
        began = time.perf_counter()
        os.write(self.far, b"k")
        self._read_until(b"k")
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.far)

    def _read_until(self, wanted: bytes) -> None:
        seen = b""
        while wanted not in seen:
            ready, _, _ = select.select([self.far], [], [], PATIENCE)
            assert ready, f"no {wanted!r} from {self.process.args}, but {seen[-200:]!r}"
            seen += os.read(self.far, 4096)


@dataclass
class Idle:
    """All ways open at once, one key to each in turn."""

    site: Site
    keys: int
    name: str = "keystrokes"
    terminals: dict[str, Terminal] = field(default_factory=dict)

    def shots(self) -> list[Shot]:
        for way in WAYS:
            self.terminals[way] = Terminal(self.site.ssh("-tt", way, "echo ready; exec cat >/dev/null"))
        return [Shot("keys", self._measure)]

    def _measure(self) -> dict[str, float]:
        took: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(self.keys):
            for way, terminal in self.terminals.items():
                took[way].append(terminal.key())
                time.sleep(PAUSE)
        return {f"{way} {part}": value for way in WAYS for part, value in _p50_p99(took[way]).items()}

    def figures(self, samples: Samples) -> Iterable[Figure]:
        for part, limit, nested_limit in (("p50", 0.5, 0.9), ("p99", 2.0, 3.0)):
            measured = {column: samples.median("keys", f"{way} {part}") for column, way in COLUMNS.items()}
            for way, goal in (("bastion", Goal("<=", limit)), ("nested", Goal("<=", nested_limit))):
                value = measured["bastion" if way == "bastion" else "bastion -J"] - measured["direct"]
                yield Figure(what=f"keystroke {part}, added to direct ssh" + (", `-J`" if way == "nested" else ""),
                             measured=measured if way == "bastion" else {}, unit="ms", value=value, value_unit="ms",
                             goal=goal if way == "bastion" else None)  # fmt: skip

    def close(self) -> None:
        for terminal in self.terminals.values():
            terminal.close()


@dataclass
class UnderBulk:
    """One key after the other while another session of the same worker downloads without end."""

    site: Site
    keys: int
    name: str = "keystrokes-under-bulk"

    def shots(self) -> list[Shot]:
        return [Shot(way, lambda way=way: self._measure(way)) for way in ("direct", "jumped", "bastion")]

    def _measure(self, way: str) -> dict[str, float]:
        terminal = Terminal(self.site.ssh("-tt", way, "echo ready; exec cat >/dev/null"))
        bulk = subprocess.Popen(self.site.ssh(way, "echo go >&2; exec cat /dev/zero"), stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
        try:
            assert bulk.stderr is not None
            assert bulk.stderr.readline() == b"go\n"
            for _ in range(20):
                terminal.key()  # until the download is at full speed
            took = []
            for _ in range(self.keys):
                took.append(terminal.key())
                time.sleep(PAUSE)
        finally:
            bulk.kill()
            bulk.wait()
            terminal.close()
        return _p50_p99(took)

    def figures(self, samples: Samples) -> Iterable[Figure]:
        columns = {column: way for column, way in COLUMNS.items() if way != "nested"}
        for part, goal in (("p50", Goal("<=", 1.5)), ("p99", Goal("<=", 10.0))):
            measured = samples.medians(part, columns)
            yield Figure(what=f"keystroke {part} while the same worker moves bulk", measured=measured, unit="ms",
                         value=measured["bastion"], value_unit="ms", goal=goal)  # fmt: skip

    def close(self) -> None:
        pass


def _p50_p99(took: list[float]) -> dict[str, float]:
    return {"p50": quantile(took, 0.5), "p99": quantile(took, 0.99)}
