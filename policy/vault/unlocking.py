"""The time between start and an open vault: policyd waits for a passphrase, or for a service that holds the key.

    ADMIN_NEW --Admin--> OPERATOR: VaultUnlock opens, VaultStatus tells, everything else is refused
    COURIER_NEW --Courier--> COURIER: makes the calls that the master needs, if it needs any
    all others: refused, in words a gateway passes on

Nothing else of policyd runs yet, and when the vault is open all these connections are closed: who asks again meets the
policyd that decides. There is no audit trail to write to without the vault, so what happened here is logged, and
`Opening` is what becomes the first event.
"""

import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec
import structlog
import trio
from trio.socket import SocketType

from policy import messages as m
from policy.conversation import Conversation, State
from policy.memory import memory_protection
from policy.outside.couriers import Couriers
from policy.peers import Oversized, group_of, peer_of, receive, welcome
from policy.vault.masters import Master
from policy.vault.masters.passphrase import UNLOCK, PassphraseMaster
from policy.vault.secret import NotYet, Secret, VaultError, WrongPassphrase

CONVERSATIONS: Final = 64
"""At once, on all sockets: gateways are refused at once, and operators are few."""
SILENT_SECONDS: Final = 10.0
"""A gateway that says nothing, or does not leave when it was refused."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds after a wrong passphrase, and between calls for the key; each doubles them."""
MISCONFIGURED: Final = 78
_GONE: Final = (OSError, Oversized, trio.TooSlowError, trio.ClosedResourceError)
ASK_THEM: Final = "tell the people who run this bastion"

Opened = TypeVar("Opened")
log = structlog.get_logger()


@dataclass(slots=True)
class Opening:
    """How it came about, for the trail."""

    who: str = ""  # the operator who typed it; "" if nobody had to
    wrong: int = 0  # passphrases before that
    tries: int = 0  # calls for the key before the one that brought it


@dataclass(slots=True, eq=False)
class Unlocking(Generic[Opened]):
    """`open_state` raises NotYet or WrongPassphrase while the vault is locked; what else it raises ends policyd."""

    master: Master
    open_state: Callable[[], Awaitable[Opened]]
    couriers: Couriers
    opening: Opening = field(default_factory=Opening)
    why: VaultError = field(default_factory=lambda: NotYet("the vault is locked"))
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _turn: trio.Lock = field(default_factory=trio.Lock)  # one try at a time
    _over: trio.Event = field(default_factory=trio.Event)
    _opened: list[Opened] = field(default_factory=list)
    _failed: list[Exception] = field(default_factory=list)

    async def run(self, sockets: Mapping[State, SocketType], locked: Callable[[str], None]) -> None:
        """Until there is a `result`. `locked` is told once why, if that takes more than the one try."""
        if not await self._try():
            log.warning("locked", why=self.why.cause)
            locked(self.why.cause)
            async with trio.open_nursery() as nursery:
                for first, listener in sockets.items():
                    nursery.start_soon(self._accept, listener, first)
                if not isinstance(self.master, PassphraseMaster):
                    nursery.start_soon(self._try_again)
                await self._over.wait()
                nursery.cancel_scope.cancel()
            for talk in list(self.couriers.peers):
                self.couriers.leave(talk)

    def result(self) -> Opened:
        """What `open_state` has returned, or raised."""
        if self._failed:
            raise self._failed[0]
        return self._opened[0]

    async def _try(self) -> bool:
        """Whether it is over, with an open vault or an error that `run` raises, as it would without a lock."""
        try:
            self._opened.append(await self.open_state())
        except (NotYet, WrongPassphrase) as error:
            self.why = error
        except Exception as error:
            self._failed.append(error)
        return bool(self._opened or self._failed)

    async def _try_again(self) -> None:
        """The service may come back, and the courier may take a moment to connect."""
        pause = FIRST_PAUSE
        while True:
            with trio.move_on_after(LONGEST_PAUSE):
                await self.couriers.arrived()
            self.opening.tries += 1
            if await self._try():
                return self._over.set()
            log.warning("locked", why=self.why.cause, again_in=pause)
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    # --- who asks meanwhile -------------------------------------------------------------------------

    async def _accept(self, listener: SocketType, first: State) -> None:
        group, free = group_of(Path(listener.getsockname())), trio.CapacityLimiter(CONVERSATIONS)
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    connection, _ = await listener.accept()
                    peer = peer_of(connection)
                except OSError as error:
                    log.warning("accept-failed", error=error.strerror)
                    await trio.sleep(0.5)
                    continue
                if not welcome(peer, group) or free.available_tokens < 1:
                    connection.close()
                    continue
                talk = Conversation(ident=next(self._numbers), connection=connection, peer=peer, state=first)
                free.acquire_on_behalf_of_nowait(talk)
                nursery.start_soon(self._converse, talk, free)

    async def _converse(self, talk: Conversation, free: trio.CapacityLimiter) -> None:
        try:
            while talk.state is not State.OVER:
                patient = talk.state in (State.OPERATOR, State.COURIER)
                with trio.CancelScope() if patient else trio.fail_after(SILENT_SECONDS):
                    data = await receive(talk.connection)
                if not data:
                    return
                ident, request = m.decode_request(data)
                reply = await self._answer(talk, request)
                if reply is not None:
                    with trio.CancelScope(shield=True):  # the answer to what opened the vault is on its way
                        await talk.reply(ident, reply)
                if self._opened or self._failed:
                    self._over.set()
        except (*_GONE, msgspec.MsgspecError, ValueError) as problem:
            talk.log().info("ended", error=type(problem).__name__)
        finally:
            self.couriers.leave(talk)
            talk.connection.close()
            free.release_on_behalf_of(talk)

    async def _answer(self, talk: Conversation, request: m.Request) -> m.Reply | None:
        match talk.state, request:
            case State.ADMIN_NEW, m.Admin():
                talk.state, talk.operator = State.OPERATOR, f"operator {talk.peer}"
                return m.Done(text="")
            case State.OPERATOR, m.VaultUnlock():
                return await self._unlock(talk, request)
            case State.COURIER_NEW, m.Courier():
                talk.state = State.COURIER
                self.couriers.join(talk)
                return m.Done(text="")
            case State.COURIER, m.Called():
                self.couriers.called(talk, request)
                return None
            case State.OPERATOR, m.VaultStatus():
                return self._status()
            case State.OPERATOR, _:
                return m.Refused(code=MISCONFIGURED, cause=self.why.cause, hint=self.why.hint or UNLOCK)
            case _:
                talk.state = State.OVER
                return m.Refused(code=MISCONFIGURED, cause="the vault of this bastion is locked", hint=ASK_THEM)

    def _status(self) -> m.Rows:
        rows = [["state", f"locked: {self.why.cause}"], ["master", self.master.kind]]
        rows += [["wrong passphrases", str(self.opening.wrong)], ["calls for the key", str(self.opening.tries)]]
        rows += [[f"memory: {what}", how] for what, how in memory_protection().items()]
        return m.Rows(columns=["what", "value"], rows=rows, note=self.why.hint)

    async def _unlock(self, talk: Conversation, request: m.VaultUnlock) -> m.Reply:
        if not isinstance(self.master, PassphraseMaster):
            return m.Refused(code=MISCONFIGURED, cause=f"no passphrase opens this vault: {self.why.cause}")
        async with self._turn:
            if self._opened:
                return m.Done(text="the vault is open")
            try:
                self.master.supply(Secret(request.passphrase))
            except VaultError as error:
                return m.Refused(code=64, cause=error.cause, hint=error.hint)
            await self._try()
            if self._failed:
                problem = self._failed[0]
                cause, hint = getattr(problem, "cause", "policyd cannot start"), getattr(problem, "hint", "")
                return m.Refused(code=MISCONFIGURED, cause=cause, hint=hint)
            if self._opened:
                self.opening.who = talk.operator
                self.master.forget_passphrase()
                log.info("unlocked", who=talk.operator, wrong=self.opening.wrong)
                return m.Done(text="the vault is open", data={"wrong": str(self.opening.wrong)})
            # Attack: whoever came to be in the operators' group tries a list. Each try waits for the one before.
            self.opening.wrong += 1
            pause = min(FIRST_PAUSE * 2 ** min(self.opening.wrong - 1, 10), LONGEST_PAUSE)
            log.warning("unlock-failed", who=talk.operator, wrong=self.opening.wrong, pause=pause)
            await trio.sleep(pause)
            return m.Refused(code=77, cause=self.why.cause, hint=self.why.hint)
