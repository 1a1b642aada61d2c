"""A directory as source of persons: its settings, what it is asked, who its entries are, and what a sync changes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.keys.sshkeys import generate_private_key
from policy.ldap import asking
from policy.ldap.judging import read
from policy.ldap.model import Directory, DirectoryProblem, Entry, Found, Groups, Refused
from policy.ldap.planning import DIRECTORY, Plan, loss, plan
from policy.ldap.settings import search_filter
from policy.messages import Called
from policy.records import DirectoryEntry, Person, PersonKey
from policy.rules.ruleset import BadRules, parse_rules

SETTINGS = """
url      = "ldaps://ldap.example.org"
bind     = "cn=bastion,dc=example,dc=org"
password = "file:ldap.password"
base     = "ou=people,dc=example,dc=org"
"""
ROLES = """
[directory.roles]
"cn=dba,ou=groups,dc=example,dc=org" = "dba"
"cn=ops,ou=groups,dc=example,dc=org" = "ops"
"""
DBA, OPS = "cn=dba,ou=groups,dc=example,dc=org", "cn=ops,ou=groups,dc=example,dc=org"
NOW = 1_800_000_000.0  # 2027-01-15


def directory(more: str = "", roles: str = ROLES) -> Directory:
    found = parse_rules(f"[directory]{SETTINGS}{more}\n{roles}").directory
    assert found is not None
    return found


def problems(text: str) -> str:
    with pytest.raises(BadRules) as caught:
        parse_rules(text)
    return str(caught.value)


# --- settings ---------------------------------------------------------------------------------------


def test_settings() -> None:
    found = directory()
    assert (found.name, found.ident, found.groups, found.most) == ("uid", "entryUUID", Groups.MEMBER_OF, 0.2)
    assert found.roles == ((DBA, "dba"), (OPS, "ops"))
    assert (found.host, found.keys, found.passwords, found.every) == ("ldap.example.org", "", False, 900)
    found = directory('kind = "ad"\npasswords = true\nkeys = "altSecurityIdentities"\nmost = "5%"\nevery = "1h"')
    assert (found.name, found.ident, found.groups, found.most) == ("sAMAccountName", "objectGUID", Groups.NESTED, 0.05)
    assert parse_rules("").directory is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SETTINGS.replace("ldaps:", "http:"), "want `ldaps://HOST[:PORT]`"),
        (SETTINGS.replace("ldap.example", "user:pw@ldap.example"), "want `ldaps://HOST[:PORT]`"),
        (SETTINGS.replace("file:ldap.password", "hunter2"), "want `file:PATH`"),
        (SETTINGS.replace('base     = "ou=people', 'base = "/people'), "want a name like `ou=people"),
        (SETTINGS + 'filter = "(a=b)(c=d)"', "want one filter"),
        (SETTINGS + 'filter = "(a=b))(|(c=d)"', "want one filter"),
        (SETTINGS + 'name = "uid)(x"', "want an attribute"),
        (SETTINGS + 'nmae = "uid"', "did you mean `name`"),
        (SETTINGS + 'most = "0%"', "want something like `20%`"),
        (SETTINGS + 'every = "1s"', "at least `1m`"),
        (SETTINGS + "seconds = 0", "want 1 to 30"),
        (SETTINGS + 'groups = "all"', "want one of memberOf, nested, member"),
        (SETTINGS + '[directory.roles]\n"dba" = "dba"', "want a name like"),
        (SETTINGS + f'[directory.roles]\n"{DBA}" = "*"', "role `*`"),
        ('url = "ldaps://x"', "missing"),
    ],
)
def test_settings_that_are_wrong(text: str, said: str) -> None:
    assert said in problems(f"[directory]\n{text}")
    assert "hunter2" not in problems(f"[directory]\n{text}")


def test_a_group_of_the_directory_makes_no_administrators() -> None:
    """Attack: who may write to one group elsewhere makes themselves master of the bastion."""
    roles = f'[directory.roles]\n"{DBA}" = "root"\n'
    rights = '[rights]\nadminister = ["root"]\n'
    assert "gives the right `administer`" in problems(f"{rights}[directory]{SETTINGS}{roles}")
    assert parse_rules(f"{rights}[directory]{SETTINGS}administer = true\n{roles}").directory is not None
    assert "gives the right" in problems(f'[directory]{SETTINGS}[directory.roles]\n"{DBA}" = "admin"')


# --- what is asked ----------------------------------------------------------------------------------


def test_what_is_put_into_a_filter_stays_a_value() -> None:
    """LDAP injection (RFC 4515 section 3): `*` is everybody, and `)(` another filter."""
    assert asking.escaped("a*b(c)\\d\0") == r"a\2ab\28c\29\5cd\00"
    assert asking.escaped("é ") == r"\c3\a9\20"
    assert asking.one(directory(), "alice").filter == "(&(objectClass=inetOrgPerson)(uid=alice))"
    assert asking.one(directory(), "*)(uid=*").filter == r"(&(objectClass=inetOrgPerson)(uid=\2a\29\28uid=\2a))"


@given(st.text(max_size=60))
def test_escaped_values_come_back_as_they_were(text: str) -> None:
    from sansldap import FilterEquality, LDAPFilter

    parsed = LDAPFilter.from_string(f"(uid={asking.escaped(text)})")
    assert parsed == FilterEquality(attribute="uid", value=text.encode()) if text else True


def test_how_groups_are_asked_for() -> None:
    assert f"(memberOf={asking.escaped(DBA)})" in asking.members(directory(), DBA).filter
    nested = asking.members(directory('groups = "nested"'), DBA)
    assert f"(memberOf:1.2.840.113556.1.4.1941:={asking.escaped(DBA)})" in nested.filter
    member = asking.members(directory('groups = "member"'), DBA)
    assert (member.base, member.attributes) == (DBA, ("member", "uniqueMember", "memberUid"))


def test_an_empty_password_is_never_asked_about() -> None:
    """RFC 4513 section 5.1.2: servers answer it with success."""
    for dn, password in (("uid=a", b""), ("", b"x")):
        with pytest.raises(DirectoryProblem, match="empty password"):
            asking.password_call(directory(), dn, password, trust="")


def test_half_an_answer_is_none() -> None:
    asking.check_answer(Called(task=1))
    for called, said in (
        (Called(task=1, error="gave no answer in time"), "gave no answer in time"),
        (Called(task=1, status=4), "only a part"),
        (Called(task=1, status=3), "only a part"),
        (Called(task=1, status=11), "only a part"),
        (Called(task=1, status=10), "refers to another server"),
        (Called(task=1, status=49), "does not accept the name and password"),
        (Called(task=1, status=80), "code 80"),
    ):
        with pytest.raises(DirectoryProblem, match=said):
            asking.check_answer(called)


def test_filters_of_the_settings() -> None:
    for good in ("(a=b)", "(&(a=b)(!(c=d)))", r"(a=\28)"):
        assert search_filter(good) == good
    for bad in ("", "a=b", "(a=b", "a=b)", "(a=b)(c=d)", "()) (", "(a=b)x"):
        with pytest.raises(ValueError, match="want one filter"):
            search_filter(bad)


# --- who an entry is --------------------------------------------------------------------------------


def entry(name: str | bytes = "alice", **values: str | bytes | list[bytes]) -> Entry:
    raw = name.encode() if isinstance(name, str) else name
    ident = values.pop("entryUUID", f"id-of-{raw.decode('latin-1').lower()}")
    shown: dict[str, list[bytes]] = {"uid": [raw]}
    for key, value in {**values, "entryUUID": ident}.items():
        shown[key] = value if isinstance(value, list) else [value.encode() if isinstance(value, str) else value]
    return f"uid={raw.decode('latin-1')},ou=people,dc=example,dc=org", shown


def persons(*entries: Entry, settings: str = "", **groups: Any) -> tuple[dict[str, Found], list[Refused]]:
    told = {DBA: groups.get("dba", []), OPS: groups.get("ops", [])}
    return read(directory(settings), entries, told, NOW)


def test_persons_and_their_roles() -> None:
    found, refused = persons(entry("Alice"), entry("bob"), dba=[entry("Alice")], ops=[entry("Alice"), entry("carl")])
    assert refused == []
    assert {name: one.roles for name, one in found.items()} == {"alice": {"dba", "ops"}, "bob": set()}


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (entry("аlice"), "is not made of"),  # a Cyrillic letter
        (entry("ａlice"), "did you mean `alice`"),  # a wide one
        (entry("Kelvin\u212a"), "is not made of"),  # lower() makes an ASCII k of it
        (entry("root"), "common account"),
        (entry("Administrator"), "common account"),
        (entry("a b"), "is not made of"),
        (entry("../x"), "is not made of"),
        (entry(""), "is empty"),
        (entry("x" * 65), "65 characters"),
        (entry(b"\xff\xfe"), "is no text"),
        (entry("\x1b[2J"), "cannot be printed"),
        (entry(uid=[]), "0 values of `uid`"),
        (entry(uid=[b"alice", b"bob"]), "2 values of `uid`"),
        (entry(entryUUID=[]), "0 values of `entryUUID`"),
        (entry(entryUUID="x" * 65), "its id is no id"),
    ],
)
def test_entries_that_are_nobody(one: Entry, why: str) -> None:
    found, refused = persons(one, entry("bob"))
    assert [*found] == ["bob"]
    assert why in refused[0].why


def test_two_entries_of_one_name_are_nobody() -> None:
    other = ("uid=alice,ou=guests,dc=example,dc=org", entry("ALICE", entryUUID="id-2")[1])
    found, refused = persons(entry("alice"), other, entry("bob"))
    assert [*found] == ["bob"]
    assert {one.why for one in refused} == {"another entry has the same name, `alice`"}
    found, _ = persons(entry("alice", entryUUID="same"), entry("bob", entryUUID="same"))
    assert found == {}


@pytest.mark.parametrize(
    ("values", "disabled"),
    [
        ({}, ""),
        ({"userAccountControl": "512"}, ""),
        ({"userAccountControl": "514"}, "userAccountControl"),
        ({"userAccountControl": "66050"}, "userAccountControl"),
        ({"userAccountControl": "none"}, "cannot be read"),
        ({"userAccountControl": [b"512", b"514"]}, "cannot be read"),
        ({"nsAccountLock": "TRUE"}, "nsAccountLock"),
        ({"nsAccountLock": "false"}, ""),
        ({"shadowExpire": "-1"}, ""),
        ({"shadowExpire": str(int(NOW // 86400) + 1)}, ""),
        ({"shadowExpire": str(int(NOW // 86400))}, "shadowExpire"),
        ({"shadowExpire": "1"}, "shadowExpire"),
        ({"accountExpires": "0"}, ""),
        ({"accountExpires": "9223372036854775807"}, ""),
        ({"accountExpires": str(int((NOW + 11644473600 + 60) * 10_000_000))}, ""),
        ({"accountExpires": str(int((NOW + 11644473600 - 60) * 10_000_000))}, "accountExpires"),
        ({"pwdAccountLockedTime": "000001010000Z"}, "pwdAccountLockedTime"),
        ({"pwdAccountLockedTime": "20270101000000Z"}, ""),  # after wrong passwords, which anybody can send
    ],
)
def test_disabled_accounts(values: dict[str, Any], disabled: str) -> None:
    found, _ = persons(entry(**values))
    assert disabled in found["alice"].disabled
    assert bool(found["alice"].disabled) is bool(disabled)


def test_keys_are_judged_one_by_one() -> None:
    good = [generate_private_key().public.line(f"key {number}").encode() for number in range(40)]
    bad = [b"", b"\xff", b"ssh-ed25519 AAAA", b'command="x" ' + good[0], b"ssh-dss AAAA"]
    found, _ = persons(entry(sshPublicKey=[*bad, good[0], good[0]]), settings='keys = "sshPublicKey"')
    assert [line for _, line in found["alice"].keys] == [good[0].decode()]
    found, _ = persons(entry(sshPublicKey=good), settings='keys = "sshPublicKey"')
    assert len(found["alice"].keys) == 32
    found, _ = persons(entry(sshPublicKey=good))
    assert found["alice"].keys == ()  # keys that were not asked for


def test_groups_that_list_their_members() -> None:
    group: Entry = (
        DBA.upper().replace(",", " , "),
        {"member": [b"UID=alice, OU=people, DC=example, DC=org"], "memberUid": [b"bob"], "uniqueMember": []},
    )
    more: Entry = (group[0], {"member": [b"uid=carl,ou=people,dc=example,dc=org"]})  # a large one comes in parts
    ops: Entry = (OPS, {})
    found, _ = persons(
        entry("alice"), entry("bob"), entry("carl"), entry("dan"), settings='groups = "member"', dba=[group, more],
        ops=[ops],
    )  # fmt: skip
    assert {name for name, one in found.items() if one.roles} == {"alice", "bob", "carl"}
    with pytest.raises(DirectoryProblem, match="has no group `cn=ops"):
        persons(entry("alice"), settings='groups = "member"', dba=[group])


def test_the_address_is_the_first_that_is_one() -> None:
    bad = [b"", b"\xff@x", b"a@b, c@d", b"a@b\nBcc: c@d", "älice@example.org".encode()]
    told = entry(mail=[*bad, b"b@example.org", b"a@example.org"])
    assert persons(told, settings='mail = "mail"')[0]["alice"].mail == "a@example.org"
    assert persons(entry(mail=bad), settings='mail = "mail"')[0]["alice"].mail == ""
    assert persons(told)[0]["alice"].mail == "", "an address that was not asked for"
    assert "mail" in asking.persons(directory('mail = "mail"')).attributes


# --- what a sync changes ----------------------------------------------------------------------------


def found(name: str, **more: Any) -> Found:
    return Found(name=name, dn=f"uid={name}", ident=more.pop("ident", f"id-of-{name}"), **more)


def remembered(name: str, **more: Any) -> DirectoryEntry:
    return DirectoryEntry(person=name, dn=f"uid={name}", ident=more.pop("ident", f"id-of-{name}"), **more)


def theirs(name: str, **more: Any) -> Person:
    return Person(name=name, origin=DIRECTORY, **more)


def planned(
    there: list[Found], here: list[Person], entries: list[DirectoryEntry] | None = None, settings: str = ""
) -> Plan:
    """`entries`: what is remembered; left out: of each person of the directory, as it is."""
    if entries is None:
        entries = [remembered(one.name, roles=one.roles) for one in here if one.origin == DIRECTORY]
    return plan(
        directory(settings), {one.name: one for one in there}, [], here, {entry.person: entry for entry in entries}
    )


def test_who_comes_and_who_stays() -> None:
    key = ("SHA256:x", "ssh-ed25519 x")
    wanted = planned([found("alice", roles=frozenset({"dba"}), keys=(key,)), found("bob")], [theirs("bob")])
    (step,) = wanted.steps
    assert (step.name, step.kind, step.add_roles, step.add_keys) == ("alice", "add", ("dba",), (key,))
    assert planned([found("bob")], [theirs("bob")]).steps == ()
    assert planned([found("new", disabled="why")], []).steps == ()


@pytest.mark.parametrize("there", [[], [found("alice", disabled="userAccountControl says disabled")]])
def test_who_leaves_is_disabled(there: list[Found]) -> None:
    (step,) = planned(there, [theirs("alice", roles=frozenset({"dba"}))]).steps
    assert (step.name, step.disable, step.entry.held, step.remove_roles) == ("alice", True, True, ())
    assert planned(there, [theirs("alice", disabled=True)]).steps == ()


def test_who_comes_back_is_enabled_unless_it_was_done_by_hand() -> None:
    gone = theirs("alice", disabled=True)
    (step,) = planned([found("alice")], [gone], [remembered("alice", held=True)]).steps
    assert (step.kind, step.disable, step.entry.held) == ("enable", False, False)
    assert planned([found("alice")], [gone], [remembered("alice", held=False)]).steps == ()


@pytest.mark.parametrize(
    ("settings", "there", "here", "mail"),
    [
        ('mail = "mail"', "a@example.org", "", "a@example.org"),
        ('mail = "mail"', "a@example.org", "b@example.org", "a@example.org"),
        ('mail = "mail"', "", "a@example.org", ""),
        ('mail = "mail"', "a@example.org", "a@example.org", None),
        ("", "", "a@example.org", None),
    ],
)
def test_the_address_follows_the_directory(settings: str, there: str, here: str, mail: str | None) -> None:
    steps = planned([found("alice", mail=there)], [theirs("alice", mail=here)], settings=settings).steps
    assert [step.mail for step in steps] == ([] if mail is None else [mail])
    (new,) = planned([found("bob", mail=there)], [], settings=settings).steps
    assert new.mail == (there or None)


def test_persons_of_here_are_never_taken_over() -> None:
    """Attack: an entry named like an administrator of this bastion, with the attacker's key."""
    wanted = planned([found("sam", keys=(("SHA256:x", "x"),))], [Person(name="sam", roles=frozenset({"admin"}))])
    assert wanted.steps == ()
    assert "made here" in wanted.refused[0].why
    assert planned([], [Person(name="sam")], [remembered("sam")]).steps == ()  # nor disabled


def test_a_name_is_never_given_to_another_person() -> None:
    wanted = planned([found("alice", ident="another")], [theirs("alice")])
    assert [(step.kind, step.name) for step in wanted.steps] == [("disable", "alice")]
    assert "another entry before" in wanted.refused[0].why
    wanted = planned([found("alice")], [theirs("alice", disabled=True, offboarded=1)])
    assert wanted.steps == ()
    assert ["was offboarded" in one.why for one in wanted.refused] == [True]


def test_look_alikes_are_nobody() -> None:
    """Attack: `a1ice` asks for leave, and an approver who knows alice reads what they expect."""
    for name in ("a1ice", "al.ice", "alice_"):
        wanted = planned([found(name), found("bob")], [Person(name="alice", disabled=True, offboarded=1)])
        assert [step.name for step in wanted.steps] == ["bob"]
        assert "looks like" in wanted.refused[0].why
    assert planned([found("j.smith"), found("jsmith")], []).steps == ()
    assert planned([found("j.smith"), found("jsmith")], [theirs("jsmith")]).steps == ()


def test_only_what_came_from_there_is_taken_back() -> None:
    mine = theirs("alice", roles=frozenset({"dba", "ops", "own"}), keys=(PersonKey(fingerprint="k", line="k"),))
    (step,) = planned([found("alice")], [mine], [remembered("alice", roles=frozenset({"dba"}))]).steps
    assert (step.remove_roles, step.remove_keys, step.entry.roles) == (("dba",), (), frozenset())
    (step,) = planned([found("alice")], [mine], [remembered("alice", keys=frozenset({"k"}))]).steps
    assert step.remove_keys == ("k",)
    # a role of here that the directory gives as well stays one of here
    assert planned([found("alice", roles=frozenset({"own"}))], [mine], [remembered("alice")]).steps == ()


def test_a_key_of_somebody_else_is_not_taken() -> None:
    """Attack: people write their own sshPublicKey; who puts there another's public key must not confuse who is who."""
    sam = Person(name="sam", keys=(PersonKey(fingerprint="k", line="k"),))
    (step,) = planned([found("alice", keys=(("k", "k"), ("l", "l")))], [sam]).steps
    assert step.add_keys == (("l", "l"),)


def test_too_many_at_once_are_a_broken_filter() -> None:
    here = [theirs(f"p{number}") for number in range(10)]
    there = [found(one.name) for one in here]
    assert loss(directory(), planned(there[2:], here)) == ""
    assert "from 3 of 10 persons, more than 20%" in loss(directory(), planned(there[3:], here))
    assert "from 10 of 10" in loss(directory(), planned([], here))
    assert loss(directory('most = "100%"'), planned([], here)) == ""
    assert loss(directory(), planned([], here[:1])) == ""  # one may always leave
    assert loss(directory(), planned([], here[:2]))


def test_a_group_that_is_empty_all_of_a_sudden_is_one_too() -> None:
    here = [theirs(f"p{number}", roles=frozenset({"dba"})) for number in range(10)]
    wanted = planned([found(one.name) for one in here], here)
    assert "from 10 of 10" in loss(directory(), wanted)
    # but not a group that is no longer in the settings
    bare = directory(roles="")
    entries = {one.name: remembered(one.name, roles=one.roles) for one in here}
    wanted = plan(bare, {one.name: found(one.name) for one in here}, [], here, entries)
    assert len(wanted.steps) == 10
    assert loss(bare, wanted) == ""
