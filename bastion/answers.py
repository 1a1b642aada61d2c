"""Answers to requests that have no number: their order is all that tells them apart (RFC 4254 section 5.4). Pure."""

from collections import deque
from typing import Final

MAX_UNANSWERED: Final = 1024
"""Requests of one channel without an answer. Clients wait for each, or send the dozen that begin a session at once."""


class Malformed(Exception):
    """The peer's request is no request."""


class Answers:
    """To the requests of one side, in the order of the requests: those that are known and those that are to come."""

    def __init__(self) -> None:
        self._answers: deque[bool | None] = deque()

    def expect(self) -> None:
        """The other side gives this one."""
        self._put(None)

    def give(self, ok: bool) -> list[bool]:
        """This one is known; those that may be said now."""
        self._put(ok)
        return self._ready()

    def _put(self, answer: bool | None) -> None:
        # Attack: a request whose answer never comes, and a flood of others behind it.
        if len(self._answers) >= MAX_UNANSWERED:
            raise Malformed("too many requests without an answer")
        self._answers.append(answer)

    def answered(self, ok: bool) -> list[bool]:
        """The other side has answered the oldest that waits for it. Malformed if none does."""
        for at, answer in enumerate(self._answers):
            if answer is None:
                self._answers[at] = ok
                return self._ready()
        raise Malformed("answer to a request that was not made")

    @property
    def is_empty(self) -> bool:
        """Whether everything that was asked has been answered."""
        return not self._answers

    def give_up(self) -> list[bool]:
        """Whatever is open is answered with yes."""
        ready = [answer is not False for answer in self._answers]
        self._answers.clear()
        return ready

    def _ready(self) -> list[bool]:
        ready: list[bool] = []
        while self._answers and self._answers[0] is not None:
            ready.append(bool(self._answers.popleft()))
        return ready
