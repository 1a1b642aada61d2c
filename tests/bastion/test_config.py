"""bastion.toml: every problem at once, each with its line; every key documented."""

import re
from pathlib import Path

import msgspec
import pytest

from bastion import config
from bastion.config import ConfigError, check, load
from bastion.setup import make_host_keys
from bastion.toml_lines import key_lines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_host_keys(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, keys: Path) -> Path:
    """A folder that `check` finds nothing wrong with."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    for key in keys.iterdir():
        (state / key.name).write_bytes(key.read_bytes())
        (state / key.name).chmod(0o600)
    (state / "master.key").write_bytes(bytes(32))
    (state / "master.key").chmod(0o600)
    (tmp_path / "policy.toml").write_text("")
    (tmp_path / "bastion.toml").write_text("")
    return tmp_path


def problems(home: Path, text: str) -> list[str]:
    """Problems as `line: rest`, without the file."""
    (home / "bastion.toml").write_text(text)
    prefix = f"{home}/bastion.toml:"
    return [str(problem).removeprefix(prefix) for problem in check(home / "bastion.toml")]


def test_an_empty_file_is_a_whole_configuration(home: Path) -> None:
    assert problems(home, "") == []
    settings = load(home / "bastion.toml")
    assert settings.state == home / "state"
    assert settings.recordings == home / "state" / "recordings"


def test_every_mistake_is_reported_at_once_with_its_line(home: Path) -> None:
    found = problems(
        home,
        '[bastion]\nstat = "x"\n\n[ssh]\nworkers = "two"\nprofile = "olde"\ngrase = 3\n'
        "[polic]\n[recorder]\nsync_ms = true\n",
    )
    assert found == [
        "2: bastion.stat: unknown key (did you mean `state`)",
        "5: ssh.workers: wrong value (got `'two'`, want `int`)",
        "6: ssh.profile: wrong value (got `'olde'`, want `compat` or `modern` or `pq`)",
        "7: ssh.grase: unknown key (did you mean `grace`)",
        "8: polic: unknown table (did you mean `policy`)",
        "10: recorder.sync_ms: wrong value (got `True`, want `int`)",
    ]


def test_a_key_in_the_wrong_table_is_sent_to_the_right_one(home: Path) -> None:
    assert problems(home, "[policy]\nworkers = 2\n") == [
        "2: policy.workers: unknown key (did you mean `workers` in [ssh])"
    ]


def test_what_is_no_toml_names_the_line(home: Path) -> None:
    assert problems(home, "[ssh]\nworkers = \n") == ["2: invalid value"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe", "is not UTF-8 at byte 0"), (b"#" * (config.MAX_FILE + 1), "is larger than 1024 KiB")],
)
def test_a_file_that_is_no_text_is_refused(home: Path, content: bytes, said: str) -> None:
    (home / "bastion.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load(home / "bastion.toml")


def test_a_missing_file_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml:1: cannot be read: no such file"):
        load(tmp_path / "nowhere.toml")


def test_the_database_url_never_appears_in_a_message(home: Path) -> None:
    found = problems(home, '[policy]\ndatabase = "mysql://app:hunter2@db/x"\n')
    assert len(found) == 1
    assert "hunter2" not in found[0]
    found = problems(home, '[policy]\ndatabase = ["mysql://app:hunter2@db/x"]\n')
    assert len(found) == 1
    assert "hunter2" not in found[0]


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ('["127.0.0.1"]', "not an address with a port"),
        ('["127.0.0.1:0"]', "port out of range"),
        ('["127.0.0.1:70000"]', "port out of range"),
        ('["no such host:22"]', "`ADDRESS:PORT`"),
        ('["::1:22"]', "not an address with a port"),
        ('["[::1]:22", "[::1]:22"]', "the same address twice"),
        ("[]", "nowhere to listen"),
    ],
)
def test_addresses_that_cannot_be_listened_on(home: Path, listen: str, said: str) -> None:
    found = problems(home, f"[ssh]\nlisten = {listen}\n")
    assert len(found) == 1
    assert found[0].startswith("2: ssh.listen: ")
    assert said in found[0]


def test_a_host_key_that_others_may_read_is_refused(home: Path) -> None:
    (home / "state/ssh_host_rsa_key").chmod(0o640)
    assert problems(home, "")[0].endswith(f"(got mode 0640, want chmod 600 {home}/state/ssh_host_rsa_key)")


def test_a_public_key_is_no_host_key(home: Path) -> None:
    (found,) = problems(home, '[ssh]\n\nhost_keys = ["ssh_host_rsa_key.pub"]')
    assert found.startswith(f"3: ssh.host_keys: `{home}/state/ssh_host_rsa_key.pub` is no private key")


def test_the_same_kind_of_host_key_twice_is_refused(home: Path) -> None:
    (found,) = problems(home, '[ssh]\nhost_keys = ["ssh_host_ed25519_key", "ssh_host_ed25519_key"]')
    assert "two keys of one kind" in found


def test_a_master_key_that_others_may_read_is_refused(home: Path) -> None:
    (home / "state/master.key").chmod(0o644)
    (found,) = problems(home, "")
    assert "policy.master_key: others may read" in found


def test_a_socket_path_that_the_kernel_would_cut_is_refused(home: Path) -> None:
    (found,) = problems(home, f'[bastion]\nrun = "{"r" * 100}"\n')
    assert found.startswith("2: bastion.run: path too long for a socket")


def test_a_state_folder_that_others_may_write_is_refused(home: Path) -> None:
    (home / "state").chmod(0o777)
    (found,) = problems(home, "")
    assert "bastion.state: others may write there (got mode 0777" in found


def test_rules_that_are_no_toml_are_found_here_already(home: Path) -> None:
    (home / "policy.toml").write_text("[[rule]\n")
    (found,) = problems(home, "")
    assert "policy.rules" in found
    assert "is not TOML" in found


def test_a_reserve_that_the_low_water_mark_does_not_guard_is_refused(home: Path) -> None:
    (found,) = problems(home, "[recorder]\nreserve_mib = 600\n")
    assert "must be above reserve_mib" in found


def test_where_certificates_count_from_are_networks(home: Path) -> None:
    assert problems(home, '[policy]\ncertificate_sources = ["192.0.2.7", "10.0.0.0/24", "fd00::/8"]') == []
    (said,) = problems(home, '[policy]\ncertificate_sources = ["192.0.2.7", "10.0.0.1/24"]')
    assert "policy.certificate_sources: no network" in said


def test_an_auditor_needs_an_x25519_key(home: Path) -> None:
    (home / "a.pem").write_text(
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA" + "A" * 43 + "=\n-----END PUBLIC KEY-----\n"
    )
    (found,) = problems(home, '[recorder]\nauditors = ["a.pem"]')
    assert "is of the wrong kind (got" in found


# --- the example ------------------------------------------------------------------------------------

EXAMPLE = (ROOT / "bastion.toml.example").read_text()
UNCOMMENTED = re.sub(r"^#(?=[a-z_]+ = )", "", EXAMPLE, flags=re.MULTILINE)


def test_the_example_is_what_init_writes() -> None:
    assert (ROOT / "bastion/templates/bastion.toml").read_text() == EXAMPLE


def test_the_example_shows_each_key_with_its_default(home: Path) -> None:
    assert problems(home, UNCOMMENTED) == []
    settings = load(home / "bastion.toml")
    for name, struct in config.TABLES.items():
        assert getattr(settings, name) == struct(), f"[{name}] of the example differs from the defaults"
        for field in msgspec.structs.fields(struct):
            assert (name, field.name) in key_lines(UNCOMMENTED), f"[{name}] {field.name} is not in bastion.toml.example"


def test_every_number_has_a_range() -> None:
    from bastion.config_checks import RANGES

    for name, struct in config.TABLES.items():
        for field in msgspec.structs.fields(struct):
            if field.type in (int, float):
                assert f"{name}.{field.name}" in RANGES


# --- lines ------------------------------------------------------------------------------------------


def test_lines_are_found_among_strings_comments_and_arrays() -> None:
    text = (
        "a.b = 1 # [no]\n"
        '"q.r" = """\nmulti = 3\n[no]\n""""\n'
        "[ssh] # comment [x]\n"
        'listen = [\n  "a", # ] no\n  "b=c",\n]\n'
        "x = { y = 1 }\n"
        "[['r#r'.z]] # it's\nn = '''\n''' # end\n"
        '[["r#r".z]]\nn = 2\n["r#r".z.deep]\nk = 1\n'
        "[last]\ns = 's\\'\n"
    )
    assert key_lines(text) == {
        ("a",): 1, ("a", "b"): 1, ("q.r",): 2, ("ssh",): 6, ("ssh", "listen"): 7, ("ssh", "x"): 11,
        ("r#r", "z"): 12, ("r#r", "z", 0): 12, ("r#r", "z", 0, "n"): 13,
        ("r#r", "z", 1): 15, ("r#r", "z", 1, "n"): 16,
        ("r#r", "z", 1, "deep"): 17, ("r#r", "z", 1, "deep", "k"): 18,
        ("last",): 19, ("last", "s"): 20,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("file:nowhere", "cannot be read"),
        ("passphrase:hunter2", "unknown source"),
        ("vault:x", "unknown source"),
        ("pkcs11:token=a;object=b", "no key on a token"),
        ("pkcs11:token=a;object=b?module-path=/nowhere.so&pin-source=file:master.key", "`/nowhere.so` is not there"),
        ("pkcs11:token=a;object=b?module-path=/bin/sh&pin-source=1234", "unknown source of a secret"),
        (
            "transit:http://h/v1/transit/keys/k?token=file:master.key&share=file:master.key",
            "no key of a transit server",
        ),
        ("transit:https://h/v1/transit/keys/k?token=file:none&share=file:master.key", "cannot be read"),
    ],
)
def test_a_master_key_that_cannot_be_is_said_beforehand(home: Path, where: str, words: str) -> None:
    (found,) = problems(home, f'[policy]\nmaster_key = "{where}"\n')
    assert found.startswith("2: policy.master_key: ")
    assert words in found


@pytest.mark.parametrize(
    "where",
    [
        "credential:k", "passphrase:", "pkcs11:token=a;object=b?module-path=/bin/sh&pin-source=file:master.key",
        "transit:https://h:8200/v1/transit/keys/k?token=file:master.key&share=credential:s&namespace=n",
    ],
)  # fmt: skip
def test_each_source_of_a_master_key_is_fine(home: Path, where: str) -> None:
    assert problems(home, f'[policy]\nmaster_key = "{where}"\n') == []


def test_scripts_of_the_runner(home: Path) -> None:
    script = home / "script"
    script.write_text("#!/bin/sh\n")
    good = f'[runner]\nscripts = {{ oracle = "{script}" }}\n'
    assert problems(home, good) == []
    for wrong, words in (
        ('{ oracle = "relative" }', "runner.scripts.oracle: path is not absolute"),
        ('{ oracle = "/nowhere/at/all" }', "is not there or is no file"),
        ('{ "../x" = "/bin/true" }', "no name of a script"),
        ('["/bin/true"]', "wrong value"),
    ):
        (problem,) = problems(home, f"[runner]\nscripts = {wrong}\n")
        assert words in problem
