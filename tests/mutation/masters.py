"""Guards of where the master key comes from, and of the time before the vault is open."""

# fmt: off
from typing import Final

from tests.mutation.mutant import Mutant, guards

_HERE: Final = "tests/policy/test_masters.py"

GUARDS: Final[list[Mutant]] = [
    *guards(
        "policy/vault/masters/wrapping.py", _HERE,
        ("head + bound)", "head)", "the root of one generation passes for that of another",
         "test_a_wrapped_root_opens_for_its_own_generation_alone test_each_bit_of_a_wrapped_root_counts"),
        ("if wrapped[0] != kind:", "if False:", "a database of another master is called damaged",
         "test_another_kind_of_master_is_named_and_not_taken_for_a_wrong_key"),
    ),
    *guards(
        "policy/vault/masters/passphrase.py", _HERE,
        ("if not (8 <= cost.mebibytes <= cost.MOST_MEBIBYTES and 1 <= cost.passes <= cost.MOST_PASSES "
         "and cost.lanes == 1):", "if False:", "a row asks for all memory", "test_a_row_cannot_ask_for_all_memory",
         "MemoryError", "HashingError", "WrongPassphrase"),
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
        "policy/vault/unlocking.py", "tests/policy/test_unlocking.py",
        ("case State.OPERATOR, m.VaultUnlock():", "case _, m.VaultUnlock():", "a gateway tries passphrases",
         "test_the_other_sockets_do_not_unlock"),
        ("await trio.sleep(pause)\n            return m.Refused(code=77", "return m.Refused(code=77",
         "a list of passphrases", "test_wrong_passphrases_wait_longer_and_longer_and_are_counted"),
        ("async with self._turn:", "if True:", "many tries at once", "test_hanging_up_does_not_spare_the_wait"),
    ),
]
