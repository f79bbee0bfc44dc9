"""The tutorials for authors of plugins: the files as they stand there, in a folder of plugins, pass the suite."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs/tutorial"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


def lay_out(page: str, folder: Path) -> dict[str, str]:
    """Write the files of a page into ``my-plugins`` of a folder; later blocks of a file are added to it."""
    files: dict[str, str] = {}
    for name, text in FILE.findall((DOCS / page).read_text(encoding="utf-8")):
        files[name] = files.get(name, "") + text
    for name, text in files.items():
        path = (folder / "my-plugins" / name).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return files


def mdserver(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mdserver", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "MDSERVER_DATA_DIR": str(folder / "data")},
    )


def checks(folder: Path, name: str) -> dict[str, str]:
    done = mdserver(folder, "plugins", "test", name, "--json")
    card = json.loads(done.stdout)
    assert done.returncode == 0, card
    return {row["check"]: row["outcome"] for row in card["checks"]}


def test_a_broker(tmp_path: Path) -> None:
    files = lay_out("a-broker.md", tmp_path)
    assert files["tidewater/__init__.py"].count("\n") < 150
    done = mdserver(tmp_path, "config", "check")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "my-plugins/tidewater") in mdserver(tmp_path, "plugins").stdout
    outcomes = checks(tmp_path, "tidewater")
    assert len(outcomes) == 15
    assert set(outcomes.values()) == {"ok"}


@pytest.mark.parametrize(
    ("sound", "broken", "check"),
    [
        ("self.asked -= {symbol}", "self.asked = self.asked", "refusal"),
        ("float(bid), float(ask)", "round(float(bid), 3), float(ask)", "times and numbers"),
    ],
)
def test_what_the_broker_page_says_to_break_is_found(
    tmp_path: Path, sound: str, broken: str, check: str
) -> None:
    lay_out("a-broker.md", tmp_path)
    path = tmp_path / "my-plugins/tidewater/__init__.py"
    assert sound in path.read_text()
    path.write_text(path.read_text().replace(sound, broken))
    case = tmp_path / "my-plugins/tidewater/conformance.py"
    case.write_text(case.read_text() + "\nTidewaterCase.patience_s = 0.5\n")
    done = mdserver(tmp_path, "plugins", "test", "tidewater", "--json")
    assert done.returncode == 1
    failed = [row["check"] for row in json.loads(done.stdout)["checks"] if row["outcome"] == "failed"]
    assert check in failed


def test_a_history_source(reachable_path: Path) -> None:
    folder = reachable_path
    lay_out("a-history-source.md", folder)
    outcomes = checks(folder, "csvfolder")
    assert set(outcomes.values()) == {"ok", "not applicable"}
    assert [name for name, outcome in outcomes.items() if outcome != "ok"] == ["secrets"]
    (folder / "my-ticks").mkdir()
    lines = (f"{hour:02}:{n:02}:00.250,1.1,1.2\n" for hour in (9, 10) for n in range(60))
    (folder / "my-ticks/EURUSD-2024-02-01.csv").write_text("".join(lines))
    command = ("run", "import", "--source", "csvfolder", "--symbol", "EURUSD")
    done = mdserver(folder, *command, "--from", "2024-02-01", "--to", "2024-02-01", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "120" in done.stdout


def test_a_polled_venue(tmp_path: Path, long: bool) -> None:
    lay_out("../howto/poll-a-venue.md", tmp_path)
    folder = tmp_path / "my-plugins"
    tests = [sys.executable, "-m", "pytest", "-q", "-o", "trio_mode=true", "-p", "no:cacheprovider", "."]
    done = subprocess.run(tests, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    some = "" if long else "if name in ('lifecycle', 'demand')"
    program = (
        "from mdserver.testing.conformance import check_names, run_check\n"
        "from tidepool.conformance import case\n"
        f"for name in [name for name in check_names(case) {some}]:\n"
        "    print(run_check(case, name))\n"
        "type(case).unknown = 'NOSUCH'  # not listed at all\n"
        "print(run_check(case, 'refusal'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert len(rows) == (17 if long else 3), rows
    assert all("outcome='ok'" in row for row in rows), rows
