"""Packets that no honest client sends, before and during authentication, against a real worker and a real policyd.

Ids in brackets are those of the attack catalogue. Whatever is sent: nobody gets in, nothing is opened, the worker
lives, and the person who comes next is let in as ever.
"""

import asyncio
import os
import re
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pyotp
import pytest
from asyncssh.packet import Boolean, NameList, String, UInt32

from policy.messages import MfaEnrol
from tests.support.gateway import Gateway
from tests.support.net import LOOPBACK, wait_until
from tests.support.rawssh import (
    CHANNEL_OPEN,
    DISCONNECT,
    GLOBAL_REQUEST,
    GRANTED,
    INFO_REQUEST,
    INFO_RESPONSE,
    KEXINIT,
    PK_OK,
    SERVICE_ACCEPT,
    SERVICE_REQUEST,
    USERAUTH_FAILURE,
    USERAUTH_REQUEST,
    USERAUTH_SUCCESS,
    Raw,
    clear,
    disconnect_reason,
    failure,
    talk_in_the_clear,
)

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")]

MANY = ("startups = 9000", "startups_begin = 9000", "startups_per_source = 9000", "grace = 20.0")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("hostile"), settings=MANY).make()
    text = gateway.config.read_text()  # one source does here what a thousand do elsewhere
    gateway.config.write_text(
        text.replace("[policy]\n", "[policy]\nsource_failures = 100000\nlock_after = 100\n", 1)
    )  # fmt: skip
    gateway.start()
    yield gateway
    assert gateway.worker is not None
    assert gateway.worker.poll() is None, "the worker died"
    gateway.stop()


@pytest.fixture
def honest(site: Gateway) -> Iterator[None]:
    """After the test an honest person logs in as ever."""
    yield
    done = site.ssh("whoami")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def sam(site: Gateway) -> asyncssh.SSHKey:
    return asyncssh.read_private_key(site.home / "sam")


@pytest.fixture(scope="module")
def stranger() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


def talking(site: Gateway, dialogue: Callable[[Raw], Any], **options: Any) -> Any:
    """Run a dialogue over a fresh connection that has asked for the authentication service."""

    async def run() -> Any:
        raw = await (await Raw.connect(site.port, **options)).begin()
        try:
            return await dialogue(raw)
        finally:
            await raw.leave()

    return asyncio.run(run())


# --- in the clear -------------------------------------------------------------------------------------

HELLO = b"SSH-2.0-OpenSSH_9.9\r\n"


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-1.5-old\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-" + b"A" * 300_000 + b"\r\n",
        b"\n" * 20_000, b"SSH-2.0-\xff\xfe\r\n", b"SSH-2.0-" + b"A" * 300 + b"\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=["old", "http", "long", "lines", "bytes", "longer than 255", "tls"],
)  # fmt: skip
@pytest.mark.usefixtures("honest")
def test_what_is_no_ssh_is_hung_up_on(site: Gateway, said: bytes) -> None:
    """[T4] The last waits for its line end as long as the grace time lasts, like anything that says nothing."""
    patient = 40.0 if b"\n" not in said else 15.0
    began = time.monotonic()
    answer = talk_in_the_clear(site.port, said, seconds=patient)
    assert answer.startswith(b"SSH-2.0-Bastion\r\n")
    assert time.monotonic() - began < patient


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**32 - 1, 40 * 1024 * 1024, 70_000])
@pytest.mark.usefixtures("honest")
def test_lengths_that_lie(site: Gateway, length: int) -> None:
    """[T3] GHSA-vgvv-x7xg-6cqg: a length is believed before anything vouches for it."""
    before = memory(site)
    talk_in_the_clear(site.port, HELLO + clear(bytes((KEXINIT,)) + bytes(60), length=length) + bytes(4096), 40)
    assert memory(site) - before < 8 * 1024, "KiB"


@pytest.mark.parametrize("padding", [0, 255])
@pytest.mark.usefixtures("honest")
def test_paddings_that_lie(site: Gateway, padding: int) -> None:
    """[T3]"""
    talk_in_the_clear(site.port, HELLO + clear(bytes((KEXINIT,)) + bytes(60), padding=padding), 40)


def kexinit(*kex: bytes, strict: bool = True) -> bytes:
    names = NameList([*kex, *([b"kex-strict-c-v00@openssh.com"] if strict else [])])
    keys, enc = NameList([b"ssh-ed25519"]), NameList([b"aes256-ctr"])
    mac, none, empty = NameList([b"hmac-sha2-256"]), NameList([b"none"]), NameList([])
    return bytes((KEXINIT,)) + bytes(16) + b"".join(
        (names, keys, enc, enc, mac, mac, none, none, empty, empty, Boolean(False), UInt32(0))
    )  # fmt: skip


CURVE = b"curve25519-sha256"


@pytest.mark.parametrize(
    "packets",
    [
        [kexinit(b"diffie-hellman-group-exchange-sha256"), bytes((34,)) + UInt32(512) + UInt32(1024) + UInt32(1024)],
        [kexinit(b"diffie-hellman-group1-sha1")],
        [kexinit(CURVE), kexinit(CURVE)],
        [kexinit(CURVE), bytes((30,)) + String(bytes(32))],
        [kexinit(CURVE), bytes((30,)) + String(b"short")],
        [kexinit(CURVE), bytes((30,)) + String(b"x" * 30_000)],
        [kexinit(CURVE), bytes((2,)) + String(b"ignored")],
        [kexinit(CURVE), bytes((4,)) + Boolean(True) + String("debug") + String("")],
        [bytes((2,)) + String(b"before"), kexinit(CURVE)],
        [bytes((KEXINIT,)) + bytes(16) + UInt32(2**32 - 1)],
        [kexinit(*(b"a%d" % number for number in range(4000)))],
        [kexinit(b"diffie-hellman-group16-sha512"), bytes((30,)) + String(b"")],
        [kexinit(b"diffie-hellman-group16-sha512"), bytes((30,)) + String(b"\1")],
        [kexinit(b"diffie-hellman-group16-sha512"), bytes((30,)) + String(b"\0" + b"\xff" * 25_000)],
        [bytes((21,))],
        [bytes((SERVICE_REQUEST,)) + String("ssh-userauth")],
        [bytes((USERAUTH_REQUEST,)) + String("sam") + String("ssh-connection") + String("none")],
        [bytes((USERAUTH_SUCCESS,))],
        [bytes((7,)) + UInt32(2**32 - 1)],
    ],
    ids=[
        "gex", "group1", "second kexinit", "zero point", "short point", "long point", "ignore in strict kex",
        "debug in strict kex", "kexinit not first", "name list of 4 GiB", "4000 names", "dh empty", "dh one", "dh huge",
        "newkeys", "service", "login", "success", "extensions",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("honest")
def test_key_exchanges_that_must_not_end_well(site: Gateway, packets: list[bytes]) -> None:
    """[T1 T2 T5 T6 T7 T13] before any key: CVE-2018-10933, CVE-2023-48795, CVE-2025-32433."""
    answer = talk_in_the_clear(site.port, HELLO + b"".join(clear(packet) for packet in packets), 40)
    assert answer.startswith(b"SSH-2.0-Bastion\r\n")


# --- after the key exchange ---------------------------------------------------------------------------


@pytest.mark.usefixtures("honest")
def test_every_message_in_every_state_before_login_opens_nothing(site: Gateway, stranger: asyncssh.SSHKey) -> None:
    """[T1] 256 messages each: after keys, after the service, after a refusal."""
    states: list[Callable[[Raw], Any]] = [_after_keys, _after_service, _after_refusal(stranger)]

    async def one(state: Callable[[Raw], Any], kind: int) -> set[int]:
        raw = await Raw.connect(site.port)
        await state(raw)
        raw.say(kind, String(b"ssh-connection"), UInt32(1), bytes(24))
        raw.say(CHANNEL_OPEN, String("session"), UInt32(0), UInt32(1 << 20), UInt32(32768))
        return set(await raw.rest(40))

    async def all_of_them() -> set[int]:
        heard: set[int] = set()
        for state in states:
            for begin in range(0, 256, 16):
                some = [one(state, kind) for kind in range(begin, begin + 16) if kind not in (20, 21)]
                heard.update(*await asyncio.gather(*some))
        return heard

    assert not asyncio.run(all_of_them()) & GRANTED


async def _after_keys(raw: Raw) -> None:
    return None


async def _after_service(raw: Raw) -> None:
    await raw.begin()


def _after_refusal(key: asyncssh.SSHKey) -> Callable[[Raw], Any]:
    async def state(raw: Raw) -> None:
        await raw.begin()
        raw.offer("sam", key)
        assert (await raw.hear())[0] == USERAUTH_FAILURE

    return state


@pytest.mark.parametrize("kind", range(80, 101))
def test_channel_and_global_messages_before_login_end_the_connection(site: Gateway, kind: int) -> None:
    async def dialogue(raw: Raw) -> tuple[int, bytes]:
        raw.request("sam", "none")
        await raw.hear()
        raw.say(kind, UInt32(0), bytes(16))
        return await raw.hear()

    said, payload = talking(site, dialogue)
    assert said in (0, DISCONNECT)
    assert not payload or "before authentication" in disconnect_reason(payload)


@pytest.mark.usefixtures("honest")
def test_new_keys_before_login_end_the_connection(site: Gateway) -> None:
    """[T7] Each costs a signature; an honest client has no reason within the grace time."""

    async def dialogue(raw: Raw) -> tuple[int, bytes]:
        raw._send_kexinit()
        raw._kexinit_sent = True
        return await raw.hear()

    kind, payload = talking(site, dialogue)
    assert kind == DISCONNECT
    assert disconnect_reason(payload) == "new keys before login"


def test_login_before_its_service_was_asked_for(site: Gateway, sam: asyncssh.SSHKey) -> None:
    async def run() -> list[int]:
        raw = await Raw.connect(site.port)
        raw.prove("sam", sam)
        return await raw.rest()

    assert not set(asyncio.run(run())) & GRANTED


def test_another_service_than_authentication(site: Gateway) -> None:
    async def run() -> list[int]:
        raw = await Raw.connect(site.port)
        raw.say(SERVICE_REQUEST, String("ssh-connection"))
        raw.say(CHANNEL_OPEN, String("session"), UInt32(0), UInt32(1 << 20), UInt32(32768))
        return await raw.rest()

    assert SERVICE_ACCEPT not in asyncio.run(run())


# --- keys ---------------------------------------------------------------------------------------------


def outcome(site: Gateway, user: str | bytes, key: asyncssh.SSHKey, **wrong: Any) -> int:
    async def dialogue(raw: Raw) -> int:
        raw.prove(user, key, **wrong)
        return (await raw.hear())[0]

    return int(talking(site, dialogue))


def test_an_honest_signature_without_a_query_before_it(site: Gateway, sam: asyncssh.SSHKey) -> None:
    assert outcome(site, "sam", sam) == USERAUTH_SUCCESS


@pytest.mark.usefixtures("honest")
def test_a_query_proves_nothing(site: Gateway, sam: asyncssh.SSHKey, stranger: asyncssh.SSHKey) -> None:
    """[A1] CVE-2024-45337: asked about one key, signed with another."""

    async def dialogue(raw: Raw) -> list[int]:
        raw.offer("sam", sam)
        kinds = [(await raw.hear())[0]]
        raw.prove("sam", stranger)
        kinds.append((await raw.hear())[0])
        raw.prove("sam", stranger, blob=sam.public_data)
        kinds.append((await raw.hear())[0])
        raw.prove("sam", sam, blob=stranger.public_data, signed_blob=sam.public_data)
        kinds.append((await raw.hear())[0])
        return kinds

    assert talking(site, dialogue) == [PK_OK, USERAUTH_FAILURE, USERAUTH_FAILURE, USERAUTH_FAILURE]


@pytest.mark.parametrize(
    "wrong",
    [
        {"session": bytes(32)}, {"signed_user": "root"}, {"signed_service": "ssh-userauth"}, {"algorithm": b"ssh-rsa"},
        {"signer": lambda data: b""}, {"signer": lambda data: String("ssh-ed25519") + String(bytes(64))},
        {"signer": lambda data: b"\xff" * 60}, {"blob": b""}, {"blob": b"\xff" * 12_000},
    ],
    ids=["session", "user", "service", "algorithm", "empty", "zeros", "noise", "no key", "noise for a key"],
)  # fmt: skip
@pytest.mark.usefixtures("honest")
def test_a_signature_of_something_else(site: Gateway, sam: asyncssh.SSHKey, wrong: dict[str, Any]) -> None:
    """[A2] A signature that a hostile server got from the person must be worth nothing here."""
    wrong = {"signer": wrong.get("signer", lambda data: sam.sign(data, b"ssh-ed25519")), **wrong}
    assert outcome(site, "sam", sam, **wrong) == USERAUTH_FAILURE


def integer(value: int) -> bytes:
    size = (value.bit_length() + 8) // 8
    return String(value.to_bytes(size, "big", signed=True))


@pytest.mark.parametrize(
    "blob",
    [
        String("ssh-rsa") + integer(65537) + integer((1 << 16_000) + 1),
        String("ssh-rsa") + integer(65537) + integer((1 << 120_000) + 1),
        String("ssh-rsa") + integer(1 << 8000) + integer((1 << 3072) + 1),
        String("ssh-rsa") + integer(65537) + integer(0),
        String("ssh-rsa") + integer(65537) + integer(-(1 << 3000)),
        String("ssh-dss") + integer(3) + integer(1 << 4000) + integer(2) + integer(2),
        *(String("ssh-ed25519") + String(bytes(size)) for size in (0, 31, 33, 10_000)),
        String("ecdsa-sha2-nistp256") + String("nistp256") + String(b"\4" + bytes(64)),
        String("ssh-ed25519-cert-v01@openssh.com") + String(bytes(32)),
        UInt32(2**32 - 1) + b"ssh-ed25519",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("honest")
def test_hostile_keys(site: Gateway, sam: asyncssh.SSHKey, blob: bytes) -> None:
    """[A3] CVE-2025-47914 and kin: refused, at no cost."""
    before = processor(site)
    name = blob[4 : 4 + struct.unpack(">I", blob[:4])[0]][:40] or b"x"
    assert outcome(site, "sam", sam, blob=blob, algorithm=name, signer=lambda _: String(name) + String(bytes(64))) == 51
    assert processor(site) - before < 2, "s"


# --- names --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("honest")
def test_another_name_in_the_middle_ends_the_connection(site: Gateway, sam: asyncssh.SSHKey) -> None:
    """[A9] asyncssh begins anew; then what was proven for one might count for another."""

    async def dialogue(raw: Raw) -> list[int]:
        raw.request("lea", "none")
        await raw.hear()
        raw.prove("sam", sam)
        return await raw.rest()

    assert talking(site, dialogue) == [DISCONNECT]


@pytest.mark.usefixtures("honest")
def test_names_that_look_alike_are_other_names(site: Gateway, sam: asyncssh.SSHKey) -> None:
    """asyncssh maps names by saslprep: `ｓａｍ` becomes `sam` there, and a change of name goes unnoticed."""

    async def dialogue(raw: Raw) -> list[int]:
        raw.request("\uff53\uff41\uff4d", "none")
        await raw.hear()
        raw.prove("sam", sam)
        return await raw.rest()

    assert talking(site, dialogue) == [DISCONNECT]


def test_another_service_in_the_middle_ends_the_connection(site: Gateway, sam: asyncssh.SSHKey) -> None:
    async def dialogue(raw: Raw) -> list[int]:
        raw.request("sam", "none")
        await raw.hear()
        raw.prove("sam", sam, service="ssh-userauth")
        return await raw.rest()

    assert talking(site, dialogue) == [DISCONNECT]


NAMES = [
    b"", b"sam\0root", b"\xff\xfe\xfd", b"sam\x1b[2J\x1b]0;owned\x07", b"sam\r\n{\"event\":\"login\"}",
    b"../../etc/passwd",
    "s\u202eam".encode(), "\u0455am".encode(), b"-oProxyCommand=touch /tmp/x", b"a" * 1000, b"a%b%c%d%e", b"@@@@",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("honest")
def test_hostile_names_are_answered_as_any_other(site: Gateway, stranger: asyncssh.SSHKey, name: bytes) -> None:
    """[A10 A11] No word about what is wrong with a name before login, and no raw byte of it in a log."""

    async def dialogue(raw: Raw) -> list[tuple[int, bytes]]:
        raw.request(name, "none")
        heard = [await raw.hear()]
        raw.offer(name, stranger)
        heard.append(await raw.hear())
        raw.request(name, "password", Boolean(False), String("guess"))
        heard.append(await raw.hear())
        return heard

    async def ordinary(raw: Raw) -> list[tuple[int, bytes]]:
        raw.request("sam", "none")
        heard = [await raw.hear()]
        raw.offer("sam", stranger)
        heard.append(await raw.hear())
        raw.request("sam", "password", Boolean(False), String("guess"))
        heard.append(await raw.hear())
        return heard

    assert talking(site, dialogue) == talking(site, ordinary)
    for log in (site.log, site.policy_log):
        assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f-\xff]", log.read_bytes())


def test_a_name_of_100_kilobytes_ends_the_connection(site: Gateway) -> None:
    async def dialogue(raw: Raw) -> list[int]:
        raw.request("a" * 100_000, "none")
        return await raw.rest()

    assert not set(talking(site, dialogue)) & GRANTED


def test_a_client_that_names_itself_in_escape_sequences_does_not_reach_a_log(site: Gateway) -> None:
    talking(site, _one_none, version=b"x \x1b[2J\x7f")
    assert b"\x1b" not in site.log.read_bytes() + site.policy_log.read_bytes()


async def _one_none(raw: Raw) -> None:
    raw.request("sam", "none")
    await raw.hear()


# --- guesses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["keys", "signatures", "passwords", "unknown"])
def test_six_failures_end_a_connection(site: Gateway, method: str) -> None:
    """[A12]"""

    async def dialogue(raw: Raw) -> list[int]:
        raw.request("sam", "none")
        assert (await raw.hear())[0] == USERAUTH_FAILURE
        for _ in range(6):  # what is sent behind the end would reset the socket, and its last words with it
            other = asyncssh.generate_private_key("ssh-ed25519")
            match method:
                case "keys":
                    raw.offer("sam", other)
                case "signatures":
                    raw.prove("sam", other)
                case "passwords":
                    raw.request("sam", "password", Boolean(False), String("guess"))
                case _:
                    raw.request("sam", "hostbased", String("x"))
        return await raw.rest(60)

    assert talking(site, dialogue) == [USERAUTH_FAILURE] * 5 + [DISCONNECT]


@pytest.mark.parametrize("method", ["none", "hostbased", "gssapi-with-mic", "gssapi-keyex", "keyboard-interactive", ""])
def test_methods_that_are_not_offered(site: Gateway, method: str) -> None:
    """[A16] `none` twice, and a code before anything was proven."""

    async def dialogue(raw: Raw) -> list[tuple[int, bytes]]:
        heard = []
        for _ in range(2):
            raw.request("sam", method, String(""), String(""))
            heard.append(await raw.hear())
        return heard

    for kind, payload in talking(site, dialogue):
        assert kind == USERAUTH_FAILURE
        assert failure(payload) == ([b"publickey", b"password"], False)


def test_a_change_of_password_is_refused(site: Gateway) -> None:
    async def dialogue(raw: Raw) -> tuple[int, bytes]:
        raw.request("sam", "password", Boolean(True), String("old"), String("new"))
        return await raw.hear()

    assert talking(site, dialogue)[0] == USERAUTH_FAILURE


# --- second factor ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ann(site: Gateway) -> tuple[asyncssh.SSHKey, pyotp.TOTP]:
    key = site.person("ann")
    enrolled = site.ask(MfaEnrol(person="ann"))
    return asyncssh.read_private_key(key), pyotp.TOTP(enrolled.data["secret"])  # type: ignore[union-attr]


Ann = tuple[asyncssh.SSHKey, pyotp.TOTP]


async def halfway(raw: Raw, key: asyncssh.SSHKey) -> None:
    raw.prove("ann", key)
    kind, payload = await raw.hear()
    assert kind == USERAUTH_FAILURE
    assert failure(payload) == ([b"keyboard-interactive"], True)


def kbdint(raw: Raw, user: str = "ann") -> None:
    raw.request(user, "keyboard-interactive", String(""), String(""))


def test_halfway_opens_nothing(site: Gateway, ann: Ann) -> None:
    """[A8] CVE-2023-43652, CVE-2023-45140."""
    for kind in (CHANNEL_OPEN, GLOBAL_REQUEST):

        async def dialogue(raw: Raw, kind: int = kind) -> list[int]:
            await halfway(raw, ann[0])
            raw.say(kind, String("session"), UInt32(0), UInt32(1 << 20), UInt32(32768))
            return await raw.rest()

        assert talking(site, dialogue) == [DISCONNECT]


def test_the_same_factor_twice_is_not_two(site: Gateway, ann: Ann) -> None:
    async def dialogue(raw: Raw) -> list[tuple[int, bytes]]:
        await halfway(raw, ann[0])
        raw.prove("ann", ann[0])
        return [await raw.hear()]

    kind, payload = talking(site, dialogue)[0]
    assert kind == USERAUTH_FAILURE
    assert failure(payload) == ([b"keyboard-interactive"], False)


def test_another_name_after_the_first_factor(site: Gateway, ann: Ann) -> None:
    """[A9] Go x/crypto b25012b."""

    async def dialogue(raw: Raw) -> list[int]:
        await halfway(raw, ann[0])
        kbdint(raw, "sam")
        return await raw.rest()

    assert talking(site, dialogue) == [DISCONNECT]


@pytest.mark.parametrize("count", [0, 2, 9, 2**32 - 1])
def test_another_number_of_answers(site: Gateway, ann: Ann, count: int) -> None:
    """[A6]"""

    async def dialogue(raw: Raw) -> int:
        await halfway(raw, ann[0])
        kbdint(raw)
        assert (await raw.hear())[0] == INFO_REQUEST
        raw.say(INFO_RESPONSE, UInt32(count), *(String(ann[1].now()) for _ in range(min(count, 9))))
        return (await raw.hear())[0]

    assert talking(site, dialogue) in (USERAUTH_FAILURE, DISCONNECT)


def test_an_answer_to_no_question(site: Gateway, ann: Ann) -> None:
    """[A6] also after the question was abandoned by another request."""

    async def unasked(raw: Raw) -> list[int]:
        raw.request("ann", "none")
        await raw.hear()
        raw.say(INFO_RESPONSE, UInt32(1), String(ann[1].now()))
        return await raw.rest()

    async def abandoned(raw: Raw) -> list[int]:
        await halfway(raw, ann[0])
        kbdint(raw)
        assert (await raw.hear())[0] == INFO_REQUEST
        raw.request("ann", "publickey", Boolean(False), String("x"), String("x"))
        assert (await raw.hear())[0] == USERAUTH_FAILURE
        raw.say(INFO_RESPONSE, UInt32(1), String(ann[1].now()))
        return await raw.rest()

    assert talking(site, unasked) == [DISCONNECT]
    assert talking(site, abandoned) == [DISCONNECT]


def test_twenty_at_once_with_one_code_let_one_in(site: Gateway, ann: Ann) -> None:
    """[A6] The naive check let all twenty in."""

    async def asked() -> Raw:
        raw = await (await Raw.connect(site.port)).begin()
        await halfway(raw, ann[0])
        kbdint(raw)
        assert (await raw.hear())[0] == INFO_REQUEST
        return raw

    async def answered(raw: Raw, code: str) -> int:
        raw.say(INFO_RESPONSE, UInt32(1), String(code))
        kind, _ = await raw.hear(40)
        await raw.leave()
        return kind

    async def all_of_them() -> list[int]:
        ready = await asyncio.gather(*(asked() for _ in range(20)))
        code = ann[1].now()
        return await asyncio.gather(*(answered(raw, code) for raw in ready))

    kinds = asyncio.run(all_of_them())
    assert kinds.count(USERAUTH_SUCCESS) <= 1
    assert USERAUTH_SUCCESS in kinds, "the code fitted nowhere"


def test_requests_without_waiting_for_answers_are_answered_in_order(site: Gateway, sam: asyncssh.SSHKey) -> None:
    """RFC 4252 section 5.1; CVE-2023-46446 lived in what happened between them. After success the rest is ignored."""

    async def dialogue(raw: Raw) -> list[int]:
        raw.request("sam", "none")
        raw.request("sam", "password", Boolean(False), String("guess"))
        raw.offer("sam", sam)
        raw.prove("sam", sam)
        raw.request("sam", "password", Boolean(False), String("guess"))
        kinds = [(await raw.hear())[0] for _ in range(4)]
        raw.say(CHANNEL_OPEN, String("session"), UInt32(0), UInt32(1 << 20), UInt32(32768))
        kinds.append((await raw.hear())[0])
        return kinds

    assert talking(site, dialogue) == [USERAUTH_FAILURE, USERAUTH_FAILURE, PK_OK, USERAUTH_SUCCESS, 91]


@pytest.mark.parametrize("cipher", ["aes256-gcm@openssh.com", "aes256-ctr", "chacha20-poly1305@openssh.com"])
@pytest.mark.parametrize("late", [0, 1, 20, 50, 75, 100])
def test_what_comes_with_the_signature_in_one_piece_is_not_lost(
    site: Gateway, sam: asyncssh.SSHKey, cipher: str, late: int
) -> None:
    """A client may open channels before it has heard of its success; the last `late` bytes come later.

    With AES-GCM the packets change hands in the middle of this, from asyncssh to `PacketTransport`.
    """

    async def dialogue(raw: Raw) -> list[int]:
        written, write = bytearray(), raw._send
        raw._send = written.extend  # type: ignore[method-assign]
        raw.prove("sam", sam)
        for number in range(2):
            raw.say(CHANNEL_OPEN, String("session"), UInt32(number), UInt32(1 << 20), UInt32(32768))
        cut = len(written) - late
        write(bytes(written[:cut]))
        heard = [(await raw.hear())[0]]
        write(bytes(written[cut:]))
        return [*heard, (await raw.hear())[0], (await raw.hear())[0]]

    assert talking(site, dialogue, encryption_algs=[cipher], version=b"Other_1.0") == [USERAUTH_SUCCESS, 91, 91]


def test_authentication_after_login_is_out_of_order_once_something_else_was_said(
    site: Gateway, sam: asyncssh.SSHKey
) -> None:
    async def dialogue(raw: Raw) -> list[int]:
        raw.prove("sam", sam)
        assert (await raw.hear())[0] == USERAUTH_SUCCESS
        raw.say(CHANNEL_OPEN, String("session"), UInt32(0), UInt32(1 << 20), UInt32(32768))
        assert (await raw.hear())[0] == 91
        raw.prove("sam", sam)
        return await raw.rest()

    assert talking(site, dialogue)[-1:] == [DISCONNECT]


# --- floods -------------------------------------------------------------------------------------------


def memory(site: Gateway) -> int:
    """Resident KiB of the worker."""
    assert site.worker is not None
    status = Path(f"/proc/{site.worker.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def processor(site: Gateway) -> float:
    """Seconds of CPU that the worker has used."""
    assert site.worker is not None
    fields = Path(f"/proc/{site.worker.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.usefixtures("honest")
def test_a_thousand_half_open_connections_do_not_hinder_a_good_login(site: Gateway) -> None:
    """[T9] Half of them silent, half after their first line."""
    before = memory(site)
    held = [socket.create_connection((LOOPBACK, site.port), timeout=30) for _ in range(1000)]
    try:
        for sock in held[::2]:
            sock.send(HELLO)
        began = time.monotonic()
        done = site.ssh("whoami")
        took = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        assert took < 15, "and not the time of grace, which is 20"
        assert (memory(site) - before) / 1000 < 100, "KiB each"
    finally:
        for sock in held:
            sock.close()


def test_one_source_cannot_shut_others_out(tmp_path: Path) -> None:
    """[T10] With the default limits; the flood comes from 127.0.0.2."""
    gateway = Gateway(tmp_path).make().start()
    held = []
    try:
        for _ in range(60):
            sock = socket.create_connection((LOOPBACK, gateway.port), timeout=30, source_address=("127.0.0.2", 0))
            held.append(sock)
        greeted = []
        for sock in held:
            sock.settimeout(30)
            greeted.append(sock.recv(4096))
        assert sum(b"bastion: too many" not in said for said in greeted) == 10
        assert all(said.startswith(b"SSH-2.0-Bastion\r\n") for said in greeted), "a client must be able to show it"
        assert gateway.ssh("whoami").returncode == 0
    finally:
        for sock in held:
            sock.close()
        gateway.stop()


def test_a_source_that_fails_again_and_again_is_refused_for_a_while(tmp_path: Path) -> None:
    """As PerSourcePenalties of sshd; loopback is exempt unless configured otherwise."""
    gateway = Gateway(tmp_path, settings=('penalty_exempt = ["192.0.2.0/24"]',)).make().start()
    try:

        async def guess() -> bool:
            raw = await Raw.connect(gateway.port)
            if not raw.gone.is_set():
                await raw.begin()
                raw.request("sam", "password", Boolean(False), String("guess"))
                assert (await raw.hear())[0] == USERAUTH_FAILURE
                await raw.leave()
                return True
            return False

        assert sum(asyncio.run(guess()) for _ in range(10)) in range(1, 5)
        assert b"bastion: too many" in talk_in_the_clear(gateway.port, b"")
        with socket.create_connection((LOOPBACK, gateway.port), timeout=30, source_address=("127.0.0.2", 0)) as other:
            assert other.recv(64).startswith(b"SSH-2.0")
    finally:
        gateway.stop()


def test_whoever_does_not_log_in_within_the_grace_time_is_gone(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, settings=("grace = 6.0",)).make().start()
    try:

        async def run() -> tuple[float, float]:
            began = time.monotonic()
            silent, _ = await asyncio.open_connection(LOOPBACK, gateway.port)
            raw = await (await Raw.connect(gateway.port)).begin()
            raw.request("sam", "none")
            await raw.hear()
            await asyncio.wait_for(raw.gone.wait(), 40)
            proving = time.monotonic() - began
            while await asyncio.wait_for(silent.read(1024), 40):
                pass
            return proving, time.monotonic() - began

        assert max(asyncio.run(run())) < 20
    finally:
        gateway.stop()


def test_running_out_of_file_descriptors_ends_nothing_that_lives(tmp_path: Path) -> None:
    import resource

    gateway = Gateway(tmp_path, settings=MANY).make().start()
    held: list[socket.socket] = []
    try:
        assert gateway.worker is not None
        resource.prlimit(gateway.worker.pid, resource.RLIMIT_NOFILE, (60, 60))
        held = [socket.create_connection((LOOPBACK, gateway.port), timeout=30) for _ in range(100)]
        wait_until("the limit", lambda: "out-of-descriptors" in gateway.log.read_text())
        for sock in held:
            sock.close()
        held = []
        wait_until("recovery", lambda: gateway.ssh("whoami").returncode == 0)
    finally:
        for sock in held:
            sock.close()
        gateway.stop()


def test_a_failed_login_is_cheap(site: Gateway, stranger: asyncssh.SSHKey) -> None:
    """[D4] A stranger with a key, from connection to refusal. asyncssh's own way took 210 ms of CPU for it."""

    async def many() -> None:
        for _ in range(60):
            raw = await (await Raw.connect(site.port, server_host_key_algs=["ssh-ed25519"])).begin()
            raw.offer("sam", stranger)
            assert (await raw.hear())[0] == USERAUTH_FAILURE
            await raw.leave()

    asyncio.run(many())  # warm
    before = processor(site)
    asyncio.run(many())
    each = (processor(site) - before) / 60 * 1000
    print(f"failed login: {each:.2f} ms of CPU")
    assert each < 10, "twice the goal: another process may be heavy on the caches"


def test_nothing_of_this_shows_in_a_log_as_a_fault(site: Gateway) -> None:
    """Runs last: whatever was sent above was foreseen."""
    assert "Traceback" not in site.log.read_text()
    assert "task-failed" not in site.log.read_text()
