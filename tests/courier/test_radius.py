"""RADIUS: packets by the RFC's own examples, and calls to servers that behave or do not, and to FreeRADIUS."""

import hashlib
import hmac
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from bastion.courier import radius
from bastion.courier import radius_wire as wire
from bastion.courier.reach import Reach
from bastion.courier.silent import Silent
from policy.messages import Called, RadiusCall
from tests.support.net import free_port, tail, wait_until

SECRET = b"xyzzy5461"  # of RFC 2865 section 7
ASKED = bytes.fromhex("0f403f9473978057bd83d5cb98f4227a")


# --- packets ------------------------------------------------------------------------------------------


def test_the_example_of_the_rfc_hides_the_same_password() -> None:
    """RFC 2865 section 7.1: nemo, `arctangent`."""
    assert wire.hide(b"arctangent", SECRET, ASKED).hex() == "0dbe708d93d413ce3196e43f782a0aee"


def test_the_answer_in_the_rfc_is_of_another_time() -> None:
    """RFC 2865 section 7.1: its authenticator holds, and since CVE-2024-3596 that is not enough."""
    request = bytes([1, 0, 0, 20]) + ASKED
    answer = bytes.fromhex(
        "02 00 00 26"  # Access-Accept, identifier 0, 38 bytes
        "86fe220e7624ba2a1005f6bf9b55e0b2"  # Response Authenticator
        "06 06 00000001  0f 06 00000000  0e 06 c0a80103"  # Service-Type, Login-Service, Login-IP-Host
    )
    with pytest.raises(wire.BadPacket, match="without one Message-Authenticator"):
        wire.read_answer(answer, request, SECRET)
    with pytest.raises(wire.BadPacket, match="does not fit the secret"):
        wire.read_answer(answer, request, b"another")


def test_a_request_is_signed_before_anything_else() -> None:
    packet = wire.access_request(7, ASKED, SECRET, user="nemo", password=b"arctangent", nas="bastion", state=b"s")
    assert packet[:2] == bytes([1, 7])
    assert packet[20:22] == bytes([80, 18]), "Message-Authenticator is the first attribute"
    unsigned = packet[:22] + bytes(16) + packet[38:]
    assert packet[22:38] == hmac.digest(SECRET, unsigned, "md5")


@pytest.mark.parametrize("password", [b"", b"x" * 129])
def test_a_password_that_does_not_fit(password: bytes) -> None:
    with pytest.raises(ValueError, match="password of"):
        wire.hide(password, SECRET, ASKED)


def answer_to(request: bytes, code: int, *attributes: bytes, secret: bytes = SECRET, signed: bool = True) -> bytes:
    """As a server makes it: zeros in the Message-Authenticator, its HMAC, then the Response Authenticator."""
    body = (bytes([80, 18]) + bytes(16) if signed else b"") + b"".join(attributes)
    head = bytes([code, request[1]]) + (20 + len(body)).to_bytes(2)
    if signed:
        body = body[:2] + hmac.digest(secret, head + request[4:20] + body, "md5") + body[18:]
    return head + hashlib.md5(head + request[4:20] + body + secret).digest() + body


REQUEST = bytes([1, 7, 0, 20]) + ASKED
MESSAGE = bytes([18, 5]) + b"PIN"
STATE = bytes([24, 6]) + b"1234"


def test_answers() -> None:
    read = wire.read_answer(answer_to(REQUEST, 11, MESSAGE, STATE), REQUEST, SECRET)
    assert read == wire.Answer(code=11, message="PIN", state=b"1234")
    assert wire.read_answer(answer_to(REQUEST, 2) + b"padding", REQUEST, SECRET) == wire.Answer(code=2)
    assert wire.read_answer(answer_to(REQUEST, 3), REQUEST, SECRET).code == 3


def broken() -> dict[str, tuple[bytes, str]]:
    good = answer_to(REQUEST, 2)
    forged = answer_to(REQUEST, 2, signed=False)
    head, tail_ = good[:4], good[20:]
    wrong = tail_[:2] + bytes([tail_[2] ^ 1]) + tail_[3:]
    resigned = head + hashlib.md5(head + ASKED + wrong + SECRET).digest() + wrong
    return {
        "short": (good[:19], "of 19 bytes"),
        "cut": (good[:-1], "says 38 bytes and has 37"),
        "length": (good[:2] + (19).to_bytes(2) + good[4:], "says 19"),
        "identifier": (good[:1] + b"\x08" + good[2:], "another request"),
        "authenticator": (good[:4] + bytes(16) + good[20:], "does not fit the secret"),
        "secret": (answer_to(REQUEST, 2, secret=b"other"), "does not fit the secret"),
        "unsigned": (forged, "without one Message-Authenticator"),  # BlastRADIUS
        "signature": (resigned, "wrong Message-Authenticator"),
        "signed twice": (answer_to(REQUEST, 2, bytes([80, 18]) + bytes(16)), "without one Message-Authenticator"),
        "code": (answer_to(REQUEST, 4), "of code 4"),
        "attribute of no length": (answer_to(REQUEST, 2, b"\x12\x00"), "do not add up"),
        "attribute past the end": (answer_to(REQUEST, 2, b"\x12\x09x"), "do not add up"),
        "half an attribute": (answer_to(REQUEST, 2, b"\x12"), "do not add up"),
        "two states": (answer_to(REQUEST, 11, STATE, STATE), "two states"),
        "attributes without end": (answer_to(REQUEST, 2, *[bytes([26, 3, 0])] * 64), "do not add up"),
    }


@pytest.mark.parametrize("name", broken())
def test_what_is_no_answer(name: str) -> None:
    data, problem = broken()[name]
    with pytest.raises(wire.BadPacket, match=problem):
        wire.read_answer(data, REQUEST, SECRET)


# --- calls --------------------------------------------------------------------------------------------


def ask(*servers: str, **more: Any) -> Called:
    given: dict[str, Any] = {"secret": SECRET, "user": "alice", "password": b"123456", "seconds": 10.0} | more
    return trio.run(radius.call, RadiusCall(task=5, servers=list(servers), **given), Reach())


@contextmanager
def server(*replies: Callable[[bytes], list[bytes]]) -> Iterator[tuple[str, list[bytes]]]:
    """Answers each packet by the next of `replies`; its address, and the packets."""
    seen: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)

        def serve() -> None:
            with suppress(OSError):  # the test has what it wanted, and closed the socket
                for reply in replies:
                    data, peer = sock.recvfrom(4097)
                    seen.append(data)
                    for answer in reply(data):
                        sock.sendto(answer, peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{sock.getsockname()[1]}", seen
        sock.close()


def test_yes_no_and_a_further_question() -> None:
    for code, wanted in ((2, Called(task=5, status=2)), (3, Called(task=5, status=3))):
        with server(lambda data, code=code: [answer_to(data, code)]) as (address, _):
            assert ask(address) == wanted
    with server(lambda data: [answer_to(data, 11, MESSAGE, STATE)]) as (address, _):
        assert ask(address) == Called(task=5, status=11, values=["PIN"], next=b"1234")


def test_a_forged_yes_is_passed_by_and_the_right_answer_taken() -> None:
    with server(lambda data: [answer_to(data, 2, signed=False), b"x", answer_to(data, 3)]) as (address, _):
        assert ask(address).status == 3
    with server(lambda data: [answer_to(data, 2, signed=False)]) as (address, _):
        assert ask(address, seconds=0.5).error == "gave no answer in time"


def test_a_lost_packet_is_sent_once_more_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radius, "RETRY_SECONDS", 0.1)
    with server(lambda _: [], lambda data: [answer_to(data, 2)]) as (address, seen):
        assert ask(address).status == 2
        assert seen[0] == seen[1]


def test_the_next_server_when_one_is_silent_or_gone() -> None:
    with server(lambda _: []) as (silent, _), server(lambda data: [answer_to(data, 2)]) as (good, _):
        assert ask(silent, good, seconds=4.0).status == 2
    with server(lambda data: [answer_to(data, 2)]) as (good, _):
        assert ask(f"127.0.0.1:{free_port()}", "no such name.", "127.0.0.1:99999", good).status == 2


def test_a_server_that_is_away_is_asked_last_for_a_minute() -> None:
    reach = Reach()

    def once(*servers: str) -> int:
        call = RadiusCall(
            task=5, servers=list(servers), secret=SECRET, user="alice", password=b"123456", seconds=4.0, nas="x"
        )

        return trio.run(radius.call, call, reach).status

    gone = f"127.0.0.1:{free_port()}"
    with server(lambda _: []) as (away, asked_away), server(*[lambda data: [answer_to(data, 2)]] * 3) as (good, _):
        assert once(away, gone, good) == 2
        assert once(away, gone, good) == 2
        assert len(asked_away) == 1, "nobody waits for it again"


def test_what_is_remembered_of_silent_servers() -> None:
    """With the clock of the test: who is away is last, and no one is ever left out."""
    seen = Silent()
    seen.silent("a", 100.0)
    assert seen.last(["a", "b"], 159.0) == ["b", "a"]
    assert seen.last(["a", "b"], 160.0) == ["a", "b"]
    seen.silent("b", 150.0)
    assert seen.last(["a", "b"], 155.0) == ["a", "b"], "all of them: as ever"
    seen.answered("a")
    assert seen.last(["b", "a"], 155.0) == ["a", "b"]
    for number in range(200):
        seen.silent(str(number), 155.0)
    assert seen.last(["199", "new"], 156.0) == ["199", "new"], "memory has an end"


def test_what_cannot_be_asked() -> None:
    assert ask().error == "has no server"
    assert "does not call" in ask("169.254.169.254", seconds=1.0).error
    assert ask("127.0.0.1", password=b"x" * 129).error == "was given more than a RADIUS packet holds"
    assert ask("127.0.0.1", user="x" * 254).error == "was given more than a RADIUS packet holds"


# --- FreeRADIUS ---------------------------------------------------------------------------------------

CONFIGURATION = """
name = radiusd
logdir = {home}
run_dir = {home}
pidfile = {home}/radiusd.pid
libdir = /usr/lib/freeradius
log {{
    destination = stderr
}}
security {{
    max_attributes = 200
}}
client localhost {{
    ipaddr = 127.0.0.1
    secret = {secret}
    require_message_authenticator = yes
}}
modules {{
    pap {{
    }}
    always handled {{
        rcode = handled
    }}
}}
server default {{
    listen {{
        type = auth
        ipaddr = 127.0.0.1
        port = {port}
    }}
    authorize {{
        if (&User-Name != "old") {{
            update reply {{
                &Message-Authenticator := 0x00
            }}
        }}
        if (&User-Name == "bob" && !&State) {{
            update reply {{
                &State := 0x31323334
                &Reply-Message := "next code"
            }}
            update control {{
                &Response-Packet-Type := Access-Challenge
            }}
            handled
        }}
        update control {{
            &Cleartext-Password := "123456"
        }}
        pap
    }}
    authenticate {{
        Auth-Type PAP {{
            pap
        }}
    }}
}}
"""


@pytest.fixture(scope="module")
def freeradius(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("freeradius") or shutil.which("freeradius", path="/usr/sbin")
    if program is None:
        pytest.skip("freeradius is not installed: apt-get install freeradius")
    home, port = tmp_path_factory.mktemp("radius"), free_port()
    (home / "radiusd.conf").write_text(CONFIGURATION.format(home=home, port=port, secret=SECRET.decode()))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([program, "-X", "-d", str(home), "-n", "radiusd"], stdout=log, stderr=log)
    try:
        wait_until("freeradius", lambda: _ready(process, home), 60)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _ready(process: "subprocess.Popen[bytes]", home: Path) -> bool:
    assert process.poll() is None, tail(home / "log")
    return "Ready to process requests" in tail(home / "log")


def test_freeradius(freeradius: str) -> None:
    assert ask(freeradius).status == 2
    assert ask(freeradius, password=b"654321").status == 3
    # 3.2.1 as it comes signs no answer: its yes is one that anybody on the way can make (CVE-2024-3596).
    assert ask(freeradius, user="old", seconds=0.5).error == "gave no answer in time"
    assert ask(freeradius, secret=b"another", seconds=1.5).error == "gave no answer in time"


def test_a_further_question_of_freeradius(freeradius: str) -> None:
    asked = ask(freeradius, user="bob")
    assert (asked.status, asked.values, asked.next) == (11, ["next code"], b"1234")
    assert ask(freeradius, user="bob", state=asked.next).status == 2
