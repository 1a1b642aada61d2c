"""What came of a rotation is on the disk before anybody hears of it, and not with the sync that comes by itself."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from policy.authority import Authority
from policy.records import RotationRow
from policy.rotation import journal, plan
from policy.rotation.drivers import Job
from policy.rotation.plan import Outcome, State
from policy.rotation.settings import Entry
from policy.trail import ledger
from tests.policy.inside import within
from tests.policy.policyd import Policyd

pytestmark = pytest.mark.trio


@pytest.fixture
async def desk(filled: Policyd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Authority]:
    """Its disk is synced when somebody waits for that, and otherwise within the hour."""
    monkeypatch.setattr(ledger, "SYNC_SECONDS", 3600.0)
    async with within(filled, tmp_path) as made, trio.open_nursery() as writing:
        writing.start_soon(made.authority.ledger.run)
        yield made.authority
        writing.cancel_scope.cancel()


async def wanted(desk: Authority) -> tuple[RotationRow, Job]:
    account, target = desk.roster.account("web1", "root"), desk.roster.target("web1")
    assert account is not None
    assert target is not None
    row = journal.wanted("root", "web1", "asked for", "test")
    await desk.ledger.write(lambda t: t.rotations.add(row))
    return row, Job(account=account, target=target, entry=Entry(name="by hand"))


async def newest(desk: Authority) -> tuple[str, bool]:
    """The last event, and whether the loss of power would leave it: the head, written after a sync, has come to it."""
    row, head = await desk.ledger.read(lambda t: t.audit_tail()), desk.ledger.kept_head()
    assert row is not None
    assert head is not None
    return row.event, head.seq == row.seq


@pytest.mark.parametrize(
    ("logins", "event"),
    [
        ([Outcome.DONE], journal.DONE),
        ([Outcome.REFUSED, Outcome.DONE], journal.ROLLED_BACK),
        ([Outcome.UNKNOWN, Outcome.UNKNOWN], journal.IN_DOUBT),
    ],
)
async def test_what_logins_have_shown(desk: Authority, logins: list[Outcome], event: str) -> None:
    """Attack: power is lost. Applications have read the new password, and are given the old one afterwards."""
    row, job = await wanted(desk)
    noted = await journal.begin(desk, row, job)
    assert await newest(desk) == ("rotation-begin", True)
    noted = await journal.keep(desk, job, noted, *plan.step(noted.rotation, plan.Changed(Outcome.DONE)))
    for outcome in logins:
        assert noted.rotation.state is State.VERIFYING
        noted = await journal.keep(desk, job, noted, *plan.step(noted.rotation, plan.Tried(outcome)))
    assert await newest(desk) == (event, True)


async def test_what_cannot_be_done_at_all(desk: Authority) -> None:
    """Attack: power is lost. What an operator was told is over begins again by itself."""
    row, _ = await wanted(desk)
    await journal.close(desk, row, "the account is gone")
    assert await newest(desk) == (journal.ROLLED_BACK, True)
