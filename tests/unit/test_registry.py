"""Entry points become descriptors; one that cannot is reported by name and the rest load."""

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import click
import pytest

from mdserver import registry
from mdserver.plugin import API_VERSION, BROKER_GROUP, COMMAND_GROUP, BrokerPlugin, CommandPlugin
from mdserver.registry import PluginProblem, command_names, installed_plugins, load_brokers, load_command


@attrs.frozen
class Settings:
    """No settings."""


def factory(_: Any) -> Any:
    raise AssertionError("loading makes no broker")


GOOD = BrokerPlugin("good", "A good one", Settings, factory)
OTHER_SHAPE = type("BrokerPluginOfTheFuture", (), {"api_version": API_VERSION + 1})()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("fake_plugins")
    monkeypatch.setitem(sys.modules, "fake_plugins", module)
    return module


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    points: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints(points).select(group=group))
    return points


def add(
    points: list[EntryPoint], module: ModuleType, name: str, found: object, group: str = BROKER_GROUP
) -> None:
    attribute = f"x{len(points)}"
    setattr(module, attribute, found)
    points.append(EntryPoint(name, f"fake_plugins:{attribute}", group))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            attrs.evolve(GOOD, api_version=API_VERSION + 1),
            f"found API version {API_VERSION + 1}, expected {API_VERSION}",
        ),
        (OTHER_SHAPE, f"found API version {API_VERSION + 1}"),
        (attrs.evolve(GOOD, name="else"), 'found the name "else" in its descriptor, expected "bad"'),
        (object(), "found object at fake_plugins:x1, expected BrokerPlugin"),
        (attrs.evolve(GOOD, name="bad", config=dict), "as config, expected an attrs class"),
        (attrs.evolve(GOOD, name="bad", factory=3), "found 3 as factory"),
        (
            attrs.evolve(GOOD, name="bad", types=("book",)),
            "found the types book, expected some of tick, trade",
        ),
        (attrs.evolve(GOOD, name="bad", types=()), "found the types none"),
        (
            attrs.evolve(GOOD, name="bad", candles_from="trade"),
            "found candles_from trade, expected one of tick",
        ),
    ],
)
def test_a_bad_descriptor(points: list[EntryPoint], module: ModuleType, found: object, message: str) -> None:
    add(points, module, "good", GOOD)
    add(points, module, "bad", found)
    plugins, (problem,) = load_brokers()
    assert plugins == {"good": GOOD}
    assert (problem.name, problem.distribution) == ("bad", "unknown")
    assert message in problem.message
    assert str(problem) == f"plugin bad of unknown: {problem.message}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import does_not_exist_anywhere", "ModuleNotFoundError: No module named 'does_not_exist_anywhere'"),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        ("", "AttributeError"),
    ],
)
def test_an_import_that_fails(
    points: list[EntryPoint],
    module: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    message: str,
) -> None:
    name = f"broken_plugin_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    add(points, module, "good", GOOD)
    points.append(EntryPoint("bad", f"{name}:plugin", BROKER_GROUP))
    plugins, (problem,) = load_brokers()
    assert list(plugins) == ["good"]
    assert problem.message.startswith(f"cannot be imported from {name}:plugin: {message}")


def test_a_config_whose_types_cannot_be_read(points: list[EntryPoint], module: ModuleType) -> None:
    @attrs.frozen
    class Config:
        path: "NotImported" = None  # type: ignore[name-defined]  # noqa: F821

    add(points, module, "good", attrs.evolve(GOOD, config=Config))
    plugins, (problem,) = load_brokers()
    assert plugins == {}
    assert "name 'NotImported' is not defined" in problem.message


def test_two_of_a_name(points: list[EntryPoint], module: ModuleType) -> None:
    add(points, module, "good", GOOD)
    add(points, module, "good", attrs.evolve(GOOD, summary="another"))
    plugins, problems = load_brokers()
    assert plugins == {"good": GOOD}
    assert problems == [
        PluginProblem(
            "good", "unknown", "unknown has a broker plugin of this name too; uninstall one of them"
        )
    ]


def test_commands(points: list[EntryPoint], module: ModuleType) -> None:
    good = CommandPlugin("hello", "Say hello", click.Command("hello"))
    add(points, module, "hello", good, COMMAND_GROUP)
    add(points, module, "bad", CommandPlugin("bad", "", factory), COMMAND_GROUP)  # type: ignore[arg-type]
    assert command_names() == ["bad", "hello"]
    assert load_command("hello") == good
    assert load_command("other") is None
    problem = load_command("bad")
    assert isinstance(problem, PluginProblem)
    assert problem.message == "found function as command, expected click.Command"
    assert [(row.kind, row.name, row.summary, row.problem is None) for row in installed_plugins()] == [
        ("command", "bad", "", False),
        ("command", "hello", "Say hello", True),
    ]


def test_the_installed_ones_load() -> None:
    plugins, problems = load_brokers()
    assert "mock" in plugins
    assert [problem for problem in problems if problem.distribution.startswith("mdserver")] == []


def test_our_own_commands_keep_their_names(
    points: list[EntryPoint], module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = (CommandPlugin("import", text, click.Command("import")) for text in ("ours", "theirs"))
    add(points, module, "import", theirs, COMMAND_GROUP)
    add(points, module, "import", ours, COMMAND_GROUP)
    owners = {f"fake_plugins:x{n}": (name, "1") for n, name in enumerate(("a-stranger", "mdserver"))}
    monkeypatch.setattr(registry, "_distribution", lambda point: owners[point.value])
    assert load_command("import") == ours
    problems = [row.problem for row in installed_plugins() if row.problem is not None]
    assert problems == ["mdserver has a command plugin of this name too; uninstall one of them"]
