"""Connections to PostgreSQL: the first one with patience, then a pool, each unit of work in one worker thread.

psycopg's own async is for asyncio only; synchronous connections in threads cost one hop (0.2 ms) per unit of work.
A password never gets into an error or a log line.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
import structlog
import trio
from attrs import define, field
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from ...errors import ConfigError, Rejected, StoreUnavailable
from ..tables.migrations import Engine, applied_engine, migrate, pending
from ..tables.partitions import ensure_ahead
from .thread_transaction import ACQUIRE_S, Unit, cancel_with_task, error_text, give_up_waiting

__all__ = ["Database", "open_database"]

T = TypeVar("T")
Connection = psycopg.Connection[Any]

OLDEST_SERVER = 140_000
"""PostgreSQL 14, as libpq counts."""

CONNECT_S = 10
"""How long one attempt to connect may take."""

BACKOFF_S = (0.25, 5.0)
"""The first and the longest pause between attempts to connect at the start."""

# A dead peer is noticed within 10 + 3 × 5 s, and unacknowledged data after 20 s (Linux).
KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

# libpq has no SQLSTATE for a refused login. A server in another language is tried again until the time is up.
_FINAL = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|is not permitted to log in"
    r"|(?:role|user|database) \"[^\"]*\" does not exist|permission denied for database"
    r"|is not currently accepting connections|does not support SSL|certificate|requires a password"
)

_BAD_URL = (
    "database.url is not a PostgreSQL URL: expected postgresql://user:password@host:port/name, with special "
    "characters of the password percent-encoded"
)


class Database:
    """A pool of connections. ``engine`` is how ticks are kept, ``server_version`` libpq's number (150018)."""

    def __init__(
        self, pool: ConnectionPool[Connection], *, engine: Engine, server_version: int, where: str
    ) -> None:
        self.engine = engine
        self.server_version = server_version
        self.where = where
        self._pool = pool
        # live records have a turn and a connection of their own, however many are reading
        self._live = trio.CapacityLimiter(1)
        self._others = trio.CapacityLimiter(max(1, pool.max_size - 1))

    async def run(self, work: Callable[[Connection], T], *, live: bool = False) -> T:
        """Run ``work`` in a worker thread, in one transaction: committed if it returns, rolled back if it raises.

        ``live``: it stores live records, one such at a time, and does not queue with the others.

        Raises :class:`StoreUnavailable` where trying again may help: no turn within ``QUEUE_S``, no connection within
        ``ACQUIRE_S``, a connection that broke, a statement past its time, a deadlock. If the connection broke during
        the commit, it is not known whether that took place. Other errors of psycopg and of ``work`` come through.

        When cancelled, the running statement is cancelled at the server and the thread is waited for, at most
        ``CANCEL_S``; a unit of work that was still waiting is dropped.
        """
        return await self._hop(Unit(self._pool, work, self.where), self._live if live else self._others)

    async def run_autocommit(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` like :meth:`run`, but each statement is a transaction of its own and may take its time.

        For what PostgreSQL does not do within a transaction: building an index concurrently.
        """
        return await self._hop(Unit(self._pool, work, self.where, autocommit=True), self._others)

    async def _hop(self, unit: Unit[T], limiter: trio.CapacityLimiter) -> T:
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


@asynccontextmanager
async def open_database(
    url: str,
    *,
    retry_for_s: float,
    migrate: bool = True,
    log: structlog.stdlib.BoundLogger,
    pool_size: int = 8,
    statement_timeout_s: float = 30.0,
) -> AsyncIterator[Database]:
    """Connect, bring the tables up to date (``migrate``) and keep a pool of at most ``pool_size`` connections.

    The first connection is tried for ``retry_for_s`` seconds. ``statement_timeout_s`` bounds each statement of a
    unit of work, not the migrations.

    Raises :class:`StoreUnavailable` if the database stays away, :class:`Rejected` if it refuses us (password,
    unknown database, PostgreSQL before 14, a schema that is not ours) and :class:`ConfigError` for a malformed URL.
    """
    where = describe(url)
    connection = await _connect_patiently(url, where, retry_for_s, log)
    try:
        engine, version = await trio.to_thread.run_sync(_set_up, connection, migrate, log)
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"{where}: {error_text(error)}") from error
    finally:
        connection.close()  # sends one byte and waits for nothing

    # Its warnings, one per attempt, say what our own errors say once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    pool: ConnectionPool[Connection] = ConnectionPool(
        url,
        kwargs=_parameters(url),
        configure=lambda conn: _configure(conn, statement_timeout_s),
        min_size=1,
        max_size=pool_size,
        open=False,
        timeout=ACQUIRE_S,
        reconnect_timeout=ACQUIRE_S,
        num_workers=2,
        name="mdserver",
    )
    pool.open()
    try:
        log.info("database is ready", database=where, server=_version_text(version), engine=engine)
        yield Database(pool, engine=engine, server_version=version, where=where)
    finally:
        with trio.CancelScope(shield=True):
            # bounded by its own timeout of 5 s
            await trio.to_thread.run_sync(pool.close)


def describe(url: str) -> str:
    """Return ``user@host:port/name`` of a URL or conninfo: what may be logged. Raises :class:`ConfigError`."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq's message quotes parts of the URL, maybe of the password
        raise ConfigError([_BAD_URL]) from None
    defaults = {
        option.keyword.decode(): (option.val or b"").decode() for option in pq.Conninfo.get_defaults()
    }
    keys = ("user", "host", "port", "dbname")
    user, host, port, name = (str(given.get(key) or defaults[key]) for key in keys)
    if not re.fullmatch(r"[\d,]*", port) or "@" in host + name:
        # a "#", "/" or "@" in the password has moved a part of it here
        raise ConfigError([_BAD_URL])
    return f"{user}@{host or 'localhost'}:{port}/{name or user}"


async def _connect_patiently(
    url: str, where: str, retry_for_s: float, log: structlog.stdlib.BoundLogger
) -> Connection:
    """Return a first connection, trying again with growing pauses while nobody answers."""
    deadline = trio.current_time() + retry_for_s
    pause, longest = BACKOFF_S
    while True:
        try:
            return await _Attempt(url).connect()
        except psycopg.OperationalError as error:
            text = error_text(error)
        if _FINAL.search(text):
            raise Rejected(f"the database refuses {where}: {text}")
        left = deadline - trio.current_time()
        if left <= 0:
            raise StoreUnavailable(f"no connection to {where} for {retry_for_s:.0f} s: {text}")
        pause = min(pause, left)
        log.warning("waiting for the database", database=where, error=text, give_up_in_s=round(left))
        await trio.sleep(pause)
        pause = min(2 * pause, longest)


@define(eq=False)
class _Attempt:
    """One attempt to connect, left to its thread if cancelled: a silent host must not hold up the shutdown."""

    url: str
    _lock: threading.Lock = field(factory=threading.Lock)
    _left: bool = False

    async def connect(self) -> Connection:
        try:
            return await trio.to_thread.run_sync(self._connect, abandon_on_cancel=True)
        except trio.Cancelled:
            with self._lock:
                self._left = True
            raise

    def _connect(self) -> Connection:
        connection: Connection = psycopg.connect(self.url, **_parameters(self.url))
        with self._lock:
            if self._left:
                connection.close()
        return connection


def _parameters(url: str) -> dict[str, Any]:
    """Parameters that the URL does not set itself."""
    ours = {"application_name": "mdserver", "connect_timeout": CONNECT_S, **KEEPALIVE}
    return {name: value for name, value in ours.items() if name not in conninfo_to_dict(url)}


def _configure(conn: Connection, statement_timeout_s: float) -> None:
    """Set up a session by statements: a pooler in between would refuse them as startup options."""
    conn.execute(
        "select set_config('timezone', 'UTC', false), set_config('statement_timeout', %s, false)",
        [f"{round(statement_timeout_s * 1000)}ms"],
    )
    conn.commit()


def _set_up(conn: Connection, apply: bool, log: structlog.stdlib.BoundLogger) -> tuple[Engine, int]:
    """Check the server and the schema; return engine and server version. Blocking."""
    version = conn.info.server_version
    if version < OLDEST_SERVER:
        raise Rejected(f"the database is PostgreSQL {_version_text(version)}: mdserver needs 14 or newer")
    with conn.transaction():
        names = migrate(conn) if apply else pending(conn)
    if apply and names:
        log.info("database migrated", applied=names)
    elif names:
        raise Rejected(
            f"the database lacks migrations {', '.join(names)}: run mdserver migrate, or set migrate: true"
        )
    with conn.transaction():
        engine = applied_engine(conn)
        if engine is None:
            raise Rejected(
                "the table schema_migrations does not say how ticks are stored: it is not mdserver's"
            )
        ensure_ahead(conn)
    return engine, version


def _version_text(version: int) -> str:
    return f"{version // 10_000}.{version % 10_000}"
