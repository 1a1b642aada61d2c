"""The test as policyd's courier: what is pushed to it, and what it answers, is the test's to say."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from bastion.courier.pointers import pick
from policy import messages as m
from tests.policy.policyd import Gone, Peer, Policyd

Reply = Callable[[Any], m.Called | None]
"""What is answered to a call; None: nothing."""


@dataclass
class FakeCourier:
    """Answers each call with `document`, or with what `reply` makes of it; `held` calls wait for `release`."""

    peer: Peer
    document: Any = field(default_factory=dict)
    reply: Reply | None = None
    calls: list[Any] = field(default_factory=list)
    ident: int = 100

    def serve(self) -> None:
        with suppress(Gone, OSError):  # one of us left, be it between a call and its answer
            while True:
                _, call = self.peer.receive()
                assert isinstance(call, m.HttpCall | m.MailCall | m.RadiusCall | m.LdapCall)
                self.calls.append(call)
                answer = self._answer(call) if self.reply is None else self.reply(call)
                if answer is not None:
                    self.say(answer)

    def _answer(self, call: Any) -> m.Called:
        document = json.dumps(self.document).encode()
        return m.Called(task=call.task, status=200, values=pick(document, call.pick))

    def say(self, answer: m.Called) -> None:
        self.ident += 1
        self.peer.send(m.encode(self.ident, answer))


@contextmanager
def courier_of(policyd: Policyd, document: Any = None, reply: Reply | None = None) -> Iterator[FakeCourier]:
    """What it answers is said here, or before anything is asked: policyd may have waited for a courier to come."""
    courier = FakeCourier(policyd.courier(m.Courier(pid=1)), document, reply)
    thread = threading.Thread(target=courier.serve, daemon=True)
    thread.start()
    try:
        yield courier
    finally:
        with suppress(OSError):
            courier.peer.sock.shutdown(socket.SHUT_RDWR)
        thread.join(20)
        courier.peer.close()
