"""The reference has a place for each setting and command, and its examples are true."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import attrs
import click
import jsonschema
import pytest
import yaml

from mdserver.cli import cli
from mdserver.config import BrokerEntry, Config, HistoryEntry, json_schema, load_config
from mdserver.config.constraints import limits
from mdserver.registry import load_brokers

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
COMMAND_LINE = (ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8")

OWN = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["sources"]
"""Our distributions; others may have been dropped into ``plugins``."""


def rows(text: str) -> dict[str, list[str]]:
    """Return the table rows whose first cell is code: its name -> the other cells."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"\| `([^`]+)` \|(.*)\|$", line):
            found[match[1]] = [cell.strip() for cell in match[2].split(" | ")]
    return found


def settings() -> Iterator[tuple[str, "attrs.Attribute[object]"]]:
    for section in attrs.fields(attrs.resolve_types(Config)):
        if isinstance(section.type, type) and attrs.has(section.type):
            for field in attrs.fields(attrs.resolve_types(section.type)):
                yield f"{section.name}.{field.name}", field


@pytest.mark.parametrize(
    ("key", "field"), list(settings()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_setting_has_its_row_with_its_default(key: str, field: "attrs.Attribute[object]") -> None:
    default, meaning = rows(CONFIGURATION)[key]
    shown = re.match("`(.*?)`", default)
    assert shown is not None
    expected = field.default
    if isinstance(expected, attrs.Factory):  # type: ignore[arg-type]  # a section of its own, all keys by default
        expected = {}
    assert yaml.safe_load(shown[1]) == (list(expected) if isinstance(expected, tuple) else expected)
    for limit in limits(field.validator).values():
        assert str(limit) in meaning


def test_no_row_is_left_over() -> None:
    known = {key for key, _ in settings()} | {f"brokers[].{f.name}" for f in attrs.fields(BrokerEntry)}
    known |= {f"history[].{f.name}" for f in attrs.fields(HistoryEntry)}
    assert {key for key in rows(CONFIGURATION) if "." in key} <= known


def test_each_section_and_broker_key_is_there() -> None:
    for section in attrs.fields(Config):
        assert f"\n## `{section.name}`\n" in CONFIGURATION
    for key, cls in (("brokers", BrokerEntry), ("history", HistoryEntry)):
        for field in attrs.fields(cls):
            assert field.name == "settings" or f"{key}[].{field.name}" in rows(CONFIGURATION)


def test_each_setting_of_a_plugin_of_ours_is_there() -> None:
    for name, plugin in load_brokers()[0].items():
        heading, _, section = CONFIGURATION.partition(f"\n### {name}\n")
        if not section:
            assert f"mdserver-{name}" not in OWN, f"no section about {name} after {heading[-40:]!r}"
            continue
        documented = rows(section.partition("\n### ")[0])
        assert set(documented) == {field.name for field in attrs.fields(plugin.config)}


def commands(group: click.Group, prefix: str = "mdserver") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"{prefix} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")


@pytest.mark.parametrize(
    ("name", "command"), list(commands(cli)), ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_command_has_its_heading_and_options(name: str, command: click.Command) -> None:
    _, heading, text = COMMAND_LINE.partition(f"\n## `{name}`\n")
    assert heading, f"no heading for {name}"
    text = text.partition("\n## ")[0]
    for parameter in command.params:
        for option in parameter.opts if isinstance(parameter, click.Option) else []:
            assert option in text or option in ("--config", "--help"), f"{name} {option}"
    assert command.help


def test_the_config_at_the_top_is_good() -> None:
    example = ROOT / "config.yaml"
    classes = {name: plugin.config for name, plugin in load_brokers()[0].items()}
    assert load_config(example, environ={}, brokers=classes).brokers[0].name == "mock"
    validator = jsonschema.Draft202012Validator(json_schema(classes))
    assert [error.message for error in validator.iter_errors(yaml.safe_load(example.read_text()))] == []
    assert json.dumps(json_schema(classes))
