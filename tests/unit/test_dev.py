"""``dev.py`` installs into its own environment, whatever pip is set up for."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dev() -> Any:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_plugin_whose_folder_has_gone_is_to_be_uninstalled(
    dev: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "a clone"
    monkeypatch.setattr(dev, "ROOT", root)
    monkeypatch.setattr(dev, "VENV", tmp_path)
    (root / "plugins/here").mkdir(parents=True)
    (root / "plugins/here/pyproject.toml").touch()
    places = {
        "mdserver_here": root / "plugins/here",
        "mdserver_gone": root / "plugins/gone",
        "other": tmp_path / "away",
    }
    for name, folder in places.items():
        info = tmp_path / f"lib/python3.11/site-packages/{name}-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "direct_url.json").write_text(
            json.dumps({"url": folder.as_uri(), "dir_info": {"editable": True}})
        )
    assert dev.gone_plugins() == ["mdserver_gone"]


def test_pip_user_is_no_obstacle(dev: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip refuses to install for the user into a virtual environment."""
    monkeypatch.setattr(dev, "BIN", Path(sys.executable).parent)
    monkeypatch.setenv("PIP_USER", "1")
    wheel = tmp_path / "nothing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        info = "nothing-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    dev.pip_install(["--dry-run", "--no-index", "--no-deps", str(wheel)])
