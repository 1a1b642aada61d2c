"""Orders to a worker's hands in the loop of the test: a policyd by script, a small recorderd, and any real target."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from bastion.config import BastionSettings, Settings
from bastion.settings import SshSettings
from bastion.ssh.hands.work import Hands
from policy.messages import (
    ChangeSecret,
    Credential,
    Done,
    Grant,
    Report,
    SessionEnded,
    SessionStarted,
    Sign,
    Signature,
    UseKey,
    UsePassword,
    VerifyLogin,
    Worked,
)
from policy.model import PolicySettings
from recorder.model import Kind, RecorderSettings
from tests.bastion.aio import until
from tests.bastion.recorderd import Recorderd, Tape
from tests.support.net import LOOPBACK

KEY = b"k" * 32


@dataclass
class Worker:
    """`password` or `key` is what policyd gives for a login; `answers` says otherwise, by request type."""

    home: Path
    port: int
    host_keys: list[bytes]
    key: asyncssh.SSHKey
    password: str = ""
    dial: float = 10.0
    answers: dict[type, Any] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    told: list[Any] = field(default_factory=list)
    sessions: int = 0

    def __post_init__(self) -> None:
        self.recorder = Recorderd(self.home / "run")
        settings = Settings(
            path=self.home / "bastion.toml", bastion=BastionSettings(), policy=PolicySettings(),
            recorder=RecorderSettings(), ssh=SshSettings(dial=self.dial),
        )  # fmt: skip
        self.hands = Hands(lambda: settings)

    # --- what the hands see of policyd ----------------------------------------------------------------

    async def ask(self, request: Any) -> Any:
        self.asked.append(request)
        if (answer := self.answers.get(type(request))) is not None:
            return answer(request)
        match request:
            case Credential() if self.password:
                return UsePassword(password=b"".join([self.password.encode()[:1], self.password.encode()[1:]]))
            case Credential():
                return UseKey(public=self.key.public_data, algorithms=["ssh-ed25519"])
            case Sign(data=data, algorithm=algorithm):
                return Signature(blob=self.key.sign(data, algorithm.encode()))
            case SessionStarted() | Report():
                return Done(text="")
            case _:
                raise AssertionError(f"a worker has no leave to ask {type(request).__name__}")

    def tell(self, message: Any) -> None:
        self.told.append(message)

    # --- what a test asks -----------------------------------------------------------------------------

    def grant(self, account: str, **changes: Any) -> Grant:
        self.sessions += 1
        fields: dict[str, Any] = {
            "session": f"{self.sessions:032x}", "person": "bastion", "account": account, "target": "web1",
            "address": LOOPBACK, "port": self.port, "host_keys": self.host_keys, "kinds": ["exec"],
            "rule": "monthly", "expires_in": None, "idle": None, "record_sync": False, "keep_content": False,
            "commitment_key": KEY, "source": "policyd", **changes,
        }  # fmt: skip
        return Grant(**fields)

    async def change(
        self, how: str, account: str, *, by: str = "", old: str | bytes = b"", new: str | bytes = b"", **more: Any
    ) -> Worked:
        """One order to change something, done by `by`."""
        grant = self.grant(by or account, **more.pop("grant", {}))
        order = ChangeSecret(
            task=self.sessions, grant=grant, how=how, account=account, old=_fresh(old), new=_fresh(new), **more
        )
        return await self.do(order)

    async def verify(self, account: str, **more: Any) -> Worked:
        return await self.do(VerifyLogin(task=self.sessions + 1, grant=self.grant(account), **more))

    async def do(self, order: ChangeSecret | VerifyLogin) -> Worked:
        self.hands.take(self, order)  # type: ignore[arg-type]
        await until("it is done", lambda: not self.hands.jobs, order.seconds + 20)
        answers = [one for one in self.told if isinstance(one, Worked) and one.task == order.task]
        ends = [one for one in self.told if isinstance(one, SessionEnded) and one.session == order.grant.session]
        assert len(answers) == 1, "each order is answered once"
        assert len(ends) == 1, "each session ends once"
        return answers[0]

    def asked_for(self, kind: type) -> list[Any]:
        return [request for request in self.asked if type(request) is kind]

    @property
    def tape(self) -> Tape:
        return self.recorder.tape

    def recorded(self) -> bytes:
        """Everything that came to recorderd."""
        return b"\n".join(data for tape in self.recorder.tapes for _, _, _, data in tape.events)

    def typed(self) -> list[tuple[Kind, bytes]]:
        return [(Kind(kind), data) for kind, _, _, data in self.tape.events if kind in (Kind.INPUT, Kind.SEALED_INPUT)]


def _fresh(secret: str | bytes) -> bytes:
    """Bytes of its own: they are wiped."""
    data = secret.encode() if isinstance(secret, str) else secret
    return b"".join([data[:1], data[1:]])


@asynccontextmanager
async def worker(home: Path, target: Any, **more: Any) -> AsyncIterator[Worker]:
    """A worker for a target of tests.support: its pinned key, its client key."""
    host_key = asyncssh.read_public_key(target.host_key)
    one = Worker(home, target.port, [host_key.public_data], asyncssh.read_private_key(target.client_key), **more)
    try:
        yield one
    finally:
        one.recorder.stop()
