"""Commands about the audit trail: list, show, export, verify. Whoever reads it is in it."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from policy.authority import Authority
from policy.conversation import Conversation
from policy.messages import AuditExport, AuditList, AuditShow, AuditVerify, BackupBegin, Done, Rows
from policy.naming import CommandRefused, counted, instant
from policy.paging import counted_out
from policy.records import AuditRow
from policy.store import Tables, in_batches
from policy.trail import audit
from policy.trail.audit import Wanted

MAX_ROWS: Final = 1000
"""More do not fit one message; `--since` pages, `bastion audit export` has all."""
PAGE: Final = 500
"""Rows read from the database at once while looking for those that fit."""
_MOST: Final = 1 << 62  # SQLite counts to 2^63
MAX_RECIPIENTS: Final = 20  # of a backup, as policy.backup.sealing
EXPORT_BYTES: Final = 30 * 1024
"""Bytes of rows in one answer: with one more row, which is at most audit.MAX_BODY long, it is less than a message."""


async def audit_list(desk: Authority, talk: Conversation, request: AuditList) -> Rows:
    wanted = _wanted(request)
    limit = min(max(request.limit, 1), MAX_ROWS)
    if not 0 <= request.before < _MOST:
        raise CommandRefused(f"no row `{request.before}`")
    before = request.before or None
    await desk.ledger.note(talk.event("view", "audit", _said(request) | {"before": str(request.before or "")}))
    found = await desk.ledger.walk(lambda t: list(islice(_newest(t, wanted, before), limit + 1)))
    columns = ["seq", "at", "event", "who", "what", "why", "source", "session", "ref", "detail"]
    page = counted_out(columns, ((str(row.seq), audit.columns(row)) for row in found), limit)
    page.rows.reverse()
    page.note = ""  # there is nearly always more: `next` says so to who wants it
    return page


async def audit_show(desk: Authority, talk: Conversation, request: AuditShow) -> Rows:
    """One event with every field apart, and its place in the chain."""
    ident = request.ident.strip()
    await desk.ledger.note(talk.event("view", f"audit event {ident}"))
    row = await desk.ledger.walk(lambda t: _find(t, ident))
    if row is None:
        raise CommandRefused(f"no event `{audit.clean(ident, 64)}` in the audit trail", "see `bastion audit list`")
    return Rows(columns=["field", "value"], rows=audit.fields(row))


async def audit_export(desk: Authority, talk: Conversation, request: AuditExport) -> Rows:
    """Rows as they are hashed, so that a copy can be checked without us."""
    wanted = _wanted(request)
    if not 0 <= request.after < _MOST:
        raise CommandRefused(f"no row `{request.after}`")
    # Once for an export, not for each of its pages; but who begins in the middle begins all the same.
    if request.after == 0 or request.after != talk.exported:
        await desk.ledger.note(talk.event("export", "audit", _said(request) | {"after": str(request.after or "")}))

    def read(t: Tables) -> list[list[str]]:
        found: list[list[str]] = []
        size = 0
        for row in in_batches(t, start=request.after + 1, size=PAGE):
            if not wanted.fits(row):
                continue
            body = row.body if len(row.body) <= audit.MAX_BODY else ""  # of an older version; the hash stands for it
            found.append([str(row.seq), body, row.hash.hex()])
            size += len(body) + 100
            if size > EXPORT_BYTES:
                break
        return found

    rows = await desk.ledger.walk(read)
    talk.exported = int(rows[-1][0]) if rows else 0
    return Rows(columns=["seq", "body", "hash"], rows=rows)


async def audit_verify(desk: Authority, talk: Conversation, _: AuditVerify) -> Done:
    """Every row against the chain, and the chain against the head that is kept outside the database."""
    await desk.ledger.note(talk.event("view", "audit verification"))
    kept = desk.ledger.kept_head()

    def walk(t: Tables) -> audit.Finding:
        return audit.verify(in_batches(t), kept)

    finding = await desk.ledger.walk(walk)
    if not finding.ok:
        await desk.ledger.note(talk.event("audit-broken", f"row {finding.seq}", why=finding.problem))
        raise CommandRefused(
            f"the audit trail is broken at row {finding.seq}: {finding.problem}",
            "keep the database as it is, and compare it with a backup",
            code=78,
        )
    head = finding.head.hash.hex()
    return Done(
        text=f"the audit trail is whole: {counted(finding.rows, 'row')}, head {head}",
        data={"rows": str(finding.rows), "head": head},
    )


async def backup_begin(desk: Authority, talk: Conversation, request: BackupBegin) -> Done:
    """On disk before the backup reads the trail, so each backup holds the event of itself."""
    if not 0 < len(request.recipients) <= MAX_RECIPIENTS:
        raise CommandRefused(f"{len(request.recipients)} recipients, want 1 to {MAX_RECIPIENTS}", code=64)
    detail = {f"recipient-{at:02}": word for at, word in enumerate(request.recipients, 1)}
    await desk.ledger.note(talk.event("backup", request.to, detail, why=request.reason), durable=True)
    return Done(text="noted")


def _wanted(request: AuditList | AuditExport) -> Wanted:
    """CommandRefused for a time that is none."""
    return Wanted(
        since=instant(request.since) if request.since else 0,
        until=instant(request.until) if request.until else None,
        event=request.event,
        who=request.who,
        what=request.what,
        about=request.about,
    )


def _said(request: AuditList | AuditExport) -> dict[str, str]:
    return {name: getattr(request, name) for name in ("since", "until", "event", "who", "what", "about")}


def _newest(tables: Tables, wanted: Wanted, before: int | None) -> Iterator[AuditRow]:
    """Rows that fit, newest first, those before a number or all."""
    while rows := tables.audit_before(before, since=wanted.since, event=wanted.event, limit=PAGE):
        yield from filter(wanted.fits, rows)
        before = rows[-1].seq


def _find(tables: Tables, ident: str) -> AuditRow | None:
    """A row by its number, else by its ref: eight hexadecimal digits, which may all be decimal."""
    if ident.isascii() and ident.isdigit() and len(ident) < len(str(_MOST)):
        rows = tables.audit_from(int(ident), 1)
        if rows and rows[0].seq == int(ident):
            return rows[0]
    return tables.audit_ref(ident) if audit.REF.fullmatch(ident) else None
