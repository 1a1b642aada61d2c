"""One connection of an application: HTTP/1.1 by h11, a question to policyd for each request, and an end to everything.

Nothing of what passes is logged or kept: a request holds a token, an answer a secret.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import h11
import structlog
import trio

from bastion.broker import api
from bastion.broker.api import Answer, Asked, Self, Wrong
from bastion.broker.link import Link
from bastion.errors import PeerError
from policy.messages import Applicant, Refused, Reply

MAX_HEAD: Final = 8 * 1024
"""Bytes of a request line and its fields, and what came with the last of them; ours have 300."""
READ_AT_ONCE: Final = 4096
HEAD_SECONDS: Final = 10.0
"""From the first byte of a request to its last, and from connecting to the first byte. Attack: a byte now and then."""
IDLE_SECONDS: Final = 60.0
"""Between two requests."""
WRITE_SECONDS: Final = 10.0
"""An application that does not read its answer for so long never will."""
PART_SECONDS: Final = 1.0
MAX_UNREAD: Final = 64 * 1024
"""Bytes thrown away of who still sends when the last answer is on its way; whoever sends more loses it."""
MAX_REQUESTS: Final = 100_000
"""On one connection; after that what is known of the other end is looked at anew."""

log = structlog.get_logger()


class Stream(Protocol):
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...

    async def send_all(self, data: bytes) -> None: ...


@dataclass(slots=True)
class Visit:
    """`seen` says who is there, given what they say of themselves; `is_there` whether that still holds."""

    stream: Stream
    wire: trio.SocketStream  # under the stream, or the stream itself
    run: Path
    seen: Callable[[Asked], Applicant]
    is_there: Callable[[], bool]
    _http: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    )
    _told: tuple[str, str] = ("", "")  # what they said when they were introduced

    async def serve(self) -> None:
        """Until they leave, or must."""
        link = Link(self.run)
        patience = HEAD_SECONDS
        try:
            for left in range(MAX_REQUESTS, 0, -1):
                request = await self._request(patience)
                if request is None:
                    return
                await self._send(await self._answer(request, link), last=left == 1, bare=request.method == b"HEAD")
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return await self._part()
                self._http.start_next_cycle()
                patience = IDLE_SECONDS
        except (h11.RemoteProtocolError, h11.LocalProtocolError):
            await self._misunderstood()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return  # gone, or too slow to be waited for
        finally:
            link.close()

    async def _request(self, patience: float) -> h11.Request | None:
        """The next one; None at the end, and for who says nothing."""
        began, waiting = False, trio.current_time() + patience
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None  # closed; or an upgrade, which was refused
            if not began and self._http.trailing_data[0]:
                began, waiting = True, min(waiting, trio.current_time() + HEAD_SECONDS)
            with trio.move_on_at(waiting) as scope:
                self._http.receive_data(bytes(await self.stream.receive_some(READ_AT_ONCE)))
            if scope.cancelled_caught:
                return None

    async def _answer(self, request: h11.Request, link: Link) -> Answer:
        try:
            if request.http_version not in (b"1.1", b"1.0"):
                raise Wrong(505, "this is HTTP/1.1", "ask with HTTP/1.1", close=True)
            asked = api.asked(request.method, request.target, request.headers)
        except Wrong as wrong:
            return wrong.answer
        try:
            if not self.is_there() or self._told != (asked.application, asked.token):
                link.close()
            kept = link.known is not None
            try:
                return api.answer(await self._told_by(link, asked))
            except PeerError:
                if not kept:
                    raise
            return api.answer(await self._told_by(link, asked))  # policyd was started anew since the last request
        except PeerError as error:
            log.warning("policyd-unreachable", why=error.cause)
            return api.answer(None)

    async def _told_by(self, link: Link, asked: Asked) -> Reply:
        if link.known is None or asked.body is Self.SELF:  # who they are is told as it is now
            reply = await link.introduce(self.seen(asked))
            if isinstance(reply, Refused) or isinstance(asked.body, Self):
                return reply
            self._told = asked.application, asked.token
        assert not isinstance(asked.body, Self)
        return await link.ask(asked.body)

    async def _send(self, answer: Answer, *, last: bool = False, bare: bool = False) -> None:
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(answer.body))),
            ("cache-control", "no-store"),
            *answer.headers,
        ]
        if answer.close or last:
            headers.append(("connection", "close"))
        if self._http.their_state is h11.SEND_BODY:
            self._http.next_event()  # the end of a request without a body; one with a body was refused, and ends here
        events: list[h11.Event] = [h11.Response(status_code=answer.status, headers=headers), h11.EndOfMessage()]
        if not bare:
            events.insert(1, h11.Data(data=answer.body))
        with trio.fail_after(WRITE_SECONDS):
            await self.stream.send_all(b"".join(self._http.send(event) or b"" for event in events))

    async def _misunderstood(self) -> None:
        """What is no HTTP is told so, once, and nothing more is read."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        try:
            await self._send(api.problem(400, "this is no HTTP request", "see BROKER.md", close=True))
            await self._part()
        except (h11.LocalProtocolError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return

    async def _part(self) -> None:
        """Let them read the last answer: what they have sent beyond it, unread, would take it away with a reset."""
        await self.wire.send_eof()
        left = MAX_UNREAD
        with trio.move_on_after(PART_SECONDS):
            while left > 0 and (data := await self.stream.receive_some(READ_AT_ONCE)):
                left -= len(data)
