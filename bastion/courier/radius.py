"""One Access-Request (RFC 2865) over UDP, to servers in turn until one answers. The packets: `radius_wire`."""

import os
import re
import secrets
import socket
from typing import Final

import structlog
import trio

from bastion.courier import radius_wire as wire
from bastion.courier.reach import Reach, Unreachable
from policy.messages import Called, RadiusCall

PORT: Final = 1812
MAX_SECONDS: Final = 60.0
MAX_SERVERS: Final = 8
RETRY_SECONDS: Final = 3.0
"""The same packet once more after this long (RFC 2865 section 2.4): UDP loses some. A server knows it by its
identifier and authenticator, and asks nobody's phone twice (RFC 5080 section 2.2.2)."""

_SERVER: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")

log = structlog.get_logger()


async def call(request: RadiusCall, reach: Reach) -> Called:
    """What came of it; never raises for what the other side does. `status`: the answer's code, `next`: its state."""
    servers = reach.silent.last(request.servers[:MAX_SERVERS], trio.current_time())
    if not servers:
        return Called(task=request.task, error="has no server")
    seconds, error = min(max(request.seconds, 0.1), MAX_SECONDS), "gave no answer in time"
    ends = trio.current_time() + seconds
    for number, server in enumerate(servers):
        # Each of those left has its share of what is left, so that a dead first one costs no more than that.
        share = (ends - trio.current_time()) / (len(servers) - number)
        try:
            with trio.move_on_after(share):
                answer = await _asked(request, server, reach)
                reach.silent.answered(server)
                return Called(
                    task=request.task, status=answer.code, values=[answer.message] if answer.message else [],
                    next=answer.state,
                )  # fmt: skip
        except (Unreachable, OSError) as problem:
            error = str(problem) if isinstance(problem, Unreachable) else "cannot be reached"
        except ValueError:
            return Called(task=request.task, error="was given more than a RADIUS packet holds")
        reach.silent.silent(server, trio.current_time())
        log.warning("radius", server=server[:80], problem=error)
    return Called(task=request.task, error=error)


async def _asked(request: RadiusCall, server: str, reach: Reach) -> wire.Answer:
    """Until it answers, or the caller's patience ends. What does not prove the secret is no answer, and is passed by:
    anybody can send a packet with a false source, and must not get a person turned away by it."""
    matched = _SERVER.fullmatch(server)
    if matched is None or not 0 < int(matched[3] or PORT) < 65536:
        raise Unreachable("has no address like HOST[:PORT]")
    port = int(matched[3] or PORT)
    address = (await reach.addresses(matched[1] or matched[2], port))[0]
    packet = wire.access_request(
        secrets.randbelow(256), os.urandom(wire.AUTHENTICATOR), request.secret,
        user=request.user, password=request.password, nas=request.nas, state=request.state,
    )  # fmt: skip
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.connect((address, port))  # the kernel passes by what comes from elsewhere
        while True:
            await sock.send(packet)
            with trio.move_on_after(RETRY_SECONDS):
                return await _answer(sock, packet, request.secret)


async def _answer(sock: trio.socket.SocketType, packet: bytes, secret: bytes) -> wire.Answer:
    while True:
        data = await sock.recv(wire.MAX_PACKET + 1)
        try:
            return wire.read_answer(data, packet, secret)
        except wire.BadPacket as problem:
            log.warning("radius-answer", problem=str(problem))
