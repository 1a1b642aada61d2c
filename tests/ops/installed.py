"""A bastion installed from its package on a booted machine, as README's "Setting it up for real" says."""

from pathlib import Path
from typing import Final

from tests.ops.machine import Machine

SERVICES: Final = ("bastion-recorderd", "bastion-policyd", "bastion-courier", "bastion-ssh")
"""What bastion.target starts."""
ALL: Final = (*SERVICES, "bastion-broker", "bastion-runner")
"""With what is enabled where it is wanted."""
RULES: Final = """
[[rule]]
name = "engineers on test machines"
who = { roles = ["engineer"] }
where = { labels = { env = "test" } }
as = ["*"]
allow = ["shell", "exec", "sftp", "scp"]
"""
SSH: Final = ("ssh", "-p", "2222", "-i", "/root/alice", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=30",
              "-o", "UserKnownHostsFile=/root/known", "-o", "StrictHostKeyChecking=accept-new",
              "-o", "BatchMode=yes", "root@web1@127.0.0.1")  # fmt: skip
PERSON: Final = (*SSH[:-1], "alice@127.0.0.1")
SHOP: Final = ("--uid=shop", "--wait", "--pipe", "--quiet", "--collect")
RUN_AS_SHOP: Final = ("systemd-run", "--unit=shop", *SHOP)
GET: Final = ("bastion", "broker", "get", "db/app")
SECRET: Final = "lent-to-the-shop"


def log_in(machine: Machine) -> str:
    return machine.run(*SSH, "echo opened", check=False).stdout


def install(machine: Machine, package: Path) -> None:
    """With the administrator sam, the engineer alice, and an sshd on the same machine as the target."""
    machine.put(package, "/root/bastion.deb")
    machine.sh("""
        mkdir -p -m 700 /root/.ssh
        for name in sam alice root; do rm -f /root/$name*; ssh-keygen -q -t ed25519 -N '' -f /root/$name; done
        cat /root/root.pub >/root/.ssh/authorized_keys
        rm -f /root/known
        ssh-keygen -A; systemctl enable --now ssh.service
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq /root/bastion.deb
        bastion init --existing --unattended --admin sam --admin-key /root/sam.pub /etc/bastion
    """, timeout=300)  # fmt: skip
    machine.write("/etc/bastion/policy.toml", RULES, "644")
    machine.sh("""
        systemctl enable --now bastion.target
        bastion person add alice --key /root/alice.pub --role engineer
        bastion target add web1 --address 127.0.0.1:22 --label env=test --pin scan
        bastion account add root@web1 --key /root/root
        bastion check-config && bastion policy check
    """)


def lend(machine: Machine) -> None:
    """An application bound to shop.service and its user, with whom a secret of alice's is shared."""
    machine.sh("useradd --system shop; systemctl enable --now bastion-broker.socket")
    machine.run(*PERSON, "vault", "add", "db/app", stdin=f"{SECRET}\n")
    uid = machine.run("id", "-u", "shop").stdout.strip()
    machine.run("bastion", "application", "add", "shop", "--uid", uid, "--unit", "shop.service", "--owner", "alice")
    machine.run(*PERSON, "vault", "share", "db/app", "application:shop", "--rights", "use")


def read(machine: Machine) -> str:
    """What the application is given; what it is told instead, where it is refused."""
    done = machine.run(*RUN_AS_SHOP, *GET, check=False)
    return done.stdout if done.returncode == 0 else f"{done.returncode}: {done.stderr}"
