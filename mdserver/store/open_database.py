"""Open the database: connect with patience, bring the tables up to date, keep a pool.

Every way to a database leads through :class:`Opening`: the daemon's, which may go on without it for a while, that of
the commands, and that of :func:`open_configured`, where the database may be the embedded one.
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
"""PostgreSQL 14, as libpq counts."""


class Opening:
    """A database on its way: until :meth:`connect` has returned, ``database`` refuses as one that is away."""

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

        ``accept`` may raise to refuse the database before the pool is open. Raises as :func:`open_database`; it may
        be called again after :class:`StoreUnavailable`.
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
        # Its warnings, one per attempt, say what our own errors say once.
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
            self._log.info("a pooler stands before the database: no session is relied on", database=where)
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
    """Prepare to open a database, and close it at the end of the block. Nothing is connected yet.

    ``statement_timeout_s`` bounds each statement of a unit of work, not the migrations. Raises :class:`ConfigError`
    for a malformed URL.
    """
    where = describe(url)  # first: it refuses a malformed URL without quoting it
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
            # bounded by its own timeout of 5 s
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

    The first connection is tried for ``retry_for_s`` seconds. What was found and done is in ``Database.opened``.

    Raises :class:`StoreUnavailable` if the database stays away, :class:`Rejected` if it refuses us (password,
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

    ``embedded``: ``own`` is the daemon's way. ``shared`` is that of a command, which uses the PostgreSQL of a daemon
    where one runs. Raises as :func:`open_embedded` and :func:`attach_embedded`.
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

    ``migrate`` None is as configured. Raises as :func:`configured_url` and :func:`open_database`.
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
        conn.execute("set local statement_timeout = 0")
        names = migrate(conn) if apply else pending(conn)
    if names and not apply:
        raise Rejected(
            f"the database lacks migrations {', '.join(names)}: run mdserver run migrate, or set migrate: true"
        )
    with conn.transaction():
        session.begin(conn)
        engine = applied_engine(conn)
        if engine is None:
            raise Rejected(
                "the table schema_migrations does not say how ticks are stored: it is not mdserver's"
            )
        if note := engine_note(conn, engine):
            log.warning(note)
    try:
        with conn.transaction():
            session.begin(conn)
            ensure_ahead(conn)
    except psycopg.Error as error:  # housekeeping tries again; until they are missed nothing is lost
        if conn.closed:
            raise
        log.warning("partitions could not be made ahead", error=error_text(error))
    return Opened(engine, version, tuple(names), _identity(conn), _epoch(conn, session))


def _identity(conn: Connection) -> str | None:
    """Return what tells this database from every other; None where the server does not give it out."""
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
            "the table numbering is empty: it has the one row that says what sequence numbers mean; restore it from a "
            "backup, or insert another epoch, and no client can resume from numbers of the past"
        )
    return str(row[0])


def _version_text(version: int) -> str:
    return f"{version // 10_000}.{version % 10_000}"
