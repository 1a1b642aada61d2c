"""Key revocation lists: ours as OpenSSH reads them, OpenSSH's as we read them, and bytes that are none."""

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest

from policy.keys import certificates, sshkeys
from policy.keys.krl import MAX_SERIAL, Krl, OfCa, merged, read_krl, write_krl
from policy.keys.sshkeys import PrivateKey
from policy.keys.sshwire import BadKey, string
from policy.model import ChannelKind
from tests.policy.sshbits import u32, u64

CA = sshkeys.generate_private_key()
OTHER = sshkeys.generate_private_key()
KEY = sshkeys.generate_private_key()


def krl(**parts: object) -> Krl:
    return Krl(version=7, generated=1_800_000_000, **parts)  # type: ignore[arg-type]


def certificate(ca: PrivateKey, serial: int, session: str = "s1") -> bytes:
    return certificates.mint_user_certificate(
        ca, KEY.public, principals=["root"], key_id=f"bastion:alice:{session}", serial=serial, now=1_800_000_000,
        minutes=5, kinds={ChannelKind.SHELL},
    )  # fmt: skip


def line_of(blob: bytes) -> str:
    return f"ssh-ed25519-cert-v01@openssh.com {base64.b64encode(blob).decode()}\n"


def revoked(folder: Path, data: bytes, line: str) -> bool:
    """What ssh-keygen says of a key or certificate."""
    (folder / "krl").write_bytes(data)
    (folder / "key.pub").write_text(line)
    words = ["ssh-keygen", "-Q", "-f", str(folder / "krl"), str(folder / "key.pub")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode in (0, 1), done.stderr) == (True, "")
    return done.returncode == 1


# --- ours, as OpenSSH reads it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "serial", "ca", "expected"),
    [
        (OfCa(ca=CA.public.blob, serials=((5, 9),)), 5, CA, True),
        (OfCa(ca=CA.public.blob, serials=((5, 9),)), 9, CA, True),
        (OfCa(ca=CA.public.blob, serials=((5, 9),)), 10, CA, False),
        (OfCa(ca=CA.public.blob, serials=((5, 9),)), 5, OTHER, False),
        (OfCa(ca=b"", serials=((5, 9),)), 5, OTHER, True),
        (OfCa(ca=CA.public.blob, serials=((MAX_SERIAL, MAX_SERIAL), (1, 1))), MAX_SERIAL, CA, True),
        (OfCa(ca=CA.public.blob, key_ids=("bastion:bob:s1", "bastion:alice:s1")), 77, CA, True),
        (OfCa(ca=CA.public.blob, key_ids=("bastion:alice:s2",)), 77, CA, False),
    ],
)
def test_openssh_revokes_the_certificates_that_we_list(
    tmp_path: Path, listed: OfCa, serial: int, ca: PrivateKey, expected: bool
) -> None:
    made, blob = krl(certificates=(listed,)), certificate(ca, serial)
    assert revoked(tmp_path, write_krl(made), line_of(blob)) is expected
    known = certificates.parse_certificate(blob)
    said = made.revokes_certificate(
        key=known.key.blob, ca=known.ca.blob, serial=known.serial, key_id=known.key_id
    )  # fmt: skip
    assert said is expected, "we judge as OpenSSH does"


def test_openssh_revokes_keys_and_cas_by_their_hash(tmp_path: Path) -> None:
    data = write_krl(krl(sha256=frozenset({hashlib.sha256(CA.public.blob).digest()}), comment="bastion"))
    assert revoked(tmp_path, data, CA.public.line() + "\n")
    assert revoked(tmp_path, data, line_of(certificate(CA, 3))), "with a CA go all of its certificates"
    assert not revoked(tmp_path, data, line_of(certificate(OTHER, 3)))
    assert not revoked(tmp_path, write_krl(krl()), CA.public.line() + "\n"), "an empty list is a list"


def test_the_same_list_is_the_same_bytes_and_comes_back_as_it_was() -> None:
    hashes = frozenset(hashlib.sha256(bytes([number])).digest() for number in range(20))
    one = krl(
        sha256=hashes, comment="why",
        certificates=(OfCa(ca=CA.public.blob, serials=((1, 4), (9, 9)), key_ids=("a", "b")),),
    )  # fmt: skip
    assert read_krl(write_krl(one)) == one
    again = krl(
        sha256=frozenset(sorted(hashes, reverse=True)), comment="why",
        certificates=(OfCa(ca=CA.public.blob, serials=((9, 9), (3, 4), (1, 3)), key_ids=("b", "a", "b")),),
    )  # fmt: skip
    assert write_krl(again) == write_krl(one)


def test_vector() -> None:
    """PROTOCOL.krl, field by field."""
    data = write_krl(krl(comment="c", certificates=(OfCa(ca=b"CA", serials=((2, 3),), key_ids=("k",)),)))
    assert data.hex() == (
        "5353484b524c0a00"  # SSHKRL\n\0
        "00000001"  # format
        "0000000000000007"  # version
        "000000006b49d200"  # generated
        "0000000000000000"  # flags
        "00000000"  # reserved
        "00000001" "63"  # comment
        "01" "00000029"  # section: certificates
        "00000002" "4341" "00000000"  # CA, reserved
        "21" "00000010" "0000000000000002" "0000000000000003"  # range
        "23" "00000005" "00000001" "6b"  # key ids
    )  # fmt: skip


# --- OpenSSH's, as we read it -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "inside", "outside"),
    [
        ("serial: 5", [5], [4, 6]),
        ("serial: 5-9", [5, 7, 9], [4, 10]),
        ("serial: 1\nserial: 3\nserial: 4\nserial: 8", [1, 3, 4, 8], [2, 5, 7, 9]),  # a bitmap
        ("serial: 1\nserial: 99999999\nserial: 18446744073709551615", [1, 99999999, MAX_SERIAL], [2]),  # a list
        ("\n".join(f"serial: {number}" for number in range(1000, 9000, 2)), [1000, 8998], [1001, 9000]),
    ],
)
def test_serials_in_every_form_that_openssh_writes(
    tmp_path: Path, spec: str, inside: list[int], outside: list[int]
) -> None:
    found = read_krl(openssh_krl(tmp_path, spec))
    for serial in inside + outside:
        said = found.revokes_certificate(key=b"k", ca=CA.public.blob, serial=serial, key_id="")
        assert said is (serial in inside), serial
        assert not found.revokes_certificate(key=b"k", ca=OTHER.public.blob, serial=serial, key_id="")


def test_what_openssh_wrote_is_written_again_with_the_same_meaning(tmp_path: Path) -> None:
    key = sshkeys.generate_private_key().public
    spec = f"serial: 3\nserial: 5\nid: bastion:alice:s1\nsha1: {key.line()}\nhash: {sshkeys.fingerprint(b'x')}"
    found = read_krl(openssh_krl(tmp_path, spec + f"\nkey: {OTHER.public.line()}"))
    assert found.version == 42
    again = write_krl(found)
    for line in (key.line(), OTHER.public.line(), line_of(certificate(CA, 5)), line_of(certificate(CA, 99))):
        assert revoked(tmp_path, again, line.strip() + "\n"), line
    assert not revoked(tmp_path, again, line_of(certificate(CA, 4, "s9")))


def openssh_krl(folder: Path, spec: str) -> bytes:
    (folder / "spec").write_text(spec + "\n")
    (folder / "ca.pub").write_text(CA.public.line() + "\n")
    words = ["ssh-keygen", "-k", "-f", str(folder / "out"), "-s", str(folder / "ca.pub"), "-z", "42"]
    done = subprocess.run([*words, str(folder / "spec")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "out").read_bytes()


# --- what is none -------------------------------------------------------------------------------------


def header(version: int = 1) -> bytes:
    return b"SSHKRL\n\0" + u32(version) + u64(1) + u64(1) + u64(0) + string(b"") + string(b"")


def section(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + string(data)


NO_CA = string(b"") + string(b"")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cut short"),
        (b"SSHKRL\n\1" + header()[8:], "no revocation list"),
        (header(2), "format 2"),
        (header() + section(9, b""), "kind 9"),
        (header() + section(1, b""), "cut short"),
        (header() + section(1, NO_CA + section(0x21, u64(9) + u64(5))), "in order"),
        (header() + section(1, NO_CA + section(0x21, u64(0) + u64(5))), "in order"),
        (header() + section(1, NO_CA + section(0x21, u64(1) + u64(5) + b"x")), "after the end"),
        (header() + section(1, NO_CA + section(0x77, b"")), "kind 0x77"),
        (header() + section(1, NO_CA + section(0x22, u64(1) + string(b"\x80"))), "below zero"),
        (header() + section(1, NO_CA + section(0x22, u64(1) + string(b"\x01" * 40000))), "at most"),
        (header() + section(1, NO_CA + section(0x22, u64(MAX_SERIAL) + string(b"\x03"))), "want 1 to"),
        (header() + section(5, string(b"short")), "hash has 5"),
        (header() + section(255, string(b"new") + b"\x01" + string(b"")), "critical"),
        (header() + section(1, NO_CA + section(0x39, string(b"new") + b"\x01" + string(b""))), "critical"),
        (header() + b"\x05\xff\xff\xff\xff", "cut short"),
        (bytes(5 * 1024 * 1024), "at most"),
    ],
)
def test_refused(data: bytes, problem: str) -> None:
    with pytest.raises(BadKey, match=problem):
        read_krl(data)


def test_extensions_that_are_not_critical_and_signatures_are_stepped_over() -> None:
    data = header() + section(255, string(b"new") + b"\x00" + string(b"x")) + section(4, b"key") + string(b"signature")
    assert read_krl(data).certificates == ()


def test_ranges_become_as_few_as_can_be() -> None:
    assert merged([(5, 6), (1, 2), (3, 3), (6, 9), (20, 20)]) == ((1, 3), (5, 9), (20, 20))
    assert merged([]) == ()
    with pytest.raises(BadKey):
        merged([(0, 4)])
