"""Certificate authorities of a real policyd: next, current, retiring, retired; what is revoked; what rules demand."""

import base64
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing

import pytest
import trio

from policy import messages as m
from policy.authorities.life import Authorities, Ca, NotNow, Stage, Use, may_promote, next_number, to_promote, to_retire
from policy.authorities.revocation import Revoked, key_fingerprint, revocation_list, serials
from policy.configuration import read_configuration
from policy.keys import sshkeys
from policy.keys.certificates import SshCertificate, parse_certificate
from policy.keys.krl import Krl, read_krl
from policy.setup import open_state
from policy.store import open_store
from policy.vault.envelope import Vault
from policy.vault.masters import parse
from tests.policy.policyd import Policyd
from tests.policy.vault.test_rekey import rekeyed, sealed_anywhere, select
from tests.support.net import wait_until

GATEWAY = sshkeys.generate_private_key()
Make = Callable[..., Policyd]


def table(policyd: Policyd) -> dict[str, str]:
    """Stage by name."""
    return {row[0]: row[1] for row in policyd.done(m.CaShow()).rows}


def lines(policyd: Policyd, where: str) -> list[str]:
    return [line for place, line in policyd.done(m.CaLines()).rows if where in place]


def certificate(policyd: Policyd, account: str = "ops") -> SshCertificate:
    peer, grant = policyd.session("alice", account)
    answer = peer.ask(m.Credential(session=grant.session, session_key=GATEWAY.public.blob))
    assert isinstance(answer, m.UseCertificate), answer
    return parse_certificate(answer.certificate)


def the_list(policyd: Policyd) -> Krl:
    return read_krl(base64.b64decode(policyd.done(m.CaKrl()).data["list"]))


def by_ca(policyd: Policyd) -> Policyd:
    policyd.done(m.AccountAdd(account="ops", target="web1", user_ca=True))
    return policyd


# --- life ---------------------------------------------------------------------------------------------


def test_a_rotation_from_first_to_last(make_policyd: Make) -> None:
    policyd = by_ca(make_policyd())
    first = certificate(policyd).ca
    assert table(policyd) == {"user-1": "current", "host-1": "current"}
    made = policyd.done(m.CaRotate(use="user", reason="yearly"))
    assert made.data["ca"] == "user-2"
    assert certificate(policyd).ca == first, "what waits signs nothing"
    shown = lines(policyd, "TrustedUserCAKeys")
    assert [line.split()[-1] for line in shown] == ["bastion-user-1", "bastion-user-2"]
    assert len(lines(policyd, "known_hosts")) == 1, "the other use is as it was"
    assert "waits" in policyd.command(m.CaRotate(use="user")).cause

    policyd.done(m.CaRotate(use="user", promote=True))
    second = certificate(policyd).ca
    assert second != first
    assert second.line() == " ".join(shown[1].split()[:2])
    assert table(policyd) == {"user-1": "retiring", "user-2": "current", "host-1": "current"}
    assert [line.split()[-1] for line in lines(policyd, "TrustedUserCAKeys")] == ["bastion-user-2", "bastion-user-1"]
    assert not the_list(policyd).revokes_key(first.blob), "the overlap"
    policyd.done(m.CaRotate(use="user"))
    assert "trusted still" in policyd.command(m.CaRotate(use="user", promote=True)).cause

    assert "a reason is needed" in policyd.command(m.CaRetire(ca="user-1")).cause
    policyd.done(m.CaRetire(ca="user-1", reason="all targets have the new one"))
    assert the_list(policyd).revokes_key(first.blob)
    assert [line.split()[-1] for line in lines(policyd, "TrustedUserCAKeys")] == ["bastion-user-2", "bastion-user-3"]
    policyd.restart()
    assert table(policyd) == {"user-1": "retired", "user-2": "current", "user-3": "next", "host-1": "current"}
    assert certificate(policyd).ca == second
    events = [(one["event"], one["what"]) for one in reversed(policyd.audit()) if one["event"].startswith("ca-")]
    assert events == [
        ("ca-next", "user-2"), ("ca-promoted", "user-2"), ("ca-next", "user-3"), ("ca-retired", "user-1"),
    ]  # fmt: skip


def test_the_one_that_signs_is_not_retired(make_policyd: Make) -> None:
    policyd = make_policyd()
    for name in ("user-1", "host-1"):
        refused = policyd.command(m.CaRetire(ca=name, reason="x"))
        assert "the one that signs" in refused.cause
        assert "bastion ca rotate" in refused.hint
    assert "does not exist" in policyd.command(m.CaRetire(ca="user-9", reason="x")).cause
    assert "no next user authority" in policyd.command(m.CaRotate(use="user", promote=True)).cause
    assert "no use of an authority" in policyd.command(m.CaRotate(use="both")).cause
    assert set(table(policyd).values()) == {"current"}


def test_at_once_and_a_next_that_is_withdrawn(make_policyd: Make) -> None:
    policyd = make_policyd()
    policyd.done(m.CaRotate(use="host", now=True, reason="stolen"))
    assert table(policyd)["host-2"] == "current"
    assert "trusted still" in policyd.command(m.CaRotate(use="host", now=True)).cause
    policyd.done(m.CaRotate(use="host"))
    policyd.done(m.CaRetire(ca="host-3", reason="not wanted"))
    assert table(policyd)["host-3"] == "retired"
    answer = policyd.login("alice").ask(m.HostCertificate(target="web1", public=GATEWAY.public.blob))
    signed_by = parse_certificate(answer.blob).ca
    assert lines(policyd, "known_hosts")[0].startswith(f"@cert-authority * {signed_by.line()}")


def test_stages_are_vouched_for_by_the_register(make_policyd: Make) -> None:
    """Attack: with the database in hand, make the authority sign again that was retired because it was stolen."""
    policyd = make_policyd()
    policyd.done(m.CaRotate(use="user", now=True))
    policyd.done(m.CaRetire(ca="user-1", reason="stolen"))
    policyd.stop()
    with sqlite3.connect(policyd.database) as database:
        database.execute(
            "UPDATE secret_version SET state = CASE version WHEN 1 THEN 'current' ELSE 'retired' END "
            "WHERE secret = (SELECT id FROM secret WHERE name = 'user-ca')"
        )
    database.close()
    done = policyd.run("serve")
    assert done.returncode != 0
    assert "not as policyd left it" in done.stderr


def test_the_private_key_of_a_retired_one_is_destroyed(make_policyd: Make) -> None:
    """Attack: whoever opens the vault later certifies for targets that were never told of the end."""
    policyd = make_policyd()
    secret = "SELECT sealed FROM secret_version WHERE version = 1 AND secret = (SELECT id FROM secret WHERE name = ?)"
    (before,) = select(policyd, secret.replace("?", "'user-ca'"))
    first = lines(policyd, "TrustedUserCAKeys")[0].split()[1]
    policyd.done(m.CaRotate(use="user", now=True))
    assert select(policyd, secret.replace("?", "'user-ca'")) == [before], "the overlap"
    assert "its private key is destroyed" in policyd.done(m.CaRetire(ca="user-1", reason="over")).text
    wait_until("no page and no log to have it", lambda: not sealed_anywhere(policyd, before[0][5:]))
    policyd.stop()
    vault, cas = at_rest(policyd)
    retired = next(ca for ca in cas.all if ca.name == "user-1")
    assert retired.key is None
    assert retired.public.line().split()[1] == first, "the list of what is revoked needs it for ever"
    with closing(open_store("sqlite:///bastion.db", policyd.database.parent)) as store, store.read() as t:
        record = t.vault.named("user-ca")
        assert record is not None
        kept = [vault.open("ca", record.record, one.version, one.sealed) for one in t.vault.versions(record.id)]
    assert [b"PRIVATE KEY" in one.reveal() for one in kept] == [False, True]
    policyd.start()
    policyd.done(m.VaultRekey(reason="what is left of it is sealed anew as everything is"))
    wait_until("the end", lambda: rekeyed(policyd))
    policyd.restart()
    assert table(policyd)["user-1"] == "retired"


def at_rest(policyd: Policyd) -> tuple[Vault, Authorities]:
    """As a start would find it."""
    config = read_configuration(policyd.config)
    state = trio.run(open_state, config, parse("file:master.key", config.state, {}))
    state.store.close()
    return state.vault, state.authorities


def test_retired_ones_are_never_forgotten(make_policyd: Make) -> None:
    """Other secrets' old versions are; an authority that left the list of what is revoked would be trusted again."""
    policyd = make_policyd("secret_versions = 0")
    old = sshkeys.parse_authorized_key(lines(policyd, "TrustedUserCAKeys")[0]).key
    policyd.done(m.CaRotate(use="user", now=True))
    policyd.done(m.CaRetire(ca="user-1", reason="stolen"))
    with policyd.login("alice") as alice:
        alice.ask(m.SecretAdd(name="db/prod", value=b"1"))
        for value in (b"2", b"3"):
            alice.ask(m.SecretSet(name="db/prod", value=value))
    policyd.restart()
    wait_until("old versions to be forgotten", lambda: policyd.audit("vault-versions-forgotten"))
    policyd.restart()
    assert table(policyd).get("user-1") == "retired"
    assert the_list(policyd).revokes_key(old.blob)


def test_who_may(policyd: Policyd) -> None:
    peer = policyd.login("alice")
    for request in (m.CaRotate(use="user"), m.CaRetire(ca="user-1", reason="x"), m.CaRevoke(serial="1", reason="x"),
                    m.CaShow(), m.CaKrl()):  # fmt: skip
        assert peer.ask(request).cause == "you may not do this"
    assert isinstance(peer.ask(m.CaLines(use="user")), m.Rows)


# --- revocation -----------------------------------------------------------------------------------------


def test_what_is_revoked_is_in_the_list_and_its_version_grows(make_policyd: Make) -> None:
    policyd = by_ca(make_policyd())
    empty = the_list(policyd)
    peer, grant = policyd.session("alice", "ops")
    blob = peer.ask(m.Credential(session=grant.session, session_key=GATEWAY.public.blob)).certificate
    mine, other = parse_certificate(blob), certificate(policyd)
    event = next(one for one in policyd.audit("credential") if grant.session in str(one))
    assert str(mine.serial) in str(event), "what is revoked later can be found"
    said = policyd.done(m.CaRevoke(session=grant.session, reason="lost"))
    assert "bastion sessions kill" in said.text
    policyd.done(m.CaRevoke(serial="5-9", reason="x"))
    policyd.done(m.CaRevoke(key=GATEWAY.public.line("x"), reason="x"))
    found = the_list(policyd)
    assert found.version > empty.version >= 1

    def over(one: SshCertificate, **other: object) -> bool:
        parts = {"key": b"another key", "ca": one.ca.blob, "serial": one.serial, "key_id": one.key_id} | other
        return found.revokes_certificate(**parts)  # type: ignore[arg-type]

    assert over(mine)
    assert not over(other)
    assert over(other, serial=7)
    assert not over(other, serial=7, ca=b"one that is not ours")
    assert found.revokes_key(GATEWAY.public.blob)
    policyd.restart()
    assert the_list(policyd) == found


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (m.CaRevoke(serial="1"), "a reason is needed"),
        (m.CaRevoke(reason="x"), "one of a session"),
        (m.CaRevoke(serial="1", key="SHA256:x", reason="x"), "one of a session"),
        (m.CaRevoke(serial="0", reason="x"), "want the serial"),
        (m.CaRevoke(serial="9-5", reason="x"), "want the serial"),
        (m.CaRevoke(key="SHA256:x", reason="x"), "43 characters"),
        (m.CaRevoke(key="nonsense", reason="x"), "public key"),
        (m.CaRevoke(session="0" * 32, reason="x"), "no session"),
    ],
)
def test_revocations_that_name_nothing(policyd: Policyd, request_: m.CaRevoke, problem: str) -> None:
    answer = policyd.command(request_)
    assert isinstance(answer, m.Refused)
    assert problem in answer.cause


def test_a_long_list_comes_in_parts(make_policyd: Make) -> None:
    policyd = make_policyd()
    policyd.stop()
    rows = [("serial", str(2 * number), time.time_ns(), "x") for number in range(1, 1500)]
    with sqlite3.connect(policyd.database) as database:
        database.executemany("INSERT INTO revoked_certificate (kind, what, at, by) VALUES (?, ?, ?, ?)", rows)
    database.close()
    assert policyd.run("db", "accept-trail").returncode == 0
    policyd.start()
    parts = [policyd.done(m.CaKrl(offset=32 * 1024 * number)).data for number in range(3)]
    assert {part["size"] for part in parts} == {parts[0]["size"]}
    assert parts[2]["list"] == ""
    data = b"".join(base64.b64decode(part["list"]) for part in parts)
    assert len(data) == int(parts[0]["size"])
    found = read_krl(data)
    known = policyd.done(m.CaLines(use="user")).rows[0][1]
    ca = sshkeys.parse_authorized_key(known).key.blob
    assert found.revokes_certificate(key=b"k", ca=ca, serial=2998, key_id="")
    assert not found.revokes_certificate(key=b"k", ca=ca, serial=2999, key_id="")


def test_the_list_is_there_for_who_may_do_nothing_else(make_policyd: Make) -> None:
    policyd = make_policyd()
    public = policyd.home / "run" / "public"
    wait_until("the first one", (public / "revoked.krl").exists)

    def fetched() -> Krl:
        return read_krl((public / "revoked.krl").read_bytes())

    assert stat.S_IMODE((public / "revoked.krl").stat().st_mode) == 0o644
    assert stat.S_IMODE(public.stat().st_mode) == 0o755
    assert fetched() == the_list(policyd)
    policyd.done(m.CaRevoke(serial="5", reason="x"))
    assert fetched() == the_list(policyd)
    assert fetched().certificates[0].serials == ((5, 5),)
    policyd.done(m.CaRotate(use="user", now=True))
    assert len(fetched().certificates) == 3, "what is revoked counts under the new one, too"
    old = sshkeys.parse_authorized_key(lines(policyd, "TrustedUserCAKeys")[1]).key
    policyd.done(m.CaRetire(ca="user-1", reason="x"))
    assert fetched().revokes_key(old.blob)
    assert [path.name for path in public.iterdir()] == ["revoked.krl"]

    shutil.rmtree(public)
    public.write_text("in the way")
    said = policyd.done(m.CaRevoke(serial="6", reason="x")).text
    assert "the file for targets could not be written" in said
    assert policyd.audit("krl-not-written")
    public.unlink()
    policyd.restart()
    wait_until("it is there again", (public / "revoked.krl").exists)
    assert fetched() == the_list(policyd)


def test_an_altered_list_is_not_given_to_targets(make_policyd: Make) -> None:
    policyd = make_policyd()
    policyd.done(m.CaRevoke(serial="5", reason="x"))
    path = policyd.home / "run" / "public" / "revoked.krl"
    before = path.read_bytes()
    with closing(sqlite3.connect(policyd.database)) as database:
        database.execute("UPDATE revoked_certificate SET what = '9'")
        database.commit()
    assert "could not be written" in policyd.done(m.CaRevoke(serial="6", reason="x")).text
    assert path.read_bytes() == before


UNDONE = [
    "DELETE FROM revoked_certificate",
    "DELETE FROM revoked_certificate WHERE kind = 'key'",
    "UPDATE revoked_certificate SET what = '6' WHERE kind = 'serial'",
    "UPDATE revoked_certificate SET at = 1 WHERE kind = 'serial'",  # over by itself
    "UPDATE revoked_certificate SET kind = 'key-id' WHERE kind = 'serial'",
    "UPDATE revoked_certificate SET what = x'35' WHERE kind = 'serial'",
    "INSERT INTO revoked_certificate (kind, what, at, by) SELECT kind, '9', at, by FROM revoked_certificate LIMIT 1",
    "UPDATE setting SET value = zeroblob(16) WHERE name = 'krl'",
    "DELETE FROM setting WHERE name = 'krl'",
]


def test_what_is_revoked_stays_revoked_whoever_writes_to_the_database(make_policyd: Make) -> None:
    """Attack: a revocation is taken away, or rows from before it are put back, and a certificate is good again."""
    policyd = make_policyd()
    policyd.done(m.CaRevoke(serial="5", reason="x"))
    policyd.done(m.CaRevoke(key=GATEWAY.public.line("x"), reason="x"))
    whole, kept = the_list(policyd), policyd.home / "kept.db"

    def written(what: str) -> None:
        with closing(sqlite3.connect(policyd.database)) as database:
            database.executescript(f"BEGIN; {what}; COMMIT;")

    for number, what in enumerate(UNDONE, 1):
        with closing(sqlite3.connect(policyd.database)) as database, closing(sqlite3.connect(kept)) as copy:
            database.backup(copy)
        written(what)
        refused = policyd.command(m.CaKrl())
        assert isinstance(refused, m.Refused), what
        assert re.search(r"`(revoked \d+|krl)` was (added|changed|taken away)", refused.cause), refused.cause
        assert len(policyd.audit("vault-altered")) == number
        tables = "revoked_certificate", "setting"
        back = "; ".join(f"DELETE FROM {one}; INSERT INTO {one} SELECT * FROM kept.{one}" for one in tables)
        with closing(sqlite3.connect(policyd.database, isolation_level=None)) as database:
            database.execute("ATTACH ? AS kept", [str(kept)])
            database.executescript(f"BEGIN IMMEDIATE; {back}; COMMIT;")
        assert the_list(policyd) == whole

    policyd.stop()
    good = policyd.database.read_bytes()
    for what in UNDONE[1:]:
        written(what)
        done = policyd.run("serve")
        assert done.returncode == 78, what
        assert "not as policyd left it" in done.stderr
        policyd.database.write_bytes(good)
    policyd.start()
    assert the_list(policyd) == whole


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("DELETE FROM revoked_certificate", "`revoked 1` was taken away"),
        ("DELETE FROM setting WHERE name = 'krl'", "`krl` was taken away"),
        ("UPDATE setting SET value = zeroblob(16) WHERE name = 'krl'", "`krl` is not what was written last"),
    ],
)
def test_a_revocation_that_starts_from_what_was_altered_says_so_and_what_to_do(
    make_policyd: Make, what: str, said: str
) -> None:
    policyd = make_policyd()
    policyd.done(m.CaRevoke(serial="5", reason="x"))
    with closing(sqlite3.connect(policyd.database)) as database:
        database.execute(what)
        database.commit()
    refused = policyd.command(m.CaRevoke(serial="6", reason="x"))
    assert isinstance(refused, m.Refused)
    assert (refused.code, said in refused.cause) == (78, True), refused.cause
    assert said in policyd.audit("vault-altered")[0]["why"], "people are told, as of whatever is altered"
    with policyd.login("ada") as ada:
        hidden = ada.ask(m.CaRevoke(serial="6", reason="x"))
        assert (hidden.code, hidden.cause) == (78, "the vault does not open this"), "who comes by ssh learns no more"
    assert "bastion-policyd db accept-trail" in refused.hint, "and that is how it goes on:"
    policyd.stop()
    assert policyd.run("serve").returncode == 78
    assert policyd.run("db", "accept-trail").returncode == 0
    policyd.start()
    policyd.done(m.CaRevoke(serial="6", reason="x"))
    assert the_list(policyd)


def test_old_certificates_leave_the_list_and_keys_do_not() -> None:
    def entry(kind: str, what: str, days: float) -> Revoked:
        return Revoked(kind=kind, what=what, at=int((now - days * 86_400) * 1e9), by="x", reason="x")

    now = time.time()
    fingerprint = key_fingerprint(GATEWAY.public.line())
    listed = [entry("serial", "5", 32), entry("serial", "6", 30), entry("key", fingerprint, 900)]
    found = revocation_list(family(Stage.CURRENT), listed, version=1, changed=2, now=now)
    assert found.certificates[0].serials == ((6, 6),)
    assert found.revokes_key(GATEWAY.public.blob)
    assert serials("5") == (5, 5)


def family(*stages: Stage) -> Authorities:
    cas = []
    for number, stage in enumerate(stages, 1):
        key = sshkeys.generate_private_key()
        kept = None if stage is Stage.RETIRED else key
        cas.append(Ca(use=Use.USER, number=number, stage=stage, public=key.public, key=kept, made=0))
    return Authorities(tuple(cas))


@pytest.mark.parametrize(
    ("stages", "rotate", "promote", "retire"),
    [  # what may be done: a new one, a promotion, and the end of each
        ((Stage.CURRENT,), True, False, [False]),
        ((Stage.CURRENT, Stage.NEXT), False, True, [False, True]),
        ((Stage.RETIRING, Stage.CURRENT), True, False, [True, False]),
        ((Stage.RETIRING, Stage.CURRENT, Stage.NEXT), False, False, [True, False, True]),
        ((Stage.RETIRED, Stage.CURRENT, Stage.NEXT), False, True, [False, False, True]),
    ],
)
def test_every_stage_and_what_may_be_done(
    stages: tuple[Stage, ...], rotate: bool, promote: bool, retire: list[bool]
) -> None:
    cas = family(*stages)

    def may(step: Callable[..., object], *words: object) -> bool:
        try:
            step(cas, *words)
        except NotNow:
            return False
        return True

    assert may(next_number, Use.USER) is rotate
    assert may(to_promote, Use.USER) is promote
    assert [may(to_retire, ca.name) for ca in cas.all] == retire
    assert may(may_promote, Use.USER) is (Stage.RETIRING not in stages)


# --- what rules demand --------------------------------------------------------------------------------

FORCED = """
[[rule]]
name = "forced"
who = { roles = ["engineer"] }
where = { labels = { env = "test" } }
as = ["*"]
allow = ["shell", "exec"]

[rule.certificate]
force-command = "/usr/bin/backup"
source-address = ["192.0.2.0/24"]
minutes = 2
principals = ["$account", "p"]
"""


def test_a_certificate_says_what_the_rule_demands(make_policyd: Make) -> None:
    policyd = by_ca(make_policyd('certificate_sources = ["198.51.100.7"]', {"policy.toml": FORCED}))
    found = certificate(policyd)
    assert dict(found.critical) == {"force-command": b"/usr/bin/backup", "source-address": b"192.0.2.0/24"}
    assert found.principals == ("ops", "p")
    assert found.valid_before - time.time() < 121


def test_the_setting_holds_where_no_rule_says_otherwise(make_policyd: Make) -> None:
    policyd = by_ca(make_policyd('certificate_sources = ["198.51.100.7", "fd00::/8"]'))
    assert dict(certificate(policyd).critical) == {"source-address": b"198.51.100.7,fd00::/8"}


def test_an_account_that_opens_by_key_cannot_be_held_to_it(make_policyd: Make) -> None:
    policyd = make_policyd("", {"policy.toml": FORCED})
    refused = policyd.login("alice").ask(m.Authorize(account="root", target="web1"))
    assert isinstance(refused, m.Refused)
    assert refused.code == 78
    assert "cannot be held" in refused.cause


def test_a_session_that_runs_free_ends_when_the_rules_force_a_command(make_policyd: Make) -> None:
    policyd = by_ca(make_policyd())
    peer, grant = policyd.session("alice", "ops")
    (policyd.home / "policy.toml").write_text(FORCED)
    policyd.done(m.Reload())
    pushed = peer.push()
    assert isinstance(pushed, m.EndSession)
    assert pushed.session == grant.session
