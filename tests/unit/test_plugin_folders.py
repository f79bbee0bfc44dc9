"""Plain modules in a folder as plugins: loaded, listed with their place, or reported with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from mdserver.cli import cli
from mdserver.plugin import BROKER_GROUP, COMMAND_GROUP, HISTORY_GROUP
from mdserver.plugin_folders import folder_points

BROKER = """
import attrs
from mdserver.plugin import BrokerPlugin

@attrs.frozen
class Config:
    pace: int = 1

plugin = BrokerPlugin("{name}", "From a folder", Config, lambda config: None)
"""

COMMAND = """
import click
from mdserver.plugin import CommandPlugin

@click.command("{name}")
@click.pass_obj
def command(context):
    click.echo("hello from " + context.config.data_dir.name)

plugin = CommandPlugin("{name}", "Say hello.", command)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _modules() -> object:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write_config(folder: Path, **settings: object) -> Path:
    path = folder.parent / "config.yaml"
    path.write_text(
        yaml.safe_dump({"data_dir": "my-data", "plugin_folders": ["mine"], "brokers": [], **settings})
    )
    return path


def mdserver(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_a_module_and_a_package_are_brokers(folder: Path) -> None:
    (folder / "folderone.py").write_text(BROKER.format(name="folderone"))
    (folder / "foldertwo").mkdir()
    (folder / "foldertwo/__init__.py").write_text("from .inner import plugin")
    (folder / "foldertwo/inner.py").write_text(BROKER.format(name="foldertwo"))
    (folder / "_helper.py").write_text("raise SystemExit")
    config = write_config(
        folder, brokers=[{"name": "folderone", "pace": 7}, {"name": "x", "plugin": "foldertwo"}]
    )
    result = mdserver("config", "check", config)
    assert result.exit_code == 0, result.output
    listed = json.loads(mdserver("plugins", "--config", config, "--json").output)["plugins"]
    mine = {one["name"]: one for one in listed if one["name"].startswith("folder")}
    assert [mine[name]["distribution"] for name in ("folderone", "foldertwo")] == [
        str(folder / "folderone.py"),
        str(folder / "foldertwo"),
    ]
    assert mine["folderone"]["problem"] is None
    assert str(folder / "foldertwo") in mdserver("plugins", "--config", config).output


def test_settings_of_a_plugin_in_a_folder_are_checked(folder: Path) -> None:
    (folder / "folderthree.py").write_text(BROKER.format(name="folderthree"))
    config = write_config(folder, brokers=[{"name": "folderthree", "pace": "slow"}])
    result = mdserver("config", "check", config, "--json")
    assert result.exit_code == 2
    assert "brokers[0].pace" in json.loads(result.output)["problems"][0]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("plugin = 7", "found int as its plugin, expected BrokerPlugin or HistoryPlugin or CommandPlugin"),
        ("", "found NoneType as its plugin"),
        ("def (", "SyntaxError"),
        (
            BROKER.format(name="folderbad") + "import attrs; plugin = attrs.evolve(plugin, api_version=99)",
            "API version 99",
        ),
        (BROKER.format(name="binance"), "has a broker plugin of this name too; rename this one"),
    ],
)
def test_one_that_cannot_be_used_says_why_and_the_check_fails(folder: Path, code: str, says: str) -> None:
    (folder / "folderbad.py").write_text(code)
    config = write_config(folder, brokers=[{"name": "folderbad"}])
    result = mdserver("plugins", "--config", config)
    assert result.exit_code == 0
    assert says in result.output
    assert str(folder / "folderbad.py") in result.output
    assert mdserver("config", "check", config).exit_code != 0
    done = subprocess.run(
        [sys.executable, "-m", "mdserver", "config", "check", config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "brokers[0]" in done.stderr


def test_a_name_of_another_module_and_a_project(folder: Path) -> None:
    (folder / "json.py").write_text(BROKER.format(name="json"))
    (folder / "project").mkdir()
    (folder / "project/pyproject.toml").write_text("")
    problems = {point.name: point.problem for point in folder_points([folder])}
    assert problems == {
        "json": 'found another module "json", expected a unique name',
        "project": "found a project, expected a module or package: "
        f"install it with pip install -e {folder / 'project'}",
    }


def test_the_kind_of_one_that_cannot_be_imported(folder: Path) -> None:
    for name, group in (
        ("BrokerPlugin", BROKER_GROUP),
        ("HistoryPlugin", HISTORY_GROUP),
        ("CommandPlugin", COMMAND_GROUP),
    ):
        (folder / f"kind{name.lower()}.py").write_text(f"import no_such_module_at_all\nplugin = {name}()")
        assert {point.group for point in folder_points([folder]) if point.name == f"kind{name.lower()}"} == {
            group
        }


def test_a_folder_that_is_not_there(folder: Path) -> None:
    config = write_config(folder, plugin_folders=["nowhere"])
    result = mdserver("config", "check", config, "--json")
    assert result.exit_code == 2
    (problem,) = json.loads(result.output)["problems"]
    assert 'plugin_folders[0]: found "nowhere", expected a folder; there is none' in problem


def test_a_command_from_a_folder_wherever_the_config_is_named(folder: Path) -> None:
    (folder / "foldercommand.py").write_text(COMMAND.format(name="foldercommand"))
    config = write_config(folder)
    assert mdserver("--config", config, "run", "foldercommand").output == "hello from my-data\n"
    assert "Say hello." in mdserver("--config", config, "run", "--help").output


def test_a_config_named_behind_the_command_still_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folders are looked for before that is read; that must settle nothing."""
    (folder / "folderlater.py").write_text(COMMAND.format(name="folderlater"))
    monkeypatch.chdir(folder.parent)
    write_config(folder)
    other = folder.parent / "other.yaml"
    other.write_text(yaml.safe_dump({"data_dir": "other-data"}))
    assert mdserver("run", "folderlater", "--config", other).output == "hello from other-data\n"
