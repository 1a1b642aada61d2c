"""One HTTP exchange (RFC 9110): no redirect followed, no proxy, no cookie, no content decoded, everything limited."""

import os
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

import httpcore2
import trio
from httpcore2 import SOCKET_OPTION, AsyncNetworkBackend, AsyncNetworkStream, TrioBackend

from bastion.courier.pointers import BadDocument, pick
from bastion.courier.reach import Reach, Unreachable, tls_context, tls_problem
from policy.messages import Called, HttpCall

MAX_ANSWER: Final = 1024 * 1024
"""Bytes of an answer. A ticket with its whole history takes some 200 KiB."""
MAX_SECONDS: Final = 30.0
TOLD: Final = ("retry-after",)
"""Headers of an answer that are passed on."""
METHODS: Final = frozenset({"GET", "POST"})

_URL: Final = re.compile(r"https?://[^\s\x00-\x20\x7f-\U0010ffff]+")
_FIELD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


async def call(request: HttpCall, reach: Reach) -> Called:
    """What came of it; never raises for what the other side does."""
    try:
        with trio.fail_after(min(max(request.seconds, 0.1), MAX_SECONDS)):
            return await _exchange(request, reach)
    except trio.TooSlowError:
        error = f"gave no whole answer within {request.seconds:g} s"
    except (Unreachable, BadDocument) as problem:
        error = str(problem)
    except httpcore2.ConnectError as problem:
        error = tls_problem(problem) or "cannot be reached"
    except (httpcore2.NetworkError, httpcore2.TimeoutException) as problem:
        error = tls_problem(problem) or "broke the connection off"
    except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol):
        error = "gave no proper HTTP answer"
    return Called(task=request.task, error=error)


async def _exchange(request: HttpCall, reach: Reach) -> Called:
    _check(request)
    context = tls_context(request.trust) if request.url.startswith("https:") else None
    headers = {"User-Agent": "bastion", "Accept": "application/json", "Accept-Encoding": "identity", **request.headers}
    async with httpcore2.AsyncConnectionPool(
        ssl_context=context, max_connections=1, max_keepalive_connections=0, network_backend=_Judged(reach)
    ) as pool:
        async with pool.stream(
            request.method, request.url, headers=list(headers.items()), content=request.body or None
        ) as answer:
            names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
            told = {name: names[name][:100] for name in TOLD if name in names}
            if not 200 <= answer.status < 300 or not request.pick:
                return Called(task=request.task, status=answer.status, headers=told)
            # Inflating is not done at all: a kilobyte of gzip may be a gigabyte of blanks.
            if names.get("content-encoding", "identity").lower() != "identity":
                raise Unreachable("answers in an encoding that was not asked for")
            body = bytearray()
            async for part in answer.aiter_stream():
                body += part
                if len(body) > MAX_ANSWER:
                    raise Unreachable(f"sent more than {MAX_ANSWER // 1024} KiB")
    values = await trio.to_thread.run_sync(pick, bytes(body), request.pick)  # a megabyte takes a while
    return Called(task=request.task, status=answer.status, headers=told, values=values)


def _check(request: HttpCall) -> None:
    """policyd names what to call; what it names must not become another request on the way."""
    try:
        url = urlsplit(request.url)
        good = bool(_URL.fullmatch(request.url) and url.hostname and url.port != 0)
    except ValueError:
        good = False
    if not good or request.method not in METHODS:
        raise Unreachable("has no address that can be called")
    for name, value in request.headers.items():
        if not _FIELD.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise Unreachable(f"the header `{name[:40]}` cannot be sent")


class _Judged(AsyncNetworkBackend):
    """httpcore's connections, to addresses that `Reach` has judged and to no others."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._trio = TrioBackend()

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:  # fmt: skip
        last: httpcore2.ConnectError | None = None
        for address in await self._reach.addresses(host, port):
            try:
                return await self._trio.connect_tcp(address, port, socket_options=socket_options)
            except httpcore2.ConnectError as error:
                last = error
        raise Unreachable(f"cannot be reached{_reason(last)}")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


def _reason(error: BaseException | None) -> str:
    """The kernel's words, which stand at the bottom of the causes."""
    words = ""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            words = f": {os.strerror(error.errno).lower()}"
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
    return words
