"""Couriers that make calls to the outside for policyd, and the calls they are at: policyd itself has no network."""

from typing import Final

import msgspec
import trio

from policy.conversation import Conversation
from policy.messages import Called, HttpCall, LdapCall, LdapPassword, MailCall, RadiusCall
from policy.outside.errands import Errands

Call = HttpCall | MailCall | RadiusCall | LdapCall | LdapPassword

CALLS_AT_ONCE: Final = 16
"""What a courier takes."""
WAITING: Final = 64
"""Calls that wait for one of those; each holds a login or a request of somebody who waits as well."""
GRACE_SECONDS: Final = 1.0
"""Beyond a call's own time, for its way there and back."""

NO_COURIER: Final = "cannot be called: the courier is not running"
NO_ANSWER: Final = "gave no answer in time"
TOO_BUSY: Final = "cannot be called: too many calls are under way"


class Couriers(Errands[Called]):
    """Those connected now, and what each was asked. Whatever goes wrong is a `Called` with an `error`.

    The error reads after the name of what was called: "`jira` gave no answer in time".
    """

    def __init__(self) -> None:
        super().__init__()
        self._free = trio.CapacityLimiter(CALLS_AT_ONCE)
        self._came = trio.Event()

    async def arrived(self) -> None:
        """Until the first courier is there."""
        await self._came.wait()

    def join(self, peer: Conversation) -> None:
        super().join(peer)
        self._came.set()

    def called(self, courier: Conversation, answer: Called) -> bool:
        """Take an answer; false if this courier was not asked this, or no longer."""
        return self.answered(courier, answer.task, answer)

    async def http(self, call: HttpCall) -> Called:
        return await self._call(call)

    async def mail(self, call: MailCall) -> Called:
        return await self._call(call)

    async def radius(self, call: RadiusCall) -> Called:
        return await self._call(call)

    async def ldap(self, call: LdapCall) -> Called:
        return await self._call(call)

    async def ldap_password(self, call: LdapPassword) -> Called:
        return await self._call(call)

    async def _call(self, call: Call) -> Called:
        """Have it made; `call.task` is ours to set."""
        if self._free.statistics().tasks_waiting >= WAITING:
            return Called(task=0, error=TOO_BUSY)
        error = NO_ANSWER
        with trio.move_on_after(call.seconds + GRACE_SECONDS):
            turn = object()
            await self._free.acquire_on_behalf_of(turn)
            try:
                answer = await self._made(call)
                if answer is not None:
                    return answer
                error = NO_COURIER
            finally:
                self._free.release_on_behalf_of(turn)
        return Called(task=0, error=error)

    async def _made(self, call: Call) -> Called | None:
        """None when there is no courier, or it left in the middle."""
        if not self.peers:
            return None
        newest = self.peers[-1]  # an older one that still hangs on is on its way out
        return await self.run(newest, lambda number: msgspec.structs.replace(call, task=number))
