"""Who is told what: `[[notify]]` of policy.toml, the texts, and how a webhook proves where it comes from. Pure.

[[notify]]
name    = "security"
webhook = "https://chat.example.org/hooks/bastion"   # file:PATH or credential:NAME where the address is the secret
key     = "file:webhook.key"                         # signs each message
ca      = "chat-ca.pem"
on      = ["request", "break-glass"]                 # left out: everything
command = "ssh bastion"                              # how people reach this bastion, for the commands in texts
link    = "https://bastion.example.org/requests/{id}"   # a page where it can be decided, by somebody logged in

[[notify]]
name   = "ops by mail"
mail   = ["ops@example.org"]
server = "smtps://mail.example.org"                  # smtp: STARTTLS is demanded
sender = "bastion@example.org"
user   = "bastion"
password = "credential:mail"

[[notify]]
name   = "those concerned"
mail   = ["$person"]                                 # each of what is theirs, at their own address; nobody else
server = "smtps://mail.example.org"
sender = "bastion@example.org"

A text says what happened and which command decides it. It never carries a secret, nor a link or button that decides
by itself: mails are opened by scanners and chats read by many, and neither has a second factor.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from policy.names import check_mail
from policy.rules.windows import format_duration
from policy.tickets.settings import address, secret
from policy.toml_tables import Reading, Table, show
from policy.trail.audit import Event

SIGNATURE: Final = "X-Bastion-Signature"
TIMESTAMP: Final = "X-Bastion-Timestamp"
MAX_QUOTE: Final = 200
"""Characters of what a person wrote; the whole of it is in the audit trail."""
MAX_DESTINATIONS: Final = 20
SOON_SECONDS: Final = 1800


class Topic(StrEnum):
    REQUEST = "request"
    DECISION = "decision"
    EXPIRING = "expiring"
    BREAK_GLASS = "break-glass"
    HOST_KEY = "host-key-mismatch"
    LOCK_OUT = "lock-out"
    DIRECTORY = "directory"
    VAULT = "vault"


TOPICS: Final[Mapping[str, Topic]] = MappingProxyType(
    {
        "request": Topic.REQUEST,
        "request-approve": Topic.DECISION,
        "request-deny": Topic.DECISION,
        "request-cancel": Topic.DECISION,
        "request-expired": Topic.DECISION,
        "grant-add": Topic.DECISION,
        "grant-revoke": Topic.DECISION,
        "request-expiring": Topic.EXPIRING,
        "checkout-ending": Topic.EXPIRING,
        "grant-ending": Topic.EXPIRING,
        "break-glass": Topic.BREAK_GLASS,
        "host-key-mismatch": Topic.HOST_KEY,
        "person-locked": Topic.LOCK_OUT,
        "code-locked": Topic.LOCK_OUT,
        "source-locked": Topic.LOCK_OUT,
        "directory-failed": Topic.DIRECTORY,
        "directory-stopped": Topic.DIRECTORY,
        "directory-back": Topic.DIRECTORY,
        "vault-altered": Topic.VAULT,
        "vault-rekey-stopped": Topic.VAULT,
        "rotation-in-doubt": Topic.VAULT,
        "secret-taken": Topic.VAULT,
        "checkin-forced": Topic.VAULT,
    }
)
"""Events of the audit trail that people are told of: nothing is told that is not kept, and nothing is told twice."""

PERSON: Final = "$person"
"""In `mail`: whoever an event is about, at the address that is kept of them."""
CONCERNS: Final = frozenset(
    {
        "request-approve", "request-deny", "request-cancel", "request-expired", "grant-add", "grant-revoke",
        "grant-ending", "checkout-ending", "checkin-forced",
    }
)  # fmt: skip
"""What becomes of one person's leave and passwords: of these, `person` in the detail is told. What an event is about is
never read from a field that whoever causes it may write."""
PERSONAL: Final = frozenset(TOPICS[event] for event in CONCERNS)
ONE_ALONE: Final = frozenset({"grant-ending"})
"""Of these nobody else is told: each leave that ends would be noise for everybody but the one who has it."""


DONE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "request-approve": "approved",
        "request-deny": "denied",
        "request-cancel": "taken back",
        "request-expired": "void, nobody decided in time: ended",
        "grant-add": "given",
        "grant-revoke": "revoked",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One `[[notify]]`; a webhook if `webhook` is set, else mail. Secrets are named, not held."""

    name: str
    on: frozenset[Topic]
    webhook: str = field(default="", repr=False)
    key: str = ""
    ca: str = ""
    mail: tuple[str, ...] = ()
    server: str = ""
    sender: str = ""
    user: str = ""
    password: str = ""
    command: str = "ssh bastion"
    link: str = ""

    @property
    def personal(self) -> bool:
        """Whether each person is told of what is theirs, and nobody of anything else."""
        return self.mail == (PERSON,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """`subject` is one line, `text` some; both printable but for line breaks. `person`: whom alone it may reach."""

    topic: Topic
    subject: str
    text: str
    person: str = ""


def notice(event: Event, to: Destination) -> Notice | None:
    """What `to` is told of an event; None if it is none of its topics."""
    topic = TOPICS.get(event.event)
    person = event.detail.get("person", "") if to.personal else ""
    heard = event.event in CONCERNS and person if to.personal else event.event not in ONE_ALONE
    if topic is None or topic not in to.on or not heard:
        return None
    subject, lines = _words(topic, event, to)
    text = "\n".join([subject, *(line for line in lines if line)])
    return Notice(topic=topic, subject=subject, text=text, person=person)


def void_soon(asked: int, expires: int, now: int) -> bool:
    """Whether to tell of the end of a request that nobody decided, or of leave; nanoseconds.

    Half an hour before, or in the last quarter.
    """
    return 0 < expires - now <= min(SOON_SECONDS * 1_000_000_000, (expires - asked) // 4)


def webhook_body(told: Notice) -> bytes:
    """`{"text": ...}`, which Slack, Mattermost, Rocket.Chat and Teams' workflows take.

    `<`, `>` and `&` are escaped as Slack wants it: `<!channel>` in a reason would wake everybody, and `<url|words>`
    hide where a link leads.
    """
    text = told.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return json.dumps({"text": text}).encode()


def signed(key: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Headers that prove a body and its time (Unix seconds): HMAC-SHA256 over `v1:TIMESTAMP:BODY`.

    The time is signed so that a receiver can refuse a message that is sent again.
    """
    mac = hmac.new(key.encode(), f"v1:{timestamp}:".encode() + body, hashlib.sha256)
    return {TIMESTAMP: str(timestamp), SIGNATURE: f"v1={mac.hexdigest()}"}


# --- texts --------------------------------------------------------------------------------------------


def _words(topic: Topic, event: Event, to: Destination) -> tuple[str, list[str]]:
    detail = event.detail
    ident = _plain(detail.get("request", "") or event.what)
    who, what, person = _plain(event.who), _plain(event.what), _plain(detail.get("person", ""))
    reason = f"reason: {_quoted(event.why)}" if event.why else ""
    match topic:
        case Topic.REQUEST:
            return f"{person or who} asks for {what}{_how_long(detail)}", [
                reason,
                f"ticket: {_quoted(detail['ticket'])}" if detail.get("ticket") else "",
                f"decide: {to.command} approve {ident}",
                f"or: {to.command} deny {ident}",
                _link(to, ident),
            ]
        case Topic.DECISION:
            place = _plain(detail.get("place", ""))
            about = f" of {person}" if person else ""
            where = f" for {place}" if place else ""
            return f"{what}{about}{where} {DONE[event.event]} by {who}", [
                f"comment: {_quoted(event.why)}" if event.why else "",
                f"see: {to.command} requests",
            ]
        case Topic.EXPIRING:
            if event.event == "checkout-ending":
                return f"the password of {what} is {person}'s until {_plain(detail.get('until', ''))}", [
                    f"bring it back: {to.command} vault checkin {_plain(detail.get('checkout', ''))}",
                ]
            if event.event == "grant-ending":
                place = _plain(detail.get("place", ""))
                return f"leave of {person} for {place} ends at {_plain(detail.get('ends', ''))}", [
                    f"ask again: {to.command} request {place}",
                ]
            return f"request {ident} of {person} for {_plain(detail.get('place', ''))} is void soon", [
                f"decide: {to.command} approve {ident}",
                f"or: {to.command} deny {ident}",
                _link(to, ident),
            ]
        case Topic.BREAK_GLASS:
            return f"BREAK GLASS: {what}{_how_long(detail)}", [
                f"by {who} from {_plain(event.source)}",
                reason,
                f"end it: {to.command} revoke {_plain(detail['grant'])}" if detail.get("grant") else "",
                f"a review is owed: {to.command} review",
            ]
        case Topic.HOST_KEY:
            return f"host key of {what or 'a target'} is not the pinned one: refused", [
                f"{who} was going there from {_plain(event.source)}",
                *(f"{_plain(name)}: {_plain(value)}" for name, value in sorted(detail.items())),
            ]
        case Topic.LOCK_OUT:
            kind = {"person-locked": "password of", "code-locked": "second factor of"}.get(event.event, "source")
            return f"locked after too many failures: {kind} {what}", [f"last from {_plain(event.source)}"]
        case Topic.DIRECTORY:
            if event.event == "directory-back":
                return f"directory {what} is read again", []
            said = "changes nothing any more" if event.event == "directory-stopped" else "cannot be read"
            return f"directory {what} {said}: nobody comes and nobody goes", [
                f"it {_plain(event.why)}" if event.why else "",
                "see: bastion directory status",
            ]
        case Topic.VAULT:
            if event.event == "vault-altered":
                return f"VAULT ALTERED: {what}: somebody else wrote to the database", [
                    f"found: {_plain(event.why)}",
                    "nothing was opened with it; see: bastion audit list --event vault-altered",
                ]
            if event.event == "secret-taken":
                before, after = _plain(detail.get("owner before", "")), _plain(detail.get("owner after", ""))
                return f"secret {what} was taken from {before} and given to {after} by {who}", [reason]
            if event.event == "checkin-forced":
                return f"the password of {what} was taken from {person} by {who}", [reason]
            if event.event == "vault-rekey-stopped":
                return f"the vault is not sealed anew: {_plain(event.why)}", ["see: bastion vault status"]
            return f"what opens {what} is in doubt: neither its new nor its last secret is proven", [
                _quoted(event.why) if event.why else "",
                "both are kept, and the next try finds out; nobody may be able to log in there meanwhile",
                f"try now: {to.command} account rotate {what}" if what else "",
            ]


def _how_long(detail: Mapping[str, str]) -> str:
    seconds = detail.get("seconds", "")
    return f" for {format_duration(timedelta(seconds=int(seconds)))}" if seconds.isdigit() and len(seconds) < 9 else ""


def _link(to: Destination, ident: str) -> str:
    return to.link.replace("{id}", ident) if to.link else ""


def _plain(text: str) -> str:
    """Names and addresses, harmless in a mail, a chat and a terminal."""
    kept = "".join(char if char.isprintable() else " " for char in text[: 2 * MAX_QUOTE])
    return kept[:MAX_QUOTE].replace("`", "'").strip()


def _quoted(text: str) -> str:
    """What a person wrote. Between backticks chats show no links and wake nobody."""
    return f"`{_plain(text)}`"


# --- settings -----------------------------------------------------------------------------------------


def parse_notify(reading: Reading, entries: object) -> tuple[Destination, ...]:
    """Those without a problem, in the order of the file."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        reading.problem("notify", f"got {show(entries)}, want tables that begin with `[[notify]]`")
        return ()
    if len(entries) > MAX_DESTINATIONS:
        reading.problem("notify", f"got {len(entries)} of them, want at most {MAX_DESTINATIONS}")
    found: list[Destination] = []
    for index, entry in enumerate(entries):
        reading.at, reading.rule = ("notify", index), ""
        before = len(reading.problems)
        one = _destination(Table(reading, entry, ""), [known.name for known in found])
        if len(reading.problems) == before:
            found.append(one)
    reading.at = ()
    return tuple(found)


def _destination(table: Table, names: list[str]) -> Destination:
    table.known("name", "webhook", "key", "ca", "on", "command", "link", "mail", "server", "sender", "user", "password")
    name = table.text("name")
    if not name or name in names or len(name) > 64:
        table.problem("name", "want a name of its own, which stands in the log and the audit trail")
    if ("webhook" in table.entry) == ("mail" in table.entry):
        table.problem("webhook", "want either `webhook` or `mail`")
    by_mail = "mail" in table.entry
    for key in ("key",) if by_mail else ("server", "sender", "user", "password"):
        if key in table.entry:
            table.problem(key, f"does not go with `{'mail' if by_mail else 'webhook'}`")
    for key in ("server", "sender") if by_mail else ():
        if key not in table.entry:
            table.problem(key, "missing: `mail` needs it")
    webhook = table.parsed("webhook", _hook) or ""
    if webhook.startswith("http") and "key" not in table.entry:
        table.problem("key", "missing: nobody could tell a message of this bastion from a forged one")
    mail = tuple(table.words("mail", _mailbox, one=True)) if by_mail else ()
    if PERSON in mail and len(mail) > 1:
        table.problem("mail", f"`{PERSON}` stands alone: what one person is told of is nobody else's to read")
    offered = sorted(PERSONAL) if PERSON in mail else list(Topic)
    topics: list[Topic | None] = [*offered]
    if "on" in table.entry:
        topics = [table.choice("on", word, offered) for word in table.words("on", str)]
    return Destination(
        name=name,
        on=frozenset(topic for topic in topics if topic is not None),
        webhook=webhook,
        key=table.parsed("key", secret) or "",
        ca=table.text("ca"),
        mail=mail,
        server=table.parsed("server", _server) or "",
        sender=table.parsed("sender", check_mail) or "",
        user=table.text("user"),
        password=table.parsed("password", secret) or "",
        command=table.text("command") or "ssh bastion",
        link=table.parsed("link", address) or "",
    )


def _hook(text: str) -> str:
    return secret(text) if text.startswith(("file:", "credential:")) else address(text)


def _mailbox(text: str) -> str:
    return text if text == PERSON else check_mail(text)


def _server(text: str) -> str:
    try:
        url: Any = urlsplit(text)
        good = url.scheme in ("smtp", "smtps") and url.hostname and url.port != 0 and url.path in ("", "/")
    except ValueError:
        good = False
    if not good or url.username is not None:
        raise ValueError(f"got `{text[:60]}`, want `smtps://HOST[:PORT]`, or `smtp:` with STARTTLS")
    return text
