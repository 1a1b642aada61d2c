"""What policyd has peers do that offered to, since it has no network itself, and the tasks they are at."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import trio

from policy.conversation import Conversation
from policy.messages import Reply

Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Task(Generic[Answer]):
    peer: Conversation
    done: trio.Event = field(default_factory=trio.Event)
    answer: Answer | None = None


class Errands(Generic[Answer]):
    """Those connected now, oldest first, and what each was asked."""

    def __init__(self) -> None:
        self.peers: list[Conversation] = []
        self._tasks: dict[int, _Task[Answer]] = {}
        self._numbers = itertools.count(1)

    def join(self, peer: Conversation) -> None:
        self.peers.append(peer)

    def leave(self, peer: Conversation) -> None:
        """Its tasks end without an answer."""
        if peer in self.peers:
            self.peers.remove(peer)
        for task in self._tasks.values():
            if task.peer is peer:
                task.done.set()

    def answered(self, peer: Conversation, number: int, answer: Answer) -> bool:
        """Take an answer; false if this peer was not asked this, or no longer."""
        task = self._tasks.get(number)
        if task is None or task.peer is not peer or task.answer is not None:
            return False
        task.answer = answer
        task.done.set()
        return True

    async def run(self, peer: Conversation, order: Callable[[int], Reply]) -> Answer | None:
        """Push `order(number)` and wait for its answer; None if the peer leaves without one."""
        number = next(self._numbers)
        task = self._tasks[number] = _Task[Answer](peer)
        try:
            await peer.push(order(number))
            await task.done.wait()
        finally:
            del self._tasks[number]
        return task.answer
