"""Commands, from an operator's socket or over ssh with the person's rights: what there is, and what was done."""

from policy.messages.base import Message


class Whoami(Message):
    pass


class Reachable(Message):
    """The targets and accounts this person may use now."""


class PersonAdd(Message):
    """`reason`, here and below: why, for the audit trail."""

    name: str
    roles: list[str] = []
    keys: list[str] = []  # authorized_keys lines
    password: str = ""
    mail: str = ""
    reason: str = ""


class PersonSet(Message):
    name: str
    add_roles: list[str] = []
    remove_roles: list[str] = []
    add_keys: list[str] = []
    remove_keys: list[str] = []  # SHA256 fingerprints
    password: str = ""
    disabled: bool | None = None
    mail: str | None = None  # "none": none any more
    reason: str = ""


class PersonOffboard(Message):
    """`heir` takes over what the person owns; without one that must be nothing."""

    name: str
    heir: str = ""
    reason: str = ""


class PersonList(Message):
    """Lists come in pages: asked again with `after` = `next` of the Rows before, until that is empty."""

    after: str = ""
    limit: int = 0  # rows; 0: as many as one message holds


class PersonShow(Message):
    name: str


class TargetAdd(Message):
    name: str
    address: str  # HOST[:PORT]
    protocol: str = "ssh"
    labels: dict[str, str] = {}
    host_keys: list[str] = []  # known_hosts or authorized_keys style lines
    scan: bool = False  # fetch and pin what the target shows now
    reason: str = ""


class TargetSet(Message):
    """Change a target. Labels decide which rules are about it, so this is never an owner's to do."""

    name: str
    address: str = ""  # "": as it is
    set_labels: dict[str, str] = {}
    remove_labels: list[str] = []
    add_host_keys: list[str] = []
    remove_host_keys: list[str] = []  # SHA256 fingerprints
    reason: str = ""


class TargetRemove(Message):
    name: str
    reason: str = ""


class TargetList(Message):
    after: str = ""
    limit: int = 0


class TargetShow(Message):
    name: str


class TargetHostkey(Message):
    """Replace or add pinned keys. `accept` names the fingerprint that a scan must find."""

    name: str
    accept: str = ""
    forget: str = ""
    reason: str = ""


class AccountAdd(Message):
    account: str
    target: str
    password: str = ""
    private_key: str = ""  # OpenSSH PEM, unencrypted on the wire of this socket only
    user_ca: bool = False
    reason: str = ""


class AccountRemove(Message):
    account: str
    target: str
    reason: str = ""


class AccountList(Message):
    target: str = ""
    after: str = ""
    limit: int = 0


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
    after: str = ""
    limit: int = 0


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
    about: str = ""  # a person: what they did, and what was done to or for them
    before: int = 0  # only rows with a lower number; 0: the newest


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
    about: str = ""


class AuditVerify(Message):
    pass


class Reload(Message):
    """Read policy.toml again. A bad file keeps the old rules and is answered with what is wrong."""

    reason: str = ""


class Inventory(Message):
    """What there is, as an inventory file says it, in pages: `kind` is persons, targets or accounts. No secrets.

    Cells that hold several values (keys, labels, host keys, scopes) hold them line by line.
    """

    kind: str
    after: str = ""


class Rows(Message):
    """A table for people and programs. `next`: more follow, asked for with it as `after`."""

    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    next: str = ""


class Done(Message):
    """What was changed, in words; `data` for --json."""

    text: str
    data: dict[str, str] = {}
