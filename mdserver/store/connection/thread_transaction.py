"""One unit of work on its way through a worker thread: borrow a connection, run in a transaction, cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import psycopg
import structlog
import trio
from attrs import define, field
from psycopg_pool import ConnectionPool, PoolClosed

from ...errors import StoreUnavailable

__all__ = [
    "ACQUIRE_S",
    "CANCEL_S",
    "QUEUE_S",
    "ThreadTransaction",
    "cancel_with_task",
    "error_text",
    "give_up_waiting",
]

T = TypeVar("T")
Connection = psycopg.Connection[Any]

ACQUIRE_S = 2.0
"""How long a unit of work waits for a live connection before the database counts as away."""

QUEUE_S = 10.0
"""How long a unit of work waits for its turn among others before the database counts as away."""

CANCEL_S = 5.0
"""How long a cancelled unit of work is waited for before its thread is left to itself."""


@define(eq=False)
class ThreadTransaction(Generic[T]):
    """One unit of work on its way through a worker thread."""

    pool: ConnectionPool[Connection]
    work: Callable[[Connection], T]
    where: str
    autocommit: bool = False
    returned: trio.Event = field(factory=trio.Event)
    _lock: threading.Lock = field(factory=threading.Lock)
    _dropped: bool = False
    _begun: bool = False
    _connection: Connection | None = None
    _values: list[T] = field(factory=list)
    _error: BaseException | None = None

    def run(self) -> None:
        """Run in the worker thread. Raises nothing: a nursery would wrap it in a group."""
        with self._lock:
            if self._dropped:
                return
            self._begun = True
        try:
            self._values.append(self._run())
        except BaseException as error:  # noqa: ASYNC103, BLE001 - result() raises it, whatever it is
            self._error = error

    def result(self) -> T:
        """Return what the work returned, or raise what it raised."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # no cycle of the error with its own traceback
        return self._values[0]

    def _run(self) -> T:
        connection = self._borrow()
        try:
            with self._lock:
                if self._dropped:
                    raise StoreUnavailable("dropped before it began")
                self._connection = connection
            with _autocommit(connection) if self.autocommit else connection.transaction():
                return self.work(connection)
        except psycopg.OperationalError as error:
            raise StoreUnavailable(f"{self.where}: {error_text(error)}") from error
        except psycopg.Error as error:
            if connection.closed:
                raise StoreUnavailable(f"{self.where}: {error_text(error)}") from error
            raise
        finally:
            with self._lock:
                self._connection = None
            self.pool.putconn(connection)

    def _borrow(self) -> Connection:
        """Return a connection that was alive just now.

        The pool's own check sleeps a second after each dead connection. One that died says that the server was
        restarted, so all idle ones are replaced at once.
        """
        try:
            connection = self.pool.getconn(timeout=ACQUIRE_S)
            try:
                self.pool.check_connection(connection)
            except psycopg.Error:
                self.pool.drain()
                self.pool.putconn(connection)
                connection = self.pool.getconn(timeout=ACQUIRE_S)
        except (psycopg.OperationalError, PoolClosed) as error:
            raise StoreUnavailable(f"no connection to {self.where} within {ACQUIRE_S:.0f} s") from error
        return connection

    def drop(self) -> bool:
        """Make sure that the work does not begin; return whether a thread may be busy with it already."""
        with self._lock:
            self._dropped = True
            return self._begun

    def refuse(self, error: Exception) -> bool:
        """Have the work end with ``error`` if no thread has taken it yet; return whether that was so."""
        with self._lock:
            if self._begun:
                return False
            self._dropped = True
            self._error = error
            return True

    def cancel(self) -> None:
        """Cancel the statement at the server. Blocking, from another thread; the connection is held meanwhile."""
        with self._lock:
            if self._connection is not None:
                self._connection.cancel_safe(timeout=CANCEL_S)


@contextmanager
def _autocommit(connection: Connection) -> Iterator[None]:
    """Outside of transactions and without a limit of time, until the block ends."""
    connection.autocommit = True
    row = connection.execute("select current_setting('statement_timeout')").fetchone()
    connection.execute("select set_config('statement_timeout', '0', false)")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("select set_config('statement_timeout', %s, false)", row)
            connection.autocommit = False


async def give_up_waiting(unit: ThreadTransaction[Any], hop: trio.CancelScope) -> None:
    """End a unit of work that got no turn in :data:`QUEUE_S`: while the database is away a queue would only grow."""
    await trio.sleep(QUEUE_S)
    if unit.refuse(StoreUnavailable(f"no turn at {unit.where} within {QUEUE_S:.0f} s")):
        hop.cancel()


async def cancel_with_task(unit: ThreadTransaction[Any], hop: trio.CancelScope) -> None:
    """Sleep until the surrounding task is cancelled, then end its unit of work; ``hop`` shields the wait for it."""
    try:
        await trio.sleep_forever()
    finally:
        if not unit.returned.is_set() and unit.drop():
            with trio.move_on_after(CANCEL_S, shield=True):
                try:
                    await trio.to_thread.run_sync(unit.cancel, abandon_on_cancel=True)
                except psycopg.Error as error:
                    # the server is out of reach: the thread notices that by itself
                    structlog.get_logger().debug("cancel request failed", error=error_text(error))
                await unit.returned.wait()
        hop.cancel()


def error_text(error: psycopg.Error) -> str:
    """One line of an error. libpq does not put passwords into errors of a well-formed URL."""
    return " ".join(str(error).split()) or type(error).__name__
