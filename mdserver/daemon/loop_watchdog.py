"""Report whatever blocks the event loop, by name: while a plugin computes or blocks, everything else waits.

A task of the loop records the time twenty times a second, and a thread checks that it does. If it is late, the thread
inspects what the loop's thread is executing: the innermost frame of a plugin's package identifies the plugin, also in
tasks that it started and libraries that it called. A loop that waits for events is not blocked: then the machine or
another process was slow.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from types import FrameType

import structlog
import trio

from ..log import RarelyLogged
from ..metrics import Metrics
from ..plugin import BrokerPlugin
from .parts import Part
from .service_manager import alive_every_s, tell_alive

__all__ = ["WatchdogPart"]

BEAT_S = 0.05
HELD_S = 0.25
"""A loop that was blocked for this long is reported."""

SERVER = "server"
_WAITING = "trio._core._io_"
"""Modules in which trio waits for events."""


class WatchdogPart(Part):
    """Reports which plugin blocks the event loop: in the log, at most once a minute each, and in a metric."""

    name = "watchdog"
    needed = False

    def __init__(
        self, plugins: Mapping[str, BrokerPlugin], metrics: Metrics, log: structlog.stdlib.BoundLogger
    ) -> None:
        modules = {name: getattr(plugin.factory, "__module__", "") or "" for name, plugin in plugins.items()}
        self._packages = {module.partition(".")[0]: name for name, module in modules.items()}
        self._packages.pop("mdserver", None)  # its package replaces plugins that cannot be used
        self._metrics = metrics
        self._log = log
        self._rarely: dict[str, RarelyLogged] = {}
        self._beat_s = 0.0
        self._thread_id = 0
        self._end = threading.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        self._beat_s, self._thread_id = monotonic(), threading.get_ident()
        self._end.clear()
        thread = threading.Thread(target=self._watch, name="loop watchdog", daemon=True)
        thread.start()
        task_status.started()
        told_s, tell_every_s = 0.0, alive_every_s()
        try:
            while True:
                await trio.sleep(BEAT_S)
                self._beat_s = monotonic()
                # Told by the loop itself: a loop that hangs is what systemd shall end.
                if tell_every_s is not None and self._beat_s - told_s >= tell_every_s:
                    told_s = self._beat_s
                    tell_alive()
        finally:
            self._end.set()

    def _watch(self) -> None:
        """Watch the loop until the end, in a thread: a blocked loop cannot watch itself."""
        reported_s = 0.0
        while not self._end.wait(BEAT_S):
            beat_s = self._beat_s
            if monotonic() - beat_s < HELD_S or beat_s == reported_s:
                continue
            frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the one way to see another thread
            if frame is not None and not frame.f_globals.get("__name__", "").startswith(_WAITING):
                reported_s = beat_s
                self._report(frame)

    def _report(self, innermost: FrameType) -> None:
        culprit, frame = self._culprit(innermost)
        where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
        self._metrics.loop_held.labels(culprit).inc()
        rarely = self._rarely.setdefault(culprit, RarelyLogged(self._log))
        if culprit == SERVER:
            rarely.warning(
                "the server blocks the event loop: all brokers and clients wait",
                at=where,
                for_ms=round(HELD_S * 1000),
            )
        else:
            rarely.error(
                "a plugin blocks the event loop: all brokers and clients wait",
                plugin=culprit,
                at=where,
                for_ms=round(HELD_S * 1000),
            )

    def _culprit(self, innermost: FrameType) -> tuple[str, FrameType]:
        """Return the running plugin and its frame, or the server and the innermost frame."""
        frame: FrameType | None = innermost
        while frame is not None:
            package = frame.f_globals.get("__name__", "").partition(".")[0]
            if package in self._packages:
                return self._packages[package], frame
            frame = frame.f_back
        return SERVER, innermost
