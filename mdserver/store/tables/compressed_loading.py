"""TimescaleDB's direct-compress COPY: imported ticks are compressed as they arrive, not kept as rows until later.

TimescaleDB does that only where no unique key guards the rows; with one it falls back to the slow path. So it is a
mode of the table that an operator chooses: a plain index of the same columns stands in for the primary key of ticks,
and that index is what says that the mode is on.

What stores a row once is not the key: an import looks into the ledger and at the stored rows, under a lock for each
day; a live record is compared with ``last_seq`` under the lock of its series (see :mod:`..live.write_batch`).

Readers trust that the compressed batches of a series do not overlap, else they get rows in the wrong order. So
whoever copies brings rows in order, and begins a new COPY where others may come between: see
:mod:`..history.tick_copy`.
"""

from __future__ import annotations

from typing import Any

import psycopg
from msgspec import Struct
from psycopg import sql

from ...errors import Rejected, StoreUnavailable
from ..connection.database import Database, Engine

__all__ = ["INDEX", "DirectCompress", "begin", "is_on", "status", "switch_off", "switch_on"]

INDEX = "ticks_direct_compress"
"""The plain index that stands in for the primary key of ticks."""

LOCK_WAIT = "10s"
"""How long switching waits for whoever uses the table; they wait behind it."""

_ENABLE = "timescaledb.enable_direct_compress_copy"

_SETTINGS = [_ENABLE, f"{_ENABLE}_client_sorted"]
"""The second one spares the server a sort, and readers too: chunks are not marked as out of order."""

_IS_ON = "select to_regclass(%s) is not null"

# In an order of the operator's, rows by time would be out of order.
_OUR_ORDER = """exists (select from timescaledb_information.hypertable_compression_settings
    where hypertable = 'ticks'::regclass and segmentby = 'series_id' and replace(orderby, '"', '') = 'time,seq')"""

_BEGIN = f"""select set_config(name, 'on', true) from pg_settings
    where name = any(%s) and to_regclass(%s) is not null and {_OUR_ORDER}"""  # noqa: S608

_KEY = "select conname from pg_constraint where conrelid = 'ticks'::regclass and contype = 'p'"

_IN_THE_WAY = """select 'the unique index ' || i.relname from pg_index x join pg_class i on i.oid = x.indexrelid
    where x.indrelid = 'ticks'::regclass and x.indisunique and not x.indisprimary
    union all
    select 'the trigger ' || tgname from pg_trigger
    where tgrelid = 'ticks'::regclass and not tgisinternal and tgname <> 'ts_insert_blocker'"""

_CHUNKS = """select count(*), count(*) filter (where is_compressed) from timescaledb_information.chunks
    where hypertable_schema = current_schema() and hypertable_name = 'ticks'"""


class DirectCompress(Struct, frozen=True):
    """Whether the mode is on; ``problem`` says why imports do not, or would not, compress."""

    on: bool
    problem: str | None
    chunks: int = 0
    compressed_chunks: int = 0


def begin(conn: psycopg.Connection[Any], engine: Engine) -> bool:
    """Make the COPYs of this transaction compress if the mode is on; return whether it is."""
    if engine != "timescaledb":
        return False
    return bool(conn.execute(_BEGIN, [_SETTINGS, INDEX]).fetchall())


def is_on(conn: psycopg.Connection[Any]) -> bool:
    """Return whether a plain index stands in for the key of ticks."""
    row = conn.execute(_IS_ON, [INDEX]).fetchone()
    return row is not None and bool(row[0])


async def status(database: Database) -> DirectCompress:
    """Return how it stands; changes nothing."""

    def work(conn: psycopg.Connection[Any]) -> DirectCompress:
        problem = _problem(conn, database.engine)
        counts = () if database.engine == "plain" else conn.execute(_CHUNKS).fetchone() or ()
        return DirectCompress(is_on(conn), problem, *counts)

    return await database.run(work)


async def switch_on(database: Database) -> bool:
    """Put a plain index in the place of the primary key of ticks; False if that was done before.

    Raises :class:`Rejected` where imports would not compress all the same, :class:`StoreUnavailable` if the table
    is in use for longer than ``LOCK_WAIT``. Nothing is changed then.
    """

    def work(conn: psycopg.Connection[Any]) -> bool:
        if problem := _problem(conn, database.engine):
            raise Rejected(problem)
        _lock(conn)
        if is_on(conn):
            return False
        key = conn.execute(_KEY).fetchone()
        if key is None:
            raise Rejected("the table ticks has lost its primary key: mdserver run cleanup makes it again")
        conn.execute(sql.SQL("alter table ticks drop constraint {}").format(_name(key[0])))
        conn.execute(sql.SQL("create index {} on ticks (series_id, time, seq)").format(_name(INDEX)))
        conn.execute(
            sql.SQL("comment on index {} is {}").format(
                _name(INDEX), "stands in for the primary key: mdserver run direct-compress"
            )
        )
        return True

    return await database.run(work)


async def switch_off(database: Database) -> bool:
    """Make the primary key of ticks again, in the place of the plain index; False if the mode was off.

    Compressed chunks stay as they are. Raises :class:`Rejected` if rows have the same key, :class:`StoreUnavailable`
    like :func:`switch_on`. Nothing is changed then.
    """

    def work(conn: psycopg.Connection[Any]) -> bool:
        _lock(conn)
        if not is_on(conn):
            return False
        conn.execute(sql.SQL("drop index {}").format(_name(INDEX)))
        if conn.execute(_KEY).fetchone() is None:
            try:
                conn.execute("alter table ticks add primary key (series_id, time, seq)")
            except psycopg.errors.UniqueViolation as error:
                raise Rejected(
                    "rows of ticks have the key of another, so it cannot be made again: mdserver run check finds "
                    "them, mdserver run cleanup removes them"
                ) from error
        return True

    return await database.run(work)


def _problem(conn: psycopg.Connection[Any], engine: Engine) -> str | None:
    """Return why TimescaleDB does not compress what is copied, whatever the key."""
    if engine != "timescaledb":
        return "direct compress is TimescaleDB's: this database keeps ticks in tables of plain PostgreSQL"
    if not conn.execute("select from pg_settings where name = %s", [_ENABLE]).fetchall():
        row = conn.execute("select extversion from pg_extension where extname = 'timescaledb'").fetchone()
        return f"TimescaleDB {row[0] if row else ''} has no direct compress: it came with 2.21"
    if not conn.execute(f"select where {_OUR_ORDER}").fetchall():
        return (
            "ticks are not compressed by series_id in the order of time, seq: set compress_orderby as it was"
        )
    if found := [name for (name,) in conn.execute(_IN_THE_WAY).fetchall()]:
        return f"TimescaleDB compresses no COPY into a table with {', '.join(found)}"
    return None


def _lock(conn: psycopg.Connection[Any]) -> None:
    conn.execute("set local statement_timeout = 0")
    conn.execute("select set_config('lock_timeout', %s, true)", [LOCK_WAIT])
    try:
        conn.execute("lock table ticks in access exclusive mode")
    except psycopg.errors.LockNotAvailable as error:
        raise StoreUnavailable(
            f"the table ticks is in use, for more than {LOCK_WAIT}: nothing was changed; try again"
        ) from error


def _name(name: str) -> sql.Identifier:
    return sql.Identifier(name)
