"""Guards of the vault: what is sealed opens in its place alone, and what was put back is noticed."""

# fmt: off
from typing import Final

from tests.mutation.mutant import Mutant, guards

GUARDS: Final[list[Mutant]] = [
    *guards(
        "policy/vault/masters/file.py", "tests/policy/test_vault.py",
        ("if stat.S_IMODE(status.st_mode) not in (0o600, 0o400):", "if False:", "a master key that others may read",
         "test_a_file_that_others_may_read"),
        ("os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_NONBLOCK", "a link to a key the attacker knows",
         "test_what_is_no_key_file"),
        ("if not stat.S_ISREG(status.st_mode):", "if False:", "a pipe or a folder as key",
         "test_only_a_regular_file_is_a_key", "IsADirectoryError"),
        ("if status.st_uid not in (0, os.geteuid()):", "if False:", "a key that somebody else owns",
         "test_a_key_of_somebody_else"),
        ("if len(data) != KEY_BYTES:", "if False:", "a cut key file", "test_what_is_no_key_file"),
        ("os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600", "os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600",
         "the key is overwritten", "test_the_file_is_born_with_its_mode"),
        ("os.O_EXCL | os.O_CLOEXEC, 0o600)", "os.O_EXCL | os.O_CLOEXEC, 0o644)", "a key others may read from birth",
         "test_the_file_is_born_with_its_mode"),
        ('and "/" not in name:', "and True:", "a credential outside of its folder", "test_a_credential_of_systemd"),
    ),
    *guards(
        "policy/vault/envelope.py", "tests/policy/test_vault.py",
        ('return f"{purpose}|{record}|{version}".encode()', 'return f"{purpose}|{record}".encode()',
         "an old secret put back", "test_a_ciphertext_that_was_moved_does_not_open"),
        ('return f"{purpose}|{record}|{version}".encode()', 'return f"{purpose}|{version}".encode()',
         "two secrets swapped", "test_a_ciphertext_that_was_moved_does_not_open test_two_ciphertexts_swapped"),
        ('if "|" in part:', "if False:", "two places share one binding",
         "test_a_separator_in_a_name_would_let_two_places_share_a_binding"),
        ("            if len(root.reveal()) != KEY_BYTES:", "            if False:", "a short root key",
         "test_another_key"),
        ("if generation <= self.generation or len(root.reveal()) != KEY_BYTES:", "if len(root.reveal()) != KEY_BYTES:",
         "an old root key seals again", "test_generations_go_up"),
        ("if generation == self.generation:", "if False:", "the root key in use thrown away", "test_generations_go_up",
         "ValueError"),
        ("bound = head + _bound(purpose, record, version)", "bound = _bound(purpose, record, version)",
         "sealed for no generation", "test_a_secret_opens_in_its_place", "VaultError"),
        ("bound = sealed[:HEAD] + _bound(purpose, record, version)",
         "bound = sealed[:1] + (7).to_bytes(4) + _bound(purpose, record, version)",
         "a generation said to be another", "test_a_generation_said_to_be_another"),
        ("if len(secret.reveal()) > MAX_SECRET:", "if False:", "a secret without end", "test_too_long"),
        ("if sealed[:1] != _FORMAT or len(sealed) < HEAD + _NONCE + _WRAPPED + _NONCE + 16:",
         "if sealed[:1] != _FORMAT:", "a cut ciphertext", "test_cut_short_anywhere", "ValueError"),
        ("if sealed[:1] != _FORMAT or", "if", "another format read as this one", "test_another_format_is_not_read"),
        ("AESGCM(data_key).decrypt(inner, body, bound)", 'AESGCM(data_key).decrypt(inner, body, b"")',
         "unbound contents", "test_a_secret_opens_in_its_place", "VaultError"),
        ('return self._derive("commitment|" + session)', 'return self._derive("commitment")',
         "one session's key opens another's commitments", "test_keys_for_one_purpose_open_no_other"),
        ("if key[0] != generation}", "}", "what a root key made outlives it",
         "test_the_newest_root_seals_and_older_ones_open", "KeyError"),
    ),
    *guards(
        "policy/vault/secret.py", "tests/policy/test_vault.py",
        ('return "Secret(...)"', 'return f"Secret({self._bytes!r})"', "a secret in the log", "test_secrets_hide"),
        ('raise TypeError("a secret is not pickled")', 'return "x"', "a secret in a pickle", "test_secrets_hide",
         "PicklingError"),
    ),
]
