"""Timing one transfer by a real client, from the moment the far end is reached to the moment the last byte is there.

A command says `go` and `done` on its standard error, or around an sftp's `get`, so that connecting and logging in
do not count; and it lingers after `done`, so that the CPU clocks of the processes between can still be read.
"""

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.bench.site import CIPHER, Bastion, Site

LINGER = 0.25  # seconds; recorderd syncs every 0.2 s, and what it does for the last bytes belongs to them
PATIENCE = 120.0  # seconds for one transfer
GB = 1024**3


@dataclass(frozen=True, slots=True)
class Load:
    """A file of random bytes, so that nothing on the way can be clever about it."""

    path: Path
    size: int

    @staticmethod
    def make(size: int) -> "Load":
        folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")  # not the disk of the target
        path = folder / f"bastion-bench-{os.getpid()}"
        block = os.urandom(1 << 20)
        with path.open("wb") as file:
            for _ in range(size >> 20):
                file.write(block)
        return Load(path, size)

    @property
    def copy(self) -> Path:
        return self.path.with_suffix(".copy")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.copy.unlink(missing_ok=True)


def transfer(site: Site, load: Load, how: str, way: str, *, cipher: str = CIPHER,
             bastion: Bastion | None = None) -> dict[str, float]:  # fmt: skip
    """Move the load once; MB/s, and ms of CPU per GB of each process between. `how`: exec or sftp, `-down` or `-up`."""
    bastion = bastion or site.main
    jumped = way == "jumped"
    clock = (lambda: {"jump": site.jump_cpu()}) if jumped else bastion.cpu
    seconds, before, after = _run(site, load, how, way, cipher, bastion, clock)
    spent = {f"{role} ms/GB": (after[role] - before[role]) * 1000 * GB / load.size for role in after}
    return {"MB/s": load.size / seconds / 1e6, **(spent if way != "direct" else {})}


def _run(site: Site, load: Load, how: str, way: str, cipher: str, bastion: Bastion,
         clock: Callable[[], dict[str, float]]) -> tuple[float, dict[str, float], dict[str, float]]:  # fmt: skip
    remote = {
        "exec-down": f"echo go >&2; cat {load.path}; echo done >&2; sleep {LINGER * 2}",
        "exec-up": f"echo go >&2; cat >/dev/null; echo done >&2; sleep {LINGER * 2}",
    }
    batch = {
        "sftp-down": f"!echo go\nget {load.path} {load.copy}\n!echo done; sleep {LINGER * 2}\n",
        "sftp-up": f"!echo go\nput {load.path} {load.copy}\n!echo done; sleep {LINGER * 2}\n",
    }
    by_sftp = how in batch
    words = ["-q", "-b", "-", way] if by_sftp else [way, remote[how]]
    command = site.ssh(*words, cipher=cipher, bastion=bastion, program="sftp" if by_sftp else "ssh")
    source = load.path.open("rb") if how == "exec-up" else None
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE if by_sftp else source or subprocess.DEVNULL,
        stdout=subprocess.PIPE if by_sftp else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if by_sftp else subprocess.PIPE,
    )  # fmt: skip
    try:
        if by_sftp:
            assert process.stdin is not None
            process.stdin.write(batch[how].encode())
            process.stdin.close()
        words_from = process.stdout if by_sftp else process.stderr
        assert words_from is not None
        _until(words_from, b"go", way)
        before, began = clock(), time.perf_counter()
        _until(words_from, b"done", way)
        seconds = time.perf_counter() - began
        time.sleep(LINGER)  # not a wait for an event: whatever is spent until now is part of the transfer
        after = clock()
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        if source is not None:
            source.close()
        load.copy.unlink(missing_ok=True)
    return seconds, before, after


def _until(stream: IO[bytes], word: bytes, way: str) -> None:
    said = b""
    while line := stream.readline():
        if line.strip() == word:
            return
        said = line
    raise AssertionError(f"`{way}` ended before it said `{word.decode()}`: {said.decode(errors='replace')}")
