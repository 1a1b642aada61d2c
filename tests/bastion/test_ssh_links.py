"""A conversation with policyd over a real socket, with a policyd that says what a test wants."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bastion.errors import MisuseError
from bastion.ssh import links
from bastion.ssh.links import MAX_WAITING, PolicyLink, PolicyLost
from policy.messages import (
    MAX_MESSAGE,
    Acceptable,
    Authorize,
    Done,
    EndSession,
    Grant,
    Hello,
    OfferKey,
    Refused,
    Reply,
    Request,
    Scanned,
    SessionEnded,
    TryPassword,
    Whoami,
    decode_request,
    encode,
)

HELLO = Hello(source="192.0.2.1", source_port=5, listener="x", client="y", ssh_session=bytes(32))
OFFER = OfferKey(person="sam", blob=b"blob")


class Policyd:
    """The other end, by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def hear(self) -> tuple[int, Request]:
        return decode_request(await self.loop.sock_recv(self.sock, MAX_MESSAGE + 1))

    async def say(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def reply(self, number: int, body: Reply) -> None:
        await self.say(encode(number, body))


class Owner:
    """What the link tells its owner."""

    def __init__(self) -> None:
        self.pushed: asyncio.Queue[Reply] = asyncio.Queue()
        self.lost = 0

    def on_lost(self) -> None:
        self.lost += 1


Play = Callable[[PolicyLink, Policyd, Owner], Awaitable[None]]


def played(folder: Path, play: Play) -> None:
    async def run() -> None:
        path, owner = folder / "policyd.sock", Owner()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(str(path))
            listening.listen(1)
            listening.setblocking(False)
            link = await PolicyLink.connect(path, HELLO, owner.pushed.put_nowait, owner.on_lost)
            sock, _ = await asyncio.get_running_loop().sock_accept(listening)
            with sock:
                sock.setblocking(False)
                policyd = Policyd(sock)
                assert await policyd.hear() == (1, HELLO)
                async with asyncio.timeout(20):
                    await play(link, policyd, owner)
            link.close()

    asyncio.run(run())


def test_questions_at_once_get_each_its_own_answer(tmp_path: Path) -> None:
    async def play(link: PolicyLink, policyd: Policyd, owner: Owner) -> None:
        asked = [asyncio.ensure_future(link.ask(OFFER)) for _ in range(3)]
        numbers = [(await policyd.hear())[0] for _ in range(3)]
        for number in reversed(numbers):
            await policyd.reply(number, Done(text=str(number)))
        assert [reply.text for reply in await asyncio.gather(*asked)] == [str(n) for n in numbers]  # type: ignore[union-attr]

    played(tmp_path, play)


def test_a_push_comes_without_being_asked_for(tmp_path: Path) -> None:
    async def play(link: PolicyLink, policyd: Policyd, owner: Owner) -> None:
        await policyd.reply(0, EndSession(session="s", by="sam", reason="because"))
        message = await owner.pushed.get()
        assert isinstance(message, EndSession)
        assert message.reason == "because"

    played(tmp_path, play)


def test_an_answer_that_nobody_waits_for_any_more_is_no_fault(tmp_path: Path) -> None:
    async def play(link: PolicyLink, policyd: Policyd, owner: Owner) -> None:
        asked = asyncio.ensure_future(link.ask(OFFER))
        number, _ = await policyd.hear()
        asked.cancel()
        link.tell(OFFER)
        told, _ = await policyd.hear()
        for late in (number, told):
            await policyd.reply(late, Acceptable(ok=True))
        again = asyncio.ensure_future(link.ask(OFFER))
        await policyd.reply((await policyd.hear())[0], Acceptable(ok=False))
        assert await again == Acceptable(ok=False)
        assert not owner.lost

    played(tmp_path, play)


@pytest.mark.parametrize(
    "said",
    [
        b"", b"\xc1", b"\x92\x01", encode(7, Acceptable(ok=True)), encode(2, OFFER), b"\x91" * 5000,
        encode(2, Done(text="x" * MAX_MESSAGE)),
    ],
    ids=["end", "noise", "half", "answer to nothing", "a request", "nested", "too long"],
)  # fmt: skip
def test_what_is_no_answer_ends_the_conversation_and_every_question(tmp_path: Path, said: bytes) -> None:
    async def play(link: PolicyLink, policyd: Policyd, owner: Owner) -> None:
        asked = [asyncio.ensure_future(link.ask(OFFER)), asyncio.ensure_future(link.ask(Whoami()))]
        await policyd.hear()
        if said:
            await policyd.say(said)
        else:
            policyd.sock.shutdown(socket.SHUT_RDWR)
        for one in asked:
            with pytest.raises(PolicyLost):
                await one
        assert owner.lost == 1
        assert not link.is_open
        with pytest.raises(PolicyLost):
            await link.ask(OFFER)
        link.tell(OFFER)  # and nothing happens
        assert owner.lost == 1

    played(tmp_path, play)


def test_who_closes_is_not_told_that_it_was_lost(tmp_path: Path) -> None:
    async def play(link: PolicyLink, policyd: Policyd, owner: Owner) -> None:
        asked = asyncio.ensure_future(link.ask(OFFER))
        await policyd.hear()
        link.close()
        with pytest.raises(PolicyLost):
            await asked
        assert not owner.lost

    played(tmp_path, play)


def test_a_policyd_that_says_nothing_means_no_and_what_it_granted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "REPLY_SECONDS", 0.05)

    async def play(link: PolicyLink, policyd: Policyd, owner: Owner) -> None:
        with pytest.raises(PolicyLost):
            await link.ask(OFFER)
        assert owner.lost == 0
        number, _ = await policyd.hear()
        await policyd.say(encode(number, Acceptable(ok=True)))  # too late, and of no use
        monkeypatch.setattr(links, "REPLY_SECONDS", 10.0)
        asked = asyncio.ensure_future(link.ask(OFFER))
        number, _ = await policyd.hear()
        await policyd.say(encode(number, Acceptable(ok=True)))
        assert await asked == Acceptable(ok=True)

    played(tmp_path, play)


def test_a_grant_that_comes_too_late_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person was told no: policyd must not count a session that nobody has."""
    monkeypatch.setattr(links, "REPLY_SECONDS", 0.05)
    grant = Grant(session="5e55", person="sam", account="root", target="web1", address="10.0.0.1", port=22,
                  host_keys=[], kinds=[], rule="", expires_in=None, idle=None, record_sync=False, keep_content=False,
                  commitment_key=b"", source="")  # fmt: skip

    async def play(link: PolicyLink, policyd: Policyd, owner: Owner) -> None:
        with pytest.raises(PolicyLost):
            await link.ask(Authorize(account="root", target="web1"))
        number, _ = await policyd.hear()
        await policyd.say(encode(number, grant))
        said = (await policyd.hear())[1]
        assert isinstance(said, SessionEnded)
        assert said.session == "5e55"

    played(tmp_path, play)


def test_a_policyd_that_does_not_read_does_not_fill_our_memory(tmp_path: Path) -> None:
    async def play(link: PolicyLink, policyd: Policyd, owner: Owner) -> None:
        large = TryPassword(person="sam", password=bytes(60_000))
        said = 0
        while link.is_open:
            link.tell(large)
            said += 1
        assert said <= MAX_WAITING + 1
        assert owner.lost == 1

    played(tmp_path, play)


def test_messages_that_had_to_wait_arrive_in_order(tmp_path: Path) -> None:
    async def play(link: PolicyLink, policyd: Policyd, owner: Owner) -> None:
        for number in range(60):
            link.tell(Scanned(task=number, keys=[bytes(60_000)]))
        heard = [(await policyd.hear())[1] for _ in range(60)]
        assert [one.task for one in heard if isinstance(one, Scanned)] == list(range(60))

    played(tmp_path, play)


def test_a_message_that_does_not_fit_is_our_fault_and_costs_nothing_else(tmp_path: Path) -> None:
    async def play(link: PolicyLink, policyd: Policyd, owner: Owner) -> None:
        with pytest.raises(MisuseError):
            await link.ask(TryPassword(person="sam", password=bytes(MAX_MESSAGE)))
        assert link.is_open

    played(tmp_path, play)


def test_where_nobody_listens(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(PolicyLost):
            await PolicyLink.connect(tmp_path / "nothing", HELLO, lambda _: None, lambda: None)

    asyncio.run(run())


def test_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    """A UNIX socket says EAGAIN then, and asyncio's own `sock_connect` takes that for a connection."""

    async def run() -> None:
        path = tmp_path / "policyd.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(str(path))
            listening.listen(0)
            listening.setblocking(False)
            loop = asyncio.get_running_loop()
            going = [
                asyncio.ensure_future(PolicyLink.connect(path, HELLO, lambda _: None, lambda: None)) for _ in range(4)
            ]
            await asyncio.wait(going, timeout=0.1)
            assert not all(one.done() for one in going)
            taken = [(await loop.sock_accept(listening))[0] for _ in going]
            for link in await asyncio.gather(*going):
                link.close()
            for sock in taken:
                sock.close()

    asyncio.run(run())


def test_a_greeting_that_is_refused_says_why(tmp_path: Path) -> None:
    """policyd's vault is locked: people are told that, and not that nobody answers."""

    async def play(link: PolicyLink, policyd: Policyd, owner: Owner) -> None:
        asked = asyncio.ensure_future(link.ask(OFFER))
        await policyd.hear()
        await policyd.reply(1, Refused(code=78, cause="the vault of this bastion is locked", hint="tell them"))
        with pytest.raises(PolicyLost) as caught:
            await asked
        assert (caught.value.cause, caught.value.hint) == ("the vault of this bastion is locked", "tell them")
        assert link.why.cause == caught.value.cause
        assert owner.lost == 1

    played(tmp_path, play)
