"""The server's own push into the data lake: the command, in a process of its own, every so many hours.

A process of its own: what it computes takes nothing from the loop that streams, and its memory is given back.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import trio

from ..config import LakeConfig
from ..metrics import Metrics
from ..redact import redact
from .parts import Part

__all__ = ["LakePushPart", "give_way"]

FIRST_AFTER_S = 60.0
"""The start has other work first."""

AGAIN_AFTER_S = 900.0
"""After a push that failed."""

END_S = 2.0
"""How long a push that is told to stop may take before it is killed; what it has pushed stays."""

NICE = 10
"""The priority of the push where the system knows no lower one: a busy core gives it a tenth of its time."""

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""The libraries compute in the push's own two threads, not in others besides."""

_SHOWN = 500  # characters of what it wrote last

_log = structlog.get_logger("mdserver")


class LakePushPart(Part):
    """Pushes closed days into the lake as often as the config says. A failure is logged, counted and tried again."""

    name = "lake"
    needed = False
    stop_s = END_S + 1.0
    pauses_s = (60.0, 3600.0)

    def __init__(
        self,
        settings: LakeConfig,
        config_file: Path | None,
        data_dir: Path,
        metrics: Metrics,
        *,
        command: Sequence[str] = (sys.executable, "-m", "mdserver"),
        first_after_s: float = FIRST_AFTER_S,
    ) -> None:
        self._settings = settings
        self._config_file = config_file
        self._data_dir = data_dir
        self._metrics = metrics
        self._command = command
        self._first_after_s = first_after_s

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        task_status.started()
        await trio.sleep(self._first_after_s)
        while True:
            done = await self._push()
            every_s = self._settings.push_every_h * 3600
            await trio.sleep(every_s if done else min(AGAIN_AFTER_S, every_s))

    async def _push(self) -> bool:
        """Run the command; return whether it did all that it should."""
        file = [] if self._config_file is None else ["--config", str(self._config_file)]
        ran = await _run(
            [*self._command, "run", "--data-dir", str(self._data_dir), "lake", "push", "--json", *file]
        )
        report = _report(ran)
        if ran.returncode == 0:
            _log.info(
                "closed days were pushed into the data lake",
                days=report.get("done"),
                records=report.get("rows"),
                bytes=report.get("size_bytes"),
                seconds=report.get("seconds"),
            )
            return True
        failed = report.get("failed") or []
        why = report.get("stopped") or (failed[0]["why"] if failed else ran.stderr.decode(errors="replace"))
        self._metrics.housekeeping_failures.labels("lake").inc()
        _log.warning(
            "the push into the data lake failed: tried again later",
            exit_code=ran.returncode,
            days=report.get("done"),
            failed=len(failed),
            error=redact(str(why).strip()[-_SHOWN:]),
        )
        return False


async def _run(command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end at a low priority, so that it takes only what streaming leaves of the cores."""
    ran: subprocess.CompletedProcess[bytes] | None = None

    async def run(task_status: trio.TaskStatus[trio.Process]) -> None:
        nonlocal ran
        ran = await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            deliver_cancel=_end,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **_ONE_THREAD},
            task_status=task_status,
        )

    async with trio.open_nursery() as nursery:
        process = await nursery.start(run)
        with suppress(ProcessLookupError):  # it has ended already
            give_way(process.pid)
    assert ran is not None  # noqa: S101 - the nursery has waited for it
    return ran


def give_way(pid: int) -> None:
    """Give a process, and the threads that it starts, only what others leave of the cores. Raises ProcessLookupError.

    Linux takes the core from a process of this kind as soon as another wants it; from one of a low priority only some
    3 ms later, which streams would wait.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.setpriority(os.PRIO_PROCESS, pid, NICE)


def _report(ran: subprocess.CompletedProcess[bytes]) -> Mapping[str, Any]:
    try:
        found = json.loads(ran.stdout)
    except ValueError:  # it ended before it could print one: the caller shows what it wrote to standard error
        return {}
    return found if isinstance(found, dict) else {}


async def _end(process: trio.Process) -> None:
    """Interrupt the push, then kill it; trio calls this shielded, so the wait has its bound here."""
    process.send_signal(signal.SIGINT)
    with trio.move_on_after(END_S):
        await process.wait()
    process.kill()
