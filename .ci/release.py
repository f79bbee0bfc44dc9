#!/usr/bin/env python3
# ruff: noqa: T201, S603, S607 - a program for the terminal, which runs git
"""Release a version in one step: every version number, the changelog, one commit, one tag. Nothing is pushed.

Usage: python3 .ci/release.py 0.2.0 [--dry-run]
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNRELEASED = "## [Unreleased]\n"
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:(a|b|rc)(\d+))?")
STAGES = {"a": 0, "b": 1, "rc": 2, None: 3}


def main() -> int:
    """Release what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("version", help="such as 0.2.0, or 0.2.0rc1")
    parser.add_argument("--dry-run", action="store_true", help="only print which files would change")
    options = parser.parse_args()
    try:
        changes = changed_files(options.version)
        if options.dry_run:
            print("\n".join(str(path.relative_to(ROOT)) for path in changes))
            return 0
        check_tree(options.version)
    except ValueError as error:
        print(f"release.py: {error}", file=sys.stderr)
        return 1
    for path, text in changes.items():
        path.write_text(text, encoding="utf-8")
    name = f"v{options.version}"
    git("add", *(str(path) for path in changes))
    git("commit", "--quiet", "--message", f"Release {options.version}")
    git("tag", "--annotate", "--message", f"mdserver {options.version}", name)
    print(f"committed and tagged {name}; publish it with: git push origin HEAD {name}")
    return 0


def changed_files(new: str) -> dict[Path, str]:
    """Return the new text of each file. Raises ValueError where something is not as a release needs it."""
    server = ROOT / "pyproject.toml"
    found = re.search(r'(?m)^version = "(.+)"$', server.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{server} has no version")
    old = found[1]
    if order(new) < order(old) or (new == old and f"## [{new}]" in read("CHANGELOG.md")):
        raise ValueError(f"found {new}, expected a version after {old}")
    changes = {}
    for path in (
        server,
        *sorted(ROOT.glob("plugins/*/pyproject.toml")),
        ROOT / "clients/python/pyproject.toml",
    ):
        text = path.read_text(encoding="utf-8")
        changes[path] = replaced(text, rf'(?m)^version = "{re.escape(old)}"$', f'version = "{new}"', path)
    package = ROOT / "clients/js/package.json"
    text = package.read_text(encoding="utf-8")
    changes[package] = replaced(text, rf'"version": "{re.escape(old)}"', f'"version": "{new}"', package)
    changes[ROOT / "uv.lock"] = re.sub(
        rf'(name = "mdserver[\w-]*"\nversion = )"{re.escape(old)}"', rf'\g<1>"{new}"', read("uv.lock")
    )
    changes[ROOT / "CHANGELOG.md"] = changelog(read("CHANGELOG.md"), new)
    return changes


def changelog(text: str, new: str) -> str:
    """Return the changelog with what is unreleased under the new version."""
    before, heading, after = text.partition(UNRELEASED)
    notes = after.partition("\n## [")[0].strip()
    if not heading or not notes:
        raise ValueError("CHANGELOG.md has nothing under [Unreleased]: a release says what has changed")
    today = datetime.datetime.now(datetime.UTC).date()
    return f"{before}{UNRELEASED}\n## [{new}] - {today}\n{after}"


def replaced(text: str, pattern: str, new: str, path: Path) -> str:
    """Return the text with one replacement; raise ValueError unless there is just one place for it."""
    text, count = re.subn(pattern, new, text)
    if count != 1:
        raise ValueError(f"{path}: found {count} places for the version, expected one ({pattern})")
    return text


def order(version: str) -> tuple[int, ...]:
    """Return what versions are compared by."""
    match = VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"found {version}, expected a version such as 0.2.0 or 0.2.0rc1")
    return (*(int(match[i]) for i in (1, 2, 3)), STAGES[match[4]], int(match[5] or 0))


def check_tree(new: str) -> None:
    """Raise ValueError if there are changes that a release would take along, or if the tag exists."""
    if changes := git("status", "--porcelain"):
        raise ValueError(f"there are changes that are not committed:\n{changes}")
    if git("tag", "--list", f"v{new}"):
        raise ValueError(f"the tag v{new} exists")


def read(name: str) -> str:
    """Return the text of a file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def git(*arguments: str) -> str:
    """Run git in the project; return what it prints."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.rstrip()


if __name__ == "__main__":
    sys.exit(main())
