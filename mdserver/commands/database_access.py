"""The configured database as command plugins see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import psycopg

from ..errors import Rejected
from ..store.connection.database import Database
from ..store.connection.database_errors import DataRefused, StatementRefused
from ..store.open_database import open_configured
from ..store.store import SeriesInfo, Store

__all__ = ["DatabaseAccess", "open_configured"]

T = TypeVar("T")


class DatabaseAccess:
    """Implements :class:`mdserver.plugin.CommandDatabase`."""

    def __init__(self, database: Database, *, write: bool) -> None:
        self._database = database
        self._write = write

    @property
    def engine(self) -> Literal["plain", "timescaledb"]:
        """See :attr:`mdserver.plugin.CommandDatabase.engine`."""
        return self._database.engine

    @property
    def server_version(self) -> int:
        """See :attr:`mdserver.plugin.CommandDatabase.server_version`."""
        return self._database.server_version

    async def series(self, symbol: str | None = None) -> list[SeriesInfo]:
        """See :meth:`mdserver.plugin.CommandDatabase.series`."""
        return await Store(self._database).series(symbol)

    async def query(
        self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """See :meth:`mdserver.plugin.CommandDatabase.query`."""

        def work(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
            conn.execute("set transaction read only")
            cursor = conn.execute(statement.encode(), parameters or None)
            return [] if cursor.description is None else cursor.fetchall()

        return await self._run(work)

    async def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """See :meth:`mdserver.plugin.CommandDatabase.execute`."""
        if not self._write:
            raise Rejected("the database was opened for reading: use open_database(write=True) to write")
        return await self._run(lambda conn: conn.execute(statement.encode(), parameters or None).rowcount)

    async def _run(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        try:
            return await self._database.run(work)
        except (StatementRefused, DataRefused) as error:
            raise Rejected(str(error)) from error
