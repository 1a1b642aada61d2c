"""How an order ends: with one answer, nowhere without a session, and with nothing of it left in memory."""

import asyncio

import pytest

from policy.messages import (
    ChangeSecret,
    Credential,
    EndSession,
    Refused,
    SessionStarted,
    VerifyLogin,
    Worked,
)
from tests.bastion.aio import asynchronous, until
from tests.bastion.hands import worker
from tests.support.accounts_target import ANN, PASSWORD, missing

NEW = "Second-Password-4711"
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it can run")


@asynchronous
async def test_what_was_told_is_gone_from_memory(target, tmp_path) -> None:
    old, new = (b"".join([text[:1].encode(), text[1:].encode()]) for text in (PASSWORD, NEW))
    async with worker(tmp_path, target, password=PASSWORD) as one:
        order = ChangeSecret(task=1, grant=one.grant(ANN), how="passwd", account=ANN, old=old, new=new)
        assert (await one.do(order)).outcome == "done"
    assert (old, new) == (bytes(len(PASSWORD)), bytes(len(NEW)))


@asynchronous
async def test_a_session_that_has_ended_logs_in_nowhere(target, tmp_path) -> None:
    async with worker(tmp_path, target, password=PASSWORD) as one:
        one.answers[SessionStarted] = lambda request: Refused(code=77, cause="this session has ended")
        answer = await one.change("passwd", ANN, old=PASSWORD, new=NEW)
        assert (answer.outcome, answer.detail) == ("unreachable", "this session has ended")
        assert one.asked_for(Credential) == []


@asynchronous
async def test_an_end_right_behind_the_answer(target, tmp_path) -> None:
    """The answer was said; what comes then changes nothing about it, and how the session ended stands as well."""
    async with worker(tmp_path, target, password=PASSWORD) as one:
        grant = one.grant(ANN)
        one.recorder.hold = False
        one.hands.take(one, VerifyLogin(task=1, grant=grant))
        await until("the answer", lambda: [said for said in one.told if isinstance(said, Worked)])
        if one.hands.jobs:
            one.hands.pushed(EndSession(session=grant.session, by="sam", reason="too late"))
        await until("its end", lambda: not one.hands.jobs)
        await until("the end of the recording", lambda: one.tape.end is not None)
        assert one.tape.end is not None
        assert one.tape.end.reason == "closed"
        assert [said.outcome for said in one.told if isinstance(said, Worked)] == ["done"]


@asynchronous
async def test_two_ends_are_one(target, tmp_path) -> None:
    target.fault("hangs")
    async with worker(tmp_path, target) as one:
        grant = one.grant(ANN)
        order = ChangeSecret(task=1, grant=grant, how="passwd", account=ANN, old=PASSWORD.encode(), new=NEW.encode())
        waiting = asyncio.ensure_future(one.do(order))
        await until("it was told", lambda: one.recorder.tapes and len(one.typed()) == 6)
        for who in ("sam", "sue"):
            one.hands.pushed(EndSession(session=grant.session, by=who, reason=f"{who} says so"))
        assert "sam says so" in (await waiting).detail
        assert one.tape.end is not None
        assert one.tape.end.by == "sam"
