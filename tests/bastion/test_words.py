"""What can be said over ssh and on the bastion itself: one grammar, any order, errors that say the next command."""

import pytest

from bastion.cli import COMMANDS
from bastion.cli import words as cli
from bastion.errors import MisuseError
from bastion.vocabulary import VOCABULARY, overview
from bastion.words import MAX_WORDS, Takes, help_of, parse, split
from policy.messages import (
    Command,
    Decide,
    GrantAdd,
    Invite,
    MfaEnrol,
    MfaList,
    OwnerAdd,
    RequestAccess,
    RequestList,
    RequestShow,
    ReviewWrite,
    SessionKill,
    TokenAdd,
)


def asked(line: str) -> object:
    said = parse(VOCABULARY, split(line.encode()))
    assert said.word.ask is not None
    return said.word.ask(said.given)


def wrong(line: str) -> list[str]:
    with pytest.raises(MisuseError) as raised:
        asked(line)
    lines = raised.value.lines()
    assert all(one.isprintable() for one in lines)
    return lines


WANTED = RequestAccess(account="root", target="web1", seconds=7200, ticket="OPS-1", reason="disk is full")


@pytest.mark.parametrize(
    "line",
    [
        "request root@web1 --for 2h --ticket OPS-1 --reason disk is full",
        "request root@web1 --reason disk is full --for 2h --ticket OPS-1",
        "request --ticket OPS-1 root@web1 --reason disk is full --for=120m",
        "request --for 2h root@web1 --ticket=OPS-1 --reason=disk is full",
    ],
)
def test_any_order(line: str) -> None:
    assert asked(line) == WANTED


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ("request corp\\svc@x@web1 --kinds shell,sftp --kinds exec --uses 3 --start 2026-11-23T14:00:00Z --reason x",
         RequestAccess(account="corp\\svc@x", target="web1", kinds=["shell", "sftp", "exec"], uses=3,
                       start="2026-11-23T14:00:00Z", reason="x")),
        ("request root@web1 --break-glass --reason it burns",
         RequestAccess(account="root", target="web1", break_glass=True, reason="it burns")),
        ("requests", RequestList()),
        ("requests --all --json", RequestList(all=True)),
        ("requests r-abc", RequestShow(request="r-abc")),
        ("approve r-abc --comment go on, then", Decide(request="r-abc", approve=True, comment="go on, then")),
        ("deny r-abc", Decide(request="r-abc", approve=False)),
        ("grant alice root@web1 --for 1d12h30m --reason night shift",
         GrantAdd(person="alice", account="root", target="web1", seconds=131400, reason="night shift")),
        ("token root@web1", TokenAdd(account="root", target="web1")),
        ("token root@web1 --person bob --uses 2 --for 45s",
         TokenAdd(account="root", target="web1", person="bob", uses=2, seconds=45)),
        ("review write g-abc --text nothing but a -h and a reboot --json",
         ReviewWrite(grant="g-abc", text="nothing but a -h and a reboot")),
        ("kill 0123 --reason left an hour ago", SessionKill(session="0123", reason="left an hour ago")),
        ("kill 0123 --reason=left an hour ago", SessionKill(session="0123", reason="left an hour ago")),
        ("mfa enrol", MfaEnrol()),
        ("mfa list bob", MfaList(person="bob")),
        ("owner add bob env=prod", OwnerAdd(person="bob", scope="env=prod")),
        ("invite nina --role engineer --role lead", Invite(name="nina", roles=["engineer", "lead"])),
    ],
)  # fmt: skip
def test_what_is_meant(line: str, question: Command) -> None:
    assert asked(line) == question


@pytest.mark.parametrize(
    ("line", "cause", "hint"),
    [
        ("requst root@web1", "`requst` is no command", "did you mean: ssh bastion request"),
        ("zzzz", "`zzzz` is no command", "see: ssh bastion help"),
        ("request --reason x", "something is missing", "use: ssh bastion request ACCOUNT@TARGET"),
        ("request root@web1", "needs --reason", "--reason TEXT"),
        ("request root@web1 --reason", "`--reason` has no value", "use: ssh bastion request"),
        ("request root@web1 --reason --for 2h", "`--reason` has no value", "use: ssh bastion request"),
        ("request root@web1 --fro 2h --reason x", "no option `--fro`", "did you mean: --for"),
        ("request root@web1 --for", "`--for` has no value", "use:"),
        ("request root@web1 --for --uses 2 --reason x", "`--for` has no value", "use:"),
        ("request root@web1 --for soon --reason x", "`--for soon` is no length of time", "write --for 2h"),
        ("request root@web1 --uses two --reason x", "`--uses two` is no number", "write --uses 1"),
        ("request root@web1 --uses ١ --reason x", "is no number", "write --uses 1"),
        ("request root@web1 --for 2h --for 3h --reason x", "`--for` is given twice", "use:"),
        ("request root@web1 --break-glass=yes --reason x", "`--break-glass` takes no value", "use:"),
        ("request web1 --reason x", "`web1` names no account on a target", "write it as root@web1"),
        ("request @web1 --reason x", "`@web1` names no account on a target", "write it as root@web1"),
        ("approve r-1 r-2", "`r-2` is too much", "use: ssh bastion approve ID"),
        ("mfa", "`mfa` needs one more word", "mfa list [PERSON] | enrol [PERSON]"),
        ("mfa enroll", "`mfa enroll` is not understood", "did you mean: ssh bastion mfa enrol"),
        ("review --all", "`review` needs one more word", "use: ssh bastion review list"),
        ("kill \x1b]0;x\x07", "`kill` needs --reason", "use:"),
        ("\x1b]0;x\x07", "is no command of the bastion", "see: ssh bastion help"),
    ],
)
def test_what_is_wrong(line: str, cause: str, hint: str) -> None:
    first, second = wrong(line)
    assert cause in first
    assert hint in second


@pytest.mark.parametrize("line", [b"", b"  ", b"\xff", b"x " * (MAX_WORDS + 1)])
def test_no_words(line: bytes) -> None:
    with pytest.raises(MisuseError):
        split(line)


@pytest.mark.parametrize("name", VOCABULARY)
def test_help_tells_every_option(name: str) -> None:
    word = VOCABULARY[name]
    said = parse(VOCABULARY, [*name.split(), "--help"])
    assert said.help
    text = help_of(word)
    assert f"ssh bastion {word.usage}" in text
    assert all(option.name in text and option.about in text for option in word.options)
    assert ("ssh drops quotes" in text) == any(option.takes is Takes.TEXT for option in word.options)
    assert f"  {name} " in overview()
    assert max(map(len, overview().splitlines())) <= 120


def test_help_anywhere_but_in_a_text() -> None:
    assert parse(VOCABULARY, ["request", "--for", "2h", "--help"]).help
    assert parse(VOCABULARY, ["request", "root@web1", "--reason", "a", "--help"]).help
    assert not parse(VOCABULARY, ["request", "root@web1", "--reason", "df", "-h", "says", "so"]).help


def test_operators_say_the_same_words() -> None:
    groups = {name.split()[0] for name in cli.HERE}
    assert {name for name, (module, _) in COMMANDS.items() if module == "bastion.cli.words"} == groups - {"ca", "vault"}


@pytest.mark.parametrize("words", [["-c", "x.toml", "r-1"], ["r-1", "--config", "x.toml"], ["--config=x.toml", "r-1"]])
def test_which_bastion_is_no_word(words: list[str]) -> None:
    path, rest = cli._config(words)
    assert str(path) == "x.toml"
    assert rest == ["r-1"]
