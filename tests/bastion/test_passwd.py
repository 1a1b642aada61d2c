"""The talk with passwd, system by system, and what may be shown of it."""

import pytest

from bastion.ssh.hands.deeds import (
    BadOrder,
    EndInput,
    HangUp,
    Hearing,
    Result,
    Scrubber,
    Type,
    check_account,
    check_password,
)
from bastion.ssh.hands.passwd import Chpasswd, Passwd

OLD, NEW = b"the-old-one", b"the-new-one"


def talk(deed: Passwd, *said: bytes) -> list[bytes]:
    """What is said to it, without the line feeds."""
    answers: list[bytes] = []
    for data in said:
        for effect in deed.heard(data, error=False):
            match effect:
                case Type(data=answer) if answer != b"\n":
                    answers.append(answer)
                case EndInput():
                    answers.append(b"<end>")
                case HangUp():
                    answers.append(b"<hang up>")
    return answers


SYSTEMS = {
    "debian": (b"Changing password for ann.\nCurrent password: ", b"New password: ", b"Retype new password: "),
    "debian 8": (b"(current) UNIX password: ", b"Enter new UNIX password: ", b"Retype new UNIX password: "),
    "rhel": (b"Changing password for user ann.\nCurrent password: ", b"New password: ", b"Retype new password: "),
    "sssd": (b"Current Password: ", b"New Password: ", b"Reenter new Password: "),
    "kerberos": (b"Current Kerberos password: ", b"Enter new Kerberos password: ", b"Retype new Kerberos password: "),
    "busybox": (b"Changing password for ann\nOld password: ", b"New password: ", b"Retype password: "),
    "freebsd": (b"Changing local password for ann\r\nOld Password:", b"New Password:", b"Retype New Password:"),
    "solaris": (b"Enter existing login password: ", b"New Password: ", b"Re-enter new Password: "),
    "aix": (b"ann's Old password: ", b"ann's New password: ", b"Enter the new password again:"),
    "coloured": (b"\x1b[1mCurrent password: \x1b[0m", b"New password: \x1b[0m", b"Retype new password: "),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_is_answered_when_it_asks(system: str) -> None:
    deed = Passwd(OLD, NEW)
    assert talk(deed, *SYSTEMS[system]) == [OLD, NEW, NEW]
    assert deed.ended(0).outcome == "done"  # type: ignore[union-attr]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_prompt_that_comes_byte_by_byte_is_answered_once(system: str) -> None:
    deed = Passwd(OLD, NEW)
    assert talk(deed, *(bytes([byte]) for byte in b"\r\n".join(SYSTEMS[system]))) == [OLD, NEW, NEW]


def test_nothing_is_told_before_it_asks_for_the_new_one() -> None:
    deed = Passwd(OLD, NEW)
    talk(deed, b"Current password: ")
    assert not deed.told
    assert deed.ended(None) == Result("unreachable", "it said nothing")
    deed = Passwd(OLD, NEW)
    talk(deed, b"Current password: ", b"New password: ")
    assert deed.told
    assert deed.ended(None).outcome == "unknown"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("said", "answers"),
    [
        ((b"New password: ", b"BAD PASSWORD: it is too short\nNew password: "), [NEW, b"<end>"]),  # PAM starts over
        ((b"Current password: ", b"Wrong.\nCurrent password: "), [OLD, b"<end>"]),
        ((b"Retype new password: ",), [b"<end>"]),  # before the new one: it would be nothing to compare with
        ((b"New password: ", b"Current password: "), [NEW, b"<end>"]),
        ((b"[sudo] password for ann: ",), [b"<end>"]),
        ((b"Enter your one-time passcode: ",), [b"<end>"]),
    ],
)
def test_it_asks_for_what_is_not_said(said: tuple[bytes, ...], answers: list[bytes]) -> None:
    deed = Passwd(OLD, NEW)
    assert talk(deed, *said) == answers
    assert deed.ended(10).outcome == "refused"  # type: ignore[union-attr]
    assert talk(deed, b"New password: ") == [], "who has left answers nothing"


def test_who_leaves_a_terminal_says_so() -> None:
    assert talk(Passwd(OLD, NEW, terminal=True), b"Password: ") == [b"\x03", b"<hang up>"]


@pytest.mark.parametrize("said", [b"passwd:", b"BAD PASSWORD:", b"Last login: ", b"passwd: error:", b"12:30:"])
def test_half_a_message_is_no_question(said: bytes) -> None:
    assert talk(Passwd(OLD, NEW), said) == []


def test_on_a_terminal_if_it_ends_without_a_question() -> None:
    again = Passwd(OLD, NEW).ended(1)
    assert isinstance(again, Passwd)
    assert again.terminal
    assert isinstance(again.ended(1), Result), "and not a third time"
    assert isinstance(Passwd(OLD, NEW).ended(127), Result), "who has none needs no terminal"
    asked = Passwd(OLD, NEW)
    talk(asked, b"Current password: ")
    assert isinstance(asked.ended(1), Result), "a wrong password is not said twice"


def test_an_exit_status_alone_is_no_success() -> None:
    assert Passwd(OLD, NEW).ended(0) == Result("refused", "it asked for no new password")


def test_chpasswd_is_told_one_line() -> None:
    deed = Chpasswd("ann", NEW)
    assert not deed.told
    said = b"".join(effect.data for effect in deed.begun() if isinstance(effect, Type))
    assert said == b"ann:the-new-one\n"
    assert deed.told
    assert b"ann" not in deed.command


@pytest.mark.parametrize("name", ["ann", "_www-data", "a.b", "svc$", "Administrator"])
def test_names_of_accounts(name: str) -> None:
    assert check_account(name) == name


@pytest.mark.parametrize("name", ["", "-S", "a b", "a:b", "a\n", "a\nb", "$(id)", "a/b", "ü", "a$b", "0day"])
def test_what_is_no_name_of_an_account(name: str) -> None:
    with pytest.raises(BadOrder):
        check_account(name)


@pytest.mark.parametrize("secret", [b"", b"a b", b"a\nb", b"a\n", b"\x00", "ü".encode(), b"x" * 129, b"a\x7f"])
def test_what_is_no_password(secret: bytes) -> None:
    with pytest.raises(BadOrder):
        check_password(secret)
    assert check_password(b"a:b") == b"a:b"


# --- what may be shown ----------------------------------------------------------------------------------


def test_secrets_are_cut_out_however_they_are_split() -> None:
    text = b"x the-new-one y the-old-one the-ne the-new-one the-new"
    for size in range(1, len(text)):
        scrub = Scrubber((OLD, NEW))
        parts = [scrub.feed(text[at : at + size]) for at in range(0, len(text), size)]
        assert b"".join([*parts, scrub.rest()]) == b"x [secret] y [secret] the-ne [secret] the-new"


def test_what_holds_no_secret_is_not_held_back() -> None:
    scrub = Scrubber((NEW,))
    assert scrub.feed(b"New password: ") == b"New password: "
    assert scrub.feed(b"th") == b""
    assert scrub.feed(b"x") == b"thx"


def test_a_detail_is_harmless_and_short() -> None:
    hearing = Hearing((NEW,))
    hearing.add(b"x" * 9000 + b"\n\x1b]52;c;aGk=\x07evil \xff the-new-one\r\n\r\nlast\n")
    detail = hearing.detail("nothing")
    assert detail.endswith("\\x1b]52;c;aGk=\\x07evil \N{REPLACEMENT CHARACTER} [secret]; last")
    assert len(detail) <= 300
    assert Hearing(()).detail("nothing") == "nothing"


def test_the_end_of_a_secret_is_no_detail() -> None:
    """The attack: so much behind it that the secret is cut, and nothing of it that would be shown."""
    for size in range(4080, 4100):
        hearing = Hearing((NEW,))
        hearing.add(b"x the-new-one")
        hearing.add(b"\n" * size)
        assert "new-one" not in hearing.detail("nothing")
