"""authorized_keys: one line more or less, every other byte as it was, by real shells and a real sshd."""

import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.ssh.hands.authorized import MAX_FILE, AuthorizedKeys, check_line, edited, key_of
from bastion.ssh.hands.deeds import BadOrder, Type
from policy.messages import Credential
from tests.bastion.aio import asynchronous, until
from tests.bastion.hands import worker
from tests.support.accounts_target import ANN, KIOSK, OPS, ROOT, AccountsTarget, missing
from tests.support.sshd import keygen


def line_of(name: str) -> bytes:
    """A key line that is the same for the same name."""
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + name.encode().ljust(32, b"\0")
    return b"ssh-ed25519 " + base64.b64encode(blob) + b" " + name.encode()


def blob_of(line: bytes) -> bytes:
    found = key_of(line)
    assert found is not None
    return found[1]


A, B, C = line_of("a"), line_of("b"), line_of("c")


def keys(old: bytes, new: bytes, *, another: str = "") -> AuthorizedKeys:
    return AuthorizedKeys(old, new, word="0123abcd", another=another)


# --- the edit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", C + b"\n"),
        (A + b"\n", A + b"\n" + C + b"\n"),
        (A, A + b"\n" + C + b"\n"),  # no line feed at the end
        (b"\n\n# note\n" + A + b"\n", b"\n\n# note\n" + A + b"\n" + C + b"\n"),
        (b"\xff\x00 binary\n" + A + b"\r\n", b"\xff\x00 binary\n" + A + b"\r\n" + C + b"\n"),
        (A + b"\n" + C + b"\n", A + b"\n" + C + b"\n"),  # it is there
        (b'from="10.0.0.1" ' + C + b"\n", b'from="10.0.0.1" ' + C + b"\n"),
    ],
)
def test_a_line_more(before: bytes, after: bytes) -> None:
    assert edited(before, old=b"", new=C, keep=False) == after


def test_a_key_less() -> None:
    text = b"# first\n" + A + b"\n" + b'command="x # \\" y",no-pty ' + B + b"\n" + A + b" again\nrest"
    assert edited(text, old=blob_of(A), new=b"", keep=False) == (
        b"# first\n" + b'command="x # \\" y",no-pty ' + B + b"\nrest"
    )
    assert edited(text, old=blob_of(C), new=b"", keep=False) == text


def test_a_comment_that_holds_a_key_is_a_comment() -> None:
    text = b"# " + A + b"\n  #" + A + b"\n"
    assert edited(text, old=blob_of(A), new=b"", keep=False) == text


def test_the_new_key_takes_over_the_options_of_the_old() -> None:
    options = b'from="10.0.0.1,!10.0.0.2",no-pty,command="say \\"hi\\" now"'
    text = options + b" \t" + A + b"\n" + B + b"\n"
    assert edited(text, old=blob_of(A), new=C, keep=True) == text + options + b" " + C + b"\n"
    assert edited(text, old=blob_of(A), new=C, keep=False) == B + b"\n" + options + b" " + C + b"\n"
    own = b"no-pty " + C
    assert edited(text, old=blob_of(A), new=own, keep=True) == text + own + b"\n"


_FILE = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([A, B, C, b"no-pty " + A, b"#" + A, b'x=" ' + B])), max_size=8
)


@given(_FILE, st.booleans())
def test_adding_and_taking_away_gives_the_file_back(lines: list[bytes], ended: bool) -> None:
    text = b"\n".join(lines) + (b"\n" if ended else b"")
    text = edited(text, old=blob_of(C), new=b"", keep=False)
    longer = edited(text, old=b"", new=C, keep=False)
    assert longer.startswith(text)
    assert edited(longer, old=blob_of(C), new=b"", keep=False).removesuffix(b"\n") == text.removesuffix(b"\n")


@pytest.mark.parametrize(
    "line",
    [A + b"\n" + B, b"no key", b"", b"ssh-rsa " + A.split()[1], A + b"\x00", A + "ü".encode(), A + b"x" * 20_000],
)
def test_what_is_no_line_to_add(line: bytes) -> None:
    with pytest.raises(BadOrder):
        check_line(line)


def test_neither_a_key_nor_another() -> None:
    with pytest.raises(BadOrder):
        keys(b"", b"")


def test_nothing_anybody_chose_is_in_the_command() -> None:
    one, other = keys(b"", A, another="zoe"), keys(blob_of(A), B, another="bob")
    assert one.command == other.command
    assert b"zoe" not in one.command
    assert list(one.begun()) == [Type(b"zoe\n0123abcd\n")]


# --- by a real shell ------------------------------------------------------------------------------------


def run(deed: AuthorizedKeys, home: Path, shell: str = "sh", meanwhile: bytes = b"", cut: bool = False) -> str:
    """Have it done in `home`; the outcome. `meanwhile` somebody else writes; `cut`: the line breaks half way."""
    process = subprocess.Popen(
        [shell, "-c", deed.command.decode()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"HOME": str(home), "PATH": os.environ["PATH"]}, cwd="/",
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    for effect in deed.begun():
        assert isinstance(effect, Type)
        process.stdin.write(effect.data)
    process.stdin.flush()
    answered = False
    while data := os.read(process.stdout.fileno(), 65536):
        for effect in deed.heard(data, error=False):
            answered = True
            if meanwhile:
                (home / ".ssh/authorized_keys").write_bytes(meanwhile)
            if isinstance(effect, Type):
                process.stdin.write(effect.data[: len(effect.data) // 2 if cut and effect.data[:1].isalpha() else None])
        if answered:
            process.stdin.close()
    if not answered:
        process.stdin.close()
    deed.heard(process.stderr.read(), error=True)
    process.stdout.close()
    process.stderr.close()
    return deed.ended(process.wait(60)).outcome


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / ".ssh").mkdir()
    yield tmp_path
    left = {path.name for path in (tmp_path / ".ssh").iterdir()} if (tmp_path / ".ssh").is_dir() else set()
    assert left <= {"authorized_keys"}, "nothing is left beside it"


SHELLS = [
    shell for shell in ("dash", "bash", "busybox", "zsh", "fish", "tcsh", "mksh") if os.path.exists(f"/bin/{shell}")
]


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shell != "busybox"])
def test_it_is_put_in_place_with_the_mode_it_had(shell: str, home: Path) -> None:
    file = home / ".ssh/authorized_keys"
    file.write_bytes(A)
    file.chmod(0o640)
    assert run(keys(b"", C), home, shell) == "done"
    assert file.read_bytes() == A + b"\n" + C + b"\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert run(keys(blob_of(A), b""), home, shell) == "done"
    assert file.read_bytes() == C + b"\n"
    inode = file.stat().st_ino
    assert run(keys(blob_of(A), C), home, shell) == "done"
    assert file.stat().st_ino == inode, "what is so already is not written"


def test_the_first_key_of_an_account(tmp_path: Path) -> None:
    assert run(keys(b"", C), tmp_path) == "done"
    assert (tmp_path / ".ssh/authorized_keys").read_bytes() == C + b"\n"
    assert (tmp_path / ".ssh/authorized_keys").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / ".ssh").stat().st_mode & 0o777 == 0o700


def test_a_link_is_not_followed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
    elsewhere.write_bytes(A)
    (home / ".ssh/authorized_keys").symlink_to(elsewhere)
    deed = keys(b"", C)
    assert run(deed, home) == "refused"
    assert "symbolic link" in deed.ended(65).detail
    assert elsewhere.read_bytes() == A
    (home / ".ssh/authorized_keys").unlink()
    (home / ".ssh").rmdir()
    (home / ".ssh").symlink_to(elsewhere.parent)
    assert run(keys(b"", C), home) == "refused"
    (home / ".ssh").unlink()


def test_a_file_of_any_length_is_not_read(home: Path) -> None:
    file = home / ".ssh/authorized_keys"
    for size in (MAX_FILE + 1, 1 << 34):
        with file.open("wb") as huge:
            huge.truncate(size)
        deed = keys(b"", C)
        assert run(deed, home) == "refused"
        assert f"longer than {MAX_FILE}" in deed.ended(65).detail
    file.write_bytes(b"#" * (MAX_FILE - 10))
    assert run(keys(b"", C), home) == "refused", "nor made so long that it could not be read again"
    assert file.stat().st_size == MAX_FILE - 10


def test_a_folder_of_that_name(home: Path) -> None:
    (home / ".ssh/authorized_keys").mkdir()
    assert run(keys(b"", C), home) == "refused"
    (home / ".ssh/authorized_keys").rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="to give a file to somebody else needs root")
def test_a_file_that_belongs_to_somebody_else(home: Path) -> None:
    file = home / ".ssh/authorized_keys"
    file.write_bytes(A)
    os.chown(file, 65534, 65534)
    assert run(keys(b"", C), home) == "refused"
    assert file.read_bytes() == A


def test_who_edits_it_meanwhile_loses_nothing(home: Path) -> None:
    file = home / ".ssh/authorized_keys"
    file.write_bytes(A + b"\n")
    deed = keys(b"", C)
    assert run(deed, home, meanwhile=A + b"\n" + B + b"\n") == "refused"
    assert "somebody else" in deed.ended(65).detail
    assert file.read_bytes() == A + b"\n" + B + b"\n"


def test_a_line_that_breaks_half_way_changes_nothing(home: Path) -> None:
    file = home / ".ssh/authorized_keys"
    file.write_bytes(A + b"\n")
    assert run(keys(b"", C), home, cut=True) == "refused"
    assert file.read_bytes() == A + b"\n"


# --- through a real sshd --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountsTarget]:
    if why := missing():
        pytest.skip(why)
    target = AccountsTarget(tmp_path_factory.mktemp("accounts") / "web1").start()
    yield target
    target.stop()


@pytest.mark.parametrize(("by", "account"), [(ANN, ANN), (ROOT, ANN), (OPS, ANN), (ROOT, KIOSK), (ROOT, ROOT)])
@asynchronous
async def test_a_key_after_another(by: str, account: str, target: AccountsTarget, tmp_path: Path) -> None:
    fresh = keygen(tmp_path / "fresh")
    public = fresh.with_suffix(".pub").read_bytes().strip()
    file = target.authorized_keys(account)
    before, owner = file.read_bytes(), file.stat().st_uid
    async with worker(tmp_path, target) as one:
        answer = await one.change("authorized-keys", account, by=by, new=public)
        assert answer.outcome == "done", answer.detail
        assert target.opens(account, key=fresh)
        assert file.stat().st_uid == owner
        assert file.stat().st_mode & 0o777 == 0o600
        answer = await one.change("authorized-keys", account, by=by, old=blob_of(public))
        assert answer.outcome == "done", answer.detail
        assert not target.opens(account, key=fresh)
        assert file.read_bytes() == before


@asynchronous
async def test_by_a_sudo_that_allows_no_more(target: AccountsTarget, tmp_path: Path) -> None:
    """As the guide has it: a shell as these accounts, and nothing as any other."""
    target.sudoers(f"ALL = ({ANN}) NOPASSWD: /bin/sh")
    try:
        async with worker(tmp_path, target) as one:
            assert (await one.change("authorized-keys", ANN, by=OPS, new=C)).outcome == "done"
            assert (await one.change("authorized-keys", ANN, by=OPS, old=blob_of(C))).outcome == "done"
            assert (await one.change("authorized-keys", KIOSK, by=OPS, new=C)).outcome == "refused"
    finally:
        target.sudoers("ALL = (ALL:ALL) NOPASSWD: ALL")


@asynchronous
async def test_a_login_that_is_chatty(target: AccountsTarget, tmp_path: Path) -> None:
    rc = target.home_of(ANN) / ".bashrc"
    rc.write_text("echo bastion-keys 3\necho welcome; echo bastion-saved; seq 1 5000\n")
    file = target.authorized_keys(ANN)
    before = file.read_bytes()
    try:
        async with worker(tmp_path, target) as one:
            assert (await one.change("authorized-keys", ANN, new=C)).outcome == "done"
            assert file.read_bytes() == before + C + b"\n", "and not what its login says"
            assert (await one.change("authorized-keys", ANN, old=blob_of(C))).outcome == "done"
    finally:
        rc.unlink()


@asynchronous
async def test_an_account_whose_shell_does_nothing(target: AccountsTarget, tmp_path: Path) -> None:
    async with worker(tmp_path, target) as one:
        answer = await one.change("authorized-keys", KIOSK, new=C)
        assert answer.outcome in ("refused", "unreachable")
        assert "not available" in answer.detail


@asynchronous
async def test_a_file_longer_than_the_window(target: AccountsTarget, tmp_path: Path) -> None:
    """More than sshd takes at once waits for its window; it comes back whole."""
    file = target.authorized_keys(ANN)
    before = file.read_bytes()
    padding = b"# " + b"x" * 100 + b"\n"
    file.write_bytes(before + padding * 2000)
    try:
        async with worker(tmp_path, target) as one:
            assert (await one.change("authorized-keys", ANN, new=C)).outcome == "done"
            assert file.read_bytes() == before + padding * 2000 + C + b"\n"
            await until("it is recorded", lambda: one.tape.end is not None)
            assert len(one.asked_for(Credential)) == 1
    finally:
        file.write_bytes(before)


def test_a_certificate_authority_is_no_key_of_a_person() -> None:
    """Lines with options that sshd knows are found by their key, whatever the options are."""
    ca = b'cert-authority,principals="a b" ' + A
    assert key_of(ca) == (b'cert-authority,principals="a b"', blob_of(A))
    assert asyncssh.import_public_key(A).public_data == blob_of(A)
