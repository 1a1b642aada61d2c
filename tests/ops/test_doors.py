"""broker, runner and courier are killed on a booted machine: what they do goes on, and nothing else ends."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.ops.installed import ALL, RULES, SECRET, SSH, read
from tests.ops.machine import Machine, on_a_machine
from tests.support.outside import Ca, MailServer
from tests.support.person import Person

pytestmark = [*on_a_machine(), pytest.mark.fault]
DATABASE: Final = """
import json, socketserver
class Account(socketserver.StreamRequestHandler):
    password = "tiger"
    def handle(self):
        asked = json.loads(self.rfile.readline())
        if asked["action"] == "change" and asked["old"] == Account.password:
            Account.password = asked["new"]
        self.wfile.write(b"0" if asked["new"] == Account.password else b"1")
socketserver.TCPServer(("127.0.0.1", 1521), Account).serve_forever()
"""
SCRIPT: Final = """#!/usr/lib/bastion/bin/python
import json, socket, sys
asked = json.loads(sys.stdin.readline())
with socket.create_connection((asked["address"], asked["port"])) as database:
    database.sendall(json.dumps(asked).encode() + b"\\n")
    sys.exit(int(database.recv(1)))
"""
OUTSIDE: Final = """
[[rule]]
name    = "databases by leave"
who     = {{ roles = ["engineer"] }}
where   = {{ targets = ["db1"] }}
as      = ["scott"]
allow   = ["shell"]
require = {{ approval = {{ by = ["lead"] }} }}

[[rotation]]
name    = "databases"
where   = {{ targets = ["db1"] }}
as      = ["scott"]
driver  = "script"
options = {{ script = "oracle" }}

[[notify]]
name   = "ops"
mail   = ["ops@example.org"]
server = "{url}"
sender = "bastion@example.org"
ca     = "mail-ca.pem"
"""


@pytest.fixture(scope="module")
def mails(shop: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailServer]:
    """A mail server, and a database whose password an operator's script changes."""
    ca = Ca(tmp_path_factory.mktemp("ca"))
    with MailServer(ca.context("127.0.0.1"), implicit=True).served(shop.listening()) as server:
        shop.write("/etc/bastion/mail-ca.pem", ca.pem, "644")
        shop.write("/etc/bastion/policy.toml", RULES + OUTSIDE.format(url=server.url), "644")
        shop.sh("mkdir -p /usr/local/lib/bastion")
        shop.write("/usr/local/lib/bastion/oracle", SCRIPT, "755")
        shop.run("systemd-run", "--unit=database", "--quiet", "/usr/lib/bastion/bin/python", "-c", DATABASE)
        shop.sh("""
            sed -i 's|^#scripts = .*|scripts = { oracle = "/usr/local/lib/bastion/oracle" }|' /etc/bastion/bastion.toml
            bastion check-config && systemctl reload bastion.target
            systemctl enable --now bastion-runner.service bastion-broker.service
            bastion target add db1 --address 127.0.0.1:1521 --pin /etc/ssh/ssh_host_ed25519_key.pub
        """)
        shop.run("bastion", "account", "add", "scott@db1", "--password-stdin", stdin="tiger\n")
        yield server
        shop.write("/etc/bastion/policy.toml", RULES, "644")
        shop.run("systemctl", "reload", "bastion-policyd.service")


def processes(machine: Machine) -> dict[str, str]:
    return {name: machine.property(f"{name}.service", "MainPID") for name in ALL}


@pytest.mark.parametrize("name", ["bastion-broker", "bastion-runner", "bastion-courier"])
def test_killed_it_works_again_and_nothing_else_has_ended(shop: Machine, mails: MailServer, name: str) -> None:
    for one in ALL:
        shop.until(f"{one}.service", "active")
    before = processes(shop)
    with Person(*shop.words(SSH[0], "-tt", *SSH[1:], "echo ready; exec cat")) as person:
        person.until("ready\r\n")
        shop.run("kill", "-9", before[name])
        person.type("while it is away\r")
        person.until("while it is away\r\nwhile it is away\r\n")
        shop.wait(lambda: processes(shop)[name] not in ("0", before[name]), f"{name} is not started again")
        shop.until(f"{name}.service", "active")  # which it says once policyd knows it
        assert read(shop) == SECRET
        shop.run("bastion", "account", "rotate", "scott@db1")
        shop.run("bastion", "grant", "alice", "scott@db1", "--for", "1h", "--reason", f"{name} was killed")
        shop.wait(lambda: any(f"{name} was killed" in mail.data for mail in mails.mails), "nobody is told")
        person.type("still here\r")
        person.until("still here\r\nstill here\r\n")
        after = processes(shop)
        assert {one for one in ALL if before[one] != after[one]} == {name}
