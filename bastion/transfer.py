"""What an exec channel is, and what its environment may hold. Pure.

A command is classified as a transfer only when every shell reads it as the same plain list of words. Anything
else is `exec`, so that a rule that allows `scp` alone cannot be made to run something else. What a program of
that name does on the target, nobody can see from here: the bytes of an `exec` are recorded whole for that.
"""

import re
from typing import Final

from policy.model import ChannelKind

MAX_COMMAND: Final = 32 * 1024
"""Bytes of a command that may count as a transfer: one event."""

MAX_ENV: Final = 64
"""Variables of one channel, counted by `bastion.requests`. Clients send two to twelve; asyncssh kept 20,000."""

MAX_ENV_BYTES: Final = 16 * 1024
"""Bytes of their names and values in all: they are recorded in one event, beside the beginning of a command."""

MAX_VALUE: Final = 1024

# One word. Quotes hold no backslash (fish reads `'a\'` otherwise) and no `!` (csh); braces and variables are out.
_WORD: Final = rb"(?:[A-Za-z0-9@%_+:,./=~*?\[\]-]|'[^'\\!\n\0]*'|\\[^\n\0])+"
_WORDS: Final = re.compile(rb"%b(?: +%b)*" % (_WORD, _WORD))
_SPLIT: Final = re.compile(_WORD)

_SCP: Final = re.compile(rb"(?:/usr/bin/)?scp")
_SCP_OPTION: Final = re.compile(rb"-[vrpdqtf]+")
_RSYNC: Final = re.compile(rb"(?:/usr/bin/)?rsync")
_RSYNC_SHORT: Final = re.compile(rb"-[A-Za-df-z0-9]*(?:e\.[A-Za-z0-9.]*)?")
_RSYNC_RUNS: Final = (b"--daemon", b"--config", b"--dparam", b"--rsh", b"--rsync-path", b"--remote-option")
_SFTP: Final = re.compile(rb"(?:/usr/(?:lib|libexec)/(?:openssh/|ssh/)?|/usr/sbin/|/usr/libexec/sftp/)?sftp-server")
_SFTP_OPTIONS: Final = re.compile(rb"(?: +(?:-[eR]+|-[lfu] *[A-Za-z0-9]+))* *")

_ENV: Final = re.compile(rb"LANG|LANGUAGE|LC_[A-Z0-9_]{1,60}|TERM|COLORTERM|NO_COLOR|TZ|GIT_PROTOCOL")
_TZ: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_+,./:-]*")


def kind_of(command: bytes) -> ChannelKind:
    """The channel kind that policy must allow for this exec command."""
    if len(command) > MAX_COMMAND or not _WORDS.fullmatch(command):
        return ChannelKind.EXEC
    words = _SPLIT.findall(command)
    if _SCP.fullmatch(words[0]):
        return ChannelKind.SCP if scp_side(command) else ChannelKind.EXEC
    if _RSYNC.fullmatch(words[0]) and words[1:2] == [b"--server"]:
        return ChannelKind.SCP if all(map(_rsync_moves_files, words[2:])) else ChannelKind.EXEC
    if _SFTP.fullmatch(words[0]) and _SFTP_OPTIONS.fullmatch(command[len(words[0]) :]):
        return ChannelKind.SFTP
    return ChannelKind.EXEC


def scp_side(command: bytes) -> tuple[bool, bytes] | None:
    """(the user sends, path) of the far end of a legacy scp, as `-t PATH` or `-f PATH`; None if it is none."""
    if not _WORDS.fullmatch(command):
        return None
    words = _SPLIT.findall(command)
    if not _SCP.fullmatch(words[0]):
        return None
    flags = b""
    at = 1
    while at < len(words) and _SCP_OPTION.fullmatch(words[at]):
        flags += words[at][1:]
        at += 1
    if words[at : at + 1] == [b"--"]:
        at += 1
    elif any(word.startswith(b"-") for word in words[at:]):  # -S PROGRAM and -o ProxyCommand run what they name
        return None
    sink = b"t" in flags
    if sink == (b"f" in flags) or at >= len(words) or (sink and at + 1 != len(words)):
        return None
    return sink, b" ".join(map(_unquoted, words[at:]))


def env_allowed(name: bytes, value: bytes) -> bool:
    """May the user set this variable on the target? What sshd takes by default, and what changes no program.

    Attack: LD_PRELOAD, BASH_ENV, GIT_SSH_COMMAND and the like run what they name; a value that begins with `() {`
    is code to old shells (CVE-2014-6271).
    """
    if not _ENV.fullmatch(name) or len(value) > MAX_VALUE or value.startswith(b"()"):
        return False
    if any(byte < 0x20 or byte == 0x7F for byte in value):
        return False
    if name == b"TZ":  # a file name to the C library, also in programs with more rights than the user
        return bool(_TZ.fullmatch(value)) and b".." not in value
    if name == b"GIT_PROTOCOL":
        return bool(re.fullmatch(rb"version=[0-9]", value))
    return True


def _rsync_moves_files(word: bytes) -> bool:
    """Not so: a daemon over the shell reads a configuration, and that may hold commands."""
    if word.startswith(b"--") or not word.startswith(b"-"):
        return not _unquoted(word).startswith(_RSYNC_RUNS)
    return bool(_RSYNC_SHORT.fullmatch(word))


def _unquoted(word: bytes) -> bytes:
    return re.sub(rb"'([^']*)'|\\(.)", lambda found: found[1] if found[1] is not None else found[2], word)
