"""Security keys for OpenSSH's own programs: a middleware of ours, compiled where the tests run."""

import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")

ED25519, ECDSA = "ed25519-sk", "ecdsa-sk"
KINDS: Final = (ED25519, ECDSA)
PIN: Final = "1234"

NOTHING, TOUCHED, VERIFIED = "0", "1", "5"
"""For SK_FLAGS: what the key claims of its owner, whatever it was asked."""


def built(folder: Path) -> Path | None:
    """The middleware; None where there is no compiler, or no OpenSSL to compile against."""
    library = folder / "authenticator.so"
    words = [
        "cc",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        str(library),
        str(SOURCE),
        "-lcrypto",
    ]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return None
    if done.returncode and "No such file" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return library


def enrol(library: Path, path: Path, kind: str, *options: str) -> Path:
    """A key of such a kind, which asks for a touch; options like `-O no-touch-required` as for ssh-keygen."""
    words = ["ssh-keygen", "-q", "-w", str(library), "-t", kind, "-N", "", "-C", path.name, "-f", str(path), *options]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return path
