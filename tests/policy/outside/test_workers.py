"""Orders to gateway workers as policyd gives them: who gets one, and what an answer, or none, is worth."""

import pytest
import trio
import trio.lowlevel

from policy import messages as m
from policy.conversation import Conversation, State
from policy.messages.rotation import UNKNOWN, UNREACHABLE
from policy.outside.workers import GRACE_SECONDS, WORK_AT_ONCE, Workers
from policy.peers import Peer

GRANT = m.Grant(
    session="0" * 32, person="bastion", account="ann", target="web1", address="192.0.2.1", port=22, host_keys=[],
    kinds=["exec"], rule="monthly", expires_in=None, idle=None, record_sync=False, keep_content=False,
    commitment_key=b"k", source="policyd",
)  # fmt: skip
CHANGE = m.ChangeSecret(task=0, grant=GRANT, how="passwd", account="ann", old=b"old-secret", new=b"new-secret")
VERIFY = m.VerifyLogin(task=0, grant=GRANT)


class Near:
    """A worker that has joined, and what policyd says to it."""

    def __init__(self, workers: Workers) -> None:
        near, self.far = trio.socket.socketpair(trio.socket.AF_UNIX, trio.socket.SOCK_SEQPACKET)
        peer = Peer(pid=1, uid=0, gid=0, groups=frozenset())
        self.talk = Conversation(ident=1, connection=near, peer=peer, state=State.WORKER)
        workers.join(self.talk)

    async def heard(self) -> m.Reply:
        ident, order = m.decode_reply(await self.far.recv(65536))
        assert ident == 0
        return order


@pytest.mark.trio
async def test_an_order_and_its_answer() -> None:
    workers = Workers()
    worker, other = Near(workers), Near(workers)
    answers: list[m.Worked] = []

    async def ask() -> None:
        answers.append(await workers.change(worker.talk, CHANGE))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        order = await worker.heard()
        assert isinstance(order, m.ChangeSecret)
        assert (order.how, order.old, order.new, order.grant.session) == (
            "passwd",
            b"old-secret",
            b"new-secret",
            "0" * 32,
        )
        assert "secret" not in repr(order).replace("ChangeSecret", "")
        done = m.Worked(task=order.task, outcome="done", detail="it\x1b[2J was\nset" + "x" * 999)
        # Attack: a worker that was broken into answers for another one.
        assert not workers.worked(other.talk, done)
        assert not workers.worked(worker.talk, m.Worked(task=order.task + 1, outcome="done"))
        assert workers.worked(worker.talk, done)
        assert not workers.worked(worker.talk, m.Worked(task=order.task, outcome="refused")), "once"
    assert answers[0].outcome == "done"
    assert answers[0].detail.startswith("it[2J wasset")
    assert len(answers[0].detail) <= 300


@pytest.mark.trio
@pytest.mark.parametrize("answer", [m.Worked(task=1, outcome="excellent"), m.Scanned(task=1, keys=[])])
async def test_an_answer_that_means_nothing(answer: m.Worked | m.Scanned) -> None:
    workers = Workers()
    worker = Near(workers)

    async def reply() -> None:
        await worker.heard()
        assert workers.answered(worker.talk, 1, answer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply)
        assert (await workers.verify(worker.talk, VERIFY)).outcome == UNKNOWN


@pytest.mark.trio
async def test_work_is_no_answer_to_a_scan() -> None:
    workers = Workers()
    worker = Near(workers)

    async def reply() -> None:
        await worker.heard()
        assert workers.worked(worker.talk, m.Worked(task=1, outcome="done"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply)
        with pytest.raises(Exception, match="answered something else"):
            await workers.scan("192.0.2.1", 22)


@pytest.mark.trio
async def test_no_answer_in_time(autojump_clock: object) -> None:
    workers = Workers()
    worker = Near(workers)
    began = trio.current_time()
    answer = await workers.change(worker.talk, CHANGE)
    assert trio.current_time() - began == pytest.approx(CHANGE.seconds + GRACE_SECONDS)
    assert answer.outcome == UNKNOWN, "the target may have been told"
    assert not workers.worked(worker.talk, m.Worked(task=1, outcome="done")), "too late"


@pytest.mark.trio
async def test_a_worker_that_leaves(autojump_clock: object) -> None:
    workers = Workers()
    worker = Near(workers)

    async def leave() -> None:
        await trio.sleep(1)
        workers.leave(worker.talk)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        answer = await workers.change(worker.talk, CHANGE)
    assert (answer.outcome, answer.detail) == (UNKNOWN, "the gateway worker left in the middle of it")
    assert (await workers.change(worker.talk, CHANGE)).outcome == UNREACHABLE, "and before that nothing was told"


@pytest.mark.trio
async def test_the_one_with_the_least_to_do(autojump_clock: object) -> None:
    workers = Workers()
    assert workers.pick() is None
    one, two = Near(workers), Near(workers)
    async with trio.open_nursery() as nursery:
        for _ in range(2 * WORK_AT_ONCE):
            worker = workers.pick()
            assert worker is not None
            nursery.start_soon(workers.verify, worker, VERIFY)
            await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
        assert workers.pick() is None, "all are busy"
        workers.leave(one.talk)
        await trio.testing.wait_all_tasks_blocked()
        assert workers.pick() is None, "who has left is asked nothing"
        nursery.cancel_scope.cancel()
    assert workers.pick() is two.talk
