"""What policyd has a gateway worker do on a target: change a secret, and log in to see which one holds."""

from policy.messages.base import Message
from policy.messages.doors import Grant

# The worker dials with the Grant, asks Credential and Sign on the same conversation, tells SessionStarted and
# SessionEnded, records the session as any other, and answers each push with one Worked.


class ChangeSecret(Message):
    """Push to a worker: change what opens `account` on the target of the Grant.

    `how` is a word of policy.rotation: passwd (the account itself), chpasswd (a privileged account, perhaps by
    sudo), authorized-keys. The grant's account does it; what it changes may be another's.
    """

    task: int
    grant: Grant
    how: str
    account: str
    old: bytes = b""  # the password in force, where the target asks for it; or the public key blob to take away
    new: bytes = b""  # the new password; or the authorized_keys line to add

    def __repr__(self) -> str:
        return f"ChangeSecret({self.task} {self.how} {self.account}@{self.grant.target})"


class VerifyLogin(Message):
    """Push to a worker: log in afresh with the credential policyd gives for this Grant, do nothing, and leave."""

    task: int
    grant: Grant


class Worked(Message):
    """The worker's answer.

    `outcome`: done | refused (the target said no: nothing was changed, or the login does not open) | unreachable
    (nothing was said to the target) | unknown (the line broke, or it did not answer, after it had been told).
    """

    task: int
    outcome: str
    detail: str = ""  # for the operator, one line, no secret
