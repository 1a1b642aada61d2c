"""What a denial says is missing, asked of a person at a terminal, by a policy of the test's own."""

import asyncio
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from bastion.errors import Denied
from bastion.ssh.needs import settle
from policy.messages import (
    AnswerCode,
    AskCode,
    Authorize,
    Challenge,
    Done,
    OpenChannel,
    Refused,
    RequestAccess,
    RequestAwait,
    RequestList,
    Rows,
    Verdict,
)
from policy.model import Outcome
from tests.bastion.aio import asynchronous, until
from tests.bastion.site import Site
from tests.bastion.targets import Target
from tests.support.net import at_most


def missing(need: str, hint: str = "do something else") -> Refused:
    return Refused(code=75 if need == "approval" else 77, cause=f"it needs {need}", hint=hint, need=need)


async def shell(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    process.stdout.write(b"$ ")
    line = b""
    while not line.endswith(b"\n"):
        try:
            data = await process.stdin.read(100)
        except asyncssh.TerminalSizeChanged:
            continue
        if not data:
            break
        line += data
    process.stdout.write(b"ran " + line)
    process.exit(4)


class AtTerminal:
    """alice, at a shell or a command of web1."""

    def __init__(self, process: "asyncssh.SSHClientProcess[bytes]") -> None:
        self._process = process
        self.shown = b""

    async def until(self, text: bytes) -> bytes:
        """What came before it."""
        try:
            async with asyncio.timeout(at_most(30)):
                while text not in self.shown:
                    data = await self._process.stdout.read(1000)
                    assert data, self.shown
                    self.shown += data
        except TimeoutError:
            raise AssertionError(f"no {text!r} in {self.shown!r}") from None
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, text: bytes) -> None:
        self._process.stdin.write(text)

    async def ends(self) -> tuple[int | None, bytes]:
        try:
            async with asyncio.timeout(at_most(30)):
                done = await self._process.wait()
        except TimeoutError:
            raise AssertionError(f"it does not end: {self.shown!r}") from None
        return done.exit_status, self.shown + bytes(done.stdout or b"") + bytes(done.stderr or b"")  # type: ignore[arg-type]


async def sits_down(client: asyncssh.SSHClientConnection, command: str | None = None, columns: int = 80) -> AtTerminal:
    return AtTerminal(
        await client.create_process(command, term_type="xterm", term_size=(columns, 24), encoding=None)
    )  # fmt: skip


@pytest.mark.parametrize("need", ["reason", "ticket"])
@asynchronous
async def test_one_word_is_asked_for(need: str, tmp_path: Path) -> None:
    def policy(request: Authorize) -> Refused | None:
        return None if getattr(request, need) == "OPS-1" else missing(need)

    async with Target(shell) as target, Site(tmp_path) as site:
        site.target_port, site.answers[Authorize] = target.port, policy
        async with await site.client() as client:
            alice = await sits_down(client)
            await alice.until(b"it needs " + need.encode())
            await alice.until(need.encode() + b": ")
            alice.type(b"OPS-2\r")
            await alice.until(need.encode() + b": ")
            alice.type(b"OPS-1\r")
            await alice.until(b"$ ")
            alice.type(b"ls\n")
            assert await alice.ends() == (4, b"ran ls\n")
        assert [getattr(request, need) for request in site.asked_for(Authorize)] == ["", "OPS-2", "OPS-1"]
        assert site.tape.open is not None
        assert site.tape.open.private[need] == "OPS-1"


@asynchronous
async def test_three_tries(tmp_path: Path) -> None:
    """A rule that is never content does not ask for ever."""
    async with Site(tmp_path) as site:
        site.answers[Authorize] = lambda _: missing("ticket")
        async with await site.client() as client:
            alice = await sits_down(client)
            for _ in range(3):
                await alice.until(b"ticket: ")
                alice.type(b"x\r")
            code, said = await alice.ends()
            assert code == 77
            assert b"do something else" in said
            assert b"ticket: " not in said
        assert len(site.asked_for(Authorize)) == 4


@pytest.mark.parametrize("need", ["reason", "ticket", "mfa", "approval"])
@pytest.mark.parametrize("options", [{}, {"term_type": "xterm", "term_size": (0, 0)}])
@asynchronous
async def test_nobody_there(need: str, options: dict[str, Any], tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.answers[Authorize] = lambda _: missing(need)
        async with await site.client() as client:
            process = await client.create_process("id", encoding=None, **options)
            try:
                async with asyncio.timeout(at_most(30)):
                    done = await process.wait()
            except TimeoutError:
                raise AssertionError("somebody is asked") from None
        assert done.exit_status in (75, 77)
        said = bytes(done.stdout or b"") + bytes(done.stderr or b"")  # type: ignore[arg-type]
        assert said.replace(b"\r", b"") == f"bastion: it needs {need}\nbastion: do something else\n".encode()
        assert len(site.asked_for(Authorize)) == 1


def coded(site: Site, right: str, *, outcome: Outcome = Outcome.REFUSED) -> None:
    """A policy that wants a newer code."""
    shown: list[bool] = []

    def answer(request: AnswerCode) -> Verdict:
        if request.answers == [right]:
            shown.append(True)
            return Verdict(outcome=Outcome.DONE, person="alice")
        return Verdict(outcome=outcome)

    site.answers[Authorize] = lambda _: None if shown else missing("mfa")
    site.answers[AskCode] = lambda _: Challenge(
        name="", instructions="from your \x1b[2Jphone", prompts=[("one-time \x1b]0;code: ", False)]
    )
    site.answers[AnswerCode] = answer


@asynchronous
async def test_a_newer_code_is_not_shown(tmp_path: Path) -> None:
    async with Target(shell) as target, Site(tmp_path) as site:
        site.target_port = target.port
        coded(site, "123456")
        async with await site.client() as client:
            alice = await sits_down(client)
            shown = await alice.until(b"code: ")
            assert b"\x1b]" not in shown
            assert b"\x1b[2J" not in shown
            alice.type(b"654321\r")
            await alice.until(b"that code is wrong")
            await alice.until(b"code: ")
            alice.type(b"123456\r")
            assert b"123456" not in await alice.until(b"$ ")
            alice.type(b"\n")
            assert (await alice.ends())[0] == 4


@asynchronous
async def test_codes_end_where_policyd_ends_them(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        coded(site, "123456", outcome=Outcome.DISCONNECT)
        async with await site.client() as client:
            alice = await sits_down(client)
            await alice.until(b"code: ")
            alice.type(b"1\r")
            assert (await alice.ends())[0] == 77
        assert len(site.asked_for(AskCode)) == 1


def leave(site: Site, states: list[str]) -> None:
    """A policy that wants leave, and decides as the list says."""
    given: list[bool] = []

    async def decide(request: RequestAwait) -> Done:
        state = states.pop(0)
        if state == "pending":
            await asyncio.sleep(0)
        if state == "approved":
            given.append(True)
        return Done(text=f"request `r-1` is {state}", data={"request": "r-1", "state": state})

    site.answers[Authorize] = lambda _: None if given else missing("approval")
    site.answers[RequestList] = lambda _: Rows(columns=["request", "person", "account", "target", "reason"], rows=[])
    site.answers[RequestAccess] = lambda _: Done(text="it waits", data={"request": "r-1", "state": "pending"})
    site.answers[RequestAwait] = decide


@asynchronous
async def test_leave_is_waited_for_in_pieces(tmp_path: Path) -> None:
    async with Target(shell) as target, Site(tmp_path) as site:
        site.target_port = target.port
        leave(site, ["pending", "pending", "approved"])
        async with await site.client() as client:
            alice = await sits_down(client)
            await alice.until(b"say why")
            alice.type(b"because\r")
            await alice.until(b"$ ")
            alice.type(b"\n")
            assert (await alice.ends())[0] == 4
        assert [one.reason for one in site.asked_for(RequestAccess)] == ["because"]
        assert len(site.asked_for(RequestAwait)) == 3
        assert site.asked_for(Authorize)[-1].reason == "because"


@pytest.mark.parametrize("state", ["denied", "expired", "cancelled"])
@asynchronous
async def test_no_leave_is_said(state: str, tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        leave(site, [state])
        async with await site.client() as client:
            alice = await sits_down(client)
            await alice.until(b"say why")
            alice.type(b"because\r")
            code, said = await alice.ends()
            assert code == 77
            assert f"request `r-1` is {state}".encode() in said


@asynchronous
async def test_a_request_that_wants_a_ticket_asks_for_it(tmp_path: Path) -> None:
    async with Target(shell) as target, Site(tmp_path) as site:
        site.target_port = target.port
        leave(site, ["approved"])
        asked = site.answers[RequestAccess]
        site.answers[RequestAccess] = lambda one: asked(one) if one.ticket == "OPS-1" else missing("ticket")
        async with await site.client() as client:
            alice = await sits_down(client)
            await alice.until(b"say why")
            alice.type(b"because\rOPS-1\r")  # ahead of the question
            await alice.until(b"$ ")
            alice.type(b"\n")
            assert (await alice.ends())[0] == 4


@asynchronous
async def test_two_channels_of_one_connection_have_one_session(tmp_path: Path) -> None:
    async with Target(shell) as target, Site(tmp_path) as site:
        site.target_port = target.port
        site.answers[Authorize] = lambda one: None if one.reason else missing("reason")
        async with await site.client() as client:
            first, second = await sits_down(client), await sits_down(client)
            for alice in (first, second):
                await alice.until(b"reason: ")
            for alice in (first, second):
                alice.type(b"x\r")
                await alice.until(b"$ ")
            for alice in (first, second):
                alice.type(b"\n")
                assert (await alice.ends())[0] == 4
        assert site.sessions == 1


@asynchronous
async def test_what_comes_along_begins_no_second_session(tmp_path: Path) -> None:
    """Killed, and the next channel brings a reason: that is no leave to go on."""
    async with Target(shell) as target, Site(tmp_path) as site:
        site.target_port = target.port
        async with await site.client() as client:
            alice = await sits_down(client)
            await alice.until(b"$ ")
            site.relay.end("killed", text="enough")
            assert (await alice.ends())[0] != 4
            try:
                done = await client.run("id", env={"BASTION_REASON": "again"})
            except (asyncssh.Error, OSError):
                pass  # the connection was closed before
            else:
                assert done.exit_status not in (0, 4)
        assert site.sessions == 1


@asynchronous
async def test_a_denied_channel_is_not_a_missing_thing(tmp_path: Path) -> None:
    """Only what Authorize says is missing is asked for: a channel's own denial ends the channel."""
    async with Target(shell) as target, Site(tmp_path) as site:
        site.target_port = target.port
        site.answers[OpenChannel] = lambda _: missing("reason")
        async with await site.client() as client:
            alice = await sits_down(client)
            code, said = await alice.ends()
            assert code == 77
            assert b"reason: " not in said
        await until("it is over", lambda: not site.door._sessions)


def test_settle_takes_no_terminal_for_an_answer() -> None:
    """Whatever the need is called: without a terminal the denial stands."""

    class Nobody:
        env: dict[bytes, bytes] = {}  # noqa: RUF012
        terminal = None
        command = None

    async def never(_: Authorize) -> None:
        raise AssertionError("tried again with nothing new")

    why = Denied("no", need="approval")
    with pytest.raises(Denied) as raised:
        asyncio.run(settle(None, "alice", Authorize(account="root", target="web1"), why, Nobody(), never))  # type: ignore[arg-type]
    assert raised.value is why
