"""The audit trail as people read it: filtered, one event whole, and a copy that can be checked without us."""

import json
import os
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from policy import messages as m
from policy.records import AuditRow
from policy.store import Tables, create
from policy.trail import audit
from policy.trail.audit import START, Event, HeadFile, Wanted, canonical, chain
from policy.trail.ledger import Ledger
from policy.vault.register import Register
from tests.policy.policyd import SOURCE, Policyd

Trail = tuple[Policyd, m.Grant, str]


@pytest.fixture(scope="module")
def trail(policyd: Policyd) -> Iterator[Trail]:
    """A session of alice on web1, a refusal of bob, and the ref that bob was told."""
    peer, grant = policyd.session("alice")
    with policyd.login("bob") as bob:
        refused = bob.ask(m.Authorize(account="root", target="hidden"))
    yield policyd, grant, refused.ref
    peer.close()


def listed(policyd: Policyd, **wanted: Any) -> list[dict[str, str]]:
    rows = policyd.done(m.AuditList(limit=1000, **wanted))
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]


def exported(policyd: Policyd, **wanted: Any) -> list[tuple[int, str, str]]:
    found: list[tuple[int, str, str]] = []
    with policyd.operator() as operator:
        while rows := operator.ask(m.AuditExport(after=found[-1][0] if found else 0, **wanted)).rows:
            found += [(int(seq), body, digest) for seq, body, digest in rows]
    return found


# --- filters -------------------------------------------------------------------------------------------


def test_by_whom(trail: Trail) -> None:
    policyd, _, _ = trail
    for who in ("alice", "bob"):
        assert {row["who"] for row in listed(policyd, who=who)} == {who}
    assert listed(policyd, who="ali") == []
    operators = listed(policyd, who=f"uid {os.geteuid()}")
    assert operators
    assert all(f" {row['who']} ".count(f" uid {os.geteuid()} ") for row in operators)


def test_about_what(trail: Trail) -> None:
    policyd, grant, ref = trail
    for what in ("root@web1", "web1", grant.session, "root"):
        assert any(row["session"] == grant.session for row in listed(policyd, what=what, who="alice")), what
    assert {row["ref"] for row in listed(policyd, what=ref)} == {ref}
    assert [row["event"] for row in listed(policyd, what="web1", event="person-add")] == []
    assert [row["what"] for row in listed(policyd, what="alice", event="person-add")] == ["alice"]


def test_when(trail: Trail) -> None:
    policyd, _, _ = trail
    whole = listed(policyd)
    middle = whole[len(whole) // 2]["at"]
    before = [row["seq"] for row in listed(policyd, until=middle)]
    after = [row["seq"] for row in listed(policyd, since=middle)]
    assert not set(before) & set(after)
    assert {row["seq"] for row in whole} <= {*before, *after}
    assert listed(policyd, since="2001-01-01", until="2002-01-01") == []
    refused = policyd.command(m.AuditList(until="noon"))
    assert isinstance(refused, m.Refused)
    assert "want RFC 3339" in refused.cause


def test_the_newest_that_fit_are_found_behind_many_that_do_not(trail: Trail) -> None:
    """A page that holds nothing is not the end."""
    policyd, grant, _ = trail
    with policyd.operator() as operator:
        for _ in range(600):
            operator.ask(m.Explain(person="alice", account="root", target="web1"))
            operator.ask(m.PersonShow(name="alice"))
    rows = policyd.done(m.AuditList(what=grant.session, limit=1)).rows
    assert [row[7] for row in rows] == [grant.session]


def test_who_reads_the_trail_is_in_it(trail: Trail) -> None:
    policyd, _, _ = trail
    listed(policyd, who="nobody-at-all")
    assert any(row["detail"] == "who=nobody-at-all" for row in listed(policyd, what="audit", event="view"))


ROW = chain(START, [(7, Event(event="view", who="uid sue", what="root@web1", session="a" * 32, ref="1f2e3d4c",
                              detail={"person": "alice"}))])[0]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Wanted(), True), (Wanted(since=7), True), (Wanted(since=8), False), (Wanted(until=7), False),
        (Wanted(until=8), True), (Wanted(event="view"), True), (Wanted(event="vie"), False),
        (Wanted(who="sue"), True), (Wanted(who="uid sue"), True), (Wanted(who="su"), False), (Wanted(who="uid"), True),
        (Wanted(what="root@web1"), True), (Wanted(what="root"), True), (Wanted(what="web1"), True),
        (Wanted(what="web"), False), (Wanted(what="alice"), True), (Wanted(what="a" * 32), True),
        (Wanted(what="1f2e3d4c"), True), (Wanted(what="sue"), False), (Wanted(who="sue", what="web1"), True),
        (Wanted(who="bob", what="web1"), False),
    ],
)  # fmt: skip
def test_what_fits(wanted: Wanted, fits: bool) -> None:
    assert wanted.fits(ROW) is fits


def test_a_damaged_row_fits_every_name() -> None:
    """The attack: an event is hidden from those who look for a name by damaging it."""
    row = AuditRow(seq=1, at=7, event="view", body="{", hash=bytes(32))
    assert Wanted(who="bob", what="web1").fits(row)
    assert not Wanted(who="bob", since=8).fits(row)
    assert ["damaged", "run `bastion audit verify`"] in audit.fields(row)


# --- one event ---------------------------------------------------------------------------------------------


def test_one_event_by_its_number_and_by_its_ref(trail: Trail) -> None:
    policyd, _, ref = trail
    by_ref = dict(policyd.done(m.AuditShow(ident=ref)).rows)
    assert (by_ref["who"], by_ref["what"], by_ref["ref"]) == ("bob", "root@hidden", ref)
    assert by_ref["source"] == SOURCE
    assert dict(policyd.done(m.AuditShow(ident=by_ref["seq"])).rows) == by_ref


@pytest.mark.parametrize("ident", ["", "0", "999999999", "9" * 19, "9" * 1000, "deadbeef", "\x1b[2J", "1 or 1=1", "²"])
def test_an_event_that_is_not_there(trail: Trail, ident: str) -> None:
    refused = trail[0].command(m.AuditShow(ident=ident))
    assert isinstance(refused, m.Refused)
    assert refused.cause.startswith("no event `")
    assert refused.cause.isprintable()


# --- a copy ------------------------------------------------------------------------------------------------


def test_an_export_is_checked_with_sha256_alone(trail: Trail) -> None:
    policyd, _, _ = trail
    for _ in range(100):  # each is an event: a trail of some length, whoever ran before
        assert exported(policyd, until="2001-01-01") == []
    rows = exported(policyd)
    assert len(rows) > 100
    state = bytes(32)
    for number, (seq, body, digest) in enumerate(rows, 1):
        state = sha256(state + body.encode()).digest()
        assert (seq, digest) == (number, state.hex())
    assert rows[-1][1].count('"event":"export"') == 1, "the export itself, once"


def test_an_export_can_be_filtered(trail: Trail) -> None:
    policyd, grant, _ = trail
    rows = exported(policyd, what=grant.session)
    assert {json.loads(body)["session"] for _, body, _ in rows} == {grant.session}
    assert exported(policyd, until="2001-01-01") == []


@pytest.mark.parametrize("after", [-1, 1 << 62, (1 << 63) - 1])
def test_a_place_that_is_none(trail: Trail, after: int) -> None:
    assert isinstance(trail[0].command(m.AuditExport(after=after)), m.Refused)


def test_events_as_long_as_a_lying_gateway_makes_them_fit_a_message(trail: Trail) -> None:
    policyd, _, _ = trail
    with policyd.session("alice")[0] as peer:
        live = policyd.done(m.SessionsList()).rows[0][0]
        for _ in range(3):
            detail = {f"{number:02}" + "\U0001f600" * 60: "\U0001f600" * 300 for number in range(40)}
            peer.ask(m.Report(session=live, event="protocol-error", detail=detail))
    rows = exported(policyd, event="protocol-error")
    assert len(rows) >= 3
    assert all(body and len(body) <= audit.MAX_BODY for _, body, _ in rows)


@given(st.dictionaries(st.text(max_size=80), st.text(max_size=2000), max_size=40), st.text(max_size=3000))
def test_no_event_is_longer_than_a_row(detail: dict[str, str], text: str) -> None:
    event = Event(event=text, who=text, what=text, why=text, source=text, session=text, ref=text, detail=detail)
    assert len(canonical(1, 1, event)) <= audit.MAX_BODY


def test_the_longest_event_of_all() -> None:
    text = "\U0001f600" * 5000
    event = Event(event=text, who=text, what=text, why=text, source=text, session=text, ref=text,
                  detail={f"{number}{text}": text for number in range(100)})  # fmt: skip
    body = canonical(1, 1, event)
    assert len(body) <= audit.MAX_BODY
    assert "5000 characters" in body


@pytest.mark.parametrize("request_", [m.AuditList(), m.AuditShow(ident="1"), m.AuditExport(), m.AuditVerify()])
def test_who_may_read_it(policyd: Policyd, request_: m.Command) -> None:
    with policyd.login("alice") as peer:
        assert isinstance(peer.ask(request_), m.Refused)
    for name in ("ada", "sue"):
        with policyd.login(name) as peer:
            assert not isinstance(peer.ask(request_), m.Refused)


@pytest.mark.trio
async def test_who_reads_the_whole_trail_holds_up_nobody(tmp_path: Path) -> None:
    """The attack: some wide searches at once, and nobody's credential is read any more."""
    file = HeadFile(tmp_path / "audit.head", b"k" * 32)
    file.make()
    store = create("sqlite:///x.db", tmp_path)
    ledger = Ledger(store, file, START, Register(b"k" * 32, ()))
    release, going_on = threading.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def endless(_: Tables) -> None:
        token.run_sync_soon(going_on.set)
        assert release.wait(60)

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ledger.walk, endless)
            await going_on.wait()
            with trio.fail_after(20):
                assert await ledger.read(lambda t: t.vault.secret("none")) is None
            release.set()
    finally:
        release.set()
        store.close()
