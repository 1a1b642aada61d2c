"""Dialling a target: its pinned key or nobody, a credential that is used once, and words for what goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from bastion.ssh import upstream
from bastion.ssh.upstream import fingerprint
from policy.messages import Credential, Refused, Report, SessionEnded, Sign, UseCertificate, UseKey, UsePassword
from tests.bastion.aio import asynchronous, quiet, until
from tests.bastion.site import GCM, LOOPBACK, Site, key
from tests.bastion.ssh import ssh
from tests.bastion.targets import Target

PASSWORD = b"vaulted-7f3a"


@asynccontextmanager
async def world(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[Site, Target]]:
    async with Target() as target, Site(tmp_path, **settings) as site:
        site.target_port = target.port
        yield site, target


@asynccontextmanager
async def listener(handle: Callable[[Any, Any], Any]) -> AsyncIterator[int]:
    """Something on a port that is no SSH server."""
    server = await asyncio.start_server(handle, LOOPBACK, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def failure(site: Site, code: int = 69) -> list[str]:
    """What the person is told, after checking that everything was closed and written down."""
    said = await ssh(site, "id")
    assert said.code == code
    assert len(said.lines) == 2
    await until("the recording is closed", lambda: site.tape.closed)
    assert site.tape.end is not None
    assert site.tape.end.reason == "target-lost"
    assert len(site.told_of(SessionEnded)) == 1
    assert upstream._shown == {}
    return said.lines


# --- the right ways in ----------------------------------------------------------------------------------


@asynchronous
async def test_a_key_whose_private_half_stays_in_policyd(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        assert (await ssh(site, "exit", "3")).code == 3
        assert len(site.asked_for(Sign)) == 1
        assert site.asked_for(Credential)[0].session_key != key("vault").public_data


@asynchronous
async def test_a_certificate_for_the_key_of_this_one_handshake(tmp_path: Path) -> None:
    made: list[bytes] = []

    def certify(request: Credential) -> UseCertificate:
        public = asyncssh.public_key.decode_ssh_public_key(request.session_key)
        made.append(request.session_key)
        certificate = key("user-ca").generate_user_certificate(public, "alice", principals=["root"], valid_before="+5m")
        return UseCertificate(certificate=certificate.public_data)

    class Certified(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_ca_key(self, username: str, offered: asyncssh.SSHKey) -> bool:
            return offered.public_data == key("user-ca").public_data

    async def run(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        process.exit(6)

    async with Site(tmp_path) as site:
        server = await asyncssh.create_server(
            Certified, LOOPBACK, 0, server_host_keys=[key("target")], process_factory=run, encoding=None,
            encryption_algs=GCM,
        )  # fmt: skip
        site.target_port = server.sockets[0].getsockname()[1]
        site.answers[Credential] = certify
        assert (await ssh(site, "id")).code == 6
        assert (await ssh(site, "id")).code == 6
        assert len(set(made)) == 2, "a new key for each handshake"
        server.close()


class WithPassword(asyncssh.SSHServer):
    """Takes a password, by either method, and remembers what it was shown."""

    shown: list[str]
    interactive = False

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return not self.interactive

    def validate_password(self, username: str, password: str) -> bool:
        self.shown.append(password)
        return password == PASSWORD.decode()

    def kbdint_auth_supported(self) -> bool:
        return self.interactive

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        return "", "", "", [("Password: ", False)]

    def validate_kbdint_response(self, username: str, responses: Any) -> bool:
        self.shown.extend(responses)
        return list(responses) == [PASSWORD.decode()]


@asynccontextmanager
async def password_target(interactive: bool, host_key: str = "target") -> AsyncIterator[tuple[int, list[str]]]:
    shown: list[str] = []

    class Server(WithPassword):
        def __init__(self) -> None:
            self.shown, self.interactive = shown, interactive

    async def run(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        process.exit(8)

    server = await asyncssh.create_server(
        Server, LOOPBACK, 0, server_host_keys=[key(host_key)], process_factory=run, encoding=None,
        encryption_algs=GCM,
    )  # fmt: skip
    yield server.sockets[0].getsockname()[1], shown
    server.close()


@pytest.mark.parametrize("interactive", [False, True])
@asynchronous
async def test_a_password_by_either_method(interactive: bool, tmp_path: Path) -> None:
    async with password_target(interactive) as (port, shown), Site(tmp_path) as site:
        site.target_port = port
        site.answers[Credential] = lambda request: UsePassword(
            password=b"".join([PASSWORD[:1], PASSWORD[1:]])
        )  # it is wiped
        assert (await ssh(site, "id")).code == 8
        assert shown == [PASSWORD.decode()]


@asynchronous
async def test_one_of_several_pinned_keys_is_enough(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        site.grant_changes["host_keys"] = [key("old").public_data, key("target").public_data]
        assert (await ssh(site, "exit", "3")).code == 3


# --- a target that is not the one -----------------------------------------------------------------------


@asynchronous
async def test_another_host_key_is_refused_with_both_fingerprints_and_security_hears_of_it(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        site.grant_changes["host_keys"] = [key("pinned").public_data]
        lines = await failure(site)
        got, pinned = fingerprint(key("target").public_data), fingerprint(key("pinned").public_data)
        assert got in lines[0]
        assert pinned in lines[0]
        assert lines[1] == f"bastion: ask an administrator: bastion target hostkey web1 --accept {got}"
        (report,) = site.asked_for(Report)
        assert report.event == "host-key-mismatch"
        assert report.detail == {"pinned": pinned, "shown": got}
        assert site.asked_for(Sign) == [], "nothing was signed for it"
        assert target.commands == []
        await until("it is left", lambda: all(one.is_closed() for one in target.connections))


@asynchronous
async def test_a_target_with_another_key_never_sees_the_password(tmp_path: Path) -> None:
    async with password_target(False, "imposter") as (port, shown), Site(tmp_path) as site:
        site.target_port = port
        site.answers[Credential] = lambda request: UsePassword(
            password=b"".join([PASSWORD[:1], PASSWORD[1:]])
        )  # it is wiped
        await failure(site)
        assert shown == []


def test_fingerprints_look_as_those_of_ssh_keygen() -> None:
    assert fingerprint(key("target").public_data) == key("target").get_fingerprint()


@asynchronous
async def test_no_pinned_key_means_no_connection(tmp_path: Path) -> None:
    """Trust on first use is for nobody: a target without a pinned key is never taken for right."""
    async with world(tmp_path) as (site, target):
        site.grant_changes["host_keys"] = []
        await failure(site)
        assert site.asked_for(Sign) == []
        assert target.commands == []


# --- a target that is not there -------------------------------------------------------------------------


@asynchronous
async def test_a_target_that_is_down(tmp_path: Path) -> None:
    async with listener(lambda reader, writer: None) as port:
        pass  # nobody listens there any more
    async with Site(tmp_path) as site:
        site.target_port = port
        lines = await failure(site)
        assert "target `web1` cannot be reached: connect call failed" in lines[0] or "refused" in lines[0]
        (report,) = site.asked_for(Report)
        assert report.event == "target-unreachable"
        assert report.detail["address"] == f"{LOOPBACK}:{port}"


@asynchronous
async def test_a_target_that_takes_too_long(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listener(silent) as port, Site(tmp_path, dial=0.3) as site:
        site.target_port = port
        lines = await failure(site)
        assert "did not answer within 0.3 seconds" in lines[0]


@pytest.mark.parametrize(
    "greeting",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-1.5-old\r\n", b"\0" * 5000, b"SSH-2.0-x\r\n" + b"\xff" * 100,
     b"\x1b]52;c;ZXZpbA==\x07\r\n" * 3000],
    ids=["nothing", "http", "ssh 1", "zeros", "no packet", "banner without end"],
)  # fmt: skip
@asynchronous
async def test_a_target_that_speaks_something_else(greeting: bytes, tmp_path: Path) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        try:
            await writer.drain()
            writer.close()
        except OSError:
            pass

    async with listener(speak) as port, Site(tmp_path, dial=2.0) as site:
        site.target_port = port
        lines = await failure(site)
        assert lines[0].startswith("bastion: target `web1` cannot be reached: ")
        assert "\x1b" not in "".join(lines)
        assert site.tape.end is not None
        assert "\x1b" not in site.tape.end.text


@asynchronous
async def test_what_a_target_says_in_refusing_is_neutral_everywhere(tmp_path: Path) -> None:
    class Rude(asyncssh.SSHServer):
        def connection_made(self, conn: Any) -> None:
            conn._loop.call_later(0.2, conn._send_disconnect, 2, "\x1b]0;evil\x07 go away", "")

        def begin_auth(self, username: str) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, offered: asyncssh.SSHKey) -> bool:
            return True

    async with Site(tmp_path) as site:
        gate = asyncio.Event()

        async def slow(request: Sign) -> None:
            await gate.wait()

        site.answers[Sign] = slow
        server = await asyncssh.create_server(Rude, LOOPBACK, 0, server_host_keys=[key("target")])
        site.target_port = server.sockets[0].getsockname()[1]
        lines = await failure(site)
        texts = [*lines, site.tape.end.text if site.tape.end else "", site.asked_for(Report)[0].detail["why"],
                 site.told_of(SessionEnded)[0].reason]  # fmt: skip
        assert "go away" in lines[0]
        assert not any("\x1b" in text or "\x07" in text for text in texts)
        gate.set()
        server.close()


@asynchronous
async def test_algorithms_that_are_out_are_not_dialled(tmp_path: Path) -> None:
    async with (
        Target(ciphers=["aes128-cbc"], kex_algs=["diffie-hellman-group1-sha1"]) as target,
        Site(tmp_path) as site,
    ):
        site.target_port = target.port
        lines = await failure(site)
        assert "no matching" in lines[0]


# --- a credential that does not fit ---------------------------------------------------------------------


@asynchronous
async def test_a_credential_that_policyd_refuses(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        site.answers[Credential] = lambda request: Refused(
            code=78, cause="the vault is sealed", hint="unseal it", ref="V"
        )
        lines = await failure(site, 78)
        assert lines == ["bastion: the vault is sealed", "bastion: unseal it  [V]"]
        assert target.connections == []


@asynchronous
async def test_a_signature_that_policyd_refuses(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        site.answers[Sign] = lambda request: Refused(code=77, cause="this session may not sign", hint="log in again")
        lines = await failure(site, 77)
        assert lines[0] == "bastion: this session may not sign"
        assert target.commands == []


@asynchronous
async def test_a_credential_that_the_target_refuses(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        site.answers[Credential] = lambda request: UseKey(public=key("other").public_data, algorithms=["ssh-ed25519"])
        lines = await failure(site)
        assert lines[0] == "bastion: `web1` refused our credential for `root`"
        (report,) = site.asked_for(Report)
        assert report.event == "login-failed-at-target"


@pytest.mark.parametrize("password", [b"\xff\xfe not text", b""])
@asynchronous
async def test_a_password_that_is_no_text_or_nothing(password: bytes, tmp_path: Path) -> None:
    async with password_target(False) as (port, _), Site(tmp_path) as site:
        site.target_port = port
        site.answers[Credential] = lambda request: UsePassword(password=password)
        said = await ssh(site, "id")
        assert said.code in (69, 78)
        assert len(said.lines) == 2
        assert password.decode(errors="replace") not in said.error or not password
        await until("the recording is closed", lambda: site.tape.closed)


@asynchronous
async def test_a_person_who_leaves_during_the_dial_leaves_no_connection_behind(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(request: Sign) -> None:
        await gate.wait()

    async with world(tmp_path) as (site, target):
        site.answers[Sign] = slow
        client = await site.client()
        await until("it is being dialled", lambda: site.asked_for(Sign))
        client.abort()
        await until("the door is closed", site.doors[-1].is_closed)
        gate.set()
        await until("the recording is closed", lambda: site.tape.closed)
        await until("the target is left", lambda: all(one.is_closed() for one in target.connections))
        assert target.commands == []
        await quiet()
        assert len(site.told_of(SessionEnded)) == 1
