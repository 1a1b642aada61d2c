"""Guards of what people type and see: who is asked, what a name may be, what a terminal is shown."""

# fmt: off
from typing import Final

from tests.mutation.mutant import Mutant, guards

GUARDS: Final[list[Mutant]] = [
    *guards(
        "bastion/ssh/needs.py", "tests/bastion/test_needs.py",
        ("if not need or not ask.is_there(local) or asked[need] >= ask.TRIES:",
         "if not need or not ask.is_there(local):", "a rule that is never content asks for ever", "test_three_tries"),
        ("if not need or not ask.is_there(local) or asked[need] >= ask.TRIES:",
         "if not need or asked[need] >= ask.TRIES:", "a prompt where nobody is hangs ansible",
         "test_nobody_there"),
        ("if not left or not isinstance(verdict, Verdict) or verdict.outcome is Outcome.DISCONNECT:",
         "if not left or not isinstance(verdict, Verdict):", "codes are asked for after policyd has had enough",
         "test_codes_end_where_policyd_ends_them"),
        ("hidden=not echo", "hidden=False", "a code on the screen", "test_a_newer_code_is_not_shown"),
        ('if answer.data.get("state") != "approved":', "if False:", "no leave, and on it goes",
         "test_no_leave_is_said"),
    ),
    *guards(
        "bastion/ssh/needs.py", "tests/e2e/test_checkout_words.py",
        ('same and (ChannelKind.CHECKOUT in row["kinds"].split()) == out', "same",
         "leave for a session is waited for",
         "test_leave_for_a_session_is_not_waited_for"),
    ),
    *guards(
        "bastion/ssh/ask.py", "tests/bastion/test_needs.py",
        ("local.terminal is not None and (local.command is None or local.terminal.columns > 0)",
         "local.terminal is not None", "a terminal with nobody at it is asked", "test_nobody_there"),
        ('local.write(f"bastion: {neutral(prompt)}".encode())', 'local.write(f"bastion: {prompt}".encode())',
         "a prompt of somebody\'s RADIUS server writes the clipboard", "test_a_newer_code_is_not_shown"),
    ),
    *guards(
        "bastion/ssh/door.py", "tests/bastion/test_needs.py",
        ("if relay is not None and relay.is_live and", "if False and", "two sessions for one leave",
         "test_two_channels_of_one_connection_have_one_session"),
        ("if self.relay is not None and not self.relay.is_live:", "if False:",
         "a killed session goes on with a reason", "test_what_comes_along_begins_no_second_session"),
    ),
    *guards(
        "bastion/ssh/auth.py", "tests/bastion/test_tokens_at_the_door.py",
        ("            reply.next = []\n", "",
         "a key behind a token that is none", "test_nothing_follows_a_token_that_is_none"),
    ),
    *guards(
        "bastion/login.py", "tests/bastion/test_login.py",
        ("secret = Secret(person) if SECRET.fullmatch(person) else None", "secret = None",
         "a token in every log that shows a name", "test_a_secret_in_the_place_of_a_person"),
    ),
    *guards(
        "bastion/prompts.py", "tests/bastion/test_prompts.py",
        ("neutral(token) != token", "False", "typed text that acts on the terminal",
         "test_nothing_that_is_typed_acts_on_the_terminal"),
        ("or len(self.text) >= self._most", "", "a line without end", "test_a_line_has_an_end"),
        ('return "" if self._hidden else token', "return token", "a code on the screen",
         "test_hidden_input_is_not_echoed_and_not_counted"),
    ),
]
