"""What a process has changed on disk, call by call, and the disk as a death after each of them leaves it.

strace(1) writes down every call that changes a file, with its bytes. Played back onto a copy of what was there before,
the first n calls make the files that a process killed after its n-th call has left: what was written survives its
death, synced or not. Where power is lost, what was not synced is lost with it. So each step can be looked at without
one process for each.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

CALLS: Final = "openat,write,pwrite64,ftruncate,unlink,unlinkat,link,linkat,rename,renameat,renameat2,fsync,fdatasync"
_BYTES: Final = frozenset({"write", "pwrite64", "ftruncate"})
_SYNCS: Final = frozenset({"fsync", "fdatasync"})
_LINE: Final = re.compile(r"^(\d+) +(\d+\.\d+) (.*)$")
_CALL: Final = re.compile(r"^(\w+)\((.*)\) += (-?\d+)", re.DOTALL)
_RESUMED: Final = re.compile(r"^<\.\.\. \w+ resumed>(.*)$", re.DOTALL)
_HANDLE: Final = re.compile(r"^\d+<([^>]*)>")
_TEXT: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


@dataclass(frozen=True, slots=True)
class Step:
    """One call. `path` is relative to the folder that is looked at; `number`: an offset, a length, or a mode."""

    call: str
    path: str
    data: bytes = b""
    number: int = 0
    to: str = ""
    at: float = 0  # wall clock, seconds: when it began, or was resumed

    def play(self, folder: Path) -> None:
        path = folder / self.path
        match self.call:
            case "openat":
                path.touch(self.number)
            case "write":
                with path.open("ab") as file:
                    file.write(self.data)
            case "pwrite64":
                with path.open("r+b") as file:
                    file.seek(self.number)
                    file.write(self.data)
            case "ftruncate":
                os.truncate(path, self.number)
            case "unlink" | "unlinkat":
                path.unlink()
            case "link" | "linkat":
                os.link(path, folder / self.to)
            case "fsync" | "fdatasync":
                pass
            case _:
                path.rename(folder / self.to)


def kept(steps: Sequence[Step]) -> list[Step]:
    """What the loss of power leaves of them at the worst: of each file the bytes up to its last sync."""
    synced = {step.path: at for at, step in enumerate(steps) if step.call in _SYNCS}
    return [step for at, step in enumerate(steps) if step.call not in _BYTES or at < synced.get(step.path, -1)]


def strace(pid: int, log: Path, *words: str) -> "subprocess.Popen[bytes]":
    """strace(1) beside a running process and its threads, from now on."""
    running = subprocess.Popen(["strace", "-f", *words, "-o", str(log), "-p", str(pid)], stderr=subprocess.PIPE)
    assert running.stderr is not None
    while b"attached" not in (line := running.stderr.readline()):
        assert line, "strace did not attach"
    return running


class Trace:
    """strace beside a running process, from now on until `steps`."""

    def __init__(self, pid: int, log: Path) -> None:
        self._log = log
        words = ("-ttt", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}")
        self._strace = strace(pid, log, *words)

    def steps(self, folder: Path) -> list[Step]:
        """What was changed in `folder`, and not in folders below it. The end of the trace."""
        self._strace.terminate()
        self._strace.wait(20)
        return [replace(step, at=at) for at, *call in _calls(self._log) if (step := _step(*call, folder))]


def _calls(log: Path) -> Iterator[tuple[float, str, str, int]]:
    """Those that succeeded, in the order in which they ended."""
    begun: dict[str, str] = {}
    for line in log.read_text().splitlines():
        match = _LINE.match(line)
        assert match, line[:200]
        thread, at, text = match[1], float(match[2]), match[3]
        if text.endswith("<unfinished ...>"):
            begun[thread] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        if resumed := _RESUMED.match(text):
            text = begun.pop(thread, "") + resumed[1]
        if (call := _CALL.match(text)) and int(call[3]) >= 0:
            yield at, call[1], call[2], int(call[3])


def _step(call: str, words: str, result: int, folder: Path) -> Step | None:
    texts = [_decoded(text, cut) for text, cut in _TEXT.findall(words)]
    if call in _BYTES | _SYNCS:
        handle = _HANDLE.match(words)
        name = _name(_plain(handle[1]), folder) if handle else ""
        if not name:
            return None
        number = 0 if call == "write" or call in _SYNCS else int(words.rpartition(",")[2])
        return Step(call, name, texts[0][:result] if texts else b"", number)
    names = [_name(text.decode(), folder) for text in texts]
    if not names or not names[0] or (call == "openat" and "O_CREAT" not in words):
        return None
    mode = int(words.rpartition(",")[2], 8) if call == "openat" else 0
    return Step(call, names[0], number=mode, to=names[1] if len(names) > 1 else "")


def _decoded(text: str, cut: str) -> bytes:
    assert not cut, "strace has cut a text"
    return bytes.fromhex(text.replace("\\x", ""))


def _plain(text: str) -> str:
    return _decoded(text, "").decode() if text.startswith("\\x") else text


def _name(path: str, folder: Path) -> str:
    """SQLite's index of its log is memory of the living, and made anew."""
    found = Path(path)
    return found.name if found.parent == folder and not path.endswith("-shm") else ""
