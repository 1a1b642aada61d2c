"""The loop that trio is a guest of: steps at once, tasks beside them, whatever ends either."""

import os
import signal
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio

from recorder.quick import QuickLoop

Body = Callable[[QuickLoop, socket.socket, socket.socket], Awaitable[None]]


def run(body: Body) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        near.setblocking(False)

        async def main(loop: QuickLoop) -> None:
            with trio.fail_after(30):
                await body(loop, near, far)

        QuickLoop().run(main)


def test_steps_run_until_one_has_something_to_say() -> None:
    async def body(loop: QuickLoop, near: socket.socket, far: socket.socket) -> None:
        seen: list[bytes] = []

        def step() -> str | None:
            seen.append(near.recv(10))
            near.send(b"seen")
            return "enough" if seen[-1] == b"last" else None

        def speak() -> None:
            for word in (b"one", b"two", b"last", b"late"):
                far.send(word)
                if word != b"late":
                    assert far.recv(10) == b"seen"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, speak)
            assert await loop.serve(near, step) == "enough"
        assert seen == [b"one", b"two", b"last"]
        assert near.recv(10) == b"late"  # nobody has taken it: that is the back-pressure
        far.send(b"last")
        assert await loop.serve(near, step) == "enough"  # and again

    run(body)


def test_what_a_step_raises_belongs_to_who_waits() -> None:
    async def body(loop: QuickLoop, near: socket.socket, far: socket.socket) -> None:
        def step() -> bool:
            raise ValueError(near.recv(10).decode())

        far.send(b"wrong")
        with pytest.raises(ValueError, match="wrong"):
            await loop.serve(near, step)

    run(body)


def test_a_peer_that_has_gone_is_a_step() -> None:
    async def body(loop: QuickLoop, near: socket.socket, far: socket.socket) -> None:
        far.close()
        assert await loop.serve(near, lambda: near.recv(10) == b"")

    run(body)


def test_cancelled_it_calls_no_step_any_more() -> None:
    async def body(loop: QuickLoop, near: socket.socket, far: socket.socket) -> None:
        with trio.move_on_after(0.01) as waited:
            await loop.serve(near, lambda: True)
        assert waited.cancelled_caught
        far.send(b"late")
        await trio.sleep(0.01)
        assert near.recv(10) == b"late"

    run(body)


def test_a_step_may_wake_and_cancel_tasks() -> None:
    async def body(loop: QuickLoop, near: socket.socket, far: socket.socket) -> None:
        woken, scope = trio.Event(), trio.CancelScope()

        def step() -> None:
            near.recv(10)
            woken.set()
            scope.cancel()

        async def wait() -> None:
            await woken.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            far.send(b"now")
            with scope:
                await loop.serve(near, step)
            assert scope.cancelled_caught

    run(body)


def test_tasks_have_their_turn_beside_a_peer_that_never_stops() -> None:
    async def body(loop: QuickLoop, near: socket.socket, far: socket.socket) -> None:
        far.send(b"again")
        with trio.move_on_after(0.1) as waited:
            await loop.serve(near, lambda: None)  # takes nothing: it may be read each time anew
        assert waited.cancelled_caught

    run(body)


def test_what_main_raises_comes_out_and_a_signal_gets_in() -> None:
    async def fails(loop: QuickLoop) -> None:
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        QuickLoop().run(fails)

    async def waits(loop: QuickLoop) -> None:
        with trio.fail_after(30), trio.open_signal_receiver(signal.SIGUSR1) as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            async for _ in signals:
                return

    QuickLoop().run(waits)
