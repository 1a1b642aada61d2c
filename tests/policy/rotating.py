"""A worker of the test's that has targets in memory behind it, and what came of the rotations that it carries out."""

import sqlite3
import threading
from collections import Counter
from dataclasses import dataclass, field

from policy import messages as m
from policy.keys import signatures, sshkeys
from policy.keys.sshwire import string
from tests.policy.policyd import Gone, Peer, Policyd
from tests.support.net import wait_until

ROTATION = """
[[rotation]]
name     = "passwords"
where    = { labels = { env = "test" } }
as       = ["*"]
after    = ["use", "checkout"]
password = { length = 20, classes = ["lower", "digit"] }
"""


@dataclass
class Targets:
    """What opens which account; and what is said and done when somebody changes it."""

    opens: dict[str, set[bytes]] = field(default_factory=dict)  # ACCOUNT@TARGET -> passwords, or public blobs
    does: bool = True
    says: str = "done"
    logins: str = ""  # what is said instead of the truth
    hold: threading.Event | None = None  # nothing is answered before it is set
    dies: tuple[str, Policyd] | None = None  # policyd is killed at this moment
    ends: bool = True  # whether the worker says when its sessions are over


class Worker:
    """The hands: it asks for the credential as a real one does, and tries it on `targets`."""

    def __init__(self, policyd: Policyd, targets: Targets) -> None:
        self.targets = targets
        self.orders: list[m.ChangeSecret | m.VerifyLogin] = []
        self.peer = Peer(policyd.home / "run" / "policyd.sock", m.Worker(pid=1))
        self.peer.sock.settimeout(None)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while True:
                order = self._next()
                if isinstance(order, m.ChangeSecret | m.VerifyLogin):
                    self.orders.append(order)
                    self._work(order)
        except (Gone, OSError):  # one of us left
            pass

    def _next(self) -> m.Reply:
        """What is pushed; replies to what needs none are passed over."""
        while not self.peer.pushes:
            ident, body = self.peer.receive()
            self.peer.pushes += [body] if ident == 0 else []
        return self.peer.pushes.pop(0)

    def _at(self, order: m.ChangeSecret | m.VerifyLogin, moment: str) -> None:
        if self.targets.dies is not None and self.targets.dies[0] == f"{type(order).__name__} {moment}":
            process = self.targets.dies[1].process
            assert process is not None
            process.kill()
            process.wait(20)

    def _work(self, order: m.ChangeSecret | m.VerifyLogin) -> None:
        self._at(order, "comes")
        grant = order.grant
        place = f"{grant.account}@{grant.target}"
        self.peer.ask(m.SessionStarted(session=grant.session, recording="r.brec"))
        shown = self._login(grant)
        self._at(order, "has the credential")
        opens = shown in self.targets.opens[place]
        if isinstance(order, m.VerifyLogin):
            said = self.targets.logins or ("done" if opens else "refused")
        elif not opens:
            said = "refused"
        else:
            said = self._change(order)
        self._at(order, "is done")
        if self.targets.hold is not None and isinstance(order, m.ChangeSecret):
            self.targets.hold.wait(20)
        if self.targets.ends:
            self._say(m.SessionEnded(session=grant.session, reason="closed"))
        self._say(m.Worked(task=order.task, outcome=said, detail="as the test says"))

    def _say(self, body: m.Request) -> None:
        self.peer.number += 1
        self.peer.send(m.encode(self.peer.number, body))

    def _login(self, grant: m.Grant) -> bytes:
        """The password, or the blob of a key that signs."""
        given = self.peer.ask(m.Credential(session=grant.session, session_key=b""))
        if isinstance(given, m.UsePassword):
            return given.password
        assert isinstance(given, m.UseKey), given
        data = (
            string(b"s" * 32) + b"\x32" + string(grant.account) + string("ssh-connection") + string("publickey")
            + b"\x01" + string(given.algorithms[0]) + string(given.public)
        )  # fmt: skip
        signed = self.peer.ask(m.Sign(session=grant.session, algorithm=given.algorithms[0], data=data))
        assert isinstance(signed, m.Signature), signed
        key = sshkeys.parse_public_key(given.public)
        signatures.verify(key, signed.blob, data)
        return given.public

    def _change(self, order: m.ChangeSecret) -> str:
        place = f"{order.account}@{order.grant.target}"
        if self.targets.does:
            new = order.new
            if order.how == "authorized-keys":
                new = sshkeys.parse_authorized_key(order.new.decode()).key.blob
            kept = self.targets.opens[place] - {order.old} if order.how == "authorized-keys" else set()
            if order.keep and order.how == "authorized-keys":
                kept = self.targets.opens[place]
            self.targets.opens[place] = kept | {new}
        return self.targets.says

    def close(self) -> None:
        self.peer.sock.shutdown(2)
        self.thread.join(10)
        self.peer.close()


def rows(policyd: Policyd, **which) -> list[dict[str, str]]:
    answer = policyd.done(m.RotationList(**which))
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def rotated(policyd: Policyd, *places: str) -> list[dict[str, str]]:
    """Asked for, and waited for: until each has come to something."""
    answer = policyd.done(m.Rotate(places=list(places), reason="a test"))
    ids = [row[0] for row in answer.rows]

    def over() -> bool:
        return all(row["ended"] or row["tries"] != "0" for row in rows(policyd, ids=ids))

    wait_until("the rotations", over)
    return rows(policyd, ids=ids)


def versions(policyd: Policyd) -> Counter[str]:
    """States of the secrets of root@web1, from the database."""
    with sqlite3.connect(policyd.database) as db:
        found = db.execute(
            "select v.state from secret_version v join secret s on s.id = v.secret where s.name = 'root@web1'"
        )
        return Counter(state for (state,) in found)


def password_of(policyd: Policyd, account: str = "root") -> bytes:
    """What a person's session on web1 is given."""
    peer, grant = policyd.session("alice", account)
    with peer:
        given = peer.ask(m.Credential(session=grant.session, session_key=b""))
    assert isinstance(given, m.UsePassword), given
    return given.password
