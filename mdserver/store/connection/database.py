"""A pool of connections, each unit of work in one worker thread.

psycopg's own async is for asyncio only; synchronous connections in threads cost one hop (0.2 ms) per unit of work.
A password never gets into an error or a log line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar

import attrs
import trio
from psycopg_pool import ConnectionPool

from ...errors import StoreUnavailable
from .connect import Connection
from .session import Session
from .thread_transaction import ThreadTransaction, cancel_with_task, give_up_waiting

__all__ = ["READ_S", "Database", "Engine", "Opened"]

READ_S = 7.5
"""How long a read for a client may take, its wait for a turn included. A statement that the server does not end takes
2 s more to be cut, and proxies mostly wait for 30 s, some for 10."""

T = TypeVar("T")

Engine: TypeAlias = Literal["plain", "timescaledb"]
"""How ``ticks`` and ``trades`` are kept: monthly partitions of PostgreSQL, or TimescaleDB's hypertables."""


@attrs.frozen
class Opened:
    """What was found and done when a database was opened.

    ``server_version`` is libpq's number (150018), ``applied`` are the migrations that were pending. ``identity``
    tells this database from every other, as far as the server gives that out. ``epoch`` names the numbering in it.
    """

    engine: Engine
    server_version: int
    applied: tuple[str, ...] = ()
    identity: str | None = None
    epoch: str = ""


class Database:
    """A pool of connections. Until it is ``opened`` it refuses all work, as a database that is away does."""

    def __init__(self, pool: ConnectionPool[Connection], session: Session, *, where: str) -> None:
        self.opened: Opened | None = None
        self.where = where
        self._pool = pool
        self._session = session
        # live records have a turn and a connection of their own, however many are reading
        self._live = trio.CapacityLimiter(1)
        self._others = trio.CapacityLimiter(max(1, pool.max_size - 1))

    @property
    def engine(self) -> Engine:
        """How ticks are kept. Raises :class:`StoreUnavailable` until the database is opened."""
        return self._opened().engine

    @property
    def server_version(self) -> int:
        """libpq's number. Raises :class:`StoreUnavailable` until the database is opened."""
        return self._opened().server_version

    def _opened(self) -> Opened:
        if self.opened is None:
            raise StoreUnavailable(f"{self.where} has not been reached since the start")
        return self.opened

    @property
    def pooled(self) -> bool:
        """Whether a pooler in between gives each transaction another session: none keeps settings or locks."""
        return self._session.pooled

    async def run(
        self,
        work: Callable[[Connection], T],
        *,
        live: bool = False,
        one_state: bool = False,
        within_s: float | None = None,
    ) -> T:
        """Run ``work`` in a worker thread, in one transaction: committed if it returns, rolled back if it raises.

        ``live``: it stores live records, one such at a time, and does not queue with the others. ``one_state``: it
        only reads, and sees one state of the database from its beginning to its end. ``within_s``: give up after so
        many seconds in all, for what a client waits for.

        Errors of psycopg are mapped, see :func:`~.database_errors.mapped`: :class:`StoreUnavailable` where trying
        again may help (no turn within ``QUEUE_S``, no connection within ``ACQUIRE_S``, a connection that broke, a
        statement past its time, a deadlock, a right that is missing), :class:`~.database_errors.DataRefused` where
        the rows are to blame. If the connection broke during the commit, it is not known whether that took place.
        What ``work`` raises itself comes through.

        When cancelled, the running statement is cancelled at the server and the thread is waited for; where the
        server answers neither within ``CANCEL_S``, the connection is cut. A unit of work that was still waiting is
        dropped.
        """
        unit = ThreadTransaction(self._pool, work, self._session, self.where, one_state=one_state)
        limiter = self._live if live else self._others
        if within_s is None:
            return await self._hop(unit, limiter)
        with trio.move_on_after(within_s) as scope:
            try:
                return await self._hop(unit, limiter)
            except StoreUnavailable as error:
                if not scope.cancel_called:
                    raise
                raise StoreUnavailable(f"{self.where}: no answer within {within_s:g} s") from error
        raise StoreUnavailable(f"{self.where}: no answer within {within_s:g} s")

    async def run_autocommit(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` like :meth:`run`, but each statement is a transaction of its own and may take its time.

        For what PostgreSQL does not do within a transaction: building an index concurrently.
        """
        unit = ThreadTransaction(self._pool, work, self._session, self.where, autocommit=True)
        return await self._hop(unit, self._others)

    async def _hop(self, unit: ThreadTransaction[T], limiter: trio.CapacityLimiter) -> T:
        self._opened()
        async with trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True) as hop:
                nursery.start_soon(cancel_with_task, unit, hop)  # noqa: ASYNC111 - ends when the unit has returned
                nursery.start_soon(give_up_waiting, unit, hop)  # noqa: ASYNC111 - cancelled below
                await trio.to_thread.run_sync(unit.run, limiter=limiter, abandon_on_cancel=True)
            unit.returned.set()
            nursery.cancel_scope.cancel()
        if hop.cancelled_caught:
            # given up, which only happens to a cancelled task
            await trio.lowlevel.checkpoint_if_cancelled()
        return unit.result()
