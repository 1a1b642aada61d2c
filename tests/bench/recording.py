"""The figures of the recording format: `python -m tests.bench.recording [--quick] [--json FILE] [--markdown FILE]`.

Size against asciicast v2 streamed through zstd -3 and flushed each second; ours is encrypted to two auditors, chained,
sealed and indexed, and loses less. Then what writing, verifying, reading and seeking cost. Takes two minutes.
"""

import argparse
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import zstandard
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from rich.console import Console

from recorder.chain import FRAME, Chain, Type
from recorder.model import Event, KeyClasses, Kind, SessionId
from recorder.reader import open_recording, verify
from recorder.walk import open_file, read_front, size_of, walk
from tests.bench import corpus
from tests.bench.corpus import Moment
from tests.bench.figures import Figure, Goal, quantile
from tests.bench.keystrokes import PAUSE
from tests.bench.report import markdown, show, write_json
from tests.bench.site import versions
from tests.recorder.daemon import running
from tests.recorder.studio import NODE_PUBLIC, Desk, folder, journal

COLUMNS = ("asciicast", "recording")
AUDITORS = [X25519PrivateKey.generate() for _ in range(2)]
KINDS = {Kind.OUTPUT: "o", Kind.INPUT: "i"}
SEEKS = 400


class Shelf:
    """Recordings on disk, each made with a clock that follows the events."""

    def __init__(self, path: Path) -> None:
        self.folder = folder(path)
        self.count = 0

    def record(self, moments: list[Moment]) -> Path:
        """One batch per event, as keys and their echoes come; segments are made when they are due."""
        self.count += 1
        auditors = [(key.public_key(), KeyClasses.ALL) for key in AUDITORS]
        desk = Desk(self.folder, journal(SessionId(f"{self.count:032x}"), auditors, seed=self.count))
        for seconds, kind, data in moments:
            while desk.seconds + 1 <= seconds:  # recorderd looks each second
                desk.seconds += 1.0
                desk.carry_out(desk.journal.due(desk.now))
                desk.settle()
            desk.append(Event(kind, 1, round(seconds * 1000), data))
            desk.settle()
        desk.seconds = max(desk.seconds, moments[-1].seconds)
        desk.end()
        return desk.path


def asciicast(moments: list[Moment]) -> int:
    """Bytes of the baseline, with the microseconds that asciinema writes."""
    stream = zstandard.ZstdCompressor(level=3).compressobj()
    head = {"version": 2, "width": corpus.COLUMNS, "height": corpus.ROWS, "timestamp": 1790000000}
    size, second = len(stream.compress(json.dumps(head).encode() + b"\n")), 0
    for seconds, kind, data in moments:
        if int(seconds) > second:
            size += len(stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
            second = int(seconds)
        line = json.dumps([round(seconds, 6), KINDS[kind], data.decode(errors="replace")])
        size += len(stream.compress(line.encode() + b"\n"))
    return size + len(stream.flush())


def sizes(shelf: Shelf, quick: bool) -> Iterator[Figure]:
    """The three kinds of sessions."""
    dice = random.Random(7)
    sessions = [corpus.admin(dice, 12 if quick else 38) for _ in range(1 if quick else 6)]
    files = [shelf.record(moments) for moments in sessions]
    ours = sum(path.stat().st_size for path in files)
    theirs, minutes = sum(map(asciicast, sessions)), sum(moments[-1].seconds for moments in sessions) / 60
    keys = sum(moment.kind == Kind.INPUT for moments in sessions for moment in moments)
    note = f"{minutes:.0f} minutes, {keys / minutes:.0f} keys a minute, {_written(sessions) / minutes / 1000:.1f} kB"
    yield Figure(what="busy admin shells, bytes a minute", unit="kB/min", note=f"{note} of output a minute",
                 measured={"asciicast": theirs / minutes / 1000, "recording": ours / minutes / 1000},
                 value=ours / minutes / 1024, value_unit="KiB/min", goal=Goal("<=", 2.4))  # fmt: skip
    yield Figure(what="the same against asciicast", value=ours / theirs, goal=Goal("<=", 0.5))
    yield Figure(what="header, seals and index of such a recording", value=sum(map(_overhead, files)) / ours * 100,
                 value_unit="%", measured={"recording": ours / len(files) / 1000}, unit="kB", note="mean of them",
                 goal=Goal("<=", 8.0))  # fmt: skip
    screens = list(corpus.screens(dice, 2.0 if quick else 10.0))
    bulk = list(corpus.heavy((1 if quick else 8) << 20))
    paced = [(name, _paced(moments)) for name, moments in bulk]
    for what, made, goal in (
        ("full-screen programs", screens, Goal("<=", 0.6)),
        ("bulk output at 1 MB/s", paced, Goal("<=", 0.85)),
        ("bulk output as fast as it comes, which costs compression", bulk, None),
    ):
        ours = sum(shelf.record(moments).stat().st_size for _, moments in made)
        theirs = sum(asciicast(moments) for _, moments in made)
        written = _written([moments for _, moments in made])
        yield Figure(what=f"{what}, against asciicast", value=ours / theirs, goal=goal, unit="kB",
                     measured={"asciicast": theirs / 1000, "recording": ours / 1000},
                     note=f"{', '.join(name for name, _ in made)}: {written / 1e6:.1f} MB of output")  # fmt: skip


def _paced(moments: list[Moment]) -> list[Moment]:
    """The same at 1 MB/s."""
    at, paced = 0, []
    for moment in moments:
        paced.append(moment._replace(seconds=at / 1e6))
        at += len(moment.data)
    return paced


def costs(shelf: Shelf, quick: bool) -> Iterator[Figure]:
    """Writing, decoding, verifying, seeking: by CPU time, so that neighbours do not count; files are in memory.

    The goal for writing was set on output gathered for 1 s or 64 KiB (2.8 % of a core). Here each 800 bytes are a batch
    of their own, written and ready to be acknowledged, because a gateway sends on what is acknowledged. The way through
    the socket is not in it, neither there nor here: the keystroke figures have that.
    """
    output = b"".join(moment.data for _, moments in corpus.heavy((2 if quick else 8) << 20) for moment in moments)
    moments = [Moment(at / 1e6, Kind.OUTPUT, output[at : at + 800]) for at in range(0, len(output), 800)]
    gc.collect()
    gc.freeze()  # as recorderd does: what this program holds would be gone through at the recorder's expense
    began = time.process_time()
    path = shelf.record(moments)
    spent = (time.process_time() - began) / (len(output) / 1e6)
    yield Figure(what="CPU of writing 1 MB/s of terminal output, in pieces of 800 bytes", value=spent * 100,
                 value_unit="% of a core", goal=Goal("<=", 3.0), note="appending and compacting")  # fmt: skip
    rates = []
    for _ in range(3 if quick else 7):
        began = time.process_time()
        size = sum(len(event.data) for event in open_recording(path, AUDITORS).events())
        rates.append(size / (time.process_time() - began) / 1e6)
    yield Figure(what="decoding", value=sorted(rates)[len(rates) // 2], value_unit="MB/s", goal=Goal(">=", 250.0))
    noise = random.Random(3)
    large = shelf.record([Moment(n / 1000, Kind.OUTPUT, noise.randbytes(32768)) for n in range(500 if quick else 4000)])
    rates = []
    for _ in range(3 if quick else 7):
        began = time.process_time()
        verdict = verify(large, NODE_PUBLIC)
        rates.append(verdict.bytes / (time.process_time() - began) / 1e6)
        assert verdict.status == "ok", verdict
    yield Figure(what="verifying without a key", value=sorted(rates)[len(rates) // 2], value_unit="MB/s",
                 goal=Goal(">=", 300.0), note=f"a recording of {large.stat().st_size / 1e6:.0f} MB")  # fmt: skip
    yield from seeks([path for path in shelf.folder.path.rglob("*.brec") if path != large])


def seeks(paths: list[Path]) -> Iterator[Figure]:
    """From the name of a file to the first event after a time in it."""
    dice, took = random.Random(5), []
    durations = {path: open_recording(path, AUDITORS).duration_ms for path in paths}
    for _ in range(SEEKS):
        path = dice.choice(paths)
        at = dice.randrange(durations[path] + 1)
        began = time.process_time()
        assert next(open_recording(path, AUDITORS).events(at)).ms >= at
        took.append((time.process_time() - began) * 1000)
    yield Figure(what="seeking, p99", value=quantile(took, 0.99), value_unit="ms", goal=Goal("<=", 10.0),
                 note=f"{SEEKS} times in {len(paths)} recordings, p50 {quantile(took, 0.5):.1f} ms")  # fmt: skip


def keystrokes(shelf: Shelf, quick: bool) -> Iterator[Figure]:
    """From `Append` to `Ack` of the real recorderd, keys as far apart as in `bench`: the caches are cold by then."""
    place = shelf.folder.path / "daemon"
    place.mkdir()
    took, count = [], 200 if quick else 1000
    with running(place) as daemon, daemon.client() as client:
        client.open()
        for number in range(2 * count):
            if number == count:
                before = _spent(daemon.process.pid)
            time.sleep(PAUSE)
            began = time.perf_counter()
            client.append(Event(Kind.INPUT, 1, number, b"k"))
            client.acked()
            took.append((time.perf_counter() - began) * 1000)
        spent = (_spent(daemon.process.pid) - before) / count
        client.end()
    took = took[count:]
    yield Figure(what="a keystroke through recorderd, p50", value=quantile(took, 0.5), value_unit="ms",
                 note=f"p99 {quantile(took, 0.99):.2f} ms; {spent / 1000:.0f} us of CPU")  # fmt: skip


def _spent(pid: int) -> int:
    """Nanoseconds on a processor so far."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def _written(sessions: list[list[Moment]]) -> int:
    return sum(len(moment.data) for moments in sessions for moment in moments if moment.kind == Kind.OUTPUT)


def _overhead(path: Path) -> int:
    """Bytes that are in no segment. The goal was set as their share of the file: 1,095 of 14,954 bytes, 7.3 %, were
    reached with a seal each 300 s; here there is one each 150 s, and the file is smaller."""
    with open_file(path) as file:
        front, size = read_front(file), size_of(file)
        records = walk(file, len(front.raw), size, Chain(front.raw))
        return size - sum(FRAME + len(record.body) for record in records if record.kind == Type.SEGMENT)


def main() -> int:
    """Entry point; 0 unless something did not work at all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.recording", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter sessions")
    parser.add_argument("--json", type=Path, default=Path("build/bench-recording.json"))
    parser.add_argument("--markdown", type=Path, help="where the table for the README goes; - is standard output")
    options = parser.parse_args()
    console, began, figures = Console(stderr=True), time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="bastion-bench-") as place, console.status("") as status:
        shelf = Shelf(Path(place))
        for part in (sizes, costs, keystrokes):
            for figure in part(shelf, options.quick):
                figures.append(figure)
                status.update(figure.what)
        shelf.folder.close()
    facts = versions() | {
        "date": datetime.now(UTC).date().isoformat(),
        "minutes": f"{(time.monotonic() - began) / 60:.1f}",
    }
    show(Console(), figures, COLUMNS)
    write_json(options.json, figures, facts, {})
    if options.markdown:
        text = markdown(figures, facts, "python -m tests.bench.recording", COLUMNS)
        sys.stdout.write(text) if str(options.markdown) == "-" else options.markdown.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
