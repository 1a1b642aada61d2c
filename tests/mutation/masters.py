"""Guards of where the master key comes from, and of the time before the vault is open."""

# fmt: off
from typing import Final

from tests.mutation.mutant import Mutant, guards

_HERE: Final = "tests/policy/vault/test_masters.py"

GUARDS: Final[list[Mutant]] = [
    *guards(
        "policy/vault/masters/wrapping.py", _HERE,
        ("return head + bound", "return head", "the root of one generation passes for that of another",
         "test_a_wrapped_root_opens_for_its_own_generation_alone test_each_bit_of_a_wrapped_root_counts"),
        ("if wrapped[0] != kind:", "if False:", "a database of another master is called damaged",
         "test_another_kind_of_master_is_named_and_not_taken_for_a_wrong_key"),
    ),
    *guards(
        "policy/vault/masters/file.py", "tests/policy/vault/test_rekey_deaths.py",
        ("os.link(part, path)", "path.touch(0o600); os.replace(part, path); part.touch()",
         "an empty file is taken for the key, and every later try fails",
         "test_killed_at_every_step_of_a_change_of_master[file]", "VaultError"),
        ("            os.fsync(file.fileno())\n", "", "after a power cut the key's name is there, and the key is not",
         "test_killed_at_every_step_of_a_change_of_master[file]", "VaultError"),
    ),
    *guards(
        "policy/vault/rekeying.py", "tests/policy/vault/test_rekey_deaths.py",
        ("t.put_setting(MASTER, place.encode())\n\n            await self._ledger.write(change, event, durable=True)",
         "t.put_setting(MASTER, place.encode())\n\n"
         "            for made in (bytes(60), keys[0].wrapped):\n"
         "                await self._ledger.write(lambda t, w=made: t.vault.wrap_key(keys[0].generation, w), event)",
         "between two steps no master opens the vault",
         "test_killed_at_every_step_of_a_change_of_master[file]", "VaultError"),
    ),
    *guards(
        "policy/vault/masters/passphrase.py", _HERE,
        ("if not (8 <= cost.mebibytes <= cls.MOST_MEBIBYTES and", "if not (", "a row asks for all memory",
         "test_a_row_cannot_ask_for_all_memory", "HashingError"),
        ("if len(self._passphrase.reveal().decode()) < SHORTEST:", "if False:", "a passphrase that is guessed",
         "test_a_passphrase_that_can_be_guessed_is_not_taken_for_a_new_vault"),
        ('unicodedata.normalize("NFC", text)', "text", "an umlaut that another keyboard writes locks people out",
         "test_both_ways_to_type_an_umlaut_are_one_passphrase", "WrongPassphrase"),
    ),
    *guards(
        "policy/vault/masters/pkcs11.py", _HERE,
        ("if token.flags & (p11.TokenFlag.USER_PIN_COUNT_LOW | p11.TokenFlag.USER_PIN_FINAL_TRY):", "if False:",
         "restarts with a wrong PIN lock the token", "test_a_wrong_pin_is_tried_once_and_never_again"),
        ("if not key[p11.Attribute.SENSITIVE] or key[p11.Attribute.EXTRACTABLE]:", "if False:",
         "a key whose copy somebody has", "test_a_key_that_can_be_read_out_is_not_taken"),
    ),
    *guards(
        "policy/vault/masters/transit.py", _HERE,
        ("return Secret(remote + share.reveal())", "return Secret(remote)", "the server alone opens the vault",
         "test_the_server_alone_does_not_open_the_vault"),
        ('url.scheme != "https"', "False", "the token travels in the clear",
         "test_a_place_that_is_none_is_refused_before_anything_is_read"),
    ),
    *guards(
        "policy/vault/unlocking.py", "tests/policy/vault/test_unlocking.py",
        ("case State.OPERATOR, m.VaultUnlock():", "case _, m.VaultUnlock():", "a gateway tries passphrases",
         "test_the_other_sockets_do_not_unlock"),
        ("await trio.sleep(pause)\n            return m.Refused(code=77", "return m.Refused(code=77",
         "a list of passphrases", "test_wrong_passphrases_wait_longer_and_longer_and_are_counted"),
        ("async with self._turn:", "if True:", "many tries at once", "test_hanging_up_does_not_spare_the_wait"),
    ),
    *guards(
        "policy/__main__.py", "tests/policy/vault/test_unlocking.py",
        ("    if not arguments.passphrase_stdin and not sys.stdin.isatty():\n        return None",
         "    if not sys.stdin.isatty():\n        return Secret(sys.stdin.buffer.readline().strip())",
         "a public key as passphrase", "test_a_public_key_that_is_piped_in_does_not_become_the_passphrase"),
    ),
    *guards(
        "policy/backup/manifest.py", "tests/policy/backup/test_backup.py",
        ('if not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):', "if not _NAME.fullmatch(name):",
         "a stranger's backup writes outside of its folder", "test_a_name_that_leads_elsewhere"),
    ),
    *guards(
        "policy/backup/making.py", "tests/policy/backup/test_backup.py",
        ("os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL", "os.open(to, os.O_WRONLY | os.O_CREAT",
         "a backup overwrites another", "test_a_backup_overwrites_nothing_that_came_meanwhile"),
        ("    if not finding.ok:", "    if False:", "an altered trail is backed up",
         "test_an_altered_database_makes_no_backup"),
    ),
    *guards(
        "policy/backup/restoring.py", "tests/policy/backup/test_backup.py",
        ("        if not older:", "        if False:", "an old state comes back unnoticed",
         "test_an_older_state_is_restored_by_who_says_so_alone"),
        ("or entry.type not in KINDS:", "or False:", "a link or a device out of a backup",
         "test_a_strangers_backup_puts_nothing_where_it_does_not_belong", "AssertionError"),
        ("for file in manifest.files} != seen:", "for file in []} == seen:", "a file of a stranger's in a backup",
         "test_a_file_that_is_not_the_manifests_is_noticed"),
        ("    if missing and note:", "    if False:", "restored without having been opened",
         "test_a_passphrase_is_not_in_the_backup_and_wanted_by_the_restore"),
        ('case "pkcs11" | "transit" if not ask_master:', 'case "pkcs11" | "transit" if False:',
         "a stranger's backup loads a module, or has a token sent to their server",
         "test_a_strangers_backup_asks_nobody"),
    ),
]
