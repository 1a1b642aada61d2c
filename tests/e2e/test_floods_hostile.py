"""Floods of connections, what stands between a client and us, and what a guesser can learn from a clock.

Against a real worker and a real policyd. Ids in brackets are those of the attack catalogue. Counted are connections,
descriptors and processor time: on a machine that others share the clock on the wall proves little.
"""

import asyncio
import os
import re
import shutil
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, NameList, SSHPacket, String, UInt32

from policy.messages import PersonAdd
from tests.support.gateway import Gateway
from tests.support.net import LOOPBACK, wait_until
from tests.support.rawssh import DISCONNECT, KEXINIT, USERAUTH_FAILURE, Raw, clear, talk_in_the_clear

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")]

HELLO = b"SSH-2.0-OpenSSH_9.9\r\n"
OTHER = "127.0.0.2"
MANY = ("startups = 9000", "startups_begin = 9000", "startups_per_source = 9000")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("floods"), settings=MANY).make()
    text = gateway.config.read_text()
    gateway.config.write_text(
        text.replace("[policy]\n", "[policy]\nsource_failures = 1000000\nlock_after = 1000000\n", 1)
    )
    gateway.start()
    yield gateway
    assert gateway.worker is not None
    assert gateway.worker.poll() is None, "the worker died"
    assert "Traceback" not in gateway.log.read_text()
    gateway.stop()


def of(gateway: Gateway, file: str) -> str:
    assert gateway.worker is not None
    return Path(f"/proc/{gateway.worker.pid}/{file}").read_text()


def processor(gateway: Gateway) -> float:
    """Seconds of CPU that the worker has used."""
    fields = of(gateway, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(gateway: Gateway) -> int:
    """Resident KiB of the worker."""
    return int(re.search(r"VmRSS:\s+(\d+)", of(gateway, "status"))[1])  # type: ignore[index]


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# --- floods -------------------------------------------------------------------------------------------


def kexinit(kex: bytes, cipher: bytes = b"aes128-gcm@openssh.com") -> bytes:
    keys, enc, mac = NameList([b"ssh-ed25519"]), NameList([cipher]), NameList([b"hmac-sha2-256"])
    none, empty = NameList([b"none"]), NameList([])
    return bytes((KEXINIT,)) + bytes(16) + b"".join(
        (NameList([kex]), keys, enc, enc, mac, mac, none, none, empty, empty, Boolean(False), UInt32(0))
    )  # fmt: skip


def test_key_exchanges_without_end_from_one_source_are_few(tmp_path: Path) -> None:
    """[T8] DHEat, CVE-2002-20001: each costs the client nothing and us two powers of 4096 bits.

    With the shipped limits, but loopback is not exempt: after a dozen the source is refused for a while.
    """
    gateway = Gateway(tmp_path, settings=('penalty_exempt = ["192.0.2.0/24"]',)).make().start()
    tries = 200
    init = clear(bytes((30,)) + String(b"\0" + b"\x7f" * 511))
    said = HELLO + clear(kexinit(b"diffie-hellman-group16-sha512")) + init

    def exchange() -> bool:
        """Is there a key in what comes?"""
        with socket.create_connection((LOOPBACK, gateway.port), timeout=20, source_address=(OTHER, 0)) as sock:
            heard = b""
            try:
                sock.sendall(said)
                while b"\0\0\0\x0bssh-ed25519" not in heard and (part := sock.recv(65536)):
                    heard += part
            except OSError:
                pass
            return b"\0\0\0\x0bssh-ed25519" in heard

    try:
        before, began = processor(gateway), time.monotonic()
        exchanged = sum(exchange() for _ in range(tries))
        spent, took = processor(gateway) - before, time.monotonic() - began
        print(f"{exchanged} of {tries} exchanges in {took:.1f} s, {spent:.2f} s of CPU")
        assert 10 < exchanged < 30 + took, "a second of penalty each, refused from 15 on"
        assert spent < 3
        assert gateway.ssh("whoami").returncode == 0, "others come in as ever"
        assert "failed" not in gateway.log.read_text().replace("failed logins", "")
    finally:
        gateway.stop()


def test_what_follows_an_exchange_that_failed_is_not_worked_at(site: Gateway) -> None:
    """[T8] No cipher in common, and a key in the same piece: the power of 4096 bits was computed all the same."""
    init = clear(bytes((30,)) + String(b"\0" + b"\x7f" * 511))
    offer = clear(kexinit(b"diffie-hellman-group16-sha512", cipher=b"none"))
    before = len(site.log.read_text())
    answer = talk_in_the_clear(site.port, HELLO + offer + init * 20)
    assert b"No matching encryption algorithm" in answer
    assert "connection-failed" not in site.log.read_text()[before:]


@pytest.mark.parametrize("said", [b"", HELLO, HELLO + clear(kexinit(b"curve25519-sha256"))], ids=["", "hello", "kex"])
def test_connections_that_are_reset_leave_nothing_behind(site: Gateway, said: bytes) -> None:
    """[T11] Descriptors, and memory: a task that is kept would be memory as well."""
    assert site.worker is not None

    def resets(count: int) -> None:
        for _ in range(count):
            with socket.create_connection((LOOPBACK, site.port), timeout=20) as sock:
                sock.sendall(said)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    before = descriptors(site.worker.pid)
    resets(1200)  # what the first ones cost is paid once
    wait_until("the descriptors", lambda: descriptors(site.worker.pid) <= before)  # type: ignore[union-attr]
    grown = []  # what is kept of each shows every time; what the allocator takes at a time does not
    while not grown or (grown[-1] >= 4 * 1024 and len(grown) < 3):
        kept = memory(site)
        resets(1200)
        wait_until("the descriptors", lambda: descriptors(site.worker.pid) <= before)  # type: ignore[union-attr]
        grown.append(memory(site) - kept)
    assert grown[-1] < 4 * 1024, f"KiB, each time: {grown}"
    assert site.ssh("whoami").returncode == 0


def test_people_who_are_reset_leave_nothing_behind(site: Gateway) -> None:
    """[T11] Behind the login: neither here nor at policyd."""
    assert site.worker is not None
    assert site.policyd is not None
    key = asyncssh.read_private_key(site.home / "sam")

    async def resets(count: int) -> None:
        for _ in range(count):
            raw = await Raw.connect(site.port)
            await raw.log_in("sam", key)
            raw.open("session", 0)
            assert raw._transport is not None
            sock = raw._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await raw.leave()

    before = descriptors(site.worker.pid), descriptors(site.policyd.pid)
    asyncio.run(resets(40))
    wait_until("the worker's descriptors", lambda: descriptors(site.worker.pid) <= before[0])  # type: ignore[union-attr]
    wait_until("policyd's descriptors", lambda: descriptors(site.policyd.pid) <= before[1])  # type: ignore[union-attr]


# --- what stands between ------------------------------------------------------------------------------


class Stripper:
    """Between a client and the bastion: takes out of the client's offer what it does not like."""

    def __init__(self, port: int, strip: tuple[bytes, ...]) -> None:
        self._port = port
        self._strip = strip
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._thread.join(30)
        self._listener.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection((LOOPBACK, self._port), timeout=20)
        client.settimeout(20)
        # whose side resets the connection once the other has gone, ends it
        with suppress(OSError), client, server, client.makefile("rb") as said:
            server.sendall(said.readline())
            threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
            head = said.read(4)
            packet = said.read(int.from_bytes(head))
            offer = SSHPacket(packet[1 : len(packet) - packet[0]])
            start = offer.get_bytes(17)
            names = [name for name in offer.get_namelist() if name not in self._strip]
            server.sendall(clear(start + NameList(names) + offer.get_remaining_payload()))
            while data := said.read1():
                server.sendall(data)

    def _pump(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                client.sendall(data)
        except OSError:
            pass


def test_an_offer_that_is_stripped_on_its_way_ends_the_exchange(site: Gateway) -> None:
    """[T14] Of the marker of strict key exchange, and of the best methods: the exchange is signed with both offers."""
    key = asyncssh.read_private_key(site.home / "sam")
    strip = (b"kex-strict-c-v00@openssh.com", b"mlkem768x25519-sha256", b"curve25519-sha256")

    async def through(port: int) -> bool:
        raw = await Raw.connect(port)
        if raw.gone.is_set():
            return False
        await raw.log_in("sam", key)
        await raw.leave()
        return True

    stripper = Stripper(site.port, strip)
    before = len(site.log.read_text())
    assert not asyncio.run(through(stripper.port))
    stripper.close()
    assert '"login"' not in site.log.read_text()[before:]
    assert asyncio.run(through(site.port))


def test_what_was_agreed_on_is_in_the_log(site: Gateway) -> None:
    """[T14] Method, cipher, and whether the exchange was strict."""
    key = asyncssh.read_private_key(site.home / "sam")

    async def log_in() -> None:
        raw = await Raw.connect(site.port, kex_algs=["curve25519-sha256"], encryption_algs=["aes128-gcm@openssh.com"])
        await raw.log_in("sam", key)
        await raw.leave()

    before = len(site.log.read_text())
    asyncio.run(log_in())
    wait_until("its line", lambda: '"login"' in site.log.read_text()[before:].rpartition("\n")[0])
    line = next(line for line in site.log.read_text()[before:].splitlines() if '"login"' in line)
    assert '"kex": "curve25519-sha256", "cipher": "aes128-gcm@openssh.com", "strict": true' in line


@pytest.mark.parametrize(
    "header",
    [b"PROXY TCP4 192.0.2.77 192.0.2.78 4000 22\r\n", b"PROXY UNKNOWN\r\n",
     b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x4d\xc0\0\x02\x4e\x0f\xa0\0\x16"],
    ids=["one", "unknown", "two"],
)  # fmt: skip
def test_a_header_that_claims_another_source_is_no_ssh(site: Gateway, header: bytes) -> None:
    """[T15] The PROXY protocol, from whoever likes to be somebody else: the source is that of the socket."""
    answer = talk_in_the_clear(site.port, header + HELLO, 40)
    assert answer.startswith(b"SSH-2.0-Bastion\r\n")
    assert "192.0.2.77" not in site.log.read_text() + site.policy_log.read_text()


# --- what a clock tells -------------------------------------------------------------------------------


def above(some: list[float], others: list[float]) -> float:
    """Chance that one of `some` is longer than one of `others`: the statistic of Mann and Whitney; 0.5: alike."""
    return sum((one > two) + (one == two) / 2 for one in some for two in others) / len(some) / len(others)


Ask = Callable[[Raw, str], None]


async def timed(site: Gateway, names: list[str], rounds: int, each: int, ask: Ask) -> dict[str, list[float]]:
    """Seconds from a question to its refusal, by name; in turn, so that whatever slows the machine slows all."""
    took: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 else reversed(names):
            raw = await Raw.connect(site.port, kex_algs=["curve25519-sha256"], server_host_key_algs=["ssh-ed25519"])
            await raw.begin()
            raw.request(name, "none")
            assert (await raw.hear())[0] == USERAUTH_FAILURE
            for _ in range(each):
                began = time.perf_counter()
                ask(raw, name)
                assert (await raw.hear())[0] in (USERAUTH_FAILURE, DISCONNECT)
                took[name].append(time.perf_counter() - began)
            await raw.leave()
    return took


@pytest.mark.parametrize("signed", [False, True], ids=["asked", "signed"])
def test_a_wrong_key_takes_as_long_for_a_person_as_for_nobody(site: Gateway, signed: bool) -> None:
    """[A10] 200 tries each. With 200 the statistic strays by 0.03; five times that is allowed. What others do on the
    machine takes whole connections at a time, and strays further: what is told is told again, and what strays is not.
    """
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    asks: Any = Raw.prove if signed else Raw.offer

    def chance() -> float:
        took = asyncio.run(timed(site, ["sam", "nobody"], 40, 5, lambda raw, name: asks(raw, name, stranger)))
        known, unknown = took["sam"], took["nobody"]
        found = above(known, unknown)
        medians = statistics.median(known), statistics.median(unknown)
        print(f"known {medians[0] * 1000:.2f} ms, unknown {medians[1] * 1000:.2f} ms, longer with {found:.2f}")
        return found

    assert any(abs(chance() - 0.5) < 0.15 for _ in range(4))


def test_a_wrong_password_takes_as_long_for_a_person_as_for_nobody(site: Gateway) -> None:
    """[A10] A person with a password, one without, and nobody: each costs a hash of a hundred milliseconds or none."""
    site.ask(PersonAdd(name="pat", password="correct horse battery staple"))

    def ask(raw: Raw, name: str) -> None:
        raw.request(name, "password", Boolean(False), String("guess"))

    names, took = ["pat", "sam", "nobody"], dict[str, list[float]]()

    def alike() -> bool:
        for name, times in asyncio.run(timed(site, names, 2, 3, ask)).items():
            took.setdefault(name, []).extend(times)
        # The fastest of each: others on this machine only ever make one slower.
        fastest = {name: min(times) for name, times in took.items()}
        print({name: f"{least * 1000:.0f} ms" for name, least in fastest.items()})
        return max(fastest.values()) < 2 * min(fastest.values())

    assert any(alike() for _ in range(4))
