"""inventory.toml: read with every problem at its line, compared with what there is, and written so that it fits."""

import base64
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.inventory import HasPerson, HasTarget, Present, Wanted, fingerprint, plan
from bastion.inventory_file import BadInventory, read, written
from policy import messages as m


def key(number: int, options: str = "") -> str:
    blob = b"\x00\x00\x00\x0bssh-ed25519" + b"\x00\x00\x00\x20" + bytes([number]) * 32
    return f"{options}ssh-ed25519 {base64.b64encode(blob).decode()}"


ALICE = HasPerson(
    name="alice", state="active", origin="local", roles=frozenset({"engineer"}), keys=(key(1),), owns=("env=test",)
)
WEB1 = HasTarget(
    name="web1", address="192.0.2.1:22", labels={"env": "test"}, host_keys=(key(9),),
    accounts={"root": ("user-ca", ""), "app": ("password", ""), "deploy": ("key", fingerprint(key(5)))},
)  # fmt: skip
PRESENT = Present(persons={"alice": ALICE}, targets={"web1": WEB1})
FULL = f"""
[persons.alice]
roles = ["engineer"]
keys = ["{key(1)} alice@laptop"]
owns = ["env=test"]

[targets.web1]
address = "192.0.2.1"
labels = {{ env = "test" }}
host-keys = ["{key(9)}"]
accounts.root = "user-ca"
accounts.app = {{ password-file = "app" }}
accounts.deploy = {{ key-file = "deploy" }}
"""
KEYS = {"deploy": fingerprint(key(5))}


def planned(text: str, present: Present = PRESENT, *, prune: bool = False) -> list[str]:
    found = plan(read(text, "f"), present, KEYS, prune=prune, reason="why")
    assert not found.problems
    return [f"{step.sign} {step.what}: {', '.join(step.detail)}" for step in found.steps]


def commands(text: str, present: Present = PRESENT, *, prune: bool = False) -> list[m.Command]:
    found = plan(read(text, "f"), present, KEYS, prune=prune, reason="why")
    return [one for step in found.steps for one in step.commands]


def problems(text: str) -> list[str]:
    with pytest.raises(BadInventory) as raised:
        read(text, "inv.toml")
    return raised.value.problems


# --- reading ------------------------------------------------------------------------------------------


def test_every_problem_is_told_at_its_line():
    text = f"""\
[person.alice]
[persons.bob]
role = ["x"]
keys = ["ssh-ed25519 AAAA", 7]
disabled = "no"
owns = ["env="]
[persons."Bob"]
[targets.web1]
adress = "x"
host-keys = []
labels = {{ ENV = "x", n = 1 }}
accounts.root = "user_ca"
accounts.app = {{ password = "hunter2" }}
accounts.a = {{ password-file = "x", key-file = "y" }}
accounts."b c" = "kept"
accounts.d = 3
[targets.web2]
address = "a b"
host-keys = "skan"
keys = ["{key(1)}"]
accounts = "none"
"""
    said = problems(text)
    for line in (1, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21):
        assert any(one.startswith(f"inv.toml:{line}: ") for one in said), (line, said)
    assert "did you mean `persons`" in said[0]
    assert any("did you mean `roles`" in one for one in said)
    assert any("did you mean `address`" in one for one in said)
    assert any("did you mean `user-ca`" in one for one in said)
    assert "hunter2" not in "".join(said)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[persons.a", ":1: "),
        ("persons = 3", "want a table"),
        ("persons.a = 3", "want a table"),
        ('[targets.t]\naccounts.a = { password-file = "-" }\naccounts.b = { key-file = "-" }', "standard input"),
        ('[persons.a]\nkeys = ["-----BEGIN OPENSSH PRIVATE KEY-----"]', "private key"),
        ('[persons.a]\nroles = ["x", "x"]', "twice"),
        ('[persons."\\u202eb"]', "\\u{202e}b"),
        ('[persons."\\u001b[2J"]', "\\u001b[2J"),
        ("a = " + "[" * 5000, ""),
    ],
)
def test_bad_files(text, word):
    said = problems(text)
    assert word in said[0]
    assert "\x1b" not in "".join(said)


def test_a_secret_in_the_file_is_refused():
    said = problems('[targets.t]\naccounts.a = { password = "x" }')
    assert "a secret does not stand in this file" in said[0]


@given(st.text(max_size=200))
def test_no_text_does_more_than_be_refused(text):
    with suppress(BadInventory):
        read(text, "f")


def test_the_page_about_persons_has_a_file_that_is_read():
    page = (Path(__file__).parents[2] / "policy" / "PERSONS.md").read_text()
    wanted = read(page.partition("```toml\n")[2].partition("```")[0], "PERSONS.md")
    assert wanted.targets["web1"].scan
    assert wanted.persons["nora"].owns == {"env=test"}


# --- comparing ----------------------------------------------------------------------------------------


def test_what_is_there_needs_no_step():
    assert planned(FULL) == []
    assert planned(FULL, prune=True) == []


def test_an_empty_file_changes_nothing_and_says_what_it_does_not_name():
    found = plan(Wanted(), PRESENT, {}, prune=False, reason="")
    assert found.steps == ()
    assert found.beside == ("target web1", "person alice")


def test_with_prune_it_takes_everything_away_but_what_is_not_ours():
    directory = HasPerson(name="dora", state="active", origin="directory", roles=frozenset(), keys=(), owns=())
    gone = HasPerson(name="gus", state="offboarded", origin="local", roles=frozenset(), keys=(), owns=())
    present = Present(persons={"alice": ALICE, "dora": directory, "gus": gone}, targets={"web1": WEB1})
    assert planned("", present, prune=True) == ["- target web1: ", "- person alice: "]


def test_what_is_not_said_stays():
    text = "[persons.alice]\n[targets.web1]\n"
    assert planned(text, prune=True) == []


def test_what_is_said_is_said_completely():
    text = FULL.replace('roles = ["engineer"]', 'roles = ["dba"]').replace('owns = ["env=test"]', "owns = []")
    text = text.replace(key(1), key(2)).replace('env = "test"', 'tier = "x"').replace("192.0.2.1", "192.0.2.2:2222")
    text = text.replace(key(9), key(8))
    said = planned(text)
    assert said == [
        "~ target web1: address 192.0.2.1:22 -> 192.0.2.2:2222, label tier= -> x, label env=test ->, "
        f"host key + {fingerprint(key(8))}, host key - {fingerprint(key(9))}",
        f"~ person alice: role + dba, role - engineer, key + {fingerprint(key(2))}, key - {fingerprint(key(1))}",
        "- owner alice of env=test: ",
    ]
    kinds = [type(one) for one in commands(text)]
    assert kinds == [m.TargetSet, m.PersonSet, m.OwnerRemove]


def test_accounts_that_come_change_and_go():
    text = FULL.replace('accounts.root = "user-ca"', 'accounts.root = { key-file = "deploy" }')
    text = text.replace("accounts.app = { password-file", "accounts.new = { password-file")
    text = text.replace("accounts.deploy = { key-file", "accounts.deploy = { password-file")
    assert planned(text, prune=True) == [
        f"~ account root@web1: opened by user-ca -> key {KEYS['deploy']}",
        "+ account new@web1: opened by password",
        f"~ account deploy@web1: opened by key {KEYS['deploy']} -> password",
        "- account app@web1: ",
    ]
    assert "- account app@web1: " not in planned(text)


def test_a_key_with_other_options_goes_and_comes_again():
    text = FULL.replace(f'"{key(1)} alice', f'"{key(1, "verify-required ")} alice')
    first, second = commands(text)
    assert isinstance(first, m.PersonSet)
    assert isinstance(second, m.PersonSet)
    assert first.remove_keys == [fingerprint(key(1))]
    assert second.add_keys == [key(1, "verify-required ") + " alice@laptop"]


@pytest.mark.parametrize(
    ("had", "line", "said"),
    [
        ("", 'mail = "alice@example.org"', ["mail none -> alice@example.org"]),
        ("alice@example.org", 'mail = ""', ["mail alice@example.org -> none"]),
        ("alice@example.org", 'mail = "alice@example.org"', []),
        ("alice@example.org", "", []),
    ],
)
def test_an_address_is_set_and_taken_away(had, line, said):
    present = Present(persons={"alice": replace(ALICE, mail=had)})
    steps = plan(read(f"[persons.alice]\n{line}\n", "f"), present, {}, prune=False, reason="").steps
    assert [one for step in steps for one in step.detail] == said


@pytest.mark.parametrize("bad", ['"alice"', '"a@b, c@d"', '"a@b\\n"', "3", '["a@b"]'])
def test_an_address_that_is_none(bad):
    (problem,) = problems(f"[persons.alice]\nmail = {bad}\n")
    assert problem.startswith("inv.toml:2: persons.alice.mail: got ")


def test_what_persons_gain_comes_before_what_others_lose():
    zoe = '\n[persons.zoe]\nroles = ["admin"]\n'
    present = Present(persons={"alice": HasPerson(
        name="alice", state="active", origin="local", roles=frozenset({"admin"}), keys=(key(1),), owns=()
    )})  # fmt: skip
    said = planned("[persons.alice]\nroles = []\n" + zoe, present)
    assert [one[0] for one in said] == ["+", "~"]


def test_new_ones_with_all_they_have():
    text = f"""
[persons.new]
roles = ["a", "b"]
keys = ["{key(3)}"]
disabled = true
owns = ["*"]
[targets.db1]
address = "db1"
host-keys = "scan"
accounts.postgres = {{ password-file = "-" }}
"""
    kinds = [type(one) for one in commands(text)]
    assert kinds == [m.TargetAdd, m.AccountAdd, m.PersonAdd, m.PersonSet, m.OwnerAdd]
    assert all(one.reason == "why" for one in commands(text))


def test_what_cannot_be_is_a_problem_before_anything_is_done():
    gone = HasPerson(name="gus", state="offboarded", origin="local", roles=frozenset(), keys=(), owns=())
    text = '[persons.gus]\n[targets.new]\naccounts.root = "kept"\n'
    found = plan(read(text, "f"), Present(persons={"gus": gone}), {}, prune=False, reason="")
    assert [path for path, _ in found.problems] == [
        ("targets", "new"), ("targets", "new"), ("targets", "new", "accounts", "root"), ("persons", "gus"),
    ]  # fmt: skip


# --- writing ------------------------------------------------------------------------------------------

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}", fullmatch=True)
values = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=20).filter(str.isprintable)


@given(
    st.dictionaries(names, st.tuples(st.frozensets(names, max_size=3), st.booleans()), max_size=4),
    st.dictionaries(
        names, st.tuples(st.dictionaries(names, values, max_size=3), st.sampled_from(["192.0.2.1", "::1", "h"])),
        max_size=4,
    ),
)  # fmt: skip
def test_what_is_written_changes_nothing(persons, targets):
    present = Present(
        persons={
            name: HasPerson(
                name=name, state="disabled" if disabled else "active", origin="local", roles=roles,
                keys=(key(1),), owns=("*",) if disabled else (), mail="a@example.org" if disabled else "",
            )
            for name, (roles, disabled) in persons.items()
        },
        targets={
            name: HasTarget(
                name=name, address=f"{host}:2222", labels=labels, host_keys=(key(2), key(3)),
                accounts={"root": ("user-ca", ""), "DOM\\x$": ("password", ""), "k.1": ("key", "SHA256:x")},
            )
            for name, (labels, host) in targets.items()
        },
    )  # fmt: skip
    found = plan(read(written(present), "f"), present, {}, prune=True, reason="")
    assert (found.steps, found.problems) == ((), ())


def test_who_left_is_not_written():
    gone = HasPerson(name="gus", state="offboarded", origin="local", roles=frozenset(), keys=(), owns=())
    assert "gus" not in written(Present(persons={"gus": gone}))
