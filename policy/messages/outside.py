"""Calls to the outside that policyd has the courier make: policyd itself runs without a network.

`Courier` is the first word on the courier's socket. Each call is a push with a task number; the answer names it.
policy builds the requests and judges the answers; the courier knows nothing of tickets or persons.
"""

from policy.messages.base import Message


class Courier(Message):
    pid: int


class HttpCall(Message):
    """Push: one HTTP exchange, no redirects followed, TLS verified.

    `pick` are JSON pointers (RFC 6901): of an answer of any allowed length only these values come back, so that an
    issue with a long description fits into a message.
    """

    task: int
    method: str
    url: str
    headers: dict[str, str] = {}
    body: bytes = b""
    pick: list[str] = []
    seconds: float = 5.0
    trust: str = ""  # PEM of the only CAs to trust; empty: the system's

    def __repr__(self) -> str:
        return f"HttpCall({self.task} {self.method})"


class MailCall(Message):
    """Push: one mail by SMTP with STARTTLS or TLS; `url` is smtp(s)://HOST[:PORT]."""

    task: int
    url: str
    sender: str
    to: list[str]
    subject: str
    text: str
    user: str = ""
    password: str = ""
    seconds: float = 20.0
    trust: str = ""


class RadiusCall(Message):
    """Push: one Access-Request (RFC 2865) with Message-Authenticator, to the servers in turn."""

    task: int
    servers: list[str]  # HOST[:PORT]
    secret: bytes
    user: str
    password: bytes
    state: bytes = b""  # of a former Access-Challenge
    nas: str = "bastion"
    seconds: float = 10.0


class LdapCall(Message):
    """Push: bind and, when `base` is given, one page of a search. `url` is ldaps://... or ldap://... with STARTTLS."""

    task: int
    url: str
    bind: str
    password: bytes
    base: str = ""
    filter: str = ""
    attributes: list[str] = []
    after: bytes = b""  # cookie of the page before
    seconds: float = 10.0
    trust: str = ""


class LdapPassword(Message):
    """Push: bind, and set the password of one entry, by LDAPS or STARTTLS.

    `way`: extended (RFC 3062) or unicode (unicodePwd, as Active Directory has it). With `old` the entry's own password
    is changed, without it a privileged bind resets it. The answer's `values` begin with "told" once the change was
    sent: from then on an `error` means that nobody knows, and before it that nothing was changed.
    """

    task: int
    url: str
    bind: str
    password: bytes
    entry: str  # its distinguished name
    way: str
    new: bytes
    old: bytes = b""
    seconds: float = 20.0
    trust: str = ""


class Called(Message):
    """What came of a call. `error` is empty when there was an answer; `status` is HTTP's, RADIUS's or LDAP's code.

    `values` answer `pick` one by one as JSON text, "" for what is not there. LDAP: `entries`, and `next` for more.
    """

    task: int
    status: int = 0
    values: list[str] = []
    headers: dict[str, str] = {}
    entries: list[tuple[str, dict[str, list[bytes]]]] = []
    next: bytes = b""
    error: str = ""
