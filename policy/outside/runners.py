"""The process that runs operators' scripts for policyd, and the scripts it is at."""

from typing import Final

import msgspec
import trio

from policy.conversation import Conversation
from policy.messages import RunScript, Worked
from policy.messages.rotation import UNREACHABLE
from policy.outside.errands import Errands
from policy.outside.workers import GRACE_SECONDS, plain

SCRIPTS_AT_ONCE: Final = 8
"""What the runner takes: each is a process of somebody else's making."""

NO_RUNNER: Final = "the runner of scripts is not there: see `[runner.scripts]` of bastion.toml"


class Runners(Errands[Worked]):
    """Those connected now, and what each was asked."""

    def __init__(self) -> None:
        super().__init__()
        self._free = trio.CapacityLimiter(SCRIPTS_AT_ONCE)

    def worked(self, runner: Conversation, answer: Worked) -> bool:
        """Take an answer; false if this runner was not asked this, or no longer."""
        return self.answered(runner, answer.task, answer)

    async def run_script(self, order: RunScript) -> Worked:
        """Have it run; `order.task` is ours to set. No answer in time is UNKNOWN: it may have done it."""
        turn = object()
        await self._free.acquire_on_behalf_of(turn)  # rotation, the only caller, has as many under way as it wants
        try:
            if not self.peers:
                return Worked(task=0, outcome=UNREACHABLE, detail=NO_RUNNER)
            newest = self.peers[-1]  # an older one that still hangs on is on its way out
            answer: Worked | None = None
            detail = f"no answer of the runner within {order.seconds + GRACE_SECONDS:g} s"
            with trio.move_on_after(order.seconds + GRACE_SECONDS):
                answer = await self.run(newest, lambda number: msgspec.structs.replace(order, task=number))
                detail = "the runner left in the middle of it"
            return plain(answer, detail)
        finally:
            self._free.release_on_behalf_of(turn)
