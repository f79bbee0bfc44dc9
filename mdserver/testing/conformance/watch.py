"""Measures from outside what a plugin leaves behind and for how long it blocks the loop."""

from __future__ import annotations

import os
import resource
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import trio
import trio.testing

from .scorecard import Failed

__all__ = ["MAX_HOLD_S", "SessionWatch", "mark_session", "nothing_left", "until"]

MAX_HOLD_S = 0.05
"""Longest time for which a plugin may block the loop: all other records wait as long."""

_POLL_S = 0.005
_SETTLE_S = 3.0

_in_session: ContextVar[bool] = ContextVar("mdserver_conformance_session", default=False)

_THREAD: int | None = getattr(resource, "RUSAGE_THREAD", None)
"""Only Linux counts the voluntary context switches of each thread."""

_SCHEDSTAT = Path("/proc/thread-self/schedstat")


def mark_session() -> None:
    """Count the current task and all that it starts as the plugin's."""
    _in_session.set(True)


def is_of_session(task: trio.lowlevel.Task) -> bool:
    """Return whether a task belongs to the plugin."""
    return task.context.get(_in_session, False)


class SessionWatch(trio.abc.Instrument):
    """Counts and times the steps of a plugin's tasks; may cancel a scope after a number of steps.

    ``longest_s`` is the length of the longest step and ``longest_task`` its task. Time that the machine gave to other
    processes does not count: the length of a step is the processor time that it used, or, if it gave up the processor
    as a blocking call does, the elapsed time without that in which it could have run but got no processor.
    ``excused_s`` is the part of a step that is not the plugin's.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.longest_s = 0.0
        self.longest_task = ""
        self.excused_s = 0.0
        self._limit: int | None = None
        self._scope: trio.CancelScope | None = None
        self._began: tuple[float, float, int, float] | None = None

    def cancel_after(self, steps: int, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` after this many further steps."""
        self.steps, self._limit, self._scope = 0, steps, scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio."""
        if is_of_session(task):
            self.excused_s = 0.0
            self._began = (time.perf_counter(), time.thread_time(), _times_waited(), _kept_waiting_s())

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio."""
        if self._began is None:
            return
        (wall, processor, waits, kept_waiting_s), self._began = self._began, None
        took_s = time.thread_time() - processor
        if _THREAD is None or _times_waited() != waits:
            kept_waiting_s = (
                _kept_waiting_s() - kept_waiting_s
            )  # first: what comes in between is not taken off
            took_s = time.perf_counter() - wall - kept_waiting_s
        took_s -= self.excused_s
        if took_s > self.longest_s:
            self.longest_s, self.longest_task = took_s, task.name
        self.steps += 1
        if self._limit is not None and self.steps >= self._limit and self._scope is not None:
            self._limit = None
            self._scope.cancel()


def _times_waited() -> int:
    """Return how often this thread has given up the processor to wait."""
    return 0 if _THREAD is None else resource.getrusage(_THREAD).ru_nvcsw


def _kept_waiting_s() -> float:
    """Return for how long this thread could have run but had no processor (Linux's schedstat); 0.0 if nobody knows."""
    try:
        return int(_SCHEDSTAT.read_bytes().split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0


async def until(condition: Callable[[], Any], what: str, within_s: float) -> None:
    """Return once ``condition`` holds; raise Failed with ``what`` was expected after ``within_s``."""
    deadline = trio.current_time() + within_s
    while not condition():
        if trio.current_time() > deadline:
            raise Failed(f"expected within {within_s:g} s: {what}")
        await trio.sleep(_POLL_S)


@asynccontextmanager
async def nothing_left(what: str) -> AsyncIterator[None]:
    """Raise Failed if tasks or sockets exist after the block that did not exist before it."""
    with trio.move_on_after(
        _SETTLE_S
    ):  # a task that a venue is just starting counts as existing before the block
        await trio.testing.wait_all_tasks_blocked(_POLL_S)
    before, tasks_before = _sockets(), set(_all_tasks())
    yield
    deadline = trio.current_time() + _SETTLE_S
    while (tasks := [task.name for task in _all_tasks() if task not in tasks_before]) or _sockets() > before:
        if trio.current_time() > deadline:
            if tasks:
                raise Failed(f"{what}: tasks are still running: {', '.join(sorted(set(tasks)))}")
            raise Failed(f"{what}: {_sockets() - before} sockets are still open")
        await trio.sleep(_POLL_S)


def _all_tasks() -> Iterator[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        yield task
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def _sockets() -> int:
    """Return the number of open sockets of this process."""
    count = 0
    for path in Path("/dev/fd").iterdir():
        try:
            count += stat.S_ISSOCK(os.fstat(int(path.name)).st_mode)
        except OSError:
            continue  # the descriptor of the listing itself
    return count
