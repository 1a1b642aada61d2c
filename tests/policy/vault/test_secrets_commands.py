"""Named secrets in a real policyd: kept, lent, viewed, taken back, handed on; who hears of them, and who does not."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from policy import messages as m
from policy.vault.commands import MAX_VALUE
from tests.policy.policyd import Policyd
from tests.policy.vaulting import add, done, lend, names, no, revealed, view
from tests.support.net import wait_until

CANARY = b"canary-of-a-secret-that-nobody-may-find"


@pytest.fixture
def people(policyd: Policyd) -> Iterator[dict]:
    """alice, bob and gina, ada who administers, sue who audits: each in a conversation."""
    peers = {name: policyd.login(name) for name in ("alice", "bob", "gina", "ada", "sue")}
    yield peers
    for peer in peers.values():
        peer.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name of the test's own."""
    return "t/" + request.node.name.replace("[", ".").replace("]", "").lower().replace("_", "-")[:150]


# --- kept ---------------------------------------------------------------------------------------------------------


def test_what_is_kept_comes_back(people, name):
    add(people["alice"], name, b"\x00\xff binary\n", kind="key", note="of the printer")
    found = revealed(view(people["alice"], name))
    assert (found.value, found.kind, found.version) == (b"\x00\xff binary\n", "key", 1)
    shown = dict(people["alice"].ask(m.SecretShow(name=name)).rows)
    assert (shown["owner"], shown["note"], shown["kind"]) == ("alice", "of the printer", "key")


def test_versions(people, name):
    alice = people["alice"]
    add(alice, name, b"one")
    assert done(alice.ask(m.SecretSet(name=name, value=b"two"))).data["version"] == "2"
    done(alice.ask(m.SecretSet(name=name, note="newer")))
    assert revealed(view(alice, name)).value == b"two"
    assert revealed(view(alice, name, version=1)).value == b"one"
    no(view(alice, name, version=3))
    done(lend(alice, name, "bob", "view"))
    assert revealed(view(people["bob"], name)).value == b"two"
    no(view(people["bob"], name, version=1))


@pytest.mark.parametrize("size", [0, MAX_VALUE + 1])
def test_sizes(people, name, size):
    no(people["alice"].ask(m.SecretAdd(name=name, value=b"x" * size)), 64)
    add(people["alice"], name, b"x" * MAX_VALUE)
    assert len(revealed(view(people["alice"], name)).value) == MAX_VALUE


def test_what_makes_no_sense(people, name):
    alice = people["alice"]
    for wrong in (m.SecretAdd(name="seed", value=b"x"), m.SecretAdd(name="root@web1", value=b"x"),
                  m.SecretAdd(name=name, value=b"x", kind="ca"), m.SecretAdd(name=name, value=b"x", note="\x1b[2J"),
                  m.SecretSet(name=name), m.SecretView(name="root@web1", reason="x")):  # fmt: skip
        assert no(alice.ask(wrong), 64).cause


def test_a_name_is_taken_once(people, name):
    add(people["alice"], name)
    assert "is taken" in no(people["bob"].ask(m.SecretAdd(name=name, value=b"x")), 64).cause


def test_of_twenty_who_add_a_name_at_once_one_has_it(policyd, name):
    def attempt(number: int) -> bool:
        with policyd.login("alice" if number % 2 else "bob") as peer:
            return isinstance(peer.ask(m.SecretAdd(name=name, value=str(number).encode())), m.Done)

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(attempt, range(20))) == 1


def test_of_two_who_set_it_at_once_none_is_lost(policyd, name):
    with policyd.login("alice") as peer:
        add(peer, name)

    def attempt(number: int) -> int:
        with policyd.login("alice") as peer:
            return int(isinstance(peer.ask(m.SecretSet(name=name, value=str(number).encode())), m.Done))

    with ThreadPoolExecutor(10) as pool:
        made = sum(pool.map(attempt, range(10)))
    with policyd.login("alice") as peer:
        assert made >= 1
        assert revealed(view(peer, name)).version == 1 + made


def test_an_operator_keeps_for_somebody_and_gains_nothing(policyd, people, name):
    assert "somebody's" in policyd.command(m.SecretAdd(name=name, value=b"x")).cause
    policyd.done(m.SecretAdd(name=name, value=b"one", owner="alice"))
    policyd.done(m.SecretSet(name=name, value=b"two"))
    assert revealed(view(people["alice"], name)).value == b"two"
    assert isinstance(policyd.command(m.SecretView(name=name, reason="x")), m.Refused)
    no(people["bob"].ask(m.SecretAdd(name=f"{name}2", value=b"x", owner="alice")))
    no(people["ada"].ask(m.SecretAdd(name=f"{name}2", value=b"x", owner="alice")))


# --- who sees what ------------------------------------------------------------------------------------------------


def test_not_there_and_not_yours_look_alike(people, name):
    add(people["alice"], name)
    for who in ("bob", "ada", "sue", "gina"):
        for ask in (lambda n: m.SecretView(name=n, reason="x"), lambda n: m.SecretSet(name=n, value=b"x"),
                    lambda n: m.SecretShare(scope=n, subject="gina", rights=["view"])):  # fmt: skip
            there, nowhere = no(people[who].ask(ask(name))), no(people[who].ask(ask("no/where")))
            assert there.cause.replace(name, "N") == nowhere.cause.replace("no/where", "N")
            assert (there.hint, there.code) == (nowhere.hint, nowhere.code)
    for who in ("bob", "gina"):
        for command in (m.SecretShow, m.SecretRemove):
            there, nowhere = no(people[who].ask(command(name=name))), no(people[who].ask(command(name="no/where")))
            assert there.cause.replace(name, "N") == nowhere.cause.replace("no/where", "N")
        assert name not in names(people[who])


def test_the_right_to_administer_is_no_right_to_view(people, name):
    add(people["alice"], name)
    no(view(people["ada"], name))
    no(people["ada"].ask(m.SecretSet(name=name, value=b"mine")))
    assert name not in names(people["ada"])
    assert name in names(people["ada"], all=True)
    assert name in names(people["sue"], all=True)
    no(people["bob"].ask(m.SecretList(all=True)))


def test_the_vaults_own_secrets_have_no_name_here(people):
    for name in ("seed", "user-ca", "root@web1", "host-ca"):
        assert isinstance(view(people["ada"], name), m.Refused)
    assert not [name for name in names(people["ada"], all=True) if "/" not in name]


def test_rights_are_separate(people, name):
    alice, bob = people["alice"], people["bob"]
    add(alice, name)
    done(lend(alice, name, "bob", "use"))
    assert name in names(bob)
    no(view(bob, name))
    no(lend(bob, name, "gina", "use"))
    done(lend(alice, name, "bob", "view"))
    revealed(view(bob, name))
    no(lend(bob, name, "gina", "view"))
    no(bob.ask(m.SecretSet(name=name, value=b"x")))
    no(bob.ask(m.SecretRemove(name=name)))
    no(bob.ask(m.SecretChown(name=name, owner="bob", reason="x")))
    no(bob.ask(m.SecretChown(name=name, owner="gina", reason="x")))


def test_a_role_has_it_while_one_has_the_role(policyd, people, name):
    add(people["alice"], name)
    policyd.person("rita", "printers")
    done(lend(people["alice"], name, "role:printers", "view"))
    with policyd.login("rita") as rita:
        revealed(view(rita, name))
        policyd.done(m.PersonSet(name="rita", remove_roles=["printers"]))
        no(view(rita, name))
    no(view(people["bob"], name))


def test_a_share_ends_by_itself(people, name):
    add(people["alice"], name)
    done(lend(people["alice"], name, "bob", "view", seconds=5))
    revealed(view(people["bob"], name))
    wait_until("its end", lambda: isinstance(view(people["bob"], name), m.Refused))
    assert name not in names(people["bob"])


def test_a_view_has_a_reason_and_an_event_before_it(policyd, people, name):
    add(people["alice"], name, CANARY)
    assert "reason" in no(people["alice"].ask(m.SecretView(name=name, reason=" ")), 64).cause
    revealed(people["alice"].ask(m.SecretView(name=name, reason="the printer burns")))
    event = policyd.audit("secret-view")[0]
    assert (event["who"], event["what"], event["why"]) == ("alice", name, "the printer burns")
    refused = no(view(people["bob"], name))
    event = policyd.audit("secret-view-refused")[0]
    assert (event["who"], event["what"], event["ref"]) == ("bob", name, refused.ref)


def test_no_value_stands_anywhere(policyd, people, name):
    add(people["alice"], name, CANARY)
    done(people["alice"].ask(m.SecretSet(name=name, value=CANARY + b"2")))
    revealed(view(people["alice"], name))
    for path in [path for path in policyd.home.rglob("*") if path.is_file()]:
        assert CANARY not in path.read_bytes(), path


def test_a_person_disabled_meanwhile_sees_nothing(make_policyd, name):
    policyd = make_policyd()
    with policyd.login("alice") as alice:
        add(alice, name)
        policyd.done(m.PersonSet(name="alice", disabled=True))
        no(view(alice, name))


def test_lists_come_in_pages(policyd):
    policyd.person("lister")
    with policyd.login("lister") as peer:
        wanted = [f"page/{number:03}" for number in range(30)]
        for one in wanted:
            add(peer, one)
        found, after = [], ""
        for _ in range(40):
            page = peer.ask(m.SecretList(limit=7, after=after))
            found += [row[0] for row in page.rows]
            if not (after := page.next):
                break
        assert [one for one in found if "@" not in one] == wanted
        assert names(peer, folder="page/") == wanted
        assert names(peer, folder="pag/") == []


# --- lent ---------------------------------------------------------------------------------------------------------


def test_a_folder_covers_what_comes_later(people):
    alice, bob = people["alice"], people["bob"]
    add(alice, "later/one")
    done(lend(alice, "later/", "bob", "view"))
    add(alice, "later/deep/two")
    assert names(bob, folder="later/") == ["later/deep/two", "later/one"]
    revealed(view(bob, "later/deep/two"))
    no(view(bob, "laters/x"))


def test_nobody_lends_a_folder_of_others(people):
    alice, bob = people["alice"], people["bob"]
    add(alice, "team/one")
    add(bob, "team/two")
    for peer in (alice, bob, people["ada"]):
        no(lend(peer, "team/", "gina", "view"))
    no(lend(alice, "empty/", "gina", "view"))


def test_what_is_put_into_a_lent_folder_is_lent_knowingly(people):
    """Attack: a folder is shared with a friend, for what others will put there."""
    alice, bob = people["alice"], people["bob"]
    add(alice, "trap/one")
    done(lend(alice, "trap/", "gina", "view"))
    assert "is shared" in no(bob.ask(m.SecretAdd(name="trap/two", value=b"x"))).cause
    add(bob, "trap/two", shared=True)
    revealed(view(people["gina"], "trap/two"))
    no(view(alice, "trap/two"))


def test_passed_on_no_longer_than_one_has_it(people, name):
    alice, bob = people["alice"], people["bob"]
    add(alice, name)
    done(lend(alice, name, "bob", "view", "share", seconds=600))
    assert "longer" in no(lend(bob, name, "gina", "view", seconds=700)).cause
    assert "use" in no(lend(bob, name, "gina", "use")).cause
    given = done(lend(bob, name, "gina", "view"))
    assert given.data["expires"], "as long as bob has it"
    revealed(view(people["gina"], name))


def test_nobody_lends_to_themselves_or_to_nobody(people, name):
    alice, bob = people["alice"], people["bob"]
    add(alice, name)
    done(lend(alice, name, "bob", "view", "share"))
    assert "themselves" in no(lend(bob, name, "bob", "view")).cause
    for subject in ("nobody", "application:none", "role:Ä", "group:x"):
        no(lend(alice, name, subject, "view"), 64)


def test_nobody_lends_to_who_is_disabled(policyd, people, name):
    policyd.person("dora")
    policyd.done(m.PersonSet(name="dora", disabled=True))
    add(people["alice"], name)
    assert "no person `dora`" in no(lend(people["alice"], name, "dora", "view"), 64).cause


def test_no_application_of_ones_own_reads_what_one_may_not_view(policyd, people, name):
    for owner in ("alice", "bob"):
        policyd.done(m.ApplicationAdd(name=f"of-{owner}", owner=owner, uid=4711))
    alice, bob = people["alice"], people["bob"]
    add(alice, name)
    done(lend(alice, name, "application:of-alice", "use"))
    done(lend(alice, name, "bob", "use", "share"))
    assert "may not view" in no(lend(bob, name, "application:of-bob", "use")).cause
    done(lend(bob, name, "application:of-alice", "use"))
    done(lend(alice, name, "bob", "view"))
    done(lend(bob, name, "application:of-bob", "use"))


def test_taken_back_with_what_came_of_it(policyd, people, name):
    alice, bob, gina = people["alice"], people["bob"], people["gina"]
    add(alice, name)
    first = done(lend(alice, name, "bob", "view", "share")).data["share"]
    second = done(lend(bob, name, "gina", "view", "share")).data["share"]
    no(people["gina"].ask(m.SecretUnshare(share="s-aaaaaaaa")))
    ended = done(alice.ask(m.SecretUnshare(share=first, reason="enough")))
    assert ended.data["passed_on"] == second
    for peer in (bob, gina):
        no(view(peer, name))
    assert [row["why"] for row in policyd.audit("secret-unshare")[:2]] == [f"passed on from {first}", "enough"]
    no(alice.ask(m.SecretUnshare(share=first)))


def test_who_may_take_back(people, name):
    add(people["alice"], name)

    def made() -> str:
        return done(lend(people["alice"], name, "bob", "view")).data["share"]

    no(people["gina"].ask(m.SecretUnshare(share=made())))
    no(people["sue"].ask(m.SecretUnshare(share=made())))
    for who in ("bob", "ada", "alice"):
        done(people[who].ask(m.SecretUnshare(share=made())))


def test_who_sees_shares(people, name):
    add(people["alice"], name)
    share = done(lend(people["alice"], name, "bob", "view")).data["share"]
    for who, sees in (("alice", True), ("bob", True), ("sue", True), ("ada", True), ("gina", False)):
        rows = people[who].ask(m.SecretShares(scope=name)).rows
        assert [row[0] for row in rows] == ([share] if sees else []), who
    done(people["alice"].ask(m.SecretUnshare(share=share)))
    assert people["alice"].ask(m.SecretShares(scope=name)).rows == []
    assert people["alice"].ask(m.SecretShares(scope=name, all=True)).rows[0][1] == "ended by alice"


def test_an_account_is_lent_to_applications_by_who_looks_after_it(policyd, people):
    no(lend(people["alice"], "root@web1", "application:billing", "use"))
    no(lend(people["ada"], "root@web1", "bob", "view"), 64)
    no(lend(people["ada"], "root@web1", "application:none", "use"), 64)
    no(lend(people["ada"], "nobody@web1", "application:none", "use"), 64)


# --- handed on ----------------------------------------------------------------------------------------------------


def test_an_owner_hands_it_on(people, name):
    add(people["alice"], name)
    done(people["alice"].ask(m.SecretChown(name=name, owner="bob")))
    no(view(people["alice"], name))
    revealed(view(people["bob"], name))


def test_an_administrator_hands_it_on_and_not_to_themselves(policyd, people, name):
    ada = people["ada"]
    add(people["alice"], name)
    assert "reason" in no(ada.ask(m.SecretChown(name=name, owner="bob")), 64).hint
    no(ada.ask(m.SecretChown(name=name, owner="ada", reason="mine")))
    done(ada.ask(m.SecretChown(name=name, owner="bob", reason="alice moved on")))
    no(view(ada, name))
    event = policyd.audit("secret-taken")[0]
    assert (event["who"], event["what"], event["why"]) == ("ada", name, "alice moved on")
    assert "owner before=alice" in event["detail"]


def test_removed_with_its_shares(policyd, people, name):
    add(people["alice"], name)
    done(lend(people["alice"], name, "bob", "view"))
    assert "say why" in no(people["ada"].ask(m.SecretRemove(name=name)), 64).hint
    done(people["alice"].ask(m.SecretRemove(name=name)))
    no(view(people["alice"], name))
    add(people["gina"], name)
    no(view(people["bob"], name))


def test_who_leaves_hands_secrets_on_and_has_none(make_policyd):
    policyd = make_policyd()
    with policyd.login("alice") as alice, policyd.login("bob") as bob:
        add(alice, "left/one")
        add(alice, "left/three")
        add(bob, "left/two")
        done(lend(bob, "left/two", "alice", "view"))
        done(lend(alice, "left/one", "gina", "view"))
    refused = policyd.command(m.PersonOffboard(name="alice"))
    assert "`left/one`, `left/three`" in refused.cause
    assert "--heir" in refused.hint
    policyd.done(m.PersonOffboard(name="alice", heir="bob"))
    with policyd.login("bob") as bob, policyd.login("gina") as gina:
        revealed(view(bob, "left/one"))
        revealed(view(gina, "left/one"))
        states = {row[3]: row[1] for row in bob.ask(m.SecretShares(scope="left/two", all=True)).rows}
        assert states["alice"].startswith("ended by")


def test_a_restart_forgets_nothing(make_policyd):
    policyd = make_policyd()
    with policyd.login("alice") as alice:
        add(alice, "kept/one")
        done(lend(alice, "kept/", "bob", "view"))
    policyd.kill()
    policyd.start()
    with policyd.login("bob") as bob:
        assert revealed(view(bob, "kept/one")).value == b"s3cret"
        began = time.monotonic()
        names(bob)
        assert time.monotonic() - began < 20
