"""The section ``history`` of the config."""

from pathlib import Path

import attrs
import pytest

from mdserver.config import Config, json_schema, load_config
from mdserver.errors import ConfigError


@attrs.frozen
class Settings:
    url: str = "https://example.org/"


def load(folder: Path, text: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(text)
    classes = {"dukascopy": Settings}
    return load_config(path, environ={}, brokers={"mock": Settings}, history=classes)


def test_without_the_section_it_is_dukascopy(tmp_path: Path) -> None:
    for config in (
        load(tmp_path, "brokers: []"),
        load_config(None, environ={}, brokers={}, history={"dukascopy": Settings}),
    ):
        (entry,) = config.history
        assert (entry.name, entry.plugin, entry.settings) == ("dukascopy", "dukascopy", Settings())
    assert load_config(None, environ={}, brokers={}, history={}).history == ()


def test_a_source_has_a_name_and_the_keys_of_its_plugin(tmp_path: Path) -> None:
    (entry,) = load(tmp_path, "history: [{name: mirror, plugin: dukascopy, url: 'http://h/'}]").history
    assert (entry.name, entry.settings) == ("mirror", Settings("http://h/"))
    assert load(tmp_path, "history: []").history == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("history: [{name: x}]", 'there is no history plugin "x"'),
        ("history: [{name: dukascopy, urll: x}]", "unknown key"),
        ("history: {name: dukascopy}", "expected a list of sources"),
        (
            "brokers: [{name: m, plugin: mock}]\nhistory: [{name: m, plugin: dukascopy}]",
            "which a broker has",
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(tmp_path, text)


def test_the_schema_has_it() -> None:
    schema = json_schema({"mock": Settings}, {"dukascopy": Settings})
    assert schema["properties"]["history"]["items"]["properties"]["plugin"]["enum"] == ["dukascopy"]
