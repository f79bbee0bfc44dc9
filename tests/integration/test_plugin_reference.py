"""The reference of the plugin API has each public name, with an example, and its examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest

import mdserver.net
import mdserver.plugin
import mdserver.testing
from mdserver.model import Feed, Instrument, OrderBook, Tick, TickColumns, Trade
from mdserver.plugin import BrokerHost, BrokerPlugin, CommandPlugin, HistoryInstrument, HistoryPlugin, RawHour
from mdserver.testing import FakeHost

PAGE = (Path(__file__).parents[2] / "docs/reference/plugin-api.md").read_text(encoding="utf-8")
MODULES = (mdserver.plugin, mdserver.testing, mdserver.net)
NAMES = [(module.__name__, name) for module in MODULES for name in module.__all__]


def section(module: str, name: str) -> str:
    """Return what the page has below the heading of a name, within the part about its module."""
    part = PAGE.partition(f"\n## `{module}`\n")[2].partition("\n## ")[0]
    match = re.search(rf"^### `{name}`[^\n]*\n(.*?)(?=^### |\Z)", part, re.DOTALL | re.MULTILINE)
    assert match is not None, f"no heading for {name} in the part about {module}"
    return match[1]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_each_public_name_has_its_heading_and_an_example(module: str, name: str) -> None:
    text = section(module, name)
    assert "<!-- tested -->\n```python\n" in text
    assert text.strip()[0] != "<", "says nothing before the example"


def test_no_heading_is_left_over() -> None:
    headings = re.findall(r"^### `(\w+)`", PAGE, re.MULTILINE)
    assert sorted(headings) == sorted(name for _, name in NAMES)


@pytest.mark.parametrize("cls", [BrokerPlugin, HistoryPlugin, CommandPlugin, HistoryInstrument, RawHour])
def test_each_field_of_a_descriptor_is_named(cls: type[Any]) -> None:
    text = section("mdserver.plugin", cls.__name__)
    assert [f.name for f in attrs.fields(cls) if f"`{f.name}" not in text] == []


@pytest.mark.parametrize("cls", [Feed, Tick, Trade, OrderBook, Instrument, TickColumns])
def test_each_field_of_a_record_is_named(cls: type[Any]) -> None:
    (row,) = re.findall(rf"^\| `{cls.__name__}` \| (.*)", PAGE, re.MULTILINE)
    fields = getattr(cls, "__struct_fields__", None) or getattr(cls, "_fields", ())
    assert [name for name in fields if not re.search(rf"`{name}[`=]", row)] == []


def public(found: object) -> set[str]:
    return {name for name in dir(found) if not name.startswith("_")}


def test_each_call_of_the_host_is_named() -> None:
    text = section("mdserver.plugin", "BrokerHost")
    assert {name for name in public(BrokerHost) if f"`{name}" not in text} == set()


def test_all_that_is_public_of_the_fake_host_is_named() -> None:
    text = section("mdserver.testing", "FakeHost")
    own = public(FakeHost()) - public(BrokerHost)
    assert {name for name in own if f"`{name}" not in text} == set()


def test_the_examples_run() -> None:
    names: dict[str, Any] = {"__name__": "plugin_api"}
    blocks = re.findall(r"<!-- tested -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    for number, block in enumerate(blocks):
        exec(compile(block, f"plugin-api.md, example {number}", "exec"), names)  # noqa: S102 - the page's own code
