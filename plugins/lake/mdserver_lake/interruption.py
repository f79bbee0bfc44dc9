"""Ctrl-C: what is in hand is finished, and the command says what it has done; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable

import trio

from mdserver.plugin import CommandContext

from .selection import Report

__all__ = ["interruptible"]

INTERRUPTED = "interrupted"
STOPPING = "stopping after what is in hand; press Ctrl-C again to stop at once"


async def interruptible(context: CommandContext, report: Report, work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work``; after SIGINT or SIGTERM the report is ``interrupted``.

    Once the report has ``begun``, the first signal lets what is in hand be finished: ``work`` begins nothing while the
    report is ``stopped``. Before that, and at the second signal, ``work`` is cancelled.
    """
    async with trio.open_nursery() as nursery:
        if threading.current_thread() is threading.main_thread():  # only there are signals received
            await nursery.start(_watch, context, report, nursery.cancel_scope)
        await work()
        nursery.cancel_scope.cancel()


async def _watch(
    context: CommandContext,
    report: Report,
    everything: trio.CancelScope,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            again, report.interrupted = report.interrupted, True
            report.stopped = report.stopped or INTERRUPTED
            if again or not report.begun:
                everything.cancel()
                return
            context.log.warning(STOPPING)
