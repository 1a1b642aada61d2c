"""Passwords of accounts checked out for a time: exclusive, shown once, changed when they come back."""

from policy.messages.base import Message


class CheckoutTake(Message):
    """Answered with Revealed, whose data holds `checkout` and `ends`. `seconds` 0: the most that is allowed."""

    account: str
    target: str
    seconds: int = 0
    ticket: str = ""
    reason: str = ""


class CheckoutReturn(Message):
    """`checkout` is an id, or ACCOUNT@TARGET. `force`: somebody else's, with the right to kill, and a reason."""

    checkout: str
    force: bool = False
    reason: str = ""


class CheckoutList(Message):
    """Who has what now: one's own, and those of accounts one tends; everybody's for auditors."""

    all: bool = False  # those that came back, too
    after: str = ""
    limit: int = 0
