"""Text that means harm: escapes in names, commands, files, titles and versions never act on the screen of staff."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import paramiko
import pytest

from tests.support.chaos import KEPT, FaultSite, ended_tape, patience
from tests.support.net import LOOPBACK, wait_until
from tests.support.sshd import SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

EVIL: Final = (
    "\x1b]0;title\x07"  # CVE-2003-0063: a title that a later sequence reports as typed text
    "\x1b]52;c;cHduZWQ=\x07"  # the clipboard
    "\x1b[6n\x1b[c\x1bP+q544e\x1b\\"  # questions whose answers are typed into the shell
    "\x9b21t"  # the same by a C1 control
    "\x1b]8;;http://evil.example\x07"  # a link
    "\u202egnp.exe"  # a line that is read backwards
    "\x1b[2J\x1b[8m"  # hides what stands there
)
"""No newline: file names with one are a case of their own."""

ACTS: Final = re.compile(
    r"\x1b\]|\x1bP|\x1b_|\x1b\^|\x1bX|\x1b\[[0-9;?>=!]*[nctpqRy]|[\x80-\x9f]|[\u202a-\u202e\u2066-\u2069]"
)
"""What may never reach a terminal of staff, not even in a replay: strings, questions, C1, direction."""
CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What may not stand in a list or a log at all."""


@pytest.fixture
def site(fault_site: FaultSite) -> Iterator[FaultSite]:
    yield fault_site
    assert fault_site.go("echo alive").out == b"alive\n", "the bastion does not work any more"


def knock(site: FaultSite, user: str, command: str = "id") -> tuple[int, str]:
    """Log in with a name that OpenSSH's own client would not send."""
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect(
            LOOPBACK, site.port, user, key_filename=str(site.key("alice")), allow_agent=False, look_for_keys=False,
            timeout=patience(20),
        )  # fmt: skip
        _, out, err = client.exec_command(command, timeout=patience(20))
        return out.channel.recv_exit_status(), err.read().decode(errors="replace")


@pytest.mark.parametrize("place", ["{}@web1", "root@{}", "{}"], ids=["account", "target", "person"])
def test_escapes_in_a_user_name_are_refused_and_shown_harmless(site: FaultSite, place: str) -> None:
    code, err = knock(site, place.format(EVIL))
    assert code in (64, 77), err
    assert err.startswith("bastion: ")
    assert not CONTROL.search(err), f"{err!r}"
    nothing_acts(site)


def test_escapes_in_commands_and_output_are_shown_harmless(site: FaultSite) -> None:
    command = f": txt-cmd; printf '%s\\n' '{EVIL}'; echo '{EVIL}' >&2"
    done = site.ssh("direct", command, options=("-l", site.login(target=KEPT)))
    assert done.returncode == 0
    assert EVIL.encode() in done.stdout, "what the target writes is the person's own affair"
    tape = ended_tape(site, "txt-cmd")
    nothing_acts(site, tape.session)


def test_escapes_on_a_terminal_are_kept_in_the_recording_and_out_of_the_replay(site: FaultSite) -> None:
    command = f": txt-tty; printf '%s visible\\n' '{EVIL}'"
    done = site.ssh("direct", command, options=("-tt", "-l", site.login(target=KEPT)))
    assert EVIL.encode() in done.stdout
    tape = ended_tape(site, "txt-tty")
    nothing_acts(site, tape.session)
    played = site.replay("play", "--speed", "1000", tape.session).stdout
    assert "visible" in played
    hidden, plain = played.rindex("\x1b[8m"), played.rindex("\x1b[m")
    assert hidden < plain < played.rindex("session ended"), "what the target hides, it does not hide of ours"


def test_escapes_in_file_names_are_shown_harmless(site: FaultSite, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"harmless")
    name = EVIL.replace("/", "") + "\nroot@web1: all is well"
    words = [*site.command("scp"), "-q", str(local), f"direct:{tmp_path}/{name}"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience(30))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).read_bytes() == b"harmless"
    wait_until("the end of the session", lambda: not site.sessions(), patience(10))
    newest = json.loads(site.replay("ls", "--json").stdout)[0]["session"]
    shown = nothing_acts(site, newest)
    assert "gnp.exe" in shown["replay show"], "it is not hidden either"
    assert "\nroot@web1: all is well" not in shown["replay show"], "a line that nobody but the file name has said"


def test_escapes_in_a_version_a_reason_and_a_ticket_are_shown_harmless(site: FaultSite) -> None:
    transport = paramiko.Transport((LOOPBACK, site.port))
    transport.local_version = "SSH-2.0-" + EVIL.encode("ascii", "ignore").decode()
    try:
        transport.start_client(timeout=patience(20))
        transport.auth_publickey(site.login(), paramiko.Ed25519Key.from_private_key_file(str(site.key("alice"))))
        channel = transport.open_session(timeout=patience(20))
        channel.update_environment({"BASTION_REASON": EVIL, "BASTION_TICKET": EVIL, "LANG": EVIL})
        channel.exec_command("true")
        channel.recv_exit_status()
    except paramiko.SSHException:
        pass  # refused is as good; what is left of it is looked at below
    finally:
        transport.close()
    nothing_acts(site)


def nothing_acts(site: FaultSite, session: str = "") -> dict[str, str]:
    """Everything that staff look at, for the newest session and for all of them."""
    log = site.log.read_text().rpartition("\n")[0]  # the last line may be on its way
    shown = {
        "bastion sessions list": site.bastion("sessions", "list", "--all").stdout,
        "bastion audit list": site.bastion("audit", "list", "--limit", "300").stdout,
        "replay ls": site.replay("ls").stdout,
        "bastion log": log,
    }
    if session:
        shown["replay show"] = site.replay("show", session).stdout
        shown["replay export"] = site.replay("export", session, "--format", "text").stdout
    for what, text in shown.items():
        found = CONTROL.search(text)
        assert found is None, f"{what}: {text[max(0, found.start() - 80) : found.end() + 20]!r}"
    for words in (("sessions", "list", "--all"), ("audit", "list", "--limit", "300")):
        text = site.bastion(*words, "--json").stdout
        assert not CONTROL.search(text), words
        json.loads(text)
    for line in log.splitlines():
        assert not line.startswith("{") or json.loads(line), "one event, one line"
    if session:
        played = site.replay("play", "--speed", "1000", session).stdout
        found = ACTS.search(played)
        assert found is None, f"replay play: {played[max(0, found.start() - 80) : found.end() + 20]!r}"
        shown["replay play"] = played
    return shown
