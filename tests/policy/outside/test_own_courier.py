"""The courier of one command: which answer is taken for which call's."""

import pytest
import trio

from policy import messages as m
from policy.outside.own_courier import _OwnCourier


@pytest.mark.trio
async def test_an_answer_that_came_too_late_is_not_the_next_ones() -> None:
    """Attack, or a slow server: what was said to the call before, which nobody waited for, is the key of this one."""
    ours, theirs = trio.socket.socketpair(trio.socket.AF_UNIX, trio.socket.SOCK_SEQPACKET)
    with ours, theirs:
        courier = _OwnCourier(ours)
        late = m.Called(task=7, status=200, values=["said to another call"])
        await theirs.send(m.encode(1, late))
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:

                async def answer() -> None:
                    _, call = m.decode_reply(await theirs.recv(65536))
                    await theirs.send(m.encode(2, m.Called(task=call.task, status=200, values=["said to this one"])))

                nursery.start_soon(answer)
                called = await courier.http(m.HttpCall(task=0, method="POST", url="https://vault.example.org/"))
        assert called.values == ["said to this one"]
