"""The primary keys of ticks and trades: whether they are there, and making them again after they were lost.

mdserver never drops them and cannot write a row twice while they are there. An operator can drop one, and another
program can then write what is there already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from msgspec import Struct
from psycopg import sql

from .database import Database
from .migrations import Engine
from .refresh import Refreshed, refresh_series
from .rows import Table
from .series import list_series

__all__ = ["Cleaned", "clean_up", "tables_without_key"]

TABLES: tuple[Table, ...] = ("ticks", "trades")

# "on only" is what a key half made again looks like: it counts when it is valid.
_WITHOUT = """select name from unnest(%s::text[]) with ordinality as given(name, n)
    where not exists (select from pg_index x where x.indrelid = name::regclass and x.indisprimary and x.indisvalid)
    order by n"""

_PARTS = """select n.nspname, c.relname from pg_inherits
    join pg_class c on c.oid = inhrelid join pg_namespace n on n.oid = c.relnamespace
    where inhparent = %s::regclass order by c.relname"""

_DELETE = """with numbered as (
        select ctid, series_id, time, row_number() over (partition by series_id, time, seq order by ctid) as n
        from only {part}),
    gone as (
        delete from only {part} as stored using numbered
        where numbered.n > 1 and stored.ctid = numbered.ctid
        returning stored.series_id)
    select series_id, count(*) from gone group by series_id"""


class Cleaned(Struct):
    """What a cleanup of one table did: rows removed, whether its key was made again, what that changed in candles."""

    table: Table
    removed: int = 0
    rebuilt: bool = False
    refreshed: list[Refreshed] = []


def tables_without_key(conn: psycopg.Connection[Any]) -> list[Table]:
    """Return which of ticks and trades have lost their primary key."""
    return [name for (name,) in conn.execute(_WITHOUT, [list(TABLES)]).fetchall()]


async def clean_up(
    database: Database, *, announce: Callable[[str], None] = lambda text: None
) -> list[Cleaned]:
    """Remove rows that have the key of another, make the lost keys again, and ANALYZE.

    Of rows with one key the one that was stored first stays. A table without its key is locked for writers until
    it has one (they wait, nothing is lost); one with its key cannot hold such rows and is only analyzed. Then the
    candles and counts of the series that had any are rebuilt. One transaction a table: it may be stopped at any time.
    """
    results = []
    for table in await database.run(tables_without_key):
        announce(f"{table}: removing duplicates, rebuilding the primary key")
        cleaned, touched = await database.run(
            lambda conn, table=table: _clean(conn, database.engine, table)  # type: ignore[misc]
        )
        for series in await database.run(list_series):
            if series.id in touched:
                announce(f"{table}: rebuilding the candles of {series.broker} {series.symbol}")
                cleaned.refreshed.append(await refresh_series(database, series))
        results.append(cleaned)

    def analyze(conn: psycopg.Connection[Any]) -> None:
        for table in TABLES:
            conn.execute(sql.SQL("analyze {}").format(sql.Identifier(table)))

    await database.run_autocommit(analyze)
    return results


def _clean(conn: psycopg.Connection[Any], engine: Engine, table: Table) -> tuple[Cleaned, set[int]]:
    """Return what was done, and the ids of the series that lost rows."""
    conn.execute("set local statement_timeout = 0")
    whole = sql.Identifier(table)
    conn.execute(sql.SQL("lock table {} in share row exclusive mode").format(whole))
    if engine == "timescaledb":  # rows in compressed chunks have no place of their own
        conn.execute("select decompress_chunk(chunk, true) from show_chunks(%s::regclass) as chunk", [table])
    cleaned = Cleaned(table, rebuilt=True, refreshed=[])
    touched: set[int] = set()
    parts = [sql.Identifier(*names) for names in conn.execute(_PARTS, [table]).fetchall()]
    for part in parts or [whole]:
        rows = conn.execute(sql.SQL(_DELETE).format(part=part)).fetchall()
        touched.update(series_id for series_id, _ in rows)
        cleaned.removed += sum(count for _, count in rows)
    conn.execute(sql.SQL("alter table {} add primary key (series_id, time, seq)").format(whole))
    return cleaned, touched
