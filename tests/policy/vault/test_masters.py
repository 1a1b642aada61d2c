"""Each source of the master key: what it wraps it opens, for the same generation alone, and each fault is said."""

import os
import secrets
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from bastion.courier import http
from bastion.courier.reach import Reach
from policy import messages as m
from policy.vault.masters import Master, parse, wrapping
from policy.vault.masters.passphrase import Cost, PassphraseMaster
from policy.vault.masters.pkcs11 import TokenMaster
from policy.vault.secret import NotYet, Secret, VaultError, WrongPassphrase
from tests.policy.policyd import Policyd
from tests.support.transit import Transit

ROOT = Secret(bytes(range(32)))
BOUND = b"bastion root key|1"
CHEAP = Cost(mebibytes=8, passes=1)
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")


def passphrase(text: str) -> PassphraseMaster:
    master = PassphraseMaster(CHEAP)
    master.supply(Secret(text.encode()))
    return master


async def wrong(work: Awaitable[object], *words: str, kind: type[VaultError] = VaultError) -> VaultError:
    with pytest.raises(kind) as caught:
        await work
    assert all(word in caught.value.cause + caught.value.hint for word in words), caught.value.cause
    return caught.value


# --- what all have in common -------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_wrapped_root_opens_for_its_own_generation_alone(tmp_path: Path):
    master = parse("file:master.key", tmp_path, {})
    assert "keep a copy" in (await master.make())[0]
    assert await master.make() == [], "a key that is there is not made again"
    wrapped = await master.wrap(ROOT, BOUND)
    assert await master.unwrap(wrapped, BOUND) == ROOT
    assert ROOT.reveal() not in wrapped
    await wrong(master.unwrap(wrapped, b"bastion root key|2"), "not the key")


@pytest.mark.trio
async def test_each_bit_of_a_wrapped_root_counts(tmp_path: Path):
    master = parse("file:master.key", tmp_path, {})
    await master.make()
    wrapped = await master.wrap(ROOT, BOUND)
    for at in range(len(wrapped)):
        with pytest.raises(VaultError):
            await master.unwrap(wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :], BOUND)
        with pytest.raises(VaultError):
            await master.unwrap(wrapped[:at], BOUND)


@pytest.mark.trio
async def test_another_kind_of_master_is_named_and_not_taken_for_a_wrong_key(tmp_path: Path):
    wrapped = await passphrase("correct horse battery").wrap(ROOT, BOUND)
    master = parse("file:master.key", tmp_path, {})
    await master.make()
    await wrong(master.unwrap(wrapped, BOUND), "wrapped by a passphrase", "rekey --master")


@pytest.mark.trio
async def test_the_parameters_are_authenticated():
    """Attack: the row of a database says a cheaper cost, and who unlocks derives a key that is guessed."""
    key = Secret(secrets.token_bytes(32))
    wrapped = bytearray(wrapping.wrap(wrapping.TRANSIT, key, ROOT, BOUND, b"vault:v1:AAAA"))
    wrapped[3] ^= 1
    assert wrapping.unwrap(wrapping.TRANSIT, key, bytes(wrapped), BOUND) is None


@pytest.mark.parametrize(
    "where",
    [
          "nonsense", "passphrase:hunter2", "pkcs11:", "pkcs11:token=a?module-path=/m.so",
        "pkcs11:token=a;object=b?module-path=m.so&pin-source=file:p",
        "pkcs11:token=a;token=c;object=b?module-path=/m.so&pin-source=file:p",
        "pkcs11:token=" + "a" * 33 + ";object=b?module-path=/m.so&pin-source=file:p",
        "pkcs11:token=a;object=b?module-path=/m.so&pin-source=file:p&pin-value=1234",
        "transit:http://h/v1/transit/keys/k?token=file:t&share=file:s", "transit:https://h/v1/transit/keys/k",
        "transit:https://h/keys/k?token=file:t&share=file:s",
        "transit:https://h/v1/transit/keys/k?token=file:t&share=nowhere",
    ],
)  # fmt: skip
def test_a_place_that_is_none_is_refused_before_anything_is_read(where: str, tmp_path: Path):
    with pytest.raises(VaultError, match="master key"):
        parse(where, tmp_path, {})


# --- passphrase ----------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_passphrase_opens_and_another_does_not():
    wrapped = await passphrase("correct horse battery").wrap(ROOT, BOUND)
    assert await passphrase("correct horse battery").unwrap(wrapped, BOUND) == ROOT
    await wrong(passphrase("correct horse batterz").unwrap(wrapped, BOUND), "wrong", kind=WrongPassphrase)
    assert b"horse" not in wrapped


@pytest.mark.trio
async def test_a_vault_waits_for_its_passphrase_and_forgets_a_wrong_one():
    wrapped = await passphrase("correct horse battery").wrap(ROOT, BOUND)
    master = PassphraseMaster(CHEAP)
    await wrong(master.unwrap(wrapped, BOUND), "bastion vault unlock", kind=NotYet)
    master.supply(Secret(b"another one entirely"))
    await wrong(master.unwrap(wrapped, BOUND), kind=WrongPassphrase)
    await wrong(master.unwrap(wrapped, BOUND), kind=NotYet)
    master.supply(Secret(b"correct horse battery"))
    assert await master.unwrap(wrapped, BOUND) == ROOT


@pytest.mark.trio
async def test_both_ways_to_type_an_umlaut_are_one_passphrase():
    wrapped = await passphrase("schl\u00fcssel zum tresor").wrap(ROOT, BOUND)
    assert await passphrase("schlu\u0308ssel zum tresor").unwrap(wrapped, BOUND) == ROOT


@pytest.mark.trio
async def test_a_vault_that_is_open_wraps_without_asking_again():
    master = passphrase("correct horse battery")
    await master.unwrap(await passphrase("correct horse battery").wrap(ROOT, BOUND), BOUND)
    master.forget_passphrase()
    wrapped = await master.wrap(ROOT, BOUND)
    assert await passphrase("correct horse battery").unwrap(wrapped, BOUND) == ROOT


@pytest.mark.trio
async def test_a_passphrase_that_can_be_guessed_is_not_taken_for_a_new_vault():
    await wrong(passphrase("elevenchars").make(), "shorter than 12")
    await wrong(PassphraseMaster().make(), "--passphrase-stdin")
    assert await passphrase("twelve chars").make()
    for bad in (b"", b"\xff\xfe", b"x" * 2000):
        with pytest.raises(VaultError, match="passphrase"):
            PassphraseMaster().supply(Secret(bad))


@pytest.mark.parametrize("cost", [Cost(65535, 3), Cost(256, 255), Cost(7, 3), Cost(256, 0), Cost(256, 3, 9)])
@pytest.mark.trio
async def test_a_row_cannot_ask_for_all_memory(cost: Cost):
    parameters = Cost(cost.mebibytes, cost.passes, cost.lanes, bytes(16)).encoded()
    forged = wrapping.wrap(wrapping.PASSPHRASE, Secret(bytes(32)), ROOT, BOUND, parameters)
    await wrong(passphrase("correct horse battery").unwrap(forged, BOUND), "cost is out of range")


# --- PKCS#11 -------------------------------------------------------------------------------------------------

softhsm = pytest.mark.skipif(not MODULE.exists(), reason="needs softhsm2")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A SoftHSM2 with a token `bastion`. Its module reads the environment once in a process."""
    home = tmp_path_factory.mktemp("hsm")
    (home / "tokens").mkdir()
    (home / "softhsm2.conf").write_text(f"directories.tokendir = {home / 'tokens'}\nobjectstore.backend = file\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(home / "softhsm2.conf")
    init_token("bastion")
    (home / "pin").write_text("8642\n")
    (home / "pin").chmod(0o600)
    (home / "wrong-pin").write_text("1111\n")
    (home / "wrong-pin").chmod(0o600)
    try:
        yield home
    finally:
        os.environ.pop("SOFTHSM2_CONF") if before is None else os.environ.update(SOFTHSM2_CONF=before)


def init_token(label: str) -> None:
    words = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", "8642", "--so-pin", "7531"]
    subprocess.run(words, check=True, capture_output=True)


def on_token(
    home: Path, token: str = "bastion", label: str = "root", pin: str = "pin", module: Path = MODULE
) -> Master:
    return parse(f"pkcs11:token={token};object={label}?module-path={module}&pin-source=file:{pin}", home, {})


@softhsm
@pytest.mark.trio
async def test_a_token_makes_its_key_and_opens_what_it_wrapped(tokens: Path):
    master = on_token(tokens)
    assert isinstance(master, TokenMaster)
    assert "key `root` on token `bastion`" in (await master.make())[0]
    assert await master.make() == []
    wrapped = await master.wrap(ROOT, BOUND)
    assert await on_token(tokens).unwrap(wrapped, BOUND) == ROOT
    await wrong(master.unwrap(wrapped, b"bastion root key|2"), "not the one")
    await on_token(tokens, label="other").make()
    await wrong(on_token(tokens, label="other").unwrap(wrapped, BOUND), "not the one")


@softhsm
@pytest.mark.trio
async def test_what_is_wrong_with_a_token_is_said(tokens: Path):
    await on_token(tokens).make()
    wrapped = await on_token(tokens).wrap(ROOT, BOUND)
    await wrong(on_token(tokens, token="gone").unwrap(wrapped, BOUND), "`gone` is not there")
    await wrong(on_token(tokens, label="gone").unwrap(wrapped, BOUND), "no key `gone`")
    await wrong(on_token(tokens, pin="nowhere").unwrap(wrapped, BOUND), "PIN of token")
    await wrong(on_token(tokens, module=Path("/nowhere.so")).unwrap(wrapped, BOUND), "/nowhere.so")


@softhsm
@pytest.mark.trio
async def test_a_token_that_came_later_is_found(tokens: Path):
    await wrong(on_token(tokens, token="later").make(), "is not there")
    init_token("later")
    assert await on_token(tokens, token="later").make()


@softhsm
@pytest.mark.trio
async def test_a_wrong_pin_is_tried_once_and_never_again(tokens: Path):
    """Attack on ourselves: a unit that restarts each second locks the token for good with a PIN that was mistyped."""
    init_token("careful")
    await on_token(tokens, token="careful").make()
    await wrong(on_token(tokens, token="careful", pin="wrong-pin").make(), "tried once")
    await wrong(on_token(tokens, token="careful", pin="wrong-pin").make(), "none is tried now")
    await wrong(on_token(tokens, token="careful").make(), "log in once by hand")


@softhsm
@pytest.mark.trio
async def test_a_key_that_can_be_read_out_is_not_taken(tokens: Path):
    """Attack: a key whose copy somebody has kept is put on the token."""
    import pkcs11

    token = pkcs11.lib(str(MODULE)).get_token(token_label="bastion")
    with token.open(rw=True, user_pin="8642") as session:
        session.create_object(
            {
                pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY, pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.AES,
                pkcs11.Attribute.VALUE: bytes(32), pkcs11.Attribute.LABEL: "known", pkcs11.Attribute.TOKEN: True,
                pkcs11.Attribute.SENSITIVE: False, pkcs11.Attribute.EXTRACTABLE: True,
                pkcs11.Attribute.ENCRYPT: True, pkcs11.Attribute.DECRYPT: True,
            }
        )  # fmt: skip
    await wrong(on_token(tokens, label="known").wrap(ROOT, BOUND), "can be read out")


@softhsm
def test_a_vault_begins_on_a_token(tokens: Path, tmp_path: Path):
    """No key of it was ever in a file."""
    place = f"pkcs11:token=bastion;object=vault?module-path={MODULE}&pin-source=file:{tokens}/pin"
    words = ["init", str(tmp_path / "b"), "--unattended", "--master", place]
    done = subprocess.run([sys.executable, "-m", "bastion", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "key `vault` on token `bastion`" in done.stdout
    assert not (tmp_path / "b" / "state" / "master.key").exists()
    daemon = Policyd(tmp_path / "b").start()
    try:
        assert dict(daemon.done(m.VaultStatus()).rows)["master"] == "pkcs11"
    finally:
        daemon.stop()
    assert "nothing was changed" in daemon.run("db", "accept-trail").stdout


# --- transit -------------------------------------------------------------------------------------------------

Called = Callable[[m.HttpCall], Awaitable[m.Called]]


async def through_courier(call: m.HttpCall) -> m.Called:
    """The courier's own code; the call crosses its socket in test_unlocking."""
    return await http.call(call, Reach(()))


@pytest.fixture
def transit(tmp_path: Path) -> Iterator[Transit]:
    with Transit(tmp_path) as server:
        token = tmp_path / "transit.token"
        token.write_text("s.good\n")
        token.chmod(0o600)
        yield server


@pytest.mark.trio
async def test_transit_opens_what_it_encrypted_and_never_sees_the_root(transit: Transit, tmp_path: Path):
    master = parse(transit.where(), tmp_path, {}, through_courier)
    assert "share" in (await master.make())[0]
    assert await master.make() == []
    wrapped = await master.wrap(ROOT, BOUND)
    assert b"vault:v1:" in wrapped
    transit.rotate()
    assert await master.unwrap(wrapped, BOUND) == ROOT, "an older version of the key opens what it encrypted"
    assert b"vault:v2:" in await master.wrap(ROOT, BOUND)
    await wrong(master.unwrap(wrapped, b"bastion root key|2"), kind=NotYet)
    assert "s.good" not in repr(master)
    assert all(ROOT.reveal().hex() not in str(one) for one in transit.asked)


@pytest.mark.trio
async def test_the_server_alone_does_not_open_the_vault(transit: Transit, tmp_path: Path):
    """Attack: who runs the transit server, or reads what the courier carries, has a copy of the database."""
    master = parse(transit.where(), tmp_path, {}, through_courier)
    await master.make()
    wrapped = await master.wrap(ROOT, BOUND)
    (tmp_path / "share.key").write_bytes(secrets.token_bytes(32))
    await wrong(master.unwrap(wrapped, BOUND), "share is another", kind=NotYet)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, h: setattr(s, "sealed", True), "sealed or on standby"),
        (lambda s, h: s.tokens.clear(), "denies it"),
        (lambda s, h: s.keys.update(bastion=[bytes(32)]), "another key than `bastion`"),
        (lambda s, h: s.keys.clear(), "does not take it"),
        (lambda s, h: setattr(s, "lies", True), "does not open this vault"),
        (lambda s, h: (h / "transit.token").unlink(), "transit.token"),
        (lambda s, h: s.__exit__(), "cannot be reached"),
        (lambda s, h: (h / "ca" / "ca.pem").write_text(""), "transit server"),
    ],
)
@pytest.mark.trio
async def test_a_server_that_does_not_help_keeps_the_vault_locked(
    transit: Transit, tmp_path: Path, change: Callable[[Transit, Path], object], words: str
):
    master = parse(transit.where(), tmp_path, {}, through_courier)
    await master.make()
    wrapped = await master.wrap(ROOT, BOUND)
    change(transit, tmp_path)
    error = await wrong(master.unwrap(wrapped, BOUND), words, kind=NotYet)
    assert "s.good" not in error.cause + error.hint


@pytest.mark.trio
async def test_without_a_courier_it_says_so(transit: Transit, tmp_path: Path):
    master = parse(transit.where(), tmp_path, {})
    await master.make()
    await wrong(master.wrap(ROOT, BOUND), "by a courier", kind=NotYet)
