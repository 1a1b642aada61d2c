"""Codes, confirmations and invitations in the database: once is once."""

from pathlib import Path

import pytest

from policy import store
from policy.mfa import codes
from policy.records import Code, Invitation
from policy.store import Conflict
from tests.policy.sealed import sealed_rows

NOW = 1_800_000_000_000_000_000


@pytest.fixture
def made(tmp_path: Path):
    database = store.create("sqlite:///bastion.db", tmp_path)
    with database.write() as t:
        t.add_person("alice", NOW)
        t.add_person("bob", NOW)
    yield database
    database.close()


def code(ident, person="alice", expires=None, kind=codes.RECOVERY):
    return Code(id=ident, person=person, kind=kind, mac=b"m" * 32, created=NOW, expires=expires)


def test_a_code_is_used_once(made):
    with made.write() as t:
        t.proofs.replace_codes("alice", codes.RECOVERY, [code("1"), code("2")])
        assert t.proofs.use_code("1", NOW)
        assert not t.proofs.use_code("1", NOW)
        assert [one.id for one in t.proofs.codes("alice")] == ["2"]
        assert not t.proofs.use_code("nothing", NOW)


def test_a_code_expires(made):
    with made.write() as t:
        t.proofs.replace_codes("alice", codes.ISSUED, [code("1", expires=NOW + 5, kind=codes.ISSUED)])
        assert not t.proofs.use_code("1", NOW + 5)
        assert t.proofs.use_code("1", NOW + 4)


def test_new_codes_make_the_old_void_and_no_others(made):
    with made.write() as t:
        t.proofs.replace_codes("alice", codes.RECOVERY, [code("1")])
        t.proofs.replace_codes("alice", codes.ISSUED, [code("2", kind=codes.ISSUED)])
        t.proofs.replace_codes("bob", codes.RECOVERY, [code("3", "bob")])
        t.proofs.replace_codes("alice", codes.RECOVERY, [code("4")])
        assert {one.id for one in t.proofs.codes()} == {"2", "3", "4"}
        assert {one.id for one in t.persons("alice")[0].codes} == {"2", "4"}


def test_confirmed_once(made):
    with made.write() as t:
        t.proofs.add_authenticator("alice", *sealed_rows("a", "totp", "totp alice a"), confirmed=False)
        assert t.persons("alice")[0].totp[0].confirmed is None
        assert t.proofs.confirm("a", NOW + 1)
        assert not t.proofs.confirm("a", NOW + 2)
        t.proofs.drop_unconfirmed("alice")
        assert t.persons("alice")[0].totp[0].confirmed == NOW + 1
        assert not t.proofs.remove_authenticator("bob", "a"), "somebody else's"
        assert t.proofs.remove_authenticator("alice", "a")


def test_an_invitation_is_used_once_and_in_time(made):
    with made.write() as t:
        t.proofs.add_invitation(Invitation(token=b"1", person="alice", made=NOW, made_by="ada", expires=NOW + 5))
        t.proofs.add_invitation(Invitation(token=b"2", person="bob", made=NOW, made_by="ada", expires=NOW + 5))
        assert not t.proofs.use_invitation(b"1", NOW + 5)
        assert t.proofs.use_invitation(b"1", NOW + 4)
        assert not t.proofs.use_invitation(b"1", NOW + 4)
        assert t.proofs.invitation(b"1") is None
        assert t.proofs.invitation(b"2")
        t.proofs.add_invitation(Invitation(token=b"3", person="bob", made=NOW, made_by="ada", expires=NOW + 5))
        assert t.proofs.invitation(b"2") is None, "the newer one took its place"


def test_a_key_is_one_person_s(made):
    with made.write() as t:
        assert not t.proofs.has_key("alice")
        t.proofs.add_key("alice", "SHA256:x", "line", NOW)
        assert t.proofs.has_key("alice")
        with pytest.raises(Conflict), t.nested():
            t.proofs.add_key("bob", "SHA256:x", "line", NOW)


def test_codes_read_as_people_type_them():
    shown = codes.new_code(bytes(range(7)))
    assert codes.plain(shown.upper().replace("-", " - ")) == shown.replace("-", "")
    assert codes.plain("0oO1lL8bB2") == "ooolllbbb2"
    for wrong in ("", "123456", shown[:-1], shown + "a", "ä" * 10, "abcde-fghi!"):
        assert codes.plain(wrong) == ""
    with pytest.raises(ValueError, match="entropy"):
        codes.new_code(b"short")


def test_a_code_of_one_person_is_none_of_another():
    kept = codes.mac(b"k", "alice", "abcdefghij")
    assert codes.matches(kept, b"k", "alice", "abcdefghij")
    assert not codes.matches(kept, b"k", "bob", "abcdefghij")
    assert not codes.matches(kept, b"other", "alice", "abcdefghij")
