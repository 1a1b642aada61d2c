"""Guards of rotations: nobody is locked out, whatever a target says and whenever we die."""

# fmt: off
from typing import Final

from tests.mutation.mutant import Mutant, guards

GUARDS: Final[list[Mutant]] = [
    *guards(
        "policy/rotation/plan.py", "tests/policy/test_rotation_plan.py",
        ("            return _try(replace(one, problem=told), one.pending)",
         "            return _stop(one, State.COMMITTED, \"\") if event.outcome is Outcome.DONE else _stop("
         "one, State.ROLLED_BACK, told)",
         "a target's word is taken for it", "test_a_login_decides_and_not_what_the_target_says"),
        ("            return _try(replace(one, unsure=False), one.pending)",
         "            return _stop(one, State.ROLLED_BACK, \"\")",
         "after a crash the old one is taken for what opens",
         "test_what_works_is_never_lost_and_the_next_run_finds_it"),
        ("    return _stop(one, State.BOTH_KEPT, one.problem or",
         "    return _stop(one, State.ROLLED_BACK, one.problem or",
         "no answer is taken for a proof", "test_nothing_is_taken_for_a_proof_but_a_login_that_opens"),
        ("*one.spares[:MAX_SPARES])", "*one.spares)", "so many failed logins that the target locks the account",
         "test_older_versions_are_tried_last_and_not_too_many"),
        ("    if one.trying != one.pending and one.additive and one.unsure:", "    if False:",
         "a new key stays on a target, forgotten", "test_what_works_is_never_lost_and_the_next_run_finds_it"),
        ("    if event.outcome is Outcome.DONE:\n        return _stop(one, State.CLEANING,",
         "    if event.outcome is Outcome.DONE:\n        return _stop(one, State.COMMITTED,",
         "an old key that still opens is called gone", "test_an_old_key_that_still_opens_is_not_forgotten"),
    ),
    *guards(
        "policy/rotation/schedule.py", "tests/policy/test_rotation_schedule.py",
        ("        if row.state == State.WANTED and row.place in changers:", "        if False:",
         "who changes others is changed in the same run", "test_never_both_of_a_pair_are_in_doubt"),
        ("        if (row.target, _via(row, entries)) in doubtful - {row.place}:", "        if False:",
         "an account is changed by one that is in doubt", "test_never_both_of_a_pair_are_in_doubt"),
        ("            if counts.get(entry.name, 0) >= entry.at_once:", "            if False:",
         "all targets at once", "test_one_at_a_time_on_each_target_and_so_many_of_an_entry"),
        ("        if row.target in taken or", "        if False or", "two at once on one target",
         "test_one_at_a_time_on_each_target_and_so_many_of_an_entry"),
    ),
    *guards(
        "policy/rotation/generate.py", "tests/policy/test_rotation_schedule.py",
        ("        if value < 256 - 256 % limit:", "        if True:",
         "the first letters of the alphabet come more often",
         "test_no_letter_comes_more_often_than_another"),
        ("        if all(any(letter in policy.alphabet(name) for letter in found) for name in policy.classes):",
         "        if True:", "a password without a class that the target demands",
         "test_a_password_is_as_its_policy_says"),
    ),
    *guards(
        "policy/rotation/settings.py", "tests/policy/test_rotation_schedule.py",
        ("    elif classes and policy.length * math.log2(max(2, len(set(policy.everything)))) < MIN_BITS:",
         "    elif False:", "passwords of twelve digits", "test_each_problem_with_its_line"),
        ("any(one in \" :\" or one.isalnum()", "any(one in \" \" or one.isalnum()",
         "a colon in what chpasswd reads", "test_each_problem_with_its_line"),
    ),
    *guards(
        "policy/rotation/commands.py", "tests/policy/test_rotation.py",
        ("        check_tends(desk, talk, target)\n", "", "anybody has secrets changed",
         "test_strangers_and_engineers_may_neither_rotate_nor_look"),
    ),
    *guards(
        "policy/sessions/dial.py", "tests/policy/test_rotation.py",
        ("        await desk.rotations.settled(live.account, live.target)", "        pass",
         "a password that was good is handed out while it is changed",
         "test_a_login_meanwhile_waits_and_gets_the_new_one"),
    ),
]
