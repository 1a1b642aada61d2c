"""The database and its one writer: whole changes or none, the way up from the first schema, locks, crashes."""

import os
import resource
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
import trio
import trio.testing
from alembic import command
from alembic.script import ScriptDirectory

from policy import records, store
from policy.store import Conflict, StoreError, migrate
from policy.store.schema import metadata
from policy.trail import audit
from policy.trail import ledger as ledgers
from policy.trail.audit import START, Event, HeadFile
from policy.trail.ledger import Ledger, LedgerError
from policy.vault.register import Register
from tests.policy.sealed import sealed_rows

URL = "sqlite:///bastion.db"
NOW = 1_800_000_000_000_000_000


@pytest.fixture
def made(tmp_path: Path):
    database = store.create(URL, tmp_path)
    yield database
    database.close()


def test_the_file_is_for_its_owner(tmp_path):
    old = os.umask(0)
    try:
        store.create(URL, tmp_path / "deep" / "er").close()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "deep" / "er" / "bastion.db").stat().st_mode) == 0o600


def test_migrations_make_the_schema_that_the_program_has(made, tmp_path):
    """A column that only one of the two has is found here and not in production."""
    from sqlalchemy import create_engine, inspect

    seen = inspect(create_engine(f"sqlite:///{tmp_path}/bastion.db"))
    assert set(seen.get_table_names()) - {"alembic_version"} == set(metadata.tables)
    for name, table in metadata.tables.items():
        found = {column["name"]: column["nullable"] for column in seen.get_columns(name)}
        assert found == {column.name: column.nullable for column in table.columns}, name
        indexes = {index["name"] for index in seen.get_indexes(name)}
        assert {index.name for index in table.indexes} <= indexes, name


def test_every_upgrade_from_the_first_schema_keeps_what_is_there(tmp_path):
    engine = store._engine(URL, tmp_path, make=True)
    config = migrate.alembic_config()
    first = list(ScriptDirectory.from_config(config).walk_revisions())[-1].revision
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, first)
        connection.exec_driver_sql("INSERT INTO person (name, disabled, created) VALUES ('alice', 0, 1)")
    engine.dispose()
    database = store.create(URL, tmp_path)
    with database.read() as tables:
        assert [person.name for person in tables.persons()] == ["alice"]
    database.close()
    assert store.status(URL, tmp_path) == (migrate.wanted(), migrate.wanted())
    store.open_store(URL, tmp_path).close()


def test_migrations_are_named_by_their_revisions():
    script = ScriptDirectory.from_config(migrate.alembic_config())
    assert script.get_current_head() == migrate.wanted()
    assert all(migrate.known(revision.revision) for revision in script.walk_revisions())


def test_another_schema_is_not_opened(made, tmp_path):
    with made.write() as tables:
        tables._db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer program"):
        store.open_store(URL, tmp_path)


def test_what_is_no_database(tmp_path):
    for url in ("postgresql://x/y", "sqlite://", "sqlite:///:memory:", "nonsense", ""):
        with pytest.raises(StoreError):
            store.open_store(url, tmp_path)
    with pytest.raises(StoreError, match="does not exist"):
        store.open_store(URL, tmp_path)
    (tmp_path / "bastion.db").write_bytes(b"this is no database" * 500)
    with pytest.raises(StoreError):
        store.open_store(URL, tmp_path)
    (tmp_path / "bastion.db").write_bytes(b"")
    with pytest.raises(StoreError, match="empty"):
        store.open_store(URL, tmp_path)


def test_a_change_is_whole_or_absent(made):
    def fail() -> None:
        with made.write() as tables:
            tables.add_person("alice", NOW)
            raise RuntimeError

    def collide() -> None:
        with made.write() as tables:
            tables.add_role("alice", "dba")
            tables.add_person("alice", NOW)

    with pytest.raises(RuntimeError):
        fail()
    with made.write() as tables:
        assert tables.persons() == []
        tables.add_person("alice", NOW)
    with pytest.raises(Conflict, match=r"person\.name"):
        collide()
    with made.read() as tables:
        assert tables.persons()[0].roles == frozenset()


def test_a_key_names_one_person(made):
    with made.write() as tables:
        tables.add_person("alice", NOW)
        tables.add_person("bob", NOW)
        tables.add_key("alice", "SHA256:x", "line", NOW)
    with pytest.raises(Conflict, match=r"key\.fingerprint"), made.write() as tables:
        tables.add_key("bob", "SHA256:x", "line", NOW)


def test_an_offboarded_name_stays_taken(made):
    with made.write() as tables:
        tables.add_person("alice", NOW)
        tables.add_role("alice", "admin")
        tables.add_key("alice", "SHA256:x", "line", NOW)
        tables.put_password("alice", "$argon2id$x", NOW)
        tables.proofs.add_authenticator("alice", *sealed_rows("a1", "totp", "totp alice a1"))
        tables.offboard("alice", NOW)
    with pytest.raises(Conflict), made.write() as tables:
        tables.add_person("alice", NOW)
    with made.read() as tables:
        (alice,) = tables.persons()
        assert (alice.disabled, alice.roles, alice.keys, alice.phc, alice.totp) == (True, frozenset(), (), "", ())


def test_an_account_takes_its_secret_along(made):
    with made.write() as tables:
        tables.add_target(records.Target(name="web1", address="h", port=22, protocol="ssh", labels={"a": "b"}))
        tables.vault.add_secret(*sealed_rows("s1", "password", "root@web1"))
        tables.add_account(records.Account(target="web1", name="root", kind="password", secret="s1"))
        tables.remove_target("web1")
        assert tables.vault.secret("s1") is None
        assert tables.vault.versions("s1") == []
        assert tables.accounts() == []


def test_of_twenty_uses_of_one_step_one_counts(made):
    with made.write() as tables:
        tables.add_person("alice", NOW)
        tables.proofs.add_authenticator("alice", *sealed_rows("a1", "totp", "totp alice a1"))
        assert tables.last_step("a1") == -1
    won = []
    lock = threading.Lock()

    def run() -> None:
        with lock, made.write() as tables:  # one writer at a time, as the ledger has it
            if tables.use_step("a1", 50, NOW):
                won.append(1)

    threads = [threading.Thread(target=run) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    with made.write() as tables:
        assert not tables.use_step("a1", 49, NOW)
        assert tables.use_step("a1", 51, NOW)


def test_a_session_ends_once(made):
    session = records.Session(
        id="s", person="alice", account="root", target="web1", source="::1", via="direct", rule="r", granted=NOW
    )
    with made.write() as tables:
        tables.add_session(session)
        tables.start_session("s", "file", NOW + 1)
        assert [one.started for one in tables.sessions()] == [NOW + 1]
        assert tables.end_session("s", NOW + 2, reason="kill", by="bob")
        assert not tables.end_session("s", NOW + 3, reason="late")
        tables.count_bytes("s", 5, 6)
        tables.count_bytes("s", 7, 8)
        assert tables.sessions() == []
        (ended,) = tables.sessions(all=True)
        assert (ended.reason, ended.ended_by, ended.bytes_in, ended.bytes_out) == ("kill", "bob", 5, 6)
        assert tables.last_use("web1", "root") == NOW


# --- the ledger ---------------------------------------------------------------------------------------------


@pytest.fixture
def head_file(tmp_path: Path) -> HeadFile:
    file = HeadFile(tmp_path / "audit.head", b"k" * 32)
    file.make()
    return file


@pytest.mark.trio
async def test_a_change_and_its_event_or_neither(made, head_file, nursery):
    ledger = Ledger(made, head_file, START, Register(b"k" * 32, ()))
    nursery.start_soon(ledger.run)
    await ledger.write(lambda t: t.add_person("alice", NOW), Event(event="person-add", what="alice"), durable=True)
    with pytest.raises(Conflict):
        await ledger.write(lambda t: t.add_person("alice", NOW), Event(event="person-add", what="again"))
    await ledger.note(Event(event="view"))
    rows = await ledger.read(lambda t: t.audit_from(0, 10))
    assert [row.event for row in rows] == ["person-add", "view"]


@pytest.mark.trio
async def test_a_failed_change_alone_leaves_nothing_behind(made, head_file, nursery):
    """A part of a change that failed must not be there with the event that says it was made."""
    ledger = Ledger(made, head_file, START, Register(b"k" * 32, ()))
    nursery.start_soon(ledger.run)

    def change(tables: store.Tables) -> None:
        tables.add_person("alice", NOW)
        raise Conflict("halfway")

    with pytest.raises(Conflict):
        await ledger.write(change, Event(event="person-add", what="alice"), durable=True)
    assert await ledger.read(lambda t: t.persons()) == []
    assert await ledger.read(lambda t: t.audit_from(0, 10)) == []


@pytest.mark.trio
async def test_a_failed_change_in_a_batch_undoes_itself_alone(made, head_file):
    ledger = Ledger(made, head_file, START, Register(b"k" * 32, ()))
    outcomes: dict[str, object] = {}

    async def add(number: int, name: str) -> None:
        def change(tables: store.Tables) -> None:
            tables.put_setting(f"part {number}", b"made")
            tables.add_person(name, NOW)

        try:
            await ledger.write(change, Event(event="person-add", what=name))
            outcomes.setdefault(name, "ok")
        except Conflict:
            outcomes[f"{name} again"] = "conflict"

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as adding:
            for number, name in enumerate(("alice", "alice", "bob", "carol")):
                adding.start_soon(add, number, name)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ledger.run)
        nursery.cancel_scope.cancel()
    assert outcomes == {"alice": "ok", "alice again": "conflict", "bob": "ok", "carol": "ok"}
    with made.read() as tables:
        rows = list(store.in_batches(tables))
        assert audit.verify(rows, head_file.load()).ok
        assert len(rows) == 3
        parts = [tables.setting(f"part {number}") for number in range(4)]
        assert parts.count(None) == 1, "what the failed one had done before it failed is undone"


@pytest.mark.trio
async def test_the_head_follows_within_the_time_that_power_may_cost(made, head_file, nursery):
    ledger = Ledger(made, head_file, START, Register(b"k" * 32, ()))
    nursery.start_soon(ledger.run)
    await ledger.note(Event(event="one"))
    assert head_file.load() == START, "an answer does not wait for the disk"
    with trio.fail_after(60):
        while head_file.load() == START:  # noqa: ASYNC110 - what is waited for is a file
            await trio.sleep(0.01)
    await ledger.write(lambda _: None, Event(event="two"), durable=True)
    assert head_file.load().seq == 2


@pytest.mark.trio
async def test_a_slow_disk_holds_up_no_commit(made, head_file, nursery, monkeypatch):
    syncing, going_on, sync = threading.Event(), threading.Event(), made.sync

    def slow() -> None:
        syncing.set()
        assert going_on.wait(60)
        sync()

    monkeypatch.setattr(made, "sync", slow)
    ledger = Ledger(made, head_file, START, Register(b"k" * 32, ()))
    nursery.start_soon(ledger.run)
    try:
        with trio.fail_after(60):
            await ledger.note(Event(event="one"))
            assert await trio.to_thread.run_sync(syncing.wait, 5)
            await ledger.note(Event(event="two"))
        assert head_file.load() == START, "the head follows the disk"
    finally:
        going_on.set()
    await ledger.write(lambda _: None, Event(event="three"), durable=True)
    assert head_file.load().seq == 3


@pytest.mark.trio
async def test_a_log_that_was_removed_is_the_end(made, head_file, tmp_path):
    ledger = Ledger(made, head_file, START, Register(b"k" * 32, ()))

    async def goes_on() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.run)
            await ledger.note(Event(event="one"))
            (tmp_path / "bastion.db-wal").unlink()
            with trio.fail_after(60):
                await ledger.write(lambda _: None, Event(event="two"), durable=True)
            nursery.cancel_scope.cancel()  # it went on

    with pytest.raises(ExceptionGroup) as ended:
        await goes_on()
    assert ended.value.subgroup(FileNotFoundError)


@pytest.mark.trio
async def test_the_log_is_moved_beside_the_commits(made, head_file, tmp_path, nursery, monkeypatch):
    monkeypatch.setattr(ledgers, "RELIEVE_SECONDS", 0.05)
    ledger = Ledger(made, head_file, START, Register(b"k" * 32, ()))
    nursery.start_soon(ledger.run)
    await ledger.note(Event(event="a-thing-that-was-kept"))
    with trio.fail_after(60):
        while b"a-thing-that-was-kept" not in (tmp_path / "bastion.db").read_bytes():  # noqa: ASYNC110 - a file
            await trio.sleep(0.02)
    await ledger.checkpoint()
    assert (tmp_path / "bastion.db-wal").stat().st_size == 0


@pytest.mark.trio
async def test_the_end_is_synced(made, head_file):
    ledger = Ledger(made, head_file, START, Register(b"k" * 32, ()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.run)
        await ledger.note(Event(event="one"))
        nursery.cancel_scope.cancel()
    assert head_file.load().seq == 1


@pytest.mark.trio
async def test_a_locked_database_is_a_refusal_and_then_works_again(made, head_file, tmp_path, nursery, monkeypatch):
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.1)
    database = store.open_store(URL, tmp_path)
    ledger = Ledger(database, head_file, START, Register(b"k" * 32, ()))
    nursery.start_soon(ledger.run)
    locker = sqlite3.connect(tmp_path / "bastion.db", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="cannot be written"):
        await ledger.note(Event(event="lost"))
    locker.execute("ROLLBACK")
    await ledger.note(Event(event="kept"))
    rows = await ledger.read(lambda t: t.audit_from(0, 10))
    assert [row.event for row in rows] == ["kept"]
    locker.close()
    database.close()


@pytest.mark.trio
async def test_a_full_queue_is_a_refusal(made, head_file):
    ledger = Ledger(made, head_file, START, Register(b"k" * 32, ()))  # nobody writes
    async with trio.open_nursery() as nursery:
        for _ in range(ledgers.QUEUE):
            nursery.start_soon(ledger.note, Event(event="x"))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(LedgerError, match="too busy"):
            await ledger.note(Event(event="x"))
        nursery.cancel_scope.cancel()


def test_without_file_descriptors_a_checkpoint_is_put_off(tmp_path: Path) -> None:
    """Attack: connections until nothing can be opened, and policyd ends because its log grows."""
    made = store.create("sqlite:///bastion.db", tmp_path)
    made.close()  # no connection is kept
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        made.relieve()
        with pytest.raises(store.StoreError, match="unable to open"):
            made.checkpoint()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    made.checkpoint()
    made.close()
