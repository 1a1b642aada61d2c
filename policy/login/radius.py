"""Codes that a RADIUS server judges: `[policy.radius]` of bastion.toml. The courier does the talking.

Whatever is not a clear yes of a server that knows the shared secret is a no.
"""

import os
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from policy.authority import Authority
from policy.messages import RadiusCall
from policy.outside.secrets import OutsideError, read_secret
from policy.records import Person

ACCEPT: Final = 2
CHALLENGE: Final = 11
"""Codes of RFC 2865 section 3; anything else is a no."""
MAX_STATE: Final = 253  # bytes: one attribute

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    ok: bool = False
    question: str = ""
    state: bytes = b""


def serves(desk: Authority, person: Person) -> bool:
    """Whether this person's codes are judged there."""
    settings = desk.settings.radius
    return bool(settings.servers) and ("*" in settings.roles or not person.roles.isdisjoint(settings.roles))


async def ask(desk: Authority, person: Person, answer: str, state: bytes) -> Answered:
    settings = desk.settings.radius
    try:
        secret = await trio.to_thread.run_sync(read_secret, settings.secret, desk.config.path.parent, os.environ)
    except OutsideError as error:
        log.error("radius", problem=str(error))
        return Answered()
    if not secret:
        log.error("radius", problem="`policy.radius.secret` is empty")
        return Answered()
    called = await desk.couriers.radius(
        RadiusCall(
            task=0, servers=list(settings.servers), secret=secret.encode(), user=person.name,
            password=answer.encode(), state=state, nas=settings.nas, seconds=settings.seconds,
        )
    )  # fmt: skip
    if called.error:
        log.error("radius", person=person.name, problem=called.error)
        return Answered()
    if called.status == CHALLENGE:
        question = "".join(char for char in "".join(called.values) if char.isprintable())
        return Answered(question=f"{question.strip() or 'code:'} ", state=called.next[:MAX_STATE])
    return Answered(ok=called.status == ACCEPT)
