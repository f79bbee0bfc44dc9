"""Look after the tables once an hour: partitions ahead of time, compression, retention.

None of it is urgent, so a failure never ends the server: it is logged, counted and tried again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from ...config import DatabaseConfig
from ...errors import MdserverError
from ...metrics import Metrics
from ..connection.database import Database
from ..tables.partitions import ensure_ahead
from .retention import drop_old, set_compression

__all__ = ["EVERY_S", "Housekeeping"]

EVERY_S = 3600.0


class Housekeeping:
    """Looks after the tables until it is cancelled."""

    def __init__(
        self,
        database: Database,
        settings: DatabaseConfig,
        metrics: Metrics,
        log: structlog.stdlib.BoundLogger,
        lake: str | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._lake = lake
        self._metrics = metrics
        self._log = log

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do all that is due, now and every hour."""
        task_status.started()
        while True:
            await self.once()
            await trio.sleep(EVERY_S)

    async def once(self) -> None:
        """Do all that is due; a step that fails does not stop the others."""
        await self._step("partitions", lambda: self._database.run(ensure_ahead))
        await self._step("compression", self._compress)
        await self._step("retention", self._drop_old)

    async def _step(self, step: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except MdserverError as error:
            self._failed(step, str(error))

    async def _compress(self) -> None:
        await set_compression(self._database, self._settings.compress_after_days)

    async def _drop_old(self) -> None:
        kept = await drop_old(self._database, self._settings.retention_days, lake=self._lake)
        for dropped in kept.dropped:
            self._log.info("dropped a partition older than database.retention_days", **_about(dropped))
        for part in kept.busy:
            self._log.info(
                "a partition past retention is in use and was not dropped: tried again in an hour",
                partition=part,
            )
        for part, days in kept.unpushed.items():
            self._log.warning(
                "a partition past retention is kept until all of its days lie in the data lake",
                partition=part,
                days=len(days),
                first=days[0],
            )
        for part, why in kept.failed.items():
            self._failed("retention", f"{part}: {why}")

    def _failed(self, step: str, error: str) -> None:
        self._metrics.housekeeping_failures.labels(step).inc()
        self._log.warning("housekeeping step failed: tried again in an hour", step=step, error=error)


def _about(dropped: object) -> dict[str, object]:
    return {name: getattr(dropped, name) for name in ("table", "name", "rows")}
