"""Guards of certificate authorities, of what certificates say, and of what was given back or told late."""

# fmt: off
from typing import Final

from tests.mutation.mutant import Mutant, guards

GUARDS: Final[list[Mutant]] = [
    *guards(
        "policy/keys/krl.py", "tests/policy/keys/test_krl.py",
        ("if critical:", "if False:", "a list with a part that nobody here understands", "test_refused"),
        ("if len(data) > MAX_KRL:", "if False:", "a list without end", "test_refused"),
        ("if size and len(blob) != size:", "if False:", "a hash that is none", "test_refused"),
        ("if len(data) > _MAX_BITMAP:", "if False:", "a bitmap without end", "test_refused"),
        ("if not 1 <= low <= high <= MAX_SERIAL:", "if False:", "serial 0 revokes every certificate without one",
         "test_refused test_ranges_become_as_few_as_can_be"),
        ("part.end(\"part\")", "", "bytes that nobody reads", "test_refused"),
    ),
    *guards(
        "policy/authorities/life.py", "tests/policy/authorities/test_authorities.py",
        ("if found.stage is Stage.CURRENT:", "if False:", "nothing can be signed any more",
         "test_every_stage_and_what_may_be_done"),
        ("if (old := cas.at(use, Stage.RETIRING)) is not None:", "if False:",
         "an authority is retired that targets still need", "test_every_stage_and_what_may_be_done", "AssertionError"),
        ("if (waiting := cas.at(use, Stage.NEXT)) is not None:", "if False:", "one that waits is forgotten",
         "test_every_stage_and_what_may_be_done"),
    ),
    *guards(
        "policy/authorities/publishing.py", "tests/policy/authorities/test_authorities.py",
        ("    if altered:\n", "    if False:\n", "a revocation is taken away while policyd runs",
         "test_what_is_revoked_stays_revoked_whoever_writes_to_the_database"
         " test_an_altered_list_is_not_given_to_targets"),
        ("await desk.ledger.note(Event(event=NOT_WRITTEN", "(Event(event=NOT_WRITTEN",
         "targets go on believing what is over, and nobody hears of it",
         "test_the_list_is_there_for_who_may_do_nothing_else"),
    ),
    *guards(
        "policy/authorities/keeping.py", "tests/policy/authorities/test_authorities.py",
        ("tables.vault.reseal(retired, vault.seal(CA, record.record, ca.number, Secret(ca.public.blob)))", "",
         "who opens the vault later certifies with a retired authority",
         "test_the_private_key_of_a_retired_one_is_destroyed"),
    ),
    *guards(
        "policy/store/authority_tables.py", "tests/policy/authorities/test_authorities.py",
        ("self._vault.changes.append(Change(None, _entry(made)))", "", "a revocation that nobody vouches for",
         "test_what_is_revoked_stays_revoked_whoever_writes_to_the_database"),
        ("self._vault.changes.append(Change(None if before is None else _version(before), _version(after)))", "",
         "an old version of the list, which targets take for the one they have",
         "test_what_is_revoked_stays_revoked_whoever_writes_to_the_database"),
        ("repr((row.kind, row.what, row.at, row.by, row.reason)).encode()", 'b""', "a revocation of something else",
         "test_what_is_revoked_stays_revoked_whoever_writes_to_the_database"),
    ),
    *guards(
        "policy/store/vault_tables.py", "tests/policy/authorities/test_authorities.py",
        ('.where(s.secret.c.kind != "ca")', "", "a retired authority leaves the list of what is revoked",
         "test_retired_ones_are_never_forgotten"),
    ),
    *guards(
        "policy/setup.py", "tests/policy/authorities/test_authorities.py",
        (", *tables.authorities.entries()]", "]", "a revocation is taken away while policyd is stopped",
         "test_what_is_revoked_stays_revoked_whoever_writes_to_the_database"),
    ),
    *guards(
        "policy/authorities/revocation.py", "tests/policy/authorities/test_authorities.py",
        ("keys |= {hashlib.sha256(ca.public.blob).digest() for ca in cas.all if ca.stage is Stage.RETIRED}", "",
         "a retired authority opens every target that was told nothing", "test_a_rotation_from_first_to_last"),
        ("OfCa(ca=ca.public.blob, serials", 'OfCa(ca=b"", serials', "certificates of others are revoked with ours",
         "test_what_is_revoked_is_in_the_list_and_its_version_grows"),
        ("if len(digest) != 32:", "if False:", "a fingerprint that names nothing",
         "test_revocations_that_name_nothing"),
    ),
    *guards(
        "policy/authorities/commands.py", "tests/policy/authorities/test_authorities.py",
        ('if not (why := text(given, "reason")):', 'if not (why := text(given, "reason") or "none"):',
         "ended, and nobody knows why", "test_revocations_that_name_nothing"),
        ("    await desk.rekeying.wipe()", "", "a private key in a log that nobody empties",
         "test_the_private_key_of_a_retired_one_is_destroyed"),
    ),
    *guards(
        "policy/rules/terms.py", "tests/policy/rules/test_terms.py",
        ('if command[1] not in ("", terms.force_command):', "if False:", "the command of the rule that came last",
         "test_rules_that_contradict_each_other test_a_decision_carries_them"),
        ("if principals[1] and principals[1] != frozenset(terms.principals):", "if False:",
         "principals that one of the rules did not mean", "test_rules_that_contradict_each_other"),
        ("if not both:", "if False:", "no shared address means from everywhere",
         "test_rules_that_contradict_each_other"),
        ('return wanted.force_command in ("", self.force_command)', "return True",
         "a session that runs free goes on", "test_what_a_session_began_on_holds_or_not"),
    ),
    *guards(
        "policy/sessions/access.py", "tests/policy/authorities/test_authorities.py",
        ('if decision.certificate.binding and account.kind != "user-ca":', "if False:",
         "a forced command, and a key that enforces nothing", "test_an_account_that_opens_by_key_cannot_be_held_to_it"),
        ("if not live.certificate.holds(decision.certificate):", "if False:",
         "a free command in the second before a session ends",
         "tests/policy/vault/test_races.py::test_a_channel_between_new_rules_and_the_end_of_what_they_end"),
        ("return live.opened <= now.kinds and live.certificate.holds(now.certificate)",
         "return live.opened <= now.kinds", "what ran free before the rule runs on",
         "tests/policy/vault/test_races.py::test_a_channel_between_new_rules_and_the_end_of_what_they_end"),
    ),
    *guards(
        "policy/sessions/live.py", "tests/policy/leave/test_grants.py",
        ("if not (live.grant and live.unreached) or live.opened:", "if not (live.grant and live.unreached):",
         "work, and the use comes back", "test_a_use_that_came_to_something_is_not"),
    ),
    *guards(
        "policy/sessions/dial.py", "tests/policy/leave/test_grants.py",
        ('live.leases, live.unreached = live.leases + 1, ""', "live.leases += 1",
         "a second try that worked gives the use back", "test_a_use_that_came_to_something_is_not"),
    ),
    *guards(
        "policy/login/authenticate.py", "tests/policy/login/test_invitations.py",
        ("if offer.owner is not None and invitations.is_one(claim):", "if False:",
         "a dead invitation logs in the owner of the key", "test_a_void_invitation_logs_nobody_in"),
    ),
    *guards(
        "policy/rules/inquiries.py", "tests/policy/rules/test_foresight.py",
        ("if not more or talk.listed != what:", "if not more:", "later pages are looked at by nobody",
         "test_a_list_is_one_view_however_many_pages"),
    ),
    *guards(
        "policy/notices/notifying.py", "tests/policy/notices/test_notify.py",
        ("mark = min(self._waiting) - 1 if self._waiting else self._newest", "mark = self._newest",
         "what waits is forgotten when policyd stops",
         "test_what_waits_when_policyd_stops_is_told_by_the_next_and_once"),
    ),
    *guards(
        "bastion/courier/silent.py", "tests/courier/test_radius.py",
        ("if len(self._until) < MOST:", "if True:", "memory without end", "test_what_is_remembered_of_silent_servers"),
    ),
    *guards(
        "bastion/config_checks.py", "tests/bastion/test_config.py",
        ("for word in settings.policy.certificate_sources:", "for word in ():", "a list that no target can read",
         "test_where_certificates_count_from_are_networks", "ValueError"),
    ),
]
