"""`make demo`: a bastion and a target on loopback, driven with the system's ssh. Every step is checked.

Everything it makes is below one folder and on 127.0.0.1; it ends with 0 only if each step did what it says.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from bastion.demo_site import LOOPBACK, Site, StepFailed, make_site

PATIENCE: Final = 30.0
"""Seconds for one command. The slowest, a start from nothing, takes 3 on one slow core."""

_BOLD, _DIM, _GREEN, _RED, _PLAIN = ("\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[0m")


def main() -> None:
    """Entry point of `python -m bastion.demo DIR [--stay]`."""
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stay", action="store_true", help="keep it running until Ctrl-C, drive nothing")
    options = parser.parse_args()
    if not shutil.which("ssh"):
        sys.exit("bastion: ssh is not installed\nbastion: sudo apt install openssh-client")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    site = make_site(options.folder.absolute())
    demo = Demo(site)
    try:
        demo.set_up()
        if options.stay:
            demo.try_by_hand()
            _say(f"\n{_BOLD}It stays up. Ctrl-C ends it.{_PLAIN}")
            site.wait()
        else:
            demo.drive()
            demo.try_by_hand()
    except StepFailed as error:
        _say(f"\n{_RED}failed: {error}{_PLAIN}\nlogs: {site.log}  {site.target_log}")
        sys.exit(1)
    except KeyboardInterrupt:
        _say("")
    finally:
        site.stop()


class Demo:
    """The steps, in order. Each prints its commands as one could type them, and their output."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._count = 0

    def set_up(self) -> None:
        """A new bastion with one engineer, one target and one credential that nobody knows."""
        site, user = self.site, self.site.user
        self._step("make a bastion: configuration, keys, database, first administrator")
        self._bastion("init", "--unattended", "--listen", f"{LOOPBACK}:{site.port}", "--admin", "sam", "--admin-key",
                      f"{site.name}/keys/sam.pub", site.name, wants="bastion run", config=False)  # fmt: skip
        site.write_rules()
        self._step("start it, and a target that only the bastion has a key for")
        _command(f"bastion run -c {site.name}/bastion.toml &")
        site.start_target()
        site.start_bastion()
        self._note(f"the target is {site.target_kind} on {LOOPBACK}:{site.target_port}")
        self._bastion("check-config", wants="fine")
        self._step("tell it about an engineer and the target")
        self._bastion("person", "add", "alice", "--key", f"{site.name}/keys/alice.pub", "--role", "engineer")
        self._bastion("target", "add", "web1", "--address", f"{LOOPBACK}:{site.target_port}", "--label", "env=demo",
                      "--pin", "scan", wants="SHA256:")  # fmt: skip
        self._bastion("account", "add", f"{user}@web1", "--key", f"{site.name}/keys/vaulted")
        (site.folder / "keys/vaulted").unlink()  # from here on it is in the vault alone
        self._bastion("policy", "explain", "alice", f"{user}@web1", wants="allow")
        site.trust(self._ssh("bastion", "ca", wants="@cert-authority"))

    def drive(self) -> None:
        """What engineers do, then what auditors do."""
        self._use()
        self._refuse()
        self._look_back()
        self._tamper()
        self._kill()
        self._account()

    def _use(self) -> None:
        site, place = self.site, f"{self.site.user}@web1@bastion"
        self._step("a command on the target, with its own exit status")
        self._ssh(place, "echo hello from $(whoami)", wants=f"hello from {site.user}")
        self._ssh(place, "exit 7", status=7)
        self._step("a session on a terminal")
        self._ssh("-tt", place, typed="stty size\necho typed on a terminal\nexit\n", wants="typed on a terminal")
        self._step("a file there and back")
        original = site.folder / "original"
        original.write_bytes(os.urandom(1_000_000))
        there = site.target_folder / "file with space"
        remote = f"{place}:{shlex.quote(str(there))}" if site.old_scp else f"{place}:{there}"
        self._run([*site.scp, "-q", f"{site.name}/original", remote], shown=True)
        self._run([*site.scp, "-q", remote, f"{site.name}/copy"], shown=True)
        self._check("the copy is the original", (site.folder / "copy").read_bytes() == original.read_bytes())
        self._step("plain ssh -J, with a host certificate for the target and the same recording")
        self._ssh("-J", "bastion", f"{site.user}@web1", "echo through -J", wants="through -J")

    def _refuse(self) -> None:
        site = self.site
        self._step("a stranger is refused; so is a target that nobody granted")
        self._ssh("-i", f"{site.name}/keys/stranger", "-o", "IdentityAgent=none", f"{site.user}@web1@stranger", "id",
                  status=255, wants="Permission denied")  # fmt: skip
        self._ssh(f"{site.user}@db7@bastion", "id", status=77, wants="bastion: ")

    def _look_back(self) -> None:
        self._step("every session was recorded: list, play, export, verify")
        listed = self.site.recordings()
        self._replay("ls", wants="alice")
        self._check("each login left a recording", len(listed) >= 6)
        shell = self._find(listed, "typed on a terminal")
        self._replay("play", "--speed", "20", shell, wants="typed on a terminal")
        cast = f"{self.site.name}/session.cast"
        self._replay("export", shell, "--format", "asciicast", "--output", cast)
        self._check("the export holds what was on the screen", "typed on a terminal" in Path(cast).read_text())
        self._replay("verify", "--all")

    def _tamper(self) -> None:
        self._step("change one byte of a copy: verify finds it")
        recording = max(self.site.recording_files(), key=lambda path: path.stat().st_size)
        copy = self.site.folder / f"tampered-{recording.name}"
        data = bytearray(recording.read_bytes())
        data[len(data) // 2] ^= 1
        copy.write_bytes(data)
        self._replay("verify", f"{self.site.name}/{copy.name}", status=None, refuses=True)

    def _kill(self) -> None:
        self._step("end a live session")
        place = f"{self.site.user}@web1@bastion"
        words = [*self.site.ssh, "-tt", place, "echo alive; sleep 600"]
        _command(f"{shlex.join(words)} &")
        live = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            assert live.stdout is not None
            self._check("it is alive", b"alive" in live.stdout.readline())
            session = self.site.live_session()
            self._bastion("sessions", "list", wants="alice")
            self._bastion("sessions", "kill", session, "--reason", "end of the demo")
            rest = live.communicate(timeout=PATIENCE)[0].decode(errors="replace")
        finally:
            live.kill()
        _output(rest)
        self._check("the person was told why", "end of the demo" in rest)
        self._check("the session ended", live.returncode != 0)

    def _account(self) -> None:
        self._step("who looked at what, is in the audit trail as well")
        self._bastion("audit", "list", "--event", "view", "--what", f"{self.site.user}@web1", "--limit", "1",
                      wants="verb=play")  # fmt: skip
        self._bastion("audit", "verify")

    def try_by_hand(self) -> None:
        site = self.site
        _say(f"\n{_BOLD}Try by hand{_PLAIN}" + ("" if site.is_running() else f"  {_DIM}(after: make run){_PLAIN}"))
        options = f"-F {site.name}/ssh_config"
        for line in (
            f"ssh {options} {site.user}@web1@bastion",
            f"ssh {options} -J bastion {site.user}@web1",
            f"ssh {options} bastion help",
            f"{VENV}replay ls -c {site.name}/bastion.toml",
            f"{VENV}bastion sessions list -c {site.name}/bastion.toml",
        ):
            _command(line)

    # --- running commands ---------------------------------------------------------------------------

    def _step(self, title: str) -> None:
        self._count += 1
        _say(f"\n{_BOLD}{self._count}. {title}{_PLAIN}")

    def _note(self, text: str) -> None:
        _say(f"  {_DIM}{text}{_PLAIN}")

    def _check(self, fact: str, holds: bool) -> None:
        if not holds:
            raise StepFailed(f"not so: {fact}")
        _say(f"  {_GREEN}ok{_PLAIN} {fact}")

    def _ssh(self, *words: str, status: int | None = 0, wants: str = "", typed: str = "") -> str:
        return self._run([*self.site.ssh, *words], status=status, wants=wants, typed=typed, shown=True)

    def _bastion(self, *words: str, wants: str = "", config: bool = True) -> str:
        place = ["-c", f"{self.site.name}/bastion.toml"] if config else []
        return self._module("bastion", [*words, *place], wants=wants)

    def _replay(self, *words: str, wants: str = "", status: int | None = 0, refuses: bool = False) -> str:
        place = ["-c", f"{self.site.name}/bastion.toml"]
        return self._module("replay", [*words, *place], wants=wants, status=status, refuses=refuses)

    def _module(
        self, module: str, words: list[str], *, wants: str, status: int | None = 0, refuses: bool = False
    ) -> str:
        _command(shlex.join([module, *words]))
        full = [sys.executable, "-m", module, *words]
        return self._run(full, status=status, wants=wants, refuses=refuses)

    def _run(
        self, words: list[str], *, status: int | None = 0, wants: str = "", typed: str = "", shown: bool = False,
        refuses: bool = False,
    ) -> str:  # fmt: skip
        """Run a command and show what it says; StepFailed unless status and output are as wanted."""
        if shown:
            _command(shlex.join(words))
        try:
            done = subprocess.run(
                words, input=typed, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired as slow:
            _output(_text(slow.stdout) + _text(slow.stderr))
            raise StepFailed(f"`{shlex.join(words)}` did not end within {PATIENCE:g} seconds") from None
        said = done.stdout + done.stderr
        _output(said)
        if refuses and done.returncode == 0:
            raise StepFailed(f"`{shlex.join(words)}` should have failed")
        if status is not None and done.returncode != status:
            raise StepFailed(f"`{shlex.join(words)}` ended with {done.returncode}, not {status}")
        if wants and wants not in said:
            raise StepFailed(f"`{shlex.join(words)}` did not say `{wants}`")
        if status or refuses:
            _say(f"  {_GREEN}ok{_PLAIN} exit status {done.returncode}, as it should")
        return done.stdout

    def _find(self, recordings: list[str], text: str) -> str:
        for session in recordings:
            words = ["play", "--speed", "1000", session, "-c", f"{self.site.name}/bastion.toml"]
            done = subprocess.run(
                [sys.executable, "-m", "replay", *words],
                capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False,
            )  # fmt: skip
            if text in done.stdout:
                return session
        raise StepFailed(f"no recording shows `{text}`")


VENV: Final = f"{os.path.relpath(os.path.dirname(sys.executable))}/"


def _text(data: bytes | str | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""


def _command(line: str) -> None:
    _say(f"  {_BOLD}$ {line}{_PLAIN}")


def _output(text: str, *, most: int = 14) -> None:
    lines = [line.rstrip("\r") for line in text.rstrip().splitlines()]
    for line in lines[:most]:
        _say(f"    {_DIM}{_visible(line)}{_PLAIN}")
    if len(lines) > most:
        _say(f"    {_DIM}... {len(lines) - most} more lines{_PLAIN}")


def _visible(line: str) -> str:
    from bastion.text import neutral

    return neutral(line.replace("\t", "    "))


def _say(text: str) -> None:
    if not sys.stdout.isatty():
        for code in (_BOLD, _DIM, _GREEN, _RED, _PLAIN):
            text = text.replace(code, "")
    print(text, flush=True)


if __name__ == "__main__":
    main()
