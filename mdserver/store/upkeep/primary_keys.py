"""The primary keys of ticks and trades: check that they exist, and restore them after they were lost.

With them no row can be stored twice. If an operator drops one, another program can store a row again; likewise where a
plain index replaces the key of ticks (see :mod:`..tables.compressed_loading`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from msgspec import Struct
from psycopg import sql

from ..connection.database import Database, Engine
from ..rows import Table
from ..series import list_series
from ..tables import compressed_loading as direct_compress
from .rebuild_candles import Refreshed, refresh_series

__all__ = ["Cleaned", "clean_up", "tables_without_key"]

TABLES: tuple[Table, ...] = ("ticks", "trades")

# "indisvalid": a key whose restoration was interrupted exists, but is not valid.
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

_SOME = """select from {part} group by series_id, time, seq having count(*) > 1 limit 1"""


class Cleaned(Struct):
    """What a cleanup of one table did: rows removed, whether its key was rebuilt, series whose candles were rebuilt."""

    table: Table
    removed: int = 0
    rebuilt: bool = False
    refreshed: list[Refreshed] = []


def tables_without_key(conn: psycopg.Connection[Any]) -> list[Table]:
    """Return which of ticks and trades have lost their primary key and have no plain index in its place."""
    without = [name for (name,) in conn.execute(_WITHOUT, [list(TABLES)]).fetchall()]
    return [name for name in without if not (name == "ticks" and direct_compress.is_on(conn))]


async def clean_up(
    database: Database, *, announce: Callable[[str], None] = lambda text: None
) -> list[Cleaned]:
    """Remove rows that have the same key as another row, restore lost keys, and ANALYZE.

    Of rows with the same key the one that was stored first stays. A table without its key is locked for writers until
    it has one (they wait, nothing is lost); a table with its key cannot hold duplicates and is only analyzed. If ticks
    have a plain index instead of their key, they keep it. Then the candles and counts of the affected series are
    rebuilt. One transaction per table: it may be stopped at any time.
    """
    results = []
    direct = await database.run(direct_compress.is_on)
    for table in [*(["ticks"] if direct else []), *await database.run(tables_without_key)]:
        rebuild = not (direct and table == "ticks")
        announce(f"{table}: removing duplicates{', rebuilding the primary key' * rebuild}")
        cleaned, touched = await database.run(
            lambda conn, table=table, rebuild=rebuild: _clean(conn, database.engine, table, rebuild)  # type: ignore[misc]
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


def _clean(
    conn: psycopg.Connection[Any], engine: Engine, table: Table, rebuild: bool
) -> tuple[Cleaned, set[int]]:
    """Return what was done, and the ids of the series that lost rows."""
    conn.execute("set local statement_timeout = 0")
    whole = sql.Identifier(table)
    conn.execute(sql.SQL("lock table {} in share row exclusive mode").format(whole))
    cleaned = Cleaned(table, rebuilt=rebuild, refreshed=[])
    touched: set[int] = set()
    parts = [sql.Identifier(*names) for names in conn.execute(_PARTS, [table]).fetchall()] or [whole]
    if not rebuild:
        parts = [part for part in parts if conn.execute(sql.SQL(_SOME).format(part=part)).fetchall()]
    for part in parts:
        if engine == "timescaledb" and part != whole:  # rows in compressed chunks have no ctid of their own
            conn.execute("select decompress_chunk(%s::regclass, true)", [part.as_string(conn)])
        rows = conn.execute(sql.SQL(_DELETE).format(part=part)).fetchall()
        touched.update(series_id for series_id, _ in rows)
        cleaned.removed += sum(count for _, count in rows)
    if rebuild:
        conn.execute(sql.SQL("alter table {} add primary key (series_id, time, seq)").format(whole))
    return cleaned, touched
