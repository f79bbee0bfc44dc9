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
from .thread_transaction import ThreadTransaction, cancel_with_task, give_up_waiting

__all__ = ["Database", "Engine", "Opened"]

T = TypeVar("T")

Engine: TypeAlias = Literal["plain", "timescaledb"]
"""How ``ticks`` and ``trades`` are kept: monthly partitions of PostgreSQL, or TimescaleDB's hypertables."""


@attrs.frozen
class Opened:
    """What was found and done when a database was opened.

    ``server_version`` is libpq's number (150018), ``applied`` are the migrations that were pending. ``identity``
    tells this database from every other, as far as the server gives that out.
    """

    engine: Engine
    server_version: int
    applied: tuple[str, ...] = ()
    identity: str | None = None


class Database:
    """A pool of connections. Until it is ``opened`` it refuses all work, as a database that is away does."""

    def __init__(self, pool: ConnectionPool[Connection], *, where: str) -> None:
        self.opened: Opened | None = None
        self.where = where
        self._pool = pool
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

    async def run(self, work: Callable[[Connection], T], *, live: bool = False) -> T:
        """Run ``work`` in a worker thread, in one transaction: committed if it returns, rolled back if it raises.

        ``live``: it stores live records, one such at a time, and does not queue with the others.

        Raises :class:`StoreUnavailable` where trying again may help: no turn within ``QUEUE_S``, no connection within
        ``ACQUIRE_S``, a connection that broke, a statement past its time, a deadlock. If the connection broke during
        the commit, it is not known whether that took place. Other errors of psycopg and of ``work`` come through.

        When cancelled, the running statement is cancelled at the server and the thread is waited for, at most
        ``CANCEL_S``; a unit of work that was still waiting is dropped.
        """
        return await self._hop(
            ThreadTransaction(self._pool, work, self.where), self._live if live else self._others
        )

    async def run_autocommit(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` like :meth:`run`, but each statement is a transaction of its own and may take its time.

        For what PostgreSQL does not do within a transaction: building an index concurrently.
        """
        return await self._hop(ThreadTransaction(self._pool, work, self.where, autocommit=True), self._others)

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
