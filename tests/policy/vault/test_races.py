"""What changes while policyd waits for the disk: a policyd within the test, whose writer runs when it is told to."""

from dataclasses import replace

import pyotp
import pytest
import trio
import trio.testing

from policy import messages as m
from policy.conversation import Conversation, State
from policy.keys import sshkeys
from policy.login import authenticate, codes, factors, invitations
from policy.login.lockouts import CODE
from policy.model import Outcome
from policy.rules.ruleset import parse_rules
from policy.sessions import access
from policy.sessions.live import Sessions
from policy.store import Conflict
from policy.store.vault_tables import version_entry
from policy.trail.audit import Event
from policy.trail.ledger import Ledger
from policy.vault.register import Change
from policy.vault.secret import Secret, VaultError
from policy.vault.secrets import new_secret
from tests.policy.inside import Desk, within


@pytest.fixture
async def desk(filled, tmp_path):
    async with within(filled, tmp_path) as made:
        yield made


async def paused(desk: Desk, first, second):
    """What `first` answers when `second` is done while it waits for the writer."""
    answers = []

    async def run() -> None:
        answers.append(await first())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        assert not answers, "it waits for the disk"
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as writing:
            writing.start_soon(desk.authority.ledger.run)
            while not answers:  # noqa: ASYNC110 - the writer answers in its own time
                await trio.sleep(0.01)
            writing.cancel_scope.cancel()
    return answers[0]


async def person(desk: Desk) -> Conversation:
    async with trio.open_nursery() as writing:
        writing.start_soon(desk.authority.ledger.run)
        talk = await desk.login("alice")
        writing.cancel_scope.cancel()
    desk.authority.ledger = Ledger(desk.authority.ledger.store, desk.authority.ledger._head_file,
                                   desk.authority.ledger._head, desk.authority.ledger.register)  # fmt: skip
    desk.authority.sessions = Sessions(desk.authority.ledger)
    return talk


FORCED = """
[[rule]]
name = "forced"
who = { roles = ["engineer"] }
where = { labels = { env = "test" } }
as = ["*"]
allow = ["exec"]
certificate = { force-command = "x" }
"""


@pytest.mark.trio
async def test_a_channel_between_new_rules_and_the_end_of_what_they_end(desk):
    """Attack: a command that runs free, in a session of before the rule that forces another one."""
    talk = await person(desk)
    async with trio.open_nursery() as writing:
        writing.start_soon(desk.authority.ledger.run)
        grant = await access.authorize(desk.authority, talk, m.Authorize(account="root", target="web1"))
        opening = m.OpenChannel(session=grant.session, kind="exec", detail="id")
        assert await access.open_channel(desk.authority, talk, opening) == m.Allowed()
        desk.authority.rules = parse_rules(FORCED)
        assert isinstance(await access.open_channel(desk.authority, talk, opening), m.Refused)
        assert await access.recheck(desk.authority) == 1
        writing.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_session_that_ends_while_it_is_granted(desk):
    """Whoever is disabled between the decision and its record gets nothing."""
    talk = await person(desk)
    answer = await paused(
        desk,
        lambda: access.authorize(desk.authority, talk, m.Authorize(account="root", target="web1")),
        lambda: desk.authority.end_person("alice", "ada", "disabled"),
    )
    assert isinstance(answer, m.Refused), answer


@pytest.mark.trio
async def test_a_channel_of_a_session_that_ends_while_it_is_allowed(desk):
    talk = await person(desk)
    authority = desk.authority
    async with trio.open_nursery() as writing:
        writing.start_soon(authority.ledger.run)
        grant = await access.authorize(authority, talk, m.Authorize(account="root", target="web1"))
        writing.cancel_scope.cancel()
    kept = authority.ledger
    authority.ledger = authority.sessions._ledger = Ledger(kept.store, kept._head_file, kept._head, kept.register)
    answer = await paused(
        desk,
        lambda: access.open_channel(authority, talk, m.OpenChannel(session=grant.session, kind="shell")),
        lambda: authority.end_person("alice", "ada", "disabled"),
    )
    assert isinstance(answer, m.Refused), answer


@pytest.mark.trio
async def test_a_code_guessed_beside_others_does_not_outrun_the_lock(desk, nursery):
    """A hundred guesses at once must not be a hundred guesses: those that come after the lock are wrong."""
    authority = desk.authority
    nursery.start_soon(authority.ledger.run)
    operator = desk.talk(State.OPERATOR)
    enrolled = await factors.mfa_enrol(authority, operator, m.MfaEnrol(person="alice"))
    talk = await desk.login("alice")
    await authenticate.ask_code(authority, talk, m.AskCode(person=""))
    code = pyotp.TOTP(enrolled.data["secret"]).now()
    for token in ("one", "two"):
        await authority.ledger._readers.acquire_on_behalf_of(token)
    answers = []

    async def answer() -> None:
        answers.append(await authenticate.answer_code(authority, talk, m.AnswerCode(person="", answers=[code])))

    async with trio.open_nursery() as answering:
        answering.start_soon(answer)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(authority.settings.lock_after):
            authority.lockouts.count(CODE, "alice", authenticate.time.time())
        for token in ("one", "two"):
            authority.ledger._readers.release_on_behalf_of(token)
    assert answers[0].outcome is Outcome.REFUSED


# --- invitations ------------------------------------------------------------------------------------------


async def looked_up(desk, nursery):
    """An invitation and a key that would do, as they were found when the key was shown."""
    authority = desk.authority
    nursery.start_soon(authority.ledger.run)
    done = await invitations.invite(authority, desk.talk(State.OPERATOR), m.Invite(name="nora"))
    joining = await invitations.invited(authority, done.data["token"], sshkeys.generate_private_key().public)
    assert joining is not None
    return joining


@pytest.mark.trio
async def test_an_invitation_used_between_look_and_leap(desk, nursery):
    joining = await looked_up(desk, nursery)
    await desk.authority.ledger.write(
        lambda t: t.proofs.use_invitation(joining.invitation.token, joining.invitation.made)
    )
    assert not await invitations.join(desk.authority, desk.talk(), "nora", joining)
    assert desk.authority.roster.person("nora").keys == ()


@pytest.mark.trio
async def test_a_key_added_between_look_and_leap(desk, nursery):
    joining = await looked_up(desk, nursery)
    await desk.authority.ledger.write(lambda t: t.proofs.add_key("nora", "SHA256:other", "line", 1))
    assert not await invitations.join(desk.authority, desk.talk(), "nora", joining)
    assert await desk.authority.ledger.read(lambda t: t.proofs.invitation(joining.invitation.token)), "not used up"


@pytest.mark.trio
async def test_a_code_that_expires_between_look_and_leap(desk, nursery):
    """The database decides, whatever memory says."""
    authority = desk.authority
    nursery.start_soon(authority.ledger.run)
    done = await factors.mfa_issue(authority, desk.talk(State.OPERATOR), m.MfaIssue(person="alice"))
    person = authority.roster.person("alice")
    await authority.ledger.write(lambda t: t.proofs.use_code(person.codes[0].id, person.codes[0].created))
    checked = await codes.check_code(authority, desk.talk(), "alice", done.data["code"])
    assert not checked.ok


# --- the vault -------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_row_that_is_just_being_written(desk, nursery):
    """The writer tells the register before it commits: who reads between the two must not cry out."""
    authority = desk.authority
    secret, version = await authority.ledger.read(
        lambda t: (found := t.vault.named("root@web1"), t.vault.version(found.id))
    )
    anew = authority.vault.seal(secret.kind, secret.record, version.version, Secret(b"anew"))
    after = version_entry(secret, replace(version, sealed=anew))
    authority.ledger.register.apply([Change(version_entry(secret, version), after)])
    opened = []

    async def use() -> None:
        opened.append(await authority.secrets.open(secret.id))

    nursery.start_soon(use)
    with trio.fail_after(60):
        while not authority.ledger._send.statistics().current_buffer_used:  # noqa: ASYNC110 - it asks again
            await trio.sleep(0.01)
    with authority.ledger.store.write() as t:
        t.vault.reseal(version, anew)
    nursery.start_soon(authority.ledger.run)
    with trio.fail_after(60):
        while not opened:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert opened[0].value == Secret(b"anew")


@pytest.mark.trio
async def test_something_is_sealed_with_the_old_key_meanwhile(desk, nursery):
    """What was sealed before the new key came, and is written after all else was sealed anew, keeps the old key."""
    authority = desk.authority
    nursery.start_soon(authority.ledger.run)
    rows = new_secret(authority.vault, "generic", "late/one", Secret(b"late"), "test")
    await authority.rekeying.begin(Event(event="vault-rekey"))
    while await authority.rekeying._batch():
        pass
    await authority.ledger.write(lambda t: t.vault.add_secret(*rows), Event(event="secret-add"))
    await authority.rekeying._finish()
    assert authority.vault.generations == (1, 2)
    assert (await authority.secrets.open(rows[0].id)).value == Secret(b"late")
    assert await authority.rekeying._batch() == 1
    await authority.rekeying._finish()
    assert authority.vault.generations == (2,)
    assert (await authority.secrets.open(rows[0].id)).value == Secret(b"late")


@pytest.mark.trio
async def test_something_is_sealed_with_a_key_that_is_gone(desk, nursery):
    authority = desk.authority
    nursery.start_soon(authority.ledger.run)
    rows = new_secret(authority.vault, "generic", "late/one", Secret(b"late"), "test")
    await authority.rekeying.begin(Event(event="vault-rekey"))
    while await authority.rekeying._batch():
        pass
    await authority.rekeying._finish()
    with pytest.raises(Conflict, match="key that is gone"):
        await authority.ledger.write(lambda t: t.vault.add_secret(*rows), Event(event="secret-add"))


class Forgetful:
    """A master that says it has wrapped."""

    kind = "file"

    async def make(self) -> list[str]:
        return []

    async def wrap(self, root: Secret, bound: bytes) -> bytes:
        return b"nothing"

    async def unwrap(self, wrapped: bytes, bound: bytes) -> Secret:
        return Secret(bytes(32))


@pytest.mark.trio
async def test_a_master_that_gives_nothing_back(desk, nursery):
    authority = desk.authority
    nursery.start_soon(authority.ledger.run)
    before = await authority.ledger.read(lambda t: t.vault.keys())
    with pytest.raises(VaultError, match="does not give back"):
        await authority.rekeying.rewrap(Forgetful(), "file:x", Event(event="vault-rewrapped"))
    assert await authority.ledger.read(lambda t: t.vault.keys()) == before
