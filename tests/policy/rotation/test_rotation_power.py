"""Power is lost, or policyd killed, after every single call of a rotation that changes a file.

What is left is opened in this process: whatever opens the account by then has to be in it, and whoever starts from
there has to look (test_rotation_plan.py has what is found then, for every journal and every answer).
"""

from pathlib import Path

import pytest
import trio

from policy import messages as m
from policy.records import RotationRow
from policy.rotation.plan import DOUBTFUL, State
from policy.store.vault_tables import CURRENT, PENDING
from policy.trail.ledger import Ledger
from policy.vault.masters import parse
from policy.vault.secrets import Secrets
from tests.policy.dying import opened, traced, tracing
from tests.policy.rotating import Targets, Worker, versions
from tests.support.net import wait_until

pytestmark = [pytest.mark.fault, tracing]

OLD = b"password of root"


class Outside(Worker):
    """Says when the target is about to hear of it, and waits for that to be noted."""

    def __init__(self, policyd, targets: Targets) -> None:
        self.mark = lambda: None
        super().__init__(policyd, targets)

    def _at(self, order: m.ChangeSecret | m.VerifyLogin, moment: str) -> None:
        if isinstance(order, m.ChangeSecret) and moment == "comes":
            self.mark()


async def left(config: Path) -> tuple[list[RotationRow], dict[str, bytes]]:
    """Rotations that are not ended, and what may open root@web1 by the state of its version."""
    state = await opened(config, parse("file:master.key", config.parent / "state", {}))
    try:
        ledger = Ledger(state.store, state.head_file, state.head, state.register)
        secrets = Secrets(ledger, state.vault)
        with state.store.read() as tables:
            record = tables.vault.named("root@web1")
            assert record is not None
            rows, found = tables.rotations.open(), tables.vault.versions(record.id)
        return rows, {one.state: (await secrets.opened(record, one)).value.reveal() for one in found}
    finally:
        state.store.close()


def test_what_opens_is_on_the_disk_at_every_step(policyd, tmp_path) -> None:
    targets = Targets(opens={"root@web1": {OLD}})
    worker = Outside(policyd, targets)

    def rotate(found) -> None:
        worker.mark = found.mark
        policyd.done(m.Rotate(places=["root@web1"], reason="x"))
        wait_until(
            "the new one in force", lambda: versions(policyd)[PENDING] == 0 and targets.opens["root@web1"] != {OLD}
        )

    try:
        found = traced(policyd, rotate)
    finally:
        worker.close()
        policyd.kill()
    (new,) = targets.opens["root@web1"]
    assert len(found.marks) == 1
    seen = set()
    for _, told, config in found.deaths(tmp_path / "dead"):
        rows, kept = trio.run(left, config)
        ended = kept[CURRENT] == new
        seen.add((told, "ended" if ended else rows[0].state if rows else ""))
        if not told:
            assert kept[CURRENT] == OLD
            continue
        # The target may have either by now.
        assert new in kept.values(), "it was told what nobody has any more"
        assert OLD in kept.values()
        if not ended:
            assert kept == {CURRENT: OLD, PENDING: new}
            assert [row.state in DOUBTFUL for row in rows] == [True], "the next start looks at it"
    assert {state for told, state in seen if not told} == {"", State.WANTED, State.CHANGING}
    assert {state for told, state in seen if told} >= {State.CHANGING, "ended"}
