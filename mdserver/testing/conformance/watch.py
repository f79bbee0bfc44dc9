"""What a plugin leaves behind and how long it holds the loop, seen from outside of it."""

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
"""Longest time for which a plugin may keep the loop: everybody else's records wait that long."""

_POLL_S = 0.005
_SETTLE_S = 3.0

_in_session: ContextVar[bool] = ContextVar("mdserver_conformance_session", default=False)

_THREAD: int | None = getattr(resource, "RUSAGE_THREAD", None)
"""Linux alone counts by thread how often one gave the processor away."""


def mark_session() -> None:
    """Count the current task and all that it starts as the plugin's."""
    _in_session.set(True)


def is_of_session(task: trio.lowlevel.Task) -> bool:
    """Tell whether a task is the plugin's."""
    return task.context.get(_in_session, False)


class SessionWatch(trio.abc.Instrument):
    """Counts the steps of a plugin's tasks, times them, and may cancel a scope after so many.

    ``longest_s``: the longest step, and ``longest_task`` whose it was. What the machine did meanwhile does not count: a
    step is as long as it used the processor, or as long as it took where it gave the processor away, as a blocking
    call does. ``excused_s`` is time of the step that is not the plugin's.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.longest_s = 0.0
        self.longest_task = ""
        self.excused_s = 0.0
        self._limit: int | None = None
        self._scope: trio.CancelScope | None = None
        self._began: tuple[float, float, int] | None = None

    def cancel_after(self, steps: int, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` after so many steps from now on."""
        self.steps, self._limit, self._scope = 0, steps, scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio."""
        if is_of_session(task):
            self.excused_s = 0.0
            self._began = (time.perf_counter(), time.thread_time(), _times_waited())

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio."""
        if self._began is None:
            return
        (wall, processor, waits), self._began = self._began, None
        took_s = time.thread_time() - processor
        if _THREAD is None or _times_waited() != waits:
            took_s = time.perf_counter() - wall
        took_s -= self.excused_s
        if took_s > self.longest_s:
            self.longest_s, self.longest_task = took_s, task.name
        self.steps += 1
        if self._limit is not None and self.steps >= self._limit and self._scope is not None:
            self._limit = None
            self._scope.cancel()


def _times_waited() -> int:
    """Return how often this thread gave the processor away to wait for something."""
    return 0 if _THREAD is None else resource.getrusage(_THREAD).ru_nvcsw


async def until(condition: Callable[[], Any], what: str, within_s: float) -> None:
    """Return once ``condition`` holds; Failed, saying what was expected, if it does not in time."""
    deadline = trio.current_time() + within_s
    while not condition():
        if trio.current_time() > deadline:
            raise Failed(f"expected within {within_s:g} s: {what}")
        await trio.sleep(_POLL_S)


@asynccontextmanager
async def nothing_left(what: str) -> AsyncIterator[None]:
    """Raise Failed if tasks or sockets that were not there before the block live on after it."""
    with trio.move_on_after(
        _SETTLE_S
    ):  # what a venue has just begun to start belongs to what was there before
        await trio.testing.wait_all_tasks_blocked(_POLL_S)
    before, tasks_before = _sockets(), set(_all_tasks())
    yield
    deadline = trio.current_time() + _SETTLE_S
    while (tasks := [task.name for task in _all_tasks() if task not in tasks_before]) or _sockets() > before:
        if trio.current_time() > deadline:
            if tasks:
                raise Failed(f"{what}: tasks live on: {', '.join(sorted(set(tasks)))}")
            raise Failed(f"{what}: {_sockets() - before} sockets stay open")
        await trio.sleep(_POLL_S)


def _all_tasks() -> Iterator[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        yield task
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def _sockets() -> int:
    """Return how many sockets this process has open."""
    count = 0
    for path in Path("/dev/fd").iterdir():
        try:
            count += stat.S_ISSOCK(os.fstat(int(path.name)).st_mode)
        except OSError:
            continue  # that of the listing itself
    return count
