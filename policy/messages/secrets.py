"""Named secrets: kept, shown, lent and handed on. Values are bytes; nothing shows them but `Revealed`.

A name is a path of lower-case words, `folder/name`. A scope is such a name, a folder with `/` at its end, or
ACCOUNT@TARGET. `rights` are words of use, view and share; a subject is a person, `role:NAME` or `application:NAME`.
"""

from policy.messages.base import Message


class SecretAdd(Message):
    """Keep a new secret, of whoever says so; an operator, and nobody else, names another `owner`.

    `shared`: it may go to whoever its folder is shared with already.
    """

    name: str
    value: bytes
    kind: str = "generic"  # or password, key
    owner: str = ""
    note: str = ""
    shared: bool = False
    reason: str = ""


class SecretSet(Message):
    """A new version of the value, or another note. Its owner's to do."""

    name: str
    value: bytes | None = None
    note: str | None = None
    reason: str = ""


class SecretView(Message):
    """Answered with Revealed. `reason` has to be given."""

    name: str
    reason: str
    version: int = 0  # 0: the one in force


class SecretList(Message):
    """Names that the speaker may use, view or share; with `all`, for administrators and auditors, every name."""

    folder: str = ""
    all: bool = False
    after: str = ""
    limit: int = 0


class SecretShow(Message):
    """What is known of a secret but its value."""

    name: str


class SecretRemove(Message):
    name: str
    reason: str = ""


class SecretChown(Message):
    """Give a secret to another person: its owner, or an administrator, who gains nothing by it."""

    name: str
    owner: str
    reason: str = ""


class SecretShare(Message):
    """Lend: `seconds` 0 is for as long as the giver has it, and for ever where that is the owner."""

    scope: str
    subject: str
    rights: list[str]
    seconds: int = 0
    reason: str = ""


class SecretUnshare(Message):
    """Take a share back; what was passed on because of it goes with it."""

    share: str
    reason: str = ""


class SecretShares(Message):
    """Given by, or to, the speaker, or of what is theirs to share; everybody's for administrators and auditors."""

    scope: str = ""
    all: bool = False  # those that are over, too
    after: str = ""
    limit: int = 0


class Revealed(Message):
    """A secret in the clear, for the one who asked, once. `text` is what a person reads beside it."""

    name: str
    kind: str
    version: int
    value: bytes
    text: str = ""
    data: dict[str, str] = {}
