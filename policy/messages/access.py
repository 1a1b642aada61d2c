"""Just-in-time access: requests, decisions, grants, tokens, reviews, watching; second factors of one's own.

Each of them is usable by a person over ssh, by an operator on this machine, and by the console, and is answered with
Done, Rows or Refused. Times are RFC 3339 text, empty for now or never; `seconds` are whole seconds, 0 for the most that
the rule allows; `kinds` are ChannelKinds, empty for all that the rule allows.
"""

from policy.messages.base import Message

# --- requests and decisions -------------------------------------------------------------------------


class RequestAccess(Message):
    """Ask for access to an account. Done: `request` and `state`, or `grant` when nobody needs to approve."""

    account: str
    target: str
    kinds: list[str] = []
    start: str = ""
    seconds: int = 0
    uses: int = 0  # sessions; 0: any number
    ticket: str = ""
    reason: str = ""
    break_glass: bool = False


class RequestAwait(Message):
    """Answered with the request's `state` as soon as it is no longer pending, or after `seconds` (at most 30)."""

    request: str
    seconds: float = 25.0


class RequestList(Message):
    """One's own and those one may decide; operators and auditors see all."""

    all: bool = False  # closed ones too


class RequestShow(Message):
    request: str


class RequestCancel(Message):
    request: str


class Decide(Message):
    """Approve or deny, as the person who speaks."""

    request: str
    approve: bool
    comment: str = ""


class Notices(Message):
    """What waits for this person: requests to decide, reviews to write, sessions to look at, grants about to end."""


# --- grants -----------------------------------------------------------------------------------------


class GrantAdd(Message):
    """Given without a request, by an approver of the rule, an owner or an administrator."""

    person: str
    account: str
    target: str
    kinds: list[str] = []
    start: str = ""
    seconds: int = 0
    uses: int = 0
    reason: str = ""


class GrantList(Message):
    person: str = ""  # "": one's own; everybody's for operators and auditors
    all: bool = False  # those that are over too


class GrantRevoke(Message):
    """Live sessions that rest on it end at once."""

    grant: str
    reason: str = ""


class TokenAdd(Message):
    """A grant with a secret that logs in by itself: `ticket-...` as login name or password. Shown once."""

    account: str
    target: str
    person: str = ""  # who will use it; "": oneself
    kinds: list[str] = []
    seconds: int = 3600
    uses: int = 1
    reason: str = ""


class ReviewList(Message):
    all: bool = False  # written ones too


class ReviewWrite(Message):
    """What was done with a broken glass, judged by somebody else than who broke it."""

    grant: str
    text: str


# --- four eyes --------------------------------------------------------------------------------------


class WatchBegin(Message):
    """This person looks at a session from now on; what waited for a watcher goes on."""

    session: str


class WatchEnd(Message):
    session: str


# --- second factors ---------------------------------------------------------------------------------


class MfaEnrol(Message):
    """A TOTP secret, in the answer once. One's own (`person` empty) counts after MfaConfirm, another's at once."""

    person: str = ""
    reason: str = ""


class MfaConfirm(Message):
    """The first code of what was enrolled last: only then is it asked for. Done carries recovery codes, once."""

    code: str


class MfaList(Message):
    person: str = ""


class MfaRemove(Message):
    """One of one's own, while a factor as strong remains or the rules ask for none."""

    ident: str


class MfaReset(Message):
    """All of another person."""

    person: str
    reason: str = ""


class MfaRecovery(Message):
    """New recovery codes; the old ones are void."""

    person: str = ""


class MfaIssue(Message):
    """A code for one login of a person who lost the phone; told them by whoever asked. Shown once."""

    person: str
    seconds: int = 3600
    reason: str = ""


# --- persons ----------------------------------------------------------------------------------------


class Invite(Message):
    """A new person, or one without keys, takes their first key along: `ssh join-...@bastion`. Shown once."""

    name: str
    roles: list[str] = []
    seconds: int = 72 * 3600
    reason: str = ""


class OwnerAdd(Message):
    """`scope`: a target, `label=value`, or `*`. Owners administer its accounts and approve where a rule says so."""

    person: str
    scope: str
    reason: str = ""


class OwnerRemove(Message):
    person: str
    scope: str
    reason: str = ""


class OwnerList(Message):
    person: str = ""


class WhoCan(Message):
    """Persons who may come to a target, by which rule and with what in hand.

    Rows of person, account, channels and ways, as many as one message holds; asked again with `after` = the person and
    account of the last row, with a blank between, until there are none.
    """

    target: str
    account: str = ""
    channel: str = ""
    after: str = ""


class WhatCan(Message):
    """Accounts and targets that a person may come to; rows of target, account, channels and ways, as with WhoCan."""

    person: str
    channel: str = ""
    after: str = ""
