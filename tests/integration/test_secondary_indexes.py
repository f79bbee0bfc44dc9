"""Dropping and recreating secondary indexes, whatever happens in between."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import trio
from psycopg import sql

from mdserver.errors import Rejected, StoreUnavailable
from mdserver.model import Published, Tick, Topic
from mdserver.store.connection.database import Database, Engine
from mdserver.store.store import Store
from mdserver.store.tables import recreate_indexes as reindex
from mdserver.store.tables import secondary_indexes as indexes
from mdserver.store.tables.recreate_indexes import recreate
from mdserver.store.tables.secondary_indexes import drop_secondary, status

pytestmark = pytest.mark.both_engines

TOPIC = Topic("mock", "EURUSD", "tick")
START_US = 1_710_918_000_000_000
MONTH_US = 31 * 86_400_000_000

DEFINITIONS = """select schemaname::text, indexname::text, indexdef from pg_indexes
    where tablename = any(array['ticks', 'trades', 'ticks_y2024m03', 'ticks_y2024m04']) order by 1, 2"""


async def run(database: Database, *statements: str) -> None:
    def work(conn: psycopg.Connection[Any]) -> None:
        for statement in statements:
            conn.execute(statement)

    await database.run(work)


async def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    return await database.run(lambda conn: conn.execute(query).fetchall())


async def definitions(database: Database) -> list[tuple[Any, ...]]:
    return await rows(database, DEFINITIONS)


@pytest.fixture
async def filled(database: Database) -> Database:
    """Ticks in two months, and an operator's indexes."""
    ticks = [
        Published(TOPIC, n, Tick("EURUSD", START_US + n * MONTH_US // 50, 1.0, 1.1)) for n in range(1, 61)
    ]
    await Store(database).write(ticks)
    await run(
        database,
        "create index ticks_brin on ticks using brin (time) with (pages_per_range = 16)",
        'create index "Odd ""name"" {x} ON y USING" on ticks (bid, ask desc) where bid > 1',
        "create index trades_by_size on trades (size) include (price)",
        "comment on index ticks_brin is 'for months'",
    )
    return database


async def test_all_come_back_as_they_were(filled: Database, engine: Engine) -> None:
    if engine == "plain":
        await run(filled, "create index only_april on ticks_y2024m04 (ask)")
    before = await definitions(filled)
    dropped = await drop_secondary(filled)
    assert {index.name for index in dropped} == {
        "ticks_brin",
        'Odd "name" {x} ON y USING',
        "trades_by_size",
        *(["only_april"] if engine == "plain" else []),
    }
    assert all(index.size_bytes > 0 for index in dropped if index.table != "trades")
    assert all("pkey" in name for _, name, _ in await definitions(filled))
    assert {index.name for index in (await status(filled)).dropped} == {index.name for index in dropped}
    report = await recreate(filled)
    assert {one.name for one in report.indexes} == {index.name for index in dropped}
    assert all(one.size_bytes > 0 for one in report.indexes if one.table != "trades")
    after = await definitions(filled)
    # the names of the parts on partitions are PostgreSQL's before and ours after
    whole = {name for _, name, _ in before if "ticks_y" not in name}
    assert [row for row in before if row[1] in whole] == [row for row in after if row[1] in whole]
    assert len(before) == len(after)
    assert await rows(filled, "select obj_description('ticks_brin'::regclass)") == [("for months",)]
    assert await rows(filled, "select count(*) from pg_index where not indisvalid") == [(0,)]
    now = await status(filled)
    assert (now.dropped, len(now.indexes)) == ([], len(dropped))
    assert now.primary_bytes > 0
    assert now.table_bytes > 0
    assert (await recreate(filled)).indexes == []


async def test_nothing_to_drop(database: Database) -> None:
    assert await drop_secondary(database) == []
    assert (await recreate(database)).indexes == []


async def test_what_guards_rows_is_kept(filled: Database) -> None:
    await run(filled, "create unique index one_bid on ticks (series_id, time, bid, seq)")
    assert "one_bid" not in {index.name for index in await drop_secondary(filled)}
    (kept,) = (await status(filled)).indexes
    assert (kept.name, kept.kept) == ("one_bid", "it is unique")


@pytest.mark.plain_only
@pytest.mark.parametrize("after", range(1, 4))
async def test_a_crash_while_recreating_is_repaired(
    filled: Database, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The connection is gone after so many parts; a broken build leaves an invalid index."""
    before = await definitions(filled)
    await drop_secondary(filled)
    built = 0
    build = reindex._build_one

    def dying(conn: psycopg.Connection[Any], *names: str) -> None:
        nonlocal built
        built += 1
        build(conn, *names)
        if built == after:
            name = sql.Literal(sql.Identifier(names[2]).as_string(conn))
            broken = sql.SQL("update pg_index set indisvalid = false where indexrelid = {}::regclass")
            conn.execute(broken.format(name))
            conn.close()

    monkeypatch.setattr(reindex, "_build_one", dying)
    with pytest.raises(StoreUnavailable):
        await recreate(filled)
    monkeypatch.undo()
    # PostgreSQL notices the closed connection a moment later, and drops its lock then
    with trio.fail_after(60):
        while await rows(filled, "select count(*) from pg_locks where locktype = 'advisory'") != [(0,)]:
            await trio.sleep(0.01)
    # an import that was killed as well begins by dropping again
    if after == 3:
        await drop_secondary(filled)
    await recreate(filled)
    assert len(await definitions(filled)) == len(before)
    assert await rows(filled, "select count(*) from pg_index where not indisvalid") == [(0,)]
    assert (await status(filled)).dropped == []


@pytest.mark.plain_only
async def test_a_month_that_comes_while_they_are_gone(filled: Database) -> None:
    await drop_secondary(filled)
    await Store(filled).write([Published(TOPIC, 100, Tick("EURUSD", START_US + 3 * MONTH_US, 1.0, 1.1))])
    await recreate(filled)
    parts = await rows(filled, "select count(*) from pg_indexes where tablename = 'ticks_y2024m06'")
    assert parts == [(3,)]


@pytest.mark.plain_only
async def test_a_partition_that_is_gone_needs_no_index(filled: Database) -> None:
    await run(filled, "create index only_april on ticks_y2024m04 (ask)")
    await drop_secondary(filled)
    await run(filled, "drop table ticks_y2024m04")
    lost = [one for one in (await recreate(filled)).indexes if one.lost]
    assert [(one.name, one.lost) for one in lost] == [("only_april", "its table ticks_y2024m04 is gone")]
    assert (await status(filled)).dropped == []


@pytest.mark.plain_only
async def test_two_at_once(filled: Database, database_url: str) -> None:
    await drop_secondary(filled)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", [reindex.LOCK_KEY])
        with pytest.raises(Rejected, match="another command"):
            await recreate(filled)


@pytest.mark.plain_only
async def test_tables_in_use(filled: Database, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "LOCK_WAIT", "100ms")
    with psycopg.connect(database_url) as reader:
        reader.execute("select * from ticks limit 1")
        with pytest.raises(StoreUnavailable, match="no index was dropped"):
            await drop_secondary(filled)
    assert len((await status(filled)).indexes) == 3


async def test_the_connection_is_as_before(filled: Database) -> None:
    await drop_secondary(filled)
    await recreate(filled)
    assert await rows(filled, "show statement_timeout") == [("30s",)]
    assert await rows(filled, "select pg_current_xact_id_if_assigned() is null") == [(True,)]
