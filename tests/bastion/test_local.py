"""A channel that ends here: windows both ways, and how it closes."""

import asyncio
from struct import pack

import pytest

from bastion.ssh.channels import CLOSE, DATA, EOF, EXTENDED_DATA, REQUEST, WINDOW_ADJUST, End
from bastion.ssh.local import WINDOW, LocalChannel, Terminal
from tests.bastion.aio import asynchronous
from tests.bastion.leg import PaperLeg, PaperOwner


def text(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


class Person:
    """A client whose window is what the test says."""

    def __init__(self, window: int = 1 << 20, max_packet: int = 32768) -> None:
        self.leg = PaperLeg()
        self.end = End(self.leg, PaperOwner())
        self.end.remote, self.end.max_packet = 3, max_packet
        self.window = window
        self.local = LocalChannel(self.end, lambda: self.window, self.spend)

    def spend(self, size: int) -> None:
        self.window -= size

    def adjust(self, more: int) -> None:
        self.window += more
        self.local.window_opened()

    def type(self, data: bytes) -> None:
        self.local.message(DATA, text(data))


def exit_status(status: int) -> list[tuple[int, bytes]]:
    return [(EOF, b""), (REQUEST, text(b"exit-status") + b"\0" + pack(">I", status)), (CLOSE, b"")]


@asynchronous
async def test_what_is_typed_is_read_and_the_window_opens_again() -> None:
    person = Person()
    begun: list[bool] = []
    person.local.start(lambda: begun.append(True))
    reading = asyncio.ensure_future(person.local.read())
    await asyncio.sleep(0)
    assert begun == [True]
    assert person.leg.take() == [(WINDOW_ADJUST, pack(">I", WINDOW))]
    person.type(b"a")
    person.type(b"b")
    assert await reading == b"ab"
    assert person.leg.take() == [], "two bytes are no reason for a message"
    person.type(b"x" * (WINDOW - 2))
    assert len(await person.local.read()) == WINDOW - 2
    assert person.leg.take() == [(WINDOW_ADJUST, pack(">I", WINDOW))]


@asynchronous
async def test_the_end_of_input_is_read_as_nothing_after_what_came_before() -> None:
    person = Person()
    person.local.start(lambda: None)
    person.local.write(b"? ")
    person.type(b"yes\n")
    person.local.message(EOF, b"")
    assert await person.local.read() == b"yes\n"
    assert await person.local.read() == b""
    assert await person.local.read() == b""


@asynchronous
async def test_a_client_that_ignores_its_window_is_read_no_more() -> None:
    """Attack: input without end to a command that reads slowly would grow in our memory."""
    person = Person()
    person.local.start(lambda: None)
    person.local.write(b"? ")
    for _ in range(WINDOW // 1024):
        person.type(b"x" * 1024)
    for _ in range(1000):
        person.type(b"x" * 1024)
    assert len(await person.local.read()) == WINDOW
    assert await person.local.read() == b""


@asynchronous
async def test_output_keeps_to_the_window_and_the_packet_size_of_the_client() -> None:
    person = Person(window=10, max_packet=4)
    person.local.write(b"0123456789")
    person.local.write_error(b"abcdef")
    person.leg.sent.pop(0)  # our window
    assert person.leg.take() == [(DATA, text(b"0123")), (DATA, text(b"4567")), (DATA, text(b"89"))]
    draining = asyncio.ensure_future(person.local.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    person.adjust(5)
    assert person.leg.take() == [(EXTENDED_DATA, pack(">I", 1) + text(b"abcd")),
                                 (EXTENDED_DATA, pack(">I", 1) + text(b"e"))]  # fmt: skip
    person.adjust(1)
    await draining
    assert person.window == 0


@asynchronous
async def test_it_closes_with_its_status_after_everything_is_written() -> None:
    person = Person(window=3)
    person.local.start(lambda: None)
    person.local.write(b"hello")
    person.local.exit(3)
    person.local.finish()
    person.leg.take()
    await asyncio.sleep(0)
    assert not person.end.close_sent
    person.adjust(100)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert person.leg.take() == [(DATA, text(b"lo")), *exit_status(3)]


@asynchronous
async def test_a_command_that_says_nothing_still_starts_and_ends() -> None:
    person = Person()
    begun: list[bool] = []
    person.local.start(lambda: begun.append(True))
    person.local.finish()
    assert begun == [True]
    assert person.leg.take()[1:] == exit_status(0)


@asynchronous
async def test_a_client_that_leaves_lets_everybody_go_who_waits() -> None:
    person = Person(window=0)
    person.local.write(b"nobody reads this")
    draining, reading = asyncio.ensure_future(person.local.drain()), asyncio.ensure_future(person.local.read())
    await asyncio.sleep(0)
    person.local.closed()
    assert await reading == b""
    await draining
    person.end.process_connection_close(None)
    person.local.write(b"more")
    person.local.finish()
    assert [kind for kind, _ in person.leg.take()] == [WINDOW_ADJUST]


@asynchronous
async def test_nothing_is_written_after_the_close() -> None:
    person = Person()
    person.local.write(b"a")
    person.local.finish()
    person.leg.take()
    person.local.write(b"late")
    await person.local.drain()
    assert person.leg.sent == []


@pytest.mark.parametrize("size", [(80, 24), (0, 0), (2**32 - 1, 1)])
@asynchronous
async def test_a_new_size_is_told(size: tuple[int, int]) -> None:
    person = Person()
    person.local.terminal = Terminal(b"xterm", 100, 30)
    told: list[tuple[int, int]] = []

    def resized() -> None:
        assert person.local.terminal is not None
        told.append((person.local.terminal.columns, person.local.terminal.rows))

    person.local.resized = resized
    person.local.resize(*size)
    assert told == [size]


@asynchronous
async def test_what_was_typed_and_not_read_is_there_for_the_target_that_takes_over() -> None:
    person = Person()
    person.local.start(lambda: None)
    person.local.write(b"pick> ")
    person.type(b"1\n")
    assert await person.local.read() == b"1\n"
    person.type(b"ls\n")
    person.type(b"pwd\n")
    assert person.local.leave() == b"ls\npwd\n"
    assert person.local.leave() == b""
