"""Ends that nobody heard to be kept. The ledger is one that answers too late, which no disk does on demand."""

import math
from types import SimpleNamespace

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from policy.sessions.live import Live, Sessions


class Slow:
    """Commits, and does not say so the first time. As ledger and as tables."""

    def __init__(self) -> None:
        self.asked, self.ended, self.kept = 0, [], []

    async def write(self, change, *events):
        self.asked += 1
        found = change(self)
        self.kept += events
        if self.asked == 1:
            await trio.sleep_forever()
        return found

    def end_session(self, ident: str, now: int, **_) -> bool:
        self.ended.append(now)
        return len(self.ended) == 1


def live(talk) -> Live:
    return Live(
        id="s1", talk=talk, person="alice", account="root", target="web1", address="192.0.2.1", port=22, source="",
        via="", rule="", kinds=frozenset(), reason="", ticket="", factors=(), deadline=math.inf,
    )  # fmt: skip


def test_an_end_whose_answer_came_too_late_is_kept_once() -> None:
    async def main() -> None:
        ledger, talk = Slow(), SimpleNamespace(sessions=set())
        sessions = Sessions(ledger)
        sessions.add(live(talk))
        with trio.move_on_after(5):
            await sessions.end_conversation(talk)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sessions.make_up)
            await trio.sleep(60)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert (ledger.asked, len(ledger.kept)) == (2, 1)
        assert len(set(ledger.ended)) == 1, "it ended when it ended"

    trio.run(main, clock=MockClock(autojump_threshold=0))
