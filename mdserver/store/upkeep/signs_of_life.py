"""Check every few seconds whether the database answers, also while nobody reads and nothing is stored."""

from __future__ import annotations

import structlog
import trio

from ...errors import MdserverError
from ..connection.connect import Connection
from ..connection.database import Database

__all__ = ["SignsOfLife"]

EVERY_S = 5.0
WITHIN_S = 3.0


class SignsOfLife:
    """Keeps ``away`` up to date: why the database does not answer readers, or None."""

    def __init__(self, database: Database, log: structlog.stdlib.BoundLogger) -> None:
        self.away: str | None = None
        self._database = database
        self._log = log

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check until cancelled."""
        task_status.started()
        while True:
            await self.check()
            await trio.sleep(EVERY_S)

    async def check(self) -> None:
        """Check once."""
        try:
            await self._database.run(_select_one, within_s=WITHIN_S)
        except MdserverError as error:
            if self.away is None:
                self._log.error("the database does not answer", error=str(error))
            self.away = str(error)
        else:
            if self.away is not None:
                self._log.info("the database answers again")
            self.away = None


def _select_one(conn: Connection) -> None:
    conn.execute("select 1")
