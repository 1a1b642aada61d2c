"""One line of ~/.ssh/authorized_keys more or less, and every other byte as it was. Pure: see `deeds`.

A constant script is told a random word, says it and the file, and waits; what comes back is put beside the file,
synced, and renamed into its place, if the file is still the one that was said. So whoever edits it meanwhile loses
nothing, a line that breaks changes nothing, and at every moment the file is the old one or the new one.
"""

import base64
import binascii
import re
import shlex
from collections.abc import Iterator
from typing import Final

from bastion.ssh.hands.deeds import BadOrder, Effects, EndInput, Hearing, Result, Type, check_account
from policy.messages.rotation import DONE, REFUSED, UNKNOWN, UNREACHABLE

MAX_FILE: Final = 256 * 1024
"""Bytes of a file that is touched: 400 RSA keys. sshd reads it at each login, so nobody keeps a larger one."""
MAX_LINE: Final = 16 * 1024
"""Bytes of a line to add: an RSA key of 16384 bits with options; sshd ignores what is longer than 8 KiB."""
_TALK: Final = 64 * 1024  # what else a login says

_SAVED: Final = b"bastion-saved\n"

# No line breaks, no single quotes and no backslash outside of printf: it passes any login shell in single quotes.
# 65 to 69 are our own; each word of it is in POSIX but mktemp, which everybody has.
_EDIT: Final = "; ".join(
    [
        'die() { echo "$1" >&2; exit 65; }',
        'IFS= read -r word || exit 64',
        "umask 077",
        'cd || die "there is no home folder"',
        "f=.ssh/authorized_keys",
        # Attack: a link there would have us write wherever the account may write, and its owner is not who asked.
        'if [ -L .ssh ] || [ -L "$f" ]; then die "~/$f is a symbolic link"; fi',
        '[ -d .ssh ] || mkdir .ssh || die "~/.ssh cannot be made"',
        'if [ -e "$f" ] && [ ! -f "$f" ]; then die "~/$f is no file"; fi',
        'if [ -e "$f" ] && [ ! -O "$f" ]; then die "~/$f belongs to somebody else"; fi',
        't=$(mktemp "$f.XXXXXXXX") || die "no file can be made beside ~/$f"',
        "trap \"rm -f $t $t.was\" EXIT",
        'trap "exit 66" HUP INT TERM PIPE',
        f'if [ -e "$f" ]; then [ $(wc -c < "$f") -le {MAX_FILE} ] || die "~/$f is longer than {MAX_FILE} bytes"',
        'cp -p "$f" "$t" && cp "$f" "$t.was" || die "~/$f cannot be copied"',
        'else : > "$t.was"',
        "fi",
        'echo "bastion-keys $word $(($(wc -c < "$t.was")))"',
        'cat "$t.was"',
        'IFS= read -r size || die "nothing was changed"',
        'cat > "$t" || die "there is no room for it"',
        '[ $(wc -c < "$t") -eq "$size" ] || die "it was cut short on its way"',
        'sync "$t" 2>/dev/null || sync',
        'if [ -e "$f" ] || [ -s "$t.was" ]; then cmp -s "$f" "$t.was" || die "~/$f was changed by somebody else"',
        "fi",
        'mv -f "$t" "$f" || die "~/$f cannot be replaced"',
        "sync .ssh 2>/dev/null || sync",
        "echo bastion-saved",
    ]
)  # fmt: skip

# The account whose file it is comes on the first line, as data; its file is touched with its rights and no others.
_AS_ANOTHER: Final = "; ".join(
    [
        'IFS= read -r account || exit 64',
        'if [ "$(id -u)" = 0 ]; then exec su -s /bin/sh -c "$0" -- "$account"',
        'else exec sudo -n -H -u "$account" -- sh -c "$0"',
        "fi",
    ]
)  # fmt: skip


def _shell(script: str, *words: str) -> bytes:
    return ("exec env LC_ALL=C sh -c " + " ".join(shlex.quote(word) for word in (script, *words))).encode("ascii")


class AuthorizedKeys:
    """Add the line `new`, take the key `old` away, or both in one step. `another`: whose file it is, if not our own.

    `word` is random: whatever else a login says, the file begins where this word stands.
    """

    terminal = False
    limit = MAX_FILE + _TALK
    secrets: tuple[bytes, ...] = ()

    def __init__(self, old: bytes, new: bytes, *, word: str, keep: bool = False, another: str = "") -> None:
        if not old and not new:
            raise BadOrder("neither a key to add nor one to take away was named")
        self._old, self._new, self._keep = old, new and check_line(new), keep
        self._another = another and check_account(another)
        self.command = _shell(_AS_ANOTHER, _EDIT) if another else _shell(_EDIT)
        self.told = False
        self._word = word.encode("ascii") + b"\n"
        # Attack by accident: a login script that says something like it, and the file is replaced by a piece of that.
        self._head = re.compile(rb"(?:^|\n)bastion-keys %s ([0-9]{1,7})\n" % re.escape(word.encode("ascii")))
        self._hearing = Hearing(())
        self._said: bytes | None = b""  # until the whole file was said
        self._saved = b""
        self._nothing_to_do = False

    def begun(self) -> Effects:
        return (Type(self._another.encode("ascii") + b"\n" + self._word if self._another else self._word),)

    def heard(self, data: bytes, *, error: bool) -> Effects:
        if error or self._said is None:
            self._hearing.add(data)
            self._saved = (self._saved + (b"" if error else data))[-len(_SAVED) :]
            return ()
        self._said += data
        head = self._head.search(self._said)
        if head is None:
            self._hearing.add(data)  # such as why this account has no shell
        if head is None or len(self._said) - head.end() < int(head[1]):
            return ()
        content, self._said = self._said[head.end() : head.end() + int(head[1])], None
        changed = edited(content, old=self._old, new=self._new, keep=self._keep)
        if changed == content or len(changed) > MAX_FILE:
            self._nothing_to_do = changed == content
            return (EndInput(),)
        self.told = True
        return (Type(b"%d\n" % len(changed)), Type(changed), EndInput())

    def ended(self, status: int | None) -> Result:
        if self._nothing_to_do:
            return Result(DONE, "it was so already")
        if status == 0 and self._saved == _SAVED:
            return Result(DONE)
        if status is None or (status == 0 and self.told):
            lost = "the line broke while the file was replaced" if self.told else "the line broke"
            return Result(UNKNOWN if self.told else UNREACHABLE, self._hearing.detail(lost))
        return Result(REFUSED, self._hearing.detail(f"the script ended with {status}"))


def check_line(line: bytes) -> bytes:
    """One line with one key; BadOrder otherwise."""
    if len(line) > MAX_LINE or any(not 0x20 <= byte < 0x7F for byte in line) or key_of(line) is None:
        raise BadOrder("the line to add is no authorized_keys line")
    return line


def edited(content: bytes, *, old: bytes, new: bytes, keep: bool) -> bytes:
    """The file with the line `new`, once, and unless `keep` without the key `old`; every other byte stays.

    `new` takes over the options of the line that holds `old`, unless it has its own: a key that may only be used from
    one address must not become one that may be used from everywhere.
    """
    wanted = key_of(new) if new else None
    options, kept, there = b"", [], False
    for line in _lines(content):
        found = key_of(line)
        if old and found is not None and found[1] == old:
            options = options or found[0]
            if not keep:
                continue
        there = there or (wanted is not None and found is not None and found[1] == wanted[1])
        kept.append(line)
    text = b"".join(kept)
    if wanted is None or there:
        return text
    if text and not text.endswith(b"\n"):
        text += b"\n"
    return text + (options + b" " if options and not wanted[0] else b"") + new + b"\n"


def key_of(line: bytes) -> tuple[bytes, bytes] | None:
    """Options and key blob of an authorized_keys line as sshd reads it (sshd(8)); None if it holds no key."""
    line = line.strip(b" \t\r\n")
    if not line or line.startswith(b"#"):
        return None
    if (blob := _blob(line)) is not None:
        return b"", blob
    quoted = False
    for at, byte in enumerate(line):
        if byte == 0x22 and line[at - 1 : at] != b"\\":
            quoted = not quoted
        elif byte in b" \t" and not quoted:
            blob = _blob(line[at:].lstrip(b" \t"))
            return None if blob is None else (line[:at], blob)
    return None


def _blob(text: bytes) -> bytes | None:
    words = text.split(None, 2)
    if len(words) < 2:
        return None
    try:
        blob = base64.b64decode(words[1], validate=True)
    except binascii.Error:
        return None
    size = int.from_bytes(blob[:4])
    return blob if len(blob) > 4 and blob[4 : 4 + size] == words[0] else None


def _lines(content: bytes) -> Iterator[bytes]:
    """With their ends; only a line feed ends one."""
    at = 0
    while at < len(content):
        end = content.find(b"\n", at) + 1 or len(content)
        yield content[at:end]
        at = end
