"""recorderd itself: one socket, a task per connection, group commit, watchdog.

NEW        Open    -> Opened, RECORDING        Status -> Health, NEW
RECORDING  Append  -> Ack                      End    -> Ended, over
anything else closes the socket; a connection that is lost ends its recording as interrupted
"""

import gc
import os
import signal
import socket
from pathlib import Path
from typing import Final

import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from recorder import durable, node
from recorder.configuration import Configuration
from recorder.connection import Connection
from recorder.journal import Limits
from recorder.live import Live, Studio, now
from recorder.nodelog import What
from recorder.quick import QuickLoop
from recorder.recovery import Outcome, recover
from recorder.sockets import SOCKET, listen, passed_socket, peer_of, spare, welcome
from recorder.systemd import tell, watchdog_seconds

MAX_CONNECTIONS: Final = 8192
"""One per live session; each holds four file handles of the 65,536 that the unit allows."""
DRAIN_SECONDS: Final = 8.0
"""From SIGTERM to the end: each live recording gets its end record and its sync. `bastion run` kills after 10."""
SYNC_MS: Final = 200
"""Where every batch is synced by itself, the group commit still has the seals and the node log."""
TICK: Final = 1.0

log = structlog.get_logger()


async def serve(loop: QuickLoop, config: Configuration) -> None:
    """Serve until SIGTERM or SIGINT. OSError, ValueError and SocketError say why it cannot start."""
    settings = config.recorder
    folder = durable.Folder(config.directory, settings.reserve_mib, settings.low_water_mib)
    key = node.node_key(folder)
    node_log = node.NodeLog(folder, key)
    _recover(folder, key, node_log)
    config.run.mkdir(mode=0o750, parents=True, exist_ok=True)
    listener = passed_socket() or listen(config.run / SOCKET, os.stat(config.run).st_gid)
    listener.setblocking(False)
    limits = Limits(segment_seconds=settings.segment_seconds, segment_bytes=settings.segment_kib * 1024)
    with listener, trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as background:
            studio = Studio(
                folder=folder,
                node_key=key,
                log=node_log,
                node=config.node,
                auditors=config.auditors,
                limits=limits,
                background=background,
                loop=loop,
            )
            background.start_soon(_commit, studio, (settings.sync_ms or SYNC_MS) / 1000)
            background.start_soon(_tick, studio)
            background.start_soon(_watchdog)
            async with trio.open_nursery() as doors:
                doors.start_soon(_accept, studio, listener, settings.sync_ms == 0)
                log.info("ready", socket=listener.getsockname(), recordings=str(folder.path), node=config.node)
                gc.collect()
                gc.freeze()  # a thousand modules that never go: each full collection would walk them
                tell("READY=1")
                async for number in signals:
                    if number != signal.SIGHUP:  # nothing here changes without a restart: keys and limits are per start
                        break
                tell("STOPPING=1")
                log.info("stopping", live=len(studio.live))
                doors.cancel_scope.cancel()
            background.cancel_scope.cancel()


def _recover(folder: durable.Folder, key: Ed25519PrivateKey, node_log: node.NodeLog) -> None:
    """Before anybody is let in."""
    for day, session in folder.unfinished():
        wall_us = now().wall_us
        try:
            found = recover(folder, day, session, key, wall_us)
        except OSError as error:  # a link, a folder, a bad sector: left as it is, and the others are recorded again
            found = Outcome("damaged", why=(error.strerror or str(error)).lower())
        log.warning("recovery", session=session, how=found.how, chunks=found.chunks, torn=found.torn, why=found.why)
        if found.how in ("recovered", "complete"):
            node_log.note(What.CLOSED, wall_us, session, found.file, found.state, "interrupted")


async def _accept(studio: Studio, listener: socket.socket, sync: bool) -> None:
    group = os.stat(Path(listener.getsockname())).st_gid
    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:  # out of file descriptors: those that are open go on
                log.error("accept-failed", error=error.strerror)
                await trio.sleep(0.5)
                continue
            peer = peer_of(sock)
            if not welcome(peer, group) or len(nursery.child_tasks) >= MAX_CONNECTIONS:
                log.warning("peer-refused", peer=str(peer), open=len(nursery.child_tasks))
                sock.close()
                continue
            nursery.start_soon(Connection(studio, sock, peer, sync, DRAIN_SECONDS).serve)


async def _commit(studio: Studio, seconds: float) -> None:
    """Group commit: what was written becomes durable together, at most `seconds` later."""
    while True:
        await trio.sleep(seconds)
        owners: dict[int, Live] = {}
        for live in list(studio.live.values()):
            owners |= dict.fromkeys(live.files.for_commit(), live)
            if len(owners) >= spare() // 2:  # the other half is for new tails
                await _sync(studio, owners)
                owners = {}
        await _sync(studio, owners)


async def _sync(studio: Studio, owners: dict[int, Live]) -> None:
    """Sync these handles and the node log, and close them; who cannot be synced is told."""
    handles, log_handle = list(owners), -1
    if studio.log.file.dirty:
        try:
            handles.append(log_handle := os.dup(studio.log.file.handle))
            studio.log.file.dirty = False
        except OSError:
            pass  # out of descriptors: it stays dirty for the next commit
    if handles:
        with trio.CancelScope(shield=True):
            failed = await trio.to_thread.run_sync(durable.sync_handles, handles, studio.folder.handle)
        for handle in failed - {log_handle}:
            owners[handle].commit_failed()
        if log_handle in failed:
            studio.log.file.dead = True
            log.error("node-log-failed")


async def _tick(studio: Studio) -> None:
    while True:
        await trio.sleep(TICK)
        studio.folder.refill()
        for live in list(studio.live.values()):
            live.tick()


async def _watchdog() -> None:
    if seconds := watchdog_seconds():
        while True:
            tell("WATCHDOG=1")
            await trio.sleep(seconds / 3)
