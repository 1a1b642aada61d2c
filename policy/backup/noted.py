"""The event of a backup."""

from typing import Final

from policy.authority import Authority
from policy.conversation import Conversation
from policy.messages import BackupBegin, Done
from policy.naming import CommandRefused

MAX_RECIPIENTS: Final = 20  # as policy.backup.sealing


async def backup_begin(desk: Authority, talk: Conversation, request: BackupBegin) -> Done:
    """On disk before the backup reads the trail, so each backup holds the event of itself."""
    if not 0 < len(request.recipients) <= MAX_RECIPIENTS:
        raise CommandRefused(f"{len(request.recipients)} recipients, want 1 to {MAX_RECIPIENTS}", code=64)
    detail = {f"recipient-{at:02}": word for at, word in enumerate(request.recipients, 1)}
    await desk.ledger.note(talk.event("backup", request.to, detail, why=request.reason), durable=True)
    return Done(text="noted")
