"""Answers of policyd for words over ssh: lists that come in pages, put together."""

from typing import Any, Final

import msgspec

from bastion.ssh.upstream import refused
from policy.messages import Done, Revealed, Rows

MOST_ROWS: Final = 20_000
"""Rows of one list: twice the targets we are made for; more would only fill the gateway's memory."""


async def whole(policy: Any, question: Any) -> Rows | Done | Revealed:
    """The answer; of a list in pages, all of them. The refusal is raised."""
    answer = await answered(policy, question)
    rows: list[list[str]] = []
    while isinstance(answer, Rows):
        rows += answer.rows
        if not answer.next or not hasattr(question, "after") or question.after == answer.next or len(rows) > MOST_ROWS:
            answer.rows = rows
            break
        question = msgspec.structs.replace(question, after=answer.next)
        answer = await answered(policy, question)
    return answer


async def answered(policy: Any, question: Any) -> Rows | Done | Revealed:
    """One answer; what it refuses is raised."""
    answer = await policy.ask(question)
    if not isinstance(answer, Rows | Done | Revealed):
        raise refused(answer)
    return answer
