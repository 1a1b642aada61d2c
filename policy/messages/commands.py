"""Commands, from an operator's socket or over ssh with the person's rights: what there is, and what was done."""

from policy.messages.base import Message


class Whoami(Message):
    pass


class Reachable(Message):
    """The targets and accounts this person may use now."""


class CaLines(Message):
    """Public lines for clients (`@cert-authority`) and targets (`TrustedUserCAKeys`)."""


class PersonAdd(Message):
    name: str
    roles: list[str] = []
    keys: list[str] = []  # authorized_keys lines
    password: str = ""


class PersonSet(Message):
    name: str
    add_roles: list[str] = []
    remove_roles: list[str] = []
    add_keys: list[str] = []
    remove_keys: list[str] = []  # SHA256 fingerprints
    password: str = ""
    disabled: bool | None = None


class PersonOffboard(Message):
    """`heir` takes over what the person owns; without one that must be nothing."""

    name: str
    heir: str = ""


class PersonList(Message):
    pass


class PersonShow(Message):
    name: str


class TargetAdd(Message):
    name: str
    address: str  # HOST[:PORT]
    protocol: str = "ssh"
    labels: dict[str, str] = {}
    host_keys: list[str] = []  # known_hosts or authorized_keys style lines
    scan: bool = False  # fetch and pin what the target shows now


class TargetRemove(Message):
    name: str


class TargetList(Message):
    pass


class TargetShow(Message):
    name: str


class TargetHostkey(Message):
    """Replace or add pinned keys. `accept` names the fingerprint that a scan must find."""

    name: str
    accept: str = ""
    forget: str = ""


class AccountAdd(Message):
    account: str
    target: str
    password: str = ""
    private_key: str = ""  # OpenSSH PEM, unencrypted on the wire of this socket only
    user_ca: bool = False


class AccountRemove(Message):
    account: str
    target: str


class AccountList(Message):
    target: str = ""


class AccountShow(Message):
    account: str
    target: str


class Explain(Message):
    person: str
    account: str
    target: str
    channel: str = "shell"
    at: str = ""  # RFC 3339; empty: now
    source: str = ""


class DirectorySync(Message):
    """Take over what the directory says of its persons now. Rows: what was changed; with `plan`, what would be."""

    plan: bool = False


class DirectoryStatus(Message):
    """When it was read last, what is wrong, and which of its entries are nobody here."""


class SessionsList(Message):
    all: bool = False  # ended ones too


class SessionKill(Message):
    session: str
    reason: str


class AuditList(Message):
    """The newest events that fit all of this; empty fits everything."""

    since: str = ""  # RFC 3339
    until: str = ""
    event: str = ""  # kind of event
    who: str = ""  # a person, or a word of what stands for one, like an OS user
    what: str = ""  # account@target, account, target, person, session or ref
    limit: int = 100


class AuditShow(Message):
    ident: str  # number of a row, or the ref that somebody was shown


class AuditExport(Message):
    """Whole rows after number `after`, oldest first, as many as one message holds; no rows: that was all."""

    after: int = 0
    since: str = ""
    until: str = ""
    event: str = ""
    who: str = ""
    what: str = ""


class AuditVerify(Message):
    pass


class Reload(Message):
    """Read policy.toml again. A bad file keeps the old rules and is answered with what is wrong."""


class Rows(Message):
    """A table for people and programs."""

    columns: list[str]
    rows: list[list[str]]
    note: str = ""


class Done(Message):
    """What was changed, in words; `data` for --json."""

    text: str
    data: dict[str, str] = {}
