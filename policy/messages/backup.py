"""A backup, told to policyd before it is made: it is the whole vault, and belongs into the trail it contains."""

from policy.messages.base import Message


class BackupBegin(Message):
    to: str  # the file
    recipients: list[str]  # of age; their private keys open it
    reason: str = ""
