"""The checks of a command. Each runs it as a user does: ``mdserver run NAME``, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeAlias

import trio

from ...plugin import COMMAND_GROUP, CommandPlugin
from ...registry import check_descriptor
from .cases import CommandCase
from .scorecard import Failed
from .watch import SessionWatch

__all__ = ["COMMAND_CHECKS", "CommandCheck"]

CommandCheck: TypeAlias = Callable[[CommandCase, SessionWatch], Awaitable[str]]

LIMIT_S = 60.0
"""The first run starts a database of its own."""

INTERNAL = "Traceback (most recent call last)"


async def _run(
    case: CommandCase, *arguments: str, config: Mapping[str, object] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command with an empty database of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = _write_config(Path(folder), case.config if config is None else config)
        environment = dict(os.environ)
        if not any(point.name == case.plugin.name for point in entry_points(group=COMMAND_GROUP)):
            places = [*_lay_out(case.plugin, Path(folder)), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        command = [
            sys.executable,
            "-m",
            "mdserver",
            "--config",
            str(path),
            "run",
            case.plugin.name,
            *arguments,
        ]
        with trio.move_on_after(LIMIT_S):
            done = await trio.run_process(
                command, capture_stdout=True, capture_stderr=True, check=False, env=environment
            )
            return subprocess.CompletedProcess(
                command, done.returncode, done.stdout.decode(), done.stderr.decode()
            )
    raise Failed(f"it did not end within {LIMIT_S:g} s")


def _write_config(folder: Path, config: Mapping[str, object]) -> Path:
    folder.chmod(0o755)  # as root the database runs as somebody else
    path = folder / "config.yaml"
    path.write_text(json.dumps({**config, "data_dir": str(folder / "data")}), encoding="utf-8")
    return path


def _lay_out(plugin: CommandPlugin, folder: Path) -> list[str]:
    """Make a plugin that is not installed look installed; return the folders for ``PYTHONPATH``."""
    for name, module in list(sys.modules.items()):
        attributes = (
            [key for key, value in vars(module).items() if value is plugin] if "." not in name else []
        )
        if attributes and module.__file__ is not None:
            info = folder / "site" / f"{name}-0.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n", encoding="utf-8"
            )
            text = f"[{COMMAND_GROUP}]\n{plugin.name} = {name}:{attributes[0]}\n"
            (info / "entry_points.txt").write_text(text, encoding="utf-8")
            file = Path(module.__file__)
            return [str(folder / "site"), str(file.parents[1] if file.name == "__init__.py" else file.parent)]
    raise Failed(f"{plugin.name} is not installed, and no module at the top has it as an attribute")


async def descriptor(case: CommandCase, watch: SessionWatch) -> str:
    """The server accepts the descriptor."""
    check_descriptor(case.plugin)
    if not case.plugin.summary.strip():
        raise Failed("the descriptor has no summary: `mdserver run --help` shows it")
    return case.plugin.summary


async def help_(case: CommandCase, watch: SessionWatch) -> str:
    """``--help`` describes the command in whole sentences and needs no database."""
    done = await _run(case, "--help")
    if done.returncode != 0 or INTERNAL in done.stderr:
        raise Failed(f"--help ended with {done.returncode}: {done.stderr[-300:]}")
    if "." not in (case.plugin.command.help or ""):
        raise Failed("the command has no docstring with a whole sentence")
    return "0"


async def usage(case: CommandCase, watch: SessionWatch) -> str:
    """An unknown option is wrong usage: exit code 2 and a message."""
    done = await _run(case, "--no-such-option")
    if done.returncode != 2 or "no-such-option" not in done.stderr or INTERNAL in done.stderr:
        raise Failed(f"found exit code {done.returncode}, expected 2 and a message: {done.stderr[-300:]}")
    return "2"


async def result(case: CommandCase, watch: SessionWatch) -> str:
    """With the case's arguments the command prints the expected output and exits with 0."""
    async with case.open_venue():
        done = await _run(case, *case.arguments)
    if done.returncode != 0:
        raise Failed(f"found exit code {done.returncode}, expected 0: {done.stderr[-300:]}")
    if case.output not in done.stdout:
        raise Failed(f"found the output {done.stdout[:200]!r}, expected {case.output!r} in it")
    return done.stdout.strip().partition("\n")[0][:90]


async def bad_config(case: CommandCase, watch: SessionWatch) -> str:
    """A wrong config is reported plainly, with exit code 2, if the command needs a config."""
    done = await _run(case, *case.arguments, config={"nonsense": 1})
    if INTERNAL in done.stderr:
        raise Failed(f"a traceback: {done.stderr[-300:]}")
    if done.returncode not in (0, 2):
        raise Failed(f"found exit code {done.returncode}, expected 2: {done.stderr[-300:]}")
    return f"{done.returncode}: {done.stderr.strip()[-90:]}"


COMMAND_CHECKS: dict[str, CommandCheck] = {
    "descriptor": descriptor,
    "help": help_,
    "usage": usage,
    "result": result,
    "bad config": bad_config,
}
