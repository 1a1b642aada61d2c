"""What is offered to whom, and which host keys are taken."""

import subprocess
from pathlib import Path

import pytest
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs

from bastion.errors import BastionError
from bastion.ssh.algorithms import CIPHERS, KEX, MACS, ciphers_for, load_host_keys

ALL = [b"aes256-gcm@openssh.com", b"chacha20-poly1305@openssh.com", b"aes256-ctr"]


@pytest.mark.parametrize("version", [b"OpenSSH_6.2", b"OpenSSH_6.6.1p1 Ubuntu", b"OpenSSH_9.2p1", b"OpenSSH_10.0"])
def test_openssh_is_offered_gcm_alone(version: bytes) -> None:
    assert ciphers_for(b"SSH-2.0-" + version, ALL) == ALL[:1]


@pytest.mark.parametrize(
    "version", [b"OpenSSH_6.1", b"OpenSSH_5.9", b"PuTTY_Release_0.78", b"dropbear", b"", b"NotOpenSSH_9.9"]
)
def test_others_are_offered_everything(version: bytes) -> None:
    assert ciphers_for(b"SSH-2.0-" + version, ALL) == ALL


def test_a_profile_without_gcm_stays_whole() -> None:
    assert ciphers_for(b"SSH-2.0-OpenSSH_9.9", ALL[1:]) == ALL[1:]


def test_every_name_is_one_that_this_machine_can_do() -> None:
    """ML-KEM comes with cryptography; a wheel without it would leave the pq profile empty."""
    for profile in ("compat", "modern", "pq"):
        for names, known in ((KEX, get_kex_algs()), (CIPHERS, get_encryption_algs()), (MACS, get_mac_algs())):
            assert {name.encode() for name in names[profile]} <= set(known)  # type: ignore[index]


def test_nothing_weak_is_in_any_profile() -> None:
    every = [name for table in (KEX, CIPHERS, MACS) for names in table.values() for name in names]
    assert not [name for name in every if "sha1" in name or "cbc" in name or "md5" in name or "group-exchange" in name]
    assert all(names[0] == "curve25519-sha256" for profile, names in KEX.items() if profile != "pq")


def made(folder: Path, kind: str, *options: str) -> Path:
    path = folder / kind
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path), *options], check=True)
    return path


def test_an_rsa_key_signs_by_sha2_alone(tmp_path: Path) -> None:
    pair = load_host_keys([made(tmp_path, "rsa", "-b", "3072")])[0]
    assert list(pair.host_key_algorithms) == [b"rsa-sha2-512", b"rsa-sha2-256"]


def test_host_keys_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "noise").write_text("noise")
    for paths, words in (
        ([tmp_path / "nothing"], "no such file"),
        ([tmp_path / "noise"], "cannot be used"),
        ([made(tmp_path, "ecdsa")], "ecdsa-sha2-nistp256, want ed25519 or rsa"),
        ([], "no host key is configured"),
    ):
        with pytest.raises(BastionError, match=words):
            load_host_keys(paths)
