"""``mdserver run migrate`` on a database of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def config_file() -> Iterator[Path]:
    # not tmp_path: as root, the database's account cannot enter it
    with tempfile.TemporaryDirectory(prefix="mdserver-test-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        path = folder / "config.yaml"
        path.write_text("data_dir: data\n")
        yield path


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mdserver", "run", "migrate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_applies_once_and_says_so(config_file: Path) -> None:
    first = run("--config", config_file)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("applied 0001_")
    again = run("--config", config_file, "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, {"applied": []})
    assert run("--config", config_file).stdout == "nothing to apply: the tables are up to date\n"
