"""The parts of the daemon. They are started from the database to the brokers, and stopped in the opposite order.

Each part runs shielded from the daemon's cancellation, so that only :class:`Walk` stops it, in order and with a
deadline. So records are still stored after the brokers have ended, and the database is closed after its last writer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import attrs
import structlog
import trio

from ..backoff import Backoff
from ..config import Config
from ..errors import leaves
from ..metrics import Metrics

__all__ = ["Part", "Walk"]

STABLE_S = 60.0
"""A part that has run this long before it fails is started again after the shortest pause."""


class Part:
    """One part of the daemon.

    ``needed``: nothing can be streamed without the part, so its failure stops the server in order. The work of other
    parts can be done later: their failure is logged and counted, and they are started again after ``pauses_s`` (first
    and longest pause). ``stop_s`` bounds :meth:`stop`, and separately the end of the cancelled :meth:`run`.
    ``reconfigures``: the settings that the part can change while it runs, as dotted paths or names of whole sections.
    """

    name: ClassVar[str]
    needed: ClassVar[bool] = True
    stop_s: ClassVar[float] = 1.0
    pauses_s: ClassVar[tuple[float, float]] = (1.0, 60.0)
    reconfigures: ClassVar[frozenset[str]] = frozenset()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run until cancelled. Call ``started`` once other parts can rely on this one; close everything at the end."""
        raise NotImplementedError

    async def reconfigure(self, config: Config, changed: frozenset[str]) -> None:
        """Apply the settings of a new config; ``changed`` names all settings that differ from the present one.

        Called at each reload, even if nothing differs. Raises ConfigError if the settings cannot be used; the part then
        keeps its present ones.
        """

    async def stop(self) -> None:
        """Finish the work before :meth:`run` is cancelled; by default there is nothing to finish."""


@attrs.define(eq=False)
class _Running:
    """A part that is being run. ``settled`` is set once the other parts need not wait for its start any more."""

    part: Part
    scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))
    settled: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)
    has_started: bool = False

    def started(self, value: None = None) -> None:
        """Record that the part has started: this object is its ``task_status``."""
        self.has_started = True
        self.settled.set()


class Walk:
    """Starts the parts, runs them until :meth:`stop`, and stops them. ``parts`` are in the order of the data."""

    def __init__(self, parts: Sequence[Part], *, metrics: Metrics, log: structlog.stdlib.BoundLogger) -> None:
        self.parts = tuple(parts)
        self.stopping = trio.Event()
        self.stuck: list[str] = []
        """Parts that had not ended by their deadline; they may still run when :meth:`run` is about to return."""
        self._metrics = metrics
        self._log = log
        self._running: list[_Running] = []
        self._failures: list[Exception] = []
        self._on_stop: Callable[[], None] = lambda: None

    def stop(self) -> None:
        """Stop the parts in order; during the start no further part is started."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._on_stop()
        for running in self._running:
            running.settled.set()

    async def run(
        self,
        *,
        on_started: Callable[[], None],
        on_stop: Callable[[], None],
        on_stuck: Callable[[], None],
    ) -> None:
        """Run the parts until :meth:`stop` or until one that is needed fails.

        ``on_started`` is called once all have started, ``on_stop`` when the stop begins, ``on_stuck`` if a part does
        not end: it should end the process, because this task waits for that part. Raises the error of a part, or a
        group if there are several.
        """
        self._on_stop = on_stop
        async with trio.open_nursery() as nursery:
            try:
                for part in reversed(self.parts):
                    await self._start(part, nursery)
                    if self.stopping.is_set():
                        break
                else:
                    on_started()
                    await self.stopping.wait()
            finally:
                self.stop()
                with trio.CancelScope(shield=True):  # each step has its deadline
                    for running in self._running:
                        await self._stop(running)
                if self.stuck:
                    on_stuck()
        if len(self._failures) == 1:
            raise self._failures[0]
        if self._failures:
            raise ExceptionGroup("parts of the server failed", self._failures)

    async def _start(self, part: Part, nursery: trio.Nursery) -> None:
        running = _Running(part)
        self._running.insert(0, running)
        nursery.start_soon(self._run_part, running)
        await running.settled.wait()

    async def _run_part(self, running: _Running) -> None:
        try:
            with running.scope:
                if running.part.needed:
                    await self._run_once(running)
                else:
                    await self._run_again_and_again(running)
        finally:
            running.ended.set()
            running.settled.set()

    async def _run_once(self, running: _Running) -> None:
        try:
            await running.part.run(task_status=running)
        except* Exception as group:  # noqa: BLE001 - raised at the end, after all parts have stopped
            if running.has_started:
                self._count(running.part)
                self._log.exception(
                    "a part of the server failed: the server stops", part=running.part.name, exc_info=group
                )
            self._failures.extend(leaf for leaf in leaves(group) if isinstance(leaf, Exception))
            self.stop()

    async def _run_again_and_again(self, running: _Running) -> None:
        backoff = Backoff(*running.part.pauses_s)
        while True:
            began = trio.current_time()
            try:
                await running.part.run(task_status=running)
                return
            except* Exception as group:  # noqa: BLE001 - reported and counted; the work is done later
                self._count(running.part)
                if trio.current_time() - began >= STABLE_S:
                    backoff.reset()
                pause_s = backoff.next_s()
                self._log.exception(
                    "a part of the server failed and is started again; streaming goes on",
                    part=running.part.name,
                    again_in_s=round(pause_s, 1),
                    exc_info=group,
                )
            running.settled.set()  # the others need not wait for it
            await trio.sleep(pause_s)

    def _count(self, part: Part) -> None:
        self._metrics.part_failures.labels(part.name).inc()

    async def _stop(self, running: _Running) -> None:
        part = running.part
        if not running.ended.is_set():
            with trio.move_on_after(part.stop_s):
                try:
                    await part.stop()
                except* Exception as group:  # noqa: BLE001 - the other parts must be stopped too
                    self._log.exception(
                        "a part of the server failed while stopping", part=part.name, exc_info=group
                    )
        running.scope.cancel()
        with trio.move_on_after(part.stop_s) as deadline:
            await running.ended.wait()
        if deadline.cancelled_caught:
            self.stuck.append(part.name)
            self._log.error(
                "a part of the server does not stop in time: the others are stopped without waiting for it",
                part=part.name,
                waited_s=part.stop_s,
            )
