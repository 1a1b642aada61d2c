"""What can be said to a bastion, over ssh and (where `here` says so) with the `bastion` command. Pure."""

from typing import Any, Final

from bastion.vocabulary_applications import APPLICATIONS
from bastion.vocabulary_estate import ESTATE
from bastion.vocabulary_rotations import ROTATIONS
from bastion.vocabulary_vault import VAULT
from bastion.words import ALL, Given, Option, Takes, Word
from policy.messages import (
    AuditList,
    AuditShow,
    AuditVerify,
    CaLines,
    CaRetire,
    CaRevoke,
    CaRotate,
    CaShow,
    Decide,
    GrantAdd,
    GrantList,
    GrantRevoke,
    Invite,
    MfaConfirm,
    MfaEnrol,
    MfaIssue,
    MfaList,
    MfaRecovery,
    MfaRemove,
    MfaReset,
    Notices,
    OwnerAdd,
    OwnerList,
    OwnerRemove,
    Reachable,
    RequestAccess,
    RequestCancel,
    RequestList,
    RequestShow,
    ReviewList,
    ReviewWrite,
    SessionKill,
    SessionsList,
    TokenAdd,
    WatchBegin,
    Whoami,
)

PLACE: Final = "ACCOUNT@TARGET"
_FOR: Final = Option("--for", "how long: 2h, 90m, 1d12h; the most that is allowed when left out", value="2h")
_START: Final = Option("--start", "when it begins: 2026-11-23T14:00:00Z; now when left out", value="TIME")
_KINDS: Final = Option("--kinds", "only these: shell,exec,sftp,scp,...", value="KIND,KIND", repeats=True)
_USES: Final = Option("--uses", "for so many sessions; any number when left out", value="N")
_TICKET: Final = Option("--ticket", "a ticket that says so", value="ID")
_WAIT: Final = Option("--wait", "stay until it is decided", Takes.NOTHING)


def _why(about: str, *, needed: bool = True) -> Option:
    return Option("--reason", about, Takes.TEXT, "TEXT", needed=needed)


def _request(given: Given) -> RequestAccess:
    account, target = given.place()
    return RequestAccess(
        account=account, target=target, kinds=given.names("--kinds"), start=given.text("--start"),
        seconds=given.seconds("--for"), uses=given.number("--uses"), ticket=given.text("--ticket"),
        reason=given.text("--reason"), break_glass=given.has("--break-glass"),
    )  # fmt: skip


def _grant(given: Given) -> GrantAdd:
    account, target = given.place(1)
    return GrantAdd(
        person=given.rest[0], account=account, target=target, kinds=given.names("--kinds"), start=given.text("--start"),
        seconds=given.seconds("--for"), uses=given.number("--uses"), reason=given.text("--reason"),
    )  # fmt: skip


def _token(given: Given) -> TokenAdd:
    account, target = given.place()
    return TokenAdd(
        account=account, target=target, person=given.text("--person"), kinds=given.names("--kinds"),
        seconds=given.seconds("--for", 3600), uses=given.number("--uses", 1), reason=given.text("--reason"),
    )  # fmt: skip


def _requests(given: Given) -> Any:
    return RequestShow(request=given.rest[0]) if given.rest else RequestList(all=given.has("--all"))


_OF_PEOPLE: Final = (
    Word(name="help", about="this list", arguments="[COMMAND] [WORD]"),
    Word(name="ls", about="targets and accounts you may use", ask=lambda _: Reachable()),
    Word(name="whoami", about="who you are here, and how that was proven", ask=lambda _: Whoami()),
    Word(name="config", about="lines for your ~/.ssh/config and known_hosts", ask=lambda _: CaLines()),
    Word(name="ca", about="public keys of this bastion's CAs", ask=lambda _: CaLines()),
    Word(
        name="ca lines",
        arguments="[user|host]",
        about="the lines that targets, or clients, have to have",
        here=True,
        ask=lambda given: CaLines(use=given.word(0)),
    ),
    Word(name="notices", about="what waits for you", ask=lambda _: Notices(), here=True),
)

_OF_LEAVE: Final = (
    Word(name="request", arguments=PLACE, about="ask for leave to use an account for a time", ask=_request, here=True,
         options=(_FOR, _START, _KINDS, _USES, _TICKET,
                  Option("--break-glass", "an emergency: at once, and everybody is told", Takes.NOTHING), _WAIT,
                  _why("whoever decides reads it, and the audit trail keeps it"))),
    Word(name="requests", arguments="[ID]", about="requests of yours and those you may decide, or one of them",
         ask=_requests, options=(ALL,), here=True),
    Word(name="approve", arguments="ID", about="say yes to a request", here=True,
         ask=lambda given: Decide(request=given.rest[0], approve=True, comment=given.text("--comment")),
         options=(Option("--comment", "the person is shown it", Takes.TEXT, "TEXT"),)),
    Word(name="deny", arguments="ID", about="say no to a request", here=True,
         ask=lambda given: Decide(request=given.rest[0], approve=False, comment=given.text("--comment")),
         options=(Option("--comment", "the person is shown it", Takes.TEXT, "TEXT"),)),
    Word(name="cancel", arguments="ID", about="take a request back", here=True,
         ask=lambda given: RequestCancel(request=given.rest[0])),
    Word(name="grants", arguments="[PERSON]", about="what was granted for a time", options=(ALL,), here=True,
         ask=lambda given: GrantList(person=given.word(0), all=given.has("--all"))),
    Word(name="grant", arguments=f"PERSON {PLACE}", about="give somebody leave without being asked", ask=_grant,
         options=(_FOR, _START, _KINDS, _USES, _why("the audit trail keeps it")), here=True),
    Word(name="revoke", arguments="ID", about="take a grant or token back; sessions that rest on it end", here=True,
         ask=lambda given: GrantRevoke(grant=given.rest[0], reason=given.text("--reason")),
         options=(_why("the person is shown it", needed=False),)),
    Word(name="token", arguments=PLACE, about="a secret that logs in by itself, as login name or password; shown once",
         ask=_token, here=True,
         options=(Option("--person", "who will use it; you when left out", value="PERSON"),
                  Option("--for", "how long; 1h when left out", value="2h"),
                  Option("--uses", "for so many sessions; 1 when left out", value="N"), _KINDS,
                  _why("the audit trail keeps it", needed=False))),
    Word(name="review list", about="broken glass that nobody has reviewed yet", options=(ALL,), here=True,
         ask=lambda given: ReviewList(all=given.has("--all"))),
    Word(name="review write", arguments="GRANT", about="say what was done with a broken glass", here=True,
         ask=lambda given: ReviewWrite(grant=given.rest[0], text=given.text("--text")),
         options=(Option("--text", "what was done, and whether it had to be", Takes.TEXT, "TEXT", needed=True),)),
)  # fmt: skip

_OF_FACTORS: Final = (
    Word(name="mfa list", arguments="[PERSON]", about="second factors, yours when nobody is named", here=True,
         ask=lambda given: MfaList(person=given.word(0))),
    Word(name="mfa enrol", arguments="[PERSON]", about="a one-time password, as a QR code and as text; shown once",
         ask=lambda given: MfaEnrol(person=given.word(0), reason=given.text("--reason")), here=True,
         options=(_why("the audit trail keeps it", needed=False),)),
    Word(name="mfa confirm", arguments="CODE", about="the first code of what you enrolled: from then on it counts",
         ask=lambda given: MfaConfirm(code=given.rest[0])),
    Word(name="mfa remove", arguments="ID", about="one of yours", ask=lambda given: MfaRemove(ident=given.rest[0])),
    Word(name="mfa recovery", arguments="[PERSON]", about="new recovery codes; the old ones are void", here=True,
         ask=lambda given: MfaRecovery(person=given.word(0))),
    Word(name="mfa reset", arguments="PERSON", about="remove all of somebody's second factors", here=True,
         ask=lambda given: MfaReset(person=given.rest[0], reason=given.text("--reason")),
         options=(_why("the audit trail keeps it", needed=False),)),
    Word(name="mfa issue", arguments="PERSON", about="a code for one login, for who lost the phone; shown once",
         ask=lambda given: MfaIssue(person=given.rest[0], seconds=given.seconds("--for", 3600),
                                    reason=given.text("--reason")), here=True,
         options=(Option("--for", "how long it may be used; 1h when left out", value="2h"),
                  _why("the audit trail keeps it", needed=False))),
)  # fmt: skip

_OF_STAFF: Final = (
    Word(name="sessions", about="live sessions (security)", options=(ALL,),
         ask=lambda given: SessionsList(all=given.has("--all"))),
    Word(name="watch", arguments="SESSION", about="look on, until you leave; what waited for that goes on (security)",
         ask=lambda given: WatchBegin(session=given.rest[0]), here=True),
    Word(name="kill", arguments="SESSION", about="end a session now (security)",
         ask=lambda given: SessionKill(session=given.rest[0], reason=given.text("--reason")),
         options=(_why("the person is shown it"),)),
    Word(name="audit list", arguments="[NAME]",
         ask=lambda given: AuditList(what=given.word(0), about=given.text("--about")),
         about="who did what; NAME: a person, target, account@target, session (security)",
         options=(Option("--about", "all that a person did, got or is named in", value="PERSON"),)),
    Word(name="audit show", arguments="ID", about="one event, or what a person was shown as [ref] (security)",
         ask=lambda given: AuditShow(ident=given.rest[0])),
    Word(name="audit verify", about="is the trail whole (security)", ask=lambda _: AuditVerify()),
    Word(name="ca show", about="certificate authorities, and which of them is trusted (security)", here=True,
         ask=lambda _: CaShow()),
    Word(name="ca rotate", arguments="user|host", about="the next authority, or put it in force (administrators)",
         ask=lambda given: CaRotate(use=given.rest[0], promote=given.has("--promote"), now=given.has("--now"),
                                    reason=given.text("--reason")),
         options=(Option("--promote", "the one that waits signs from now on", Takes.NOTHING),
                  Option("--now", "make one and promote it at once", Takes.NOTHING),
                  _why("the audit trail keeps it", needed=False)), here=True),
    Word(name="ca retire", arguments="CA", about="trust one no more that signs no more (administrators)", here=True,
         ask=lambda given: CaRetire(ca=given.rest[0], reason=given.text("--reason")),
         options=(_why("the audit trail keeps it"),)),
    Word(name="ca revoke", about="a certificate or key counts no more (administrators)", here=True,
         ask=lambda given: CaRevoke(session=given.text("--session"), serial=given.text("--serial"),
                                    key=given.text("--key"), reason=given.text("--reason")),
         options=(Option("--session", "what was certified for this session", value="ID"),
                  Option("--serial", "of a certificate, or the first and last", value="N[-N]"),
                  Option("--key", "SHA256:... or a public key", Takes.TEXT, "KEY"),
                  _why("the audit trail keeps it"))),
    Word(name="invite", arguments="NAME", about="a link with which a new person brings their own key; shown once",
         ask=lambda given: Invite(name=given.rest[0], roles=given.names("--role"),
                                  seconds=given.seconds("--for", 72 * 3600), reason=given.text("--reason")),
         options=(Option("--role", "role to give; may be repeated", value="ROLE", repeats=True),
                  Option("--for", "how long it may be used; 3d when left out", value="3d"),
                  _why("the audit trail keeps it", needed=False)), here=True),
    Word(name="owner list", arguments="[PERSON]", about="who owns which targets", here=True,
         ask=lambda given: OwnerList(person=given.word(0))),
    Word(name="owner add", arguments="PERSON SCOPE", about="SCOPE: a target, label=value, or *", here=True,
         ask=lambda given: OwnerAdd(person=given.rest[0], scope=given.rest[1], reason=given.text("--reason")),
         options=(_why("the audit trail keeps it", needed=False),)),
    Word(name="owner remove", arguments="PERSON SCOPE", about="take it away", here=True,
         ask=lambda given: OwnerRemove(person=given.rest[0], scope=given.rest[1], reason=given.text("--reason")),
         options=(_why("the audit trail keeps it", needed=False),)),
)  # fmt: skip

VOCABULARY: Final[dict[str, Word]] = {
    word.name: word
    for word in (*_OF_PEOPLE, *_OF_LEAVE, *_OF_FACTORS, *VAULT, *ROTATIONS, *APPLICATIONS, *_OF_STAFF, *ESTATE)
}
"""By name, in the order of the help."""


def overview() -> str:
    """`ssh bastion help`."""
    width = max(len(f"{word.name} {word.arguments}") for word in VOCABULARY.values())
    lines = ["a session:   ssh [person@]account@target@bastion      or  ssh -J bastion account@target",
             "a file:      scp FILE account@target@bastion:PATH      sftp, rsync, git, ansible alike",
             "a choice:    ssh -t bastion", "", "ssh bastion ..."]  # fmt: skip
    lines += [f"  {f'{word.name} {word.arguments}':<{width}}  {word.about}" for word in VOCABULARY.values()]
    lines += ["", "each of them with --json, and with --help for its options"]
    return "\n".join(lines) + "\n"
