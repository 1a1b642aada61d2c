"""Messages to and from policyd: AF_UNIX SOCK_SEQPACKET, one message = one msgpack array `[id, body]`.

A request carries an id above 0 and its reply the same id; id 0 marks a push from policyd. One connection is
one *conversation*, of one of six sorts, fixed by its first request:

* `Hello`: one person's network connection at a gateway. Authentication, then decisions, for as long as
  that connection lives. When the conversation ends, policyd considers its sessions ended.
* `Worker`: a gateway worker offering to carry out tasks (pinning scans).
* `Admin`: an operator on this machine, known by SO_PEERCRED.
* `Courier`: the process that makes calls to the outside for policyd.
* `Runner`: the process that runs operators' scripts for policyd.
* `Applicant`: a connection of an application to the broker.
* `Viewing`: an auditor's tool on this machine, known by SO_PEERCRED, about to show recordings.

The table state -> request -> handler is in `policy.monitor`; anything outside it closes the socket.
"""

import msgspec

from policy.messages.access import *
from policy.messages.authorities import *
from policy.messages.backup import *
from policy.messages.base import MAX_MESSAGE as MAX_MESSAGE
from policy.messages.broker import *
from policy.messages.checkout import *
from policy.messages.commands import *
from policy.messages.doors import *
from policy.messages.outside import *
from policy.messages.rotation import *
from policy.messages.rotations import *
from policy.messages.secrets import *
from policy.messages.unlock import *
from policy.messages.vault import *
from policy.messages.views import *

Command = (
    Whoami | Reachable | CaLines | CaShow | CaRotate | CaRetire | CaRevoke | CaKrl
    | PersonAdd | PersonSet | PersonOffboard | PersonList | PersonShow
    | TargetAdd | TargetSet | TargetRemove | TargetList | TargetShow | TargetHostkey
    | AccountAdd | AccountRemove | AccountList | AccountShow
    | MfaEnrol | MfaConfirm | MfaList | MfaRemove | MfaReset | MfaRecovery | MfaIssue
    | RequestAccess | RequestAwait | RequestList | RequestShow | RequestCancel | Decide | Notices
    | GrantAdd | GrantList | GrantRevoke | TokenAdd | ReviewList | ReviewWrite | WatchBegin | WatchEnd
    | Invite | OwnerAdd | OwnerRemove | OwnerList | WhoCan | WhatCan
    | DirectorySync | DirectoryStatus
    | Explain | SessionsList | SessionKill | AuditList | AuditShow | AuditExport | AuditVerify | Reload
    | Inventory | VaultUnlock | BackupBegin | ApplicationAdd | ApplicationSet | ApplicationList | ApplicationShow
    | ApplicationRemove | ApplicationToken | ApplicationRevoke | LeaseList | SecretAdd | SecretSet | SecretView
    | SecretList | SecretShow | SecretRemove | SecretChown | SecretShare | SecretUnshare | SecretShares
    | VaultStatus | VaultRekey | VaultVersions | VaultRestore
    | CheckoutTake | CheckoutReturn | CheckoutList
    | RotationPlan | Rotate | RotationList
)  # fmt: skip
Request = (
    Hello | Worker | Admin | Courier | Runner | OfferKey | ProveKey | TryPassword | TryToken | AskCode | AnswerCode
    | Authorize | OpenChannel | Credential | Sign | HostCertificate
    | SessionStarted | SessionEnded | Report | Scanned | Worked | Called | Viewing | Viewed
    | Applicant | ReadSecret | RenewLease | EndLease | RenewToken | Command
)  # fmt: skip
Reply = (
    Acceptable | Challenge | Verdict | Grant | Allowed | Refused | UsePassword | UseKey | UseCertificate
    | Signature | Certificate | Noted | Rows | Done | EndSession | Freeze | Thaw | Warn | Scan
    | HttpCall | MailCall | RadiusCall | LdapCall | ChangeSecret | VerifyLogin | Recognised | Leased | Lease
    | Revealed | LdapPassword | RunScript | Renewed
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


def decode_reply(data: bytes | memoryview) -> tuple[int, Reply]:
    """Id and body of a reply or push; msgspec.MsgspecError if it is none."""
    try:
        return _replies.decode(data)
    except (UnicodeDecodeError, RecursionError) as exc:  # msgspec lets these through: not UTF-8, nested too deep
        raise msgspec.DecodeError(str(exc)) from None
