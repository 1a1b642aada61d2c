"""What leaves together, and what leads to what while it leaves."""

from dataclasses import dataclass, field

from bastion.ssh.burst import burst, gathered, settle


@dataclass
class Leg:
    """Gathers messages; what it writes are messages on the connection around it, if it is an inner one."""

    outer: "Leg | None" = None
    messages: int = 0
    written: list[int] = field(default_factory=list)

    def send(self) -> None:
        if not self.messages:
            gathered(self)
        self.messages += 1
        settle()

    def flush(self) -> None:
        count, self.messages = self.messages, 0
        self.written.append(count)
        for _ in range(count if self.outer else 0):
            self.outer.send()  # type: ignore[union-attr]


def test_outside_of_a_burst_each_message_is_written() -> None:
    leg = Leg()
    leg.send()
    leg.send()
    assert leg.written == [1, 1]


def test_one_burst_is_one_write() -> None:
    leg = Leg()
    with burst():
        leg.send()
        with burst():
            leg.send()
        assert not leg.written
    assert leg.written == [2]


def test_what_an_inner_connection_writes_leaves_the_outer_one_with_one_write() -> None:
    outer = Leg()
    inner = Leg(outer)
    with burst():
        inner.send()
        inner.send()
        inner.send()
    assert (inner.written, outer.written) == ([3], [3])


def test_a_flush_that_fails_leaves_no_burst_open() -> None:
    class Broken:
        def flush(self) -> None:
            raise OSError

    try:
        with burst():
            gathered(Broken())
    except OSError:
        pass
    leg = Leg()
    leg.send()
    assert leg.written == [1]
