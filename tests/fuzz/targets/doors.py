"""Parsers of the gateway: what people and targets send."""

import base64
from unicodedata import category

import msgspec

from bastion import words as words_of
from bastion.errors import MisuseError
from bastion.login import parse
from bastion.prompts import Line, Outcome
from bastion.sftp import SftpTap
from bastion.ssh.hands.authorized import edited
from bastion.ssh.hands.deeds import Type
from bastion.ssh.hands.passwd import Passwd
from bastion.startups import source_of
from bastion.streams import ScpTap, StreamTap
from bastion.text import neutral
from bastion.transfer import env_allowed, kind_of, scp_side
from bastion.typed import TypedText
from bastion.vocabulary import VOCABULARY
from policy.messages import encode
from policy.model import ChannelKind
from recorder.model import MAX_EVENT_DATA, Kind, SftpOp
from tests.bastion.test_sftp import close, data, handle, init, open_file, packet, read, status, string, u64, write
from tests.fuzz.engine import pieces, script
from tests.fuzz.registry import target

LOGINS = (b"root@web1", b"alice@root@web1#22", b"alice", b"root#web1#2222", b"a@b.c@root@host-1", b"x%y%z", b"a:b")


@target("login", errors=(MisuseError,), samples=LOGINS)
def login(raw: bytes) -> None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    found = parse(text)
    for part in (found.person, found.account, found.target):
        assert not part.startswith("-")
        assert part.isprintable()


@target("text", samples=(b"plain", b"\x1b[31mred", "\u202eabc".encode()))
def text(raw: bytes) -> None:
    shown = neutral(raw.decode("utf-8", "replace"))
    assert not any(category(char)[0] == "C" or len((char + "x").splitlines()) > 1 for char in shown)


@target("source", samples=(b"192.0.2.1", b"::ffff:192.0.2.1", b"fe80::1%eth0"))
def source(raw: bytes) -> None:
    source_of(raw.decode("utf-8", "replace"))


COMMANDS = (b"scp -r -t /tmp/x", b"rsync --server -vlogDtpre.iLsfxCIvu . /tmp/", b"scp -f 'a b' c\\ d",
            b"/usr/lib/openssh/sftp-server -l INFO", b"scp -t x; id", b"ls")  # fmt: skip


@target("command", samples=COMMANDS)
def command(raw: bytes) -> None:
    if kind_of(raw) != ChannelKind.EXEC:
        assert not set(raw.replace(b"'", b"")) & set(b"\n\0")
    if kind_of(raw) == ChannelKind.SCP and raw.split(b" ")[0].endswith(b"scp"):
        assert scp_side(raw)
    name, _, value = raw.partition(b"=")
    if env_allowed(name, value):
        assert b"\n" not in value
        assert b"\0" not in name + value


SAID = (
    b"request root@web1 --for 2h --reason disk is full",
    b"mfa enrol --json",
    b"ca rotate user --now --reason=x",
    b"owner add alice env=prod",
    b"help mfa",
    b"grants --all --help",
    b"token root@web1 --uses 3 --kinds=shell,exec",
)


@target("words", errors=(MisuseError,), samples=SAID)
def words(raw: bytes) -> None:
    """What is said over ssh: taken apart, and made into a question to policyd that can be sent."""
    said = words_of.parse(VOCABULARY, words_of.split(raw))
    if said.help:
        assert words_of.help_of(said.word).isprintable() or "\n" in words_of.help_of(said.word)
    elif said.word.ask is not None:
        encode(1, said.word.ask(said.given))


KEYS = (
    b"disk is full\r",
    b"a\x7f\x15\x17b\n",
    "\u00e4\u6f22".encode(),
    b"\x1b[A\x1bOB\x1b[1;5C\x03",
    b"\x04",
    b"\x1b[",
)


@target(
    "prompt", samples=(script(*((turn, key) for turn, key in enumerate(KEYS))), *(script((0, key)) for key in KEYS))
)
def prompt(raw: bytes) -> None:
    """Keys as they come: no more is kept than fits, and nothing is echoed that steers a terminal."""
    for hidden in (False, True):
        line = Line(hidden=hidden, most=20)
        for _, keys in pieces(raw):
            echo, outcome = line.key(keys)
            assert len(line.text) <= 20
            assert not hidden or not echo
            assert neutral(echo.replace("\b \b", "")) == echo.replace("\b \b", "")
            if outcome is not Outcome.OPEN:
                break
        assert neutral(line.text) == line.text


def _fits(ops: list[SftpOp]) -> None:
    """An operation must fit into one event."""
    for op in ops:
        assert len(msgspec.msgpack.encode(op)) <= MAX_EVENT_DATA


USER, TARGET = 0, 1
SFTP = (
    script(
        (USER, init()), (TARGET, packet(2, 3)), (USER, open_file(1, b"/f")), (TARGET, handle(1, b"H")),
        (USER, write(2, b"H", 0, b"abc") + write(3, b"H", 3, b"def")), (TARGET, status(2) + status(3)),
        (USER, read(4, b"H", 0, 6)), (TARGET, data(4, b"abcdef")), (USER, close(5, b"H")), (TARGET, status(5)),
    ),
    script(
        (USER, init() + packet(18, 1, string(b"a"), string(b"b")) + packet(13, 2, string(b"c"))),
        (TARGET, packet(2, 3) + status(1) + status(2, 2)),
        (USER, packet(9, 3, string(b"d"), 15, u64(5), 1, 2, 3, 4, 5) + packet(20, 4, string(b"t"), string(b"l"))),
        (TARGET, status(3) + status(4) + packet(104, 5, 1, string(b"n"), string(b"n"), 0)),
        (USER, packet(200, 6, string(b"copy-data"), string(b"H"), u64(0), u64(9), string(b"I"), u64(0))),
        (USER, packet(200, 7, string(b"hardlink@openssh.com"), string(b"a"), string(b"b"))),
        (USER, packet(19, 8, string(b"l"))),
        (TARGET, status(6) + status(7) + packet(104, 8, 1, string(b"there"), string(b""), 0)),
        (USER, packet(11, 9, string(b"/"))), (TARGET, handle(9, b"D")), (USER, packet(12, 10, string(b"D"))),
    ),
)  # fmt: skip


@target("sftp", samples=SFTP)
def sftp(raw: bytes) -> None:
    tap = SftpTap(hash_content=True)
    ops: list[SftpOp] = []
    for which, piece in pieces(raw):
        ops += (tap.target if which & 1 else tap.user)(piece, 0.0)
    ops += tap.finish(0.0)
    _fits(ops)
    assert [op.op for op in ops].count("unparsed") <= 1


SCP = (
    script((TARGET, b"\0"), (USER, b"D0755 0 d\n"), (TARGET, b"\0"), (USER, b"T1 0 1 0\n"), (TARGET, b"\0"),
           (USER, b"C0644 3 f\n"), (TARGET, b"\0"), (USER, b"abc\0"), (TARGET, b"\0"), (USER, b"E\n"), (TARGET, b"\0")),
    script((TARGET, b"\0"), (USER, b"C0644 3 f\n"), (TARGET, b"\1no\n"), (USER, b"\1scp: gone\n\2bad\n")),
)  # fmt: skip


@target("scp", samples=SCP)
def scp(raw: bytes) -> None:
    for from_user in (True, False):
        tap = ScpTap(path=b"/srv", from_user=from_user, hash_content=True)
        ops: list[SftpOp] = []
        for which, piece in pieces(raw):
            ops += (tap.target if which & 1 else tap.user)(piece, 0.0)
        ops += tap.finish(0.0)
        _fits(ops)
        assert [op.op for op in ops].count("unparsed") <= 1


@target("stream", samples=(b"abc" * 50,))
def stream(raw: bytes) -> None:
    tap = StreamTap(keep=20, keep_content=False, hash_content=True, stream="out")
    kept, _ = tap.feed(raw)
    assert len(kept or b"") + sum(note.size for note in tap.finish()) == len(raw)


TYPED = (
    script((USER, b"l"), (TARGET, b"l"), (USER, b"s"), (TARGET, b"s"), (USER, b"\r"), (TARGET, b"\r\nfile\r\n$ ")),
    script((TARGET, b"Password: "), (USER, b"secret\x7ft"), (TARGET, b"***"), (USER, b"\r"), (TARGET, b"\r\n$ ")),
    script((TARGET, b"\x1b[?1049h\x1b[?1h"), (USER, b":wq\r"), (TARGET, b"\x1b[?1049l\x1b[?1l$ "), (USER, b"\x1b[A")),
    script((USER, b"\x1b[200~one\rtwo\x1b[201~"), (TARGET, b"one\r\ntwo\b\x1b[K"), (USER, "\u20ac".encode())),
)


@target("typed", samples=TYPED)
def typed(raw: bytes) -> None:
    for terminal in (True, False):
        tap = TypedText(b"k" * 32, terminal)
        hidden = 0
        for which, piece in pieces(raw):
            if which & 1:
                hidden -= sum(len(found) for _, found in tap.shown(piece))
                assert hidden >= 0
                continue
            recorded = 0
            for kind, found in tap.typed(piece):
                assert len(found) <= MAX_EVENT_DATA
                length = len(found) if kind == Kind.INPUT else int.from_bytes(found[32:], "big")
                recorded += length
                hidden += length if kind == Kind.SEALED_INPUT else 0
            assert recorded == len(piece)


_HELD = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f old\n"
_BLOB = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))


@target("authorized-keys-file", samples=(_HELD, b'from="a b",no-pty ' + _HELD, b"#" + _HELD + b"\xff\0", b'"' * 300))
def authorized_keys_file(raw: bytes) -> None:
    """Whatever a target has there: a line comes and goes, every other byte stays."""
    new = b"ssh-ed25519 " + base64.b64encode(_BLOB[:-1] + b"x")
    longer = edited(raw, old=b"", new=new, keep=False)
    assert longer.startswith(raw)
    shorter = edited(raw, old=_BLOB, new=b"", keep=False)
    assert len(shorter) <= len(raw)
    assert edited(shorter, old=_BLOB, new=b"", keep=False) == shorter


@target(
    "passwd-talk", samples=(b"Current password: ", b"New password: Retype new password: ", b"BAD PASSWORD: x\nNew:")
)
def passwd_talk(raw: bytes) -> None:
    """Whatever a target says, in pieces: each secret is said once at most, and never shown."""
    deed = Passwd(b"the-old-one", b"the-new-one")
    said = [effect.data for at in range(0, len(raw), 7) for effect in deed.heard(raw[at : at + 7], error=False)
            if isinstance(effect, Type) and effect.secret]  # fmt: skip
    assert len(said) <= 3
    assert said.count(b"the-old-one") <= 1
    result = deed.ended(0)
    assert not isinstance(result, Passwd)
