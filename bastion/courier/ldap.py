"""LDAP for policyd (RFC 4511): a bind over TLS, and one page of a search after it.

Only ldaps, or ldap with STARTTLS before anything else (RFC 4513 section 3). Referrals are not followed: a directory
must not send the bastion's password to another host. No anonymous bind, and none without a password.

Pages of a search are bound to the connection that began it (RFC 2696), so between two pages it is kept here for
a while, under a name that only policyd was told.
"""

import os
import secrets
import socket
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from bastion.courier.ber import BadAnswer, first_message
from bastion.courier.reach import Reach, Unreachable, tls_context, tls_problem
from policy.messages import Called, LdapCall, LdapPassword

MAX_SECONDS: Final = 60.0
PORTS: Final = {"ldap": 389, "ldaps": 636}
PAGE: Final = 200
"""Entries asked for at once; a person with two keys takes some 1 KiB."""
MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of a page: 200 entries, and one of them a large group."""
MAX_TOLD: Final = 40 * 1024
"""Bytes of entries in one answer to policyd: a message holds 64 KiB. The rest of the page waits for the next call."""
MAX_VALUE: Final = 8 * 1024
"""Bytes of one value; larger ones are left out. The longest RSA key takes 3 KiB."""
MAX_DN: Final = 1024
SMALLER: Final = 5
"""Entries asked for where a server refuses PAGE; OpenLDAP does if `limits` says size.pr."""
KEPT: Final = 4
"""Searches between two pages; policyd has one."""
KEPT_SECONDS: Final = 30.0

_STARTTLS: Final = "1.3.6.1.4.1.1466.20037"
_SUCCESS, _TOO_MUCH = 0, 11  # adminLimitExceeded

Entry = tuple[str, dict[str, list[bytes]]]


async def call(request: LdapCall, reach: Reach) -> Called:
    """What came of it; never raises for what the other side does."""
    return await answered(request, _made(request, reach))


async def answered(request: LdapCall | LdapPassword, made: Awaitable[Called]) -> Called:
    """What came of it in time; whatever the other side does is an answer with an `error`."""
    seconds = min(max(request.seconds, 0.1), MAX_SECONDS)
    try:
        with trio.fail_after(seconds):
            return await made
    except trio.TooSlowError:
        error = f"gave no whole answer within {seconds:g} s"
    except (Unreachable, BadAnswer) as problem:
        error = str(problem)
    except ImportError:
        error = "cannot be called: the courier is installed without the extra `ldap`"
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as problem:
        error = tls_problem(problem) or "broke the connection off"
    return Called(task=request.task, error=error)


async def _made(request: LdapCall, reach: Reach) -> Called:
    if not request.bind or not request.password:
        # RFC 4513 section 5.1.2: a name without a password binds as nobody, and is answered with success.
        raise Unreachable("is not asked without a name and a password")
    search = _kept.pop(request.after, None) if request.after else None
    if request.after and (search is None or search.asked != _asked(request)):
        raise Unreachable("was asked for a page that is no longer there")
    if search is None:
        line = await Line.connect(request, reach)
        search = _Search(line, _asked(request))
    whole = False
    try:
        if not request.after and (status := await search.line.bind(request.bind, request.password)) != _SUCCESS:
            return Called(task=request.task, status=status)
        if request.base:
            await search.fill(request)
            whole = not search.status
        if not whole:
            return Called(task=request.task, status=search.status)
        return Called(task=request.task, entries=search.some(), next=_keep(search))
    finally:
        if not any(search is kept for kept in _kept.values()):
            search.line.close()


# --- searches between two pages ---------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Search:
    """`cookie` is the server's for its next page; None before the first, empty after the last."""

    line: "Line"
    asked: tuple[object, ...]
    cookie: bytes | None = None
    size: int = PAGE
    entries: deque[Entry] = field(default_factory=deque)
    status: int = _SUCCESS

    @property
    def is_over(self) -> bool:
        return not self.entries and self.cookie == b""

    async def fill(self, request: LdapCall) -> None:
        """One more page, if none of the last one is left."""
        if self.entries or self.cookie == b"":
            return
        before = self.cookie
        found, self.cookie, self.status = await self.line.page(request, before or b"", self.size)
        if before is None and self.status == _TOO_MUCH and not found:
            self.size = SMALLER
            found, self.cookie, self.status = await self.line.page(request, b"", self.size)
        self.entries.extend(part for entry in found for part in _parts(entry))

    def some(self) -> list[Entry]:
        """As many as one answer holds."""
        told: list[Entry] = []
        size = 0
        while self.entries and size + _size(self.entries[0]) <= MAX_TOLD:
            size += _size(self.entries[0])
            told.append(self.entries.popleft())
        return told


_kept: Final[dict[bytes, _Search]] = {}


def _keep(search: _Search) -> bytes:
    """The name that it is found under; empty if it is over."""
    if search.is_over:
        return b""
    while len(_kept) >= KEPT:
        _kept.pop(next(iter(_kept))).line.close()
    name = secrets.token_bytes(16)
    _kept[name] = search
    trio.lowlevel.spawn_system_task(_forget, name, search)
    return name


async def _forget(name: bytes, search: _Search) -> None:
    await trio.sleep(KEPT_SECONDS)
    if _kept.pop(name, None) is not None:
        search.line.close()


def _asked(request: LdapCall) -> tuple[object, ...]:
    """A page is given to who asks the same with the same password."""
    return (request.url, request.bind, request.password, request.base, request.filter, *request.attributes)


def _size(entry: Entry) -> int:
    return len(entry[0]) * 4 + sum(
        len(name) + 8 + sum(len(value) + 8 for value in values) for name, values in entry[1].items()
    )


def _parts(entry: Entry) -> list[Entry]:
    """An entry that is too large for one answer as several of the same name, each with some of the values."""
    if _size(entry) <= MAX_TOLD:
        return [entry]
    parts: list[Entry] = []
    for name, values in entry[1].items():
        held: list[bytes] = []
        for value in values:
            held.append(value)
            if _size((entry[0], {name: held})) > MAX_TOLD - MAX_VALUE - 8:
                parts.append((entry[0], {name: held}))
                held = []
        if held:
            parts.append((entry[0], {name: held}))
    return parts


# --- one connection ---------------------------------------------------------------------------------


class Line:
    """Connected, encrypted and verified; one request at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        from sansldap import LDAPClient

        self._socket = stream
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        self._client = LDAPClient()
        self._read = bytearray()
        self._total = 0  # bytes so far

    @classmethod
    async def connect(cls, request: LdapCall | LdapPassword, reach: Reach) -> "Line":
        try:
            url = urlsplit(request.url)
            host, port = url.hostname or "", url.port if url.port is not None else PORTS.get(url.scheme, 0)
        except ValueError:
            host, port = "", 0
        if url.scheme not in PORTS or not host or not port:
            raise Unreachable("has no address like ldaps://HOST")
        context = tls_context(request.trust)
        line = cls(await _connected(await reach.addresses(host, port), port))
        try:
            if url.scheme == "ldap":
                await line._start_tls()
            # Nothing but the handshake goes before this: a password in the clear is everybody's.
            encrypted = trio.SSLStream(line._socket, context, server_hostname=host, https_compatible=True)
            await encrypted.do_handshake()
            line._stream = encrypted
        except BaseException:
            line.close()
            raise
        return line

    async def _start_tls(self) -> None:
        from sansldap import ExtendedResponse

        self._client.extended_request(_STARTTLS)
        answer = await self._answer()
        if not isinstance(answer, ExtendedResponse) or answer.result.result_code != _SUCCESS:
            raise Unreachable("offers no STARTTLS, and nothing is sent in the clear")
        if self._read:
            # Attack: who sits on the way puts an answer behind this one, to be taken for one that came encrypted.
            raise Unreachable("said something in the clear after STARTTLS")

    async def bind(self, name: str, password: bytes) -> int:
        """The result code."""
        from sansldap import BindResponse

        try:
            self._client.bind_simple(name, password.decode())
        except UnicodeDecodeError:  # RFC 4513 section 5.1: passwords are UTF-8
            raise Unreachable("takes no password that is not UTF-8") from None
        answer = await self._answer()
        if not isinstance(answer, BindResponse):
            raise BadAnswer("gave another answer than one to a bind")
        return int(answer.result.result_code)

    async def page(self, request: LdapCall, cookie: bytes, size: int) -> tuple[list[Entry], bytes, int]:
        """Entries, the cookie of the next page, and the result code."""
        from sansldap import (
            LDAPFilter,
            PagedResultControl,
            SearchResultDone,
            SearchResultEntry,
            SearchResultReference,
        )

        wanted = {name.lower(): name for name in request.attributes}
        try:
            what = LDAPFilter.from_string(request.filter)
        except (ValueError, RecursionError):
            raise Unreachable("was given a filter that is none") from None
        self._client.search_request(
            request.base, filter=what, attributes=request.attributes, time_limit=int(request.seconds) or 1,
            controls=[PagedResultControl(critical=True, size=size, cookie=cookie)],
        )  # fmt: skip
        found: list[Entry] = []
        before = self._total
        while True:
            match await self._answer():
                case SearchResultEntry() as entry:
                    found.append(_entry(entry, wanted))
                case SearchResultReference():
                    pass  # elsewhere: not followed
                case SearchResultDone() as done:
                    pages = [one.cookie for one in done.controls if isinstance(one, PagedResultControl)]
                    return found, pages[0] if pages else b"", int(done.result.result_code)
                case _:
                    raise BadAnswer("gave another answer than one to a search")
            if len(found) > size:
                raise BadAnswer(f"sent more than the {size} entries that were asked for")
            if self._total - before > MAX_ANSWER:
                raise BadAnswer(f"sent more than {MAX_ANSWER // 1024 // 1024} MiB")

    async def _answer(self) -> Any:
        """The next message, after sending what waits."""
        return decoded(self._client, await self.exchange(self._client.data_to_send()))

    async def exchange(self, out: bytes) -> bytes:
        """Send this, and the next whole message that comes."""
        if out:
            await self._stream.send_all(out)
        while not (size := first_message(self._read)):
            data = await self._stream.receive_some(65536)
            if not data:
                raise Unreachable("broke the connection off")
            self._total += len(data)
            self._read += data
        message, self._read = bytes(self._read[:size]), self._read[size:]
        return message

    def close(self) -> None:
        self._socket.socket.close()


def decoded(client: Any, message: bytes) -> Any:
    """What one message says. BadAnswer for whatever the decoder stumbles over: fuzzing found an IndexError."""
    try:
        (answer,) = client.receive(message)
    except Exception:
        raise BadAnswer("gave no proper LDAP answer") from None
    return answer


async def _connected(addresses: list[str], port: int) -> trio.SocketStream:
    problem: OSError | None = None
    for address in addresses:
        sock = trio.socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            await sock.connect((address, port))
        except OSError as error:
            problem = error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return trio.SocketStream(sock)
    raise Unreachable(f"cannot be reached: {os.strerror(problem.errno or 0).lower()}" if problem else "has no address")


def _entry(entry: Any, wanted: dict[str, str]) -> Entry:
    """Its name and what was asked for of it, under the names it was asked for with."""
    if len(entry.object_name) > MAX_DN:
        raise BadAnswer(f"sent a name of more than {MAX_DN} characters")
    values: dict[str, list[bytes]] = {}
    for attribute in entry.attributes:
        if name := wanted.get(attribute.name.lower()):
            values.setdefault(name, []).extend(value for value in attribute.values if len(value) <= MAX_VALUE)
    return entry.object_name, values
