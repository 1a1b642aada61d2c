"""Clients that share no code with OpenSSH: the same bytes, status and files by every way that each of them knows."""

import asyncio
import base64
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest

from tests.support.evidence import Evidence
from tests.support.net import LOOPBACK
from tests.support.site import DIRECT, JUMP, REFERENCE, Site
from tests.support.sshd import SFTP_SERVER, SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
    pytest.mark.skipif(not Path(SFTP_SERVER).exists(), reason="needs OpenSSH's sftp-server"),
]

COMMAND = "cat; echo err >&2; exit 7"
INPUT = b"\0\xff binary \r\n\x1a"
BUILD = Path(__file__).parents[2] / "build"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"needs {program}")


def run(words: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 100} | options
    if "input" in options:
        del options["stdin"]
    return subprocess.run(words, check=False, **options)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.fixture
def data() -> bytes:
    return os.urandom(4 << 20)


def shows_the_command(evidence: Evidence) -> None:
    if tape := evidence.tape():
        assert (tape.output, tape.errors, tape.typed) == (INPUT, b"err\n", INPUT)
        assert [note.status for note in tape.exits] == [7]


def shows_transfers(evidence: Evidence, there: Path, data: bytes, *, put: str = "write", get: str = "read") -> None:
    """One upload to and one download from `there`, wherever its name was given in full."""
    if tape := evidence.tape():
        for op in (put, get):
            found = [note for note in tape.operations if note.op == op and note.path.decode().endswith(there.name)]
            assert [(note.size, note.sha256) for note in found] == [(len(data), sha256(data))], tape.operations


def by_proxy(site: Site) -> str:
    """A command whose standard streams are the inner connection of a jump."""
    return " ".join([*site.command("ssh"), "-W", "web1:22", "bastion"])


def inner_key(site: Site) -> str:
    """The host key that the bastion shows for web1, for clients that know no certificates."""
    scan = run(["ssh", "-F", str(site.ssh_config), "-o", "HostKeyAlgorithms=ssh-ed25519",
                "-o", "StrictHostKeyChecking=no",
                "-o", f"UserKnownHostsFile={site.home}/inner", JUMP, "true"])  # fmt: skip
    assert scan.returncode == 0, scan.stderr
    return " ".join((site.home / "inner").read_text().splitlines()[-1].split()[1:3])


# --- PuTTY --------------------------------------------------------------------------------------------


def putty(site: Site, entry: str, folder: Path, program: str) -> tuple[list[str], str]:
    """Words that begin a PuTTY program, and its name for the target."""
    place = site.endpoint(REFERENCE if entry == REFERENCE else DIRECT)
    run(["puttygen", str(place.key), "-o", str(folder / "key.ppk")])
    if entry == JUMP:
        user, host_key = site.target.account, inner_key(site)
        more = ["-proxycmd", by_proxy(site)]
    else:
        user, host_key, more = place.user, place.host_key, ["-P", str(place.port)]
    print_of = base64.b64encode(hashlib.sha256(base64.b64decode(host_key.split()[1])).digest()).decode().rstrip("=")
    words = [program, "-batch", "-i", str(folder / "key.ppk"), "-hostkey", f"SHA256:{print_of}", *more, "-l", user]
    return words, "web1" if entry == JUMP else LOOPBACK


@needs("plink")
def test_plink(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    words, host = putty(site, entry, tmp_path, "plink")
    done = run([*words, host, COMMAND], input=INPUT, env={**os.environ, "HOME": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (7, INPUT, b"err\n")
    if entry == DIRECT:
        shows_the_command(evidence)


@needs("pscp")
@pytest.mark.parametrize("protocol", ["-sftp", "-scp"])
def test_pscp(site: Site, entry: str, tmp_path: Path, data: bytes, protocol: str, evidence: Evidence) -> None:
    words, host = putty(site, entry, tmp_path, "pscp")
    env = {**os.environ, "HOME": str(tmp_path)}
    (tmp_path / "mine").write_bytes(data)
    there = tmp_path / "there"
    for source, sink in ((str(tmp_path / "mine"), f"{host}:{there}"), (f"{host}:{there}", str(tmp_path / "back"))):
        done = run([*words, "-q", protocol, source, sink], env=env)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == data
    if entry == DIRECT and protocol == "-sftp":
        shows_transfers(evidence, there, data)
    elif entry == DIRECT:
        shows_transfers(evidence, there, data, put="scp-put", get="scp-get")


@needs("psftp")
def test_psftp(site: Site, entry: str, tmp_path: Path, data: bytes, evidence: Evidence) -> None:
    words, host = putty(site, entry, tmp_path, "psftp")
    (tmp_path / "mine").write_bytes(data)
    there = tmp_path / "there"
    (tmp_path / "batch").write_text(f"put {tmp_path}/mine {there}\nget {there} {tmp_path}/back\nquit\n")
    done = run([*words, "-b", str(tmp_path / "batch"), host], env={**os.environ, "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "back").read_bytes() == data
    if entry == DIRECT:
        shows_transfers(evidence, there, data)


# --- Dropbear's client --------------------------------------------------------------------------------


@needs("dbclient")
def test_dbclient(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    place = site.endpoint(REFERENCE if entry == REFERENCE else DIRECT)
    run(["dropbearconvert", "openssh", "dropbear", str(place.key), str(tmp_path / "key")])
    (tmp_path / ".ssh").mkdir(mode=0o700)
    host_key, host, user = place.host_key, place.host, place.user
    more = ["-p", str(place.port)]
    if entry == JUMP:
        host_key, host, user, more = inner_key(site), "web1", site.target.account, ["-J", by_proxy(site)]
    (tmp_path / ".ssh/known_hosts").write_text(f"{host} {host_key}\n")
    words = ["dbclient", "-T", "-i", str(tmp_path / "key"), "-l", user, *more, host, COMMAND]
    done = run(words, input=INPUT, env={**os.environ, "HOME": str(tmp_path)})
    assert (done.returncode, done.stdout) == (7, INPUT), done.stderr
    assert b"err\n" in done.stderr
    if entry == DIRECT:
        shows_the_command(evidence)


# --- Python -------------------------------------------------------------------------------------------


@contextmanager
def through_paramiko(site: Site, entry: str) -> Iterator[paramiko.Transport]:
    place = site.endpoint("bastion" if entry == JUMP else entry)
    key = paramiko.Ed25519Key.from_private_key_file(str(place.key))
    outer = paramiko.Transport((place.host, place.port))
    try:
        outer.start_client(timeout=20)
        assert outer.get_remote_server_key().get_base64() in place.host_key
        outer.auth_publickey(place.user, key)
        if entry != JUMP:
            yield outer
            return
        inner = paramiko.Transport(outer.open_channel("direct-tcpip", ("web1", 22), (LOOPBACK, 0)))
        try:
            inner.start_client(timeout=20)
            inner.auth_none(site.target.account)
            yield inner
        finally:
            inner.close()
    finally:
        outer.close()


def test_paramiko(site: Site, entry: str, tmp_path: Path, data: bytes, evidence: Evidence) -> None:
    there = tmp_path / "there"
    with through_paramiko(site, entry) as transport:
        channel = transport.open_session()
        channel.settimeout(20)
        channel.exec_command(COMMAND)
        channel.sendall(INPUT)
        channel.shutdown_write()
        output = channel.makefile("rb").read()
        errors = channel.makefile_stderr("rb").read()
        assert (channel.recv_exit_status(), output, errors) == (7, INPUT, b"err\n")
        sftp = paramiko.SFTPClient.from_transport(transport)
        assert sftp
        (tmp_path / "mine").write_bytes(data)
        sftp.put(str(tmp_path / "mine"), str(there))
        sftp.get(str(there), str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == data
        assert sorted(sftp.listdir(str(tmp_path))) == sorted(os.listdir(tmp_path))
        with sftp.open(str(there), "r+b") as file:  # somewhere in the middle
            file.seek(1000)
            file.write(b"patched")
        sftp.close()
    if tape := evidence.tape():
        whole, patch = [note for note in tape.operations if note.op == "write"]
        assert whole.sha256 == sha256(data)
        assert (patch.extents, patch.sha256) == ([(1000, 7)], sha256(b"patched"))


def test_asyncssh(site: Site, entry: str, tmp_path: Path, data: bytes, evidence: Evidence) -> None:
    asyncio.run(asyncssh_does(site, entry, tmp_path, data))
    if tape := evidence.tape():
        assert {(note.op, note.sha256) for note in tape.operations} >= {("write", sha256(data)), ("read", sha256(data))}


async def asyncssh_does(site: Site, entry: str, folder: Path, data: bytes) -> None:
    """Terminal sizes as well: here they are calls, not the client's reaction to something."""
    known = str(site.known_hosts)
    async with asyncio.timeout(60):
        place = site.endpoint("bastion" if entry == JUMP else entry)
        options: dict[str, Any] = {
            "known_hosts": known,
            "client_keys": [str(place.key)],
            "config": None,
            "agent_path": None,
        }
        async with asyncssh.connect(place.host, place.port, username=place.user, **options) as connection:
            if entry == JUMP:
                # The certificate of web1 is checked against the one @cert-authority line.
                async with asyncssh.connect(
                    "web1", username=site.target.account, tunnel=connection, **options
                ) as inner:
                    return await asyncssh_works(inner, folder, data)
            await asyncssh_works(connection, folder, data)


async def asyncssh_works(connection: asyncssh.SSHClientConnection, folder: Path, data: bytes) -> None:
    done = await connection.run(COMMAND, input=INPUT, encoding=None)
    assert (done.exit_status, done.stdout, done.stderr) == (7, INPUT, b"err\n")

    script = "stty size; while [ \"$(stty size)\" != '40 90' ]; do sleep 0.05; done; echo resized"
    process = await connection.create_process(script, term_type="vt220", term_size=(120, 50))
    assert await process.stdout.readline() == "50 120\r\n"
    process.change_terminal_size(90, 40)
    assert await process.stdout.readline() == "resized\r\n"
    await process.wait()

    (folder / "mine").write_bytes(data)
    async with connection.start_sftp_client() as sftp:
        await sftp.put(str(folder / "mine"), str(folder / "there"))
        await sftp.get(str(folder / "there"), str(folder / "back"))
    assert (folder / "back").read_bytes() == data


# --- libssh2, lftp, node ------------------------------------------------------------------------------


@needs("curl")
@pytest.mark.parametrize("scheme", ["sftp", "scp"])
def test_curl(site: Site, entry: str, tmp_path: Path, data: bytes, scheme: str, evidence: Evidence) -> None:
    if entry == JUMP:
        pytest.skip("curl knows no jump host")
    version = run(["curl", "--version"]).stdout.decode()
    if scheme not in version.partition("Protocols:")[2].split():
        pytest.skip("this curl was built without libssh2")
    place = site.endpoint(entry)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_text(f"[{place.host}]:{place.port} {place.host_key}\n")
    (tmp_path / "mine").write_bytes(data)
    there = tmp_path / "there"
    words = ["curl", "-sS", "--max-time", "90", "--user", f"{place.user}:", "--key", str(place.key),
             "--pubkey", f"{place.key}.pub"]  # fmt: skip
    url = f"{scheme}://{place.host}:{place.port}{there}"
    for more in (["--upload-file", str(tmp_path / "mine")], ["--output", str(tmp_path / "back")]):
        done = run([*words, *more, url], env={**os.environ, "HOME": str(tmp_path)})
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == data
    if scheme == "sftp":
        shows_transfers(evidence, there, data)
    else:
        shows_transfers(evidence, there, data, put="scp-put", get="scp-get")


@needs("lftp")
def test_lftp_mirrors_a_folder_on_several_channels(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    (tmp_path / "mine").mkdir()
    for number in range(6):
        (tmp_path / f"mine/{number}").write_bytes(os.urandom(200_000))
    user = (site.login() if entry == DIRECT else site.target.account).replace("@", "%40")
    script = (
        f'set sftp:connect-program "{" ".join(site.command("ssh"))} -a -x"; set net:max-retries 1; '
        f"open sftp://{user}:@{entry}; mirror -R -P 3 {tmp_path}/mine {tmp_path}/there; "
        f"mirror -P 3 {tmp_path}/there {tmp_path}/back; bye"
    )
    done = run(["lftp", "-c", script], env={**os.environ, "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    for number in range(6):
        assert (tmp_path / f"back/{number}").read_bytes() == (tmp_path / f"mine/{number}").read_bytes()
    if tape := evidence.tape():
        assert sum(note.op == "write" for note in tape.operations) == 6
        assert sum(note.op == "read" for note in tape.operations) == 6


@pytest.fixture(scope="session")
def node_ssh2() -> Path:
    """The folder in which node finds ssh2."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs node and npm")
    folder = BUILD / "node"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker would take half an installation for a whole one
        if not (folder / "node_modules/ssh2/package.json").exists():
            words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save", "--fetch-retries=0"]
            try:
                done = run(
                    [*words, "ssh2@1"], cwd=folder, timeout=45
                )  # the other worker may have to wait for it as well
            except subprocess.TimeoutExpired:
                pytest.skip("npm cannot install ssh2 within 45 s")
            if done.returncode:
                pytest.skip(f"npm cannot install ssh2: {done.stderr.decode(errors='replace')[-300:]}")
    return folder


def test_node_ssh2(site: Site, entry: str, tmp_path: Path, data: bytes, node_ssh2: Path, evidence: Evidence) -> None:
    place = site.endpoint("bastion" if entry == JUMP else entry)
    data = data[: 2 << 20]  # it sends in any order: more than may wait for the first piece has no hash
    (tmp_path / "mine").write_bytes(data)
    script = node_ssh2 / f"client-{os.getpid()}.js"
    script.write_text(NODE_CLIENT)
    inner = site.target.account if entry == JUMP else ""
    words = ["node", str(script), place.host, str(place.port), place.user, str(place.key), place.host_key.split()[1],
             inner, COMMAND, str(tmp_path)]  # fmt: skip
    done = run(words, input=INPUT)
    script.unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == b"7\n" + INPUT + b"err\n"
    assert (tmp_path / "back").read_bytes() == data
    shows_transfers(evidence, tmp_path / "there", data)


NODE_CLIENT = """\
const { Client } = require('ssh2'), fs = require('fs');
const [host, port, user, key, hostKey, inner, command, folder] = process.argv.slice(2);
const outer = new Client();
const fail = error => { console.error(error); process.exit(1); };
outer.on('error', fail).on('ready', () => inner ? jump() : work(outer)).connect({
  host, port: +port, username: user, privateKey: fs.readFileSync(key),
  hostVerifier: shown => shown.toString('base64') === hostKey,
});
function jump() {
  outer.forwardOut('127.0.0.1', 0, 'web1', 22, (error, sock) => {
    if (error) return fail(error);
    const client = new Client();
    client.on('error', fail).on('ready', () => work(client)).connect({ sock, username: inner, authHandler: ['none'] });
  });
}
function work(client) {
  client.exec(command, (error, stream) => {
    if (error) return fail(error);
    const out = [], err = [];
    let status;
    stream.on('data', data => out.push(data)).on('exit', code => { status = code; });
    stream.stderr.on('data', data => err.push(data));
    stream.on('close', () => files(client, Buffer.concat([Buffer.from(status + '\\n'), ...out, ...err])));
    process.stdin.pipe(stream);
  });
}
function files(client, said) {
  client.sftp((error, sftp) => {
    if (error) return fail(error);
    sftp.fastPut(folder + '/mine', folder + '/there', error => {
      if (error) return fail(error);
      sftp.fastGet(folder + '/there', folder + '/back', error => {
        if (error) return fail(error);
        process.stdout.write(said, () => { client.end(); outer.end(); });
      });
    });
  });
}
"""


def test_the_documented_way_of_writing_it(site: Site) -> None:
    """`ssh account@target@bastion`, with and without the person: ssh itself splits at the last `@` as well."""
    options = ["-p", str(site.port), "-i", str(site.key("alice")), "-o", "StrictHostKeyChecking=yes",
               "-o", f"UserKnownHostsFile={site.known_hosts}", "-o", "IdentitiesOnly=yes"]  # fmt: skip
    for user in (site.login(), f"alice@{site.login()}"):
        done = run([*site.command("ssh"), *options, f"{user}@{LOOPBACK}", "echo hello"])
        assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
