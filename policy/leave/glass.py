"""What is owed for a broken glass: a review by somebody else, open in every list until it is written."""

import time

from policy.authority import Authority
from policy.conversation import Conversation
from policy.leave.requests import text
from policy.messages import Done, ReviewList, ReviewWrite, Rows
from policy.naming import CommandRefused, shown_time
from policy.operators import names_behind
from policy.sessions.words import place_of, printable
from policy.store import Conflict, Tables

MAX_REVIEW = 4000
"""Characters: a page."""


async def review_list(desk: Authority, talk: Conversation, request: ReviewList) -> Rows:
    await desk.ledger.note(talk.event("view", "reviews"))
    found = await desk.ledger.read(lambda t: t.access.reviews(all=request.all))
    return Rows(
        columns=["grant", "person", "account", "target", "reason", "opened", "sessions", "written", "author", "text"],
        rows=[
            [
                one.grant.id, one.grant.person, one.grant.account, one.grant.target, one.grant.reason,
                shown_time(one.opened), str(one.grant.used), shown_time(one.written), one.author, one.text,
            ]
            for one in found
        ],
    )  # fmt: skip


async def review_write(desk: Authority, talk: Conversation, request: ReviewWrite) -> Done:
    words = text(request.text, "review", MAX_REVIEW)
    if not words:
        raise CommandRefused("the review says nothing", "say what was done, and whether it had to be: --text ...")
    found = await desk.ledger.read(lambda t: t.access.reviews(all=True))
    owed = next((one for one in found if one.grant.id == request.grant), None)
    if owed is None:
        raise CommandRefused(f"no review is owed for `{printable(request.grant)}`", "see: ssh bastion review list")
    if owed.grant.person in names_behind(talk):
        raise CommandRefused("nobody reviews themselves, under whatever name", "ask somebody else", code=77)
    event = talk.event("review", owed.grant.id, {"person": owed.grant.person, "place": place_of(owed.grant)}, why=words)

    def change(t: Tables) -> None:
        if not t.access.write_review(owed.grant.id, talk.who, words, time.time_ns()):
            raise Conflict("this review is written already")

    try:
        await desk.ledger.write(change, event, durable=True)
    except Conflict as error:
        raise CommandRefused(str(error), "see: ssh bastion review list --all") from None
    return Done(text=f"reviewed `{owed.grant.id}` of {owed.grant.person}", data={"grant": owed.grant.id})
