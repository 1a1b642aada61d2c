"""One gateway connection, which is one recording: messages in, replies out, by the table in `daemon`."""

import socket
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import msgspec
import structlog
import trio

from recorder.chain import session_id
from recorder.codec import FormatError
from recorder.journal import Instant, Opening
from recorder.live import Failed, Live, Studio, now
from recorder.messages import (
    Ack,
    Append,
    End,
    Ended,
    Health,
    Open,
    Opened,
    Refused,
    Reply,
    Request,
    Status,
    decode_request,
    encode,
)
from recorder.model import END_REASONS, Event
from recorder.sockets import BUFFER, Oversized, Peer, give, hang_up, is_crowded, take

ROUND: Final = 256 * 1024
"""Bytes of messages taken together into one chunk: larger ones compress no better, and others wait meanwhile."""
LONE: Final = 1024
"""Bytes of a message that may be written and acknowledged alone: somebody types."""
COMPANY: Final = 0.0005
"""Seconds: behind a message that came so soon after another there may be more, and they are looked for. Behind a
keystroke there are none, and the person waits."""
OPEN_SECONDS: Final = 30.0
"""From connection to the first message; a gateway sends it at once."""
REPLY_SECONDS: Final = 30.0
"""A gateway that reads no reply for so long is lost."""
MAX_FIELDS: Final = 64
"""Entries in the maps of an Open; gateways send ten."""
MAX_REASON: Final = 4096

log = structlog.get_logger()


class Protocol(Exception):
    """The peer said what it must not say now."""


class Lost(Exception):
    """The peer has gone."""


class Connection:
    """States: NEW (no `live`), RECORDING (`live`), over."""

    def __init__(self, studio: Studio, sock: socket.socket, peer: Peer, sync: bool, drain_seconds: float) -> None:
        """`sync`: every batch is synced, whether asked for or not. `drain_seconds`: to end when we are stopped."""
        self._studio, self._sock, self._peer = studio, sock, peer
        self._sync, self._drain_seconds = sync, drain_seconds
        self._live: Live | None = None
        self._seq = -1
        self._last = 0.0  # seconds: when something came
        self._gone = False
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)

    async def serve(self) -> None:
        """Until the recording has ended or the peer has gone."""
        reason, cause = "interrupted", ""
        with self._sock:
            try:
                if (live := await self._new()) is None:
                    return
                reason = "interrupted"
                with live.on_failure:
                    await self._recording(live)
                if live.failed:
                    reason, cause = "failed", live.failed
            except Failed as error:
                reason, cause = "failed", str(error)
            except (Protocol, Oversized, FormatError, msgspec.MsgspecError) as error:
                cause = str(error).lower() or "a message is too large"
                log.warning("peer-error", peer=str(self._peer), error=cause)
            except (Lost, OSError):
                pass
            finally:
                with trio.move_on_after(self._drain_seconds, shield=True):
                    await self._over(reason, cause)

    async def _new(self) -> Live | None:
        with trio.move_on_after(OPEN_SECONDS):
            while True:
                match await self._request():
                    case Status():
                        await self._reply(self._health())
                    case Open() as request:
                        return await self._open(request)
                    case other:
                        _unexpected(other)
        return None

    async def _open(self, request: Open) -> Live | None:
        try:
            opening = Opening(
                session=session_id(request.session),
                t0_us=request.t0_us,
                node=self._studio.node,
                public=request.public,
                private=request.private,
            )
            if max(len(request.public), len(request.private)) > MAX_FIELDS:
                raise Protocol(f"more than {MAX_FIELDS} fields")
            if is_crowded(self._sock.fileno()):
                raise Protocol("too many open files")
            if not self._studio.folder.accepting:
                raise Protocol("too little space is left for recordings")
            self._live = Live(self._studio, opening)
        except (Protocol, FormatError, ValueError) as error:
            await self._refuse(str(error))
            return None
        except FileExistsError:
            await self._refuse("this session has a recording already")
            return None
        except OSError as error:
            await self._refuse(f"no recording can be begun: {(error.strerror or str(error)).lower()}")
            return None
        self._studio.live[opening.session] = self._live
        self._sync = self._sync or request.sync
        log.info("opened", session=opening.session, file=self._live.files.name)
        await self._reply(Opened(self._live.files.name))
        return self._live

    async def _recording(self, live: Live) -> None:
        """Step by step; what a step cannot do at once is done here, up to the End."""
        while self._live:
            rest = await self._studio.loop.serve(self._sock, lambda: self._step(live))
            await rest()

    def _step(self, live: Live) -> Callable[[], Awaitable[None]] | None:
        """Take what is there, write it as one chunk, acknowledge the newest. What it returns is left to do."""
        instant = now()
        events, end = self._take(alone=instant.seconds - self._last > COMPANY)
        self._last = instant.seconds
        owed = False
        if events:
            live.append(events, instant)
            owed = self._sync or not give(self._sock, encode(Ack(self._seq)))
            if not owed:
                live.appended(instant)
        if owed or end or self._gone or live.journal.full:
            return lambda: self._rest(live, end, instant if owed else None)
        return None

    async def _rest(self, live: Live, end: End | None, owed: Instant | None) -> None:
        """`owed`: when what is not acknowledged yet was written."""
        if owed:
            if self._sync:
                await live.sync()
            await self._send(encode(Ack(self._seq)))
            live.appended(owed)
        if end:
            return await self._end(live, end)
        if self._gone:
            raise Lost
        if live.journal.full:
            await live.room()

    def _take(self, alone: bool) -> tuple[list[Event], End | None]:
        """The events of the messages that are there; with `alone`, of the first one if it is small."""
        events: list[Event] = []
        size = 0
        while size < ROUND and (data := take(self._sock)) is not None:
            if not data:
                self._gone = True
                break
            match decode_request(data):
                case Append(seq, batch):
                    if seq <= self._seq:
                        raise Protocol(f"append {seq} after {self._seq}")
                    if not batch:
                        raise Protocol("an append without an event")
                    self._seq = seq
                    events += batch  # type: ignore[arg-type]  # tuples as the wire has them
                    size += len(data)
                    if alone and size < LONE:
                        break
                case End() as end:
                    return events, end
                case other:
                    _unexpected(other)
        return events, None

    async def _end(self, live: Live, end: End) -> None:
        if end.reason not in END_REASONS:
            raise Protocol("an end without a known reason")
        with trio.CancelScope(shield=True):
            self._live = None
            try:
                await live.end(end.reason, end.by[:MAX_REASON], end.text[:MAX_REASON])
            finally:
                self._close(live)
        log.info("closed", session=live.session, reason=end.reason)
        await self._reply(Ended())

    async def _over(self, reason: str, cause: str) -> None:
        """Whatever happened: what lives is ended, and the peer is told if there is something to tell."""
        if live := self._live:
            self._live = None
            try:
                await live.end(reason, "recorderd", cause)
            except Failed as error:
                cause = cause or str(error)
                log.error("left-to-recovery", session=live.session, error=str(error))
            finally:
                self._close(live)
            log.info("closed", session=live.session, reason=reason)
        if cause:
            try:
                give(self._sock, encode(Refused(cause)))
                hang_up(self._sock)
            except OSError:
                pass  # it has gone; the log has it

    def _close(self, live: Live) -> None:
        self._studio.live.pop(live.session, None)
        live.close()

    def _health(self) -> Health:
        folder = self._studio.folder
        return Health(
            live=len(self._studio.live),
            free_bytes=folder.free_bytes(),
            accepting=folder.accepting,
            node_key=self._studio.node_key.public_key().public_bytes_raw(),
        )

    async def _request(self) -> Request:
        while (data := take(self._sock)) is None:
            await trio.lowlevel.wait_readable(self._sock)
        if not data:
            raise Lost
        return decode_request(data)

    async def _reply(self, reply: Reply) -> None:
        await self._send(encode(reply))

    async def _send(self, data: bytes) -> None:
        with trio.move_on_after(REPLY_SECONDS):
            while not give(self._sock, data):
                await trio.lowlevel.wait_writable(self._sock)
            return
        raise Lost

    async def _refuse(self, cause: str) -> None:
        log.warning("refused", peer=str(self._peer), cause=cause)
        await self._reply(Refused(cause))
        hang_up(self._sock)


def _unexpected(request: object) -> NoReturn:
    raise Protocol(f"{type(request).__name__} is not expected now")
