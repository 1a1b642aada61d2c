"""A policyd within the test's own process, whose writer runs when the test says so."""

import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from policy import roster
from policy.authority import Authority
from policy.configuration import read_all, read_configuration
from policy.conversation import Conversation, State
from policy.login import authenticate
from policy.login.lockouts import Lockouts
from policy.peers import peer_of
from policy.sessions.live import Sessions
from policy.setup import open_state
from policy.trail.ledger import Ledger
from policy.vault.masters import parse
from policy.vault.rekeying import Rekeying
from policy.vault.secrets import Secrets
from tests.policy.policyd import Policyd, hello, proof


@dataclass
class Desk:
    """`authority` as `policy.daemon` makes it; `ledger.run` is started by the test."""

    authority: Authority
    filled: Policyd
    near: list[socket.socket]

    def talk(self, state: State = State.GATEWAY_NEW) -> Conversation:
        ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near += [ours, theirs]
        return Conversation(ident=len(self.near), connection=ours, peer=peer_of(ours), state=state)

    async def login(self, name: str) -> Conversation:
        """A conversation after its first factor, with the writer running."""
        talk = self.talk()
        await authenticate.hello(self.authority, talk, hello())
        await authenticate.prove_key(self.authority, talk, proof(self.filled.keys[name]))
        return talk


@asynccontextmanager
async def within(filled: Policyd, folder: Path) -> AsyncIterator[Desk]:
    """On a copy of a stopped policyd's state, in `folder`."""
    shutil.copytree(filled.home / "state", folder / "state")
    daemon = Policyd(folder, keys=dict(filled.keys))
    daemon.write()
    config = read_configuration(daemon.config)
    rules, trusted, revoked = read_all(config)
    state = await open_state(config, parse(config.policy.master_key, config.state, {}))
    with state.store.read() as tables:
        everyone = roster.load(tables)
    ledger = Ledger(state.store, state.head_file, state.head, state.register)
    authority = Authority(
        settings=config.policy, config=config, rules=rules, ledger=ledger, roster=everyone, vault=state.vault,
        secrets=Secrets(ledger, state.vault), rekeying=Rekeying(ledger, state.vault, state.master, ""),
        authorities=state.authorities, trusted_cas=trusted, revoked_keys=revoked,
        sessions=Sessions(ledger), lockouts=Lockouts(config.policy),
    )  # fmt: skip
    made = Desk(authority, filled, [])
    yield made
    for sock in made.near:
        sock.close()
    state.store.close()
