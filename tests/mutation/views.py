"""Guards between an auditor and a recording: what policyd takes for a view, and what replay takes for leave to show."""

# fmt: off
import os
from typing import Final

from tests.mutation.mutant import Mutant, guards

_POLICY: Final = "tests/policy/trail/test_views.py"
_REPLAY: Final = "tests/replay/test_views.py"
_LEAVE: Final = "return Noted(event=1, who='')"

GUARDS: Final[list[Mutant]] = [
    *guards(
        "policy/trail/views.py", _POLICY,
        ("if not 1 <= len(request.recordings) <= MAX_RECORDINGS:", "if False:", "a view of nothing, or of 100,000",
         "test_what_is_malformed_closes_that_socket_only"),
        ("if not all(_SESSION.fullmatch(one) for one in request.recordings):", "if False:",
         "any text in place of an id", "test_what_is_malformed_closes_that_socket_only"),
        ("if max(len(request.range), len(request.format), len(request.reason)) > MAX_WORDS:", "if False:",
         "texts of any length", "test_what_is_malformed_closes_that_socket_only"),
        ("if len(talk.views) >= MAX_VIEWS:", "if False:", "views without end", "test_views_without_end_have_an_end"),
        ("talk.views.pop(request.event, None)", "talk.views.get(request.event)", "a view that ends twice",
         "test_a_view_ends_once_and_where_it_began"),
        ("if len(request.sha256) not in (0, 32):", "if False:", "a digest that is none",
         "test_a_digest_is_one_or_none"),
        ("elif allowed and name not in allowed:", "elif False:", "a user who is not on the list",
         "test_who_is_not_on_the_list_is_refused"),
        ("    row = await desk.ledger.note(event, durable=True)\n", "    row = 1\n", "a view that nobody wrote down",
         "test_a_view_is_in_the_trail_when_it_is_answered"),
        ("    if left:\n", "    if False:\n", "kill -9 of a player leaves no trace of its end",
         "test_who_was_killed_has_not_said_how_far_he_came"),
    ),
    *guards(
        "replay/views.py", _REPLAY,
        ('event = _ask(sock, said, "this view").event', "event = 1",
         "it is shown before anybody is asked", "test_nothing_is_shown_while_policyd_stands_still"),
        ("            raise NotNoted(reply.cause,", f"            {_LEAVE} or NotNoted(reply.cause,",
         "a refusal taken for leave", "test_who_may_not_view_is_told_so"),
        ("    if not data:\n        raise NotNoted", f"    if not data:\n        {_LEAVE}\n        raise NotNoted",
         "a connection that is closed taken for leave", "test_something_else_at_the_socket"),
        ("        case _:\n            raise NotNoted(",
         f"        case _:\n            {_LEAVE}\n            raise NotNoted(",
         "any answer taken for leave", "test_something_else_at_the_socket"),
    ),
    *guards(
        "replay/place.py", _REPLAY,
        ("    file = file.resolve()\n", "    file = file.absolute()\n", "a link passes for a copy",
         "test_a_link_into_the_recordings_is_no_copy"),
        ("        if (folder / NODE_KEY).exists():", "        if False:", "`--directory` is the way to look unseen",
         "test_naming_the_folder_is_no_way_around test_a_folder_that_records_and_has_no_configuration_is_not_shown"),
    ),
    *guards(
        "replay/cli/export.py", _REPLAY,
        ("        view.over(length=written.length, sha256=written.digest)\n        part.replace(output)",
         "        part.replace(output)\n        view.over(length=written.length, sha256=written.digest)",
         "an export of which the trail has no digest",
         "test_an_export_without_its_digest_in_the_trail_has_no_name"),
    ),
]
if os.geteuid() == 0:  # only root can be somebody else
    GUARDS += guards(
        "policy/trail/views.py", _POLICY,
        ("    if uid == NOBODY:", "    if False:", "the nobody of a container", "test_nobody_may_be_anybody"),
        ("    elif person is not None and not active:", "    elif False:", "the OS account of a person who has left",
         "test_who_is_disabled_or_gone_views_nothing"),
    )
