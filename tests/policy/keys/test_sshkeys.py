"""Keys and signatures from strangers: `BadKey` or a key, soon, whatever the bytes."""

import base64
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from policy.keys import signatures, sshkeys
from policy.keys.sshkeys import PrivateKey, parse_authorized_key, parse_host_key, parse_private_key, parse_public_key
from policy.keys.sshwire import BadKey, mpint, string
from tests.policy.policyd import SESSION, login_data
from tests.policy.sshbits import Token, certificate, ecdsa_blob, rsa_blob

ED = sshkeys.generate_private_key()
OTHER = sshkeys.generate_private_key()


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey, *, openssh: bool = True) -> bytes:
    form = serialization.PrivateFormat.OpenSSH if openssh else serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@pytest.fixture(scope="module")
def rsa_key() -> PrivateKey:
    return parse_private_key(pem(rsa.generate_private_key(65537, 3072)))


N = (1 << 3071) | 1
HOSTILE_KEYS: dict[str, dict[str, bytes]] = {  # what is wrong with it -> case
    "key has .* bytes, want at most 16384": {
        "an RSA key of a million bits": rsa_blob(b"\1\0\1", b"\x7f" * 131072),
        "DSA with a huge q": string("ssh-dss") + mpint(3) + string(b"\x7f" * 100_000) + mpint(3) * 2,
        "ed25519 of 100 kB": string("ssh-ed25519") + string(b"\x09" * 100_000),
    },
    "want at most 8192 bits": {
        "an RSA key of 16384 bits": string("ssh-rsa") + mpint(65537) + mpint((1 << 16383) | 1),
    },
    "bits, want 3072 to 8192": {
        "an RSA key of 2048 bits": string("ssh-rsa") + mpint(65537) + mpint((1 << 2047) | 1),
        "an RSA key of 8193 bits": string("ssh-rsa") + mpint(65537) + mpint((1 << 8192) | 1),
    },
    "not one that a key generator makes": {
        "an RSA exponent of 8000 bits": string("ssh-rsa") + mpint((1 << 7999) | 1) + mpint(N),
        "an exponent of one": string("ssh-rsa") + mpint(1) + mpint(N),
        "an even RSA exponent": string("ssh-rsa") + mpint(65536) + mpint(N),
        "an even RSA modulus": string("ssh-rsa") + mpint(65537) + mpint(1 << 3071),
    },
    "is not above zero": {
        "an RSA modulus of zero": rsa_blob(b"\1\0\1", b""),
        "a negative RSA modulus": rsa_blob(b"\1\0\1", b"\xff" * 384),
        "a negative RSA exponent": rsa_blob(b"\xff\xff", b"\0" + N.to_bytes(384)),
    },
    "is not in its shortest form": {
        "an RSA modulus not in its shortest form": rsa_blob(b"\1\0\1", b"\0\0" + N.to_bytes(384)),
    },
    "is not supported": {
        "DSA": string("ssh-dss") + mpint(3) * 4,
        "ECDSA on a curve of no name": ecdsa_blob("nistk163", b"\x04" + b"\x01" * 42),
        "no name": string(""),
    },
    "bytes, want 32": {
        "ed25519 of no bytes": string("ssh-ed25519") + string(b""),
        "ed25519 of 31 bytes": string("ssh-ed25519") + string(b"\x09" * 31),
        "ed25519 of 33 bytes": string("ssh-ed25519") + string(b"\x09" * 33),
    },
    "no point of its curve, or one of small order": {
        "ed25519 of small order": string("ssh-ed25519") + string(b"\1" + bytes(31)),
        "ed25519 of order two": string("ssh-ed25519") + string((2**255 - 20).to_bytes(32, "little")),
        "ed25519 of order eight": string("ssh-ed25519")
        + string(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")),
        "ed25519 beyond its field": string("ssh-ed25519") + string((2**255 - 19 + 3).to_bytes(32, "little")),
        "ed25519 off its curve": string("ssh-ed25519") + string((2).to_bytes(32, "little")),
    },
    "is not on its curve": {
        "ECDSA off its curve": ecdsa_blob("nistp256", b"\x04" + b"\x01" * 64),
    },
    "is not in uncompressed form": {
        "ECDSA at infinity": ecdsa_blob("nistp256", b"\0"),
        "ECDSA compressed": ecdsa_blob("nistp256", b"\x02" + b"\x01" * 32),
    },
    "curve is `nistp384`, want `nistp256`": {
        "ECDSA with another curve inside": ecdsa_blob("nistp384", b"\x04" + b"\x01" * 64, name="ecdsa-sha2-nistp256"),
    },
    "was not made for ssh": {
        "a web site's security key": string("sk-ssh-ed25519@openssh.com")
        + ED.public.blob[len(string("ssh-ed25519")) :]
        + string("https://example.org"),
    },
    "a certificate stands where a plain key is wanted": {
        "a certificate": certificate(),
    },
    "bytes after the end of the key": {
        "bytes behind": ED.public.blob + b"\0",
    },
    "is cut short": {
        "cut short": ED.public.blob[:-1],
        "nothing": b"",
        "a length beyond": b"\xff\xff\xff\xff",
    },
    "holds a control character": {
        "an escape in its name": string("ssh-\x1b[2J") + string(b""),
    },
}


@pytest.mark.parametrize(
    ("problem", "case"), [(problem, case) for problem, cases in HOSTILE_KEYS.items() for case in cases]
)
def test_hostile_keys(problem, case):
    began = time.process_time()
    with pytest.raises(BadKey, match=problem) as caught:
        parse_public_key(HOSTILE_KEYS[problem][case])
    assert time.process_time() - began < 0.5
    assert str(caught.value).isprintable()


@given(st.binary(max_size=400))
def test_any_bytes(data):
    for prefix in (b"", *(string(name) for name in ("ssh-rsa", "ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-dss"))):
        with pytest.raises(BadKey):
            parse_public_key(prefix + data)


def test_what_ssh_keygen_makes(tmp_path: Path):
    for kind, bits in (("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "3072")):
        path = tmp_path / f"{kind}{bits}"
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-C", "a b", "-f", path], check=True)
        line = path.with_name(f"{path.name}.pub").read_text()
        public = parse_authorized_key(line)
        assert public.comment == "a b"
        shown = subprocess.run(["ssh-keygen", "-lf", path], capture_output=True, text=True, check=True).stdout
        assert public.key.fingerprint == shown.split()[1]
        private = parse_private_key(path.read_bytes())
        assert private.public == public.key
        again = parse_private_key(sshkeys.write_private_key(private))
        assert again.public == private.public
        for algorithm in private.public.signature_algorithms:
            signature = signatures.sign(private, algorithm, b"data")
            assert signatures.verify(private.public, signature, b"data").algorithm == algorithm
            with pytest.raises(BadKey):
                signatures.verify(private.public, signature, b"other data")


@pytest.mark.parametrize(
    "option", ['command="id"', "no-pty", "cert-authority", 'from="10.0.0.1"', "verify-required,no-pty", "restrict"]
)
def test_an_option_that_would_not_be_enforced(option):
    with pytest.raises(BadKey, match=r"write a rule in policy\.toml"):
        parse_authorized_key(f"{option} {ED.public.line()}")


@pytest.mark.parametrize(
    "line",
    ["", "ssh-ed25519", "ssh-ed25519 ????", "ssh-rsa " + ED.public.line().split()[1], "\x1b"],
    ids=["empty", "no blob", "no base64", "other kind", "escape"],
)
def test_lines_that_are_none(line):
    with pytest.raises(BadKey):
        parse_authorized_key(line)


def test_verify_required_needs_a_key_that_can():
    with pytest.raises(BadKey, match="needs a security key"):
        parse_authorized_key(f"verify-required {ED.public.line()}")
    assert parse_authorized_key(f"verify-required {Token().public.line()}").verify_required


def test_an_escape_in_a_comment():
    for comment in ("\x1b[2J", "a\x00b", "\u202e"):
        with pytest.raises(BadKey, match="control character"):
            parse_authorized_key(ED.public.line(comment) + "!")


def test_lines_and_files_have_an_end():
    line = ED.public.line()
    with pytest.raises(BadKey, match="want at most"):
        parse_authorized_key(f"{line} {'x' * sshkeys.MAX_LINE}")
    with pytest.raises(BadKey, match="file is too long"):
        sshkeys.parse_authorized_keys("#" * (sshkeys.MAX_KEYS * sshkeys.MAX_LINE + 1))
    with pytest.raises(BadKey, match="more than 64 keys"):
        sshkeys.parse_authorized_keys(f"{line}\n" * 65)
    assert len(sshkeys.parse_authorized_keys(f"# ours\n\n{line}\n" * 64)) == 64
    with pytest.raises(BadKey, match="private key has"):
        parse_private_key(b"x" * (sshkeys.MAX_PEM + 1))


def test_host_key_lines():
    for line in (ED.public.line(), f"web1 {ED.public.line()}", f"|1|a=|b= {ED.public.line()} comment"):
        assert parse_host_key(line) == ED.public
    for marker in ("@revoked", "@cert-authority"):
        with pytest.raises(BadKey, match="marker"):
            parse_host_key(f"{marker} * {ED.public.line()}")


def test_private_keys_that_are_none(rsa_key, tmp_path):
    path = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", path], check=True)
    with pytest.raises(BadKey, match="passphrase"):
        parse_private_key(path.read_bytes())
    for data in (
        pem(dsa.generate_private_key(2048), openssh=False), pem(rsa.generate_private_key(65537, 1024)), b"", b"\0" * 99,
        path.read_bytes()[:-60], b"x" * 20_000, ED.public.line().encode(),
    ):  # fmt: skip
        with pytest.raises(BadKey):
            parse_private_key(data)
    assert parse_private_key(pem(rsa_key.crypto, openssh=False)).public == rsa_key.public


def test_a_private_key_hides():
    assert "PRIVATE" not in repr(ED)
    assert repr(ED).count("crypto") == 0


# --- signatures ---------------------------------------------------------------------------------------------


def ed_signature(data: bytes, key: PrivateKey = ED) -> bytes:
    return signatures.sign(key, "ssh-ed25519", data)


def prove(key=ED, *, signer=None, session=SESSION, signed=None, blob=b""):
    signed = signed if signed is not None else login_data(key, blob=blob)
    signature = ed_signature(signed, signer or key)
    return signatures.verify_login(key.public, blob or key.public.blob, signed, signature, session=session)


def test_a_login():
    assert prove().algorithm == "ssh-ed25519"
    blob = certificate()
    from tests.policy.sshbits import KEY

    assert prove(KEY, blob=blob).algorithm == "ssh-ed25519"


def test_the_signature_of_another_session():
    with pytest.raises(BadKey, match="another session"):
        prove(session=bytes(32))
    with pytest.raises(BadKey, match="another session"):
        prove(signed=login_data(ED, session=b""), session=b"")


def test_the_signature_of_another_key():
    """CVE-2024-45337: key A was asked about, key B signed."""
    with pytest.raises(BadKey, match="wrong"):
        prove(signer=OTHER)
    with pytest.raises(BadKey, match="another key"):
        prove(signed=login_data(OTHER))
    signed = login_data(OTHER)
    with pytest.raises(BadKey, match="another key"):
        signatures.verify_login(ED.public, OTHER.public.blob, signed, ed_signature(signed), session=SESSION)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (string("ssh-connection"), string("ssh-userauth"), "service"),
        (string("publickey"), string("hostbased"), "method"),
        (b"\x32" + string("root@web1"), b"\x33" + string("root@web1"), "no authentication request"),
        (string("publickey") + b"\x01", string("publickey") + b"\x00", "not signed"),
        (string("root@web1"), string(b"\xff"), "not UTF-8"),
        (string("ssh-ed25519") + string(ED.public.blob), string("ssh-rsa") + string(ED.public.blob), "does not fit"),
    ],
    ids=["service", "method", "message", "unsigned", "user", "algorithm"],
)
def test_signed_data_for_something_else(old, new, problem):
    signed = login_data(ED)
    assert old in signed
    with pytest.raises(BadKey, match=problem):
        prove(signed=signed.replace(old, new, 1))


def test_signed_data_with_more_behind():
    with pytest.raises(BadKey, match="after the end"):
        prove(signed=login_data(ED) + b"\0")


def test_a_certificate_never_passes_under_the_name_of_a_plain_key():
    blob = certificate()
    from tests.policy.sshbits import KEY

    plain = login_data(KEY, blob=blob).replace(string("ssh-ed25519-cert-v01@openssh.com"), string("ssh-ed25519"), 1)
    with pytest.raises(BadKey, match="does not fit"):
        prove(KEY, blob=blob, signed=plain)


def test_rsa_by_sha1_does_not_exist(rsa_key):
    with pytest.raises(BadKey):
        signatures.sign(rsa_key, "ssh-rsa", b"data")
    good = signatures.sign(rsa_key, "rsa-sha2-256", b"data")
    assert signatures.verify(rsa_key.public, good, b"data", algorithm="rsa-sha2-256")
    with pytest.raises(BadKey, match="does not fit"):
        signatures.verify(rsa_key.public, good, b"data", algorithm="rsa-sha2-512")
    with pytest.raises(BadKey, match="does not fit"):
        signatures.verify(rsa_key.public, string("ssh-rsa") + good[4 + 12 :], b"data")
    longer = string("rsa-sha2-256") + string(b"\0" * 400)
    with pytest.raises(BadKey, match="longer"):
        signatures.verify(rsa_key.public, longer, b"data")


@pytest.mark.parametrize(
    "signature",
    [b"", string("ssh-ed25519"), string("ssh-ed25519") + string(b""), string("ssh-ed25519") + string(b"\0" * 64),
     string("ssh-ed25519") + string(b"\0" * 64) + b"x", string("none") + string(b""), b"\0" * 20_000],
)  # fmt: skip
def test_signatures_that_are_none(signature):
    with pytest.raises(BadKey):
        signatures.verify(ED.public, signature, b"data")


def test_a_signature_has_an_end():
    long = string("ssh-ed25519") + string(b"\0" * 20_000)
    with pytest.raises(BadKey, match=r"signature has .* bytes, want at most"):
        signatures.verify(ED.public, long, b"data")
    with pytest.raises(BadKey, match="signed data is too long"):
        signatures.parse_userauth(login_data(ED) + b"\0" * 40_000)


def test_a_good_signature_with_more_behind():
    with pytest.raises(BadKey, match="after the end of the signature"):
        signatures.verify(ED.public, ed_signature(b"data") + b"\0", b"data")


def test_an_ecdsa_signature_ends():
    key = parse_private_key(pem(ec.generate_private_key(ec.SECP256R1())))
    good = signatures.sign(key, "ecdsa-sha2-nistp256", b"data")
    body = good[len(string("ecdsa-sha2-nistp256")) + 4 :]
    assert signatures.verify(key.public, string("ecdsa-sha2-nistp256") + string(body), b"data")
    with pytest.raises(BadKey, match="after the end of the ecdsa signature"):
        signatures.verify(key.public, string("ecdsa-sha2-nistp256") + string(body + b"\0"), b"data")


@given(st.binary(max_size=200))
def test_any_signature_and_any_data(data):
    with pytest.raises(BadKey):
        signatures.verify(ED.public, data, data)
    with pytest.raises(BadKey):
        signatures.verify_login(ED.public, ED.public.blob, data, data, session=SESSION)


# --- security keys ---------------------------------------------------------------------------------------------


def test_security_keys():
    token = Token()
    assert not signatures.verify(token.public, token.sign(b"data", 1), b"data").verified
    assert signatures.verify(token.public, token.sign(b"data", 5), b"data").verified


@pytest.mark.parametrize("flags", [0, 4])
def test_a_security_key_that_was_not_touched(flags):
    """CVE-2026-39831."""
    token = Token()
    with pytest.raises(BadKey, match="not touched"):
        signatures.verify(token.public, token.sign(b"data", flags), b"data")


def test_flags_are_signed():
    token = Token()
    signature = bytearray(token.sign(b"data", 1))
    signature[-5] = 5
    with pytest.raises(BadKey):
        signatures.verify(token.public, bytes(signature), b"data")
    with pytest.raises(BadKey):
        signatures.verify(token.public, token.sign(b"data", 1, application="ssh:other"), b"data")
    with pytest.raises(BadKey, match="cut short"):
        signatures.verify(token.public, token.sign(b"data", 1)[:-2], b"data")


def test_a_security_keys_signature_ends():
    token = Token()
    with pytest.raises(BadKey, match="after the end of the signature"):
        signatures.verify(token.public, token.sign(b"data", 1) + b"\0", b"data")


def test_base64_is_strict():
    blob = base64.b64encode(ED.public.blob).decode()
    with pytest.raises(BadKey):
        parse_authorized_key(f"ssh-ed25519 {blob[:20]}*{blob[20:]}")
