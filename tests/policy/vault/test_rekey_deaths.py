"""`vault rekey` and `rekey --master`, dying after every single call that changes a file, by each source of the key.

One policyd does it while its calls are written down; what each of them leaves is then opened in this process. So all
steps cost less than three processes would (and test_rekey has those that really die).
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from policy import messages as m
from policy.setup import State
from policy.store import in_batches
from policy.store.vault_tables import CURRENT
from policy.trail import audit
from policy.trail.audit import Event
from policy.trail.ledger import Ledger
from policy.vault.envelope import generation_of
from policy.vault.masters import Master, parse
from policy.vault.rekeying import Rekeying
from policy.vault.secret import VaultError
from policy.vault.secrets import Secrets
from tests.policy.dying import opened, traced, tracing
from tests.policy.policyd import Policyd
from tests.policy.vault.test_masters import MODULE, through_courier, tokens
from tests.policy.vault.test_rekey import WHY, rename_master
from tests.support.net import wait_until
from tests.support.transit import Transit

__all__ = ["tokens"]

pytestmark = [pytest.mark.fault, tracing]

FILE = "file:master.key"
OLD_TOKEN = "old"
Make = Callable[..., Policyd]


@dataclass(frozen=True)
class Place:
    """A source of the master key that works, for [policy] master_key."""

    where: str
    courier: bool = False

    def master(self, state: Path) -> Master:
        return parse(self.where, state, {}, through_courier)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        match request.param:
            case "file":
                yield Place("file:other.key")
            case "pkcs11":
                if not MODULE.exists():
                    pytest.skip("needs softhsm2")
                home = request.getfixturevalue("tokens")
                label = f"deaths-{request.node.originalname}"
                yield Place(f"pkcs11:token=bastion;object={label}?module-path={MODULE}&pin-source=file:{home}/pin")
            case "transit":
                server = stack.enter_context(Transit(tmp_path / "transit"))
                token = tmp_path / "transit.token"
                token.write_text("s.good\n")
                token.chmod(0o600)
                yield Place(server.where(token=f"file:{token}"), courier=True)


def courier(policyd: Policyd) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "bastion.courier", "--config", str(policyd.config)]
    with (policyd.home / "courier.log").open("wb") as log:
        return subprocess.Popen(words, stderr=log)


def rekey(policyd: Policyd) -> None:
    policyd.done(m.VaultRekey(reason=WHY))
    wait_until("the end", lambda: '"vault-rekeyed"' in policyd.log())


def rewrap(policyd: Policyd, place: Place) -> Callable[[], None]:
    rename_master(policyd, place.where)

    def run() -> None:
        policyd.done(m.VaultRekey(reason=WHY, master=True))

    return run


async def finished(state: State, place: str, *, anew: Master | None = None) -> int:
    """What a start does, to its end: everything sealed by one root key, and everything opens; its generation.

    `anew` is then to wrap it, as who was interrupted says once more.
    """
    ledger = Ledger(state.store, state.head_file, state.head, state.register)
    rekeying = Rekeying(ledger, state.vault, state.master, place)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.run)
            nursery.start_soon(rekeying.run)
            with trio.fail_after(60):
                while rekeying.under_way:
                    assert not rekeying.stopped
                    await trio.sleep(0.002)
                if anew is not None:
                    await rekeying.rewrap(anew, "anew", Event(event="vault-rewrapped", who="test"))
                secrets = Secrets(ledger, state.vault)
                for one in await ledger.read(lambda t: t.vault.all_versions()):
                    assert generation_of(one.sealed) == state.vault.generation
                    if one.state == CURRENT:
                        assert (await secrets.open(one.secret)).value.reveal()
            nursery.cancel_scope.cancel()
        with state.store.read() as tables:
            assert audit.verify(in_batches(tables), state.head_file.load()).ok
    finally:
        state.store.close()
    return state.vault.generation


PLACES = pytest.mark.parametrize("place", ["file", "pkcs11", "transit"], indirect=True)


@PLACES
def test_killed_at_every_step_of_sealing_anew(make_policyd: Make, place: Place, tmp_path: Path) -> None:
    policyd = make_policyd()
    helper = courier(policyd) if place.courier else None
    try:
        if place.courier:
            wait_until("the courier", lambda: b'"ready"' in (policyd.home / "courier.log").read_bytes())
        rewrap(policyd, place)()
        found = traced(policyd, lambda _: rekey(policyd))
    finally:
        policyd.kill()
        if helper is not None:
            helper.terminate()
            helper.wait(60)
    generations: dict[bool, list[int]] = {False: [], True: []}
    for power, _, config in found.deaths(tmp_path / "killed"):

        async def start(config: Path = config) -> int:
            return await finished(await opened(config, place.master(config.parent / "state")), place.where)

        generations[power].append(trio.run(start))
    assert generations[False][0] == 1, "not begun yet"
    assert generations[False][-1] == generations[True][-1] == 2, "what was answered stands"
    assert all(found == sorted(found) for found in generations.values()), "begun once and for all"


@PLACES
def test_killed_at_every_step_of_a_change_of_master(make_policyd: Make, place: Place, tmp_path: Path) -> None:
    """One of the two opens it, never both and never none; where it is the old one, the new one can be said again."""
    policyd = make_policyd()
    helper = courier(policyd) if place.courier else None
    try:
        if place.courier:
            wait_until("the courier", lambda: b'"ready"' in (policyd.home / "courier.log").read_bytes())
        change = rewrap(policyd, place)
        found = traced(policyd, lambda _: change())
    finally:
        policyd.kill()
        if helper is not None:
            helper.terminate()
            helper.wait(60)
    ways: dict[bool, list[str]] = {False: [], True: []}
    for power, _, config in found.deaths(tmp_path / "killed"):
        state = config.parent / "state"
        old, new = parse(FILE, state, {}), place.master(state)

        async def start(config: Path = config, old: Master = old, new: Master = new) -> str:
            try:
                found = await opened(config, new)
            except VaultError:
                await finished(await opened(config, old), FILE, anew=new)
                await finished(await opened(config, new), place.where)
                return "old"
            await finished(found, place.where)
            with pytest.raises(VaultError):
                await opened(config, old)
            return "new"

        ways[power].append(trio.run(start))
    assert ways[False][0] == "old"
    assert ways[False][-1] == ways[True][-1] == "new", "what was answered stands"
    assert all(found == sorted(found, reverse=True) for found in ways.values()), "changed once and for all"
