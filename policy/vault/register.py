"""The register of everything sealed: a row that was put back, taken away or exchanged in the database is noticed. Pure.

What is revoked stands in it as well: nobody keeps that secret, but whoever takes it away makes it count again.

Each sealed row is one entry, `table|record|version|state|SHA-256(sealed)`. The register is a keyed multiset hash of all
entries (MSet-XOR-Hash: Clarke, Devadas, van Dijk, Gassend, Suh, ASIACRYPT 2003): the XOR of their HMACs, and their
number. What leaves memory is only its MAC, since XORs seen in the clear could be combined into another set. That MAC
stands in the event of each change and in the head file outside the database, so old rows do not fit it, however
consistent they are among themselves; at work, policyd compares what it reads with what it remembers.
"""

import hmac
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

EMPTY: Final = bytes(32)
"""What a head says before the first sealed row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row. `record` is unique in its table."""

    table: str
    record: str
    version: int
    state: str
    digest: bytes  # SHA-256 of what is sealed, or of the row

    @property
    def place(self) -> tuple[str, str, int]:
        return self.table, self.record, self.version

    def __str__(self) -> str:
        return f"`{f'{self.table} {self.record}'.strip()}`"

    def encoded(self) -> bytes:
        """Length-prefixed, so that no two entries are one text."""
        parts = (
            self.table.encode(),
            self.record.encode(),
            str(self.version).encode(),
            self.state.encode(),
            self.digest,
        )
        return b"".join(len(part).to_bytes(4) + part for part in parts)


def entry(table: str, record: str, version: int, state: str, sealed: bytes) -> Entry:
    return Entry(table=table, record=record, version=version, state=state, digest=sha256(sealed).digest())


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one row: None before, it is new; None after, it is gone."""

    before: Entry | None
    after: Entry | None

    @property
    def undone(self) -> "Change":
        return Change(self.after, self.before)


class Broken(Exception):
    """A change that does not fit what is registered: the database was altered behind policyd."""


class Register:
    """What policyd remembers of every sealed row."""

    def __init__(self, key: bytes, entries: Iterable[Entry]) -> None:
        self._key = key
        self._entries: dict[tuple[str, str, int], Entry] = {}
        self._sum = 0
        for one in entries:
            if one.place in self._entries:
                raise Broken(f"{one} stands twice")
            self._entries[one.place] = one
            self._sum ^= self._hash(one)

    def __len__(self) -> int:
        return len(self._entries)

    def mac(self, seq: int) -> bytes:
        """32 bytes that stand for exactly this set, as of row `seq` of the trail, and tell nobody without the key more.

        The row is part of it, so that an older one cannot be said again in a row that is added to the trail.
        """
        text = b"register|" + seq.to_bytes(8) + len(self._entries).to_bytes(8) + self._sum.to_bytes(32)
        return hmac.digest(self._key, text, "sha256")

    def knows(self, one: Entry) -> bool:
        """Whether this row is as it was written last."""
        return self._entries.get(one.place) == one

    def holds(self, table: str, record: str) -> bool:
        """Whether a row of this record, or of one that begins with it and a blank, was written and not taken away."""
        return any(at == table and f"{name} ".startswith(f"{record} ") for at, name, _ in self._entries)

    def differences(self, tables: Collection[str], entries: Iterable[Entry]) -> list[str]:
        """How these differ from all rows of these tables as they were written last; nothing if they are those."""
        wanted = {one.place: one for one in self._entries.values() if one.table in tables}
        found = []
        for one in entries:
            known = wanted.pop(one.place, None)
            if known != one:
                found.append(f"{one} was {'added' if known is None else 'changed'}")
        return [*found, *(f"{one} was taken away" for one in wanted.values())]

    def apply(self, changes: Sequence[Change]) -> None:
        """Make these changes, all of them or, with Broken, none: one of them starts from what is not registered."""
        made: list[Change] = []
        try:
            for change in changes:
                self._change(change)
                made.append(change)
        except Broken:
            for change in reversed(made):
                self._change(change.undone)
            raise

    def check(self, changes: Sequence[Change]) -> None:
        """Broken if `apply` would raise it."""
        self.apply(changes)
        self.apply([change.undone for change in reversed(changes)])

    def _change(self, change: Change) -> None:
        if change.before is not None:
            if self._entries.get(change.before.place) != change.before:
                raise Broken(f"{change.before} is not what was written last")
            del self._entries[change.before.place]
            self._sum ^= self._hash(change.before)
        if change.after is not None:
            if change.after.place in self._entries:
                raise Broken(f"{change.after} was taken away, or stands twice")
            self._entries[change.after.place] = change.after
            self._sum ^= self._hash(change.after)

    def _hash(self, one: Entry) -> int:
        return int.from_bytes(hmac.digest(self._key, b"entry|" + one.encoded(), "sha256"))
