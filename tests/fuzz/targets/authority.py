"""Parsers of policyd: messages of gateways, keys and certificates of anybody, rules of administrators."""

import msgspec

from policy import messages
from policy.keys.certificates import parse_certificate
from policy.keys.krl import Krl, OfCa, read_krl, write_krl
from policy.keys.signatures import verify
from policy.keys.sshkeys import (
    PublicKey,
    parse_authorized_keys,
    parse_host_key,
    parse_private_key,
    parse_public_key,
)
from policy.keys.sshwire import BadKey, string
from policy.mfa.totp import check
from policy.model import ViewVerb
from policy.naming import CommandRefused, address, labels, person_name, target_name
from policy.rules.ruleset import BadRules, parse_rules
from policy.rules.windows import parse_days, parse_duration, parse_hours, parse_zone
from tests.fuzz.registry import CORPUS, target

REQUESTS = tuple(
    messages.encode(7, body)
    for body in (
        messages.Hello(source="192.0.2.1", source_port=1, listener="l", client="SSH-2.0-x", ssh_session=b"s" * 32),
        messages.Admin(command="person list"),
        messages.OfferKey(person="alice", blob=b"blob"),
        messages.PersonAdd(name="alice", roles=["dba"], keys=["ssh-ed25519 AAAA"], password="x"),
        messages.TargetAdd(name="web1", address="host:22", labels={"env": "prod"}),
        messages.Scanned(task=1, keys=[b"k"]),
        messages.AuditList(limit=5),
        messages.Viewing(verb=ViewVerb.PLAY, recordings=["0" * 32], range="from 1:30"),
    )
)
REPLIES = tuple(
    messages.encode(7, body)
    for body in (
        messages.Rows(columns=["a"], rows=[["b"]]),
        messages.Done(text="done", data={"a": "b"}),
        messages.EndSession(session="s", by="alice", reason="r"),
    )
)


@target("policy-request", errors=(msgspec.MsgspecError,), samples=REQUESTS)
def request(raw: bytes) -> None:
    messages.decode_request(raw)


@target("policy-reply", errors=(msgspec.MsgspecError,), samples=REPLIES)
def reply(raw: bytes) -> None:
    messages.decode_reply(raw)


@target("ssh-key", errors=(BadKey,))
def ssh_key(raw: bytes) -> None:
    """A public key or a certificate; each must refuse the other's blob by itself."""
    try:
        parse_public_key(raw)
    except BadKey:
        parse_certificate(raw)


def _key() -> PublicKey:
    return parse_public_key((CORPUS / "ssh-key" / "rsa").read_bytes())


@target("ssh-signature", errors=(BadKey,), samples=(string(b"rsa-sha2-512") + string(b"x" * 384),))
def ssh_signature(raw: bytes) -> None:
    verify(_key(), raw, b"data")


@target("ssh-key-line", errors=(BadKey,))
def ssh_key_line(raw: bytes) -> None:
    text = raw.decode("utf-8", "replace")
    try:
        parse_authorized_keys(text)
    except BadKey:
        parse_host_key(text)


@target("ssh-private-key", errors=(BadKey,))
def ssh_private_key(raw: bytes) -> None:
    parse_private_key(raw)


REVOKED = Krl(
    version=1,
    generated=1_800_000_000,
    comment="bastion",
    certificates=(OfCa(ca=b"ca", serials=((1, 5), (9, 9)), key_ids=("bastion:alice:s1",)),),
    keys=frozenset({b"key"}),
    sha256=frozenset({b"x" * 32}),
)


@target("krl", errors=(BadKey,), samples=(write_krl(REVOKED),))
def krl(raw: bytes) -> None:
    """What is read is written again with the same meaning."""
    found = read_krl(raw)
    assert set(read_krl(write_krl(found)).sha256) == set(found.sha256)


RULES = b"""
[[rule]]
name    = "dba on production databases"
who     = { roles = ["dba"] }
where   = { labels = { env = "prod" } }
as      = ["postgres"]
allow   = ["shell", "exec", "sftp", "forward-local"]
require = { mfa = "15m", ticket = "jira", reason = true, approval = { by = ["lead"], count = 1 } }
when    = { days = "mon-fri", hours = "08:00-18:00", zone = "Europe/Berlin" }
from    = ["10.0.0.0/8"]
limits  = { session = "4h", idle = "15m" }
[[rule]]
name = "nobody"
effect = "forbid"
who = { persons = ["bob"] }
where = { targets = ["db*"] }
[tickets.jira]
kind = "jira"
url = "https://jira.example.org"
token = "file:token"
status = ["Approved"]
assignee = "email"
email = "{person}@example.org"
target = { at = "/fields/labels/*", is = "{label.service}" }
window = { start = "customfield_1", end = "customfield_2", zone = "Europe/Berlin" }
"""


@target("rules", errors=(BadRules,), samples=(RULES,))
def rules(raw: bytes) -> None:
    parse_rules(raw.decode("utf-8", "replace"))


@target("names", errors=(CommandRefused,), samples=(b"alice", b"web1.example", b"host:22", b"[::1]:22", b"env=prod"))
def names(raw: bytes) -> None:
    text = raw.decode("utf-8", "replace")
    for parse in (person_name, target_name, address, lambda text: labels({text: text})):
        try:
            parse(text)
        except CommandRefused:
            pass


@target("windows", samples=(b"15m", b"1h30m", b"mon-fri,sun", b"08:00-18:00"))
def windows(raw: bytes) -> None:
    text = raw.decode("utf-8", "replace")
    for parse in (parse_duration, parse_days, parse_hours):
        try:
            parse(text)
        except ValueError:
            pass


@target("zone", errors=(ValueError,), samples=(b"Europe/Berlin", b"UTC"), weight=0.02)
def zone(raw: bytes) -> None:
    """Each refusal costs 10 ms: it reads the names of all zones to find a near one."""
    parse_zone(raw.decode("utf-8", "replace"))


@target("totp", samples=(b"123456", "\u0661\u0662\u0663\u0664\u0665\u0666".encode(), b" 123456"))
def totp(raw: bytes) -> None:
    check("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", raw.decode("utf-8", "replace"), 1_700_000_000.0, None)
