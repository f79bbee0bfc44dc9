"""Open the database: connect with patience, bring the tables up to date, keep a pool."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import structlog
import trio
from psycopg_pool import ConnectionPool

from ..errors import Rejected, StoreUnavailable
from .connection.connect import (
    Connection,
    configure_session,
    connect_patiently,
    connection_parameters,
    describe,
)
from .connection.database import Database, Engine
from .connection.thread_transaction import ACQUIRE_S, error_text
from .tables.migrations import applied_engine, migrate, pending
from .tables.partitions import ensure_ahead

__all__ = ["open_database"]

OLDEST_SERVER = 140_000
"""PostgreSQL 14, as libpq counts."""


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
    connection = await connect_patiently(url, where, retry_for_s, log)
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
        kwargs=connection_parameters(url),
        configure=lambda conn: configure_session(conn, statement_timeout_s),
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
