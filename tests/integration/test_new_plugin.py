"""`mdserver plugins new`: what it writes is checked and tested as it stands, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mdserver.cli import cli
from mdserver.errors import PluginError
from mdserver.kit.scaffold import KINDS, PluginKind, write_project

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
SLOW_WHERE_POLLED = ("nothing left behind", "silence", "secrets", "garbage", "reconnect", "gaps", "pace")
"""Checks that mostly wait for pauses: more than half of the polled project's time."""


def run(project: Path, *command: str | Path) -> str:
    done = subprocess.run(
        command,
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "CI": "", "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "polled"), [*((kind, False) for kind in KINDS), ("broker", True)])
@pytest.mark.parametrize("name", ["zebra", "blue-whale"])
def test_a_new_project_is_green_at_once(
    tmp_path: Path, kind: PluginKind, polled: bool, name: str, long: bool
) -> None:
    project = tmp_path / "project"
    written = write_project(kind, name, project, polled=polled)
    text = "".join((project / path).read_text() for path in written)
    assert "acme" not in text.lower()
    assert "template" not in text
    run(project, BIN / "ruff", "check", ".")
    if name == "zebra":  # lines about as long as in the templates; of the other the same code would take long
        run(project, BIN / "ruff", "format", "--check", ".")
        run(project, BIN / "mypy")
        left_out = () if long or not polled else SLOW_WHERE_POLLED
        options = [f"--deselect=tests/test_conformance.py::test_conformance[{check}]" for check in left_out]
        out = run(project, sys.executable, "-m", "pytest", "-q", *options)
        count = int(out.strip().splitlines()[-1].split(" passed")[0].split()[-1])
        assert count >= 8, out


def test_a_broker_where_no_kind_is_said(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(cli, ["plugins", "new", "zebra"])
    assert result.exit_code == 0, result.output
    assert "A broker plugin zebra in zebra:" in result.output
    assert 'zebra = "mdserver_zebra:plugin"' in (tmp_path / "zebra/pyproject.toml").read_text()
    assert (tmp_path / "zebra/.gitignore").exists()


def test_a_polled_broker_has_the_files_of_a_broker_and_no_websocket(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(cli, ["plugins", "new", "broker", "zebra", "--polled"])
    assert result.exit_code == 0, result.output
    assert "A broker plugin zebra in zebra:" in result.output
    polled = tmp_path / "zebra"
    assert write_project("broker", "zebra", tmp_path / "other") == sorted(
        path.relative_to(polled) for path in polled.rglob("*") if path.is_file()
    )
    code = "".join(path.read_text().lower() for path in polled.rglob("*.py"))
    assert "open_http" in code
    assert "websocket" not in code


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plugins", "new"], "expected a NAME"),
        (["plugins", "new", "borker", "zebra"], "found the kind 'borker'"),
        (["plugins", "new", "Zebra"], "found the name 'Zebra'"),
        (["plugins", "new", "z" * 31], "at most 30"),
        (["plugins", "new", "zebra", "--into", "."], "exists already"),
        (["plugins", "new", "mock"], "which a broker plugin has that is installed"),
        (["plugins", "new", "history", "zebra", "--polled"], "found --polled with the kind history"),
        (["plugins", "new", "command", "import"], "which a command plugin has that is installed"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("work")
    with pytest.raises(PluginError, match="exists already"):
        write_project("broker", "zebra", tmp_path)
    assert (tmp_path / "mine").read_text() == "work"
