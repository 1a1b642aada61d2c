"""What a gateway says for one person: the login, leave to dial, credentials, what lives; and what policyd pushes."""

from policy.messages.base import Message
from policy.model import Method, Outcome

# --- first words ------------------------------------------------------------------------------------


class Hello(Message):
    source: str  # the client's address
    source_port: int
    listener: str
    client: str  # its identification string, printable ASCII
    ssh_session: bytes  # the exchange hash: what signatures are bound to (RFC 4252 section 7)


class Worker(Message):
    pid: int


class Admin(Message):
    command: str  # argv of the operator, for the audit trail, secrets left out


# --- who --------------------------------------------------------------------------------------------
# `person` is the name claimed in the login string, or "". A key proves its owner: a claim that names another
# person is refused, a claim that names nobody is ignored (`ssh -J` sends the local user name). A password or a
# code proves only a person claimed by name or already proven by a first factor.


class OfferKey(Message):
    """Would this key or certificate do? An offered key is not a proven key."""

    person: str
    blob: bytes


class ProveKey(Message):
    """A signature over `signed` (RFC 4252 section 7); policyd verifies it itself."""

    person: str
    blob: bytes
    signed: bytes
    signature: bytes
    place: str = ""  # account@target that the login is for, which may ask for a newer code than others


class TryPassword(Message):
    person: str
    password: bytes
    place: str = ""  # as in ProveKey


class TryToken(Message):
    """`ticket-...` as login name: an access token, which says who, where and how often by itself."""

    token: str


class AskCode(Message):
    """Start keyboard-interactive for this login; after it, for a person who must show a newer code."""

    person: str


class AnswerCode(Message):
    person: str
    answers: list[str]


class Acceptable(Message):
    ok: bool


class Challenge(Message):
    name: str
    instructions: str
    prompts: list[tuple[str, bool]]  # text, echo


class Verdict(Message):
    """`person` is set only when `outcome` is DONE."""

    outcome: Outcome
    next: list[Method] = []
    person: str = ""
    account: str = ""  # with a token: the only place it leads to
    target: str = ""


# --- may --------------------------------------------------------------------------------------------


class Authorize(Message):
    """May the authenticated person use `account` on `target`? Answered with Grant or Refused."""

    account: str
    target: str
    port: int = 0  # 0: the target's own
    via: str = "direct"  # direct | jump | menu
    ticket: str = ""
    reason: str = ""


class Grant(Message):
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
    watched: bool = False  # frozen until Thaw: somebody has to look on

    def __repr__(self) -> str:
        return f"Grant({self.session} {self.person} {self.account}@{self.target})"


class OpenChannel(Message):
    """May this session open one more channel of this kind, now? Answered with Allowed or Refused."""

    session: str
    kind: str  # ChannelKind
    detail: str = ""  # command, subsystem, or destination, as the person sent it


class Allowed(Message):
    pass


class Refused(Message):
    """`cause` and `hint` are for the person; `ref` is in the audit trail and the log.

    `need` is what would turn a denial of Authorize or CheckoutTake into leave: mfa | reason | ticket | approval, or ""
    for nothing; to an application identity | rate | lease | lent. `wait`: seconds until to ask again, 0 if not known.
    """

    code: int  # exit code: 64 69 75 76 77 78
    cause: str
    hint: str = ""
    ref: str = ""
    need: str = ""
    wait: int = 0


# --- dial -------------------------------------------------------------------------------------------


class Credential(Message):
    """What to log in to the target with. `session_key` is the gateway's public key for this handshake."""

    session: str
    session_key: bytes


class UsePassword(Message):
    password: bytes


class UseKey(Message):
    """The private key stays in policyd: ask `Sign` for each signature."""

    public: bytes  # SSH public key blob
    algorithms: list[str]


class UseCertificate(Message):
    certificate: bytes  # SSH certificate blob for `session_key`


class Sign(Message):
    session: str
    data: bytes
    algorithm: str


class Signature(Message):
    blob: bytes  # SSH signature: string algorithm, string signature


class HostCertificate(Message):
    """Certify the gateway's key for `target`. Asked on each connection of a person: refused, as for a name without a
    record, when the person could not come to use any account there. The certificate may serve others, too."""

    target: str
    public: bytes


class Certificate(Message):
    blob: bytes
    expires_in: float


# --- while it lives ---------------------------------------------------------------------------------


class SessionStarted(Message):
    session: str
    recording: str


class SessionEnded(Message):
    session: str
    reason: str
    by: str = ""
    bytes_in: int = 0
    bytes_out: int = 0


class Report(Message):
    """Something the audit trail must know: host-key-mismatch, target-unreachable, login-failed-at-target,
    recorder-lost, protocol-error. `session` may be empty when there was none yet."""

    session: str
    event: str
    detail: dict[str, str] = {}


class EndSession(Message):
    """Push: close this session now and tell the person why. An empty id means every session of the conversation.

    To who watches a session: it has ended, or may not be watched any more."""

    session: str
    by: str
    reason: str


class Freeze(Message):
    """Push: nothing passes in this session, in either direction, until Thaw. The person is told why."""

    session: str
    reason: str


class Thaw(Message):
    """Push: the session goes on."""

    session: str


class Warn(Message):
    """Push: tell the person of this session something, such as that it ends soon."""

    session: str
    text: str


class Scan(Message):
    """Push to a worker: fetch the host keys of an address."""

    task: int
    address: str
    port: int


class Scanned(Message):
    task: int
    keys: list[bytes]
    error: str = ""
