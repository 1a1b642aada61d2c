"""policyd itself: its sockets, a task per conversation, deadlines, reload, watchdog."""

import gc
import itertools
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio
from trio.socket import SocketType

from policy import monitor, roster, setup
from policy.applications.judging import Registry
from policy.authorities.publishing import publish
from policy.authority import Authority
from policy.checkout import returning
from policy.checkout.lease import Checkouts
from policy.configuration import Configuration, read_all
from policy.conversation import Conversation, State
from policy.ldap import sync
from policy.leave import grants, standing
from policy.login.lockouts import Lockouts
from policy.notices.notifying import Notifier, told_of_ends
from policy.outside.couriers import Couriers
from policy.peers import (
    ADMIN_SOCKET,
    AUDIT_SOCKET,
    BROKER_SOCKET,
    COURIER_SOCKET,
    GATEWAY_SOCKET,
    RUNNER_SOCKET,
    group_of,
    is_crowded,
    listen,
    peer_of,
    welcome,
)
from policy.rotation.runner import Runner
from policy.rules.ruleset import RuleSet
from policy.sessions import access
from policy.sessions.live import Sessions, interrupted
from policy.store import Tables
from policy.trail.audit import Event
from policy.trail.ledger import Ledger, LedgerError
from policy.vault.masters import parse
from policy.vault.masters.passphrase import PassphraseMaster
from policy.vault.masters.transit import TransitMaster
from policy.vault.rekeying import Rekeying
from policy.vault.secrets import Secrets, trim
from policy.vault.unlocking import Opening, Unlocking

MAX_CONVERSATIONS: Final = {
    State.GATEWAY_NEW: 4096, State.ADMIN_NEW: 32, State.AUDITOR_NEW: 256, State.COURIER_NEW: 4,
    State.RUNNER_NEW: 4,
    State.APPLICANT: 1024,
}  # fmt: skip
"""One for each connection of a person, and what a gateway lets in before login; operators are few, couriers and runners
one. An auditor's tool stays connected for as long as it plays. The broker lets in 512 connections of applications."""
HOUSEKEEPING_SECONDS: Final = 3600.0
DRAIN_SECONDS: Final = 5.0
"""From SIGTERM to the end: conversations say what they have to, sessions are marked as ended."""

log = structlog.get_logger()


async def serve(config: Configuration) -> None:
    """Serve until SIGTERM or SIGINT. What open_state and read_all raise says why it cannot start."""
    files = read_all(config)
    couriers = Couriers()
    state, early, opening = await _opened(config, couriers)
    # Before there is a socket: who sees one may send a signal. While the vault is locked, each ends us.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        sockets = early or _sockets(config)
        try:
            desk = _desk(config, files, state, couriers)
            rotations = Runner(desk)
            desk.rotations = rotations
            desk.sessions.over = lambda live: None if live.machine else rotations.used(live.account, live.target)
            async with trio.open_nursery() as writing:  # outlives the conversations: their ends are written, too
                writing.start_soon(desk.ledger.run)
                await _run(desk, rotations, sockets, signals, opening)
                writing.cancel_scope.cancel()
        finally:
            for sock in sockets.values():
                sock.close()
            state.store.close()


def _desk(
    config: Configuration,
    files: tuple[RuleSet, frozenset[bytes], frozenset[str]],
    state: setup.State,
    couriers: Couriers,
) -> Authority:
    """What every handler works with, as the database and the files have it now."""
    rules, trusted, revoked = files
    with state.store.read() as tables:
        everyone, granted = roster.load(tables), standing.load(tables, time.time_ns())
        applications = Registry(tables.applications.all(), tables.applications.tokens(time.time_ns()))
        told = told_of_ends(tables)
        out = Checkouts(tables.checkouts.out(), now=time.time_ns(), clock=trio.current_time(), told=told)
        past = tables.failures(time.time_ns() - config.policy.lock_minutes * 60_000_000_000)
    lockouts = Lockouts(config.policy)
    lockouts.load(past)
    ledger = Ledger(state.store, state.head_file, state.head, state.register)
    return Authority(
        settings=config.policy,
        config=config,
        rules=rules,
        ledger=ledger,
        roster=everyone,
        vault=state.vault,
        secrets=Secrets(ledger, state.vault),
        rekeying=Rekeying(ledger, state.vault, state.master, config.policy.master_key),
        authorities=state.authorities,
        trusted_cas=trusted,
        revoked_keys=revoked,
        sessions=Sessions(ledger),
        lockouts=lockouts,
        standing=granted,
        couriers=couriers,
        applications=applications,
        checkouts=out,
    )


async def _opened(
    config: Configuration, couriers: Couriers
) -> tuple[setup.State, dict[State, SocketType], Opening | None]:
    """What is at rest; with it the sockets, if the vault could only be opened by somebody who came there."""
    master = parse(config.policy.master_key, config.state, os.environ, couriers.http)
    if not isinstance(master, PassphraseMaster | TransitMaster):
        return await setup.open_state(config, master), {}, None
    sockets = _sockets(config)
    unlocking = Unlocking(master, partial(setup.open_state, config, master), couriers)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watchdog, None)
            await unlocking.run(sockets, lambda why: _tell_systemd(f"READY=1\nSTATUS={why}"))
            nursery.cancel_scope.cancel()
        return unlocking.result(), sockets, unlocking.opening
    except BaseException:
        for sock in sockets.values():
            sock.close()
        raise


async def _run(
    desk: Authority,
    rotations: Runner,
    sockets: dict[State, SocketType],
    signals: AsyncIterator[int],
    opening: Opening | None,
) -> None:
    await _end_leftovers(desk)
    if opening is not None:
        told = {"wrong": str(opening.wrong or ""), "tries": str(opening.tries or "")}
        detail = {key: value for key, value in told.items() if value}
        await desk.ledger.note(Event(event="vault-unlock", who=opening.who or "policyd", detail=detail))
    detail = {"rules": str(len(desk.rules.rules)), "digest": desk.rules.digest, "pid": str(os.getpid())}
    began = await desk.ledger.note(Event(event="start", who="policyd", detail=detail))
    notifier = Notifier(desk, began)
    desk.ledger.heard = notifier.hear
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.run)
        nursery.start_soon(desk.sessions.expire, nursery)
        nursery.start_soon(desk.sessions.make_up)
        nursery.start_soon(rotations.run)
        nursery.start_soon(sync.run, desk)
        nursery.start_soon(desk.rekeying.run)
        nursery.start_soon(_housekeeping, desk)
        nursery.start_soon(_recheck_often, desk)
        nursery.start_soon(grants.close_what_is_over, desk)
        nursery.start_soon(returning.bring_back, desk)
        nursery.start_soon(_watchdog, desk)
        for first, listener in sockets.items():
            nursery.start_soon(_accept, desk, listener, first)
        where = sockets[State.GATEWAY_NEW].getsockname()
        log.info("ready", rules=len(desk.rules.rules), persons=len(desk.roster.persons()), socket=where)
        gc.collect()
        gc.freeze()  # a thousand modules that never go: each full collection would walk them
        _tell_systemd("READY=1")
        async for number in signals:
            if number != signal.SIGHUP:
                break
            _tell_systemd("RELOADING=1")
            await _reload(desk)
            await _recheck(desk)
            _tell_systemd("READY=1")
        _tell_systemd("STOPPING=1")
        log.info("stopping", sessions=len(desk.sessions))
        nursery.cancel_scope.cancel()
    with trio.move_on_after(DRAIN_SECONDS):
        await desk.ledger.note(Event(event="stop", who="policyd"))


async def _accept(desk: Authority, listener: SocketType, first: State) -> None:
    numbers, open_now = itertools.count(1), trio.CapacityLimiter(MAX_CONVERSATIONS[first])
    group = group_of(Path(listener.getsockname()))
    async with trio.open_nursery() as nursery:
        while True:
            try:
                connection, _ = await listener.accept()
            except OSError as error:  # out of file descriptors: those that are open go on
                log.error("accept-failed", error=error.strerror)
                await trio.sleep(0.5)
                continue
            try:
                peer = peer_of(connection)
            except OSError as error:  # one peer that cannot be known is not let in, and ends nobody else
                log.warning("peer-unknown", error=error.strerror)
                connection.close()
                continue
            # What is kept back is for the database, and for an operator who comes to make room.
            full = open_now.available_tokens < 1 or (first is State.GATEWAY_NEW and is_crowded(connection.fileno()))
            if not welcome(peer, group) or full:
                log.warning("peer-refused", peer=str(peer), socket=first, open=open_now.borrowed_tokens)
                connection.close()
                continue
            talk = Conversation(ident=next(numbers), connection=connection, peer=peer, state=first)
            open_now.acquire_on_behalf_of_nowait(talk)
            nursery.start_soon(_converse, desk, talk, open_now)


async def _converse(desk: Authority, talk: Conversation, open_now: trio.CapacityLimiter) -> None:
    try:
        await monitor.converse(desk, talk)
    finally:
        open_now.release_on_behalf_of(talk)


async def _end_leftovers(desk: Authority) -> None:
    """Sessions of a policyd that was killed: their gateways have closed them, since they lost us."""
    left = await desk.ledger.read(lambda t: t.sessions(limit=100_000))
    if left:
        events = [interrupted(one.person, f"{one.account}@{one.target}", one.source, one.id) for one in left]
        await desk.ledger.write(
            lambda t: [t.end_session(one.id, time.time_ns(), reason="interrupted") for one in left], *events
        )
        log.warning("sessions-interrupted", sessions=len(left))


async def _housekeeping(desk: Authority) -> None:
    while True:
        before = time.time_ns() - int(desk.lockouts.window * 1e9)
        try:
            async with desk.deciding:
                await publish(desk)  # it may be gone, and certificates leave the list by themselves
            await desk.ledger.write(partial(_forget, before))
            await trim(desk.ledger, desk.settings.secret_versions)
            while await desk.ledger.write(lambda t: t.applications.forget_leases(time.time_ns())):
                pass
        except LedgerError as error:
            log.error("housekeeping-failed", error=str(error))
        await trio.sleep(HOUSEKEEPING_SECONDS)


async def _recheck_often(desk: Authority) -> None:
    """A forbid rule may begin to hold at an hour, and then nobody has changed anything."""
    while True:
        await trio.sleep(desk.settings.recheck_seconds)
        await _recheck(desk)


async def _reload(desk: Authority) -> None:
    try:
        await desk.reload("policyd", "SIGHUP")
    except LedgerError as error:  # rules that no event tells of are not in force; the old ones stay
        log.error("rules-kept", problems=[str(error)])


async def _recheck(desk: Authority) -> None:
    try:
        await access.recheck(desk)
    except LedgerError as error:
        log.error("recheck", error=str(error))


def _forget(before: int, tables: Tables) -> None:
    tables.forget_failures(before)


async def _watchdog(desk: Authority | None) -> None:
    """Alive means: this loop turns, and the writer answers, once there is one."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        try:
            if desk is not None:
                await desk.ledger.write(lambda _: None)
            _tell_systemd("WATCHDOG=1")
        except LedgerError as error:
            log.error("watchdog", error=str(error))
        await trio.sleep(int(microseconds) / 1e6 / 3)


def _tell_systemd(text: str) -> None:
    """sd_notify(3); nothing happens where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if text == "RELOADING=1":
        text += f"\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            log.warning("notify-failed", error=error.strerror)


def _sockets(config: Configuration) -> dict[State, SocketType]:
    """One for each sort of peer, by the state they begin in; SocketError if they cannot be had."""
    passed = _passed_sockets()
    config.run.mkdir(mode=0o750, parents=True, exist_ok=True)
    # The gateway's group is that of the folder; the others' is our own, which no gateway is a member of.
    return {
        State.GATEWAY_NEW: passed.get("policyd") or listen(config.run / GATEWAY_SOCKET, group_of(config.run)),
        State.AUDITOR_NEW: passed.get("policyd-audit") or listen(config.run / AUDIT_SOCKET, os.getegid()),
        State.COURIER_NEW: passed.get("policyd-courier") or listen(config.run / COURIER_SOCKET, os.getegid()),
        State.RUNNER_NEW: passed.get("policyd-runner") or listen(config.run / RUNNER_SOCKET, os.getegid()),
        State.APPLICANT: passed.get("policyd-broker") or listen(config.run / BROKER_SOCKET, os.getegid()),
        # last, because who starts policyd waits for this one
        State.ADMIN_NEW: passed.get("policyd-admin") or listen(config.run / ADMIN_SOCKET, os.getegid()),
    }


def _passed_sockets() -> dict[str, SocketType]:
    """Listening sockets that systemd made (sd_listen_fds(3)), by FileDescriptorName."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = {}
    for number, name in zip(range(3, 3 + int(os.environ.get("LISTEN_FDS", "0"))), names, strict=False):
        os.set_inheritable(number, False)
        found[name] = trio.socket.from_stdlib_socket(socket.socket(fileno=number))
    return found
