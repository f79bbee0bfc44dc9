"""Monthly partitions of the plain engine, made before the first row of a month is written.

With TimescaleDB every function here does nothing: hypertables make their own chunks.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

__all__ = ["ensure_ahead", "ensure_partitions", "forget_partitions", "partition_name"]

PARTITIONED = ("ticks", "trades")
"""The tables that are partitioned by month."""

LOCK_KEY = 0x6D64706172746974
"""Advisory lock of whoever makes a partition: "mdpartit" in ASCII."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_known: set[tuple[str, str]] = set()
"""(database, partition) seen committed, and (database, table) of tables that are not partitioned. Only grows by
a few entries a month; adding and removing are atomic, so worker threads need no lock."""


def ensure_partitions(conn: psycopg.Connection[Any], table: str, first_us: int, last_us: int) -> None:
    """Make the monthly partitions of ``table`` that cover ``[first_us, last_us]`` (microseconds, both inclusive).

    Call it first in the transaction that writes the rows: what it makes is committed or rolled back with them.
    Costs nothing for months that this process has seen, one query otherwise. Blocking; safe in several processes
    at once (the second waits for the first one's commit). Writers and readers of other months are not blocked.
    """
    database = _identity(conn)
    if (database, table) in _known:
        return
    missing = [
        month
        for month in _months(first_us, last_us)
        if (database, partition_name(table, month)) not in _known
    ]
    if not missing:
        return
    missing = _absent(conn, database, table, missing)
    if missing and (database, table) not in _known:
        conn.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])
        # look again: another process may have made them while we waited for the lock
        for month in _absent(conn, database, table, missing):
            _create(conn, table, month)


def ensure_ahead(conn: psycopg.Connection[Any]) -> None:
    """Make this and the next month's partitions of every partitioned table, so that live writing finds them."""
    now = datetime.now(UTC)
    next_month = _next(now)
    for table in PARTITIONED:
        ensure_partitions(conn, table, _to_us(now), _to_us(next_month))


def forget_partitions(conn: psycopg.Connection[Any], names: Iterable[str]) -> None:
    """Look again for these partitions when next they are needed: call it before dropping and after the commit."""
    database = _identity(conn)
    for name in names:
        _known.discard((database, name))


def partition_name(table: str, month: datetime) -> str:
    """Return the partition's name: ``ticks_y2024m03``."""
    return f"{table}_y{month.year:04}m{month.month:02}"


def _absent(
    conn: psycopg.Connection[Any], database: str, table: str, months: list[datetime]
) -> list[datetime]:
    """Return the months whose partition is not there, remembering those that certainly are.

    A transaction that has no id yet has written nothing, so all it sees is committed. Otherwise the partition may
    be this transaction's own, gone if it is rolled back, and is not remembered.
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
    """Make one partition and attach it: "create … partition of" would lock every reader of the table out."""
    parent, child = sql.Identifier(table), sql.Identifier(partition_name(table, month))
    conn.execute(
        sql.SQL("create table {child} (like {parent} including all)").format(child=child, parent=parent)
    )
    conn.execute(
        sql.SQL("alter table {parent} attach partition {child} for values from ({first}) to ({end})").format(
            parent=parent,
            child=child,
            first=sql.Literal(month.isoformat()),
            end=sql.Literal(_next(month).isoformat()),
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
    """Tell databases apart within this process, without asking the server."""
    info = conn.info
    return f"{info.host}:{info.port}/{info.dbname}"
