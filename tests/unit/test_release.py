"""A release changes every version number, the changelog, and tags, in one step; or nothing at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = (
    "pyproject.toml",
    "plugins/*/pyproject.toml",
    "clients/python/pyproject.toml",
    "clients/js/package.json",
)
PYPROJECTS = COPIED[:3]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that a release changes, in a repository of their own."""
    for pattern in (*COPIED, "uv.lock", "CHANGELOG.md", ".ci/release.py"):
        for path in ROOT.glob(pattern):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "first"]):
        assert git(tmp_path, *command).returncode == 0
    return tmp_path


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=folder, env=SOMEBODY, capture_output=True, text=True)


SOMEBODY = os.environ | {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Somebody"), ("EMAIL", "somebody@example.org"))
}


def release(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, folder / ".ci/release.py", *arguments]
    return subprocess.run(command, env=SOMEBODY, capture_output=True, text=True)


def versions(folder: Path) -> set[str]:
    """Return the versions of all that is released, the lock's included."""
    projects = [tomllib.loads(path.read_text()) for pattern in PYPROJECTS for path in folder.glob(pattern)]
    found = {one["project"]["version"] for one in projects}
    found.add(json.loads((folder / "clients/js/package.json").read_text())["version"])
    locked = tomllib.loads((folder / "uv.lock").read_text())["package"]
    return found | {one["version"] for one in locked if "editable" in one["source"]}


def test_one_step(clone: Path) -> None:
    done = release(clone, "99.1.0rc1")
    assert done.returncode == 0, done.stderr
    assert versions(clone) == {"99.1.0rc1"}
    assert git(clone, "status", "--porcelain").stdout == ""
    assert git(clone, "describe").stdout == "v99.1.0rc1\n"
    text = (clone / "CHANGELOG.md").read_text()
    assert text.index("## [Unreleased]") < text.index("## [99.1.0rc1] - 20")
    again = release(clone, "99.1.0")
    assert again.returncode == 1
    assert "nothing under [Unreleased]" in again.stderr


@pytest.mark.parametrize(
    ("version", "why"), [("0.0.9", "expected a version after"), ("next", "expected a version such as")]
)
def test_a_version_that_cannot_be(clone: Path, version: str, why: str) -> None:
    done = release(clone, version)
    assert (done.returncode, why in done.stderr) == (1, True)
    assert git(clone, "status", "--porcelain").stdout == ""


def test_what_is_not_committed_is_not_released(clone: Path) -> None:
    (clone / "CHANGELOG.md").open("a").close()
    (clone / "new.txt").write_text("new")
    done = release(clone, "99.0.0")
    assert (done.returncode, "new.txt" in done.stderr) == (1, True)
    assert git(clone, "tag").stdout == ""
