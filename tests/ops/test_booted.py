"""The Debian package on a machine that systemd has booted: what an operator does, and what the units promise."""

import json
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.ops.installed import GET, SERVICES, SHOP, log_in
from tests.ops.machine import Machine, booted, on_a_machine

ROOT: Final = Path(__file__).resolve().parents[2]
pytestmark = on_a_machine()


def test_all_of_it_runs_under_its_own_users(machine: Machine) -> None:
    users = {}
    for name in SERVICES:
        machine.until(f"{name}.service", "active")
        pid = machine.property(f"{name}.service", "MainPID")
        users[name] = machine.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip()
    assert len(set(users.values())) == len(SERVICES)
    assert "root" not in users.values()
    assert not machine.run("systemctl", "list-units", "--failed", "--no-legend", "bastion*").stdout


def test_a_person_logs_in_and_the_recording_verifies(machine: Machine) -> None:
    assert log_in(machine) == "opened\n"
    assert machine.run("replay", "verify", "--all").returncode == 0
    listed = json.loads(machine.run("replay", "ls", "--json").stdout.splitlines()[0])
    assert "alice" in json.dumps(listed)


def test_a_connection_starts_the_gateway(machine: Machine) -> None:
    machine.run("systemctl", "stop", "bastion-ssh.service")
    assert machine.property("bastion-ssh.socket", "ActiveState") == "active"
    assert log_in(machine) == "opened\n"


@pytest.mark.parametrize("name", SERVICES)
def test_killed_it_comes_back(machine: Machine, name: str) -> None:
    machine.until(f"{name}.service", "active")
    before = machine.property(f"{name}.service", "MainPID")
    machine.run("kill", "-9", before)
    machine.wait(
        lambda: (
            machine.property(f"{name}.service", "MainPID") not in ("0", before)
            and machine.property(f"{name}.service", "ActiveState") == "active"
        ),
        f"{name} did not come back",
    )
    machine.wait(lambda: log_in(machine) == "opened\n", f"no login after {name} was killed")


@pytest.mark.parametrize("name", SERVICES)
def test_restarted_it_serves_again(machine: Machine, name: str) -> None:
    machine.run("systemctl", "restart", f"{name}.service")
    machine.wait(lambda: log_in(machine) == "opened\n", f"no login after {name} was restarted")


def test_one_that_stands_still_is_started_again(machine: Machine) -> None:
    """What WatchdogSec= is for; shortened here, the mechanism is the same."""
    machine.sh("""
        mkdir -p /run/systemd/system/bastion-courier.service.d
        printf '[Service]\nWatchdogSec=6\n' >/run/systemd/system/bastion-courier.service.d/short.conf
        systemctl daemon-reload; systemctl restart bastion-courier.service
    """)
    before = machine.property("bastion-courier.service", "MainPID")
    machine.run("kill", "-STOP", before)
    machine.wait(
        lambda: machine.property("bastion-courier.service", "MainPID") not in ("0", before), "the watchdog let it be"
    )
    machine.until("bastion-courier.service", "active")


PROBE: Final = """
import ctypes, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    ctypes.set_errno(0)
    if getattr(libc, name)(*args) == -1:
        raise OSError(ctypes.get_errno(), name)
attempts = {
    "write to /etc": lambda: open("/etc/bastion/mine", "w"),
    "write to /usr": lambda: open("/usr/mine", "w"),
    "read the database": lambda: open("/var/lib/bastion/policy/bastion.db", "rb"),
    "list recordings": lambda: os.listdir("/var/lib/bastion/recordings"),
    "read the master key": lambda: open("/etc/bastion/master.key", "rb"),
    "read /root": lambda: os.listdir("/root"),
    "see process 1": lambda: os.readlink("/proc/1/exe"),
    "attach to a process": lambda: call("ptrace", 16, os.getppid() or 1, 0, 0),
    "user namespace": lambda: call("unshare", 0x10000000),
    "mount namespace": lambda: call("unshare", 0x00020000),
    "network namespace": lambda: call("unshare", 0x40000000),
    "mount": lambda: call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "become root": lambda: os.setuid(0),
    "keyring": lambda: call("syscall", 250, 0, -3, 1),
}
done = []
for name, attempt in attempts.items():
    try:
        attempt()
        done.append(name)
    except OSError:
        pass
print(json.dumps({"tried": len(attempts), "done": done, "uid": os.getuid()}))
"""


def inside(machine: Machine, unit: str, program: str) -> str:
    """What a program prints that runs as that unit does: its file, with another program and no life of its own."""
    lines = machine.run("systemctl", "cat", f"{unit}.service").stdout.splitlines()
    dropped = ("ExecStart=", "ExecReload=", "Type=", "Restart", "WatchdogSec=", "After=", "Requires=", "BindsTo=",
               "Wants=", "PartOf=", "NotifyAccess=", "  ")  # fmt: skip
    kept = [line for line in lines if not line.startswith(dropped)]
    machine.write("/usr/local/lib/probe.py", program, "644")
    kept.insert(kept.index("[Service]") + 1, "Type=oneshot\n"
                "ExecStart=/usr/lib/bastion/bin/python /usr/local/lib/probe.py\n"
                "StandardOutput=truncate:/run/probe.out\nStandardError=truncate:/run/probe.err")  # fmt: skip
    machine.write("/run/systemd/system/probe.service", "\n".join(kept), "644")
    machine.run("systemctl", "daemon-reload")
    done = machine.run("systemctl", "start", "probe.service", check=False)
    assert done.returncode == 0, done.stderr + machine.sh("cat /run/probe.err")
    return machine.sh("cat /run/probe.out")


@pytest.mark.parametrize("unit", ["bastion-ssh", "bastion-courier", "bastion-broker", "bastion-runner"])
def test_a_door_that_was_taken_over_gets_nowhere(machine: Machine, unit: str) -> None:
    """The attack: code of somebody's in the process that faces the network."""
    found = json.loads(inside(machine, unit, PROBE))
    assert found["uid"] != 0
    assert found["tried"] >= 15
    assert found["done"] == []


@pytest.mark.parametrize("unit", ["bastion-policyd", "bastion-recorderd"])
def test_an_authority_has_no_network(machine: Machine, unit: str) -> None:
    program = PROBE.replace('"netlink":', '"internet": lambda: socket.socket(socket.AF_INET),\n    "netlink":')
    own = {"bastion-policyd": "read the database", "bastion-recorderd": "list recordings"}[unit]
    assert json.loads(inside(machine, unit, program))["done"] == [own]


def test_an_application_in_its_unit_reads(shop: Machine) -> None:
    done = shop.run("systemd-run", "--unit=shop", *SHOP, *GET, check=False)
    assert (done.returncode, done.stdout) == (0, "lent-to-the-shop"), done.stderr + shop.journal("-n", "20")


def test_the_same_user_in_no_unit_is_refused(shop: Machine) -> None:
    done = shop.run(*GET, user="shop", check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("bastion: ")


@pytest.mark.parametrize("unit", ["other", "shop-", "shop.service-other", "ashop"])
def test_the_same_user_in_another_unit_is_refused(shop: Machine, unit: str) -> None:
    done = shop.run("systemd-run", f"--unit={unit}", *SHOP, *GET, check=False)
    assert (done.returncode != 0, done.stdout) == (True, "")


@pytest.mark.parametrize(("to", "reads"), [("system.slice/elsewhere.service", False), ("", False), (None, True)])
def test_one_that_moved_itself_away_is_refused(shop: Machine, to: str | None, reads: bool) -> None:
    """Started in the unit, it has left its control group when it asks; `None` shows that moving is what counts."""
    move = f"echo $$ >/sys/fs/cgroup/{to}/cgroup.procs" if to is not None else "true"
    shop.sh("systemctl is-active -q elsewhere || systemd-run -q --unit=elsewhere sleep 1000")
    done = shop.run(
        "systemd-run", "--unit=shop", "--wait", "--pipe", "--quiet", "--collect", "sh", "-ec",
        f"{move}; exec setpriv --reuid shop --regid shop --clear-groups {' '.join(GET)}", check=False,
    )  # fmt: skip
    assert (done.returncode == 0, done.stdout) == (reads, "lent-to-the-shop" if reads else ""), done.stderr


def test_a_second_machine_takes_over_from_a_backup(shop: Machine, package: Path, tmp_path: Path) -> None:
    """policy/VAULT.md, "Onto another machine", word by word."""
    guide = (ROOT / "policy/VAULT.md").read_text().partition("### Onto another machine\n")[2].partition("\n#")[0]
    commands = [line.strip().partition("  # ")[0] for line in guide.splitlines() if line.startswith("    ")]
    assert len(commands) >= 8
    assert log_in(shop) == "opened\n"
    public = shop.run("cat", "/root/sam.pub").stdout.strip()
    shop.run("bastion", "backup", "--to", "/root/bastion.age", "--recipient", public, "--reason", "moving")
    shop.sh("tar -C / -cf /root/carried.tar root/bastion.age root/sam root/root.pub root/alice root/known "
            "etc/bastion/master.key etc/ssh/ssh_host_ed25519_key etc/ssh/ssh_host_ed25519_key.pub "
            "var/lib/bastion/recordings")  # fmt: skip
    head = json.loads(shop.run("bastion", "audit", "verify", "--json").stdout)
    (tmp_path / "carried.tar").write_bytes(
        subprocess.run(["nsenter", "-t", str(shop.pid), "-a", "cat", "/root/carried.tar"], capture_output=True,
                       check=True, timeout=120).stdout
    )  # fmt: skip
    with booted(tmp_path / "second") as second:
        second.put(tmp_path / "carried.tar", "/root/carried.tar")
        second.put(package, "/root/bastion.deb")
        second.sh("""
            cd /root
            tar -C / -xf carried.tar etc/ssh
            rm -rf carried; mkdir carried; tar -C carried -xf carried.tar
            rm -f sam root.key root.pub alice known
            cp -a carried/root/. .; mv carried/etc/bastion/master.key .; mv carried/var/lib/bastion/recordings copied
            mkdir -p -m 700 .ssh; cat root.pub >.ssh/authorized_keys
            mkdir -p /run/sshd; systemctl start ssh
        """)
        script = "\n".join(commands).replace("bastion_*.deb", "bastion.deb").replace("identity.txt", "sam")
        second.sh(f"cd /root; set -x; {script}".replace("FILE", "bastion.age"), timeout=300)
        second.wait(lambda: log_in(second) == "opened\n", "no login on the second machine")
        assert second.run("replay", "verify", "--all").returncode == 0
        verified = json.loads(second.run("bastion", "audit", "verify", "--json").stdout)
        assert int(verified["rows"]) > int(head["rows"])
        for path, owner in (("/var/lib/bastion/policy/bastion.db", "bastion-policy:bastion 600"),
                            ("/etc/bastion/master.key", "root:root 600"),
                            ("/etc/bastion/ssh_host_ed25519_key", "root:root 600"),
                            ("/var/lib/bastion/recordings/node.key", "bastion-record:bastion-record 600")):  # fmt: skip
            assert second.run("stat", "-c", "%U:%G %a", path).stdout.strip() == owner
        assert "Traceback" not in second.journal()


def test_what_the_journal_says_is_no_secret_and_no_traceback(machine: Machine) -> None:
    text = machine.journal()
    assert '"event": "ready"' in text
    assert "Traceback" not in text
    key = machine.sh("sed 1d /root/root | head -1").strip()
    assert len(key) > 40
    assert key not in text


def test_it_stops_cleanly_and_starts_again(machine: Machine) -> None:
    machine.run("systemctl", "stop", "bastion.target")
    for name in SERVICES:
        machine.until(f"{name}.service", "inactive")  # what is part of the target ends after it
        assert machine.property(f"{name}.service", "Result") == "success"
    machine.run("systemctl", "start", "bastion.target")
    machine.wait(lambda: log_in(machine) == "opened\n", "no login after a stop and a start")
