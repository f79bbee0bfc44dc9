"""Nothing is open to others by mistake."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mdserver.cli import cli, main
from mdserver.config import AuthConfig, KeyEntry, ServerConfig, check_exposure, secret_values
from mdserver.errors import ConfigError
from mdserver.keys import KeyHash, new_key
from mdserver.web.access.rate import Budgets, address_of

KEY, HASH = new_key()
WITH_KEY = AuthConfig(keys=(KeyEntry("desk", HASH),))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "*", "192.168.1.5", "example.org", ("127.0.0.1", "10.0.0.1")]
)
def test_another_address_than_loopback_needs_keys_or_a_word(host: str | tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="allow_anonymous"):
        check_exposure(ServerConfig(host=host))
    check_exposure(ServerConfig(host=host, auth=WITH_KEY))
    check_exposure(ServerConfig(host=host, auth=AuthConfig(allow_anonymous=True)))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", ("127.0.0.1", "::1")])
def test_loopback_is_open(host: str | tuple[str, ...]) -> None:
    check_exposure(ServerConfig(host=host))


def test_a_server_for_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match="nobody could connect"):
        check_exposure(ServerConfig(auth=AuthConfig(allow_anonymous=False)))


def test_the_start_and_the_check_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        f"data_dir: {tmp_path}\nserver: {{host: 0.0.0.0, port: 0}}\nbrokers:\n  - {{name: mock}}\n"
    )
    for arguments in (["run", "--config", str(file)], ["config", "check", str(file)]):
        assert main(arguments) == 2
        assert "allow_anonymous" in capsys.readouterr().err


def test_keys_new_prints_a_key_that_fits_its_hash() -> None:
    result = CliRunner().invoke(cli, ["keys", "new", "desk", "--json"])
    made = json.loads(result.output)
    assert made["name"] == "desk"
    assert KeyHash.parse(made["hash"]).matches(made["key"])
    assert not KeyHash.parse(made["hash"]).matches(KEY)
    text = CliRunner().invoke(cli, ["keys", "new", "desk"]).output
    assert text.startswith("mds_")
    assert "scrypt:" in text
    assert CliRunner().invoke(cli, ["keys", "new", "a b"]).exit_code == 2


@pytest.mark.parametrize("text", ["", "x", "scrypt:9:" + HASH[10:], HASH + "0", HASH.upper()], ids=range(5))
def test_a_hash_that_is_none_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="mdserver keys new"):
        KeyEntry("desk", text)


def test_the_hash_is_a_secret_and_the_words_of_a_key_are_none() -> None:
    assert secret_values(ServerConfig(auth=WITH_KEY)) == {HASH}


def test_a_budget_is_spent_at_once_and_fills_up_evenly() -> None:
    budgets = Budgets()
    assert [budgets.spend("a", 3, 0.0) for _ in range(3)] == [0, 0, 0]
    assert budgets.spend("a", 3, 0.0) == pytest.approx(20)
    assert budgets.spend("b", 3, 0.0) == 0
    assert budgets.spend("a", 3, 20.0) == 0
    assert budgets.spend("a", 3, 20.0) > 0


def test_so_many_addresses_are_forgotten_and_memory_stays_bounded() -> None:
    budgets = Budgets()
    for number in range(50_000):
        budgets.spend(str(number), 1, 0.0)
    assert len(budgets._whole_at) <= 20_000


@pytest.mark.parametrize(
    ("text", "one"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("::1", "::1"),
    ],
)
def test_what_counts_as_one_address(text: str, one: str) -> None:
    assert address_of(text) == one
