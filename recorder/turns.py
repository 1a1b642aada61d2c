"""Who speaks next: the sockets of live recordings, looked at without the event loop while it has nothing else to do.

A key passes recorderd twice, and the person waits for both. With trio alone a task is woken, runs, and its socket is
armed anew: 85 to 105 us from message to reply and 105 to 130 us of CPU, cold as it all is after the pause of a typist,
where epoll by itself takes 40 to 50 us and 30 to 40 us. Of a key through the whole of the bastion that is 45 us, and 50
of the 480 us of CPU that recorderd spends on it.

So one task waits for all of them with an epoll of its own, armed once, and waits *in its place*, where trio would,
as long as trio has no more to do than to sleep. INVARIANT: nothing but the time of the next deadline, the listener and
these sockets can give trio work while we wait so; where that is not known to be so, trio waits. A signal is the
exception: it is heard with the next deadline, that of the group commit.
"""

import select
import socket
from collections.abc import Callable
from typing import Final

import trio

WAITERS: Final = 2
"""Tasks of trio that wait for descriptors when nothing is under way: its own alarm, and the listener's. Any other is a
connection whose first message, last word or room to reply is waited for."""

LONGEST: Final = 5.0
"""Seconds of one wait, whatever the next deadline is."""


class Turns:
    """`run` in a task; `watch` from the task of each recording."""

    def __init__(self, listener: socket.socket, limiters: list[trio.CapacityLimiter]) -> None:
        """`listener`: when somebody connects, trio has work. `limiters`: of threads that come back to trio."""
        self._epoll = select.epoll()
        # Edge-triggered, or it would wake us without end while out of descriptors nobody can be accepted.
        self._epoll.register(listener.fileno(), select.EPOLLIN | select.EPOLLET)
        self._limiters = limiters
        self._served: dict[int, Callable[[], None]] = {}

    async def run(self) -> None:
        """Serve whoever is watched, until cancelled."""
        with self._epoll:
            self._limiters.append(trio.to_thread.current_default_thread_limiter())
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._round(0)
                while seconds := self._quiet():
                    if not self._round(seconds):
                        break  # a deadline, or the listener
                await trio.lowlevel.checkpoint()

    async def watch(self, sock: socket.socket, serve: Callable[[], bool]) -> None:
        """Call `serve` when `sock` is readable, again and again, until it says False or raises: then so does this."""
        done = trio.Event()
        failed: list[BaseException] = []
        handle = sock.fileno()

        def turn() -> None:
            try:
                if serve():
                    return
            except BaseException as error:  # for the task that waits
                failed.append(error)
            self._leave(handle)
            done.set()

        self._served[handle] = turn
        self._epoll.register(handle, select.EPOLLIN)
        try:
            await done.wait()
        finally:
            self._leave(handle)
        if failed:
            raise failed[0]

    def _leave(self, handle: int) -> None:
        if self._served.pop(handle, None) and not self._epoll.closed:
            self._epoll.unregister(handle)

    def _round(self, seconds: float) -> bool:
        """Serve each socket that can be read now or in so many seconds; whether there was one."""
        any_served = False
        for handle, _ in self._epoll.poll(seconds):
            if turn := self._served.get(handle):
                any_served = True
                turn()
        return any_served

    def _quiet(self) -> float:
        """Seconds for which trio would only sleep; 0 if it has more to do, or may be about to have."""
        now = trio.lowlevel.current_statistics()
        busy = (
            now.tasks_runnable
            or now.run_sync_soon_queue_size
            or now.io_statistics.tasks_waiting_read > WAITERS
            or now.io_statistics.tasks_waiting_write
            or any(limiter.borrowed_tokens for limiter in self._limiters)
        )
        return 0.0 if busy else max(0.0, min(now.seconds_to_next_deadline, LONGEST))
