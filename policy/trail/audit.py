"""The audit trail: who did what, when, why and from where, in a hash chain.

    hash(0) = 32 zero bytes        hash(n) = SHA-256(hash(n-1) | body(n))

`body` is canonical JSON: keys sorted, no spaces, ASCII only, strings and integers only, `seq` and `at`
(nanoseconds) inside. The newest `seq` and hash, the *head*, are also kept outside the database, authenticated with a
key from the vault: a chain cut at its end, or computed anew from some row on, still looks whole, but does not
reach the head.
"""

import contextlib
import hmac
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from policy.records import AuditRow
from policy.vault.register import EMPTY

GENESIS: Final = bytes(32)
MAX_TEXT: Final = 1024
"""Characters of one field; a longer command line is cut, the recording has the whole."""
MAX_DETAIL: Final = 32
"""Entries of `detail`; the widest event of ours, a view of many recordings, has 20."""
MAX_BODY: Final = 32 * 1024
"""Characters of a row: two fit one message of policyd. Only a gateway that lies gets near it."""
REF: Final = re.compile(r"[0-9a-f]{8}")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. Every text may come from outside; `canonical` escapes and limits it."""

    event: str
    who: str = ""  # a person, or the operator behind the admin socket
    what: str = ""  # what it was done to
    why: str = ""  # rule, or reason
    source: str = ""  # address, or `uid 0 pid 17`
    session: str = ""
    ref: str = ""  # also in the message to the person and in the log
    detail: dict[str, str] = {}
    register: str = ""  # of what is sealed, once this has happened; the ledger sets it, where that changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    seq: int
    hash: bytes
    register: bytes = EMPTY  # MAC of what is sealed after row `registered`, the last one that changed it
    registered: int = 0


START: Final = Head(seq=0, hash=GENESIS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`ok`, or the first row that is wrong and how."""

    ok: bool
    rows: int
    head: Head = START
    seq: int = 0
    problem: str = ""


_TEXTS: Final = ("event", "who", "what", "why", "source", "session", "ref")


def canonical(seq: int, at: int, event: Event) -> str:
    """The text that is stored and hashed."""
    for limit in (MAX_TEXT, 256, 64, 16):  # the last makes 14 kB of the worst
        body = _canonical(seq, at, event, limit)
        if len(body) <= MAX_BODY:
            break
    return body


def _canonical(seq: int, at: int, event: Event, limit: int) -> str:
    fields: dict[str, object] = {"seq": seq, "at": at}
    for name in _TEXTS:
        if text := getattr(event, name):
            fields[name] = clean(text, limit)
    if event.detail:
        detail = [*event.detail.items()][:MAX_DETAIL]
        fields["detail"] = {clean(key, min(limit, 64)): clean(value, limit) for key, value in detail}
    if event.register:
        fields["register"] = event.register
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """One printable line: control, format and unassigned characters become `\\u{…}`, the rest is cut at `limit`.

    A name or command in the trail is read on auditors' terminals; it must not move their cursor, nor turn the
    reading direction, nor start a line of its own.
    """
    cut = text[:limit]
    shown = cut if cut.isprintable() else "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in cut)
    return shown if len(text) <= limit else f"{shown}… ({len(text)} characters)"


def columns(row: AuditRow) -> list[str]:
    """A row for people: seq, at, event, who, what, why, source, session, ref, detail."""
    try:
        fields = msgspec.json.decode(row.body, type=Event)
    except msgspec.MsgspecError:
        return [str(row.seq), "", row.event, *[""] * 6, "this row is damaged: run `bastion audit verify`"]
    at = datetime.fromtimestamp(row.at // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    detail = "; ".join(f"{key}={value}" for key, value in fields.detail.items())
    return [str(row.seq), at, *(clean(getattr(fields, name)) for name in _TEXTS), clean(detail, 4 * MAX_TEXT)]


def fields(row: AuditRow) -> list[list[str]]:
    """One row for people, a field a line; details by their own names."""
    shown = [["seq", str(row.seq)], ["at", datetime.fromtimestamp(row.at / 1e9, UTC).isoformat()]]
    try:
        said = msgspec.json.decode(row.body, type=Event)
    except msgspec.MsgspecError:
        shown.append(["damaged", "run `bastion audit verify`"])
    else:
        shown += [[name, clean(text)] for name in _TEXTS if (text := getattr(said, name))]
        shown += [[clean(key, 64), clean(value)] for key, value in said.detail.items()]
        shown += [["register", clean(said.register, 64)]] if said.register else []
    return [*shown, ["hash", row.hash.hex()]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events are meant. Empty or None fits all; times in nanoseconds, `until` excluded."""

    since: int = 0
    until: int | None = None
    event: str = ""
    who: str = ""
    what: str = ""
    about: str = ""  # a person: what they did, what was done to them, where they are named

    def fits(self, row: AuditRow) -> bool:
        """A row that is damaged fits every name: nobody may hide something by damaging it."""
        if row.at < self.since or (self.until is not None and row.at >= self.until):
            return False
        if self.event and row.event != self.event:
            return False
        if not (self.who or self.what or self.about):
            return True
        try:
            said = msgspec.json.decode(row.body, type=Event)
        except msgspec.MsgspecError:
            return True
        return self._is_by(said) and self._is_about(said) and self._concerns(said)

    def _is_by(self, said: Event) -> bool:
        """`sue` fits the person and the OS user `uid sue`; `uid 0` fits an operator."""
        return not self.who or f" {self.who} " in f" {said.who} "

    def _concerns(self, said: Event) -> bool:
        """Named anywhere as a word of its own: as who acts, whom it is done to, heir, or approver."""
        texts = (said.who, said.what, *said.detail.values())
        return not self.about or any(self.about in text.split() for text in texts)

    def _is_about(self, said: Event) -> bool:
        account, _, target = said.what.rpartition("@")
        named = (said.what, account, target, said.session, said.ref, said.detail.get("person", ""))
        return not self.what or self.what in named or self.what in said.what.split()


def chain(head: Head, entries: Iterable[tuple[int, Event]]) -> list[AuditRow]:
    """Rows that continue `head`, for (when, event) pairs."""
    rows = []
    for at, event in entries:
        body = canonical(head.seq + 1, at, event)
        head = Head(seq=head.seq + 1, hash=_link(head.hash, body))
        rows.append(AuditRow(seq=head.seq, at=at, event=clean(event.event, 64), body=body, hash=head.hash))
    return rows


def verify(rows: Iterable[AuditRow], kept: Head | None) -> Finding:
    """Walk the whole chain; `kept` is the head from outside the database, None if that is lost."""
    head, met_kept = START, kept is not None and kept.seq == 0
    for row in rows:
        problem = _problem(head, row)
        if problem:
            return Finding(ok=False, rows=head.seq, head=head, seq=head.seq + 1, problem=problem)
        head = Head(seq=row.seq, hash=row.hash)
        if kept is not None and kept.seq == row.seq:
            if not hmac.compare_digest(kept.hash, row.hash):
                problem = "altered: the chain was computed anew, its hash is not the one that was kept"
                return Finding(ok=False, rows=head.seq, head=head, seq=row.seq, problem=problem)
            met_kept = True
    if kept is None:
        return Finding(ok=False, rows=head.seq, head=head, seq=head.seq, problem="the kept head is missing or forged")
    if not met_kept:
        problem = f"cut: rows up to {kept.seq} were written, {head.seq} are left"
        return Finding(ok=False, rows=head.seq, head=head, seq=head.seq + 1, problem=problem)
    return Finding(ok=True, rows=head.seq, head=head)


def recover(kept: Head | None, rows: Iterable[AuditRow]) -> Head | None:
    """The head to go on from, given the rows from `kept.seq` on; None if the trail was cut, altered, or `kept` is lost.

    A crash between the commit of a batch and the write of its head leaves rows past the kept head; they are taken
    when they continue it, and what they say of the register with them.
    """
    if kept is None:
        return None
    head, anchored = kept, kept.seq == 0
    for row in rows:
        if row.seq == kept.seq:
            anchored = hmac.compare_digest(row.hash, kept.hash)
        elif _problem(head, row):
            return None
        else:
            head = _with_register(head, row)
    return head if anchored else None


def follow(head: Head, rows: Sequence[AuditRow]) -> Head:
    """The head after rows of our own that continue it."""
    for row in rows:
        head = _with_register(head, row)
    return head


def _with_register(head: Head, row: AuditRow) -> Head:
    """The head after a row that fits its hash, with what it says of the register, if that changed there."""
    if '"register":' in row.body and (register := json.loads(row.body).get("register")):
        return Head(seq=row.seq, hash=row.hash, register=_hexadecimal(register), registered=row.seq)
    return Head(seq=row.seq, hash=row.hash, register=head.register, registered=head.registered)


def _hexadecimal(text: object) -> bytes:
    """Empty, which is no register's, for what is none."""
    try:
        return bytes.fromhex(str(text))
    except ValueError:
        return b""


def _problem(head: Head, row: AuditRow) -> str:
    if row.seq != head.seq + 1:
        return f"deleted: row {head.seq + 1} is missing, {row.seq} follows"
    if not hmac.compare_digest(row.hash, _link(head.hash, row.body)):
        return "altered: the row does not fit its hash"
    try:
        fields = json.loads(row.body)
        if (fields["seq"], fields["at"], fields["event"]) == (row.seq, row.at, row.event):
            return ""
    except (ValueError, KeyError, TypeError):
        pass
    return "altered: the columns do not say what the hashed text says"


def _link(previous: bytes, body: str) -> bytes:
    return sha256(previous + body.encode()).digest()


_SLOT: Final = struct.Struct(">Q32sQ32s32s")
"""seq, hash, registered, register, MAC of them."""
_SLOT_AT: Final = 512
"""Slots are a disk sector apart: a torn write of one leaves the other."""


class HeadFile:
    """The head outside the database: two slots written in turn, each with a MAC, each write on disk on return."""

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._key = key

    def load(self) -> Head | None:
        """The newest genuine slot; None if there is none."""
        try:
            data = self._path.read_bytes()[: 2 * _SLOT_AT]
        except FileNotFoundError:
            return None
        return max(self._slots(data), key=lambda head: head.seq, default=None)

    def make(self) -> None:
        """A new file that says the chain is empty. FileExistsError if there is one."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.close(handle)
        self.save(START)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def save(self, head: Head) -> None:
        """Never overwrites the slot that `load` would choose."""
        self._write(head, self._stale_slot())

    def force(self, head: Head) -> None:
        """In both slots: an operator accepts a trail that is shorter than what was kept."""
        self._write(head, 0)
        self._write(head, 1)

    def _write(self, head: Head, turn: int) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.pwrite(
                handle,
                _SLOT.pack(head.seq, head.hash, head.registered, head.register, self._mac(head)),
                turn * _SLOT_AT,
            )
            os.fdatasync(handle)
        finally:
            os.close(handle)

    def _stale_slot(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            data = self._path.read_bytes()[: 2 * _SLOT_AT]
            first = next(iter(self._slots(data[:_SLOT_AT])), None)
            second = next(iter(self._slots(data[_SLOT_AT:])), None)
            if first is not None and (second is None or first.seq >= second.seq):
                return 1
        return 0

    def _slots(self, data: bytes) -> Iterator[Head]:
        for at in range(0, len(data) - _SLOT.size + 1, _SLOT_AT):
            seq, digest, registered, register, mac = _SLOT.unpack_from(data, at)
            head = Head(seq=seq, hash=digest, register=register, registered=registered)
            if hmac.compare_digest(mac, self._mac(head)):
                yield head

    def _mac(self, head: Head) -> bytes:
        return hmac.digest(
            self._key, struct.pack(">Q32sQ32s", head.seq, head.hash, head.registered, head.register), "sha256"
        )
