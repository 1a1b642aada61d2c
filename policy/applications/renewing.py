"""A token changed for a newer one, by the application itself: before it ends, from the place that it is good from.

    made by its owner --renewed--> the next --renewed--> ...   until the application's `renewable` is over

INVARIANT: what came of a token by renewing is good from where that was, counts as made by who made it, and is taken
back with it. `renewable` is counted from the first one, and set by administrators: an owner makes tokens for a day.
"""

import os
import time
from base64 import b32encode
from dataclasses import replace
from secrets import token_hex
from typing import Final

from policy.applications.judging import TOKEN_PREFIX, digest_of
from policy.applications.serving import SECOND, denied, still
from policy.authority import Authority
from policy.conversation import Conversation
from policy.messages import Refused, Renewed, RenewToken
from policy.naming import shown_time
from policy.store import Conflict, Tables

SECRET_BYTES: Final = 32
OVERLAP: Final = 300 * SECOND
"""Nanoseconds that the one before is good: for an answer that got lost, and for other instances that read it."""
MAX_TOKENS: Final = 64
"""In force at once for one application: one for each of its instances, and a new one beside each."""
NOT_RENEWED: Final = "this token is not renewed any more"
NOT_RENEWED_HINT: Final = "the application's owner makes another: ssh BASTION application token NAME"


def new_secret() -> str:
    return TOKEN_PREFIX + b32encode(os.urandom(SECRET_BYTES)).decode().rstrip("=").lower()


async def renew_token(desk: Authority, talk: Conversation, _: RenewToken) -> Renewed | Refused:
    known = await still(desk, talk)
    if isinstance(known, Refused):
        return known
    old, one, now = known.token, known.application, time.time_ns()

    async def no(why: str) -> Refused:
        return await denied(
            desk, talk, f"denied {one.name}", "application-token-refused", why, NOT_RENEWED, NOT_RENEWED_HINT,
            what=old.id if old is not None else "",
        )  # fmt: skip

    if old is None:
        return await no("there is none: known by what binds it to this machine")
    end = old.since + one.renewable * SECOND
    expires = min(now + old.seconds * SECOND, end)
    if expires <= old.expires:
        return await no("as late as an administrator lets it be" if one.renewable else "its tokens are not renewable")
    if len(desk.applications.tokens(one.name, now)) >= MAX_TOKENS:
        return await no(f"there are {MAX_TOKENS} tokens")
    secret, overlap = new_secret(), now + OVERLAP
    new = replace(old, id=f"t{token_hex(5)}", digest=digest_of(secret), made=now, expires=expires)

    def renew(t: Tables) -> None:
        if not t.applications.renew_token(old, new, overlap):
            raise Conflict("taken back meanwhile")

    detail = {"token": old.id, "new token": new.id, "until": shown_time(expires), "first": old.first}
    try:
        await desk.ledger.write(renew, talk.event("application-token-renew", one.name, detail), durable=True)
    except Conflict as error:
        return await no(str(error))
    desk.applications.renewed(old, new, overlap)
    left = min(old.expires, overlap)
    return Renewed(
        token=secret.encode(), seconds=(expires - now) // SECOND, longest=(end - now) // SECOND,
        overlap=max(0, (left - now) // SECOND),
    )  # fmt: skip
