"""Drop rows past retention, as whole partitions or chunks, and set TimescaleDB's compression.

TimescaleDB compresses chunks by a policy of its own. But they are dropped here, not by a policy, because the counts in
``series`` must change in the same transaction. Candles stay.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from msgspec import Struct, field
from psycopg import sql

from ...errors import MdserverError, StoreUnavailable
from ...kinds import record_tables
from ..connection.database import Database, Engine
from ..connection.database_errors import DataRefused, StatementRefused
from ..lake.manifest import unpushed_days
from ..tables.migrations import APACHE
from ..tables.partitions import forget_partitions

__all__ = ["Dropped", "KeptPartitions", "drop_old", "set_compression"]

LOCK_WAIT = "2s"
"""How long dropping waits for readers, while writers queue behind it; after that it is tried again next time."""


class Dropped(Struct, frozen=True):
    """A dropped partition or chunk, and the number of its rows."""

    table: str
    name: str
    rows: int


class KeptPartitions(Struct, frozen=True):
    """What one round did.

    ``busy`` names the partitions that were in use and therefore not dropped, ``failed`` those that the database refuses
    to drop, and why: a view on it, a missing privilege. ``unpushed`` has those that do not lie in the lake yet, with
    the days that are missing.
    """

    dropped: list[Dropped]
    busy: list[str]
    failed: dict[str, str]
    unpushed: dict[str, list[str]] = field(default_factory=dict)


class _Part(Struct, frozen=True):
    table: str
    schema: str
    name: str
    start: datetime
    end: datetime


# "FOR VALUES FROM ('2024-03-01 00:00:00+00') TO ('2024-04-01 00:00:00+00')": the session is in UTC
_OLD_PARTITIONS = """select %(table)s::text, n.nspname::text, c.relname::text, starts.at, ends.at
    from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (select substring(pg_get_expr(c.relpartbound, c.oid)
        from 'TO \\(''([^'']*)''\\)')::timestamptz as at) as ends
    cross join lateral (select substring(pg_get_expr(c.relpartbound, c.oid)
        from 'FROM \\(''([^'']*)''\\)')::timestamptz as at) as starts
    where i.inhparent = %(table)s::text::regclass and ends.at <= %(before)s order by ends.at"""

_OLD_CHUNKS = """select %(table)s::text, chunk_schema::text, chunk_name::text, range_start, range_end
    from timescaledb_information.chunks
    where hypertable_schema = current_schema() and hypertable_name = %(table)s::text and range_end <= %(before)s
    order by range_end"""

_COUNT = "select series_id, count(*) from {part} group by series_id"

_CORRECT = """update series set hist_v = hist_v + 1, row_count = row_count - gone.n,
        earliest = (select time from {table} where series_id = series.id order by time limit 1),
        latest = (select time from {table} where series_id = series.id order by time desc limit 1)
    from unnest(%s::int[], %s::bigint[]) as gone(id, n) where series.id = gone.id"""

_REMEMBER = """insert into retention as known (table_name, dropped_before) values (%s, %s)
    on conflict (table_name) do update
        set dropped_before = greatest(known.dropped_before, excluded.dropped_before)"""

_FORGET_TIMES = "delete from seq_times where series_id = any(%s) and last < %s"

_POLICY = """select (config ->> 'compress_after')::interval from timescaledb_information.jobs
    where hypertable_schema = current_schema() and hypertable_name = %s and proc_name = 'policy_compression'"""


async def drop_old(
    database: Database, retention_days: int, *, lake: str | None = None, now: datetime | None = None
) -> KeptPartitions:
    """Drop the partitions whose rows are all older than ``retention_days``; 0 keeps everything.

    With the address of a ``lake`` only those of which every day lies there as it is, verified.

    Safe at any time and in several processes. Each partition is dropped in a transaction of its own, which also
    subtracts its rows from the counts in ``series``. If one cannot be dropped, the later ones of its table stay too,
    because ``dropped_before`` covers everything before it. Raises :class:`StoreUnavailable`.
    """
    kept = KeptPartitions([], [], {})
    if retention_days <= 0:
        return kept
    now = datetime.now(UTC) if now is None else now
    before = now - timedelta(days=retention_days)
    stuck: set[str] = set()
    for part in await database.run(lambda conn: _old(conn, database.engine, before)):
        if part.table in stuck:
            continue
        try:
            gone = await database.run(lambda conn, part=part: _drop(conn, database.engine, part, lake))  # type: ignore[misc]
        except _NotPushed as error:
            kept.unpushed[part.name] = error.days
            stuck.add(part.table)
            continue
        except _Busy:
            kept.busy.append(part.name)
            stuck.add(part.table)
            continue
        except (StatementRefused, DataRefused) as error:
            kept.failed[part.name] = str(error)
            stuck.add(part.table)
            continue
        if database.engine == "plain":  # again after the commit: a writer may have remembered it in between
            await database.run(lambda conn, part=part: forget_partitions(conn, [part.name]))  # type: ignore[misc]
        kept.dropped.append(gone)
    return kept


async def set_compression(database: Database, after_days: int) -> None:
    """Set TimescaleDB's compression policies as the config says; 0 is off. Raises :class:`StoreUnavailable`."""
    if database.engine == "timescaledb":
        await database.run(lambda conn: _set_compression(conn, after_days))


class _Busy(StoreUnavailable):
    """A partition to drop is in use."""


class _NotPushed(MdserverError):
    """A partition to drop does not lie in the lake yet."""

    def __init__(self, days: list[str]) -> None:
        super().__init__(", ".join(days))
        self.days = days


def _old(conn: psycopg.Connection[Any], engine: Engine, before: datetime) -> list[_Part]:
    query = _OLD_PARTITIONS if engine == "plain" else _OLD_CHUNKS
    rows = [
        row
        for table in record_tables()
        for row in conn.execute(query, {"table": table, "before": before}).fetchall()
    ]
    return [_Part(*row) for row in rows]


def _drop(conn: psycopg.Connection[Any], engine: Engine, part: _Part, lake: str | None) -> Dropped:
    conn.execute("set local statement_timeout = 0")
    conn.execute("select set_config('lock_timeout', %s, true)", [LOCK_WAIT])
    name = sql.Identifier(part.schema, part.name)
    try:
        # lock writers out first: no row may be added between counting and dropping
        conn.execute(sql.SQL("lock table {} in share row exclusive mode").format(name))
        if lake is not None and (days := unpushed_days(conn, lake, part.table, part.start, part.end)):
            raise _NotPushed(days)
        counts = conn.execute(sql.SQL(_COUNT).format(part=name)).fetchall()
        if engine == "plain":
            forget_partitions(conn, [part.name])
            conn.execute(sql.SQL("drop table {}").format(name))
        else:
            conn.execute(
                "select drop_chunks(%s::regclass, older_than => %s)", [part.table, part.end]
            ).fetchall()
    except psycopg.errors.LockNotAvailable as error:
        raise _Busy(f"{part.name} was in use for more than {LOCK_WAIT}") from error
    correct = sql.SQL(_CORRECT).format(table=sql.Identifier(part.table))
    ids = [series for series, _ in counts]
    conn.execute(correct, [ids, [count for _, count in counts]])
    conn.execute(_FORGET_TIMES, [ids, part.end])
    conn.execute(_REMEMBER, [part.table, part.end])
    return Dropped(part.table, part.name, sum(count for _, count in counts))


def _set_compression(conn: psycopg.Connection[Any], after_days: int) -> None:
    license_ = conn.execute("select current_setting('timescaledb.license', true)").fetchone()
    if license_ == (APACHE,):  # a warning was logged when the database was opened
        return
    for table in record_tables():
        row = conn.execute(_POLICY, [table]).fetchone()
        wanted = timedelta(days=after_days) if after_days else None
        if (row[0] if row else None) == wanted:
            continue
        if row:
            conn.execute("select remove_compression_policy(%s::regclass)", [table])
        if wanted:
            conn.execute("select add_compression_policy(%s::regclass, %s::interval)", [table, wanted])
