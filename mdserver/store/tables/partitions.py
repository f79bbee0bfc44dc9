"""Monthly partitions of the plain engine, created before the first row of a month is written.

With TimescaleDB every function here does nothing: hypertables create their chunks themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from ...kinds import record_tables

__all__ = [
    "add_key",
    "attach_partition",
    "create_partitions",
    "ensure_ahead",
    "ensure_partitions",
    "forget_all_partitions",
    "forget_partitions",
    "partition_name",
]

LOCK_CLASS = 0x6D647061
"""The advisory locks for creating partitions: "mdpa" in ASCII, with the hash of the partition's name."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_known: set[tuple[str, str]] = set()
"""(database, partition) of partitions seen committed, and (database, table) of tables without partitions. Grows by a
few entries a month; adding and removing are atomic, so worker threads need no lock."""


def ensure_partitions(conn: psycopg.Connection[Any], table: str, first_us: int, last_us: int) -> None:
    """Create the monthly partitions of ``table`` that cover ``[first_us, last_us]`` (microseconds, both inclusive).

    Call it first in the transaction that writes the rows: the partitions are committed or rolled back with them.
    Costs nothing for months that this process has seen, else one query. Blocking; safe in several processes at once
    (the second waits for the first one's commit). Writers and readers of other months are not blocked.
    """
    for month in _claim(conn, table, _months(first_us, last_us)):
        _create(conn, table, month)
        attach_partition(conn, table, month)


def create_partitions(conn: psycopg.Connection[Any], table: str, times_us: Iterable[int]) -> list[datetime]:
    """Create the missing partitions for these times as tables of their own, without indexes; return their months.

    For bulk loads: building the key over all rows costs half of adding each row to it. Nobody sees the tables before
    :func:`add_key` and :func:`attach_partition`, which must follow in this transaction; whoever wants to write to the
    same months waits until it ends. Otherwise like :func:`ensure_partitions`.
    """
    months = sorted({_start(_EPOCH + timedelta(microseconds=time_us)) for time_us in times_us})
    created = _claim(conn, table, months)
    for month in created:
        _create(conn, table, month)
    return created


def add_key(conn: psycopg.Connection[Any], table: str, month: datetime) -> None:
    """Build the key of a table that :func:`create_partitions` made. Raises UniqueViolation if two rows share a key."""
    conn.execute(
        sql.SQL("alter table {child} add primary key (series_id, time, seq)").format(
            child=sql.Identifier(partition_name(table, month))
        )
    )


def attach_partition(conn: psycopg.Connection[Any], table: str, month: datetime) -> None:
    """Attach a table as the month's partition; PostgreSQL checks its rows and builds the indexes that it lacks.

    Until the transaction ends nobody else can attach a partition; writing and reading go on.
    """
    conn.execute(
        sql.SQL("alter table {parent} attach partition {child} for values from ({first}) to ({end})").format(
            parent=sql.Identifier(table),
            child=sql.Identifier(partition_name(table, month)),
            first=sql.Literal(month.isoformat()),
            end=sql.Literal(_next(month).isoformat()),
        )
    )


def ensure_ahead(conn: psycopg.Connection[Any]) -> None:
    """Create this and the next month's partitions of every partitioned table, so that live writes find them."""
    now = datetime.now(UTC)
    next_month = _next(now)
    for table in record_tables():
        ensure_partitions(conn, table, _to_us(now), _to_us(next_month))


def forget_partitions(conn: psycopg.Connection[Any], names: Iterable[str]) -> None:
    """Forget that these partitions exist, so that the next write checks. Call it before a drop and after its commit."""
    database = _identity(conn)
    for name in names:
        _known.discard((database, name))


def forget_all_partitions() -> None:
    """Forget which partitions exist, so that the next writes check: call it when one turned out to be gone."""
    _known.clear()


def partition_name(table: str, month: datetime) -> str:
    """Return the partition's name: ``ticks_y2024m03``."""
    return f"{table}_y{month.year:04}m{month.month:02}"


def _claim(conn: psycopg.Connection[Any], table: str, months: list[datetime]) -> list[datetime]:
    """Return the months that have no partition; until it ends, only this transaction may create them."""
    database = _identity(conn)
    if (database, table) in _known:
        return []
    missing = [month for month in months if (database, partition_name(table, month)) not in _known]
    if missing:
        missing = _absent(conn, database, table, missing)
    if not missing or (database, table) in _known:
        return []
    for month in missing:  # ascending, so that two transactions cannot wait for each other
        name = partition_name(table, month)
        conn.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", [LOCK_CLASS, name])
    # check again: another process may have created them while we waited for the lock
    return _absent(conn, database, table, missing)


def _absent(
    conn: psycopg.Connection[Any], database: str, table: str, months: list[datetime]
) -> list[datetime]:
    """Return the months without a partition, and remember the partitions that certainly exist.

    A transaction that has no id yet has written nothing, so all that it sees is committed. Otherwise a partition may
    be this transaction's own, which a rollback would remove, and is not remembered.
    """
    names = [partition_name(table, month) for month in months]
    row = conn.execute(
        """select (select relkind = 'p' from pg_class where oid = %(table)s::regclass),
                  pg_current_xact_id_if_assigned() is null,
                  array(select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
                        where i.inhparent = %(table)s::regclass and c.relname = any(%(names)s))""",
        {"table": table, "names": names},
    ).fetchone()
    if row is None:  # pragma: no cover - a select without "from" has one row
        raise AssertionError("no row")
    partitioned, clean, present = row
    if not partitioned:
        _known.add((database, table))
        return []
    if clean:
        _known.update((database, name) for name in present)
    return [month for month, name in zip(months, names, strict=True) if name not in present]


def _create(conn: psycopg.Connection[Any], table: str, month: datetime) -> None:
    """Create a partition's table, to be attached: "create … partition of" would lock out every reader of the parent."""
    conn.execute(
        sql.SQL("create table {child} (like {parent} including all excluding indexes)").format(
            child=sql.Identifier(partition_name(table, month)), parent=sql.Identifier(table)
        )
    )


def _months(first_us: int, last_us: int) -> list[datetime]:
    """Return the first instants of the months that ``[first_us, last_us]`` touches."""
    last = _EPOCH + timedelta(microseconds=last_us)
    month = _start(_EPOCH + timedelta(microseconds=first_us))
    months = []
    while month <= last:
        months.append(month)
        month = _next(month)
    return months


def _start(time: datetime) -> datetime:
    return time.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _next(time: datetime) -> datetime:
    start = _start(time)
    return (
        start.replace(year=start.year + 1, month=1)
        if start.month == 12
        else start.replace(month=start.month + 1)
    )


def _to_us(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _identity(conn: psycopg.Connection[Any]) -> str:
    """Return what distinguishes this database within this process, without a query."""
    info = conn.info
    return f"{info.host}:{info.port}/{info.dbname}"
