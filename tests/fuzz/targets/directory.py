"""What a directory answers: bytes to the courier, entries to policyd."""

from bastion.courier.ber import BadAnswer, first_message
from bastion.courier.ldap import decoded
from policy.ldap.judging import read
from policy.ldap.model import DirectoryProblem
from policy.ldap.planning import plan
from policy.names import check_person_name
from tests.fuzz.registry import target
from tests.policy.ldap.test_ldap import DBA, NOW, OPS, directory, entry

DIRECTORY = directory('keys = "sshPublicKey"')
BOUND = bytes.fromhex("300c 020101 6107 0a0100 0400 0400")
FOUND = bytes.fromhex("3023 020102 641e 0405 7569643d78 3015 3013 0403 756964 310c 0405 616c696365 0403 626f62")
DONE = (
    bytes.fromhex("3030 020102 6507 0a0100 0400 0400 a022 3020 0416")
    + b"1.2.840.113556.1.4.319"
    + (bytes.fromhex("0406 3004 020100 0400")[:6])
)


@target("ldap-messages", errors=(BadAnswer,), samples=(BOUND, FOUND, DONE, BOUND + FOUND, b"\x30\x84\x00\x00\x00\x00"))
def ldap_messages(raw: bytes) -> None:
    """The decoder gets what the cutter lets through, and raises what the courier expects of it."""
    from sansldap import LDAPClient

    size = first_message(raw)
    assert 0 <= size <= len(raw)
    client = LDAPClient()
    client.bind_simple("cn=x", "y")
    client.data_to_send()
    if size:
        decoded(client, raw[:size])


@target(
    "ldap-entries", errors=(DirectoryProblem,), samples=(b"alice\0id\0ssh-ed25519 AAAA\x00512\0-1", b"\xd0\xb0lice\0i")
)
def ldap_entries(raw: bytes) -> None:
    """Values as a directory sends them: nobody has a name that is none, and no person of here is touched."""
    name, ident, key, control, shadow, *_ = [*raw.split(b"\0"), b"", b"", b"", b"", b""]
    one = entry(name, entryUUID=[ident], sshPublicKey=[key], userAccountControl=[control], shadowExpire=[shadow])
    found, refused = read(DIRECTORY, [one, entry("bob")], {DBA: [one], OPS: []}, NOW)
    assert len(found) + len(refused) == 2
    for person in found.values():
        assert check_person_name(person.name) == person.name
    for step in plan(DIRECTORY, found, refused, [], {}).steps:
        assert step.new
