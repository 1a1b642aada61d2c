"""The closed table *state -> request -> handler*, and the loop that walks it for one conversation.

    GATEWAY_NEW --Hello--> PROVING --Verdict(DONE)--> PERSON
    GATEWAY_NEW --Worker--> WORKER        PROVING --Verdict(DISCONNECT)--> OVER
    ADMIN_NEW --Admin--> OPERATOR         AUDITOR_NEW --Noted--> AUDITOR
    COURIER_NEW --Courier--> COURIER      APPLICANT --Recognised--> APPLICATION

What is not in the table for the state, not decodable, too long, or said twice though it counts once, closes that
socket and nothing else. A handler answers with a reply; a reason crosses the socket, a traceback never does.
"""

import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import msgspec
import trio

from policy import messages as m
from policy.applications import commands as applications
from policy.applications import renewing, serving
from policy.authorities import commands as authorities
from policy.authority import Authority
from policy.checkout import commands as checkouts
from policy.conversation import FIRST_WORDS, Conversation, State, Violation
from policy.ldap import commands as directory_commands
from policy.leave import asking, four_eyes, glass, grants, tokens
from policy.login import authenticate, factors, invitations
from policy.login.codes import ENROL
from policy.naming import CommandRefused
from policy.peers import Oversized, receive
from policy.persons import directory, lifecycle, ownership
from policy.rotation import commands as rotations
from policy.rules import inquiries
from policy.rules.rights import Right
from policy.sessions import access, dial, watch
from policy.targets import accounts, estate, reach, stocktaking
from policy.trail import commands as trail
from policy.trail import views
from policy.trail.ledger import Altered, LedgerError
from policy.vault import commands as secrets
from policy.vault import sharing_commands as sharing
from policy.vault import vault_commands as vault
from policy.vault.secret import VaultError

FIRST_WORD_SECONDS: Final = 10.0
"""From connect to the first request; both our clients speak at once."""
PROVING_SECONDS: Final = 180.0
"""For a whole login. The gateway cuts people off after 30; this ends what a broken gateway forgets."""
HANG_UP_SECONDS: Final = 5.0
"""For writing down which sessions were interrupted; what is not written is found at the next start."""
COMMANDS_AT_ONCE: Final = 4
"""Commands under way in one conversation; some wait 10 s for a scan."""
LOOKUPS_AT_ONCE: Final = 16
"""Sessions asked for at once in one conversation, each of which may wait for a ticket system."""

HIDDEN: Final = ("the vault does not open this", "tell the people who run this bastion")
"""What a person hears of a fault of the vault; the operators have the log and the trail."""

Handler = Callable[[Authority, Conversation, Any], Awaitable[m.Reply | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    handler: Handler
    once: bool = False  # a second time in a conversation is a violation
    decides: bool = False  # it says yes or no to a person: if it fails, the answer is no
    command: bool = False  # by role; may take long, so others are read meanwhile
    beside: bool = False  # may wait for others (a ticket system, RADIUS), while the requests after it are answered
    right: Right | None = None  # which a person needs; None: everybody, or the handler looks closer


def _command(handler: Handler, right: Right | None = Right.ADMINISTER) -> Entry:
    return Entry(handler=handler, command=True, right=right)


COMMANDS: Final[Mapping[type, Entry]] = MappingProxyType(
    {
        m.Whoami: _command(reach.whoami, None),
        m.Reachable: _command(reach.reachable, None),
        m.CaLines: _command(authorities.ca_lines, None),
        m.CaShow: _command(authorities.ca_show, Right.AUDIT),
        m.CaRotate: _command(authorities.ca_rotate),
        m.CaRetire: _command(authorities.ca_retire),
        m.CaRevoke: _command(authorities.ca_revoke),
        m.CaKrl: _command(authorities.ca_krl, Right.AUDIT),
        m.MfaList: _command(factors.mfa_list, None),  # another person's: the handler asks for the right
        m.RequestAccess: _command(asking.request_access, None),  # from here on the handlers look at who is who
        m.RequestAwait: _command(asking.request_await, None),
        m.RequestList: _command(asking.request_list, None),
        m.RequestShow: _command(asking.request_show, None),
        m.RequestCancel: _command(asking.request_cancel, None),
        m.Decide: _command(asking.decide_request, Right.APPROVE),
        m.Notices: _command(grants.notices, None),
        m.GrantAdd: _command(grants.grant_add, None),
        m.GrantList: _command(grants.grant_list, None),
        m.GrantRevoke: _command(grants.grant_revoke, None),
        m.TokenAdd: _command(tokens.token_add, None),
        m.ReviewList: _command(glass.review_list, Right.AUDIT),
        m.ReviewWrite: _command(glass.review_write, Right.AUDIT),
        m.WatchBegin: _command(four_eyes.watch_begin, Right.WATCH),
        m.WatchEnd: _command(four_eyes.watch_end, Right.WATCH),
        m.PersonAdd: _command(directory.person_add),
        m.PersonSet: _command(directory.person_set),
        m.PersonOffboard: _command(lifecycle.person_offboard),
        m.PersonList: _command(directory.person_list),
        m.PersonShow: _command(directory.person_show),
        m.DirectorySync: _command(directory_commands.directory_sync),
        m.DirectoryStatus: _command(directory_commands.directory_status),
        m.OwnerAdd: _command(ownership.owner_add),
        m.OwnerRemove: _command(ownership.owner_remove),
        m.OwnerList: _command(ownership.owner_list, None),
        m.CheckoutTake: _command(checkouts.checkout_take, None),
        m.CheckoutReturn: _command(checkouts.checkout_return, None),
        m.CheckoutList: _command(checkouts.checkout_list, None),
        m.SecretAdd: _command(secrets.secret_add, None),  # whose it is, and with whom it is shared, the handlers look
        m.SecretSet: _command(secrets.secret_set, None),
        m.SecretView: _command(secrets.secret_view, None),
        m.SecretList: _command(secrets.secret_list, None),
        m.SecretShow: _command(secrets.secret_show, None),
        m.SecretRemove: _command(secrets.secret_remove, None),
        m.SecretChown: _command(sharing.secret_chown, None),
        m.SecretShare: _command(sharing.secret_share, None),
        m.SecretUnshare: _command(sharing.secret_unshare, None),
        m.SecretShares: _command(sharing.secret_shares, None),
        m.Inventory: _command(stocktaking.inventory),
        m.VaultUnlock: _command(vault.vault_unlock),
        m.BackupBegin: _command(trail.backup_begin),
        m.TargetAdd: _command(estate.target_add),
        m.TargetSet: _command(estate.target_set),
        m.TargetRemove: _command(estate.target_remove),
        m.TargetList: _command(estate.target_list, None),  # these six are owners' too: the handlers look at whose it is
        m.TargetShow: _command(estate.target_show, None),
        m.TargetHostkey: _command(estate.target_hostkey, None),
        m.AccountAdd: _command(accounts.account_add, None),
        m.AccountRemove: _command(accounts.account_remove, None),
        m.AccountList: _command(accounts.account_list, None),
        m.AccountShow: _command(accounts.account_show, None),
        m.MfaEnrol: _command(factors.mfa_enrol, None),
        m.MfaConfirm: _command(factors.mfa_confirm, None),
        m.MfaRemove: _command(factors.mfa_remove, None),
        m.MfaRecovery: _command(factors.mfa_recovery, None),
        m.MfaReset: _command(factors.mfa_reset),
        m.MfaIssue: _command(factors.mfa_issue),
        m.Invite: _command(invitations.invite),
        m.Explain: _command(reach.explain_access),
        m.WhoCan: _command(inquiries.who_can, Right.AUDIT),
        m.WhatCan: _command(inquiries.what_can, Right.AUDIT),
        m.SessionsList: _command(watch.sessions_list, Right.AUDIT),
        m.SessionKill: _command(watch.session_kill, Right.KILL),
        m.RotationPlan: _command(rotations.rotation_plan, None),  # these three are owners' too
        m.Rotate: _command(rotations.rotate, None),
        m.RotationList: _command(rotations.rotation_list, None),
        m.AuditList: _command(trail.audit_list, Right.AUDIT),
        m.AuditShow: _command(trail.audit_show, Right.AUDIT),
        m.AuditExport: _command(trail.audit_export, Right.AUDIT),
        m.AuditVerify: _command(trail.audit_verify, Right.AUDIT),
        m.ApplicationAdd: _command(applications.application_add),
        m.ApplicationSet: _command(applications.application_set, None),  # these are owners' too, as above
        m.ApplicationList: _command(applications.application_list, None),
        m.ApplicationShow: _command(applications.application_show, None),
        m.ApplicationRemove: _command(applications.application_remove, None),
        m.ApplicationToken: _command(applications.application_token, None),
        m.ApplicationRevoke: _command(applications.application_revoke, None),
        m.LeaseList: _command(applications.lease_list, None),
        m.VaultStatus: _command(vault.vault_status, None),
        m.VaultRekey: _command(vault.vault_rekey),
        m.VaultVersions: _command(vault.vault_versions, None),  # these two are owners' as well
        m.VaultRestore: _command(vault.vault_restore, None),
        m.Reload: _command(watch.reload),
    }
)

BY_TOKEN: Final = frozenset({m.Whoami, m.Reachable, m.CaLines})
"""Commands for who logged in with an access token."""
UNENROLLED: Final = frozenset({m.Whoami, m.CaLines, m.MfaEnrol, m.MfaConfirm, m.MfaList})
"""Commands for who has no second factor though one is demanded."""

TABLE: Final[Mapping[State, Mapping[type, Entry]]] = MappingProxyType(
    {
        State.GATEWAY_NEW: {
            m.Hello: Entry(handler=authenticate.hello, once=True),
            m.Worker: Entry(handler=authenticate.worker, once=True),
        },
        State.ADMIN_NEW: {m.Admin: Entry(handler=authenticate.admin, once=True)},
        State.COURIER_NEW: {m.Courier: Entry(handler=authenticate.courier, once=True)},
        State.RUNNER_NEW: {m.Runner: Entry(handler=authenticate.runner, once=True)},
        State.PROVING: {
            m.OfferKey: Entry(handler=authenticate.offer_key, decides=True),
            m.ProveKey: Entry(handler=authenticate.prove_key, decides=True),
            m.TryPassword: Entry(handler=authenticate.try_password, decides=True),
            m.TryToken: Entry(handler=authenticate.try_token, decides=True),
            m.AskCode: Entry(handler=authenticate.ask_code, decides=True),
            m.AnswerCode: Entry(handler=authenticate.answer_code, decides=True),
        },
        State.PERSON: {
            m.AskCode: Entry(handler=authenticate.ask_newer_code, decides=True),
            m.AnswerCode: Entry(handler=authenticate.answer_newer_code, decides=True, beside=True),
            m.Authorize: Entry(handler=access.authorize, decides=True, beside=True),
            m.OpenChannel: Entry(handler=access.open_channel, decides=True),
            m.Credential: Entry(handler=dial.credential, decides=True),
            m.Sign: Entry(handler=dial.sign, decides=True),
            m.HostCertificate: Entry(handler=dial.host_certificate, decides=True),
            m.SessionStarted: Entry(handler=access.session_started),
            m.SessionEnded: Entry(handler=access.session_ended),
            m.Report: Entry(handler=access.report),
            **COMMANDS,
        },
        State.WORKER: {
            m.Scanned: Entry(handler=authenticate.scanned),
            m.Worked: Entry(handler=authenticate.worked),
            m.Credential: Entry(handler=dial.credential, decides=True),
            m.Sign: Entry(handler=dial.sign, decides=True),
            m.SessionStarted: Entry(handler=access.session_started),
            m.SessionEnded: Entry(handler=access.session_ended),
            m.Report: Entry(handler=access.report),
        },
        State.COURIER: {m.Called: Entry(handler=authenticate.called)},
        State.RUNNER: {m.Worked: Entry(handler=authenticate.ran)},
        State.OPERATOR: COMMANDS,
        State.AUDITOR_NEW: {m.Viewing: Entry(handler=views.viewing, decides=True)},
        State.AUDITOR: {
            m.Viewing: Entry(handler=views.viewing, decides=True),
            m.Viewed: Entry(handler=views.viewed, decides=True),
        },
        State.APPLICANT: {m.Applicant: Entry(handler=serving.applicant, once=True, decides=True)},
        State.APPLICATION: {
            m.ReadSecret: Entry(handler=serving.read_secret, decides=True),
            m.RenewLease: Entry(handler=serving.renew_lease, decides=True),
            m.EndLease: Entry(handler=serving.end_lease, decides=True),
            m.RenewToken: Entry(handler=renewing.renew_token, decides=True),
        },
        State.OVER: {},
    }
)


async def converse(desk: Authority, talk: Conversation) -> None:
    """Serve one connection until it ends; what it held is given back."""
    log = talk.log()
    try:
        async with trio.open_nursery() as commands:
            try:
                await _serve(desk, talk, commands)
            except Violation as error:
                log.warning("protocol-violation", state=talk.state, problem=str(error))
            except (OSError, trio.ClosedResourceError) as error:
                log.info("connection-lost", error=type(error).__name__)
            except LedgerError as error:
                log.error("conversation-ended", error=str(error))
            except Exception as error:
                # A fault of ours in one conversation must not end the others; it has had no answer, so it got nothing.
                log.critical("handler-failed", error=type(error).__name__, where=_frames(error))
            finally:
                await _hang_up(desk, talk)
    finally:
        talk.close()


async def _hang_up(desk: Authority, talk: Conversation) -> None:
    """Give back what the conversation held, also while policyd stops."""
    talk.state = State.OVER
    talk.close()
    desk.workers.leave(talk)
    desk.couriers.leave(talk)
    desk.runners.leave(talk)
    with trio.CancelScope(shield=True), trio.move_on_after(HANG_UP_SECONDS):
        try:
            for live in desk.sessions.watched_by(talk):
                await desk.sessions.unwatch(live, talk)
            await desk.sessions.end_conversation(talk)
            await views.cut_off(desk, talk)
        except LedgerError as error:
            talk.log().error("ends-not-noted", error=str(error))


async def _serve(desk: Authority, talk: Conversation, commands: trio.Nursery) -> None:
    began = trio.current_time()
    turns = {True: trio.CapacityLimiter(COMMANDS_AT_ONCE), False: trio.CapacityLimiter(LOOKUPS_AT_ONCE)}
    while talk.state is not State.OVER:
        patience = {State.PROVING: PROVING_SECONDS}.get(talk.state)
        if talk.state in FIRST_WORDS:
            patience = FIRST_WORD_SECONDS
        with trio.move_on_at(began + patience) if patience else trio.CancelScope() as waiting:
            try:
                data = await receive(talk.connection)
            except Oversized:
                raise Violation("message is too long") from None
        if waiting.cancelled_caught:
            raise Violation("nothing was said in time")
        if not data:
            return
        ident, request, entry = admit(talk, data)
        if entry.command or (entry.beside and (desk.rules.tickets or desk.settings.radius.servers)):
            turn = object()  # not the request: messages have no hash
            kind = turns[entry.command]
            await kind.acquire_on_behalf_of(turn)
            commands.start_soon(_task, desk, talk, ident, request, entry, partial(kind.release_on_behalf_of, turn))
        else:
            if (reply := await answer(desk, talk, request, entry)) is not None:
                await talk.reply(ident, reply)


def admit(talk: Conversation, data: bytes) -> tuple[int, m.Request, Entry]:
    """The request in `data` and what handles it in the present state. Violation if there is none."""
    try:
        ident, request = m.decode_request(data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise Violation(f"message of {len(data)} bytes is malformed") from None
    kind = type(request)
    entry = TABLE[talk.state].get(kind)
    if entry is None:
        raise Violation(f"{kind.__name__} in state {talk.state}")
    if ident < 1:
        raise Violation(f"{kind.__name__} with id {ident}")
    if entry.once and kind in talk.used:
        raise Violation(f"{kind.__name__} a second time")
    talk.used.add(kind)
    return ident, request, entry


async def answer(desk: Authority, talk: Conversation, request: m.Request, entry: Entry) -> m.Reply | None:
    """The handler's reply, or the refusal that its failure means."""
    try:
        return await _handled(desk, talk, request, entry)
    except LedgerError as error:  # be it that a refusal or an alarm could not be kept
        talk.log().error("denied", request=type(request).__name__, error=str(error))
        if not (entry.decides or entry.command):
            raise
        return m.Refused(code=69, cause="the bastion cannot keep its audit trail", hint="tell the people who run it")


async def _handled(desk: Authority, talk: Conversation, request: m.Request, entry: Entry) -> m.Reply | None:
    try:
        if entry.command and (refused := await _check_right(desk, talk, request, entry)) is not None:
            return refused
        return await entry.handler(desk, talk, request)
    except CommandRefused as error:
        what = type(request).__name__
        return await desk.refuse(
            talk, "command-refused", error.cause, error.cause, error.hint, code=error.code, what=what, need=error.need
        )
    except (VaultError, Altered) as error:
        failed = error if isinstance(error, VaultError) else await desk.secrets.alarm("vault", str(error))
        told = (failed.cause, failed.hint) if talk.state is State.OPERATOR else HIDDEN
        return await desk.refuse(talk, "vault-failed", failed.cause, *told, code=78, what=type(request).__name__)


async def _task(
    desk: Authority, talk: Conversation, ident: int, request: m.Request, entry: Entry, done: Callable[[], None]
) -> None:
    try:
        reply = await answer(desk, talk, request, entry)
        if talk.state is State.OVER and isinstance(reply, m.Grant):
            # Attack: ask, hang up while the ticket is looked up, and a session lives that nobody sees or ends.
            await desk.sessions.end_conversation(talk)
        elif reply is not None:
            await talk.reply(ident, reply)
    except LedgerError as error:
        talk.log().error("ends-not-noted", error=str(error))
    except Exception as error:
        talk.log().critical("handler-failed", error=type(error).__name__, where=_frames(error))
        talk.close()
    finally:
        done()


async def _check_right(desk: Authority, talk: Conversation, request: m.Request, entry: Entry) -> m.Refused | None:
    """Roles as they are now, not as they were at login. An operator on this machine may do everything."""
    if talk.state is State.OPERATOR:
        return None
    name = type(request).__name__
    if talk.token and type(request) not in BY_TOKEN:
        # Attack: a token of an administrator for one session on one machine, used to make more persons like its finder.
        return await desk.refuse(
            talk, "command-refused", "logged in with a token", "a token leads to one account, and to nothing else",
            "log in with your key", what=name,
        )  # fmt: skip
    if talk.limited and type(request) not in UNENROLLED:
        # Attack: a key alone, of an administrator of whom more than a key is demanded, used before they enrol.
        return await desk.refuse(
            talk, "command-refused", "no second factor is enrolled", "a second factor is demanded of you", ENROL,
            what=name, need="mfa",
        )  # fmt: skip
    person = desk.roster.person(talk.person)
    if person is not None and not person.disabled and (entry.right is None or desk.has_right(talk, entry.right)):
        return None
    return await desk.refuse(
        talk, "command-refused", f"needs the right `{entry.right}`", "you may not do this",
        "ask an administrator of this bastion", what=name,
    )  # fmt: skip


def _frames(error: BaseException) -> str:
    """Where it happened. Not the text of the error nor any value: either may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames))
