"""The config: what is accepted, and what every error says."""

import json
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import attrs
import jsonschema
import pytest
import yaml
from attrs.validators import and_, ge, gt, in_, le, lt, matches_re, max_len, min_len, optional
from hypothesis import given
from hypothesis import strategies as st

from mdserver.config import Config, json_schema, load_config
from mdserver.config.constraints import limits
from mdserver.errors import ConfigError
from mdserver.redact import is_secret_name, redact

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Inner:
    """A nested mapping."""

    depth: int = 1


class Account(Enum):
    """An option of a plugin."""

    DEMO = "demo"
    LIVE = "live"


@attrs.frozen
class Fake:
    """Settings with one field of each kind."""

    rate: float = attrs.field(default=1.0, validator=and_(ge(0), le(10)))
    api_key: str = attrs.field(default="", validator=max_len(12))
    seats: int = attrs.field(default=1, metadata={"secret": True})
    mode: Literal["fast", "slow", 3] = "fast"
    names: list[str] = attrs.field(factory=list)
    limits: dict[str, int] = attrs.field(factory=dict)
    inner: Inner = Inner()
    maybe: int | None = None
    either: int | str = 0
    anything: object = None
    side: Account = Account.DEMO
    raw: bytes = b""
    doubled: int = attrs.field(default=2, converter=lambda given: 2 * given, validator=ge(2))


@attrs.frozen
class Needs:
    """Settings with a field that must be given."""

    url: str


PLUGINS = {"fake": Fake, "needs": Needs}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    def load(
        text: str, environ: Mapping[str, str] | None = None, plugins: Mapping[str, type] = PLUGINS
    ) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, environ=environ or {}, brokers=plugins)

    return load


@pytest.fixture
def errors(load: Callable[..., Config], tmp_path: Path) -> Callable[..., list[str]]:
    def errors(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            load(text, environ)
        folder = f"{tmp_path}/"
        assert all(problem.startswith(folder) and "\n" not in problem for problem in raised.value.problems)
        return [
            problem.removeprefix(folder).removeprefix("config.yaml:") for problem in raised.value.problems
        ]

    return errors


def broker(settings: str) -> str:
    return f"brokers:\n  - name: a\n    plugin: fake\n    {settings}\n"


def setting(config: Config) -> Any:
    return config.brokers[0].settings


# -- defaults --------------------------------------------------------------------------------------------------------


def test_without_a_file_the_mock_broker_streams() -> None:
    config = load_config(None, environ={"MDSERVER_DATA_DIR": "/data"}, brokers={"mock": Fake})
    (mock,) = config.brokers
    assert (mock.name, mock.plugin, mock.enabled, mock.settings) == ("mock", "mock", True, Fake())
    assert mock.symbols == ("EURUSD", "GBPUSD", "USDJPY", "BTCUSDT")
    assert mock.types == ("tick", "trade")
    assert config.database.url == "embedded"
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8080)
    assert config.data_dir == Path("/data")


def test_without_the_mock_plugin_there_is_no_broker() -> None:
    assert load_config(None, environ={}, brokers={}).brokers == ()


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "server:\nbrokers:\n", "server: {}\nbrokers: []"])
def test_an_empty_file_has_all_defaults_and_no_broker(load: Callable[..., Config], text: str) -> None:
    config = load(text)
    assert config.brokers == ()
    assert config.server.port == 8080


def test_root_keeps_its_data_where_the_database_can_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert load_config(None, environ={}, brokers={}).data_dir == Path("/var/lib/mdserver")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/u/data")
    assert load_config(None, environ={}, brokers={}).data_dir == Path("/home/u/data/mdserver")


def test_a_relative_data_dir_is_beside_the_file(load: Callable[..., Config], tmp_path: Path) -> None:
    assert load("data_dir: data").data_dir == tmp_path / "data"
    assert load("data_dir: /abs").data_dir == Path("/abs")
    assert load("data_dir: data", {"MDSERVER_DATA_DIR": "/env"}).data_dir == Path("/env")


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("rate: 2", "rate", 2.0),
        ("rate: 1e0", "rate", 1.0),
        ("seats: 1_000", "seats", 1000),
        ("mode: slow", "mode", "slow"),
        ("mode: 3", "mode", 3),
        ("names: [no, 'x', on, 1:30]", "names", ["no", "x", "on", "1:30"]),
        ("limits: {a: 1}", "limits", {"a": 1}),
        ("inner: {depth: 4}", "inner", Inner(4)),
        ("maybe: null", "maybe", None),
        ("maybe: 7", "maybe", 7),
        ("either: text", "either", "text"),
        ("anything: {a: [1, x]}", "anything", {"a": [1, "x"]}),
        ('api_key: "12"', "api_key", "12"),
        ("api_key: $${X}", "api_key", "${X}"),
    ],
)
def test_values(load: Callable[..., Config], text: str, field: str, value: object) -> None:
    found = getattr(setting(load(broker(text))), field)
    assert found == value
    assert type(found) is type(value)


def test_variables(load: Callable[..., Config]) -> None:
    text = broker(
        'rate: ${RATE}\n    api_key: "x${KEY:-none}"\n    names: ["${A:-}", "${A:-b}c"]\n    enabled: ${ON}'
    )
    config = load(text, {"RATE": "2.5", "ON": "true", "A": ""})
    assert setting(config) == Fake(rate=2.5, api_key="xnone", names=["", "bc"])
    assert config.brokers[0].enabled is True


def test_a_variable_never_becomes_yaml(load: Callable[..., Config]) -> None:
    assert setting(load(broker("either: ${X}"), {"X": "{a: 1}\nb: 2"})).either == "{a: 1}\nb: 2"


def test_the_env_file_yields_to_the_environment(load: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RATE=3\nKEY='from file'\n# comment\nexport PORT=99\n", encoding="utf-8")
    config = load(broker("rate: ${RATE}\n    api_key: ${KEY}") + "server: {port: '${PORT}'}", {"RATE": "4"})
    assert setting(config) == Fake(rate=4.0, api_key="from file")
    assert config.server.port == 99


def test_a_bad_env_file_is_named_without_its_text(load: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\n'hunter2\n", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load("")
    assert raised.value.problems == [f"{tmp_path}/.env:2: found a line that is not NAME=value"]


def test_anchors_and_merges(load: Callable[..., Config]) -> None:
    config = load(
        "brokers:\n  - &base {name: a, plugin: fake, rate: 5, symbols: [eur/usd, EURUSD]}\n"
        "  - {<<: *base, name: b, rate: 6}\n"
    )
    assert [(b.name, b.symbols, b.settings.rate) for b in config.brokers] == [  # type: ignore[attr-defined]
        ("a", ("EURUSD",), 5.0),
        ("b", ("EURUSD",), 6.0),
    ]


def test_a_disabled_broker_needs_neither_variables_nor_plugin(load: Callable[..., Config]) -> None:
    config = load(
        "brokers:\n  - {name: a, plugin: needs, enabled: false, url: '${NOT_SET}'}\n"
        "  - {name: b, plugin: not-there, enabled: false, key: 1}\n"
    )
    assert [b.settings for b in config.brokers] == [None, None]


def test_what_switches_a_broker_off_may_be_a_variable(load: Callable[..., Config]) -> None:
    text = "brokers: [{name: a, plugin: needs, enabled: '${ON:-false}', url: '${NO}', symbols: ['${NO}']}]"
    (entry,) = load(text).brokers
    assert (entry.enabled, entry.settings) == (False, None)


def test_enums_converters_and_escapes(load: Callable[..., Config]) -> None:
    text = "brokers: [{name: fake, side: live, doubled: 1, names: ['$${X}', '${X}', '${Y:-y}']}]"
    (entry,) = load(text, {"X": "x"}).brokers
    settings = entry.settings
    assert isinstance(settings, Fake)
    assert (settings.side, settings.doubled) == (Account.LIVE, 2)
    assert settings.names == ["${X}", "x", "y"]


def test_types_that_a_plugin_has_not(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("brokers:\n  - {name: fake, types: [tick, trade]}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(path, environ={}, brokers=PLUGINS, broker_types={"fake": ("tick",)})
    assert raised.value.problems == [
        f'{path}:2: brokers[0].types[1]: found "trade", expected a type that this plugin supports: tick'
    ]


def test_a_home_folder_that_there_is_not(load: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load("data_dir: ~no-such-user/x")
    place = f"{tmp_path}/config.yaml:1: data_dir"
    expected = "expected a path: there is no such user, or no home folder"
    assert raised.value.problems == [f'{place}: found "~no-such-user/x", {expected}']


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate: fast", '4: brokers[0].rate: found "fast", expected a number'),
        ("rate: '2'", '4: brokers[0].rate: found "2", expected a number'),
        ("rate: true", "4: brokers[0].rate: found true, expected a number"),
        ("rate: .nan", '4: brokers[0].rate: found ".nan", expected a number'),
        ("rate: 11", "4: brokers[0].rate: found 11, expected a number from 0 to 10"),
        ("rate: 1_.5", '4: brokers[0].rate: found "1_.5", expected a number'),
        ("maybe: 8080_", '4: brokers[0].maybe: found "8080_", expected an integer'),
        ("maybe: 1__0", '4: brokers[0].maybe: found "1__0", expected an integer'),
        ("side: dem", '4: brokers[0].side: found "dem", expected one of demo, live'),
        ("raw: abc", "4: brokers[0].raw: cannot be set: its type <class 'bytes'> is not one"),
        ("names: ['${MY-DIR}/x']", "4: brokers[0].names[0]: found a malformed reference to a variable"),
        ("names: ['${X:-${Y}}']", "4: brokers[0].names[0]: found a malformed reference to a variable"),
        ("names: ['${X']", "4: brokers[0].names[0]: found a malformed reference to a variable"),
        ("maybe: true", "4: brokers[0].maybe: found true, expected an integer"),
        ("maybe: 1.0", "4: brokers[0].maybe: found 1.0, expected an integer"),
        ("either: [1]", "4: brokers[0].either: found a list, expected an integer or text"),
        ("mode: true", "4: brokers[0].mode: found true, expected one of fast, slow, 3"),
        ("names: abc", '4: brokers[0].names: found "abc", expected a list'),
        ("names: [1]", "4: brokers[0].names[0]: found 1, expected text (put it in quotes)"),
        ("limits: {a: x}", '4: brokers[0].limits.a: found "x", expected an integer'),
        ("inner: 3", "4: brokers[0].inner: found 3, expected a mapping"),
        ("inner: {dept: 3}", '4: brokers[0].inner.dept: unknown key, did you mean "depth"?'),
        ("enabled: yes", '4: brokers[0].enabled: found "yes", expected true or false'),
        ("types: tick", '4: brokers[0].types: found "tick", expected a list'),
        ("types: [tik]", '4: brokers[0].types[0]: found "tik", expected one of tick, trade'),
        (
            "types: []",
            "4: brokers[0].types: found a list, expected one or more of tick, trade, orderbook, candle, each once",
        ),
        ("symbols: EURUSD", '4: brokers[0].symbols: found "EURUSD", expected a list'),
        (
            "symbols: ['?']",
            '4: brokers[0].symbols[0]: found "?", expected a symbol such as EURUSD or EUR/USD',
        ),
        ("maybe: ${NO}", "4: brokers[0].maybe: environment variable NO is not set, expected an integer"),
        ("maybe: ${X}", '4: brokers[0].maybe: found "x" from ${X}, expected an integer'),
        ("symbol: [EURUSD]", '4: brokers[0].symbol: unknown key, did you mean "symbols"?'),
        ("rate: !!python/object:os.system 1", "4: brokers[0].rate: found a YAML tag, expected a plain value"),
    ],
)
def test_one_error(errors: Callable[..., list[str]], text: str, message: str) -> None:
    assert errors(broker(text), {"X": "x"})[0].startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {port: 65536}", "1: server.port: found 65536, expected an integer from 0 to 65535"),
        ("server: {port: -1}", "1: server.port: found -1, expected an integer from 0 to 65535"),
        ("server: 3", "1: server: found 3, expected a mapping"),
        ("[1]", "1: found a list, expected a mapping"),
        ("journal: {max_bytes: 0}", "1: journal.max_bytes: found 0, expected an integer from 1048576 to "),
        ("server: {host: ''}", '1: server.host: found "", expected an address or a name'),
        (
            "server: {allowed_origins: [example.org]}",
            "1: server.allowed_origins: found a list, expected origins such as",
        ),
        (
            "log: {level: verbose}",
            '1: log.level: found "verbose", expected one of debug, info, warning, error',
        ),
        ("a: 1\na: 2", "2: a: found the key twice, the first is in line 1"),
        ("brokers: {a: 1}", "1: brokers: expected a list of brokers, each with a name"),
        ("brokers: [3]", "1: brokers[0]: expected a mapping with at least a name"),
        ("brokers: [{plugin: fake}]", "1: brokers[0].name: missing, expected text"),
        ("brokers: [{name: needs}]", "1: brokers[0].url: missing, expected text"),
        (
            "brokers: [{name: x}]",
            '1: brokers[0].name: there is no broker plugin "x", installed are fake, needs',
        ),
        (
            "brokers: [{name: a b, plugin: fake}]",
            '1: brokers[0].name: found "a b", expected text that matches',
        ),
        ("brokers: [{name: a, plugin: 3}]", "1: brokers[0].plugin: found 3, expected text"),
        ("server: [1", "1: is not YAML: "),
        ("a: {b: *nope}", "1: found an alias that is not defined"),
        ("a: 1\n---\nb: 2", "2: found a second document"),
        ("a: &x [*x]", "expands to more than"),
        ("a: \x07", "1: found a character that YAML does not allow"),
        ("data_dir: 3", "1: data_dir: found 3, expected a path"),
        ("? [1, 2]\n: 3", "1: found a key that is not text"),
    ],
)
def test_errors_of_the_file(errors: Callable[..., list[str]], text: str, message: str) -> None:
    assert any(message in error for error in errors(text))


def test_all_errors_at_once_in_the_order_of_lines(errors: Callable[..., list[str]]) -> None:
    text = (
        "server:\n  prot: 1\n  port: x\nbrokers:\n  - name: a\n    plugin: fake\n    rate: -1\n    names: [1, x, 2]\n"
        "  - name: a\n    plugin: fake\n    nmaes: []\nlogs: {}\n"
    )
    assert errors(text) == [
        '2: server.prot: unknown key, did you mean "port"?',
        '3: server.port: found "x", expected an integer from 0 to 65535'.replace(" from 0 to 65535", ""),
        "7: brokers[0].rate: found -1, expected a number from 0 to 10",
        "8: brokers[0].names[0]: found 1, expected text (put it in quotes)",
        "8: brokers[0].names[2]: found 2, expected text (put it in quotes)",
        '9: brokers[1].name: found "a" again (the first is in line 5), expected a name of its own',
        '11: brokers[1].nmaes: unknown key, did you mean "names"?',
        '12: logs: unknown key, did you mean "log"?',
    ]


def test_nested_too_deeply(errors: Callable[..., list[str]]) -> None:
    assert "nested too deeply" in errors("[" * 5000)[0]


def test_aliases_that_multiply(errors: Callable[..., list[str]]) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "expands to more than" in errors("\n".join(lines))[0]


def test_a_file_that_is_no_config_by_its_length_is_not_parsed(tmp_path: Path) -> None:
    """Ten megabytes would be parsed for minutes."""
    file = tmp_path / "config.yaml"
    file.write_text("# a log, perhaps\n" * 100_000)
    with pytest.raises(ConfigError, match="is longer than 1,000,000 bytes"):
        load_config(file, environ={}, brokers={})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "no.yaml", "no such file or directory"),
        (tmp_path, "is a folder; expected a file"),
    ):
        with pytest.raises(ConfigError, match=reason):
            load_config(path, environ={}, brokers={})
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 3"):
        load_config(bad, environ={}, brokers={})


# -- secrets ---------------------------------------------------------------------------------------------------------

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "text",
    [
        broker(f"api_key: [{SECRET}]"),
        broker(f"api_key: {SECRET}"),  # longer than its validator allows
        broker(f"api_key: {{a: {SECRET}}}"),
        broker(f"api_kye: {SECRET}"),
        broker(f"seats: {SECRET}"),
        broker("rate: ${MY_API_KEY}"),
        broker(f"api_key: *{SECRET}"),
        broker(f"rate: https://bob:{SECRET}@host/"),
        f"database: {{url: 'mysql://bob:{SECRET}@h/d'}}",
        f"database: {{url: [{SECRET}]}}",
        f"database: {{url: 'postgresql://bob:{SECRET}@h/d', prot: 1}}",
        f"database: {{password: {SECRET}}}",
        f"database: {{url: !{SECRET} x}}",
    ],
)
def test_errors_show_no_secret(errors: Callable[..., list[str]], text: str) -> None:
    assert SECRET not in "\n".join(errors(text, {"MY_API_KEY": SECRET}))


def test_repr_shows_no_secret(load: Callable[..., Config]) -> None:
    config = load(
        f"database: {{url: 'postgresql://bob:{SECRET}@h/d'}}\n" + broker("api_key: hunter2\n    rate: 3")
    )
    assert SECRET not in repr(config)
    assert "hunter2" not in repr(config)
    assert "rate=3.0" in repr(config)
    assert setting(config).api_key == "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://bob:p@ss@db/md?x=1", "postgresql://***@db/md?x=1"),
        ("host=db password=abc user=x", "host=db password=*** user=x"),
        ('{"api_key": "abc", "b": 1}', '{"api_key": "***", "b": 1}'),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("https://host/path?token=abc&x=1", "https://host/path?token=***&x=1"),
        ("me@example.org wrote http://host/a@b", "me@example.org wrote http://host/a@b"),
        ("nothing here", "nothing here"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_secret_names() -> None:
    assert all(
        map(is_secret_name, ["api_key", "API-KEY", "token", "rest_token", "db_password", "key", "secret"])
    )
    assert not any(map(is_secret_name, ["keyboard", "tokens_per_s", "url", "monkey", "symbols"]))


@given(st.text())
def test_redact_is_idempotent(text: str) -> None:
    assert redact(redact(text)) == redact(text)


# -- constraints and schema ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("validator", "found"),
    [
        (ge(1), {"minimum": 1}),
        (gt(1), {"exclusiveMinimum": 1}),
        (lt(2), {"exclusiveMaximum": 2}),
        (optional(and_(ge(1), le(2))), {"minimum": 1, "maximum": 2}),
        (in_(["b", "a"]), {"enum": ["a", "b"]}),
        (matches_re("a+"), {"pattern": "^(?:a+)$"}),
        (min_len(2), {"minLength": 2}),
        (max_len(2), {"maxLength": 2}),
        (lambda *_: None, {}),
        (None, {}),
    ],
)
def test_limits_are_read_from_validators(validator: object, found: dict[str, object]) -> None:
    assert limits(validator) == found


@pytest.fixture(scope="module")
def validator() -> jsonschema.protocols.Validator:
    schema = json_schema({**PLUGINS, "mock": Fake, "binance": Needs})
    jsonschema.Draft202012Validator.check_schema(schema)
    json.dumps(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "server: {port: 0, window_ms: 5}",
        "server: {port: '${PORT:-8080}'}",
        "brokers: [{name: fake, rate: 3, inner: {depth: 2}, maybe: null}]",
        "brokers: [{name: x, plugin: needs, url: u, symbols: [EURUSD], types: [tick]}]",
        "brokers: [{name: fake, mode: '${MODE}', enabled: '${ON}'}]",
    ],
)
def test_the_schema_accepts(validator: jsonschema.protocols.Validator, text: str) -> None:
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        "servr: {}",
        "server: {port: 65536}",
        "server: {port: '8080'}",
        "server: {host: 3}",
        "brokers: {}",
        "brokers: [{plugin: fake}]",
        "brokers: [{name: x}]",
        "brokers: [{name: x, plugin: nope}]",
        "brokers: [{name: needs}]",
        "brokers: [{name: fake, url: x}]",
        "brokers: [{name: fake, rate: 11}]",
        "brokers: [{name: fake, names: abc}]",
        "brokers: [{name: fake, types: [tik]}]",
        "brokers: [{name: fake, inner: {dept: 1}}]",
    ],
)
def test_the_schema_refuses(validator: jsonschema.protocols.Validator, text: str) -> None:
    assert not validator.is_valid(yaml.safe_load(text))


def test_the_schema_has_no_secret_default() -> None:
    @attrs.frozen
    class Settings:
        api_key: str = SECRET

    assert SECRET not in json.dumps(json_schema({"x": Settings}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bus: {role: edge}", "found the role edge without a url, expected the address of the bus"),
        ("bus: {url: 'redis://127.0.0.1'}", "found the embedded database"),
        (
            "bus: {url: 'redis://127.0.0.1', ca_file: ca.pem}\ndatabase: {url: 'postgresql:///x'}",
            "found ca_file ca.pem without TLS, expected a url with rediss://",
        ),
        (
            "bus: {url: 'redis://127.0.0.1'}\ndatabase: {url: 'postgresql:///x', store: false}",
            "found database.store false",
        ),
    ],
)
def test_a_bus_that_cannot_be_joined(load: Callable[..., Config], text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    (problem,) = caught.value.problems
    assert ":1: bus: " in problem
    assert message in problem


def test_the_authorities_of_a_bus_lie_beside_the_config(load: Callable[..., Config], tmp_path: Path) -> None:
    text = "bus: {url: 'rediss://127.0.0.1', ca_file: ca.pem}\ndatabase: {url: 'postgresql:///x'}"
    assert load(text).bus.ca_file == tmp_path / "ca.pem"
