"""age (https://age-encryption.org/v1): who a backup is encrypted to, and whose key opens it. Streams, never a whole."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Final

from policy.backup.manifest import BadBackup

MAX_IDENTITY: Final = 64 * 1024  # bytes of a key file
_PIECE: Final = 1024 * 1024
MAX_RECIPIENTS: Final = 20  # as age's own limit of header lines that anybody needs


def recipients(words: Sequence[str]) -> list[Any]:
    """`age1...`, or the line of an SSH public key. BadBackup for anything else."""
    age = _library()
    if not 0 < len(words) <= MAX_RECIPIENTS:
        raise BadBackup(f"{len(words)} recipients, want 1 to {MAX_RECIPIENTS}", "name one: --recipient age1...")
    return [_recipient(age, word) for word in words]


def _recipient(age: ModuleType, word: str) -> Any:
    try:
        if word.startswith(("ssh-ed25519 ", "ssh-rsa ")):
            return age.ssh.Recipient.from_str(word)
        return age.x25519.Recipient.from_str(word)
    except Exception:  # pyrage raises RecipientError, and PanicException for some nonsense
        raise BadBackup(
            f"`{word[:40]}` is no recipient", "want age1... of `age-keygen -y`, or an ssh-ed25519 or ssh-rsa key"
        ) from None


def identities(path: Path) -> list[Any]:
    """The keys of a file as `age-keygen` or `ssh-keygen` make it."""
    age = _library()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IDENTITY + 1)
    except OSError as error:
        raise BadBackup(f"identity `{path}`: {(error.strerror or '').lower()}") from None
    try:
        if b"PRIVATE KEY-----" in data[:100]:
            return [age.ssh.Identity.from_buffer(data)]
        lines = [line.strip() for line in data.decode("ascii").splitlines()]
        found = [age.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except Exception:  # as above; its text might quote the key
        found = []
    if not found or len(data) > MAX_IDENTITY:
        raise BadBackup(f"`{path}` holds no identity", "want AGE-SECRET-KEY-1..., or an OpenSSH key without passphrase")
    return found


def encrypt(write: Callable[[IO[bytes]], None], out: IO[bytes], to: list[Any]) -> None:
    """What `write` writes, encrypted into `out`."""
    age = _library()
    with _piped(write, writes=True) as reader:
        age.encrypt_io(reader, out, to)


def decrypt(source: IO[bytes], read: Callable[[IO[bytes]], None], keys: list[Any]) -> None:
    """Have `read` read what is encrypted in `source`. BadBackup if it is not whole, or for others: what `read` was
    given until then counts for nothing.
    """
    age = _library()
    try:
        with _piped(read, writes=False) as writer:
            age.decrypt_io(source, writer, keys)
    except (age.DecryptError, OSError):
        raise BadBackup(
            "it does not open: it is for another identity, damaged, or cut", "take another copy, or the right identity"
        ) from None


@contextmanager
def _piped(work: Callable[[IO[bytes]], None], *, writes: bool) -> Iterator[IO[bytes]]:
    """One end of a pipe; `work` has the other, in a thread of its own. What it raises is raised here."""
    read_end, write_end = os.pipe()
    theirs = os.fdopen(write_end, "wb") if writes else os.fdopen(read_end, "rb")
    ours = os.fdopen(read_end, "rb") if writes else os.fdopen(write_end, "wb")
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(theirs)
        except BaseException as error:
            failed.append(error)
            with suppress(OSError, ValueError):  # so that the other end comes to its own verdict, which counts more
                while not writes and theirs.read(_PIECE):
                    pass

        finally:
            _close(theirs)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ours
    except BaseException:
        _close(ours)
        thread.join()
        raise
    _close(ours)
    thread.join()
    if failed:
        raise failed[0]


def _close(file: IO[bytes]) -> None:
    try:
        file.close()
    except BrokenPipeError:
        pass


def _library() -> ModuleType:
    """pyrage is an extra: who backs up by other means needs none."""
    try:
        import pyrage
    except ImportError:
        raise BadBackup("pyrage is missing", "pip install 'bastion[age]'") from None
    module: ModuleType = pyrage
    return module
