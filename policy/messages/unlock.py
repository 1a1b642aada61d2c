"""What opens a vault that policyd found locked at its start: on the operators' socket, and nowhere else."""

from policy.messages.base import Message


class VaultUnlock(Message):
    passphrase: bytes

    def __repr__(self) -> str:
        return "VaultUnlock(...)"
