"""A gateway's side of policyd's socket: one conversation, many questions at once, pushes in between.

One of them belongs to each connection of a person, from their first word of authentication on, and one to the worker
itself. When it is gone nothing is allowed any more: every question that waits fails, and whoever owns it is told.
"""

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import msgspec

from bastion.errors import BastionError, ExitCode, MisuseError
from bastion.ssh.wipe import wipe
from policy.messages import (
    MAX_MESSAGE,
    AnswerCode,
    Authorize,
    ChangeSecret,
    DirectorySync,
    EndSession,
    Freeze,
    Grant,
    Hello,
    Refused,
    Reply,
    Request,
    RequestAccess,
    RequestAwait,
    Scanned,
    SessionEnded,
    Thaw,
    UsePassword,
    Warn,
    Worked,
    Worker,
    decode_reply,
    encode,
)

Push = EndSession | Freeze | Thaw | Warn
"""What policyd says unasked to the connection of a person."""

POLICY_SOCKET: Final = "policyd.sock"

CONNECT_SECONDS: Final = 5.0
"""policyd accepts at once; its backlog of 128 is full only while a thousand people come at the same moment."""
REPLY_SECONDS: Final = 5.0
"""The slowest answer is to a password, when others wait for its turn (0.1 s each); later than this nobody decides
there, and a person would rather be told than wait."""
RADIUS_SECONDS: Final = 25.0
"""The most that `[policy.radius] seconds` may be: a server there asks a person's phone."""
TICKET_SECONDS: Final = 15.0
DIRECTORY_SECONDS: Final = 900.0  # as `bastion directory sync` waits: ten minutes of reading, then ten thousand persons
"""More, when policyd has to ask a ticket system: the longest that `[tickets.NAME] seconds` may be."""
MAX_WAITING: Final = 256
"""Questions without an answer. A connection with 20 channels and 256 forwards asks one after the other."""
_AT_ONCE: Final = 16
"""Messages read in one turn, so that one talkative conversation leaves time to others."""
_RETRY: Final = 0.02
_GREETING: Final = 1  # number of the first request
_SILENT: Final = (Scanned, Worked)
"""Requests that policyd does not answer."""


class PolicyLost(BastionError):
    """policyd does not answer: nothing can be allowed."""

    code = ExitCode.UNREACHABLE

    def __init__(self, cause: str = "the bastion's policy service does not answer", hint: str = "") -> None:
        super().__init__(cause, hint or "try again in a moment; if it stays so, tell the people who run this bastion")


class PolicyLink:
    """One conversation. `on_push` and `on_lost` are called from the event loop, `on_lost` once and never after
    `close`.
    """

    def __init__(self, sock: socket.socket, on_push: Callable[[Reply], None], on_lost: Callable[[], None]) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._on_push = on_push
        self._on_lost = on_lost
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply] | None] = {}  # None: nobody wants the answer
        self._unsent: deque[bytes] = deque()
        self._fileno = sock.fileno()  # asyncio makes a text of a socket object each time it does not know it yet
        self._blocked = False
        self.why = PolicyLost()  # what is said once it is lost
        self._loop.add_reader(self._fileno, self._read)

    @classmethod
    async def connect(
        cls, path: Path, first: Hello | Worker, on_push: Callable[[Reply], None], on_lost: Callable[[], None]
    ) -> Self:
        """A conversation that has begun with `first`; PolicyLost if policyd is not there."""
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:  # out of file descriptors
            raise PolicyLost from None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                while True:
                    try:
                        sock.connect(str(path))
                        break
                    except BlockingIOError:  # its backlog is full; unlike TCP, the kernel does not go on by itself
                        await asyncio.sleep(_RETRY)
        except (OSError, TimeoutError):
            sock.close()
            raise PolicyLost from None
        except BaseException:
            sock.close()
            raise
        link = cls(sock, on_push, on_lost)
        link.tell(first)
        return link

    async def ask(self, request: Request) -> Reply:
        """The answer; PolicyLost when there is none in time. What was granted before goes on: policyd may only be slow,
        and each session has its limits here as well.
        """
        answer: asyncio.Future[Reply] = self._loop.create_future()
        number = self._send(request, answer)
        late = self._loop.call_later(patience(request), _give_up, answer)  # cheaper than a task's time-out
        try:
            return await answer
        finally:
            late.cancel()
            if number in self._waiting:
                self._waiting[number] = None  # nobody waits any more, the answer will come all the same

    def tell(self, request: Request) -> None:
        """Say something whose answer nobody waits for; it is not said if policyd is gone."""
        try:
            self._send(request, None)
        except PolicyLost:
            pass  # `on_lost` has said so

    def close(self) -> None:
        """End the conversation; policyd then considers its sessions ended."""
        self._end()

    @property
    def is_open(self) -> bool:
        return self._sock.fileno() >= 0

    def _send(self, request: Request, answer: "asyncio.Future[Reply] | None") -> int:
        number = next(self._numbers)
        data = encode(number, request)
        if len(data) > MAX_MESSAGE:
            raise MisuseError(f"the request is too large: {len(data)} bytes, at most {MAX_MESSAGE}")
        if not self.is_open:
            raise self._lost_because()
        if len(self._waiting) >= MAX_WAITING or len(self._unsent) >= MAX_WAITING:
            self._lose()
            raise PolicyLost
        if not isinstance(request, _SILENT):
            self._waiting[number] = answer
        self._unsent.append(data)
        if len(self._unsent) == 1:
            self._write()
        if not self.is_open:
            raise self._lost_because()
        return number

    def _write(self) -> None:
        try:
            while self._unsent:
                self._sock.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            self._blocked = True
            self._loop.add_writer(self._fileno, self._write)
            return
        except OSError:
            return self._lose()
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._fileno)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            if not self.is_open:
                return
            try:
                data = self._sock.recv(MAX_MESSAGE + 1)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data or len(data) > MAX_MESSAGE or not self._take(data):
                return self._lose()

    def _take(self, data: bytes) -> bool:
        """Hand on one message; false if it is none, or answers nothing that was asked."""
        try:
            number, reply = decode_reply(data)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return False
        if isinstance(reply, UsePassword | ChangeSecret):
            wipe(data)  # the message it came in
        if number == 0:
            self._on_push(reply)
            return True
        if number not in self._waiting:
            return False
        answer = self._waiting.pop(number)
        if number == _GREETING and isinstance(reply, Refused):  # it takes no greeting: its vault is locked
            self.why = PolicyLost(reply.cause, reply.hint)
            return False
        if answer is not None and not answer.done():
            answer.set_result(reply)
        elif isinstance(reply, Grant):
            # It came too late, and the person was told no: policyd must not list a session that nobody has.
            self.tell(SessionEnded(session=reply.session, reason="granted too late"))
        return True

    def _lose(self) -> None:
        if self.is_open:
            self._end()
            self._on_lost()

    def _lost_because(self) -> PolicyLost:
        return PolicyLost(self.why.cause, self.why.hint)  # one for each: an exception keeps where it was raised

    def _end(self) -> None:
        if not self.is_open:
            return
        self._loop.remove_reader(self._fileno)
        if self._blocked:
            self._loop.remove_writer(self._fileno)
        self._sock.close()
        self._unsent.clear()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if answer is not None and not answer.done():
                answer.set_exception(self._lost_because())


def _give_up(answer: "asyncio.Future[Reply]") -> None:
    if not answer.done():
        answer.set_exception(PolicyLost())


def patience(request: Request) -> float:
    """Seconds that policyd may take."""
    match request:
        case RequestAwait():
            return REPLY_SECONDS + min(30.0, request.seconds)
        case AnswerCode():
            return REPLY_SECONDS + RADIUS_SECONDS
        case DirectorySync():
            return DIRECTORY_SECONDS
        case Authorize() | RequestAccess() if request.ticket:
            return REPLY_SECONDS + TICKET_SECONDS
        case _:
            return REPLY_SECONDS
