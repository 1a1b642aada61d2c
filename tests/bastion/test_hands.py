"""Changing what opens an account: real sshd, passwd, chpasswd, sudo and PAM, and everything that goes wrong there."""

import asyncio
import hashlib
import hmac
from pathlib import Path

import asyncssh
import pytest

from policy.messages import ChangeSecret, Credential, EndSession, Freeze, Refused, Report, SessionEnded, VerifyLogin
from recorder.model import Kind
from tests.bastion.aio import asynchronous, until
from tests.bastion.hands import KEY, worker
from tests.support.accounts_target import ANN, KIOSK, OPS, PASSWORD, ROOT, AccountsTarget, missing

NEW = "Second-Password-4711"
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it can run")


def opens(target: AccountsTarget, account: str) -> list[str]:
    """Which of the two passwords does."""
    return [password for password in (PASSWORD, NEW) if target.opens(account, password)]


# --- passwd ---------------------------------------------------------------------------------------------


@asynchronous
async def test_an_account_changes_its_own_password(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target, password=PASSWORD) as one:
        answer = await one.change("passwd", ANN, old=PASSWORD, new=NEW)
        assert answer.outcome == "done", answer.detail
        assert "updated successfully" in answer.detail
        assert opens(target, ANN) == [NEW]


@asynchronous
async def test_what_was_said_is_recorded_as_commitments(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target, password=PASSWORD) as one:
        await one.change("passwd", ANN, old=PASSWORD, new=NEW)
        expected = []
        for number, secret in enumerate((PASSWORD, NEW, NEW)):
            digest = hmac.digest(KEY, number.to_bytes(8, "big") + secret.encode(), hashlib.sha256)
            expected += [(Kind.SEALED_INPUT, digest + len(secret).to_bytes(4, "big")), (Kind.INPUT, b"\n")]
        assert one.typed() == expected
        assert one.tape.open is not None
        assert one.tape.open.private["person"] == "bastion"
        assert one.tape.end is not None
        assert one.tape.end.reason == "closed"
        assert b"New password:" in one.tape.of(Kind.STDERR)
        assert PASSWORD.encode() not in one.recorded()
        assert NEW.encode() not in one.recorded()


@asynchronous
async def test_a_target_that_wants_a_terminal_gets_one(target: AccountsTarget, tmp_path: Path) -> None:
    target.fault("terminal")
    async with worker(tmp_path, target, password=PASSWORD) as one:
        answer = await one.change("passwd", ANN, old=PASSWORD, new=NEW)
        assert answer.outcome == "done", answer.detail
        assert opens(target, ANN) == [NEW]
        assert NEW.encode() not in one.recorded()


@asynchronous
async def test_an_account_that_must_change_its_password_at_once(target: AccountsTarget, tmp_path: Path) -> None:
    target.expire(ANN)
    async with worker(tmp_path, target, password=PASSWORD) as one:
        answer = await one.change("passwd", ANN, old=PASSWORD, new=NEW)
        assert answer.outcome == "done", answer.detail
        assert opens(target, ANN) == [NEW]


@asynchronous
async def test_a_password_that_the_target_finds_too_short(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target, password=PASSWORD) as one:
        answer = await one.change("passwd", ANN, old=PASSWORD, new="short-1")
        assert answer.outcome == "refused"
        assert "longer password" in answer.detail
        assert opens(target, ANN) == [PASSWORD]


@asynchronous
async def test_the_old_password_is_wrong(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        answer = await one.change("passwd", ANN, old="not-the-old-one", new=NEW)
        assert answer.outcome == "refused"
        assert opens(target, ANN) == [PASSWORD]


@asynchronous
async def test_the_old_password_is_asked_for_and_not_known(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        answer = await one.change("passwd", ANN, new=NEW)
        assert answer.outcome == "refused"
        assert opens(target, ANN) == [PASSWORD]


# --- chpasswd -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [ROOT, OPS])
@asynchronous
async def test_a_privileged_account_sets_anothers(by: str, target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        answer = await one.change("chpasswd", ANN, by=by, new=NEW)
        assert answer.outcome == "done", answer.detail
        assert opens(target, ANN) == [NEW]
        assert NEW.encode() not in one.recorded()
        assert one.typed()[0] == (Kind.INPUT, b"ann:")


@asynchronous
async def test_without_the_right_to_it_nothing_is_changed(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        answer = await one.change("chpasswd", OPS, by=ANN, new=NEW)
        assert answer.outcome == "refused"
        assert "password is required" in answer.detail
        assert opens(target, OPS) == [PASSWORD]


@asynchronous
async def test_an_account_that_is_not_there(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        answer = await one.change("chpasswd", "nobody-of-that-name", by=ROOT, new=NEW)
        assert answer.outcome == "refused"
        assert "nobody-of-that-name" in answer.detail


@pytest.mark.parametrize("new", ["two\nroot:lines-of-it", "a:colon-in-a-password", "", "x" * 129, "ümlaut-password-1"])
@asynchronous
async def test_a_password_that_is_not_one_word_is_said_to_nobody(
    new: str, target: AccountsTarget, tmp_path: Path
) -> None:
    async with worker(tmp_path, target) as one:
        answer = await one.change("chpasswd", ANN, by=ROOT, new=new)
        assert answer.outcome == "refused"
        assert one.asked_for(Credential) == [], "nobody was dialled for it"
        assert opens(target, ANN) == [PASSWORD]
        assert opens(target, ROOT) == [PASSWORD]


@pytest.mark.parametrize("account", ["root:x\nann", "-S", "ann;reboot", "", "ann\n"])
@asynchronous
async def test_an_account_that_is_no_name_is_said_to_nobody(
    account: str, target: AccountsTarget, tmp_path: Path
) -> None:
    async with worker(tmp_path, target) as one:
        for how, new in (("chpasswd", NEW), ("authorized-keys", "ssh-ed25519 AAAA")):
            answer = await one.change(how, account, by=ROOT, new=new)
            assert answer.outcome == "refused"
        assert one.asked_for(Credential) == []


@asynchronous
async def test_passwd_is_for_the_account_itself(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        assert (await one.change("passwd", ANN, by=ROOT, new=NEW)).outcome == "refused"
        assert (await one.change("magic", ANN, by=ROOT, new=NEW)).outcome == "refused"
        assert one.asked_for(Credential) == []


# --- what goes wrong on the way -------------------------------------------------------------------------

WAYS = pytest.mark.parametrize(("how", "by"), [("passwd", ANN), ("chpasswd", OPS)])


@WAYS
@pytest.mark.parametrize(
    ("fault", "outcome", "left"),
    [
        ("lies", "done", PASSWORD),  # only a fresh login finds that out
        ("denies", "refused", NEW),
        ("drops", "unknown", NEW),
        ("drops-before", "unknown", PASSWORD),
        ("floods", "unknown", PASSWORD),
        ("absent", "refused", PASSWORD),
        ("hangs", "unknown", PASSWORD),
    ],
)
@asynchronous
async def test_a_target_with_a_fault(
    how: str, by: str, fault: str, outcome: str, left: str, target: AccountsTarget, tmp_path: Path
) -> None:
    target.fault(fault)
    async with worker(tmp_path, target) as one:
        answer = await one.change(how, ANN, by=by, old=PASSWORD, new=NEW, seconds=4.0 if fault == "hangs" else 60.0)
        assert answer.outcome == outcome, answer.detail
        assert opens(target, ANN) == [left]
        assert NEW not in answer.detail
        assert NEW.encode() not in one.recorded()
        assert len(one.recorded()) < 200_000
        assert one.tape.end is not None


@asynchronous
async def test_a_flood_is_left_at_once(target: AccountsTarget, tmp_path: Path) -> None:
    target.fault("floods")
    async with worker(tmp_path, target) as one:
        answer = await one.change("passwd", ANN, old=PASSWORD, new=NEW, seconds=8.0)
        assert answer.detail == "it said more than 65536 bytes"


@asynchronous
async def test_a_target_that_hangs_is_left_in_time(target: AccountsTarget, tmp_path: Path) -> None:
    target.fault("hangs")
    async with worker(tmp_path, target) as one:
        answer = await one.change("passwd", ANN, old=PASSWORD, new=NEW, seconds=2.0)
        assert answer.detail == "it was not done within 2 seconds"


@WAYS
@asynchronous
async def test_a_target_that_says_the_secret_back(how: str, by: str, target: AccountsTarget, tmp_path: Path) -> None:
    target.fault("echoes")
    async with worker(tmp_path, target) as one:
        answer = await one.change(how, ANN, by=by, old=PASSWORD, new=NEW)
        assert answer.outcome == "done"
        assert b"you said" in one.recorded()
        assert NEW.encode() not in one.recorded()
        assert NEW not in answer.detail


@asynchronous
async def test_another_host_key_hears_nothing(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target, password=PASSWORD) as one:
        one.host_keys = [asyncssh.generate_private_key("ssh-ed25519").public_data]
        answer = await one.change("passwd", ANN, old=PASSWORD, new=NEW)
        assert answer.outcome == "unreachable"
        assert "host key" in answer.detail
        assert [report.event for report in one.asked_for(Report)] == ["host-key-mismatch"]
        assert (await one.verify(ANN)).outcome == "unreachable", "it proves nothing about the password"
        assert opens(target, ANN) == [PASSWORD]


@asynchronous
async def test_nobody_answers_there(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        one.port = 1
        assert (await one.change("passwd", ANN, old=PASSWORD, new=NEW)).outcome == "unreachable"
        assert (await one.verify(ANN)).outcome == "unreachable"


@asynchronous
async def test_a_recorder_that_is_gone(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        one.recorder.refuse = "the disk is full"
        answer = await one.change("passwd", ANN, old=PASSWORD, new=NEW)
        assert answer.outcome == "unreachable"
        assert "disk is full" in answer.detail
        assert one.asked_for(Credential) == [], "what is not recorded is not done"
        assert [report.event for report in one.asked_for(Report)] == ["recorder-lost"]


@asynchronous
async def test_a_recorder_that_goes_in_the_middle(target: AccountsTarget, tmp_path: Path) -> None:
    target.fault("hangs")
    async with worker(tmp_path, target) as one:
        order = ChangeSecret(
            task=1, grant=one.grant(ANN), how="passwd", account=ANN, old=PASSWORD.encode(), new=NEW.encode(),
            seconds=6.0,
        )  # fmt: skip
        waiting = asyncio.ensure_future(one.do(order))
        await until("it was told", lambda: one.recorder.tapes and len(one.typed()) == 6)
        one.tape.hang_up()
        answer = await waiting
        assert answer.outcome == "unknown"
        assert "recording failed" in answer.detail


@asynchronous
async def test_nothing_is_said_before_it_is_recorded(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        one.answers[Credential] = lambda request: setattr(one.recorder, "hold", True)
        one.answers.pop(Credential)
        order = ChangeSecret(task=1, grant=one.grant(OPS), how="chpasswd", account=ANN, new=NEW.encode(), seconds=3.0)
        one.recorder.hold = True
        answer = await one.do(order)
        assert answer.outcome in ("unknown", "unreachable")
        assert opens(target, ANN) == [PASSWORD]


@pytest.mark.parametrize("message", [EndSession, Freeze])
@asynchronous
async def test_an_operator_ends_it(message: type, target: AccountsTarget, tmp_path: Path) -> None:
    target.fault("hangs")
    async with worker(tmp_path, target) as one:
        grant = one.grant(ANN)
        order = ChangeSecret(task=1, grant=grant, how="passwd", account=ANN, old=PASSWORD.encode(), new=NEW.encode())
        waiting = asyncio.ensure_future(one.do(order))
        await until("it was told", lambda: one.recorder.tapes and len(one.typed()) == 6)
        who = {"by": "sam"} if message is EndSession else {}
        one.hands.pushed(message(session=grant.session, reason="what is this", **who))
        answer = await waiting
        assert answer.outcome == "unknown"
        assert "what is this" in answer.detail
        assert one.tape.end is not None
        assert one.tape.end.reason == "killed"


@asynchronous
async def test_an_end_right_behind_the_order(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        grant = one.grant(ANN)
        one.hands.take(one, VerifyLogin(task=1, grant=grant))  # type: ignore[arg-type]
        one.hands.pushed(EndSession(session=grant.session, by="", reason="no longer allowed"))
        await until("it is over", lambda: not one.hands.jobs)
        assert [message.outcome for message in one.told if not isinstance(message, SessionEnded)] == ["unreachable"]
        assert one.asked == []


# --- logging in to see ----------------------------------------------------------------------------------


@asynchronous
async def test_which_password_opens(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target, password=NEW) as one:
        answer = await one.verify(ANN)
        assert answer.outcome == "refused"
        assert [report.event for report in one.asked_for(Report)] == ["login-failed-at-target"]
        target.set_password(ANN, NEW)
        assert (await one.verify(ANN)).outcome == "done"
        assert (await one.verify(KIOSK)).outcome == "refused"
        target.set_password(KIOSK, NEW)
        assert (await one.verify(KIOSK)).outcome == "done", "an account without a shell logs in as well"
        assert "Starting session" not in target.log().rpartition("kiosk")[2], "nothing is done there"


@asynchronous
async def test_a_locked_account_does_not_open(target: AccountsTarget, tmp_path: Path) -> None:
    target.lock(ANN)
    async with worker(tmp_path, target, password=PASSWORD) as one:
        assert (await one.verify(ANN)).outcome == "refused"
        assert (await one.change("passwd", ANN, old=PASSWORD, new=NEW)).outcome == "refused"


@asynchronous
async def test_a_credential_that_policyd_does_not_give(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        one.answers[Credential] = lambda request: Refused(code=78, cause="the credential cannot be used")
        answer = await one.verify(ANN)
        assert answer.outcome == "unreachable", "it proves nothing about the target"
        assert answer.detail == "the credential cannot be used"


@asynchronous
async def test_more_orders_than_a_worker_takes(
    target: AccountsTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bastion.ssh.hands.work.MAX_JOBS", 0)
    async with worker(tmp_path, target) as one:
        answer = await one.verify(ANN)
        assert answer.outcome == "unreachable"
        assert "no more work" in answer.detail


@asynchronous
async def test_a_worker_that_stops_lets_the_told_finish(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        grant = one.grant(ANN)
        order = ChangeSecret(task=1, grant=grant, how="passwd", account=ANN, old=PASSWORD.encode(), new=NEW.encode())
        waiting = asyncio.ensure_future(one.do(order))
        await until("it was told", lambda: one.hands.jobs and next(iter(one.hands.jobs.values())).told)
        one.hands.stop()
        assert (await waiting).outcome == "done"
        assert (await one.verify(ANN)).outcome == "unreachable"
