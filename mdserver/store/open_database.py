"""Open the database: retry the first connection, bring the tables up to date, keep a pool.

Everybody opens it through :class:`Opening`: the daemon, which may start without its database, the commands, and
:func:`open_configured`, where the database may be the embedded one.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

import psycopg
import structlog
import trio
from psycopg_pool import ConnectionPool

from ..config import DatabaseConfig
from ..errors import Rejected, StoreUnavailable
from .connection.connect import Connection, connect_patiently, connection_parameters, describe
from .connection.database import Database, Opened
from .connection.database_errors import error_text
from .connection.session import Pooler, Session
from .connection.thread_transaction import ACQUIRE_S
from .embedded.server import attach_embedded, open_embedded
from .tables.migrations import applied_engine, engine_note, migrate, pending
from .tables.partitions import ensure_ahead

__all__ = ["Opening", "configured_url", "open_configured", "open_database", "prepare_database"]

OLDEST_SERVER = 140_000
"""PostgreSQL 14, in libpq's numbering."""


class Opening:
    """A database being opened. Until :meth:`connect` has returned, ``database`` refuses all work as unavailable."""

    def __init__(
        self,
        url: str,
        where: str,
        pool: ConnectionPool[Connection],
        session: Session,
        *,
        migrate: bool,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.database = Database(pool, session, where=where)
        self._url = url
        self._pool = pool
        self._session = session
        self._migrate = migrate
        self._log = log

    async def connect(
        self, retry_for_s: float, *, accept: Callable[[Opened], None] = lambda _: None
    ) -> Opened:
        """Connect, bring the tables up to date, open the pool; return what was found and done.

        ``accept`` may raise to refuse the database before the pool opens. Raises as :func:`open_database` does; after
        :class:`StoreUnavailable` it may be called again.
        """
        where = self.database.where
        connection = await connect_patiently(self._url, where, retry_for_s, self._log)
        try:
            opened = await trio.to_thread.run_sync(
                _set_up, connection, self._session, self._migrate, self._log
            )
        except psycopg.Error as error:
            raise StoreUnavailable(f"{where}: {error_text(error)}") from error
        finally:
            connection.close()  # sends one byte and waits for nothing
        accept(opened)
        # The pool warns at every attempt about what our own errors report once.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        self.database.opened = opened
        self._pool.open()
        if opened.applied:
            self._log.info("database migrated", applied=list(opened.applied))
        self._log.info(
            "database is ready",
            database=where,
            server=_version_text(opened.server_version),
            engine=opened.engine,
        )
        if self._session.pooled:
            self._log.info("connected through a transaction pooler: no session state is used", database=where)
        return opened


@asynccontextmanager
async def prepare_database(
    url: str,
    *,
    migrate: bool = True,
    log: structlog.stdlib.BoundLogger,
    pooler: Pooler = "auto",
    pool_size: int = 8,
    statement_timeout_s: float = 30.0,
) -> AsyncIterator[Opening]:
    """Prepare to open a database, without connecting yet; close it at the end of the block.

    ``statement_timeout_s`` bounds each statement of a unit of work, not the migrations. Raises :class:`ConfigError`
    for a malformed URL.
    """
    where = describe(url)  # before anything else parses the URL: its errors never quote a password
    session = Session(statement_timeout_s, pooler)
    pool: ConnectionPool[Connection] = ConnectionPool(
        url,
        kwargs=connection_parameters(url),
        configure=session.configure,
        min_size=1,
        max_size=pool_size,
        open=False,
        timeout=ACQUIRE_S,
        reconnect_timeout=ACQUIRE_S,
        num_workers=2,
        name="mdserver",
    )
    opening = Opening(url, where, pool, session, migrate=migrate, log=log)
    try:
        yield opening
    finally:
        with trio.CancelScope(shield=True):
            # pool.close has a timeout of 5 s of its own
            await trio.to_thread.run_sync(pool.close)


@asynccontextmanager
async def open_database(
    url: str,
    *,
    retry_for_s: float,
    migrate: bool = True,
    log: structlog.stdlib.BoundLogger,
    pooler: Pooler = "auto",
    pool_size: int = 8,
    statement_timeout_s: float = 30.0,
) -> AsyncIterator[Database]:
    """Connect, bring the tables up to date (``migrate``) and keep a pool of at most ``pool_size`` connections.

    The first connection is retried for ``retry_for_s`` seconds. ``Database.opened`` tells what was found and done.

    Raises :class:`StoreUnavailable` if the database stays unreachable, :class:`Rejected` if it refuses us (password,
    unknown database, PostgreSQL before 14, a schema that is not ours) and :class:`ConfigError` for a malformed URL.
    """
    async with prepare_database(
        url,
        migrate=migrate,
        log=log,
        pooler=pooler,
        pool_size=pool_size,
        statement_timeout_s=statement_timeout_s,
    ) as opening:
        await opening.connect(retry_for_s)
        yield opening.database


@asynccontextmanager
async def configured_url(
    settings: DatabaseConfig,
    data_dir: Path,
    *,
    embedded: Literal["own", "shared"],
    log: structlog.stdlib.BoundLogger,
) -> AsyncIterator[str]:
    """Yield the URL of the configured database; the embedded one runs until the end of the block.

    ``embedded``: the daemon passes ``own``. A command passes ``shared`` and uses the PostgreSQL of a running daemon
    if there is one. Raises as :func:`open_embedded` and :func:`attach_embedded` do.
    """
    if settings.url != "embedded":
        yield settings.url
        return
    start = open_embedded if embedded == "own" else attach_embedded
    async with start(data_dir, binaries=settings.binaries, log=log) as url:
        yield url


@asynccontextmanager
async def open_configured(
    settings: DatabaseConfig,
    data_dir: Path,
    *,
    migrate: bool | None = None,
    statement_timeout_s: float,
    log: structlog.stdlib.BoundLogger,
) -> AsyncIterator[Database]:
    """Open the configured database for a command, which may run beside the daemon.

    ``migrate`` None means as configured. Raises as :func:`configured_url` and :func:`open_database` do.
    """
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(configured_url(settings, data_dir, embedded="shared", log=log))
        opening = open_database(
            url,
            retry_for_s=settings.connect_for_s,
            pooler=settings.pooler,
            migrate=settings.migrate if migrate is None else migrate,
            statement_timeout_s=statement_timeout_s,
            log=log,
        )
        yield await stack.enter_async_context(opening)


def _set_up(conn: Connection, session: Session, apply: bool, log: structlog.stdlib.BoundLogger) -> Opened:
    """Check the server and the schema, and apply what is pending if asked. Blocking."""
    version = conn.info.server_version
    if version < OLDEST_SERVER:
        raise Rejected(f"the database is PostgreSQL {_version_text(version)}: mdserver needs 14 or newer")
    session.configure(conn)
    with conn.transaction():
        session.begin(conn)
        # a migration may rewrite a large table, and waits here while another server migrates
        conn.execute("set local statement_timeout = 0")
        names = migrate(conn) if apply else pending(conn)
    if names and not apply:
        raise Rejected(
            f"the database lacks migrations {', '.join(names)}: run `mdserver run migrate`, or set migrate: true"
        )
    with conn.transaction():
        session.begin(conn)
        engine = applied_engine(conn)
        if engine is None:
            raise Rejected(
                "the table schema_migrations does not record how ticks are stored: it is not mdserver's"
            )
        if note := engine_note(conn, engine):
            log.warning(note)
    try:
        with conn.transaction():
            session.begin(conn)
            ensure_ahead(conn)
    except psycopg.Error as error:  # no reason to refuse the start: a write makes the partition that it needs
        if conn.closed:
            raise
        log.warning(
            "partitions for the coming month could not be created; housekeeping tries again within the hour",
            error=error_text(error),
        )
    return Opened(engine, version, tuple(names), _identity(conn), _epoch(conn, session))


def _identity(conn: Connection) -> str | None:
    """Return what distinguishes this database from every other; None where the server does not reveal it."""
    try:
        with conn.transaction():
            row = conn.execute(
                "select system_identifier::text || '/' || current_database() from pg_control_system()"
            ).fetchone()
    except psycopg.Error:
        return None
    return None if row is None else str(row[0])


def _epoch(conn: Connection, session: Session) -> str:
    with conn.transaction():
        session.begin(conn)
        row = conn.execute("select epoch from numbering").fetchone()
    if row is None:
        raise Rejected(
            "the table numbering is empty; it must hold one row, the epoch of the sequence numbers. Restore it from a "
            "backup; if you insert a new epoch instead, no client can resume from numbers of before"
        )
    return str(row[0])


def _version_text(version: int) -> str:
    return f"{version // 10_000}.{version % 10_000}"
