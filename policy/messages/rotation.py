"""Work on accounts that policyd has a gateway worker do: changing what opens one, and logging in to see what does."""

from policy.messages.base import Message
from policy.messages.doors import Grant

# The worker dials with the Grant, asks Credential and Sign on the same conversation, tells SessionStarted and
# SessionEnded, records the session as any other, and answers each push with one Worked within `seconds`.

DONE, REFUSED, UNREACHABLE, UNKNOWN = "done", "refused", "unreachable", "unknown"
"""What `Worked.outcome` may be; whatever else a worker says is UNKNOWN."""

PASSWD, CHPASSWD, AUTHORIZED_KEYS = "passwd", "chpasswd", "authorized-keys"
"""What `ChangeSecret.how` may be."""


class ChangeSecret(Message):
    """Push to a worker: change what opens `account` on the target of the Grant.

    `how`: passwd (the account itself, which knows `old`), chpasswd (a privileged account, by sudo if it is not root),
    authorized-keys. The grant's account does it; what it changes may be another's.
    """

    task: int
    grant: Grant
    how: str
    account: str
    old: bytes = b""  # the password in force, where the target asks for it; or the public key blob to take away
    new: bytes = b""  # the new password; or the authorized_keys line to add
    keep: bool = False  # authorized-keys: leave `old` in place for now; the new line takes over its options
    seconds: float = 90.0  # for all of it

    def __repr__(self) -> str:
        return f"ChangeSecret({self.task} {self.how} {self.account}@{self.grant.target})"


class VerifyLogin(Message):
    """Push to a worker: log in afresh with the credential policyd gives for this Grant, do nothing, and leave."""

    task: int
    grant: Grant
    seconds: float = 45.0


class Runner(Message):
    """First word of the process that runs operators' scripts."""

    pid: int


class RunScript(Message):
    """Push to the runner: run the script of this name, which its own configuration leads to a file.

    `action`: change | verify. The rest goes to the script as JSON on its standard input.
    """

    task: int
    script: str
    action: str
    account: str
    target: str
    address: str
    port: int
    old: bytes = b""
    new: bytes = b""
    seconds: float = 60.0

    def __repr__(self) -> str:
        return f"RunScript({self.task} {self.script} {self.action} {self.account}@{self.target})"


class Worked(Message):
    """The answer of a worker, or of the runner.

    `outcome`: done | refused (the target said no: nothing was changed, or the login does not open) | unreachable
    (the target was told nothing) | unknown (the line broke, or it did not answer, after it had been told).
    """

    task: int
    outcome: str
    detail: str = ""  # for the operator, one line, no secret


__all__ = [
    "ChangeSecret",
    "RunScript",
    "Runner",
    "VerifyLogin",
    "Worked",
]  # the words above are not for the package of all messages
