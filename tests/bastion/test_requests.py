"""The requests of one session channel: which pass, which are asked about, and whose answer comes when."""

from collections import deque
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.answers import MAX_UNANSWERED, Malformed
from bastion.requests import (
    MAX_ENV,
    MAX_ENV_BYTES,
    MAX_MODES,
    MAX_REQUEST,
    Answer,
    Ask,
    Effect,
    Forward,
    Refuse,
    Requests,
    Resize,
    State,
    TargetRequests,
    string,
    strings,
)
from policy.model import ChannelKind
from recorder.model import Start

PTY = strings(b"xterm-256color") + pack(">IIII", 132, 43, 0, 0) + strings(b"\x00")
WINDOW = pack(">IIII", 100, 30, 0, 0)
X11 = b"\0" + strings(b"MIT-MAGIC-COOKIE-1", b"00ff") + pack(">I", 0)


def env(name: bytes, value: bytes) -> bytes:
    return strings(name, value)


def exec_(command: bytes) -> bytes:
    return strings(command)


def started(requests: Requests, command: bytes = b"id") -> Requests:
    requests.request(b"exec", True, exec_(command))
    requests.decided(True)
    requests.answered(True)
    return requests


# --- the way of an ordinary session ---------------------------------------------------------------------


def test_a_shell_on_a_terminal() -> None:
    requests = Requests()
    assert requests.request(b"pty-req", True, PTY) == [Forward(b"pty-req", True, PTY)]
    assert requests.request(b"env", False, env(b"LANG", b"C.UTF-8")) == [
        Forward(b"env", False, env(b"LANG", b"C.UTF-8"))
    ]
    assert requests.request(b"shell", True, b"") == [Ask(ChannelKind.SHELL, b"")]
    assert requests.state is State.ASKING
    start = Start(kind="shell", term=b"xterm-256color", columns=132, rows=43, env={"LANG": b"C.UTF-8"})
    assert requests.decided(True) == [Forward(b"shell", True, b"", start)]
    assert requests.state is State.STARTED
    assert requests.answered(True) == [Answer(True)]  # pty-req
    assert requests.answered(True) == [Answer(True)]  # shell
    assert requests.request(b"window-change", False, WINDOW) == [
        Resize(100, 30),
        Forward(b"window-change", False, WINDOW),
    ]
    assert requests.request(b"signal", False, strings(b"INT")) == [Forward(b"signal", False, strings(b"INT"))]


@pytest.mark.parametrize(
    ("name", "rest", "kind", "detail"),
    [
        (b"shell", b"", ChannelKind.SHELL, b""),
        (b"exec", exec_(b"uptime"), ChannelKind.EXEC, b"uptime"),
        (b"exec", exec_(b""), ChannelKind.EXEC, b""),
        (b"exec", exec_(b"caf\xe9 \xff\x1b"), ChannelKind.EXEC, b"caf\xe9 \xff\x1b"),
        (b"exec", exec_(b"scp -t /tmp"), ChannelKind.SCP, b"scp -t /tmp"),
        (b"exec", exec_(b"rsync --server -logDtpre.iLsfxC . /srv"), ChannelKind.SCP,
         b"rsync --server -logDtpre.iLsfxC . /srv"),
        (b"subsystem", strings(b"sftp"), ChannelKind.SFTP, b"sftp"),
        (b"subsystem", strings(b"sftp;id"), ChannelKind.SUBSYSTEM, b"sftp;id"),
        (b"subsystem", strings(b"netconf"), ChannelKind.SUBSYSTEM, b"netconf"),
        (b"subsystem", strings(b""), ChannelKind.SUBSYSTEM, b""),
    ],
)  # fmt: skip
def test_every_start_is_asked_about_by_its_kind(name: bytes, rest: bytes, kind: ChannelKind, detail: bytes) -> None:
    requests = Requests()
    assert requests.request(name, True, rest) == [Ask(kind, detail)]
    (forward,) = requests.decided(True)
    assert forward == Forward(name, True, rest, Start(kind=kind.value, command=detail))


@pytest.mark.parametrize(
    ("name", "kind"), [(b"x11-req", ChannelKind.X11), (b"auth-agent-req@openssh.com", ChannelKind.AGENT)]
)
@pytest.mark.parametrize("allowed", [True, False])
def test_x11_and_agent_are_asked_about_and_the_session_goes_on_either_way(
    name: bytes, kind: ChannelKind, allowed: bool
) -> None:
    requests, rest = Requests(), X11 if name == b"x11-req" else b""
    assert requests.request(name, True, rest) == [Ask(kind, b"")]
    assert requests.decided(allowed) == ([Forward(name, True, rest)] if allowed else [Answer(False)])
    assert requests.state is State.GATHERING
    assert requests.request(b"shell", True, b"") == [Ask(ChannelKind.SHELL, b"")]


# --- a start that is denied -----------------------------------------------------------------------------


def test_a_denied_start_succeeds_for_the_client_so_that_it_shows_why() -> None:
    requests = Requests()
    requests.request(b"exec", True, exec_(b"id"))
    assert requests.decided(False) == [Answer(True), Refuse()]
    assert requests.state is State.REFUSED
    assert requests.request(b"exec", True, exec_(b"id")) == [Answer(False)]
    assert requests.request(b"window-change", False, WINDOW) == []


def test_a_denied_start_without_a_wanted_reply_is_refused_silently() -> None:
    requests = Requests()
    requests.request(b"shell", False, b"")
    assert requests.decided(False) == [Refuse()]


def test_a_denial_faster_than_the_target_answers_for_it() -> None:
    """policyd says no before the target has said that there is a terminal: the client must not miss an answer."""
    requests = Requests()
    requests.request(b"pty-req", True, PTY)
    requests.request(b"shell", True, b"")
    assert requests.decided(False) == [Answer(True), Answer(True), Refuse()]
    assert requests.answered(True) == []  # the target's, late
    assert requests.answered(False) == []


@pytest.mark.parametrize("asking", [False, True])
def test_a_channel_that_ends_in_between_leaves_no_question_open(asking: bool) -> None:
    requests = Requests()
    requests.request(b"pty-req", True, PTY)
    requests.request(b"env", True, env(b"LD_PRELOAD", b"x"))
    requests.request(b"shell", True, b"")
    if not asking:
        requests.decided(True)
    assert requests.give_up() == [Answer(True), Answer(False), Answer(True)]
    assert requests.give_up() == []
    assert requests.answered(True) == []
    assert requests.request(b"exec", True, exec_(b"id")) == [Answer(False)]


# --- what may not be asked twice, or then, or at all ----------------------------------------------------


@pytest.mark.parametrize("name", [b"shell", b"exec", b"subsystem", b"pty-req", b"env", b"x11-req",
                                  b"auth-agent-req@openssh.com"])  # fmt: skip
def test_nothing_starts_twice_and_nothing_is_gathered_after_the_start(name: bytes) -> None:
    """Attack: a second exec on an allowed channel would be an unrecorded and undecided command."""
    requests = started(Requests())
    rest = {b"pty-req": PTY, b"env": env(b"LANG", b"C")}.get(name, exec_(b"rm -rf /"))
    assert requests.request(name, True, rest) == [Answer(False)]
    assert requests.request(name, False, rest) == []
    assert requests.state is State.STARTED


def test_a_second_terminal_is_refused() -> None:
    requests = Requests()
    requests.request(b"pty-req", True, PTY)
    requests.answered(True)
    assert requests.request(b"pty-req", True, PTY) == [Answer(False)]


@pytest.mark.parametrize(
    "name", [b"", b"unknown@example.org", b"auth-agent-req", b"exit-status", b"SHELL", b"shell\0", b"x" * 1000,
             b"\xff\xfe"]
)  # fmt: skip
@pytest.mark.parametrize("when", ["before", "after"])
def test_unknown_requests_are_refused_not_relayed(name: bytes, when: str) -> None:
    requests = Requests() if when == "before" else started(Requests())
    assert requests.request(name, True, b"anything") == [Answer(False)]
    assert requests.request(name, False, b"anything") == []


RUNNING = {
    b"signal": strings(b"USR1"), b"break": pack(">I", 500), b"eow@openssh.com": b"", b"xon-xoff": b"\1",
    b"keepalive@openssh.com": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", RUNNING)
def test_what_belongs_to_a_running_program_is_refused_before_there_is_one(name: bytes) -> None:
    rest = RUNNING[name]
    assert Requests().request(name, True, rest) == [Answer(False)]
    assert started(Requests()).request(name, True, rest) == [Forward(name, True, rest)]


@pytest.mark.parametrize("name", RUNNING)
def test_what_stands_behind_a_request_is_not_passed_on(name: bytes) -> None:
    """Attack: 30 kB behind a keepalive reach the target, and no recording tells of them."""
    with pytest.raises(Malformed):
        started(Requests()).request(name, False, RUNNING[name] + b"more")


@pytest.mark.parametrize("name", [b"", b"T" * 30_000, b"term", b"TERM@example.com", b"SEND THIS", b"TERM\n"])
def test_a_signal_of_another_name_is_refused(name: bytes) -> None:
    assert started(Requests()).request(b"signal", True, strings(name)) == [Answer(False)]


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        (b"shell", b"\0"), (b"exec", exec_(b"id") + b"x"), (b"exec", exec_(b"a\0b")),
        (b"subsystem", strings(b"sftp\0")),
        (b"pty-req", PTY + b"x"), (b"pty-req", PTY[:-5] + strings(bytes(MAX_MODES + 1))),
        (b"pty-req", strings(b"x" * 65) + PTY[18:]), (b"env", env(b"LANG", b"C") + b"x"),
        (b"window-change", WINDOW + b"x"),
        (b"x11-req", X11 + b"x"), (b"x11-req", X11[:-1]), (b"x11-req", b""), (b"auth-agent-req@openssh.com", b"x"),
        (b"x11-req", b"\0" + strings(b"p", b"x" * 257) + pack(">I", 0)),
    ],
)  # fmt: skip
def test_requests_before_the_start_are_as_long_as_they_say(name: bytes, rest: bytes) -> None:
    with pytest.raises(Malformed):
        Requests().request(name, True, rest)


def test_requests_without_answers_have_a_limit() -> None:
    """Attack: a start that the target never answers, and a flood behind it."""
    requests = started(Requests())
    requests.request(b"signal", True, strings(b"INT"))
    for _ in range(MAX_UNANSWERED - 1):
        assert requests.request(b"unknown@example.org", True, b"") == []
    with pytest.raises(Malformed, match="too many"):
        requests.request(b"unknown@example.org", True, b"")


# --- what a target asks -------------------------------------------------------------------------------


def asks(name: bytes, rest: bytes, want_reply: bool = False) -> bytes:
    return strings(name) + bytes((want_reply,)) + rest


EXITED = strings(b"KILL") + b"\1" + strings(b"core dumped", b"en")


@pytest.mark.parametrize(
    ("name", "rest", "passed"),
    [
        (b"exit-status", pack(">I", 7), pack(">I", 7)), (b"exit-status", pack(">I", 7) + b"more", pack(">I", 7)),
        (b"exit-signal", EXITED, strings(b"KILL") + b"\1" + strings(b"core dumped", b"")),
        (b"exit-signal", EXITED + b"x" * 9999, strings(b"KILL") + b"\1" + strings(b"core dumped", b"")),
        (b"exit-signal", strings(b"K" * 99) + b"\0" + strings(b"m" * 9999, b""),
         strings(b"K" * 64) + b"\0" + strings(b"m" * 4096, b"")),
        (b"keepalive@openssh.com", b"x" * 30_000, b""), (b"eow@openssh.com", b"x", b""), (b"xon-xoff", b"\1x", b"\1"),
    ],
)  # fmt: skip
def test_what_a_target_asks_passes_without_what_stands_behind_it(name: bytes, rest: bytes, passed: bytes) -> None:
    assert TargetRequests().request(asks(name, rest)) == (Forward(name, False, passed), [])


@pytest.mark.parametrize(
    "payload",
    [b"", b"\0\0", strings(b"exit-status"), asks(b"exit-status", b"\0\0\0"), asks(b"exit-signal", EXITED[:-9])],
)
def test_what_a_target_asks_and_cuts_short(payload: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        TargetRequests().request(payload)


def test_a_target_is_answered_in_order_by_the_person_and_by_us() -> None:
    """RFC 4254 section 5.4: what we refuse waits for what the person still thinks about."""
    requests = TargetRequests()
    assert requests.request(asks(b"keepalive@openssh.com", b"", True))[1] == []
    assert requests.request(asks(b"what@example.org", b"", True)) == (None, [])
    assert requests.request(asks(b"what@example.org", b"", False)) == (None, [])
    assert requests.answered(True) == [True, False]
    assert requests.request(asks(b"what@example.org", b"", True)) == (None, [False])
    with pytest.raises(Malformed):
        requests.answered(True)


def test_a_window_without_a_terminal_is_refused() -> None:
    assert Requests().request(b"window-change", True, WINDOW) == [Answer(False)]
    assert started(Requests()).request(b"window-change", True, WINDOW) == [Answer(False)]


def test_a_terminal_without_a_name_is_one_all_the_same() -> None:
    requests = Requests()
    rest = strings(b"") + pack(">IIII", 80, 24, 0, 0) + strings(b"")
    assert requests.request(b"pty-req", True, rest) == [Forward(b"pty-req", True, rest)]
    assert requests.request(b"pty-req", True, rest) == []  # behind the first one's answer
    assert requests.answered(True) == [Answer(True), Answer(False)]
    assert requests.request(b"window-change", False, WINDOW) != []


# --- variables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"LD_PRELOAD", b"LD_LIBRARY_PATH", b"BASH_ENV", b"PATH", b"IFS", b"PYTHONPATH",
                                  b"GIT_SSH_COMMAND", b"", b"LANG=x", b"lang"])  # fmt: skip
def test_variables_that_change_what_runs_go_nowhere(name: bytes) -> None:
    requests = Requests()
    assert requests.request(b"env", True, env(name, b"/tmp/evil.so")) == [Answer(False)]
    assert requests.env == {}


@pytest.mark.parametrize("name", [b"LANG", b"LC_ALL", b"LC_X"])
def test_variables_of_the_language_pass(name: bytes) -> None:
    requests = Requests()
    assert requests.request(b"env", True, env(name, b"C")) == [Forward(b"env", True, env(name, b"C"))]


def test_ours_are_taken_and_stay_here() -> None:
    requests = Requests()
    assert requests.request(b"env", True, env(b"BASTION_TICKET", b"OPS-1")) == [Answer(True)]
    assert requests.ours == {b"BASTION_TICKET": b"OPS-1"}
    requests.request(b"shell", True, b"")
    (forward,) = requests.decided(True)
    assert isinstance(forward, Forward)
    assert forward.start is not None
    assert forward.start.env == {}


def test_a_flood_of_variables_is_cut() -> None:
    requests = Requests()
    for number in range(20_000):
        requests.request(b"env", False, env(b"LC_%d" % number, b"v"))
        requests.request(b"env", False, env(b"BASTION_%d" % number, b"v"))
    assert len(requests.env) + len(requests.ours) <= MAX_ENV


def test_large_variables_are_cut() -> None:
    requests = Requests()
    for number in range(MAX_ENV):
        requests.request(b"env", False, env(b"LC_%d" % number, b"v" * 1024))
    assert sum(len(name) + len(value) for name, value in requests.env.items()) <= MAX_ENV_BYTES
    assert requests.request(b"env", True, env(b"LC_LAST", b"v")) == [Answer(False)]


# --- malformed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [(b"pty-req", PTY), (b"env", env(b"LANG", b"C")), (b"exec", exec_(b"uptime")),
                                   (b"subsystem", strings(b"sftp"))], ids=lambda whole: whole[0].decode())  # fmt: skip
def test_requests_cut_short_anywhere_are_malformed(whole: tuple[bytes, bytes]) -> None:
    name, rest = whole
    for size in range(len(rest)):
        with pytest.raises(Malformed, match=name.decode()):
            Requests().request(name, True, rest[:size])


@pytest.mark.parametrize("size", range(16))
def test_a_window_cut_short_is_malformed(size: int) -> None:
    requests = Requests()
    requests.request(b"pty-req", False, PTY)
    with pytest.raises(Malformed):
        requests.request(b"window-change", False, WINDOW[:size])


@given(st.binary(max_size=40))
@settings(max_examples=200, deadline=None)
def test_a_string_is_read_exactly_or_not_at_all(data: bytes) -> None:
    try:
        value, end = string(data, 0)
    except ValueError:
        return
    assert strings(value) == data[:end]


def test_a_string_longer_than_all_memory_is_cut_short() -> None:
    with pytest.raises(Malformed):
        Requests().request(b"exec", True, b"\xff\xff\xff\xffx")


# --- answers --------------------------------------------------------------------------------------------


def test_an_answer_that_nobody_asked_for_is_malformed() -> None:
    with pytest.raises(Malformed):
        Requests().answered(True)
    requests = started(Requests())
    with pytest.raises(Malformed):
        requests.answered(True)


def test_answers_of_ours_wait_for_the_target_that_was_asked_before() -> None:
    requests = Requests()
    requests.request(b"pty-req", True, PTY)
    assert requests.request(b"env", True, env(b"LD_PRELOAD", b"x")) == []
    assert requests.request(b"env", True, env(b"LANG", b"C")) != []
    assert requests.request(b"nonsense", True, b"") == []
    assert requests.answered(False) == [Answer(False), Answer(False)]
    assert requests.answered(True) == [Answer(True), Answer(False)]


_SCRIPT = st.lists(
    st.tuples(
        st.sampled_from(["pty", "env", "bad-env", "ours", "unknown", "x11", "exec", "window", "signal", "answer"]),
        st.booleans(),  # wants a reply
        st.booleans(),  # allowed, or the target's answer
    ),
    max_size=60,
)
_BODY = {
    "pty": (b"pty-req", PTY), "env": (b"env", env(b"LC_A", b"v")), "bad-env": (b"env", env(b"LD_PRELOAD", b"v")),
    "ours": (b"env", env(b"BASTION_X", b"v")), "unknown": (b"what", b""), "x11": (b"x11-req", X11),
    "exec": (b"exec", exec_(b"id")), "window": (b"window-change", WINDOW), "signal": (b"signal", strings(b"INT")),
}  # fmt: skip


@given(_SCRIPT)
@settings(max_examples=300, deadline=None)
def test_answers_come_in_the_order_of_the_questions(script: list[tuple[str, bool, bool]]) -> None:
    """The model: a list of the questions that want an answer; a target that answers in its own time, in order."""
    requests = Requests()
    wanted = 0  # questions asked with want_reply
    at_target: deque[int] = deque()  # numbers of those that the target has to answer
    answers: list[Effect] = []
    expected: dict[int, bool] = {}
    over = False

    def take(effects: list[Effect], number: int | None) -> None:
        nonlocal over
        for effect in effects:
            match effect:
                case Forward(want_reply=True):
                    assert number is not None, "only a question that wants an answer asks for one"
                    at_target.append(number)
                case Answer():
                    answers.append(effect)
                case Refuse():
                    over = True
                case _:
                    pass

    for word, reply, yes in script:
        if over:
            break
        if word == "answer":
            if at_target:
                expected[at_target.popleft()] = yes
                take(requests.answered(yes), None)
            continue
        number = wanted if reply else None
        wanted += reply
        effects = requests.request(_BODY[word][0], reply, _BODY[word][1])
        if any(isinstance(effect, Ask) for effect in effects):
            effects = [*effects, *requests.decided(yes)]
        take(effects, number)
        assert len(answers) <= wanted
    while at_target and not over:
        expected[at_target.popleft()] = True
        take(requests.answered(True), None)
    assert len(answers) == wanted, "every question that wants an answer gets one, and nobody else does"
    for number, ok in expected.items():
        assert over or answers[number] == Answer(ok), "the target's answers stand where its questions stood"


def test_names_are_limited() -> None:
    assert Requests().request(b"n" * (MAX_REQUEST + 1), True, b"") == [Answer(False)]


# --- a target found after the start ---------------------------------------------------------------------


def test_the_start_again_for_a_target_that_the_menu_found() -> None:
    requests = Requests()
    requests.request(b"pty-req", True, PTY)
    requests.answered(True)
    requests.request(b"shell", True, b"")
    requests.decided(True)
    requests.answered(True)
    requests.request(b"window-change", False, WINDOW)
    (forward,) = requests.again()
    assert forward == Forward(
        b"shell", False, b"", Start(kind="shell", term=b"xterm-256color", columns=100, rows=30)
    ), "recorded with the size that it has now, and nobody waits for an answer"
