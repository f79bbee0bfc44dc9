"""What is installed without the clone: wheels alone bring the server, its commands and migrations, plugins, client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
import yaml

from tests.conftest import reachable_folder

ROOT = Path(__file__).parents[2]

BUILD = """
import os, sys
from hatchling.build import build_wheel
for folder in sys.argv[2:]:
    os.chdir(folder)
    build_wheel(sys.argv[1])
"""
"""What pip does without isolation, all in one process: pip takes two seconds for each."""


@pytest.mark.slow
def test_every_wheel_runs_in_an_empty_environment(tmp_path: Path) -> None:
    """The libraries come from this environment, which would take long to install; of ours only wheels are there."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    folders = [
        path.parent for own in ("plugins/*", "clients/python") for path in ROOT.glob(f"{own}/pyproject.toml")
    ]
    run([sys.executable, "-c", BUILD, tmp_path, ROOT, *folders])
    (wheel,) = tmp_path.glob("mdserver-*.whl")
    others = sorted(set(tmp_path.glob("*.whl")) - {wheel})
    assert len(others) == len(folders)
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
    run([*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", *others])
    found = json.loads(run([tmp_path / "empty/bin/mdserver", "plugins", "--json"], environment))["plugins"]
    assert {plugin["problem"] for plugin in found} == {None}
    names = {f"mdserver-{path.name}" for path in ROOT.glob("plugins/*") if (path / "pyproject.toml").exists()}
    assert {plugin["distribution"] for plugin in found} == names | {"mdserver"}
    client = run([python, "-c", "import mdserver_client; print(mdserver_client.__file__)"], environment)
    assert Path(client.strip()).is_relative_to(tmp_path / "empty")
    extras = metadata(wheel).get_all("Requires-Dist") or []
    assert {one.partition(";")[0].strip() for one in extras if "all" in one.partition(";")[2]} >= names


def metadata(wheel: Path) -> Message:
    """Return what a wheel says of itself."""
    with zipfile.ZipFile(wheel) as content:
        (name,) = [name for name in content.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(content.read(name))


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
