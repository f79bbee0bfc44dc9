#!/usr/bin/env python3
"""Run mdserver or its tests from a clone: ``python3 dev.py run``, ``python3 dev.py test``.

Needs Python 3.11 or newer and nothing else. Makes a virtual environment in ``.venv`` beside this file, with
the versions that ``uv.lock`` names, through pip and so from whatever package index pip is set up for. Does it
again only when a ``pyproject.toml`` or the lock has changed.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - run by whatever python3 there is, before it meets newer modules
    sys.exit(
        "mdserver needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (" + sys.executable + ")"
    )

import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import time
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
STAMP = VENV / "dev-stamp.json"
CONSTRAINTS = VENV / "constraints.txt"

USAGE = """\
Usage: python3 dev.py COMMAND [ARGUMENTS]

  run      start the server; the arguments are those of `mdserver run`
  test     run all checks and tests; with arguments, only pytest with them
             --quick  checks of what changed, unit and component tests: a minute at most
             --long   the sweeps in full: every kill, every example
  install  only make the virtual environment, with what the tests need"""

OWN = ("plugins/*", "clients/python")
"""Folders with distributions of ours, besides the server itself."""

BUILD = ("hatchling", "editables")
"""What our distributions are installed with from their folders."""

SOURCES = [
    *ROOT.glob("mdserver/**/*.py"),
    *(path for folder in OWN for path in ROOT.glob(f"{folder}/mdserver_*/**/*.py")),
]

# Off: the optional ones (9xx, 124), a list of names to keep (114), and that a function which hands its task_status
# on never calls it itself (128).
FLAKE8_ASYNC_OFF = "ASYNC9,ASYNC114,ASYNC124,ASYNC128"

# What it can find something in: coroutines, trio, handlers that may swallow a cancellation. It is by far the slowest
# check, so the rest is not shown to it.
ASYNC_MARKS = ("async ", "trio", "BaseException", "except:")

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdserver-tests"

CLEAN = CACHE / "flake8-async.json"
"""Hashes of sources in which flake8-async found nothing, in whichever clone; the newest last."""

CLEAN_KEPT = 20_000

CHECKS = (
    ("mypy", ["mypy"]),
    # Says early what cannot be imported; and the workers find all tests compiled, in place of compiling each of them.
    ("collection of the tests", ["pytest", "-q", "--collect-only"]),
    ("ruff check", ["ruff", "check", "."]),
    ("ruff format", ["ruff", "format", "--check", "."]),
)

# Tests wait as long as they compute: two workers to a core. One that has none left takes over tests of another.
# What measures time or fills the machine comes after.
WORKERS = ["-n", str(min(8, 2 * (os.cpu_count() or 1))), "--dist", "worksteal"]
PARTS = (
    ("parallel", "not serial", WORKERS),
    ("serial", "serial", []),
)

QUICK_PARTS = (("quick", "not serial", [*WORKERS, "--hypothesis-profile=quick"]),)
QUICK = [
    "tests/unit",
    "tests/component",
    *(f"plugins/{path.parent.name}" for path in ROOT.glob("plugins/*/tests")),
]


def main() -> int:
    """Carry out one command; return the exit code."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    if command not in ("run", "test", "install"):
        print(f"dev.py: there is no command {command!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    install(development=command in ("test", "install"))
    keep_bytecode()
    if command == "run":
        # Replaces this process, so that signals reach the server itself.
        os.execv(BIN / "mdserver", ["mdserver", "run", *arguments])  # noqa: S606 - our own program
    if command == "test":
        return test(arguments)
    return 0


def keep_bytecode() -> None:
    """Keep compiled modules in ``.venv`` where the environment has none kept beside their sources.

    Nothing else has compiled what is installed, and each server, each worker and each server of a test would again.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(VENV / "bytecode"))


def test(arguments: list[str]) -> int:
    """Run the checks, then pytest also after one failed; return 0 if all passed. The last line counts the tests."""
    quick = arguments == ["--quick"]
    if not quick and arguments not in ([], ["--long"]):
        return subprocess.call([BIN / "python", "-m", "pytest", *arguments], cwd=ROOT)
    failed = run_checks()
    if failed:
        print(f"failed so far: {', '.join(failed)}; the tests follow", flush=True)
    counts: Counter[str] = Counter()
    codes = []
    for name, marked, options in QUICK_PARTS if quick else PARTS:
        chosen = [*QUICK, "-m", f"{marked} and not slow"] if quick else [*arguments, "-m", marked]
        codes.append(run_tests(name, [*options, *chosen], counts))
    if failed:
        print(f"failed besides tests: {', '.join(failed)}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped", flush=True)
    return next((code for code in codes if code), 1 if failed else 0)


def run_tests(name: str, options: Sequence[str], counts: Counter[str]) -> int:
    """Run one part of the tests, add what became of them to ``counts``, and return pytest's exit code."""
    report = VENV / f"tests-{name}.xml"
    report.unlink(missing_ok=True)
    command = [BIN / "python", "-m", "pytest", "-q", "--durations=10", f"--junitxml={report}", *options]
    code = subprocess.call(command, cwd=ROOT)
    try:
        suite = ET.parse(report).getroot()[0].attrib  # noqa: S314 - pytest has just written it
    except (FileNotFoundError, ET.ParseError):
        print(f"pytest ended with code {code} and no report of the {name} tests", flush=True)
        counts["failed"] += 1
        return code or 1
    failed, skipped = int(suite["failures"]) + int(suite["errors"]), int(suite["skipped"])
    counts.update(failed=failed, skipped=skipped, passed=int(suite["tests"]) - failed - skipped)
    return code


def run_checks() -> list[str]:
    """Run all checks, as many at once as there are cores; print what failed ones say; return their names."""

    def run(check: tuple[str, list[str]]) -> tuple[str, float, subprocess.CompletedProcess[str]]:
        name, command = check
        began = time.monotonic()
        result = subprocess.run(
            [BIN / command[0], *command[1:]], cwd=ROOT, check=False, capture_output=True, text=True
        )
        return name, time.monotonic() - began, result

    failed = []
    hashes = {str(path): source_hash(path) for path in SOURCES if may_be_async(path)}
    clean = frozenset(read_clean())
    changed = sorted(path for path, digest in hashes.items() if digest not in clean)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, seconds, result in pool.map(run, (*flake8_async(changed), *CHECKS)):
            print(f"{'ok    ' if result.returncode == 0 else 'FAILED'} {name} ({seconds:.0f} s)", flush=True)
            if result.returncode != 0:
                failed.append(name)
                print(result.stdout + result.stderr, flush=True)
    if not any(name.startswith("flake8-async") for name in failed):
        write_clean(hashes.values())
    return failed


def flake8_async(sources: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the checks that run flake8-async over ``sources``: two, to run side by side, or none."""
    command = ["flake8-async", "--disable", FLAKE8_ASYNC_OFF]
    parts = [part for part in (sources[::2], sources[1::2]) if part]
    return [
        (f"flake8-async of {len(part)} files, {number}/{len(parts)}", [*command, *part])
        for number, part in enumerate(parts, 1)
    ]


def may_be_async(path: Path) -> bool:
    """Tell whether flake8-async could find anything in a source."""
    text = path.read_text(encoding="utf-8")
    return any(mark in text for mark in ASYNC_MARKS)


def source_hash(path: Path) -> str:
    """Return a hash over a source and over what else decides what flake8-async finds in it."""
    return hashlib.sha256(
        f"{flake8_async_version()}\0{FLAKE8_ASYNC_OFF}\0".encode() + path.read_bytes()
    ).hexdigest()


@functools.cache
def flake8_async_version() -> str:
    """Return the versions of Python, of flake8-async and of what it reads sources with."""
    locked = [line for line in locked_versions() if line.startswith(("flake8-async==", "libcst=="))]
    return "\0".join([sys.version, *locked])


def read_clean() -> list[str]:
    """Return the hashes of sources in which flake8-async found nothing."""
    try:
        return list(json.loads(CLEAN.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return []


def write_clean(hashes: Iterable[str]) -> None:
    """Add hashes of sources in which flake8-async found nothing."""
    kept = list(dict.fromkeys([*reversed(list(hashes)), *reversed(read_clean())]))[:CLEAN_KEPT]
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = CLEAN.with_name(f"{CLEAN.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(kept[::-1]), encoding="utf-8")
    unfinished.replace(CLEAN)


# -- the virtual environment -----------------------------------------------------------------------------------------


def install(*, development: bool) -> None:
    """Make ``.venv`` fit this clone: the server and the plugins in it, and what the tests need if asked."""
    wanted = fingerprint()
    stamp = read_stamp()
    kind = "test" if development else "run"
    if stamp.get(kind) == wanted:
        return
    began = time.monotonic()
    make_venv()
    print(f"Installing what is needed to {kind} into {VENV} (once; up to a minute) …", flush=True)
    CONSTRAINTS.write_text("\n".join(locked_versions()) + "\n", encoding="utf-8")
    editable = [argument for folder in (ROOT, *own_folders()) for argument in ("-e", str(folder))]
    more = [requirement for requirement in development_requirements() if development]
    # Thousands of the modules are never imported: those that are get compiled then.
    options = ["-c", str(CONSTRAINTS), "--no-compile"]
    # Once for all of ours, in place of once in an environment of its own for each.
    pip_install([*options, *BUILD])
    pip_install([*options, "--no-build-isolation", *editable, *more])
    for name in gone_plugins():
        print(f"{name} is uninstalled: its folder has gone.", flush=True)
        subprocess.run([BIN / "python", "-m", "pip", "uninstall", "-q", "-y", name], check=True, cwd=ROOT)
    # What the tests need includes what the server needs.
    kept = {key: value for key, value in stamp.items() if value == wanted}
    STAMP.write_text(json.dumps({**kept, kind: wanted, "run": wanted}), encoding="utf-8")
    print(f"Installed in {time.monotonic() - began:.0f} s.", flush=True)


def own_folders() -> list[Path]:
    """Return the folders with distributions of ours, besides the server itself."""
    return sorted(path.parent for own in OWN for path in ROOT.glob(f"{own}/pyproject.toml"))


def gone_plugins() -> list[str]:
    """Return what is installed from a folder in ``plugins`` that is not there any more."""
    names = []
    for path in VENV.glob("lib/python*/site-packages/*.dist-info/direct_url.json"):
        url = json.loads(path.read_text(encoding="utf-8")).get("url", "")
        folder = Path(unquote(url.removeprefix("file://")))
        if folder.parent == ROOT / "plugins" and not (folder / "pyproject.toml").exists():
            names.append(path.parent.name.partition("-")[0])
    return sorted(names)


def make_venv() -> None:
    """Make the virtual environment unless there is one of this Python; say what is missing if it cannot be."""
    if usable_venv():
        return
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(
            f"dev.py: this Python ({sys.executable}) cannot make virtual environments.\n"
            f"On Debian and Ubuntu: apt install python3-venv (or python{version}-venv)"
        )
    print(f"Making a virtual environment in {VENV} …", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    result = subprocess.run(
        [sys.executable, "-m", "venv", VENV],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if result.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit(f"dev.py: no virtual environment could be made:\n{result.stdout}{result.stderr}")


def usable_venv() -> bool:
    """Say whether ``.venv`` is there, whole, and of the Python that runs this."""
    if not (BIN / "pip").exists():
        return False
    code = "import sys; print(sys.version_info[:2])"
    found = subprocess.run([BIN / "python", "-c", code], check=False, capture_output=True, text=True)
    return found.returncode == 0 and found.stdout.strip() == str(sys.version_info[:2])


def pip_install(arguments: list[str]) -> None:
    """Run pip, showing what it is at on a terminal; on failure print all that it said and exit 1."""
    command: list[str | Path] = [
        BIN / "python",
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        *arguments,
    ]
    said: list[str] = []
    width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else 0
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PIP_USER": "0"},  # pip refuses to install for the user into a virtual environment
    ) as pip:
        assert pip.stdout is not None  # noqa: S101 - asked for above
        for line in pip.stdout:
            said.append(line)
            if width and line.split(maxsplit=1)[:1] in (
                ["Collecting"],
                ["Downloading"],
                ["Installing"],
                ["Building"],
            ):
                print(f"\r\x1b[K  {line.strip()}"[:width], end="", flush=True)
    if width:
        print("\r\x1b[K", end="", flush=True)
    if pip.returncode != 0:
        print("".join(said))
        sys.exit("dev.py: pip could not install what is needed; what it said is above")


def locked_versions() -> list[str]:
    """Return the lock's versions as pip constraints; where they differ by Python or platform, with the marker."""
    constraints = []
    for package in read_toml(ROOT / "uv.lock")["package"]:
        if "registry" not in package["source"]:
            continue  # our own
        markers = package.get("resolution-markers", [])
        condition = " or ".join(f"({marker})" for marker in markers)
        constraints.append(
            f"{package['name']}=={package['version']}" + (f" ; {condition}" if condition else "")
        )
    return constraints


def development_requirements() -> list[str]:
    """Return the ``dev`` dependency group without our own distributions, which are installed from here."""
    own = {
        package["name"]
        for package in read_toml(ROOT / "uv.lock")["package"]
        if "registry" not in package["source"]
    }
    return [
        entry for entry in read_toml(ROOT / "pyproject.toml")["dependency-groups"]["dev"] if entry not in own
    ]


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def fingerprint() -> str:
    """Return a hash over all that decides what is installed."""
    digest = hashlib.sha256(f"{sys.version}\0{ROOT}\0".encode())
    own = [folder / "pyproject.toml" for folder in own_folders()]
    for path in [ROOT / "uv.lock", ROOT / "pyproject.toml", *own]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_stamp() -> dict[str, str]:
    """Return what was installed last time: kind -> fingerprint."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and usable_venv() else {}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
