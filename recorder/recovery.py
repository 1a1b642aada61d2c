"""What recorderd does about recordings that it left unfinished: at start, without their keys, which died with it.

The valid prefix of main stays; valid chunks of the tails follow, as they are; a note, signed by the node, says so. It
goes through the same records, chain and files as the normal way, and may itself be cut short anywhere: the tail stays
until main is on disk.
"""

from pathlib import Path
from typing import BinaryIO, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from recorder.chain import FRAME, TAIL_HEADER, Chain, Type
from recorder.codec import FormatError
from recorder.durable import MAIN, TAILS, Files, Folder
from recorder.model import SessionId
from recorder.parts import place_of
from recorder.records import Note
from recorder.walk import Cut, Damage, Front, next_seal, open_file, read_front, read_tail_front, size_of, walk


class Outcome(NamedTuple):
    """`how`: recovered, complete (only its tail was left), empty (nothing had been acknowledged), or damaged."""

    how: str
    file: str = ""
    chunks: int = 0
    torn: int = 0
    state: bytes = b""
    why: str = ""


class _Main(NamedTuple):
    """What is valid of main."""

    chain: Chain
    size: int
    seq: int
    kinds: set[int]


def recover(folder: Folder, day: str, session: SessionId, key: Ed25519PrivateKey, wall_us: int) -> Outcome:
    """Bring one recording to rest. OSError."""
    path = folder.path / day / (session + MAIN)
    tails = [path.with_name(session + suffix) for suffix in TAILS]
    try:
        files = folder.reopen(day, session)
    except FileNotFoundError:
        for tail in tails:
            if tail.exists() and tail.stat().st_size > TAIL_HEADER:
                return Outcome("damaged", why="there is a tail with chunks, but no recording")
            tail.unlink(missing_ok=True)  # we died between the two of them
        return Outcome("empty")
    try:
        with open_file(path) as file:
            return _recover(files, file, tails, key, wall_us)
    finally:
        files.close()


def _recover(files: Files, file: BinaryIO, tails: list[Path], key: Ed25519PrivateKey, wall_us: int) -> Outcome:
    end = size_of(file)
    try:
        front = read_front(file)
    except Cut as error:
        if any(tail.exists() and tail.stat().st_size > TAIL_HEADER for tail in tails):
            return Outcome("damaged", file=files.name, why=str(error))
        files.discard()  # we died while it was made: nobody was told of it
        return Outcome("empty")
    except FormatError as error:
        return Outcome("damaged", file=files.name, why=str(error))
    try:
        main = _valid(file, front, end)
    except FormatError as error:
        # Never cut what may be evidence of more than our own death.
        return Outcome("damaged", file=files.name, why=str(error))
    how = "complete" if main.kinds & {Type.FOOT, Type.NOTE} else "recovered"
    chunks = torn = 0
    if how == "recovered":
        if main.size < end:
            files.cut_main(main.size)
            torn = end - main.size
        chunks, more = _take_over(files, main, front, tails)
        torn += more
        note = Note(what="recovered", wall_us=wall_us, chunks=chunks, torn=torn)
        body = note.encode(front.header.session, main.chain.state, key.sign)
        files.append_main(main.chain.frame(Type.NOTE, body))
    files.sync_main()
    for slot, tail in enumerate(tails):
        if tail.exists():
            files.drop_tail(slot)
    return Outcome(how, file=files.name, chunks=chunks, torn=torn, state=main.chain.state)


def _valid(file: BinaryIO, front: Front, end: int) -> _Main:
    """FormatError if there is damage with sealed records behind it: that was not torn by our death."""
    chain, size, seq, kinds = Chain(front.raw), len(front.raw), 0, set()
    try:
        for record in walk(file, size, end, chain):
            size = record.offset + FRAME + len(record.body)
            kinds.add(record.kind)
            if record.kind in (Type.CHUNK, Type.SEGMENT):
                place = place_of(record.kind, record.body)
                seq = place.seq + place.chunks
    except (Cut, Damage) as error:
        if next_seal(file, size, end) is not None:
            raise FormatError(f"{error}, and sealed records follow") from None
    return _Main(chain, size, seq, kinds)


def _take_over(files: Files, main: _Main, front: Front, tails: list[Path]) -> tuple[int, int]:
    """Valid chunks of the tails, in order, that main lacks. How many, and the bytes of what was torn."""
    seq, taken, torn, found = main.seq, 0, 0, []
    for tail in tails:
        if tail.exists():
            with open_file(tail) as file:
                try:
                    found.append((read_tail_front(file)[0].segno, tail))
                except FormatError:
                    torn += size_of(file)
    for _, tail in sorted(found):
        with open_file(tail) as file:
            header, chain = read_tail_front(file)
            if header.session != front.header.session:
                continue
            good = TAIL_HEADER
            try:
                for record in walk(file, good, size_of(file), chain):
                    place = place_of(record.kind, record.body)
                    if record.kind != Type.CHUNK or place.seq > seq:
                        raise FormatError("it does not belong here")
                    good = record.offset + FRAME + len(record.body)
                    if place.seq == seq:
                        files.append_main(main.chain.frame(Type.CHUNK, record.body))
                        seq, taken = seq + 1, taken + 1
            except FormatError:
                torn += size_of(file) - good
    return taken, torn
