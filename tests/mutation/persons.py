"""Guards of persons: the last administrator, nobody raises themselves, owners, leaving; and of `bastion apply`."""

# fmt: off
from typing import Final

from tests.mutation.mutant import Mutant, guards

LIFE: Final = "tests/policy/persons/test_lifecycle.py"
GUARDS: Final[list[Mutant]] = [
    *guards(
        "policy/persons/safeguards.py", LIFE,
        ("if not one.disabled\n", "if True\n", "the last administrator is one who is disabled",
         "test_who_could_administer"),
        ("        and (one.keys or one.phc or certificates)", "        #", "the last administrator cannot log in",
         "test_who_could_administer test_the_last_key_of_the_last_administrator_stays"),
        ("if before and not after:", "if False:", "nobody can change anything any more",
         "test_the_last_one_stays"),
        ("if speaker and speaker == person:", "if False:", "an administrator gives roles or ownership to themselves",
         "test_nobody_gives_to_themselves_but_an_operator_may"),
        ("    if more:\n", "    if False:\n", "a key of one's own for somebody who may more",
         "test_nobody_sets_what_proves_somebody_who_may_more"),
        ("if one.name != name and look(one.name) == shape:", "if False:", "a name that is taken for another",
         "test_who_left_keeps_their_look"),
    ),
    *guards(
        "policy/names.py", LIFE,
        ("if look(name) in _COMMON_LOOKS:", "if name in COMMON_ACCOUNTS:", "a person who reads like `root`",
         "test_a_name_that_looks_like_a_common_account_is_refused"),
    ),
    *guards(
        "policy/persons/directory.py", LIFE,
        ("            check=lambda: no_look_alike(name, desk.roster.persons()),\n", "", "a look-alike is added",
         "test_a_name_that_looks_like_another_is_refused"),
        ("        check_last(desk, person.name, after)\n", "", "the last administrator is disabled or stripped",
         "test_the_last_key_of_the_last_administrator_stays"),
        ('        not_for_oneself(talk.person, person.name, "roles")\n', "        pass\n",
         "an administrator gives roles to themselves", "test_an_administrator_does_not_raise_themselves"),
        ('        not_above(desk.speaker(talk), person, desk.rules.rights, "what proves them")\n', "        pass\n",
         "an administrator logs in as somebody who may more", "test_an_administrator_does_not_raise_themselves"),
    ),
    *guards(
        "policy/login/invitations.py", LIFE,
        ('        not_above(desk.speaker(talk), person, desk.rules.rights, "an invitation")\n', "",
         "an invitation for who may more, followed by who made it", "test_an_invitation_is_no_way_to_raise_oneself"),
        ("            check=lambda: no_look_alike(name, desk.roster.persons()),\n", "",
         "a look-alike is invited", "test_an_invitation_is_no_way_to_raise_oneself"),
    ),
    *guards(
        "policy/persons/lifecycle.py", LIFE,
        (", check=lambda: check_last(desk, person.name, None))", ")", "the last administrator is offboarded",
         "test_two_administrators_who_remove_each_other_at_once_do_not_both_succeed"),
        ("    if (person.owns or kept) and not name:\n", "    if False:\n", "targets that belong to nobody",
         "test_whose_things_would_belong_to_nobody_does_not_leave"),
        ("ended = await desk.end_person(person.name, talk.who, OVER) + await", "ended = await",
         "an offboarded person's sessions go on", "test_who_leaves_leaves_nothing_in_force"),
        ("+ await recheck(desk, by=talk.who)", "", "what they approved for others goes on",
         "test_what_they_approved_for_others_ends_with_them", "TimeoutError"),
        ("if heir is None or heir.disabled or heir.name == person.name:", "if heir is None:",
         "targets handed to who is disabled", "test_whose_things_would_belong_to_nobody_does_not_leave"),
        ('    not_for_oneself(talk.person, heir.name, "ownership")\n', "",
         "an administrator inherits from whom they offboard",
         "test_what_an_administrator_owns_is_not_handed_to_themselves"),
        ("                t.access.revoke_grant(grant.id, talk.who, OVER, now)\n", "                pass\n",
         "grants outlive a person", "test_who_leaves_leaves_nothing_in_force"),
        ("                t.access.close_request(one.id, Is.CANCELLED, talk.who, now)\n", "                pass\n",
         "requests outlive a person", "test_who_leaves_leaves_nothing_in_force"),
    ),
    *guards(
        "policy/store/tables.py", LIFE,
        ("s.password, s.code, s.invitation, s.owner, s.directory_entry):", "s.password):",
         "codes, invitations and ownership outlive a person", "test_who_leaves_leaves_nothing_in_force"),
    ),
    *guards(
        "policy/persons/ownership.py", LIFE,
        ('    not_for_oneself(talk.person, person.name, "ownership")\n', "", "an administrator owns what they like",
         "test_an_administrator_does_not_raise_themselves"),
        ("    if not tends(desk, talk, target):", "    if False:", "everybody looks after everything",
         "test_who_owns_nothing_sees_nothing"),
        ("return [one for one in targets if owns(person.owns, one.name, one.labels)]", "return targets",
         "an owner sees what is not theirs", "test_an_owner_sees_only_what_they_own"),
        ('if not every and request.person not in ("", talk.person):', "if False:", "an owner learns who owns what",
         "test_an_owner_sees_only_what_they_own"),
    ),
    *guards(
        "policy/targets/estate.py", LIFE,
        ("    await _disown(desk, talk, target.name)\n", "", "a new target under an old name has the old one's owner",
         "test_a_target_that_comes_back_under_an_old_name_belongs_to_nobody"),
    ),
    *guards(
        "policy/targets/accounts.py", LIFE,
        ("    check_tends(desk, talk, request.target)\n    target = the_target(", "    target = the_target(",
         "an account on a target of others", "test_elsewhere_an_owner_may_nothing_and_learns_nothing"),
    ),
    *guards(
        "policy/authority.py", LIFE,
        ("if before and not administrators(persons, rules.rights, certificates=certificates):", "if False:",
         "rules that leave no administrator", "test_rules_that_leave_no_administrator_are_not_taken"),
    ),
    *guards(
        "policy/trail/commands.py", LIFE,
        ("if request.after == 0 or request.after != talk.exported:", "if request.after == 0:",
         "the trail read from its middle, unseen", "test_who_reads_the_trail_from_its_middle_is_in_it"),
    ),
    *guards(
        "bastion/inventory_file.py", "tests/bastion/test_inventory.py",
        ('case {"password": _} | {"key": _} | {"private-key": _}:', 'case {"nothing": _}:',
         "a secret stands in the inventory", "test_a_secret_in_the_file_is_refused"),
        ('if c.isprintable() else f"\\\\u{{{ord(c):x}}}" for c in line) for line in shown]',
         "for c in line) for line in shown]", "a file steers the terminal", "test_bad_files"),
    ),
    *guards(
        "bastion/inventory.py", "tests/bastion/test_inventory.py",
        ('and one.origin == "local"', "", "people of the directory are pruned",
         "test_with_prune_it_takes_everything_away_but_what_is_not_ours"),
        ("*(gone if prune else ())", "*gone", "what is not named is removed unasked",
         "test_an_empty_file_changes_nothing_and_says_what_it_does_not_name"),
    ),
]
