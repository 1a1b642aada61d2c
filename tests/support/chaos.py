"""What fault tests share: a bastion whose parts can be taken away, sessions that stream, and what was recorded of them.

The promise that all of it serves: what a client has received is a beginning of what the recording holds.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec

from recorder.model import AccessNote, Event, Exit, Kind, Note, SftpOp, Start
from recorder.reader import Recording, RecordingError, open_recording
from recorder.store import Store
from tests.support.net import wait_until
from tests.support.site import DIRECT, EVERYTHING, JUMP, Site

N = TypeVar("N", bound=Note)

RECOVERY: Final = 10.0
"""Seconds from the end of a process to the first login that works again: what people are promised."""

STALL: Final = 6
"""Seconds that recorderd may owe an acknowledgement, instead of 30: tests wait for it."""

DISK: Final = 96
"""MiB of the disk that recordings are written to."""

KEPT, SHORT, IDLE = "kept", "short", "idle"
"""Targets that are the same machine under other rules: output recorded in full, 4 s in all, 3 s without a word."""

RULES: Final = "".join(
    f"""
[[rule]]
name   = "{env}"
who    = {{ roles = ["engineer"] }}
where  = {{ labels = {{ env = "{env}" }} }}
as     = ["*"]
allow  = {json.dumps(EVERYTHING)}
{more}
"""
    for env, more in {
        "test": "",
        KEPT: "record = { content = true }",
        SHORT: 'limits = { session = "4s" }',
        IDLE: 'limits = { idle = "3s" }',
    }.items()
)


def patience(seconds: float) -> float:
    """At least twice the `seconds` that something takes; where others want the processors too, as much longer.

    Twice: not all who want them are counted. The load is a mean of the last minute, of processes that we can see.
    """
    return seconds * max(2.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


@dataclass
class FaultSite(Site):
    """A bastion that survives what is done to it. `on_small_disk`: its recordings have a disk of their own."""

    rules: str = RULES
    on_small_disk: bool = False

    @property
    def recordings(self) -> Path:
        return self.home / "disk/recordings"

    def start(self) -> "FaultSite":
        disk = self.home / "disk"
        disk.mkdir(parents=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(disk)]
        self.on_small_disk = (
            os.geteuid() == 0 and not subprocess.run(words, capture_output=True, check=False).returncode
        )
        self.settings = {"recorder": [f'directory = "{self.recordings}"'], **self.settings}
        super().start()
        for env in (KEPT, SHORT, IDLE):
            self.add_target(env, self.target, env)
        return self

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            if self.on_small_disk:
                subprocess.run(["umount", "-l", str(self.home / "disk")], check=False)

    # --- taking parts away --------------------------------------------------------------------------

    @property
    def supervisor(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self, role: str) -> None:
        """kill -9, and gone when this returns."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        wait_until(f"the end of {role}", lambda: not is_running(pid))

    @contextmanager
    def without(self, role: str) -> Iterator[None]:
        """The process is killed, and not started again before the block ends."""
        with frozen(self.supervisor):
            self.kill(role)
            yield
        self.recovers()

    def recovers(self, seconds: float = RECOVERY) -> float:
        """Wait until a login works; seconds that it took, AssertionError if more than `seconds`."""
        began = time.monotonic()
        longest = patience(seconds)
        said = ""
        while True:
            try:
                done = self.ssh("direct", "true", timeout=longest)
                if done.returncode == 0:
                    break
                said = done.stderr.decode(errors="replace")
            except subprocess.TimeoutExpired:
                said = "nothing"
            assert time.monotonic() - began < longest, f"no login within {longest:g} s: {said}"
            time.sleep(0.05)  # each try costs the machine a client; the condition is asked again at once after it
        took = time.monotonic() - began
        assert took < longest, f"a login worked after {took:.1f} s, promised are {longest:g} s"
        return took

    def reconfigure(self, text: str) -> None:
        """Another bastion.toml, taken up without a restart."""
        done = self.log.read_text().count('"reloaded"')
        self.config.write_text(text)
        os.kill(self.supervisor, signal.SIGHUP)
        wait_until("the gateway's new settings", lambda: self.log.read_text().count('"reloaded"') > done, patience(20))

    # --- clients ------------------------------------------------------------------------------------

    def go(self, *words: str, to: str = "web1", entry: str = "direct", **more: Any) -> "Said":
        """A command by OpenSSH's client on a target of ours; what came of it, with its time."""
        began = time.monotonic()
        options = tuple(more.pop("options", ()))
        if entry == "direct":
            options += ("-l", self.login(target=to))
        done = self.ssh(entry, *words, options=options, **({"timeout": patience(30)} | more))
        return Said(done.returncode, done.stdout, done.stderr.decode(errors="replace"), time.monotonic() - began)

    def events(self, name: str, since: int = 0) -> list[dict[str, Any]]:
        """Audit events of one kind, oldest first, from number `since` on."""
        return [row for row in self.audit() if row["event"] == name and int(row["seq"]) > since]

    def event(self, name: str, since: int = 0) -> dict[str, Any]:
        """The newest audit event of a kind, once there is one."""
        wait_until(f"the audit event {name}", lambda: self.events(name, since), patience(10))
        return self.events(name, since)[-1]

    def newest(self) -> int:
        """Number of the newest audit event."""
        return max(int(row["seq"]) for row in self.audit())


@dataclass(frozen=True)
class Said:
    """How a client ended, and what it said."""

    code: int
    out: bytes
    err: str
    seconds: float

    @property
    def ref(self) -> str:
        """The id in the words for the person, by which support finds the event."""
        found = re.search(r"\[([0-9a-f]{8})\]", self.err)
        assert found, f"no id in {self.err!r}"
        return found[1]


def is_running(pid: int) -> bool:
    """False for a process that has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def processor(pid: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process stands still within the block, if it is still there afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


def memory(pid: int) -> int:
    """Bytes of memory that a process has in use and shares with nobody (Pss would depend on the others)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory")


# --- sessions that stream -----------------------------------------------------------------------------


class Stream:
    """A client in the background. What it receives goes into a file, so that it never waits for us."""

    def __init__(self, folder: Path, name: str, words: Sequence[str], stdin: Any = subprocess.DEVNULL) -> None:
        self.name = name
        self.out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self.out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(list(words), stdin=stdin, stdout=out, stderr=err)

    @property
    def received(self) -> bytes:
        return self.out.read_bytes()

    @property
    def size(self) -> int:
        return self.out.stat().st_size

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")

    def flows(self, more: int = 1) -> "Stream":
        """Wait until `more` bytes have come since now."""
        before = self.size
        wait_until(f"more of {self.name}: {self.err}", lambda: self.size >= before + more, patience(20))
        return self

    def wait(self, seconds: float = 20.0) -> int:
        try:
            return self.process.wait(patience(seconds))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end: {self.err}") from None

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass
class Load:
    """Sessions side by side. `with Load(site, folder) as load`; whatever is left ends with the block."""

    site: FaultSite
    folder: Path
    streams: list[Stream] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self.streams:
            stream.end()

    def command(
        self, name: str, script: str, *options: str, to: str = KEPT, entry: str = DIRECT, **more: Any
    ) -> Stream:
        """`script` on a target, named in its own text; `more` is for Stream."""
        login = ["-o", f"HostName={to}"] if entry == JUMP else ["-l", self.site.login(target=to)]
        words = [*self.site.command("ssh", *options), *login, entry, f": {name}; {script}"]
        return self._add(Stream(self.folder, name, words, **more))

    def counting(self, name: str, *options: str, to: str = KEPT, entry: str = DIRECT) -> Stream:
        """Numbered lines, some hundred a second: a prefix is told from anything else at once."""
        script = (
            f"i=0; while :; do i=$((i+1)); echo {name} $i 0123456789012345678901234567890123456789; "
            "[ $((i % 50)) = 0 ] && sleep 0.1; done"
        )
        return self.command(name, script, *options, to=to, entry=entry)

    def fetching(self, name: str, folder: Path, many: int) -> Stream:
        """sftp that fetches files, one after the other."""
        batch = self.folder / f"{name}.batch"
        target = self.folder / f"{name}.d"
        target.mkdir()
        batch.write_text("".join(f'get "{folder}/{number}" "{target}/{number}"\n' for number in range(many)))
        user = f"User={self.site.login(target=KEPT)}"
        words = [*self.site.command("sftp", "-o", user, "-b", str(batch)), "direct"]
        return self._add(Stream(self.folder, name, words))

    def _add(self, stream: Stream) -> Stream:
        self.streams.append(stream)
        return stream


# --- what was recorded --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tape:
    """One recording, as an auditor can read it."""

    path: Path
    recording: Recording
    events: list[Event]

    @property
    def session(self) -> str:
        return str(self.recording.session)

    def joined(self, *kinds: Kind) -> bytes:
        return b"".join(event.data for event in self.events if event.kind in kinds)

    def notes(self, kind: Kind, shape: type[N]) -> list[N]:
        return [msgspec.msgpack.decode(event.data, type=shape) for event in self.events if event.kind == kind]

    @property
    def commands(self) -> list[bytes]:
        return [start.command for start in self.notes(Kind.START, Start)]

    @property
    def operations(self) -> list[SftpOp]:
        return self.notes(Kind.SFTP, SftpOp)

    @property
    def ended(self) -> AccessNote | None:
        """How it ended, if somebody said so."""
        found = [one for one in self.notes(Kind.ACCESS, AccessNote) if one.what == "ended"]
        return found[-1] if found else None

    @property
    def exits(self) -> list[Exit]:
        return self.notes(Kind.EXIT, Exit)


def tapes(site: Site) -> list[Tape]:
    """Every recording that can be read, oldest first."""
    found = []
    for path in sorted(Store(site.recordings).recordings()):
        try:
            recording = open_recording(path)
            found.append(Tape(path, recording, list(recording.events())))
        except RecordingError:
            continue  # just being born; `replay verify` is asked about those that never were
    return found


def tape_of(site: Site, name: str) -> Tape:
    """The recording of the session whose command names `name`."""
    return find_tape(site, name, lambda tape: any(f": {name};".encode() in command for command in tape.commands))


def find_tape(site: Site, what: str, fits: Callable[[Tape], bool]) -> Tape:
    found = [tape for tape in tapes(site) if fits(tape)]
    assert len(found) == 1, f"{len(found)} recordings of {what}"
    return found[0]


def ended_tape(site: Site, name: str) -> Tape:
    """The same, once it has its end."""
    wait_until(f"the end of the recording of {name}", lambda: tape_of(site, name).ended is not None, patience(15))
    return tape_of(site, name)


def holds(tape: Tape, received: bytes, what: str) -> None:
    """The promise: whatever a client has received, the recording has."""
    recorded = tape.joined(Kind.OUTPUT)
    assert recorded[: len(received)] == received, (
        f"{what}: {len(received)} bytes received, {len(recorded)} recorded, alike up to {_alike(recorded, received)}"
    )


def _alike(one: bytes, other: bytes) -> int:
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


def verdicts(site: Site, *words: str) -> dict[str, str]:
    """`replay verify`: status by session. Its exit code is 1 only if something was altered."""
    done = site.replay("verify", *(words or ("--all",)), "--json", check=False)
    assert done.stdout, done.stderr
    return {row["session"]: row["status"] for row in json.loads(done.stdout)}
