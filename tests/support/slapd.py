"""A real OpenLDAP server as directory: own configuration, own database, own certificate, loopback, free ports."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.net import LOOPBACK, free_port, tail, wait_until
from tests.support.outside import Ca

SLAPD = shutil.which("slapd") or "/usr/sbin/slapd"
BASE = "dc=example,dc=org"
PEOPLE, GROUPS = f"ou=people,{BASE}", f"ou=groups,{BASE}"
SERVICE, SERVICE_PASSWORD = f"cn=bastion,{BASE}", "s3rvice"
ROOT, ROOT_PASSWORD = f"cn=root,{BASE}", "r00t"

_CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
attributetype ( 1.3.6.1.4.1.24552.500.1.1.1.13 NAME 'sshPublicKey' DESC 'OpenSSH public key'
  EQUALITY octetStringMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )
objectclass ( 1.3.6.1.4.1.24552.500.1.1.2.0 NAME 'ldapPublicKey' SUP top AUXILIARY MAY ( sshPublicKey ) )
attributetype ( 2.16.840.1.113730.3.1.610 NAME 'nsAccountLock' SYNTAX 1.3.6.1.4.1.1466.115.121.1.15
  EQUALITY caseIgnoreMatch SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl' SYNTAX 1.3.6.1.4.1.1466.115.121.1.27
  EQUALITY integerMatch SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.99999.1 NAME 'lockable' SUP top AUXILIARY MAY ( nsAccountLock $ userAccountControl ) )
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
pidfile {home}/pid
TLSCertificateFile {home}/server.pem
TLSCertificateKeyFile {home}/server.pem
disallow bind_anon
{options}
database mdb
suffix "{base}"
rootdn "{root}"
rootpw {root_password}
directory {home}/data
index objectClass,uid,memberOf eq
overlay memberof
limits dn.exact="{service}" size.prtotal=unlimited size.pr={page}
{rules}"""
_RULES = f"""\
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{SERVICE}" read by * none
"""


@dataclass
class Slapd:
    """`options` stand in its configuration, `rules` say who may what; `page` is the largest page it gives."""

    home: Path
    options: str = ""
    page: str = "unlimited"
    rules: str = _RULES
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    ca: Ca = field(init=False)

    @property
    def url(self) -> str:
        return f"ldaps://{LOOPBACK}:{self.tls_port}"

    @property
    def starttls_url(self) -> str:
        return f"ldap://{LOOPBACK}:{self.port}"

    def start(self) -> "Slapd":
        if not self.home.exists():
            (self.home / "data").mkdir(parents=True)
            self.ca = Ca(self.home / "ca")
            self.ca.context(LOOPBACK)
            (pem,) = [path for path in (self.home / "ca").iterdir() if path.name != "ca.pem"]
            pem.rename(self.home / "server.pem")
            self._configure()
            self.load(
                f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n\n"
                f"dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n\n"
                f"dn: {GROUPS}\nobjectClass: organizationalUnit\nou: groups\n\n"
                f"dn: {SERVICE}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: bastion\n"
                f"userPassword: {SERVICE_PASSWORD}\n"
            )
        with (self.home / "log").open("ab") as log:
            words = [SLAPD, "-f", str(self.home / "slapd.conf"), "-d", "0", "-h", f"{self.starttls_url} {self.url}"]
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        wait_until("slapd", self._is_up)
        return self

    def _configure(self) -> None:
        (self.home / "slapd.conf").write_text(
            _CONFIGURATION.format(
                home=self.home, base=BASE, root=ROOT, root_password=ROOT_PASSWORD, service=SERVICE,
                options=self.options, page=self.page, rules=self.rules,
            )
        )  # fmt: skip

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, tail(self.home / "log")
        with suppress(OSError), socket.create_connection((LOOPBACK, self.tls_port), timeout=2):
            return True
        return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    # --- what there is ------------------------------------------------------------------------------

    def load(self, ldif: str) -> None:
        """Entries, while it does not run."""
        words = [SLAPD, "-T", "add", "-f", str(self.home / "slapd.conf")]
        done = subprocess.run(words, input=ldif, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    def change(self, ldif: str) -> None:
        """Add, change and delete while it runs."""
        words = ["ldapmodify", "-x", "-H", self.url, "-D", ROOT, "-w", ROOT_PASSWORD, "-a"]
        environment = {**os.environ, "LDAPTLS_CACERT": str(self.home / "ca/ca.pem")}
        done = subprocess.run(
            words, input=ldif, capture_output=True, text=True, check=False, timeout=60, env=environment
        )
        assert done.returncode == 0, f"{ldif}\n{done.stderr}"

    def add(self, *names: str, password: str = "", keys: tuple[str, ...] = (), more: str = "") -> None:
        """Persons below PEOPLE."""
        self.change("\n\n".join(person(name, password=password, keys=keys, more=more) for name in names))

    def remove(self, *names: str) -> None:
        self.change("\n\n".join(f"dn: uid={name},{PEOPLE}\nchangetype: delete\n" for name in names))

    def group(self, name: str, *members: str) -> str:
        """A new group of persons; its name."""
        dn = f"cn={name},{GROUPS}"
        lines = "\n".join(f"member: uid={member},{PEOPLE}" for member in members)
        self.change(f"dn: {dn}\nobjectClass: groupOfNames\ncn: {name}\n{lines}\n")
        return dn

    def set(self, name: str, *lines: str) -> None:
        """Change attributes of a person: `set("alice", "replace: sn", "sn: Smith")`."""
        self.change(f"dn: uid={name},{PEOPLE}\nchangetype: modify\n" + "\n".join(lines) + "\n")


def person(name: str, *, password: str = "", keys: tuple[str, ...] = (), more: str = "") -> str:
    """An entry as LDIF."""
    lines = [f"dn: uid={name},{PEOPLE}", *(f"objectClass: {kind}" for kind in ("inetOrgPerson", "posixAccount"))]
    lines += ["objectClass: shadowAccount", "objectClass: ldapPublicKey", "objectClass: lockable"]
    lines += [f"uid: {name}", f"cn: {name}", f"sn: {name}", "uidNumber: 1000", "gidNumber: 1000"]
    lines += ["homeDirectory: /home/x", *(f"sshPublicKey: {key}" for key in keys)]
    return "\n".join([*lines, *([f"userPassword: {password}"] if password else []), *([more] if more else [])]) + "\n"
