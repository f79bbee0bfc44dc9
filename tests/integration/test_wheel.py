"""What is installed without the clone: the wheel alone brings the server, its commands and its migrations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.conftest import reachable_folder

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_migrates_in_an_empty_environment(tmp_path: Path) -> None:
    """The libraries come from this environment, which would take long to install; of ours only the wheel is there."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT])
    (wheel,) = tmp_path.glob("mdserver-*.whl")
    with zipfile.ZipFile(wheel) as content:
        assert content.read("mdserver/client.js") == (ROOT / "clients/js/mdserver.js").read_bytes()
    run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty"])
    python = tmp_path / "empty/bin/python"
    run([*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel])
    environment = os.environ | {"PYTHONPATH": str(libraries(tmp_path / "libraries"))}
    where = run([python, "-c", "import mdserver; print(mdserver.__file__)"], environment)
    assert Path(where.strip()).is_relative_to(tmp_path / "empty")
    with reachable_folder() as folder:
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({"data_dir": "data"}))
        command = [tmp_path / "empty/bin/mdserver", "run", "migrate", "--json", "--config", config]
        applied = json.loads(run(command, environment))["applied"]
    pages = "from mdserver.web.page.assets import *; print(len([load_asset(n) for n in asset_names()]))"
    assert int(run([python, "-c", pages], environment)) >= 15
    numbers = {path.name.split("_")[0] for path in ROOT.glob("sql/*.sql")}
    assert {name.split("_")[0] for name in applied} == numbers


def libraries(folder: Path) -> Path:
    """Return a folder with all that is installed here but what is ours."""
    folder.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "mdserver" not in path.name and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return folder


def run(command: list[str | Path], environment: dict[str, str] | None = None) -> str:
    """Run away from the clone, which Python would find first."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=120, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
