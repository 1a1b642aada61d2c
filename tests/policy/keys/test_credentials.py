"""User certificates: one good one, and every hostile one refused for its own reason."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.keys import certificates, sshkeys
from policy.keys.credentials import Flaw, Rejected, Speaker, check_certificate
from policy.keys.sshkeys import parse_public_key
from policy.keys.sshwire import BadKey, string
from policy.model import ChannelKind
from tests.policy.sshbits import CA, KEY, NOW, Certificate, certificate, ecdsa_blob, fields_of, rsa_blob

OTHER = sshkeys.generate_private_key()
RSA_NUMBERS = b"\0" + b"\xc1" * 128


def judge(blob: bytes, *, claim="", now=NOW, source="192.0.2.10", trusted=None, revoked=lambda *_: False):
    trusted = {CA.public.blob} if trusted is None else trusted
    return check_certificate(blob, claim=claim, trusted=trusted, now=now, source=source, revoked=revoked)


def test_the_good_one():
    found = judge(certificate())
    assert isinstance(found, Speaker), found
    assert (found.person, found.serial, found.key_id) == ("alice", 7, "alice laptop")
    assert found.key.blob == KEY.public.blob
    assert found.withheld == {ChannelKind.AGENT, ChannelKind.X11}
    assert judge(certificate(), claim="alice") == found


NESTED = certificate(ca_blob=certificate())
HOSTILE = {
    # CVE-2024-7594 and OpenSSH 5166b6cbf: nobody is everybody
    "no principals": (certificate(principals=[]), Flaw.PRINCIPALS),
    "an empty principal": (certificate(principals=[b""]), Flaw.PRINCIPALS),
    "empty principal beside a good one": (certificate(principals=[b"alice", b""]), Flaw.PRINCIPALS),
    "two persons and no claim": (certificate(principals=[b"alice", b"bob"]), Flaw.PRINCIPALS),
    "the same principal twice": (certificate(principals=[b"alice", b"alice"]), Flaw.PRINCIPALS),
    "a wildcard": (certificate(principals=[b"*"]), Flaw.PRINCIPALS),
    "another case": (certificate(principals=[b"Alice"]), Flaw.PRINCIPALS),
    "a common account": (certificate(principals=[b"root"]), Flaw.PRINCIPALS),
    "look-alike letters": (certificate(principals=["аlice".encode()]), Flaw.MALFORMED),
    "a NUL in the principal": (certificate(principals=[b"alice\0x"]), Flaw.MALFORMED),
    "a new line in the principal": (certificate(principals=[b"alice\nbob"]), Flaw.MALFORMED),
    "300 principals": (certificate(principals=[b"p%d" % number for number in range(300)]), Flaw.MALFORMED),
    # type
    "a host certificate": (certificate(kind=2), Flaw.NOT_USER),
    "no type": (certificate(kind=0), Flaw.NOT_USER),
    "type 257": (certificate(kind=257), Flaw.NOT_USER),
    # authority
    "another authority": (certificate(ca=OTHER), Flaw.UNTRUSTED),
    "signed by its own key": (certificate(ca=KEY), Flaw.UNTRUSTED),
    "the authority's name, another's signature": (certificate(ca=OTHER, ca_blob=CA.public.blob), Flaw.SIGNATURE),
    "the authority's own key certified": (certificate(key=fields_of(CA)), Flaw.UNTRUSTED),
    "CVE-2025-49825: the authority is a certificate": (NESTED, Flaw.MALFORMED),
    "the authority is a DSA key": (
        certificate(ca_blob=string("ssh-dss") + string(b"p") + string(b"q") + string(b"g") + string(b"y")),
        Flaw.MALFORMED,
    ),
    "the authority is a short RSA key": (certificate(ca_blob=rsa_blob(b"\1\0\1", RSA_NUMBERS)), Flaw.MALFORMED),
    "the authority is nothing": (certificate(ca_blob=string("")), Flaw.MALFORMED),
    # signature
    "an altered field": (certificate().replace(b"alice laptop", b"malic laptop"), Flaw.SIGNATURE),
    "a signature of nothing": (certificate(signature=string("ssh-ed25519") + string(b"\0" * 64)), Flaw.SIGNATURE),
    "a signature of no algorithm": (certificate(signature=string("none") + string(b"")), Flaw.SIGNATURE),
    "a signature under ssh-rsa": (certificate(signature=string("ssh-rsa") + string(b"\0" * 64)), Flaw.SIGNATURE),
    "a certificate's name as signature algorithm": (
        certificate(signature=string("ssh-ed25519-cert-v01@openssh.com") + string(b"\0" * 64)),
        Flaw.SIGNATURE,
    ),
    # time
    "expired": (certificate(after=NOW - 7200, before=NOW - 1), Flaw.EXPIRED),
    "ends this second": (certificate(before=NOW), Flaw.EXPIRED),
    "not yet valid": (certificate(after=NOW + 1, before=NOW + 60), Flaw.NOT_YET),
    "ends before it begins": (certificate(after=NOW + 60, before=NOW - 60), Flaw.EXPIRED),
    "for ever": (certificate(after=0, before=2**64 - 1), Flaw.TOO_LONG),
    "for a week": (certificate(before=NOW + 7 * 86400), Flaw.TOO_LONG),
    # options
    "an unknown critical option": (certificate(critical=[(b"x@example.org", b"")]), Flaw.OPTIONS),
    "a critical option twice, last one wide": (
        certificate(critical=[(b"source-address", string("192.0.2.10")), (b"source-address", string("0.0.0.0/0"))]),
        Flaw.OPTIONS,
    ),
    "critical options out of order": (
        certificate(critical=[(b"source-address", string("192.0.2.10")), (b"force-command", string("id"))]),
        Flaw.OPTIONS,
    ),
    "an extension twice": (certificate(extensions=[(b"permit-pty", b"")] * 2), Flaw.OPTIONS),
    "extensions out of order": (
        certificate(extensions=[(b"permit-pty", b""), (b"permit-agent-forwarding", b"")]),
        Flaw.OPTIONS,
    ),
    "x/crypto b9229ec: an empty source-address": (
        certificate(critical=[(b"source-address", string(""))]),
        Flaw.OPTIONS,
    ),
    "a source-address without a string": (certificate(critical=[(b"source-address", b"")]), Flaw.OPTIONS),
    "a source-address with an empty word": (
        certificate(critical=[(b"source-address", string("10.0.0.1,,192.0.2.10"))]),
        Flaw.OPTIONS,
    ),
    "a source-address that is a name": (certificate(critical=[(b"source-address", string("host"))]), Flaw.OPTIONS),
    "a negated source-address": (certificate(critical=[(b"source-address", string("!10.0.0.1"))]), Flaw.OPTIONS),
    "a source-address with host bits": (
        certificate(critical=[(b"source-address", string("192.0.2.10/8"))]),
        Flaw.OPTIONS,
    ),
    "from another address": (certificate(critical=[(b"source-address", string("10.0.0.0/8"))]), Flaw.SOURCE),
    "an empty force-command": (certificate(critical=[(b"force-command", string(""))]), Flaw.OPTIONS),
    "a force-command of blanks": (certificate(critical=[(b"force-command", string("  "))]), Flaw.OPTIONS),
    "a force-command with an escape": (certificate(critical=[(b"force-command", string("\x1b[2J"))]), Flaw.MALFORMED),
    "a force-command with two strings": (
        certificate(critical=[(b"force-command", string("id") + string("rm"))]),
        Flaw.MALFORMED,
    ),
    "verify-required for a key that cannot": (certificate(critical=[(b"verify-required", b"")]), Flaw.OPTIONS),
    "an extension with a value": (certificate(extensions=[(b"permit-pty", string("yes"))]), Flaw.OPTIONS),
    "an option without a name": (certificate(critical=[(b"", b"")]), Flaw.OPTIONS),
    "an extension without a name": (certificate(extensions=[(b"", b"")]), Flaw.OPTIONS),
    "70 extensions": (certificate(extensions=[(b"e%02d" % number, b"") for number in range(70)]), Flaw.MALFORMED),
    # form
    "a plain algorithm name": (certificate(name=b"ssh-ed25519"), Flaw.MALFORMED),
    "another key type's name": (certificate(name=b"ssh-rsa-cert-v01@openssh.com"), Flaw.MALFORMED),
    "an unknown version": (certificate(name=b"ssh-ed25519-cert-v02@openssh.com"), Flaw.MALFORMED),
    "a reserved field": (certificate(reserved=b"x"), Flaw.MALFORMED),
    "bytes behind": (certificate(tail=b"\0"), Flaw.MALFORMED),
    "cut short": (certificate()[:-1], Flaw.MALFORMED),
    "a certified DSA key": (certificate(name=b"ssh-dss-cert-v01@openssh.com"), Flaw.MALFORMED),
    "a certified short RSA key": (
        certificate(name=b"ssh-rsa-cert-v01@openssh.com", key=rsa_blob(b"\1\0\1", RSA_NUMBERS)[11:]),
        Flaw.MALFORMED,
    ),
    "a certified point off its curve": (
        certificate(
            name=b"ecdsa-sha2-nistp256-cert-v01@openssh.com",
            key=ecdsa_blob("nistp256", b"\x04" + b"\x01" * 64)[len(string("ecdsa-sha2-nistp256")) :],
        ),
        Flaw.MALFORMED,
    ),
    "a key id with an escape": (certificate(key_id=b"\x1b]52;c;x"), Flaw.MALFORMED),
    "17 KiB": (certificate(key_id=b"x" * 17000), Flaw.MALFORMED),
    "nothing": (b"", Flaw.MALFORMED),
    "a plain key": (KEY.public.blob, Flaw.MALFORMED),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case):
    blob, flaw = HOSTILE[case]
    found = judge(blob)
    assert isinstance(found, Rejected), found
    assert found.flaw is flaw, found
    assert found.detail.isascii()
    assert found.detail.isprintable()


def test_there_are_enough_of_them():
    assert len(HOSTILE) >= 45


def test_for_another_person():
    found = judge(certificate(), claim="bob")
    assert isinstance(found, Rejected)
    assert found.flaw is Flaw.WRONG_PERSON
    both = judge(certificate(principals=[b"alice", b"bob"]), claim="bob")
    assert isinstance(both, Speaker)
    assert both.person == "bob"


def test_a_principal_that_stands_twice_is_refused_to_everybody():
    found = judge(certificate(principals=[b"alice", b"alice"]), claim="alice")
    assert isinstance(found, Rejected)
    assert "twice" in found.detail


@pytest.mark.parametrize("value", ["", "10.0.0.1,,192.0.2.10", ",", "192.0.2.10,"])
def test_a_source_address_with_an_empty_word_is_empty(value):
    """x/crypto b9229ec: an empty list meant everywhere."""
    found = judge(certificate(critical=[(b"source-address", string(value))]))
    assert isinstance(found, Rejected)
    assert found.detail == "option `source-address` is empty"


def test_lists_have_an_end():
    many = [b"p%d" % number for number in range(certificates.MAX_PRINCIPALS + 1)]
    with pytest.raises(BadKey, match="more than 256 principals"):
        certificates.parse_certificate(certificate(principals=many))
    assert len(certificates.parse_certificate(certificate(principals=many[1:])).principals) == 256
    options = [(b"e%03d" % number, b"") for number in range(certificates.MAX_OPTIONS + 1)]
    with pytest.raises(BadKey, match="more than 64"):
        certificates.parse_certificate(certificate(extensions=options))
    with pytest.raises(BadKey, match="want at most"):
        certificates.parse_certificate(certificate(key_id=b"x" * 17000))


def test_a_plain_key_is_no_certificate():
    with pytest.raises(BadKey, match="a plain key stands where a certificate is wanted"):
        certificates.parse_certificate(KEY.public.blob)


def test_revoked():
    for name, gone in (("ca", CA.public.fingerprint), ("key", KEY.public.fingerprint)):
        found = judge(certificate(), revoked=lambda ca, _serial, key, gone=gone: gone in (ca, key))
        assert isinstance(found, Rejected), name
        assert found.flaw is Flaw.REVOKED


def test_no_trusted_authority():
    assert isinstance(judge(certificate(), trusted=set()), Rejected)


def test_limits_that_are_kept():
    found = judge(
        certificate(critical=[(b"force-command", string("backup.sh")), (b"source-address", string("192.0.2.0/24"))])
    )
    assert isinstance(found, Speaker)
    assert found.force_command == "backup.sh"
    bare = judge(certificate(extensions=[]))
    assert isinstance(bare, Speaker)
    assert ChannelKind.SHELL in bare.withheld
    assert ChannelKind.EXEC not in bare.withheld


@pytest.mark.parametrize("source", ["192.0.2.10", "::ffff:192.0.2.10"])
def test_a_mapped_address_is_the_address(source):
    assert isinstance(judge(certificate(critical=[(b"source-address", string("192.0.2.10"))]), source=source), Speaker)


@given(st.data())
def test_any_flipped_byte_is_refused(data):
    blob = bytearray(certificate())
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    assert isinstance(judge(bytes(blob)), Rejected)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_without_a_fault(data):
    assert isinstance(judge(data), Rejected)
    assert isinstance(judge(string("ssh-ed25519-cert-v01@openssh.com") + data), Rejected)


# --- those we mint ----------------------------------------------------------------------------------------


def test_ssh_keygen_reads_what_we_mint(tmp_path: Path):
    blob = certificates.mint_user_certificate(
        CA, KEY.public, principals=["root"], key_id="bastion:alice:" + "0" * 32, serial=9, now=NOW, minutes=5,
        kinds=[ChannelKind.SHELL, ChannelKind.FORWARD_LOCAL], source="192.0.2.1",
    )  # fmt: skip
    import base64

    (tmp_path / "c.pub").write_text(f"ssh-ed25519-cert-v01@openssh.com {base64.b64encode(blob).decode()}\n")
    said = subprocess.run(["ssh-keygen", "-Lf", tmp_path / "c.pub"], capture_output=True, text=True, check=True).stdout
    for wanted in (
        "user certificate",
        "bastion:alice:",
        "root",
        "source-address 192.0.2.1",
        "permit-pty",
        "permit-port",
    ):
        assert wanted in said
    for unwanted in ("permit-agent", "permit-X11", "permit-user-rc"):
        assert unwanted not in said


def test_a_minted_certificate_permits_what_was_granted():
    def mint(*kinds):
        blob = certificates.mint_user_certificate(
            CA,
            KEY.public,
            principals=["root"],
            key_id="bastion:alice:" + "0" * 32,
            serial=9,
            now=NOW,
            minutes=5,
            kinds=kinds,
        )
        return certificates.parse_certificate(blob)

    bare = mint(ChannelKind.SFTP)
    assert bare.extensions == ()
    assert (bare.valid_after, bare.valid_before) == (NOW - certificates.BACKDATE, NOW + 300)
    assert [name for name, _ in mint(ChannelKind.FORWARD_SOCKET).extensions] == ["permit-port-forwarding"]
    assert [name for name, _ in mint(ChannelKind.X11, ChannelKind.AGENT).extensions] == [
        "permit-X11-forwarding", "permit-agent-forwarding",
    ]  # fmt: skip


def test_nothing_is_minted_for_a_security_key():
    """It signs with somebody's finger, so it is not the gateway's own."""
    raw = KEY.public.blob[len(string("ssh-ed25519")) :]
    key = parse_public_key(string("sk-ssh-ed25519@openssh.com") + raw + string("ssh:"))
    with pytest.raises(BadKey, match="own keys only"):
        certificates.mint_host_certificate(CA, key, target="web1", serial=1, now=NOW, hours=1)


def test_a_minted_host_certificate_is_none_for_a_user():
    blob, seconds = certificates.mint_host_certificate(CA, KEY.public, target="web1", serial=1, now=NOW, hours=24)
    assert seconds == 24 * 3600
    assert isinstance(judge(blob), Rejected)
    found = certificates.parse_certificate(blob)
    assert (found.kind, found.principals) == (certificates.HOST, ("web1",))


def test_nothing_is_minted_for_everybody():
    with pytest.raises(BadKey, match="principal"):
        certificates.mint_host_certificate(CA, KEY.public, target="", serial=1, now=NOW, hours=1)


def test_a_ca_is_never_a_certificate():
    with pytest.raises(BadKey):
        parse_public_key(Certificate().blob)
