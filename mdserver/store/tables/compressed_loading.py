"""TimescaleDB's direct-compress COPY: imported ticks are compressed on arrival instead of later.

TimescaleDB does so only if the table has no unique key; with one it silently falls back to the slow path. So this is a
mode of the table that an operator switches on: a plain index on the same columns then replaces the primary key of
ticks. The presence of that index is the record that the mode is on.

Even without the key no row is stored twice: an import checks the ledger and the stored rows, under a lock for each
day; a live record is compared with ``last_seq`` under the lock of its series (see :mod:`..live.write_batch`).

TimescaleDB reads rows in the wrong order if the compressed batches of a series overlap. So whoever copies must sort
the rows, and begin a new COPY where other rows may come in between: see :mod:`..history.tick_copy`.
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
"""The plain index that replaces the primary key of ticks."""

LOCK_WAIT = "10s"
"""How long switching waits for a lock on the table; everybody else queues behind it meanwhile."""

_ENABLE = "timescaledb.enable_direct_compress_copy"

_SETTINGS = [_ENABLE, f"{_ENABLE}_client_sorted"]
"""The second one saves a sort, on writing and on reading: chunks are not marked as unordered."""

_IS_ON = "select to_regclass(%s) is not null"

# If the operator has configured another order, our rows, sorted by time, would be unordered.
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
    """Whether the mode is on; ``problem`` is why imports do not, or would not, compress."""

    on: bool
    problem: str | None
    chunks: int = 0
    compressed_chunks: int = 0


def begin(conn: psycopg.Connection[Any], engine: Engine) -> bool:
    """Have the COPYs of this transaction compress if the mode is on; return whether it is."""
    if engine != "timescaledb":
        return False
    return bool(conn.execute(_BEGIN, [_SETTINGS, INDEX]).fetchall())


def is_on(conn: psycopg.Connection[Any]) -> bool:
    """Return whether a plain index replaces the primary key of ticks."""
    row = conn.execute(_IS_ON, [INDEX]).fetchone()
    return row is not None and bool(row[0])


async def status(database: Database) -> DirectCompress:
    """Return the present state; change nothing."""

    def work(conn: psycopg.Connection[Any]) -> DirectCompress:
        problem = _problem(conn, database.engine)
        counts = () if database.engine == "plain" else conn.execute(_CHUNKS).fetchone() or ()
        return DirectCompress(is_on(conn), problem, *counts)

    return await database.run(work)


async def switch_on(database: Database) -> bool:
    """Replace the primary key of ticks by a plain index; return False if the mode was on already.

    Raises :class:`Rejected` if imports would not compress all the same, and :class:`StoreUnavailable` if the table is
    in use for longer than ``LOCK_WAIT``; nothing is changed then.
    """

    def work(conn: psycopg.Connection[Any]) -> bool:
        if problem := _problem(conn, database.engine):
            raise Rejected(problem)
        _lock(conn)
        if is_on(conn):
            return False
        key = conn.execute(_KEY).fetchone()
        if key is None:
            raise Rejected("the table ticks has lost its primary key; `mdserver run cleanup` restores it")
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
    """Restore the primary key of ticks in place of the plain index; return False if the mode was off.

    Compressed chunks stay as they are. Raises :class:`Rejected` if two rows have the same key, and
    :class:`StoreUnavailable` as :func:`switch_on` does; nothing is changed then.
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
                    "the primary key cannot be restored, because some rows of ticks have the same key: "
                    "`mdserver run check` lists them, `mdserver run cleanup` removes them"
                ) from error
        return True

    return await database.run(work)


def _problem(conn: psycopg.Connection[Any], engine: Engine) -> str | None:
    """Return why TimescaleDB would not compress a COPY even without the key, or None."""
    if engine != "timescaledb":
        return "direct compress needs TimescaleDB: this database stores ticks in tables of plain PostgreSQL"
    if not conn.execute("select from pg_settings where name = %s", [_ENABLE]).fetchall():
        row = conn.execute("select extversion from pg_extension where extname = 'timescaledb'").fetchone()
        return f"TimescaleDB {row[0] if row else ''} has no direct compress: it came with 2.21"
    if not conn.execute(f"select where {_OUR_ORDER}").fetchall():
        return (
            "ticks are not compressed by series_id and ordered by time, seq: restore that setting of "
            "compress_segmentby and compress_orderby"
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
            f"the table ticks was in use for more than {LOCK_WAIT}: nothing was changed; try again"
        ) from error


def _name(name: str) -> sql.Identifier:
    return sql.Identifier(name)
