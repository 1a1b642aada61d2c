"""Write the test vectors of FORMAT.md again: `python -m tests.vectors`. The same bytes each time.

Each vector is a recording, perhaps with a tail, and a line in `vectors.json`: what a verifier must say without a key
(`status`, and words of the first `problem`) and what a reader must find (`events`, and words of what it must complain
about in `reading`; null: nothing). `auditor.brec` stays as it is once made, because HPKE is random.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from recorder import keys
from recorder.chain import FIXED, FRAME, SIGNATURE, Chain, Type
from recorder.codec import compress
from recorder.model import Event, KeyClass, KeyClasses, Kind
from recorder.parts import Gathered, Place
from recorder.reader import open_recording
from recorder.records import FOOT_BODY, MARK, Foot, Seal, Why, encode_index
from recorder.recovery import recover
from recorder.verdict import verify
from tests.recorder.studio import NODE_KEY, NODE_PUBLIC, SESSION, T0, Desk, entropy, folder, journal, small_session
from tests.recorder.test_damage import rebuilt, records_of

HERE = Path(__file__).parent
AUDITOR = X25519PrivateKey.from_private_bytes(b"auditor." * 4)


@dataclass(frozen=True, kw_only=True)
class Vector:
    name: str
    about: str
    status: str
    problem: str | None = None
    reading: str | None = None
    main: bytes
    tail: bytes | None = None


def good(work: Path) -> list[Vector]:
    whole, _ = small_session(folder(work / "whole"))
    skipping = Desk(folder(work / "skipping"), journal())
    skipping.append(Event(Kind.OUTPUT, 1, 5, b"hi"))
    skipping.files.append_main(skipping.journal._append(0x90, b"of a later minor version"))  # type: ignore[arg-type]
    skipping.end()
    order = Desk(folder(work / "order"), journal())
    order.append(Event(Kind.OUTPUT, 1, 5, b"$ "), Event(Kind.INPUT, 1, 5, b"l"), Event(Kind.OUTPUT, 1, 5, b"l"))
    order.append(Event(Kind.CLIPBOARD, 2, 5, b"pasted"), Event(40, 0xFFFF, 70_000, bytes(300)))
    order.end()
    live, _ = small_session(folder(work / "live"), end=False)
    [tail] = live.path.parent.glob("*.tail*")
    main, rest = live.path.read_bytes(), tail.read_bytes()
    torn = rest[:-7]
    dropped = live.folder.path
    live.files.close()
    live.folder.close()
    with_note = folder(dropped)
    recover(with_note, live.path.parent.name, SESSION, NODE_KEY, T0)
    return [
        Vector(name="complete", about="three segments, two classes", status="ok", main=whole.path.read_bytes()),
        Vector(name="skippable", about="a record of type 0x90", status="ok", main=skipping.path.read_bytes()),
        Vector(name="order", about="classes within one millisecond", status="ok", main=order.path.read_bytes()),
        Vector(name="live", about="no end yet, with a tail", status="open", main=main, tail=rest),
        Vector(
            name="live-torn", about="the last chunk of the tail is half written", status="open",
            problem="a tail: the record", reading="tail:", main=main, tail=torn,
        ),
        Vector(
            name="recovered", about="chunks in main, and a note", status="truncated", problem="recovered",
            main=live.path.read_bytes(),
        ),
    ]  # fmt: skip


def auditor(work: Path) -> Vector:
    file = HERE / "auditor.brec"
    if file.exists():
        data = file.read_bytes()
    else:
        slots = [(AUDITOR.public_key(), KeyClasses.ALL), (AUDITOR.public_key(), KeyClasses.VIEW)]
        desk = Desk(folder(work / "auditor"), journal(auditors=slots))
        desk.append(Event(Kind.INPUT, 1, 5, b"l"), Event(Kind.OUTPUT, 1, 6, b"l"))
        desk.end()
        data = desk.path.read_bytes()
    return Vector(name="auditor", about="sealed to the X25519 key `auditor.` * 4", status="ok", main=data)


def cut_and_flipped(main: bytes, tail: bytes, live: bytes, whole: Path) -> list[Vector]:
    front, found = records_of(whole)
    start = len(front.raw)
    segments = [record.offset for record in found if record.kind == Type.SEGMENT]
    final = found[-2].offset

    def at(offset: int, data: bytes = main) -> bytes:
        return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]

    def bad(
        name: str, about: str, data: bytes, problem: str, status: str = "altered", reading: str | None = None,
        rest: bytes | None = None,
    ) -> Vector:  # fmt: skip
        return Vector(name=name, about=about, status=status, problem=problem, reading=reading, main=data, tail=rest)

    follow = "does not follow"
    return [
        bad("magic", "first byte", at(0), "no recording", reading="no recording"),
        bad("major-2", "a later major version", main[:9] + b"\2" + main[10:], "version 2", reading="version 2"),
        bad("header-long", "L beyond its limit", main[:12] + b"\xff" * 4 + main[16:], "at most", reading="at most"),
        bad("header-signature", "last byte of the header", at(start - 1), "signature of the header", reading=follow),
        bad("segment-flip", "a byte in the second segment", at(segments[1] + 40), follow, reading=follow),
        bad("type-flip", "type of a segment", at(segments[1]), follow, reading=follow),
        bad("check-flip", "check of a segment", at(segments[1] + 4), follow, reading=follow),
        bad("seal-flip", "a byte of the final seal's signature", at(final + 100), follow, reading=follow),
        bad("cut-header", "within the header", main[: start - 1], "header", "truncated", "header"),
        bad("cut-segment", "within a segment", main[: segments[1] + 50], "cut short", "truncated", "cut short"),
        bad("cut-foot", "the last record is missing", main[: -FRAME - FOOT_BODY], "last record", "truncated"),
        bad("cut-at-seal", "behind the first seal", main[: found[2].offset], "no end and no tail", "truncated"),
        bad("zeros", "blocks that never reached the disk", main[: segments[2]] + bytes(4096), "zeros", "truncated",
            "zeros"),
        bad("tail-flip", "a byte in the tail", live, "a tail", "truncated", "tail:", at(100, tail)),
        bad("tail-magic", "first byte of the tail", live, "no tail", "truncated", "no tail", at(0, tail)),
        bad("tail-other", "the session in the tail", live, "another session", "truncated", None, at(20, tail)),
    ]  # fmt: skip


def forged(whole: Path) -> list[Vector]:
    """By somebody without keys, who makes the storage chain fit."""
    front, found = records_of(whole)
    bodies = [(record.kind, record.body) for record in found]
    segments = [number for number, (kind, _) in enumerate(bodies) if kind == Type.SEGMENT]
    first, second = segments[:2]

    def change(name: str, about: str, problem: str, edit: Callable[[list[tuple[int, bytes]]], object],
               reading: str | None = None) -> Vector:  # fmt: skip
        edited = list(bodies)
        edit(edited)
        return Vector(
            name=name, about=about, status="altered", problem=problem, reading=reading, main=rebuilt(front, edited)
        )

    def swap(edited: list[tuple[int, bytes]]) -> None:
        edited[first], edited[second] = edited[second], edited[first]

    def foot(edited: list[tuple[int, bytes]]) -> None:
        edited[-1] = (Type.FOOT, Foot(99).encode())

    def resealed(edited: list[tuple[int, bytes]]) -> None:
        kind, body = edited[first + 1]
        wrong = Ed25519PrivateKey.from_private_bytes(b"thief..." * 4)
        before = found[first + 1].before
        said = b"brec1 seal" + bytes.fromhex(SESSION) + before + body[:-SIGNATURE]
        edited[first + 1] = (kind, body[:-SIGNATURE] + wrong.sign(said))

    def marked(edited: list[tuple[int, bytes]]) -> None:
        edited[first + 1] = (Type.SEAL, MARK + bytes(100))

    def doubled(edited: list[tuple[int, bytes]]) -> None:
        kind, body = edited[first]
        edited[first] = (kind, body + body[16:])

    return [
        change("segment-dropped", "a segment is missing", "signature of seal 0", lambda e: e.pop(first), "missing"),
        change("segment-swapped", "two segments change places", "expected", swap, "missing"),
        change("segment-twice", "a segment stands twice", "expected", lambda e: e.insert(first, bodies[first])),
        change("part-twice", "a class stands twice in a segment", "a part of class", doubled, "a part of class"),
        change("seal-dropped", "a seal is missing", "does not hold", lambda e: e.pop(first + 1)),
        change("seal-foreign", "a seal by a key that nobody named", "signature of seal 0", resealed),
        change("seal-short", "a seal that is none", "no seal", marked),
        change("index-dropped", "no index before the end", "signature of seal", lambda e: e.pop(-3)),
        change("foot-elsewhere", "the foot names other offsets", "another place", foot),
        change("foot-twice", "something behind the last record", "follows the last", lambda e: e.append(e[-1])),
        change("unknown-type", "a record of type 0x20", "unknown type", lambda e: e.insert(first, (0x20, b"?"))),
        change("note-early", "a note by nobody", "a note", lambda e: e.insert(first, (Type.NOTE, b"\x80" + bytes(64)))),
    ]


def crafted() -> list[Vector]:
    """Sealed as it should be, by a recorder that writes nonsense: what only a reader with the key can find."""
    event = [Event(Kind.OUTPUT, 1, 5, b"a" * 400)]
    plain = Gathered([{KeyClass.VIEW: event}]).plain()[KeyClass.VIEW]
    columns = plain[7:]

    def one(name: str, about: str, reading: str, framed: bytes) -> Vector:
        return Vector(name=name, about=about, status="ok", reading=reading, main=craft(framed))

    zeros = plain[:7] + b"\x01" + b"\x01\x00" + b"\x00" + b"\x00"  # n, planes: channel, kind, the plane
    return [
        one("bomb-length", "4 GiB after decompression, it says", "at most", b"\x01\xff\xff\xff\xff" + b"x" * 50),
        one("bomb-lie", "the zstd frame says more than its frame", "disagrees",
            b"\x01\x00\x00\x00\x10" + compress(bytes(1 << 20))[5:]),
        one("codec-9", "an unknown compression", "unknown compression", b"\x09" + compress(plain)[1:]),
        one("columns-short", "columns end early", "cut short", compress(plain[:9])),
        one("columns-zeros", "planes of zeros are written out", "plane of zeros", compress(zeros)),
        one("counts", "the counts are of more events than there are", "counts say",
            compress(plain[:6] + b"\x02" + plain[7:])),
        one("events-many", "more events than a batch may have", "events in a batch",
            compress(plain[:7] + b"\xff\xff\x7f" + columns[1:])),
    ]  # fmt: skip


def craft(framed: bytes) -> bytes:
    """A complete recording with one segment of this content."""
    core = journal()
    random = entropy(1)
    root, seed = random(32), random(32)
    opened, chain, data = keys.Keys.of_root(root), Chain(core.header), core.header
    place = Place(Type.SEGMENT, 0, 0, 1)
    bound = bytes.fromhex(SESSION)
    sealed = keys.close(opened.of_segment(0)[KeyClass.VIEW], Type.SEGMENT, 0, 0, framed, bound + place.fixed())
    data += chain.frame(Type.SEGMENT, place.fixed() + b"\0" + len(sealed).to_bytes(3, "big") + sealed)
    index_at = len(data)
    index = keys.close(opened.index, Type.INDEX, 0, 0, compress(encode_index([])), bound)
    data += chain.frame(Type.INDEX, index)
    seal = Seal(why=Why.END, seq=1, wall_us=T0, ms=5, content=bytes(32), next_key=bytes(32))
    foot = Foot(index_at)
    data += chain.frame(Type.SEAL, seal.encode(SESSION, chain.state, keys.signing_key(seed).sign))
    return data + chain.frame(Type.FOOT, foot.encode())


def headers(main: bytes) -> list[Vector]:
    """Signed by the node, but not what the page allows."""
    length = int.from_bytes(main[12:16], "big")
    rest = main[FIXED + length + SIGNATURE :]

    def signed(name: str, about: str, problem: str, edit: Callable[[dict[str, object]], object]) -> Vector:
        fields = msgpack.unpackb(main[FIXED : FIXED + length])
        edit(fields)
        packed = msgpack.packb(dict(sorted(fields.items())))
        head = main[:12] + len(packed).to_bytes(4, "big") + packed
        data = head + NODE_KEY.sign(b"brec1 header" + head) + rest
        return Vector(name=name, about=about, status="altered", problem=problem, reading=problem, main=data)

    return [
        signed("suite-2", "another crypto suite", "suite 2", lambda f: f.update(suite=2)),
        signed(
            "slot-size", "a slot of an impossible size", "a slot", lambda f: f.update(slots=[[0, bytes(8), 15, b""]])
        ),
        signed("slots-none", "no slot", "slots", lambda f: f.update(slots=[])),
        signed("id-short", "an id of 15 bytes", "16 bytes", lambda f: f.update(id=bytes(15))),
        signed("t0-text", "t0 is a text", "number", lambda f: f.update(t0="now")),
        signed("pub-nested", "a map in pub", "text", lambda f: f.update(pub={"protocol": {}})),
        signed("extension", "a msgpack extension type", "extension", lambda f: f.update(x=msgpack.ExtType(5, b"x"))),
        signed("key-missing", "no seal key", "lacks", lambda f: f.pop("pk")),
    ]


def main() -> None:
    """Write everything, then check each line against the reader as it is."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        vectors = [*good(work), auditor(work)]
        by_name = {vector.name: vector for vector in vectors}
        whole = work / "whole.brec"
        whole.write_bytes(by_name["complete"].main)
        live = by_name["live"]
        assert live.tail
        vectors += cut_and_flipped(by_name["complete"].main, live.tail, live.main, whole)
        vectors += forged(whole) + crafted() + headers(by_name["complete"].main)
    lines = []
    for old in [*HERE.glob("*.brec"), *HERE.glob("*.brec.tail")]:
        old.unlink()
    for vector in vectors:
        file = HERE / f"{vector.name}.brec"
        file.write_bytes(vector.main)
        if vector.tail is not None:
            file.with_name(file.name + ".tail").write_bytes(vector.tail)
        lines.append(
            {"name": vector.name, "about": vector.about, "status": vector.status, "problem": vector.problem,
             "events": read_back(file), "reading": vector.reading}
        )  # fmt: skip
    text = "[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n"
    (HERE / "vectors.json").write_text(text)
    for line in lines:
        verdict = verify(HERE / f"{line['name']}.brec", NODE_PUBLIC)
        print(f"{line['name']:20} {verdict.status:10} {'; '.join(verdict.problems)}")


def read_back(file: Path) -> list[list[object]] | None:
    """The events that a reader finds; null: it is not even opened."""
    try:
        recording = open_recording(file, [AUDITOR])
    except Exception:
        return None
    return [[event.kind, event.channel, event.ms, event.data.hex()] for event in recording.events()]


if __name__ == "__main__":
    main()
