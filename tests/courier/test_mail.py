"""The courier's mail: over TLS or not at all, to a server that behaves and misbehaves."""

import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from bastion.courier import mail
from bastion.courier.reach import Reach
from policy.messages import Called, MailCall
from tests.support.net import free_port
from tests.support.outside import Ca, MailServer


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    return Ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture(params=["smtp", "smtps"])
def server(request: pytest.FixtureRequest, ca: Ca) -> Iterator[MailServer]:
    with MailServer(ca.context("127.0.0.1"), implicit=request.param == "smtps").served() as server:
        yield server


def send(url: str, ca: Ca | None, **more: Any) -> Called:
    given: dict[str, Any] = {
        "sender": "bastion@example.org", "to": ["ops@example.org", "sue@example.org"], "subject": "request r-1",
        "text": "alice asks", "trust": ca.pem if ca else "",
    } | more  # fmt: skip
    return trio.run(mail.call, MailCall(task=3, url=url, **given), Reach())


def test_a_mail_arrives_over_tls(server: MailServer, ca: Ca) -> None:
    assert send(server.url, ca, user="bastion", password="s3cret") == Called(task=3, status=250)
    (found,) = server.mails
    assert found.tls
    assert (found.sender, found.to) == ("bastion@example.org", ("ops@example.org", "sue@example.org"))
    assert b64decode(found.user) == b"\0bastion\0s3cret"
    for line in ("Subject: request r-1", "Auto-Submitted: auto-generated", "From: bastion@example.org", "alice asks"):
        assert line in found.data


def test_nothing_is_sent_in_the_clear(ca: Ca) -> None:
    """Who sits on the way takes STARTTLS out of the answer."""
    with MailServer(ca.context("127.0.0.1"), starttls=False).served() as server:
        assert "nothing is sent in the clear" in send(server.url, ca, user="u", password="p").error
        assert server.mails == []


def test_the_certificate_is_checked(server: MailServer, ca: Ca, tmp_path: Path) -> None:
    for trusted in (Ca(tmp_path), None):
        assert "certificate that is not accepted" in send(server.url, trusted).error
    with MailServer(ca.context("elsewhere.test"), implicit=server.implicit).served() as other:
        assert "certificate that is not accepted" in send(other.url, ca).error
    assert server.mails == []


@pytest.mark.parametrize(
    ("says", "error"),
    [
        ({"AUTH": "535 no"}, "does not accept the user and password"),
        ({"MAIL": "550 no"}, "refused the mail with 550"),
        ({"RCPT": "550 no"}, "takes mail for none of the recipients"),
        ({"DATA": "451 later"}, "refused the mail with 451"),
        ({"EHLO": "500 what", "HELO": "500 what"}, "refused the mail with 500"),
        ({"EHLO": "250-" + "x" * 100_000}, "refused the mail with 500"),
    ],
)
def test_a_refusal_in_words(ca: Ca, says: dict[str, str], error: str) -> None:
    with MailServer(ca.context("127.0.0.1"), implicit=True, says=says).served() as server:
        found = send(server.url, ca, user="u", password="p", seconds=20.0)
        assert (found.status, found.error) == (0, error) or error in found.error


def test_a_server_that_drips_is_cut(ca: Ca) -> None:
    """Each byte restarts a socket's own timeout: only the deadline of the whole ends it."""
    with MailServer(ca.context("127.0.0.1"), drip=True).served() as server:
        began = time.monotonic()
        assert send(server.url, ca, seconds=1.0).error == "did not take the mail within 1 s"
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "more",
    [
        {"subject": "x\nBcc: evil@example.org"}, {"to": ["a@b\nRCPT TO:<evil@example.org>"]}, {"to": []},
        {"to": ["x@example.org"] * 51}, {"sender": "a@b\r\nX: y"}, {"text": "\ud800"},
    ],
)  # fmt: skip
def test_what_is_no_mail_is_not_sent(server: MailServer, ca: Ca, more: dict[str, Any]) -> None:
    assert send(server.url, ca, **more).error == "was given something that is no mail"
    assert server.mails == []


def test_where_mail_does_not_go() -> None:
    assert "does not call" in send("smtp://169.254.169.254:25", None).error
    assert send(f"smtp://127.0.0.1:{free_port()}", None).error == "cannot be reached: connection refused"
    assert "has no address" in send("http://127.0.0.1/", None).error
