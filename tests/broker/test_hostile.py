"""Whoever is at the door: floods, slow ones, what is no HTTP, and authorities that are away."""

import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bastion.broker import door
from bastion.broker.crowd import MOST_OF_ONE
from policy import messages as m
from policy.applications.rates import BURST_SECONDS, UNKNOWN_RATE
from tests.broker.place import Place, Talk
from tests.support.net import LOOPBACK, tail, wait_until

SECRET = "/v1/secrets/deploy@web1"
HEAD = f"GET {SECRET} HTTP/1.1\r\nHost: bastion\r\nBastion-Application: shop\r\n".encode()


@pytest.fixture(scope="module", autouse=True)
def shop(place: Place) -> None:
    place.application("shop", "deploy@web1")


def alive(place: Place) -> bool:
    with place.local() as talk:
        return talk.get(SECRET, "Bastion-Application: shop").status == 200


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (HEAD + b"Content-Length: 5\r\n\r\nhello", 413),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (HEAD + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HEAD + b"\r\n", 413),
        (HEAD + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello", 400),
        (HEAD + b"Content-Length: 0, 5\r\n\r\nhello", 400),
        (HEAD + b"Content-Length: +0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding : chunked\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
        (HEAD + b"X: a\x00b\r\n\r\n", 400),
        (HEAD + b"Expect: 100-continue\r\n\r\n", 417),
        (HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 417),
        (b"GET http://bastion/v1/self HTTP/1.1\r\nHost: bastion\r\n\r\n", 400),
        (b"GET //v1/self HTTP/1.1\r\nHost: bastion\r\n\r\n", 404),
        (b"CONNECT bastion:443 HTTP/1.1\r\nHost: bastion\r\n\r\n", 400),
        (b"GET /v1/self HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /v1/self HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/self HTTP/2.0\r\nHost: bastion\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /v1/self\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nHost: bastion\r\n\r\n", 400),
        (HEAD + b"X: " + b"a" * 2 * door.MAX_HEAD + b"\r\n\r\n", 400),
        (HEAD + b"X: a\r\n" * 4000 + b"\r\n", 400),
    ],
)  # fmt: skip
def test_what_is_no_request_of_ours_ends_the_connection(place: Place, raw: bytes, status: int) -> None:
    """Nothing that follows on such a connection is taken for a request."""
    with place.local() as talk:
        try:
            talk.send(raw + (b"" if status == 404 else HEAD + b"\r\n"))
        except OSError:  # it hung up while we were still sending
            pass
        answer = talk.answer()
        assert answer.status == status
        assert "error" in answer.told
        if status != 404:
            assert answer.headers["connection"] == "close"
            assert talk.is_closed()
            assert b"200 OK" not in talk._left
    assert alive(place)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (("GET", "/"), 404),
        (("GET", "/v1/secrets/"), 400),
        (("GET", "/v1/secrets/deploy@web1?x=1"), 400),
        (("GET", "/v1/secrets/a%zz"), 400),
        (("GET", "/v1/secrets/a%00b"), 400),
        (("GET", "/v1/secrets/a%20b"), 400),
        (("GET", "/v1/secrets/%ff"), 400),
        (("GET", "/v1/secrets/../self"), 403),
        (("PUT", SECRET), 405),
        (("POST", SECRET), 405),
        (("HEAD", "/v1/leases/" + "0" * 32), 405),
        (("GET", "/v1/leases/" + "0" * 32), 405),
        (("DELETE", "/v1/leases/x"), 410),
        (("GET", "/v1/secrets/deploy%40web1"), 200),
    ],
)
def test_what_is_asked_wrongly_is_told_so(place: Place, request_line: tuple[str, str], status: int) -> None:
    method, path = request_line
    with place.local() as talk:
        if method == "HEAD":  # its answer has no body, whatever its length says
            talk.send(f"HEAD {path} HTTP/1.1\r\nHost: b\r\n\r\n".encode())
            assert talk.sock.recv(65536).startswith(b"HTTP/1.1 405")
            return
        answer = talk.get(path, "Bastion-Application: shop", method=method)
        assert answer.status == status, answer.body
        if status == 405:
            assert answer.headers["allow"] in ("GET", "POST", "DELETE")
        assert talk.get(SECRET, "Bastion-Application: shop").status == 200  # this connection goes on


@pytest.mark.parametrize("field", ["Bastion-Application: shop", "Authorization: Bearer app-x"])
def test_a_field_that_says_who_one_is_stands_there_once(place: Place, field: str) -> None:
    with place.local() as talk:
        assert talk.get(SECRET, field, field).status == 400


@pytest.mark.parametrize("field", ["Authorization: Basic YTpi", "Authorization: Bearer", "Authorization: Bearer a b"])
def test_what_is_no_token_is_nobody(place: Place, field: str) -> None:
    with place.local() as talk:
        assert talk.get(SECRET, field).status == 401


def test_requests_in_one_write_are_answered_in_order(place: Place) -> None:
    with place.local() as talk:
        talk.send((HEAD + b"\r\n") * 3 + b"GET /nothing HTTP/1.1\r\nHost: b\r\n\r\n")
        assert [talk.answer().status for _ in range(4)] == [200, 200, 200, 404]


def test_http_1_0_is_answered_and_closed(place: Place) -> None:
    with place.local() as talk:
        talk.send(f"GET {SECRET} HTTP/1.0\r\nBastion-Application: shop\r\n\r\n".encode())
        assert talk.answer().status == 200
        assert talk.is_closed()


def test_a_flood_is_one_event_and_429(place: Place) -> None:
    place.application("flood", "deploy@web1", rate=5)
    statuses, began = [], time.monotonic()
    with place.local() as talk:
        for _ in range(200):
            answer = talk.get(SECRET, "Bastion-Application: flood")
            statuses.append(answer.status)
            if answer.status == 429:
                assert answer.headers["retry-after"] == "1"
    assert statuses[:10] == [200] * 10  # what two seconds allow
    assert statuses.count(200) <= 5 * (BURST_SECONDS + time.monotonic() - began) + 1
    assert 429 in statuses
    floods = [one for one in place.policyd.audit("application-flood") if one["who"] == "application flood"]
    assert len(floods) == 1
    assert alive(place)  # the others are not hindered


def test_a_flood_of_refusals_is_few_events(place: Place) -> None:
    place.application("prober", "deploy@web1", rate=10_000)
    began = time.monotonic()
    with place.local() as talk:
        statuses = [talk.get(f"/v1/secrets/guess-{n}", "Bastion-Application: prober").status for n in range(150)]
        assert talk.get(SECRET, "Bastion-Application: prober").status == 200  # what it may read, it reads
    refused = [one for one in place.policyd.audit("secret-refused", 1000) if one["who"] == "application prober"]
    assert len(refused) == statuses.count(403) <= UNKNOWN_RATE * (BURST_SECONDS + time.monotonic() - began) + 1
    assert 429 in statuses


def test_a_flood_of_strangers_is_few_events(place: Place) -> None:
    statuses: list[int] = []
    while statuses.count(429) < 30 and len(statuses) < 1000:
        with place.remote() as talk:
            statuses.append(talk.get(SECRET, "Authorization: Bearer app-" + "c" * 52).status)
    assert {401, 429} == set(statuses)
    floods = [one for one in place.policyd.audit("application-flood") if one["source"] == LOOPBACK]
    assert len(floods) == 1
    assert alive(place)


def test_connections_of_one_user_are_limited(place: Place) -> None:
    talks = [place.local() for _ in range(MOST_OF_ONE + 10)]
    try:
        wait_until("a log of it", lambda: b'"crowded"' in place.log.read_bytes())
        closed = [talk for talk in talks if _hung_up(talk)]
        assert len(closed) >= 10
        with place.remote() as talk:  # others come in
            assert talk.get("/nothing").status == 404
    finally:
        for talk in talks:
            talk.close()
    wait_until("room", lambda: _welcome(place))


def _hung_up(talk: Talk) -> bool:
    talk.sock.settimeout(0.2)
    try:
        return talk.sock.recv(1) == b""
    except TimeoutError:
        return False


def _welcome(place: Place) -> bool:
    try:
        return alive(place)
    except (AssertionError, OSError):
        return False


def test_a_slow_loris_is_cut_off(place: Place) -> None:
    """A byte now and then does not keep a connection, neither before a request nor within one."""
    with place.local() as talk:
        assert talk.get("/nothing").status == 404
        began = time.monotonic()
        talk.sock.settimeout(1.0)
        over = False
        while not over and time.monotonic() - began < 3 * door.HEAD_SECONDS:
            try:
                talk.send(b"G" if time.monotonic() == began else b"A")
                over = talk.sock.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                over = True
        assert over
        assert time.monotonic() - began < 2 * door.HEAD_SECONDS


def test_who_says_nothing_is_sent_away(place: Place) -> None:
    with place.local() as talk, socket.create_connection((LOOPBACK, place.port)) as raw:
        raw.settimeout(door.HEAD_SECONDS + 40)
        assert raw.recv(1) == b""  # no handshake
        talk.sock.settimeout(40)
        assert talk.is_closed()


def test_policyd_away_is_503_and_comes_back(place: Place) -> None:
    with place.local() as talk:
        assert talk.get(SECRET, "Bastion-Application: shop").status == 200
        place.policyd.stop()
        for _ in range(2):
            answer = talk.get(SECRET, "Bastion-Application: shop")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        place.policyd.start()
        assert talk.get(SECRET, "Bastion-Application: shop").status == 200


def test_policyd_killed_in_the_middle_gives_no_answer_twice(place: Place) -> None:
    """Reads go on while policyd dies and comes back: each is answered whole, or with 503."""
    statuses: list[int] = []
    over = threading.Event()

    def read() -> None:
        with place.local() as talk:
            while not over.is_set():
                answer = talk.get(SECRET, "Bastion-Application: shop")
                assert answer.status != 200 or answer.told["value"] == "password of deploy"
                statuses.append(answer.status)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_until("reads", lambda: statuses.count(200) > 5)
        place.policyd.kill()
        wait_until("refusals", lambda: 503 in statuses)
        place.policyd.start()
        before = len(statuses)
        wait_until("reads again", lambda: 200 in statuses[before:])
    finally:
        over.set()
        reader.join()
    assert set(statuses) <= {200, 503, 429}
    # what was given is in the trail
    read_rows = place.sql("SELECT count(*) FROM audit WHERE event = 'secret-read'")[0][0]
    assert read_rows >= statuses.count(200)


def test_the_broker_killed_leaves_nothing_behind(place: Place) -> None:
    place.stop(signal.SIGKILL)
    assert place.socket.exists()
    place.start()
    assert alive(place)


def test_a_socket_that_systemd_passes(place: Place, tmp_path: Path) -> None:
    """It takes the place of `socket`; HTTPS stays as the settings say."""
    place.stop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as passed:
        passed.bind(str(tmp_path / "passed.sock"))
        passed.listen()
        code = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3);"
            "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'broker'};"
            "os.execv(sys.executable, [sys.executable, '-m', 'bastion.broker', '--config', sys.argv[2]])"
        )
        words = [sys.executable, "-c", code, str(passed.fileno()), str(place.policyd.config)]
        process = subprocess.Popen(words, pass_fds=[passed.fileno()], stderr=subprocess.DEVNULL)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(str(tmp_path / "passed.sock"))
                assert Talk(sock).get(SECRET, "Bastion-Application: shop").status == 200
            with place.remote() as talk:
                assert talk.get("/nothing").status == 404
        finally:
            process.terminate()
            process.wait(20)
            place.start()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('listen = ["127.0.0.1:1"]', "broker.listen: HTTPS needs a certificate"),
        ('mode = "rw"', "broker.mode: no mode of a socket"),
        ('mode = "0777"', "broker.mode: no mode of a socket"),
        ('listen = ["here"]', "broker.listen: not an address with a port"),
        ('certificate = "none.crt"', "broker.certificate: `"),
        ('key = "open.key"', "broker.key: others may read"),
        ('sockett = "x"', "broker.sockett: unknown key (did you mean `socket`)"),
        (f'socket = "{"x" * 200}"', "broker.socket: path too long for a socket"),
    ],
)
def test_what_is_wrong_with_its_table_is_said(place: Place, tmp_path: Path, lines: str, problem: str) -> None:
    (tmp_path / "open.key").write_text("x")
    (tmp_path / "bastion.toml").write_text(f"[broker]\n{lines}\n")
    words = [sys.executable, "-m", "bastion", "check-config", str(tmp_path / "bastion.toml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 78
    assert problem in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_no_secret_in_logs_or_in_the_trail(place: Place) -> None:
    token = place.application("leaky", "deploy@web1", addresses=[LOOPBACK]) and place.token("leaky")
    with place.remote() as talk:
        assert talk.get(SECRET, f"Authorization: Bearer {token}").status == 200
        assert talk.get(f"/v1/secrets/{token}", f"Authorization: Bearer {token}x").status in (401, 429)
    for text in (place.log.read_bytes(), (place.policyd.home / "log").read_bytes()):
        assert b"password of deploy" not in text
        assert token.encode() not in text
    assert place.process is not None
    assert token not in str(place.policyd.done(m.AuditList(limit=500)).rows)
    process = Path(f"/proc/{place.process.pid}")
    environment = b"".join((process / name).read_bytes() for name in ("environ", "cmdline"))
    assert token.encode() not in environment


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to look into another process")
def test_a_broker_at_rest_holds_no_secret(place: Place) -> None:
    """What passed through its memory is overwritten, over TLS as well; what is left of ten reads is looked for."""
    seeded = "s3eded-" + "for-the-broker-" * 4
    place.policyd.done(m.SecretAdd(name="memory/word", value=seeded.encode(), owner="alice"))
    place.policyd.done(m.SecretAdd(name="memory/bytes", value=seeded.encode() + b"\xff", owner="alice"))
    place.application("remembers", "memory/")
    place.application("remembers-tls", "memory/", addresses=[LOOPBACK])
    token = place.token("remembers-tls")
    with place.local() as here, place.remote() as there:
        for _ in range(10):
            for name in ("word", "bytes"):
                assert here.get(f"/v1/secrets/memory/{name}", "Bastion-Application: remembers").status == 200
                assert there.get(f"/v1/secrets/memory/{name}", f"Authorization: Bearer {token}").status == 200
        assert place.process is not None
        # Of 40 reads at most one is left, where neither Python nor OpenSSL had another use for the memory yet.
        assert memory_of(place.process.pid, b"for-the-broker-" * 3) <= 1
        assert memory_of(place.process.pid, base64.b64encode(seeded.encode())[8:40]) <= 1
        assert memory_of(place.process.pid, b"memory/word") > 0  # the names are found, so the looking works


def memory_of(pid: int, needle: bytes) -> int:
    """How often something stands in the writable memory of a process."""
    found = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            start, end = (int(edge, 16) for edge in span.split("-"))
            if not rights.startswith("rw"):
                continue
            try:
                memory.seek(start)
                found += memory.read(end - start).count(needle)
            except OSError:  # the kernel's own pages
                continue
    return found


def test_the_broker_cannot_be_dumped(place: Place) -> None:
    """PR_SET_DUMPABLE 0: /proc/PID belongs to root then, and no core is written."""
    assert place.process is not None
    assert os.stat(f"/proc/{place.process.pid}/mem").st_uid == 0
    assert "Traceback" not in tail(place.log)
