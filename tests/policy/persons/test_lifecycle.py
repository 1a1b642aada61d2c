"""Persons come, get more or less, own things, and leave; and nobody locks everybody out, or raises themselves."""

import sqlite3
import time

import pytest

from policy import messages as m
from policy.keys import sshkeys
from policy.names import look
from policy.naming import CommandRefused
from policy.persons.safeguards import (
    administrators,
    keep_an_administrator,
    no_look_alike,
    not_above,
    not_for_oneself,
)
from policy.records import Person, PersonKey
from policy.rules.rights import Rights
from tests.policy import jit
from tests.policy.policyd import Policyd

RIGHTS = Rights()
KEYS = (PersonKey(fingerprint="SHA256:x", line="ssh-ed25519 x"),)
ADA = Person(name="ada", roles=frozenset({"admin"}), keys=KEYS)
SUE = Person(name="sue", roles=frozenset({"security"}), keys=KEYS)


@pytest.fixture(scope="module")
def jit_policyd(filled, tmp_path_factory):
    from tests.policy.conftest import copied

    daemon = copied(filled, tmp_path_factory.mktemp("p"), "source_failures = 100000")
    daemon.rules = jit.RULES
    daemon.write()
    try:
        yield jit.prepared(daemon.start())
    finally:
        daemon.stop()


def refused(policyd: Policyd, body: m.Command, who: str = "") -> m.Refused:
    if who:
        with policyd.login(who) as peer:
            answer = peer.ask(body)
    else:
        answer = policyd.command(body)
    assert isinstance(answer, m.Refused), answer
    return answer


def newest(policyd: Policyd, event: str) -> dict[str, str]:
    return policyd.audit(event, limit=1)[0]


# --- the last administrator -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("person", "counts"),
    [
        (ADA, True),
        (Person(name="ada", roles=frozenset({"admin"}), keys=KEYS, disabled=True), False),
        (Person(name="ada", roles=frozenset({"admin"})), False),  # nothing proves her
        (Person(name="ada", roles=frozenset({"admin"}), phc="$argon2id$"), True),
        (SUE, False),
    ],
)
def test_who_could_administer(person, counts):
    assert bool(administrators([person], RIGHTS, certificates=False)) is counts


def test_with_certificates_an_administrator_needs_no_key():
    assert administrators([Person(name="ada", roles=frozenset({"admin"}))], RIGHTS, certificates=True)


def test_the_last_one_stays():
    with pytest.raises(CommandRefused, match="last person"):
        keep_an_administrator({"ada"}, set())
    keep_an_administrator({"ada", "eve"}, {"eve"})
    keep_an_administrator(set(), set())  # a bastion that only its operators administer


@pytest.mark.parametrize(
    "change",
    [
        m.PersonOffboard(name="ada"),
        m.PersonSet(name="ada", disabled=True),
        m.PersonSet(name="ada", remove_roles=["admin"]),
    ],
)
def test_the_last_administrator_cannot_be_removed_even_by_an_operator(make_policyd, change):
    policyd = make_policyd()
    assert "last person with the right `administer`" in refused(policyd, change).cause
    policyd.person("eve", "admin")
    policyd.done(change)
    assert "last person" in refused(policyd, m.PersonSet(name="eve", disabled=True)).cause


def test_the_last_key_of_the_last_administrator_stays(policyd):
    print_ = policyd.keys["ada"].public.fingerprint
    assert "last person" in refused(policyd, m.PersonSet(name="ada", remove_keys=[print_])).cause


def test_two_administrators_who_remove_each_other_at_once_do_not_both_succeed(make_policyd):
    policyd = make_policyd()
    policyd.person("eve", "admin")
    with policyd.login("ada") as ada, policyd.login("eve") as eve:
        for peer, name in ((ada, "eve"), (eve, "ada")):
            peer.number += 1
            peer.send(m.encode(peer.number, m.PersonOffboard(name=name)))
        answers = [peer.receive() for peer in (ada, eve)]
    done = [isinstance(body, m.Done) for _, body in answers]
    assert done.count(True) == 1, answers


def test_rules_that_leave_no_administrator_are_not_taken(make_policyd):
    policyd = make_policyd()
    (policyd.home / "policy.toml").write_text(policyd.rules + '\n[rights]\nadminister = ["nobody-has-it"]\n')
    assert "no administrator" in refused(policyd, m.Reload()).cause
    with policyd.login("ada") as ada:
        assert isinstance(ada.ask(m.PersonList()), m.Rows)


# --- oneself --------------------------------------------------------------------------------------------


def test_nobody_gives_to_themselves_but_an_operator_may():
    with pytest.raises(CommandRefused, match="to themselves"):
        not_for_oneself("ada", "ada", "roles")
    not_for_oneself("ada", "sue", "roles")
    not_for_oneself("", "ada", "roles")


def test_nobody_sets_what_proves_somebody_who_may_more():
    with pytest.raises(CommandRefused, match="`watch`"):
        not_above(ADA, SUE, RIGHTS, "a key")
    not_above(ADA, ADA, RIGHTS, "a key")
    not_above(None, SUE, RIGHTS, "a key")
    not_above(ADA, Person(name="bob", roles=frozenset({"engineer"})), RIGHTS, "a key")
    not_above(Person(name="eve", roles=frozenset({"admin", "security"})), SUE, RIGHTS, "a key")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (m.PersonSet(name="ada", add_roles=["security"]), "roles to themselves"),
        (m.OwnerAdd(person="ada", scope="*"), "ownership to themselves"),
        (m.GrantAdd(person="ada", account="postgres", target="db1", reason="x"), "to themselves"),
        (m.PersonSet(name="sue", password="a password of mine"), "which is not"),
        (m.PersonSet(name="sue", add_keys=[sshkeys.generate_private_key().public.line("mine")]), "which is not"),
    ],
)
def test_an_administrator_does_not_raise_themselves(policyd, change, cause):
    said = refused(policyd, change, "ada")
    assert cause.replace("which is not", "is not yours to set") in said.cause
    assert said.code == 77


def test_what_an_administrator_owns_is_not_handed_to_themselves(make_policyd):
    policyd = make_policyd()
    policyd.person("otto")
    policyd.done(m.OwnerAdd(person="otto", scope="*"))
    assert "to themselves" in refused(policyd, m.PersonOffboard(name="otto", heir="ada"), "ada").cause


def test_an_administrator_still_takes_their_own_away(make_policyd):
    policyd = make_policyd()
    policyd.person("eve", "admin", "lead")
    with policyd.login("eve") as eve:
        assert isinstance(eve.ask(m.PersonSet(name="eve", remove_roles=["lead"])), m.Done)


def test_an_invitation_is_no_way_to_raise_oneself(make_policyd):
    policyd = make_policyd()
    policyd.done(m.PersonAdd(name="vera", roles=["security"]))
    assert "is not yours to set" in refused(policyd, m.Invite(name="vera"), "ada").cause
    assert "looks like `alice`" in refused(policyd, m.Invite(name="a1ice"), "ada").cause
    policyd.done(m.Invite(name="vera", reason="her first day"))
    assert newest(policyd, "person-invite")["why"] == "her first day"


# --- names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a1ice", "al.ice", "al-ice", "a_lice", "alice-", "a1.ice"])
def test_a_name_that_looks_like_another_is_refused(policyd, name):
    assert look(name) == look("alice")
    assert "looks like `alice`" in refused(policyd, m.PersonAdd(name=name)).cause


@pytest.mark.parametrize("name", ["r00t", "ro.ot", "adm-in", "p0stgres", "administrat0r", "ec2.user"])
def test_a_name_that_looks_like_a_common_account_is_refused(policyd, name):
    assert "common account" in refused(policyd, m.PersonAdd(name=name)).cause


def test_who_left_keeps_their_look():
    gone = Person(name="bob", disabled=True, offboarded=1)
    with pytest.raises(CommandRefused, match="looks like"):
        no_look_alike("b0b", [gone])
    no_look_alike("bob", [gone])  # that it exists is said otherwise
    no_look_alike("rob", [gone])


# --- owners ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def owned(filled, tmp_path_factory):
    from tests.policy.conftest import copied

    daemon = copied(filled, tmp_path_factory.mktemp("p"), "source_failures = 100000").start()
    try:
        daemon.person("otto", "engineer")
        daemon.done(m.OwnerAdd(person="otto", scope="env=test", reason="team of otto"))
        yield daemon
    finally:
        daemon.stop()


def test_an_owner_administers_accounts_and_host_keys_of_what_they_own(owned):
    with owned.login("otto") as otto:
        assert isinstance(otto.ask(m.AccountAdd(account="app", target="web1", password="secret word")), m.Done)
        assert isinstance(otto.ask(m.AccountShow(account="app", target="web1")), m.Rows)
        assert isinstance(otto.ask(m.AccountRemove(account="app", target="web1")), m.Done)
        assert isinstance(otto.ask(m.TargetShow(name="web1")), m.Rows)
        mine = otto.ask(m.GrantAdd(person="bob", account="root", target="web1", seconds=600, reason="x"))
        assert isinstance(mine, m.Refused)
        assert "needs nobody's leave" in mine.cause


def test_an_owner_sees_only_what_they_own(owned):
    with owned.login("otto") as otto:
        assert [row[0] for row in otto.ask(m.TargetList()).rows] == ["web1"]
        assert {row[1] for row in otto.ask(m.AccountList()).rows} == {"web1"}
        assert otto.ask(m.OwnerList()).rows == [["otto", "env=test", "1"]]
        assert isinstance(otto.ask(m.OwnerList(person="sue")), m.Refused)


@pytest.mark.parametrize("name", ["db1", "hidden", "no-such-target"])
@pytest.mark.parametrize(
    "make",
    [
        lambda name: m.AccountAdd(account="app", target=name, password="secret word"),
        lambda name: m.AccountRemove(account="postgres", target=name),
        lambda name: m.AccountShow(account="postgres", target=name),
        lambda name: m.AccountList(target=name),
        lambda name: m.TargetShow(name=name),
        lambda name: m.TargetHostkey(name=name, forget="SHA256:x"),
    ],
)
def test_elsewhere_an_owner_may_nothing_and_learns_nothing(owned, name, make):
    answer = refused(owned, make(name), "otto")
    assert (answer.cause, answer.code) == ("you may not do this", 77)


@pytest.mark.parametrize(
    "change",
    [
        m.TargetSet(name="web1", set_labels={"env": "prod"}),
        m.TargetSet(name="web1", address="192.0.2.66"),
        m.TargetRemove(name="web1"),
        m.TargetAdd(name="web9", address="192.0.2.9", labels={"env": "test"}),
        m.PersonSet(name="otto", add_roles=["admin"]),
        m.OwnerAdd(person="otto", scope="*"),
        m.OwnerRemove(person="otto", scope="env=test"),
        m.PersonList(),
        m.Inventory(kind="persons"),
    ],
)
def test_an_owner_moves_no_scope_and_is_no_administrator(owned, change):
    assert refused(owned, change, "otto").cause == "you may not do this"


@pytest.mark.parametrize("who", ["alice", "sue"])
def test_who_owns_nothing_sees_nothing(owned, who):
    for question in (m.TargetList(), m.AccountList(), m.TargetShow(name="web1")):
        assert refused(owned, question, who).code == 77


def test_a_label_that_changes_takes_the_target_from_its_owner(make_policyd):
    policyd = make_policyd()
    policyd.person("otto")
    policyd.done(m.OwnerAdd(person="otto", scope="env=test"))
    with policyd.login("otto") as otto:
        policyd.done(m.TargetSet(name="web1", set_labels={"env": "prod"}, reason="it goes live"))
        assert isinstance(otto.ask(m.TargetShow(name="web1")), m.Refused)
        assert otto.ask(m.TargetList()).rows == []
    event = newest(policyd, "target-set")
    assert event["why"] == "it goes live"
    assert "labels after=env=prod; labels before=env=test" in event["detail"]


def test_labels_that_change_end_what_the_rules_no_longer_allow(make_policyd):
    policyd = make_policyd()
    peer, grant = policyd.session("alice")
    policyd.done(m.TargetSet(name="web1", set_labels={"env": "secret"}))
    assert peer.push().session == grant.session


def test_an_ownership_that_ends_ends_at_once(make_policyd):
    policyd = make_policyd()
    policyd.person("otto")
    policyd.done(m.OwnerAdd(person="otto", scope="web1"))
    with policyd.login("otto") as otto:
        assert isinstance(otto.ask(m.TargetShow(name="web1")), m.Rows)
        policyd.done(m.OwnerRemove(person="otto", scope="web1", reason="moved on"))
        assert isinstance(otto.ask(m.TargetShow(name="web1")), m.Refused)
    assert "owned before=web1" in newest(policyd, "owner-remove")["detail"]


def test_a_target_that_comes_back_under_an_old_name_belongs_to_nobody(make_policyd):
    policyd = make_policyd()
    policyd.person("otto")
    policyd.done(m.OwnerAdd(person="otto", scope="web1"))
    policyd.done(m.OwnerAdd(person="otto", scope="env=test"))
    policyd.done(m.TargetRemove(name="web1", reason="scrapped"))
    assert newest(policyd, "target-remove")["why"] == "scrapped"
    policyd.target("web1", "root", env="prod")
    assert [row[1] for row in policyd.done(m.OwnerList(person="otto")).rows] == ["env=test"]
    assert refused(policyd, m.TargetShow(name="web1"), "otto").code == 77
    assert newest(policyd, "owner-remove")["why"] == "target removed"


@pytest.mark.parametrize("scope", ["nosuch", "env=", "=x", "ENV=x", "env=a\nb", "", "web1 db1", "a" * 300])
def test_scopes_that_mean_nothing(policyd, scope):
    refused(policyd, m.OwnerAdd(person="bob", scope=scope))


def test_the_owner_approves_where_a_rule_says_so(jit_policyd):
    policyd = jit_policyd
    policyd.person("dora", "dba")
    policyd.person("olga")
    policyd.done(m.OwnerAdd(person="olga", scope="db1"))
    with policyd.login("dora") as dora, policyd.login("olga") as olga:
        asked = dora.ask(m.RequestAccess(account="postgres", target="db1", reason="slow query"))
        assert isinstance(asked, m.Done), asked
        given = olga.ask(m.Decide(request=asked.data["request"], approve=True))
        assert isinstance(given, m.Done), given
        assert given.data["grant"]
        gift = m.GrantAdd(person="dora", account="root", target="db1", seconds=600, reason="for tonight")
        given = olga.ask(gift)
        assert isinstance(given, m.Done), given
        elsewhere = olga.ask(m.GrantAdd(person="dora", account="root", target="db2", seconds=600, reason="x"))
        assert isinstance(elsewhere, m.Refused)


# --- leaving --------------------------------------------------------------------------------------------

HISTORY = {
    "person.name", "session.person", "request.person", "request.asked_by", "vote.approver", "access_grant.person",
}  # fmt: skip
"""Where the name of somebody who left stays, as history: nothing in these rows is in force."""


def test_whose_things_would_belong_to_nobody_does_not_leave(make_policyd):
    policyd = make_policyd()
    policyd.person("otto")
    policyd.done(m.OwnerAdd(person="otto", scope="env=test"))
    policyd.done(m.OwnerAdd(person="otto", scope="db1"))
    answer = refused(policyd, m.PersonOffboard(name="otto"))
    assert "`db1`, `env=test`" in answer.cause
    assert "--heir" in answer.hint
    for heir in ("otto", "nobody-there"):
        assert "cannot take over" in refused(policyd, m.PersonOffboard(name="otto", heir=heir)).cause
    policyd.done(m.PersonSet(name="gina", disabled=True))
    assert "cannot take over" in refused(policyd, m.PersonOffboard(name="otto", heir="gina")).cause
    policyd.done(m.OwnerAdd(person="sue", scope="db1"))
    policyd.done(m.PersonOffboard(name="otto", heir="sue"))
    assert {row[1] for row in policyd.done(m.OwnerList(person="sue")).rows} == {"db1", "env=test"}
    policyd.restart()
    assert {row[0] for row in policyd.done(m.OwnerList()).rows} == {"sue"}


def test_who_leaves_leaves_nothing_in_force(make_policyd):
    """Every table is looked through, so that one which is added later is looked through as well."""
    policyd = make_policyd(files={"policy.toml": jit.RULES})
    jit.prepared(policyd)
    policyd.person("dora", "dba", password="correct horse")
    policyd.done(m.PersonSet(name="dora", mail="dora@example.org"))
    policyd.done(m.MfaEnrol(person="dora"))
    policyd.done(m.OwnerAdd(person="dora", scope="db4"))
    policyd.done(m.GrantAdd(person="dora", account="postgres", target="db1", seconds=600, reason="by hand"))
    token = policyd.done(m.TokenAdd(person="dora", account="postgres", target="db1", reason="cron")).data["token"]
    with sqlite3.connect(policyd.database, timeout=20) as db:
        hour = time.time_ns() + 3600 * 10**9
        db.execute("INSERT INTO code VALUES ('c1', 'dora', 'recovery', x'00', 1, NULL, NULL)")
        db.execute("INSERT INTO invitation VALUES (x'01', 'dora', 1, 'ada', ?, NULL)", [hour])
        db.execute("INSERT INTO failure (kind, subject, at) VALUES ('person', 'dora', ?)", [time.time_ns()])
    policyd.done(m.PersonSet(name="dora", remove_roles=["dba"], add_roles=["dba2", "engineer"]))
    policyd.done(m.PersonSet(name="dora", remove_roles=["dba2"], add_roles=["dba"]))
    with policyd.connection() as peer:
        peer.ask(m.OfferKey(person="dora", blob=policyd.keys["dora"].public.blob))
    policyd.done(m.MfaReset(person="dora"))
    peer, grant = policyd.session("dora", "root", "web1")
    asked = peer.ask(m.RequestAccess(account="root", target="db2", reason="slow query"))
    assert isinstance(asked, m.Done), asked
    done = policyd.done(m.PersonOffboard(name="dora", heir="bob", reason="left the company"))
    end = peer.push()
    assert (end.session, end.reason) == (grant.session, "offboarded")
    assert done.data["grants_ended"] == "2"
    assert done.data["requests_ended"] == "1"
    with jit.by_token(policyd, token) as (_, verdict):
        assert verdict.outcome != "done"
    with sqlite3.connect(policyd.database, timeout=20) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert len(tables) > 15
        for table in sorted(set(tables) - {"audit"}):
            columns = [row[1] for row in db.execute(f"PRAGMA table_info('{table}')")]
            for column in columns:
                found = db.execute(f'SELECT count(*) FROM "{table}" WHERE "{column}" = ?', ["dora"]).fetchone()[0]
                assert not found or f"{table}.{column}" in HISTORY, f"{table}.{column} still names dora"
        live = "SELECT count(*) FROM {} WHERE person = 'dora' AND {}"
        assert db.execute(live.format("access_grant", "revoked IS NULL")).fetchone() == (0,)
        assert db.execute(live.format("request", "state = 'pending'")).fetchone() == (0,)
        assert db.execute(live.format("session", "ended IS NULL")).fetchone() == (0,)
        assert db.execute("SELECT disabled, mail FROM person WHERE name = 'dora'").fetchone() == (1, "")
    event = newest(policyd, "person-offboard")
    assert event["why"] == "left the company"
    for fact in ("roles before=dba engineer", "owned before=db4", "heir=bob", "keys before=SHA256:"):
        assert fact in event["detail"]


def test_what_they_approved_for_others_ends_with_them(jit_policyd):
    policyd = jit_policyd
    policyd.person("dino", "dba")
    policyd.person("lisa", "lead")
    with policyd.login("lisa") as lena:
        given = lena.ask(m.GrantAdd(person="dino", account="postgres", target="db1", seconds=600, reason="x"))
        assert isinstance(given, m.Done), given
    peer, grant = policyd.session("dino", "postgres", "db1")
    policyd.done(m.PersonOffboard(name="lisa"))
    assert peer.push().session == grant.session


# --- the trail ------------------------------------------------------------------------------------------


def test_a_change_says_before_after_and_why(policyd):
    policyd.done(m.PersonSet(name="bob", add_roles=["lead"], reason="promoted"))
    event = newest(policyd, "person-set")
    assert event["why"] == "promoted"
    assert "roles before=engineer" in event["detail"]
    assert "roles after=engineer lead" in event["detail"]


def test_all_about_a_person(policyd):
    policyd.person("nora", "engineer")
    policyd.done(m.OwnerAdd(person="nora", scope="hidden", reason="for a while"))
    with policyd.login("nora") as nora:
        assert isinstance(nora.ask(m.PersonList()), m.Refused)
    policyd.done(m.PersonSet(name="nora", add_roles=["lead"]))
    policyd.done(m.PersonOffboard(name="nora", heir="alice"))
    rows = policyd.done(m.AuditList(about="nora", limit=1000))
    kinds = {row[rows.columns.index("event")] for row in rows.rows}
    assert {"person-add", "owner-add", "login", "command-refused", "person-set", "person-offboard"} <= kinds
    assert all("nora" in " ".join(row) for row in rows.rows)
    handed = [row for row in rows.rows if row[rows.columns.index("what")] == "alice"]
    assert handed  # what alice got because nora left


def test_a_reload_says_which_rules_changed(make_policyd):
    policyd = make_policyd()
    text = policyd.rules.replace('allow  = ["shell"]\nlimits', 'allow  = ["exec"]\nlimits')
    text = text.replace('name  = "engineers on test machines"', 'name  = "engineers"') + '\n[login]\nmfa = "rules"\n'
    (policyd.home / "policy.toml").write_text("\n\n" + text)
    policyd.done(m.Reload(reason="ticket 7"))
    event = newest(policyd, "reload")
    assert event["why"] == "ticket 7"
    for fact in ("added=engineers", "removed=engineers on test machines", "changed=short sessions", "tables=login"):
        assert fact in event["detail"]


def test_who_reads_the_trail_from_its_middle_is_in_it(policyd):
    with policyd.login("sue") as sue:
        sue.ask(m.AuditExport(after=3))
        assert [event["who"] for event in policyd.audit("export", limit=1)] == ["sue"]


# --- pages ----------------------------------------------------------------------------------------------


def test_lists_come_in_pages(make_policyd):
    policyd = make_policyd()
    with policyd.operator() as operator:
        for number in range(40):
            operator.ask(m.PersonAdd(name=f"person{'xyz'[number % 3]}{number * 7}"))
        for make in (m.PersonList, m.TargetList, m.AccountList):
            whole = operator.ask(make()).rows
            found, after = [], ""
            while True:
                page = operator.ask(make(after=after, limit=3))
                assert len(page.rows) <= 3
                found += page.rows
                if not page.next:
                    break
                after = page.next
            assert found == whole
            assert operator.ask(make(after="zzzz")).rows == []


def test_a_list_longer_than_a_message_is_whole_in_pages(make_policyd):
    policyd = make_policyd()
    key = sshkeys.generate_private_key().public.line()
    with policyd.operator() as operator:
        for number in range(300):
            labels = {f"label{one}": "v" * 40 for one in range(8)}
            operator.ask(m.TargetAdd(name=f"t{number:04}", address="192.0.2.1", labels=labels, host_keys=[key]))
        found, question = [], m.TargetList()
        while True:
            page = operator.ask(question)
            found += page.rows
            if not page.next:
                break
            question = m.TargetList(after=page.next)
    assert len(found) == 303


def test_sessions_and_the_trail_in_pages(make_policyd):
    policyd = make_policyd()
    peers = [policyd.session("alice") for _ in range(5)]
    found, after = [], ""
    while True:
        page = policyd.done(m.SessionsList(after=after, limit=2))
        found += [row[0] for row in page.rows]
        if not page.next:
            break
        after = page.next
    assert found == [row[0] for row in policyd.done(m.SessionsList()).rows]
    assert len(found) == 5
    before, seen = 0, []
    for _ in range(4):
        page = policyd.done(m.AuditList(limit=3, before=before))
        seen = [row[0] for row in page.rows] + seen
        before = int(page.next)
    assert seen == [str(number) for number in range(int(seen[0]), int(seen[-1]) + 1)]
    for peer, _ in peers:
        peer.close()
