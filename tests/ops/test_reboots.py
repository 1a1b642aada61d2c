"""The machine is shut down, or loses its power, at work. Booted again it is as it was, without anybody's doing."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.ops.installed import ALL, SECRET, SSH, install, lend, log_in, read
from tests.ops.machine import Machine, booted, on_a_machine
from tests.support.person import Person

pytestmark = [*on_a_machine(), pytest.mark.fault]
READER: Final = """
from bastion.broker.client import Broker
while True:
    with Broker() as broker:
        print(broker.get("db/app").value, flush=True)
"""
READS: Final = "/var/lib/reads"
TYPED: Final = re.compile(rb"(?:line \d+\r\n)*")


def lines(*numbers: int) -> str:
    return "".join(f"line {number}\r" for number in numbers)


def sessions(machine: Machine) -> list[dict[str, str]]:
    """Those that live."""
    found: list[dict[str, str]] = json.loads(machine.run("bastion", "sessions", "list", "--json").stdout)
    return found


@contextmanager
def reading(machine: Machine) -> Iterator[None]:
    """The application reads its secret again and again, from the unit that it is bound to."""
    machine.sh(f"rm -f {READS}")
    machine.run("systemd-run", "--unit=shop", "--uid=shop", "--quiet", "--collect",
                "-p", f"StandardOutput=file:{READS}", "/usr/lib/bastion/bin/python", "-c", READER)  # fmt: skip
    try:
        yield
    finally:
        if machine.pid:
            machine.run("systemctl", "stop", "shop.service", check=False)


@pytest.fixture(scope="module")
def machine(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One of its own: a recording that was cut off stays so, and other tests want all of theirs to be whole."""
    with booted(tmp_path_factory.mktemp("machine")) as found:
        install(found, package)
        lend(found)
        found.run("systemctl", "enable", "--now", "bastion-broker.service", "bastion-runner.service")
        yield found


def verified(machine: Machine) -> dict[str, str]:
    """What each recording is found to be."""
    found = json.loads(machine.run("replay", "verify", "--all", "--json", check=False).stdout)
    return {one["session"]: one["status"] for one in found}


@pytest.mark.parametrize(("end", "left"), [(Machine.shut_down, "ok"), (Machine.cut_power, "truncated")])
def test_at_work_it_ends_and_everything_is_there_again(
    machine: Machine, end: Callable[[Machine], None], left: str
) -> None:
    assert log_in(machine) == "opened\n"  # from here on its host key is known, and no other is taken
    before = verified(machine)
    rows = int(json.loads(machine.run("bastion", "audit", "verify", "--json").stdout)["rows"])
    with reading(machine), Person(*machine.words(SSH[0], "-tt", *SSH[1:], "echo ready; exec cat")) as person:
        person.until("ready\r\n")  # no echo is the client's own from here on
        for number in range(5):
            person.type(lines(number))
            person.until(f"line {number}\r\nline {number}\r\n")
        machine.wait(lambda: len(sessions(machine)) == 1, "other sessions than this one")
        (live,) = sessions(machine)
        machine.wait(lambda: machine.run("cat", READS).stdout.count(SECRET) >= 3, "the application reads nothing")
        person.type(lines(*range(5, 300)))
        person.until("line 5\r\n")
        end(machine)
        person.wait()
    shown = TYPED.match(person.screen)
    assert shown is not None

    machine.boot()
    for name in ALL:
        machine.until(f"{name}.service", "active")
    machine.wait(lambda: log_in(machine) == "opened\n", "no login after it has booted")
    assert read(machine) == SECRET
    assert not machine.run("systemctl", "list-units", "--failed", "--no-legend", "bastion*").stdout
    machine.wait(lambda: not sessions(machine), "sessions that live on")
    machine.wait(lambda: "open" not in verified(machine).values(), "recordings that go on")
    new = {session: status for session, status in verified(machine).items() if before.get(session) != status}
    assert new.pop(live["session"]) == left
    assert set(new.values()) == {"ok"}
    assert int(json.loads(machine.run("bastion", "audit", "verify", "--json").stdout)["rows"]) > rows
    cast = machine.run("replay", "export", "--format", "asciicast", live["session"]).stdout.splitlines()[1:]
    recorded = "".join(text for _, kind, text in map(json.loads, cast) if kind == "o")
    assert shown[0].decode() in recorded, "somebody saw what is not recorded"
    assert "Traceback" not in machine.journal()
