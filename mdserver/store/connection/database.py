"""A pool of connections; each unit of work is one transaction in one worker thread.

psycopg's own async mode is for asyncio only. Synchronous connections in threads cost 0.2 ms per transaction.
No error and no log line contains a password.
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
"""How long a read for a client may take, the wait for a connection included. If the server does not end a cancelled
statement, cutting its connection takes 2 s more. Most proxies time out after 30 s, some after 10."""

T = TypeVar("T")

Engine: TypeAlias = Literal["plain", "timescaledb"]
"""How ``ticks`` and ``trades`` are stored: in monthly partitions of PostgreSQL or in TimescaleDB's hypertables."""


@attrs.frozen
class Opened:
    """What was found and done when a database was opened.

    ``server_version`` is libpq's number (150018), ``applied`` are the migrations that were pending. ``identity``
    distinguishes this database from every other, None where the server does not reveal it. ``epoch`` names the
    numbering of its records.
    """

    engine: Engine
    server_version: int
    applied: tuple[str, ...] = ()
    identity: str | None = None
    epoch: str = ""


class Database:
    """A pool of connections. Until it is ``opened`` it refuses all work as unavailable."""

    def __init__(self, pool: ConnectionPool[Connection], session: Session, *, where: str) -> None:
        self.opened: Opened | None = None
        self.where = where
        self._pool = pool
        self._session = session
        # One connection is reserved for live records, however many clients are reading.
        self._live = trio.CapacityLimiter(1)
        self._others = trio.CapacityLimiter(max(1, pool.max_size - 1))

    @property
    def engine(self) -> Engine:
        """How ticks are stored. Raises :class:`StoreUnavailable` until the database is opened."""
        return self._opened().engine

    @property
    def server_version(self) -> int:
        """libpq's version number. Raises :class:`StoreUnavailable` until the database is opened."""
        return self._opened().server_version

    def _opened(self) -> Opened:
        if self.opened is None:
            raise StoreUnavailable(f"{self.where} has not been reached since the server started")
        return self.opened

    @property
    def pooled(self) -> bool:
        """Whether a pooler gives each transaction another session, so that no settings or locks outlast it."""
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

        ``live``: it stores live records; such work runs one at a time and does not queue with the others.
        ``one_state``: it only reads, and all of its statements see the same snapshot of the database. ``within_s``:
        give up after so many seconds in all, because a client is waiting.

        Errors of psycopg are mapped by :func:`~.database_errors.mapped`: to :class:`StoreUnavailable` where a retry
        may help (no turn within ``QUEUE_S``, no connection within ``ACQUIRE_S``, a broken connection, a statement
        timeout, a deadlock, a missing privilege), to :class:`~.database_errors.DataRefused` where the rows are to
        blame. If the connection broke during the commit, it is unknown whether the commit took place. What ``work``
        raises itself is raised unchanged.

        When cancelled, it cancels the running statement at the server and waits for the thread; if the server does
        not react within ``CANCEL_S``, it cuts the connection. Work that was still queued is dropped.
        """
        unit = ThreadTransaction(self._pool, work, self._session, self.where, one_state=one_state)
        limiter = self._live if live else self._others
        if within_s is None:
            return await self._run_in_thread(unit, limiter)
        with trio.move_on_after(within_s) as scope:
            try:
                return await self._run_in_thread(unit, limiter)
            except StoreUnavailable as error:
                if not scope.cancel_called:
                    raise
                raise StoreUnavailable(f"{self.where}: no answer within {within_s:g} s") from error
        raise StoreUnavailable(f"{self.where}: no answer within {within_s:g} s")

    async def run_autocommit(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` like :meth:`run`, but with each statement in a transaction of its own and without a timeout.

        For what PostgreSQL refuses within a transaction, such as building an index concurrently.
        """
        unit = ThreadTransaction(self._pool, work, self._session, self.where, autocommit=True)
        return await self._run_in_thread(unit, self._others)

    async def _run_in_thread(self, unit: ThreadTransaction[T], limiter: trio.CapacityLimiter) -> T:
        self._opened()
        # The wait for the thread is shielded: a cancelled statement must first be ended at the server and its
        # connection be back in the pool. Two tasks beside it decide when to stop waiting all the same.
        async with trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True) as hop:
                nursery.start_soon(cancel_with_task, unit, hop)  # noqa: ASYNC111 - ends when the unit has returned
                nursery.start_soon(give_up_waiting, unit, hop)  # noqa: ASYNC111 - cancelled below
                await trio.to_thread.run_sync(unit.run, limiter=limiter, abandon_on_cancel=True)
            unit.returned.set()
            nursery.cancel_scope.cancel()
        if hop.cancelled_caught:
            # only a cancelled task gives up waiting: let the cancellation out here
            await trio.lowlevel.checkpoint_if_cancelled()
        return unit.result()
