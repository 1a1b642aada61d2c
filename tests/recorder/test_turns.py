"""Live recordings are served where trio would sleep, and whatever else trio has to do is not late for that."""

import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
import trio

from recorder.turns import Turns

LATE = 8.0  # seconds until the only deadline: what comes before it was not waited for
SOON = 2.5  # less than the longest wait of the turns; what is waited for comes after 0.1


class Desk:
    """Turns with a listener that a task of trio accepts from, as in the daemon."""

    def __init__(self, listener: socket.socket, nursery: trio.Nursery, limiter: trio.CapacityLimiter) -> None:
        self.listener, self.nursery, self.limiter = listener, nursery, limiter
        self.turns = Turns(listener, [limiter])
        self.accepted = 0
        self.came = trio.Event()

    async def accept(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self.listener)
            self.listener.accept()[0].close()
            self.accepted += 1
            self.came.set()

    async def echo(self, sock: socket.socket) -> None:
        """Answer what comes until `end`."""

        def turn() -> bool:
            data = sock.recv(100)
            sock.send(data)
            return data != b"end"

        await self.turns.watch(sock, turn)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(b"\0bastion-turns-%d" % threading.get_native_id())
        sock.listen(8)
        sock.setblocking(False)
        yield sock


def run(listener: socket.socket, story: Callable[[Desk], Awaitable[None]]) -> None:
    """`story` beside the turns; trio's next deadline is LATE seconds away."""

    async def main() -> None:
        with trio.fail_after(LATE * 2):
            async with trio.open_nursery() as nursery:
                desk = Desk(listener, nursery, trio.CapacityLimiter(1))
                nursery.start_soon(desk.turns.run)
                nursery.start_soon(desk.accept)
                nursery.start_soon(trio.sleep, LATE)
                await story(desk)
                nursery.cancel_scope.cancel()

    trio.run(main)


class Person(threading.Thread):
    """Types from another thread: the one of trio is in the kernel meanwhile. `words` are sent when answered."""

    def __init__(self, *words: bytes) -> None:
        super().__init__(daemon=True)
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.settimeout(LATE * 2)
        self.words, self.heard = words, list[bytes]()

    def run(self) -> None:
        for word in self.words:
            self.near.send(word)
            self.heard.append(self.near.recv(100))


def test_what_comes_is_served_until_serve_has_enough(listener: socket.socket) -> None:
    person = Person(*[b"k"] * 50, b"end")

    async def story(desk: Desk) -> None:
        began = time.monotonic()
        person.start()
        await desk.echo(person.far)
        assert time.monotonic() - began < SOON

    run(listener, story)
    person.join()
    assert person.heard == [*[b"k"] * 50, b"end"]


def test_what_serve_raises_is_raised_to_who_watches(listener: socket.socket) -> None:
    near, far = socket.socketpair()

    async def story(desk: Desk) -> None:
        def turn() -> bool:
            raise ValueError("broken")

        near.send(b"k")
        with pytest.raises(ValueError, match="broken"):
            await desk.turns.watch(far, turn)

    run(listener, story)


def test_a_watch_that_is_cancelled_is_over(listener: socket.socket) -> None:
    near, far = socket.socketpair()

    async def story(desk: Desk) -> None:
        with trio.move_on_after(0.01):
            await desk.echo(far)
        near.send(b"end")
        await desk.echo(far)  # could not be registered twice
        assert near.recv(100) == b"end"

    run(listener, story)


def test_somebody_who_connects_is_not_kept_waiting(listener: socket.socket) -> None:
    person = Person(b"k")

    async def story(desk: Desk) -> None:
        desk.nursery.start_soon(desk.echo, person.far)
        person.start()
        caller = threading.Timer(0.1, _connect, [listener.getsockname()])  # we are asleep in the turns by then
        caller.start()
        began = time.monotonic()
        await desk.came.wait()
        assert time.monotonic() - began < SOON

    run(listener, story)


def test_a_thread_that_is_done_is_not_kept_waiting(listener: socket.socket) -> None:
    person = Person(*[b"k"] * 20)

    async def story(desk: Desk) -> None:
        desk.nursery.start_soon(desk.echo, person.far)
        person.start()
        for limiter in (None, desk.limiter):
            began = time.monotonic()
            await trio.to_thread.run_sync(partial(time.sleep, 0.1), limiter=limiter)
            assert time.monotonic() - began < SOON

    run(listener, story)


def test_another_socket_that_a_task_waits_for_is_not_kept_waiting(listener: socket.socket) -> None:
    person = Person(*[b"k"] * 20)
    near, far = socket.socketpair()

    async def story(desk: Desk) -> None:
        desk.nursery.start_soon(desk.echo, person.far)
        person.start()
        threading.Timer(0.1, near.send, [b"first message"]).start()
        began = time.monotonic()
        await trio.lowlevel.wait_readable(far)
        assert time.monotonic() - began < SOON

    run(listener, story)


def test_room_that_a_task_waits_for_is_not_kept_waiting(listener: socket.socket) -> None:
    person = Person(*[b"k"] * 20)
    near, far = socket.socketpair()
    far.setblocking(False)

    async def story(desk: Desk) -> None:
        desk.nursery.start_soon(desk.echo, person.far)
        with contextlib.suppress(BlockingIOError):
            while True:
                far.send(bytes(65536))
        person.start()
        threading.Timer(0.1, _read_all, [near]).start()
        began = time.monotonic()
        await trio.lowlevel.wait_writable(far)
        assert time.monotonic() - began < SOON

    run(listener, story)


def test_a_deadline_is_kept(listener: socket.socket) -> None:
    person = Person(*[b"k"] * 20)

    async def story(desk: Desk) -> None:
        desk.nursery.start_soon(desk.echo, person.far)
        person.start()
        began = time.monotonic()
        await trio.sleep(0.1)
        assert time.monotonic() - began < SOON

    run(listener, story)


def test_a_caller_whom_nobody_accepts_does_not_wake_us_without_end(listener: socket.socket) -> None:
    """Attack: connections up to the last descriptor; then accepting pauses, and the listener stays readable."""

    async def main() -> None:
        turns = Turns(listener, [])
        _connect(listener.getsockname())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            await trio.sleep(0.3)
            nursery.cancel_scope.cancel()

    steps = Steps()
    trio.run(main, instruments=[steps])
    assert steps.count < 50


class Steps(trio.abc.Instrument):
    """Counts the turns of all tasks."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


def _connect(address: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(address)


def _read_all(sock: socket.socket) -> None:
    sock.settimeout(0.01)
    while True:
        try:
            sock.recv(1 << 20)
        except TimeoutError:
            return
