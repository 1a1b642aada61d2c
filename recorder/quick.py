"""The event loop under trio: what recordings say is read at once, everything else is trio's.

trio takes 70 us to wake a task for a message, on top of the 60 us that writing one down takes; each key of a person
waits for two of them, its own and its echo's. So trio is a guest here (`trio.lowlevel.start_guest_run`): this loop
owns the thread, waits for the sockets of recordings itself and calls their step without a task in between. All of it
is one thread: a step never runs beside a task.
"""

import os
import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from outcome import Outcome

T = TypeVar("T")

_AT_ONCE: Final = 64
"""Sockets looked after before trio has its turn."""


class QuickLoop:
    """The loop of this process. `run` once."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._steps: dict[int, Callable[[], None]] = {}
        self._ticks: deque[Callable[[], object]] = deque()  # of trio: one at a time
        self._ended: Outcome[None] | None = None

    def run(self, main: Callable[..., Awaitable[None]], *args: object) -> None:
        """`main(loop, *args)` in trio, to its end; what it raises is raised here."""
        trio.lowlevel.start_guest_run(
            main,
            self,
            *args,
            run_sync_soon_threadsafe=self._soon,
            done_callback=self._done,
        )
        while self._ended is None:
            for fileno, _ in self._epoll.poll(maxevents=_AT_ONCE):
                if fileno == self._wake:
                    os.eventfd_read(self._wake)
                elif step := self._steps.get(fileno):  # else a step of this round has ended it
                    step()
            while self._ticks and self._ended is None:
                self._ticks.popleft()()
        self._epoll.close()
        os.close(self._wake)
        self._ended.unwrap()

    async def serve(self, sock: socket.socket, step: Callable[[], T | None]) -> T:
        """Call `step` whenever `sock` may be read, until it returns something or raises: that is what comes of it."""
        over = trio.Event()
        found: T | None = None
        fault: BaseException | None = None
        fileno = sock.fileno()

        def ready() -> None:
            nonlocal found, fault
            try:
                found = step()
            except BaseException as error:  # whatever it is, it belongs to who waits below
                fault = error
            if fault is not None or found is not None:
                self._leave(fileno)
                over.set()

        self._steps[fileno] = ready
        self._epoll.register(fileno, select.EPOLLIN)
        try:
            await over.wait()
        finally:
            self._leave(fileno)
        if fault is not None:
            raise fault
        assert found is not None
        return found

    def _leave(self, fileno: int) -> None:
        if self._steps.pop(fileno, None):
            self._epoll.unregister(fileno)

    def _soon(self, tick: Callable[[], object]) -> None:
        """From any thread."""
        self._ticks.append(tick)
        os.eventfd_write(self._wake, 1)

    def _done(self, ended: "Outcome[None]") -> None:
        self._ended = ended
