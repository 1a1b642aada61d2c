"""Couriers that make calls to the outside for policyd, and the calls they are at: policyd itself has no network."""

import itertools
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from policy.conversation import Conversation
from policy.messages import Called, HttpCall, LdapCall, MailCall, RadiusCall

Call = HttpCall | MailCall | RadiusCall | LdapCall

CALLS_AT_ONCE: Final = 16
"""What a courier takes."""
WAITING: Final = 64
"""Calls that wait for one of those; each holds a login or a request of somebody who waits as well."""
GRACE_SECONDS: Final = 1.0
"""Beyond a call's own time, for its way there and back."""

NO_COURIER: Final = "cannot be called: the courier is not running"
NO_ANSWER: Final = "gave no answer in time"
TOO_BUSY: Final = "cannot be called: too many calls are under way"


@dataclass(slots=True, kw_only=True)
class _Task:
    courier: Conversation
    done: trio.Event = field(default_factory=trio.Event)
    answer: Called | None = None


class Couriers:
    """Those connected now, and what each was asked. Whatever goes wrong is a `Called` with an `error`.

    The error reads after the name of what was called: "`jira` gave no answer in time".
    """

    def __init__(self) -> None:
        self._connected: list[Conversation] = []
        self._tasks: dict[int, _Task] = {}
        self._numbers = itertools.count(1)
        self._free = trio.CapacityLimiter(CALLS_AT_ONCE)
        self._came = trio.Event()

    async def arrived(self) -> None:
        """Until the first courier is there."""
        await self._came.wait()

    def join(self, courier: Conversation) -> None:
        """The newest is asked: an older one that still hangs on is on its way out."""
        self._connected.append(courier)
        self._came.set()

    def leave(self, courier: Conversation) -> None:
        """Its calls end without an answer."""
        if courier in self._connected:
            self._connected.remove(courier)
        for task in self._tasks.values():
            if task.courier is courier:
                task.done.set()

    def called(self, courier: Conversation, answer: Called) -> bool:
        """Take an answer; false if this courier was not asked this, or no longer."""
        task = self._tasks.get(answer.task)
        if task is None or task.courier is not courier or task.answer is not None:
            return False
        task.answer = answer
        task.done.set()
        return True

    async def http(self, call: HttpCall) -> Called:
        return await self._call(call)

    async def mail(self, call: MailCall) -> Called:
        return await self._call(call)

    async def radius(self, call: RadiusCall) -> Called:
        return await self._call(call)

    async def ldap(self, call: LdapCall) -> Called:
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
        if not self._connected:
            return None
        number, courier = next(self._numbers), self._connected[-1]
        task = self._tasks[number] = _Task(courier=courier)
        try:
            await courier.push(msgspec.structs.replace(call, task=number))
            await task.done.wait()
        finally:
            del self._tasks[number]
        return task.answer
