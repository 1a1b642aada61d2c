"""Every message in every state over the real sockets: what the table has is answered, all else closes that socket."""

import socket

import msgspec
import pytest
import trio
from msgspec.structs import replace

from policy import messages as m
from policy.conversation import Conversation, State, Violation
from policy.model import Outcome, ViewVerb
from policy.monitor import COMMANDS, FIRST_WORD_SECONDS, PROVING_SECONDS, TABLE, Entry, admit, answer, converse
from policy.naming import CommandRefused
from policy.peers import peer_of
from policy.rules.rights import Right
from policy.trail.ledger import Altered
from policy.vault.secret import VaultError
from tests.policy.inside import within
from tests.policy.policyd import SOURCE, Gone, Peer, Policyd, hello, proof
from tests.support.net import wait_until

REQUESTS: dict[str, m.Request] = {
    "Hello": hello(),
    "Worker": m.Worker(pid=1),
    "Admin": m.Admin(command="x"),
    "OfferKey": m.OfferKey(person="", blob=b"x"),
    "ProveKey": m.ProveKey(person="", blob=b"x", signed=b"x", signature=b"x"),
    "TryPassword": m.TryPassword(person="nobody", password=b"x"),
    "AskCode": m.AskCode(person=""),
    "AnswerCode": m.AnswerCode(person="", answers=["1"]),
    "Authorize": m.Authorize(account="root", target="nowhere"),
    "OpenChannel": m.OpenChannel(session="x", kind="shell"),
    "Credential": m.Credential(session="x", session_key=b"x"),
    "Sign": m.Sign(session="x", data=b"x", algorithm="x"),
    "HostCertificate": m.HostCertificate(target="nowhere", public=b"x"),
    "SessionStarted": m.SessionStarted(session="x", recording="x"),
    "SessionEnded": m.SessionEnded(session="x", reason="x"),
    "Report": m.Report(session="x", event="protocol-error"),
    "Scanned": m.Scanned(task=9, keys=[]),
    "Worked": m.Worked(task=9, outcome="done"),
    "Viewing": m.Viewing(verb=ViewVerb.SHOW, recordings=["0" * 32]),
    "Viewed": m.Viewed(event=1),
    "Whoami": m.Whoami(),
    "Reachable": m.Reachable(),
    "CaLines": m.CaLines(),
    "CaShow": m.CaShow(),
    "CaRotate": m.CaRotate(use="x"),
    "CaRetire": m.CaRetire(ca="x"),
    "CaRevoke": m.CaRevoke(),
    "CaKrl": m.CaKrl(),
    "PersonAdd": m.PersonAdd(name="X"),
    "PersonSet": m.PersonSet(name="nobody"),
    "PersonOffboard": m.PersonOffboard(name="nobody"),
    "PersonList": m.PersonList(),
    "PersonShow": m.PersonShow(name="nobody"),
    "TargetAdd": m.TargetAdd(name="X", address="x"),
    "TargetSet": m.TargetSet(name="nowhere"),
    "Inventory": m.Inventory(kind="x"),
    "SecretAdd": m.SecretAdd(name="x", value=b"x"),
    "SecretSet": m.SecretSet(name="no/where"),
    "SecretView": m.SecretView(name="no/where", reason="x"),
    "SecretList": m.SecretList(),
    "SecretShow": m.SecretShow(name="no/where"),
    "SecretRemove": m.SecretRemove(name="no/where"),
    "SecretChown": m.SecretChown(name="no/where", owner="nobody"),
    "SecretShare": m.SecretShare(scope="no/where", subject="nobody", rights=["view"]),
    "SecretUnshare": m.SecretUnshare(share="x"),
    "SecretShares": m.SecretShares(),
    "CheckoutTake": m.CheckoutTake(account="root", target="nowhere"),
    "CheckoutReturn": m.CheckoutReturn(checkout="x"),
    "CheckoutList": m.CheckoutList(),
    "Applicant": m.Applicant(uid=1),
    "ReadSecret": m.ReadSecret(name="no/where"),
    "RenewToken": m.RenewToken(),
    "RenewLease": m.RenewLease(lease="x"),
    "EndLease": m.EndLease(lease="x"),
    "ApplicationAdd": m.ApplicationAdd(name="X"),
    "ApplicationSet": m.ApplicationSet(name="nobody"),
    "ApplicationList": m.ApplicationList(),
    "ApplicationShow": m.ApplicationShow(name="nobody"),
    "ApplicationRemove": m.ApplicationRemove(name="nobody"),
    "ApplicationToken": m.ApplicationToken(name="nobody"),
    "ApplicationRevoke": m.ApplicationRevoke(name="nobody"),
    "LeaseList": m.LeaseList(),
    "VaultUnlock": m.VaultUnlock(passphrase=b"x"),
    "VaultStatus": m.VaultStatus(),
    "VaultRekey": m.VaultRekey(reason=""),
    "VaultVersions": m.VaultVersions(name="no/where"),
    "VaultRestore": m.VaultRestore(name="no/where", version=1, reason="x"),
    "BackupBegin": m.BackupBegin(to="x", recipients=[]),
    "RotationPlan": m.RotationPlan(),
    "Rotate": m.Rotate(places=["root@nowhere"]),
    "RotationList": m.RotationList(),
    "TargetRemove": m.TargetRemove(name="nowhere"),
    "TargetList": m.TargetList(),
    "TargetShow": m.TargetShow(name="nowhere"),
    "TargetHostkey": m.TargetHostkey(name="nowhere"),
    "AccountAdd": m.AccountAdd(account="x", target="nowhere"),
    "AccountRemove": m.AccountRemove(account="x", target="nowhere"),
    "AccountList": m.AccountList(),
    "AccountShow": m.AccountShow(account="x", target="nowhere"),
    "MfaEnrol": m.MfaEnrol(person="nobody"),
    "MfaList": m.MfaList(person="nobody"),
    "MfaReset": m.MfaReset(person="nobody"),
    "Explain": m.Explain(person="nobody", account="x", target="y"),
    "SessionsList": m.SessionsList(),
    "SessionKill": m.SessionKill(session="x", reason="x"),
    "AuditList": m.AuditList(),
    "AuditShow": m.AuditShow(ident="1"),
    "AuditExport": m.AuditExport(),
    "AuditVerify": m.AuditVerify(),
    "DirectorySync": m.DirectorySync(plan=True),
    "DirectoryStatus": m.DirectoryStatus(),
    "Reload": m.Reload(),
    "Courier": m.Courier(pid=1),
    "Runner": m.Runner(pid=1),
    "TryToken": m.TryToken(token="x"),
    "Called": m.Called(task=9),
    "MfaConfirm": m.MfaConfirm(code="1"),
    "MfaRemove": m.MfaRemove(ident="x"),
    "MfaRecovery": m.MfaRecovery(person="nobody"),
    "MfaIssue": m.MfaIssue(person="nobody"),
    "RequestAccess": m.RequestAccess(account="x", target="nowhere"),
    "RequestAwait": m.RequestAwait(request="x"),
    "RequestList": m.RequestList(),
    "RequestShow": m.RequestShow(request="x"),
    "RequestCancel": m.RequestCancel(request="x"),
    "Decide": m.Decide(request="x", approve=True),
    "Notices": m.Notices(),
    "GrantAdd": m.GrantAdd(person="nobody", account="x", target="nowhere"),
    "GrantList": m.GrantList(),
    "GrantRevoke": m.GrantRevoke(grant="x"),
    "TokenAdd": m.TokenAdd(account="x", target="nowhere"),
    "ReviewList": m.ReviewList(),
    "ReviewWrite": m.ReviewWrite(grant="x", text="x"),
    "WatchBegin": m.WatchBegin(session="x"),
    "WatchEnd": m.WatchEnd(session="x"),
    "Invite": m.Invite(name="X"),
    "OwnerAdd": m.OwnerAdd(person="nobody", scope="*"),
    "OwnerRemove": m.OwnerRemove(person="nobody", scope="*"),
    "OwnerList": m.OwnerList(),
    "WhoCan": m.WhoCan(target="nowhere"),
    "WhatCan": m.WhatCan(person="nobody"),
}
SILENT = {"Scanned", "Worked", "Called"}  # answered with nothing
STATES = list(State)


def peer_in(policyd: Policyd, state: State) -> Peer:
    match state:
        case State.GATEWAY_NEW:
            return policyd.gateway()
        case State.ADMIN_NEW:
            return Peer(policyd.home / "run" / "policyd-admin.sock")
        case State.PROVING:
            return policyd.connection("198.51.100.7")
        case State.PERSON:
            return policyd.login("alice")
        case State.WORKER:
            return policyd.gateway(m.Worker(pid=1))
        case State.OPERATOR:
            return policyd.operator()
        case State.COURIER_NEW:
            return policyd.courier()
        case State.COURIER:
            return policyd.courier(m.Courier(pid=1))
        case State.RUNNER_NEW:
            return policyd.runner()
        case State.RUNNER:
            return policyd.runner(m.Runner(pid=1))
        case State.APPLICANT | State.APPLICATION:
            peer = Peer(policyd.home / "run" / "policyd-broker.sock")
            if state is State.APPLICATION:
                policyd.command(m.ApplicationAdd(name="billing", owner="alice", uid=4711))  # the first time
                assert isinstance(peer.ask(m.Applicant(uid=4711)), m.Recognised)
            return peer
        case State.AUDITOR_NEW:
            return policyd.auditor()
        case State.AUDITOR:
            peer = policyd.auditor()
            noted = peer.ask(m.Viewing(verb=ViewVerb.PLAY, recordings=["0" * 32]))
            REQUESTS["Viewed"] = m.Viewed(event=noted.event)
            return peer
        case State.OVER:
            peer = policyd.connection("198.51.100.7")
            for _ in range(5):
                peer.ask(m.OfferKey(person="", blob=b"x"))
            assert peer.ask(proof(policyd.keys["bob"], session=bytes(32))).outcome is Outcome.DISCONNECT
            return peer


def test_the_list_is_whole():
    assert set(REQUESTS) == {kind.__name__ for kind in m.Request.__args__}  # type: ignore[attr-defined]


@pytest.mark.parametrize("state", STATES)
def test_every_message_in_every_state(policyd, state):
    for name in REQUESTS:
        peer = peer_in(policyd, state)
        request = REQUESTS[name]
        expected = any(kind.__name__ == name for kind in TABLE[state])
        try:
            if name in SILENT and expected:
                peer.send(m.encode(2, request))
                peer.send(m.encode(3, request))
                assert not peer.pushes
            else:
                answer = peer.ask(request)
                assert expected, f"{name} in {state} was answered with {type(answer).__name__}"
        except Gone:
            assert not expected, f"{name} in {state} closed\n{policyd.log()}"
        peer.close()
    assert policyd.login("alice").ask(m.Whoami()).rows[0] == ["person", "alice"], "others go on"


GOOD = m.encode(1, hello())
LONG = m.encode(1, replace(hello(), client="x" * (m.MAX_MESSAGE + 1 - len(GOOD) + len(hello().client) - 2)))
assert len(LONG) == m.MAX_MESSAGE + 1
HOSTILE = {
    "nothing but a nil": b"\xc0",
    "a byte that msgpack never uses": b"\xc1",
    "a JSON text": b'[1, {"type": "Hello"}]',
    "cut short": GOOD[:-1],
    "more behind": GOOD + b"\0",
    "an id of zero": m.encode(0, hello()),
    "a negative id": m.encode(-1, hello()),
    "an id of text": msgspec.msgpack.encode(("1", {"type": "Hello"})),
    "an unknown type": msgspec.msgpack.encode((1, {"type": "Shutdown"})),
    "no type": msgspec.msgpack.encode((1, {})),
    "a reply": m.encode(1, m.Done(text="x")),
    "a field that is not there": msgspec.msgpack.encode((1, {"type": "Worker", "pid": 1, "admin": True})),
    "a field of another type": msgspec.msgpack.encode((1, {"type": "Worker", "pid": "1"})),
    "a missing field": msgspec.msgpack.encode((1, {"type": "Worker"})),
    "an extension type": b"\x92\x01\xc7\x05\x07" + b"\x80" * 5,
    "a timestamp": b"\x92\x01\xd6\xff" + b"\0" * 4,
    "deep nesting": b"\x91" * 60_000,
    "deep nesting in a field": b"\x92\x01\x82\xa4type\xa6Worker\xa3pid" + b"\x91" * 5000,
    "a list of 2^32": b"\x92\x01\xdd\xff\xff\xff\xff",
    "text of 2^32 bytes": b"\x92\x01\x81\xa4type\xdb\xff\xff\xff\xff",
    "text that is not UTF-8": b"\x92\x01\x82\xa4type\xa5Admin\xa7command\xa2\xff\xfe",
    "a key twice": b"\x92\x01\x83\xa4type\xa6Worker\xa3pid\x01\xa3pid\x02",
    "an address that is none": m.encode(1, hello("no address")),
    "an exchange hash of no bytes": m.encode(1, hello(session=b"")),
    "an exchange hash of 1000 bytes": m.encode(1, hello(session=b"x" * 1000)),
    "one byte too long": b"\0" * (m.MAX_MESSAGE + 1),
    "a good message but for its length": LONG,
    "much too long": b"\0" * 180_000,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_close_that_socket_and_nothing_else(policyd, case):
    other = policyd.connection()
    peer = policyd.gateway()
    try:
        peer.send(HOSTILE[case])
        answered = peer.receive()
    except Gone:
        answered = None
    if case == "a key twice":
        peer.close()  # msgspec takes the last; both are numbers of no meaning
    else:
        assert answered is None, case
    assert other.ask(m.OfferKey(person="", blob=policyd.keys["alice"].public.blob)) == m.Acceptable(ok=True)
    other.close()


def test_hello_a_second_time(policyd):
    peer = policyd.connection()
    with pytest.raises(Gone):
        peer.ask(hello())


@pytest.fixture
async def wire():
    """A conversation with nobody behind it, and its far end."""
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    talk = Conversation(ident=1, connection=ours, peer=peer_of(ours), state=State.GATEWAY_NEW)
    yield talk, theirs
    ours.close()
    theirs.close()


@pytest.mark.trio
async def test_what_counts_once_counts_once(wire):
    """Also where the state has not changed, because the first one failed half way."""
    talk, _ = wire
    assert admit(talk, GOOD)
    with pytest.raises(Violation, match="a second time"):
        admit(talk, GOOD)


class Quiet:
    """What the end of a conversation asks of an authority; nothing is decided here."""

    class Sessions:
        def watched_by(self, talk):
            return []  # it watched none

        async def end_conversation(self, talk):
            """It had none."""

    class Workers:
        def leave(self, talk):
            """It was none."""

    sessions, workers, couriers, runners = Sessions(), Workers(), Workers(), Workers()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("state", "patience"),
    [
        (State.GATEWAY_NEW, FIRST_WORD_SECONDS),
        (State.ADMIN_NEW, FIRST_WORD_SECONDS),
        (State.AUDITOR_NEW, FIRST_WORD_SECONDS),
        (State.RUNNER_NEW, FIRST_WORD_SECONDS),
        (State.PROVING, PROVING_SECONDS),
    ],
)
async def test_who_says_nothing_is_cut_off(wire, state, patience, autojump_clock):
    talk, theirs = wire
    talk.state = state
    began = trio.current_time()
    with trio.fail_after(2 * patience):
        await converse(Quiet(), talk)
    assert trio.current_time() - began == pytest.approx(patience)
    assert await theirs.recv(1) == b""


@pytest.mark.trio
@pytest.mark.parametrize("error", [CommandRefused("no"), VaultError("shut"), Altered("`secret x` was taken away")])
async def test_a_refusal_or_an_alarm_that_cannot_be_kept_is_answered(filled, tmp_path, nursery, error):
    """Attack: the disk is full, and what was altered is never told; and who asked waits for an answer for ever."""
    async with within(filled, tmp_path) as desk:
        nursery.start_soon(desk.authority.ledger.run)
        database = tmp_path / "state" / "bastion.db"

        async def handler(*_: object) -> None:
            database.rename(database.with_suffix(".aside"))
            raise error

        talk, asked = desk.talk(State.OPERATOR), m.Whoami()
        answered = await answer(desk.authority, talk, asked, Entry(handler=handler, command=True))
        assert isinstance(answered, m.Refused)
        assert (answered.code, answered.cause) == (69, "the bastion cannot keep its audit trail")


def test_a_violation_says_nothing_and_is_logged(policyd):
    peer = policyd.connection()
    peer.send(m.encode(5, m.Whoami()))
    assert peer.is_closed()
    wait_until("its line", lambda: "Whoami in state proving" in policyd.log())


def test_a_login_that_was_cut_off_is_over(policyd):
    peer = peer_in(policyd, State.OVER)
    with pytest.raises(Gone):
        peer.ask(proof(policyd.keys["bob"]))


def test_a_peer_that_does_not_read_holds_up_nobody(policyd):
    """Its answers fill its socket; the others are served."""
    slow = policyd.login("ada")
    slow.sock.setblocking(False)
    for number in range(2, 2000):
        try:
            slow.sock.send(m.encode(number, m.AuditList(limit=1000)))
        except BlockingIOError:
            break
    peer = policyd.login("alice", source=SOURCE)
    assert isinstance(peer.ask(m.Authorize(account="root", target="web1")), m.Grant)
    slow.close()


def test_a_disabled_administrator_has_lost_the_commands(policyd):
    policyd.person("dora", "admin")
    with policyd.login("dora") as peer:
        assert isinstance(peer.ask(m.PersonList()), m.Rows)
        policyd.done(m.PersonSet(name="dora", disabled=True))
        assert isinstance(peer.ask(m.PersonList()), m.Refused)


def test_a_person_who_lost_the_role_has_lost_the_command(policyd):
    key = policyd.person("eve", "admin")
    assert key
    peer = policyd.login("eve")
    assert isinstance(peer.ask(m.PersonList()), m.Rows)
    policyd.done(m.PersonSet(name="eve", remove_roles=["admin"]))
    refused = peer.ask(m.PersonList())
    assert isinstance(refused, m.Refused)
    assert refused.code == 77
    assert isinstance(peer.ask(m.SessionKill(session="x", reason="y")), m.Refused)


OWNERS = {
    "TargetList", "TargetShow", "TargetHostkey", "AccountAdd", "AccountRemove", "AccountList", "AccountShow",
    "RotationPlan", "Rotate", "RotationList", "ApplicationSet", "ApplicationShow", "ApplicationRemove",
    "ApplicationToken", "ApplicationRevoke", "VaultStatus",
}  # fmt: skip
"""What owners may as well as administrators; alice owns nothing."""


@pytest.mark.parametrize("name", [kind.__name__ for kind in TABLE[State.OPERATOR]])
def test_what_an_engineer_may_not_command(policyd, name):
    answer = policyd.login("alice").ask(REQUESTS[name])
    right = next(entry.right for kind, entry in COMMANDS.items() if kind.__name__ == name)
    if name in {
        "Whoami",
        "Reachable",
        "CaLines",
        "RequestList",
        "GrantList",
        "Notices",
        "OwnerList",
        "SecretList",
        "SecretShares",
        "CheckoutList",
        "ApplicationList",
    }:
        assert isinstance(answer, m.Rows)
    else:
        assert isinstance(answer, m.Refused)
        # The others' handlers look closer: nothing of those that are asked for here is alice's.
        everybody = right is None or right is Right.APPROVE
        closer = everybody and name not in {"MfaList", "MfaEnrol", *OWNERS}
        assert (answer.cause == "you may not do this") is not closer
        assert answer.ref, "the refusal can be found in the trail"
