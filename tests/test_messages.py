"""The words between the processes: both directions, and what is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import policy.messages as policy
import recorder.messages as recorder
from policy.model import Method, Outcome

SECRET = "correct horse battery staple"


def test_a_request_comes_back_as_it_was_sent() -> None:
    sent = policy.ProveKey(person="alice", blob=b"\0key", signed=b"data", signature=b"sig")
    assert policy.decode_request(policy.encode(7, sent)) == (7, sent)


def test_a_reply_is_not_a_request() -> None:
    verdict = policy.Verdict(outcome=Outcome.DONE, next=[Method.CODE], person="alice")
    assert policy.decode_reply(policy.encode(1, verdict)) == (1, verdict)
    with pytest.raises(msgspec.ValidationError):
        policy.decode_request(policy.encode(1, verdict))


def test_an_unknown_field_is_refused() -> None:
    forged = msgspec.msgpack.encode((1, {"type": "Whoami", "admin": True}))
    with pytest.raises(msgspec.ValidationError):
        policy.decode_request(forged)


def test_an_unknown_outcome_is_refused() -> None:
    forged = msgspec.msgpack.encode((1, {"type": "Verdict", "outcome": "welcome"}))
    with pytest.raises(msgspec.ValidationError):
        policy.decode_reply(forged)


def test_no_message_shows_its_fields() -> None:
    """A log line or a traceback that prints a message must not print a password."""
    for message in (
        policy.TryPassword(person="alice", password=SECRET.encode()),
        policy.UsePassword(password=SECRET.encode()),
        policy.PersonAdd(name="alice", password=SECRET),
        policy.AccountAdd(account="root", target="web1", private_key=SECRET),
    ):
        assert SECRET not in repr(message)
        assert SECRET not in f"{message}"


@given(st.lists(st.tuples(st.integers(0, 13), st.integers(0, 0xFFFF), st.integers(0, 2**40), st.binary(max_size=64))))
def test_any_events_survive_the_way_to_the_recorder(events: list[tuple[int, int, int, bytes]]) -> None:
    sent = recorder.Append(9, events)
    assert recorder.decode_request(recorder.encode(sent)) == sent


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_declared_error(data: bytes) -> None:
    for decode in (policy.decode_request, policy.decode_reply, recorder.decode_request, recorder.decode_reply):
        with pytest.raises(msgspec.MsgspecError):
            decode(b"\xc1" + data)  # 0xc1 is never used in msgpack
        try:
            decode(data)
        except msgspec.MsgspecError:
            pass


def test_text_that_is_no_utf8_is_a_declared_error() -> None:
    """An undeclared exception would end the daemon's task for everybody, not the one socket."""
    with pytest.raises(msgspec.DecodeError):
        recorder.decode_reply(b"\x92\xa2no\xa1\xff")
    with pytest.raises(msgspec.DecodeError):
        policy.decode_request(b"\x92\x01\x82\xa4type\xab" + b"PersonShow" + b"\xff\xa4name\xa1\xff")


def test_a_full_append_fits_a_message() -> None:
    data = bytes(30 * 1024)
    full = recorder.encode(recorder.Append(2**63, [(0, 1, 2**40, data), (0, 1, 2**40, data)]))
    assert 2 * len(data) <= recorder.MAX_APPEND
    assert len(full) <= recorder.MAX_MESSAGE
