"""The node log: which recordings this node began and completed, so that a missing one shows (FORMAT.md, section 9).

    header   magic 8 | node key 32                        record as in a recording: type | length | check | body
    body     msgpack [wall us, session 16, file, state 32, how] | signature 64

`state` is S: of the header when a recording opens, of the whole file when it closes. Each record hangs on all before
it, so the last signature stands for the whole log. Cutting its end off shows only against a copy kept elsewhere.
"""

from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, Final

import msgpack
import msgspec

from recorder.chain import SIGNATURE, Chain, session_id, unpack
from recorder.codec import FormatError
from recorder.keys import holds
from recorder.model import SessionId
from recorder.walk import Record, open_file, size_of, walk

LOG: Final = "node.log"
MAGIC: Final = b"\x89BNODE\r\n"
HEADER: Final = 40
MAX_ENTRY: Final = 1024
_LABEL: Final = b"brec1 log"


class What(IntEnum):
    OPENED = 1
    CLOSED = 2
    REMOVED = 3  # on purpose: by retention, say


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log."""

    what: What
    wall_us: int
    session: SessionId
    file: str  # relative to the folder of recordings
    state: bytes
    how: str = ""  # reason of the end

    def encode(self, chain: bytes, sign: Callable[[bytes], bytes]) -> bytes:
        said: bytes = msgpack.packb([self.wall_us, bytes.fromhex(self.session), self.file, self.state, self.how])
        return said + sign(_signed(chain, self.what, said))


def decode_entry(record: Record) -> Entry:
    """FormatError."""
    if not SIGNATURE < len(record.body) <= MAX_ENTRY or record.kind not in list(What):
        raise FormatError(f"what stands at byte {record.offset} is no entry")
    found = unpack(record.body[:-SIGNATURE])
    kinds = (int, bytes, str, bytes, str)
    if not isinstance(found, list) or len(found) != 5 or not all(map(isinstance, found, kinds)):
        raise FormatError(f"what stands at byte {record.offset} is no entry")
    wall_us, session, file, state, how = found
    return Entry(
        what=What(record.kind), wall_us=wall_us, session=session_id(session.hex()), file=file, state=state, how=how
    )


def new_header(node_key: bytes) -> bytes:
    return MAGIC + node_key


def read(file: BinaryIO, node_key: bytes | None) -> tuple[Chain, Iterator[Record]]:
    """The chain, which moves on as the records are read. FormatError if this is no log, or another node's."""
    header = file.read(HEADER)
    if len(header) < HEADER or header[:8] != MAGIC:
        raise FormatError("this is no node log")
    if node_key is not None and header[8:] != node_key:
        raise FormatError("it is another node's log")
    chain = Chain(header)
    return chain, walk(file, HEADER, size_of(file), chain)


def entries(path: Path, node_key: bytes | None) -> Iterator[Entry]:
    """What the log says, and FormatError at the end if that cannot be believed. OSError."""
    with open_file(path) as file:
        _, records = read(file, node_key)
        file.seek(8)
        signer = file.read(32)
        last = None
        for last in records:
            yield decode_entry(last)
        if last and not holds(signer, last.body[-SIGNATURE:], _signed(last.before, last.kind, last.body[:-SIGNATURE])):
            raise FormatError("the signature of the last entry does not hold")


def _signed(chain: bytes, what: int, said: bytes) -> bytes:
    return _LABEL + chain + bytes([what]) + said
