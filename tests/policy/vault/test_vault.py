"""Secrets at rest: they open in their own place, with their own key, whole, or not at all."""

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.vault.envelope import Vault, generation_of
from policy.vault.masters.file import make_master_key, read_master_key
from policy.vault.secret import MAX_SECRET, Secret, VaultError

KEY = Secret(bytes(range(32)))
SEED = Secret(b"s" * 32)
VAULT = Vault({7: KEY}, SEED)
SEALED = VAULT.seal("account", "a1", 1, Secret(b"hunter2"))


def test_a_secret_opens_in_its_place():
    assert VAULT.open("account", "a1", 1, SEALED) == Secret(b"hunter2")
    assert b"hunter2" not in SEALED
    assert VAULT.seal("account", "a1", 1, Secret(b"hunter2")) != SEALED


@pytest.mark.parametrize(
    ("purpose", "record", "version"),
    [("account", "a2", 1), ("totp", "a1", 1), ("account", "a1", 2), ("account", "a", 11)],
)
def test_a_ciphertext_that_was_moved_does_not_open(purpose, record, version):
    with pytest.raises(VaultError, match="does not open"):
        VAULT.open(purpose, record, version, SEALED)


def test_another_format_is_not_read():
    with pytest.raises(VaultError, match="is damaged"):
        VAULT.open("account", "a1", 1, b"\x01" + SEALED[1:])


def test_two_ciphertexts_swapped():
    other = VAULT.seal("account", "a2", 1, Secret(b"other"))
    for record, sealed in (("a1", other), ("a2", SEALED)):
        with pytest.raises(VaultError):
            VAULT.open("account", record, 1, sealed)


def test_layers_of_two_ciphertexts_mixed():
    other = VAULT.seal("account", "a1", 1, Secret(b"newer"))
    with pytest.raises(VaultError):
        VAULT.open("account", "a1", 1, SEALED[:65] + other[65:])


def test_another_key():
    with pytest.raises(VaultError, match="another key"):
        Vault({7: Secret(bytes(32))}).open("account", "a1", 1, SEALED)
    for key in (b"", bytes(16), bytes(33)):
        with pytest.raises(VaultError, match="want 32"):
            Vault({7: Secret(key)})
        with pytest.raises(VaultError, match="want 32"):
            Vault({7: KEY}, Secret(key))


# --- generations ---------------------------------------------------------------------------------------


def test_the_newest_root_seals_and_older_ones_open():
    vault = Vault({7: KEY}, SEED)
    vault.add_root(8, Secret(b"8" * 32))
    newer = vault.seal("account", "a1", 1, Secret(b"hunter2"))
    assert (generation_of(SEALED), generation_of(newer)) == (7, 8)
    assert (vault.generation, vault.generations) == (8, (7, 8))
    assert vault.open("account", "a1", 1, SEALED) == vault.open("account", "a1", 1, newer)
    vault.drop_root(7)
    with pytest.raises(VaultError, match="root key of generation 7"):
        vault.open("account", "a1", 1, SEALED)
    assert vault.open("account", "a1", 1, newer) == Secret(b"hunter2")


def test_a_generation_said_to_be_another():
    """The root that opens it is part of what is sealed: not even equal roots make two generations one."""
    vault = Vault({7: KEY, 8: KEY}, SEED)
    with pytest.raises(VaultError, match="does not open"):
        vault.open("account", "a1", 1, SEALED[:1] + (8).to_bytes(4) + SEALED[5:])


def test_generations_go_up():
    vault = Vault({7: KEY}, SEED)
    for generation in (6, 7):
        with pytest.raises(VaultError, match="does not follow"):
            vault.add_root(generation, Secret(bytes(32)))
    with pytest.raises(VaultError, match="does not follow"):
        vault.add_root(8, Secret(b"short"))
    with pytest.raises(VaultError, match="is in use"):
        vault.drop_root(7)
    assert vault.root(7) == KEY


def test_what_derives_from_the_seed_survives_rekeying():
    vault = Vault({7: KEY}, SEED)
    before = (vault.audit_key(), vault.register_key(), vault.code_key(), vault.commitment_key("s"))
    vault.add_root(8, Secret(b"8" * 32))
    vault.drop_root(7)
    assert before == (vault.audit_key(), vault.register_key(), vault.code_key(), vault.commitment_key("s"))
    with pytest.raises(VaultError, match="no seed"):
        Vault({7: KEY}).audit_key()


@given(
    st.sampled_from(["password", "key", "ca"]),
    st.text(st.characters(codec="utf-8", exclude_characters="|"), max_size=20),
    st.integers(0, 2**40), st.binary(max_size=300),
)  # fmt: skip
def test_any_secret_opens_in_its_place_and_in_no_other(purpose, record, version, value):
    sealed = VAULT.seal(purpose, record, version, Secret(value))
    assert VAULT.open(purpose, record, version, sealed) == Secret(value)
    for other in ((purpose + "x", record, version), (purpose, record + "1", version), (purpose, record, version + 1)):
        with pytest.raises(VaultError, match="does not open"):
            VAULT.open(*other, sealed)


# --- damage --------------------------------------------------------------------------------------------


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_any_flipped_byte(at, flip):
    damaged = bytearray(SEALED)
    damaged[at] ^= flip
    with pytest.raises(VaultError):
        VAULT.open("account", "a1", 1, bytes(damaged))


@pytest.mark.parametrize("size", range(len(SEALED)))
def test_cut_short_anywhere(size):
    with pytest.raises(VaultError):
        VAULT.open("account", "a1", 1, SEALED[:size])


def test_a_separator_in_a_name_would_let_two_places_share_a_binding():
    with pytest.raises(VaultError, match=r"no `\|`"):
        VAULT.seal("account", "a1|1", 1, Secret(b"x"))


def test_too_long():
    with pytest.raises(VaultError, match="at most"):
        VAULT.seal("account", "a1", 1, Secret(bytes(MAX_SECRET + 1)))


def test_secrets_hide():
    assert "hunter2" not in f"{Secret(b'hunter2')!r} {Secret(b'hunter2')} {[Secret(b'hunter2')]} {VAULT!r}"
    with pytest.raises(TypeError):
        pickle.dumps(Secret(b"hunter2"))


def test_keys_for_one_purpose_open_no_other():
    derived = (
        VAULT.commitment_key("s1"), VAULT.commitment_key("s2"), VAULT.audit_key(), VAULT.register_key(),
        VAULT.code_key(), SEED.reveal(), KEY.reveal(),
    )  # fmt: skip
    assert len(set(derived)) == len(derived)


# --- the file of the master key -------------------------------------------------------------------------


def test_the_file_is_born_with_its_mode(tmp_path: Path):
    old = os.umask(0)
    try:
        key = make_master_key(tmp_path / "master.key")
    finally:
        os.umask(old)
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600
    assert read_master_key("file:master.key", tmp_path, {}) == key
    with pytest.raises(VaultError, match="exists already"):
        make_master_key(tmp_path / "master.key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o777, 0o700])
def test_a_file_that_others_may_read(tmp_path, mode):
    make_master_key(tmp_path / "master.key")
    (tmp_path / "master.key").chmod(mode)
    with pytest.raises(VaultError, match="others may read it") as caught:
        read_master_key("file:master.key", tmp_path, {})
    assert "chmod 600" in caught.value.hint


def test_what_is_no_key_file(tmp_path):
    make_master_key(tmp_path / "real.key")
    (tmp_path / "link.key").symlink_to("real.key")
    (tmp_path / "short.key").write_bytes(bytes(31))
    (tmp_path / "long.key").write_bytes(bytes(33))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo.key", 0o600)
    for name in ("short.key", "long.key"):
        (tmp_path / name).chmod(0o600)
    for name in ("link.key", "short.key", "long.key", "folder", "fifo.key", "missing.key"):
        with pytest.raises(VaultError):
            read_master_key(f"file:{name}", tmp_path, {})


def test_only_a_regular_file_is_a_key(tmp_path):
    (tmp_path / "folder").mkdir(mode=0o600)
    os.mkfifo(tmp_path / "fifo.key", 0o600)
    for name in ("folder", "fifo.key"):
        with pytest.raises(VaultError, match="not a regular file"):
            read_master_key(f"file:{name}", tmp_path, {})


def test_a_key_of_somebody_else(tmp_path, monkeypatch):
    """Whoever owns the file can put another key there."""
    make_master_key(tmp_path / "master.key")
    if os.geteuid() == 0:
        os.chown(tmp_path / "master.key", 65534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(VaultError, match="belongs to uid"):
        read_master_key("file:master.key", tmp_path, {})


def test_a_credential_of_systemd(tmp_path):
    (tmp_path / "vaultkey").write_bytes(KEY.reveal())
    found = read_master_key("credential:vaultkey", Path("/nowhere"), {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert found == KEY
    with pytest.raises(VaultError, match="CREDENTIALS_DIRECTORY"):
        read_master_key("credential:vaultkey", tmp_path, {})
    for where in ("credential:../vaultkey", "file:", "vaultkey", "env:KEY", ""):
        with pytest.raises(VaultError, match="want file:PATH"):
            read_master_key(where, tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
