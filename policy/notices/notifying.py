"""Notices on their way: heard from the audit trail, sent by the courier, tried again, given up in the log.

Nothing waits for them: no decision is slower, and none is refused, because a chat or a mail server is away. The trail
is their queue: the database keeps up to which row all is told, and what comes after it is told after the next start.
After a crash some are told twice, and none is lost.
"""

import os
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio

from policy.messages import Called, HttpCall, MailCall
from policy.naming import shown_time
from policy.notices.notify import TOPICS, Destination, Notice, Topic, notice, signed, void_soon, webhook_body
from policy.outside.secrets import OutsideError, read_secret, read_trust
from policy.records import AccessGrant, AccessRequest, AuditRow
from policy.sessions.words import place_of
from policy.store import Tables
from policy.trail.audit import Event
from policy.trail.ledger import LedgerError

if TYPE_CHECKING:
    from policy.authority import Authority

QUEUE: Final = 256
"""Events not looked at yet, and notices under way; an attack that makes more of them is seen by the first ones."""
PAUSES: Final = (1.0, 4.0, 15.0)
"""Seconds before each new try: a restart of the other side passes, and nobody is told an hour late."""
AT_ONCE: Final = 4
"""Of the courier's 16 calls: a chat that hangs must not keep people from having their tickets looked up."""
WEBHOOK_SECONDS: Final = 10.0
MAIL_SECONDS: Final = 20.0
EACH_MINUTE: Final = 30
"""Notices for one destination, or for one person; chats refuse more (Slack: one a second), and nobody reads them."""

LOOK_SECONDS: Final = 60.0
"""Between looks at the requests that are void soon, and at leave that ends."""

MARK: Final = "notices-told"
"""The setting that names the row of the trail up to which everything is told, or was given up."""
KEEP_SECONDS: Final = 1.0
"""Between two writes of it."""
ENDINGS: Final = tuple(sorted(event for event, topic in TOPICS.items() if topic is Topic.EXPIRING))
MANY: Final = 5000
"""Of each kind: more do not come to their end within the half hour before which nobody is told."""
OLDEST: Final = 24 * 3600 * 1_000_000_000
"""Nanoseconds. What policyd could not tell for a day is left to the trail: nobody acts on it any more."""

FAILED: Final = "notify-failed"
NO_ADDRESS: Final = "has no mail address"

_Heard = tuple[Event, int]

log = structlog.get_logger()


def told_of_ends(t: Tables) -> frozenset[str]:
    """Requests, grants and checkouts whose end was told of: a policyd that starts tells nobody again."""
    rows = [row for kind in ENDINGS for row in t.audit_before(None, event=kind, limit=MANY)]
    events = [msgspec.json.decode(row.body, type=Event) for row in rows]
    return frozenset(event.detail.get("checkout", event.what) for event in events)


@dataclass(slots=True)
class _Health:
    """Of one destination, or of one person at it: the one's many requests must not use up another's minute."""

    failing: bool = False  # audited already
    minute: int = 0
    sent: int = 0  # within that minute
    left_out: int = 0


@dataclass(slots=True)
class Notifier:
    """`hear` in the ledger, `run` in a nursery."""

    desk: "Authority"
    began: int  # the row of the trail at which this policyd began: what is older was another's to tell
    pauses: tuple[float, ...] = PAUSES
    _heard: "tuple[trio.MemorySendChannel[_Heard], trio.MemoryReceiveChannel[_Heard]]" = field(
        default_factory=lambda: trio.open_memory_channel[_Heard](QUEUE)
    )
    _waiting: dict[int, int] = field(default_factory=dict)  # row -> destinations that are not told of it yet
    _newest: int = 0  # row that was heard, or lies behind us
    _moved: trio.Event = field(default_factory=trio.Event)
    _health: dict[tuple[str, str], _Health] = field(default_factory=dict)  # destination, person or ""
    _under_way: int = 0
    _turns: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(AT_ONCE))
    _soon: set[str] = field(default_factory=set)  # requests that were told of again, and grants

    def hear(self, event: Event, row: int) -> None:
        """An event that is kept, and where. Returns at once, whatever there is to tell."""
        if event.event not in TOPICS:
            return
        self._newest = max(self._newest, row)
        self._moved.set()  # without a destination, too: one that is added later is told nothing of the past
        if not self.desk.rules.notify:
            return
        try:
            self._heard[0].send_nowait((event, row))
        except (trio.WouldBlock, trio.BrokenResourceError):
            log.error("notice-dropped", about=event.event, why="too many wait")
        else:
            self._waiting[row] = 1

    async def run(self) -> None:
        """Send until cancelled; what is under way then is told by the next one."""
        await self._catch_up()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look)
                nursery.start_soon(self._keep_often)
                async for event, row in self._heard[1]:
                    for to in self.desk.rules.notify:
                        told = notice(event, to)
                        if told is not None and (told := self._room_for(to, told)) is not None:
                            self._under_way += 1
                            self._waiting[row] += 1
                            nursery.start_soon(self._tell, to, told, row)
                    self._done(row)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(KEEP_SECONDS):
                await self._keep()

    async def _catch_up(self) -> None:
        """Hear what the policyd before this one had no time to tell."""
        kinds, since = sorted(TOPICS), time.time_ns() - OLDEST

        def query(t: Tables) -> tuple[bytes | None, list[AuditRow], frozenset[str]]:
            mark = t.setting(MARK)
            after = int.from_bytes(mark) if mark else self.began
            rows = t.audit_of(kinds, after=after, before=self.began, since=since, limit=QUEUE)
            return mark, rows, told_of_ends(t)

        try:
            mark, rows, told = await self.desk.ledger.read(query)
        except LedgerError as error:
            log.error("notices-not-read", why=str(error))
            return
        self._newest = max(self._newest, int.from_bytes(mark) if mark else self.began)
        self._moved.set()
        self._soon |= told
        for row in rows:
            self.hear(msgspec.json.decode(row.body, type=Event), row.seq)

    def _done(self, row: int) -> None:
        """One destination less that has to be told of this row."""
        self._waiting[row] -= 1
        if not self._waiting[row]:
            del self._waiting[row]
            self._moved.set()

    async def _keep_often(self) -> None:
        while True:
            await self._moved.wait()
            self._moved = trio.Event()
            await self._keep()
            await trio.sleep(KEEP_SECONDS)

    async def _keep(self) -> None:
        """If we die before it is written, the next one tells again."""
        mark = min(self._waiting) - 1 if self._waiting else self._newest
        try:
            await self.desk.ledger.write(lambda t: t.put_setting(MARK, mark.to_bytes(8)))
        except LedgerError as error:
            log.error("notices-not-kept", why=str(error))

    async def _look(self) -> None:
        """Requests that nobody has decided, and leave that ends: each once."""
        while True:
            now, grants = time.time_ns(), self.desk.standing.all()
            for one in list(self.desk.standing.requests.values()):
                if void_soon(one.asked, one.expires, now):
                    await self._say("request-expiring", one)
            for grant in grants:
                spent = 0 < grant.uses <= grant.used
                if grant.token is None and not spent and void_soon(grant.starts, grant.ends, now):
                    await self._say("grant-ending", grant, ends=shown_time(grant.ends))
            self._soon &= self.desk.standing.requests.keys() | {grant.id for grant in grants}
            await trio.sleep(LOOK_SECONDS)

    async def _say(self, event: str, about: AccessRequest | AccessGrant, **more: str) -> None:
        if about.id in self._soon:
            return
        self._soon.add(about.id)
        detail = {"person": about.person, "place": place_of(about), **more}
        try:
            await self.desk.ledger.note(Event(event=event, who="policyd", what=about.id, detail=detail))
        except LedgerError as error:
            log.error("notice-dropped", about=about.id, why=str(error))

    def _is_here(self, name: str) -> bool:
        """Attack: somebody who was shut out reads in their mail what goes on here, and what they lost."""
        person = self.desk.roster.person(name)
        return person is not None and not person.disabled

    def _addresses(self, to: Destination, told: Notice) -> tuple[str, ...]:
        """Where a mail goes; nowhere if it is for a person who has no address."""
        if not to.personal:
            return to.mail
        person = self.desk.roster.person(told.person)
        return (person.mail,) if person is not None and person.mail else ()

    def _health_of(self, to: Destination, told: Notice) -> _Health:
        return self._health.setdefault((to.name, told.person), _Health())

    def _room_for(self, to: Destination, told: Notice) -> Notice | None:
        """The notice, with a word on those that were left out; None if it is one of them."""
        health = self._health_of(to, told)
        minute = int(trio.current_time() // 60)
        if health.minute != minute:
            health.minute, health.sent = minute, 0
        if health.sent >= EACH_MINUTE or self._under_way >= QUEUE:
            health.left_out += 1
            log.error("notice-dropped", to=to.name, about=told.subject, why="too many in this minute")
            return None
        health.sent += 1
        if health.left_out:
            more = f"({health.left_out} more were left out: see `bastion audit list`)"
            told, health.left_out = replace(told, text=f"{told.text}\n{more}"), 0
        return told

    async def _tell(self, to: Destination, told: Notice, row: int) -> None:
        health = self._health_of(to, told)
        try:
            problem = await self._tried(to, told)
            for pause in self.pauses if problem != NO_ADDRESS else ():
                if not problem:
                    break
                log.warning("notice-waits", to=to.name, about=told.subject, why=problem, again_in=pause)
                await trio.sleep(pause)
                problem = await self._tried(to, told)
            known, health.failing = health.failing, bool(problem)
            if problem:
                log.error(FAILED, to=to.name, about=told.subject, why=problem)
            if problem and not known:  # once: a server that is away for a day must not fill the trail
                detail = {"person": told.person} if told.person else {}
                await self.desk.ledger.note(
                    Event(event=FAILED, who="policyd", what=to.name, why=problem, detail=detail)
                )
        except LedgerError as error:
            log.error(FAILED, to=to.name, why=str(error))
        finally:
            self._under_way -= 1
        self._done(row)  # not when we are stopped meanwhile

    async def _tried(self, to: Destination, told: Notice) -> str:
        """Why it did not arrive; "" if it did."""
        if told.person and not self._is_here(told.person):
            return ""
        addresses = self._addresses(to, told)
        if not to.webhook and not addresses:
            return NO_ADDRESS
        try:
            async with self._turns:
                called = await (self._posted(to, told) if to.webhook else self._mailed(to, addresses, told))
        except OutsideError as error:
            return str(error)
        if called.error:
            return called.error[:200]
        return "" if 200 <= called.status < 300 else f"answered with status {called.status}"

    async def _posted(self, to: Destination, told: Notice) -> Called:
        url = to.webhook if to.webhook.startswith("http") else await self._secret(to.webhook)
        body = webhook_body(told)
        # Signed anew for each try: a receiver that refuses old times takes the last one, too.
        headers = {"Content-Type": "application/json"}
        if to.key:
            headers |= signed(await self._secret(to.key), int(time.time()), body)
        trust = await self._trust(to.ca)
        return await self.desk.couriers.http(
            HttpCall(task=0, method="POST", url=url, headers=headers, body=body, seconds=WEBHOOK_SECONDS, trust=trust)
        )

    async def _mailed(self, to: Destination, addresses: tuple[str, ...], told: Notice) -> Called:
        password, trust = await self._secret(to.password), await self._trust(to.ca)
        return await self.desk.couriers.mail(
            MailCall(
                task=0, url=to.server, sender=to.sender, to=list(addresses), subject=f"bastion: {told.subject}",
                text=told.text + "\n", user=to.user, password=password, seconds=MAIL_SECONDS, trust=trust,
            )
        )  # fmt: skip

    async def _secret(self, where: str) -> str:
        return await trio.to_thread.run_sync(read_secret, where, self.desk.config.path.parent, os.environ)

    async def _trust(self, name: str) -> str:
        return await trio.to_thread.run_sync(partial(read_trust, name, self.desk.config.path.parent))
