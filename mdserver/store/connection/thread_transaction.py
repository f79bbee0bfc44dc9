"""One unit of work in a worker thread: borrow a connection, run in a transaction, cancel."""

from __future__ import annotations

import os
import socket
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
from .database_errors import error_text, mapped, spoils_connection
from .session import Session

__all__ = [
    "ACQUIRE_S",
    "CANCEL_S",
    "QUEUE_S",
    "ThreadTransaction",
    "cancel_with_task",
    "give_up_waiting",
]

T = TypeVar("T")
Connection = psycopg.Connection[Any]

ACQUIRE_S = 2.0
"""How long a unit of work waits for a working connection before the database counts as unavailable."""

QUEUE_S = 10.0
"""How long a unit of work waits for its turn before the database counts as unavailable."""

CANCEL_S = 1.0
"""How long the server may take to answer a cancel request, and then to end the statement, before the connection is
cut: a frozen server does neither."""


@define(eq=False)
class ThreadTransaction(Generic[T]):
    """One unit of work, run as a transaction in a worker thread."""

    pool: ConnectionPool[Connection]
    work: Callable[[Connection], T]
    session: Session
    where: str
    autocommit: bool = False
    one_state: bool = False
    returned: trio.Event = field(factory=trio.Event)
    _lock: threading.Lock = field(factory=threading.Lock)
    _dropped: bool = False
    _begun: bool = False
    _connection: Connection | None = None
    _values: list[T] = field(factory=list)
    _error: BaseException | None = None

    def run(self) -> None:
        """Run in the worker thread. Raise nothing (a nursery would wrap it in a group): :meth:`result` does."""
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
                self._error = None  # breaks the reference cycle: error, traceback, frame, self
        return self._values[0]

    def _run(self) -> T:
        try:
            connection = self._borrow()
        except (psycopg.Error, PoolClosed) as error:
            self._give_back()
            raise StoreUnavailable(f"no connection to {self.where} within {ACQUIRE_S:.0f} s") from error
        try:
            with self._lock:
                if self._dropped:
                    raise StoreUnavailable("dropped before it began")
            if self.autocommit:
                with _autocommit(connection, self.session):
                    return self.work(connection)
            with connection.transaction():
                if self.one_state:  # before any other statement
                    connection.execute("set transaction isolation level repeatable read read only")
                self.session.begin(connection)
                return self.work(connection)
        except psycopg.Error as error:
            spoiled = spoils_connection(error)
            broken = connection.closed
            if spoiled or broken:
                # After a fail-over the other connections lead to the same wrong server: replace them all.
                connection.close()
                self.pool.drain()
            raise mapped(error, self.where, broken=broken) from error
        finally:
            self._give_back()

    def _borrow(self) -> Connection:
        """Return a connection that has just answered.

        The pool's own check sleeps a second after each dead connection. But one dead connection means that the server
        was restarted, so all idle ones are replaced at once.
        """
        connection = self._get_connection()
        try:
            self.pool.check_connection(connection)
        except psycopg.Error:
            self.pool.drain()
            self._give_back()
            connection = self._get_connection()
        return connection

    def _get_connection(self) -> Connection:
        connection = self.pool.getconn(timeout=ACQUIRE_S)
        with self._lock:
            self._connection = connection
        return connection

    def _give_back(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            self.pool.putconn(connection)

    def drop(self) -> bool:
        """Keep the work from beginning; return whether a thread may have begun it already."""
        with self._lock:
            self._dropped = True
            return self._begun

    def refuse(self, error: Exception) -> bool:
        """End the work with ``error`` if no thread has begun it; return whether that was so."""
        with self._lock:
            if self._begun:
                return False
            self._dropped = True
            self._error = error
            return True

    def cancel(self) -> None:
        """Cancel the statement at the server. Blocking, from another thread; the connection is held meanwhile."""
        with self._lock:
            if self._connection is not None and not self._connection.closed:
                self._connection.cancel_safe(timeout=CANCEL_S)

    def cut(self) -> None:
        """Cut the connection, so that the thread which waits for a frozen server ends. Blocking for a moment."""
        with self._lock:
            if self._connection is not None and not self._connection.closed:
                # shut down a duplicate of the descriptor: libpq, in the other thread, still owns and closes its own
                with socket.socket(fileno=os.dup(self._connection.fileno())) as end:
                    end.shutdown(socket.SHUT_RDWR)


@contextmanager
def _autocommit(connection: Connection, session: Session) -> Iterator[None]:
    """Leave transactions and the statement timeout off until the block ends."""
    connection.autocommit = True
    if not session.pooled:
        connection.execute("select set_config('statement_timeout', '0', false)")
    try:
        yield
    finally:
        if not connection.closed:
            if not session.pooled:
                connection.execute(
                    "select set_config('statement_timeout', %s, false)", [session.statement_timeout]
                )
            connection.autocommit = False


async def give_up_waiting(unit: ThreadTransaction[Any], hop: trio.CancelScope) -> None:
    """End work that got no turn within :data:`QUEUE_S`: while the database is unavailable a queue would only grow."""
    await trio.sleep(QUEUE_S)
    if unit.refuse(StoreUnavailable(f"no turn at {unit.where} within {QUEUE_S:.0f} s")):
        hop.cancel()


async def cancel_with_task(unit: ThreadTransaction[Any], hop: trio.CancelScope) -> None:
    """Sleep until the surrounding task is cancelled, then end its work; ``hop`` is the shielded wait for the thread."""
    try:
        await trio.sleep_forever()
    finally:
        if not unit.returned.is_set() and unit.drop():
            with trio.CancelScope(shield=True):  # both calls are bounded
                await _end(unit)
        hop.cancel()


async def _end(unit: ThreadTransaction[Any]) -> None:
    """Cancel the running statement; if the server does not react, cut the connection."""
    with trio.move_on_after(2 * CANCEL_S):
        try:
            await trio.to_thread.run_sync(unit.cancel, abandon_on_cancel=True)
        except psycopg.Error as error:
            structlog.get_logger().debug("cancel request failed", error=error_text(error))
        await unit.returned.wait()
    if not unit.returned.is_set():
        with trio.move_on_after(CANCEL_S):
            try:
                await trio.to_thread.run_sync(unit.cut, abandon_on_cancel=True)
            except OSError as error:  # the other side has closed it meanwhile, which ends the thread as well
                structlog.get_logger().debug("cutting a connection failed", error=str(error))
