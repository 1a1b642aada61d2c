"""Messages to and from policyd: AF_UNIX SOCK_SEQPACKET, one message = one msgpack array `[id, body]`.

A request carries an id above 0 and its reply the same id; id 0 marks a push from policyd. One connection is
one *conversation*, of one of four sorts, fixed by its first request:

* `Hello`: one person's network connection at a gateway. Authentication, then decisions, for as long as
  that connection lives. When the conversation ends, policyd considers its sessions ended.
* `Worker`: a gateway worker offering to carry out tasks (pinning scans).
* `Admin`: an operator on this machine, known by SO_PEERCRED.
* `Viewing`: an auditor's tool on this machine, known by SO_PEERCRED, about to show recordings.

The table state -> request -> handler is in `policy.monitor`; anything outside it closes the socket.
"""

from typing import Final

import msgspec

from policy.model import Method, Outcome, ViewVerb

MAX_MESSAGE: Final = 64 * 1024


class _Message(msgspec.Struct, kw_only=True, tag=True, forbid_unknown_fields=True):
    """A msgpack map tagged with its class name. Its repr shows no field: some carry secrets."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


# --- first words ------------------------------------------------------------------------------------


class Hello(_Message):
    source: str  # the client's address
    source_port: int
    listener: str
    client: str  # its identification string, printable ASCII
    ssh_session: bytes  # the exchange hash: what signatures are bound to (RFC 4252 section 7)


class Worker(_Message):
    pid: int


class Admin(_Message):
    command: str  # argv of the operator, for the audit trail, secrets left out


# --- who --------------------------------------------------------------------------------------------
# `person` is the name claimed in the login string, or "". A key proves its owner: a claim that names another
# person is refused, a claim that names nobody is ignored (`ssh -J` sends the local user name). A password or a
# code proves only a person claimed by name or already proven by a first factor.


class OfferKey(_Message):
    """Would this key or certificate do? An offered key is not a proven key."""

    person: str
    blob: bytes


class ProveKey(_Message):
    """A signature over `signed` (RFC 4252 section 7); policyd verifies it itself."""

    person: str
    blob: bytes
    signed: bytes
    signature: bytes


class TryPassword(_Message):
    person: str
    password: bytes


class AskCode(_Message):
    """Start keyboard-interactive for this login."""

    person: str


class AnswerCode(_Message):
    person: str
    answers: list[str]


class Acceptable(_Message):
    ok: bool


class Challenge(_Message):
    name: str
    instructions: str
    prompts: list[tuple[str, bool]]  # text, echo


class Verdict(_Message):
    """`person` is set only when `outcome` is DONE."""

    outcome: Outcome
    next: list[Method] = []
    person: str = ""


# --- may --------------------------------------------------------------------------------------------


class Authorize(_Message):
    """May the authenticated person use `account` on `target`? Answered with Grant or Refused."""

    account: str
    target: str
    port: int = 0  # 0: the target's own
    via: str = "direct"  # direct | jump | menu
    ticket: str = ""
    reason: str = ""


class Grant(_Message):
    """Leave to dial one account on one target. Only policyd builds one (tests/test_shape.py proves it).

    `commitment_key` keys the commitments for input typed while the target's echo is off; policyd can derive
    it again from the session id, nobody else can.
    """

    session: str
    person: str
    account: str
    target: str
    address: str
    port: int
    host_keys: list[bytes]  # pinned public key blobs
    kinds: list[str]  # ChannelKind
    rule: str
    expires_in: float | None  # seconds from now
    idle: float | None  # seconds without traffic
    record_sync: bool  # demand the disk sync before each acknowledgement
    keep_content: bool  # keep file and forward content, not just digests
    commitment_key: bytes
    source: str

    def __repr__(self) -> str:
        return f"Grant({self.session} {self.person} {self.account}@{self.target})"


class OpenChannel(_Message):
    """May this session open one more channel of this kind, now? Answered with Allowed or Refused."""

    session: str
    kind: str  # ChannelKind
    detail: str = ""  # command, subsystem, or destination, as the person sent it


class Allowed(_Message):
    pass


class Refused(_Message):
    """`cause` and `hint` are for the person; `ref` is in the audit trail and the log."""

    code: int  # exit code: 64 69 75 76 77 78
    cause: str
    hint: str = ""
    ref: str = ""


# --- dial -------------------------------------------------------------------------------------------


class Credential(_Message):
    """What to log in to the target with. `session_key` is the gateway's public key for this handshake."""

    session: str
    session_key: bytes


class UsePassword(_Message):
    password: bytes


class UseKey(_Message):
    """The private key stays in policyd: ask `Sign` for each signature."""

    public: bytes  # SSH public key blob
    algorithms: list[str]


class UseCertificate(_Message):
    certificate: bytes  # SSH certificate blob for `session_key`


class Sign(_Message):
    session: str
    data: bytes
    algorithm: str


class Signature(_Message):
    blob: bytes  # SSH signature: string algorithm, string signature


class HostCertificate(_Message):
    """Certify the gateway's key for `target`. Asked on each connection of a person: refused, as for a name without a
    record, when the person could not come to use any account there. The certificate may serve others, too."""

    target: str
    public: bytes


class Certificate(_Message):
    blob: bytes
    expires_in: float


# --- while it lives ---------------------------------------------------------------------------------


class SessionStarted(_Message):
    session: str
    recording: str


class SessionEnded(_Message):
    session: str
    reason: str
    by: str = ""
    bytes_in: int = 0
    bytes_out: int = 0


class Report(_Message):
    """Something the audit trail must know: host-key-mismatch, target-unreachable, login-failed-at-target,
    recorder-lost, protocol-error. `session` may be empty when there was none yet."""

    session: str
    event: str
    detail: dict[str, str] = {}


class EndSession(_Message):
    """Push: close this session now and tell the person why. An empty id means every session of the conversation."""

    session: str
    by: str
    reason: str


class Scan(_Message):
    """Push to a worker: fetch the host keys of an address."""

    task: int
    address: str
    port: int


class Scanned(_Message):
    task: int
    keys: list[bytes]
    error: str = ""


# --- views of recordings, from an auditor's tool ----------------------------------------------------
# Who views is never in the message: it is who the kernel says is connected.


class Viewing(_Message):
    """Something of these recordings is about to be shown. Answered with Noted, once it is in the trail, or Refused."""

    verb: ViewVerb
    recordings: list[str]  # session ids, at most `policy.views.MAX_RECORDINGS`; a search of more says this again
    range: str = ""  # what of them: `channel 2`, `from 1:30`; empty: everything
    format: str = ""  # of an export
    reason: str = ""


class Viewed(_Message):
    """What came of it, when it is over. Without it, the end of the connection ends the view."""

    event: int  # that Noted named
    until_ms: int | None = None  # the furthest point that was shown
    length: int | None = None  # bytes that were written
    sha256: bytes = b""  # of what was written


class Noted(_Message):
    """It is in the audit trail, as row `event`, under this name."""

    event: int
    who: str


# --- commands, from an operator's socket or over ssh with the person's rights -----------------------


class Whoami(_Message):
    pass


class Reachable(_Message):
    """The targets and accounts this person may use now."""


class CaLines(_Message):
    """Public lines for clients (`@cert-authority`) and targets (`TrustedUserCAKeys`)."""


class PersonAdd(_Message):
    name: str
    roles: list[str] = []
    keys: list[str] = []  # authorized_keys lines
    password: str = ""


class PersonSet(_Message):
    name: str
    add_roles: list[str] = []
    remove_roles: list[str] = []
    add_keys: list[str] = []
    remove_keys: list[str] = []  # SHA256 fingerprints
    password: str = ""
    disabled: bool | None = None


class PersonOffboard(_Message):
    name: str


class PersonList(_Message):
    pass


class PersonShow(_Message):
    name: str


class TargetAdd(_Message):
    name: str
    address: str  # HOST[:PORT]
    protocol: str = "ssh"
    labels: dict[str, str] = {}
    host_keys: list[str] = []  # known_hosts or authorized_keys style lines
    scan: bool = False  # fetch and pin what the target shows now


class TargetRemove(_Message):
    name: str


class TargetList(_Message):
    pass


class TargetShow(_Message):
    name: str


class TargetHostkey(_Message):
    """Replace or add pinned keys. `accept` names the fingerprint that a scan must find."""

    name: str
    accept: str = ""
    forget: str = ""


class AccountAdd(_Message):
    account: str
    target: str
    password: str = ""
    private_key: str = ""  # OpenSSH PEM, unencrypted on the wire of this socket only
    user_ca: bool = False


class AccountRemove(_Message):
    account: str
    target: str


class AccountList(_Message):
    target: str = ""


class AccountShow(_Message):
    account: str
    target: str


class MfaEnrol(_Message):
    person: str


class MfaList(_Message):
    person: str


class MfaReset(_Message):
    person: str


class Explain(_Message):
    person: str
    account: str
    target: str
    channel: str = "shell"
    at: str = ""  # RFC 3339; empty: now
    source: str = ""


class SessionsList(_Message):
    all: bool = False  # ended ones too


class SessionKill(_Message):
    session: str
    reason: str


class AuditList(_Message):
    """The newest events that fit all of this; empty fits everything."""

    since: str = ""  # RFC 3339
    until: str = ""
    event: str = ""  # kind of event
    who: str = ""  # a person, or a word of what stands for one, like an OS user
    what: str = ""  # account@target, account, target, person, session or ref
    limit: int = 100


class AuditShow(_Message):
    ident: str  # number of a row, or the ref that somebody was shown


class AuditExport(_Message):
    """Whole rows after number `after`, oldest first, as many as one message holds; no rows: that was all."""

    after: int = 0
    since: str = ""
    until: str = ""
    event: str = ""
    who: str = ""
    what: str = ""


class AuditVerify(_Message):
    pass


class Reload(_Message):
    """Read policy.toml again. A bad file keeps the old rules and is answered with what is wrong."""


class Rows(_Message):
    """A table for people and programs."""

    columns: list[str]
    rows: list[list[str]]
    note: str = ""


class Done(_Message):
    """What was changed, in words; `data` for --json."""

    text: str
    data: dict[str, str] = {}


Command = (
    Whoami | Reachable | CaLines | PersonAdd | PersonSet | PersonOffboard | PersonList | PersonShow
    | TargetAdd | TargetRemove | TargetList | TargetShow | TargetHostkey
    | AccountAdd | AccountRemove | AccountList | AccountShow | MfaEnrol | MfaList | MfaReset
    | Explain | SessionsList | SessionKill | AuditList | AuditShow | AuditExport | AuditVerify | Reload
)  # fmt: skip
Request = (
    Hello | Worker | Admin | OfferKey | ProveKey | TryPassword | AskCode | AnswerCode
    | Authorize | OpenChannel | Credential | Sign | HostCertificate
    | SessionStarted | SessionEnded | Report | Scanned | Viewing | Viewed | Command
)  # fmt: skip
Reply = (
    Acceptable | Challenge | Verdict | Grant | Allowed | Refused | UsePassword | UseKey | UseCertificate
    | Signature | Certificate | Noted | Rows | Done | EndSession | Scan
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[tuple[int, Request]] = msgspec.msgpack.Decoder(tuple[int, Request])
_replies: msgspec.msgpack.Decoder[tuple[int, Reply]] = msgspec.msgpack.Decoder(tuple[int, Reply])


def encode(ident: int, body: Request | Reply) -> bytes:
    """Bytes of one message; the caller checks MAX_MESSAGE."""
    return _encoder.encode((ident, body))


def decode_request(data: bytes) -> tuple[int, Request]:
    """Id and body of a request; msgspec.MsgspecError if it is none."""
    try:
        return _requests.decode(data)
    except (UnicodeDecodeError, RecursionError) as exc:  # msgspec lets these through: not UTF-8, nested too deep
        raise msgspec.DecodeError(str(exc)) from None


def decode_reply(data: bytes) -> tuple[int, Reply]:
    """Id and body of a reply or push; msgspec.MsgspecError if it is none."""
    try:
        return _replies.decode(data)
    except (UnicodeDecodeError, RecursionError) as exc:  # msgspec lets these through: not UTF-8, nested too deep
        raise msgspec.DecodeError(str(exc)) from None
