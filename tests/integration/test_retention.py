"""Old partitions and chunks go, with their share of the counts; new months come ahead of time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from mdserver.model import Published, Tick, Topic, Trade
from mdserver.store.connection.database import Database, Engine
from mdserver.store.store import Store
from mdserver.store.tables.partitions import ensure_ahead
from mdserver.store.upkeep import retention
from mdserver.store.upkeep.integrity import check
from mdserver.store.upkeep.rebuild_candles import refresh
from mdserver.store.upkeep.retention import drop_old, set_compression

pytestmark = pytest.mark.both_engines

TICKS = Topic("mock", "EURUSD", "tick")
TRADES = Topic("mock", "BTCUSDT", "trade")
DAY_US = 86_400_000_000
NOW = datetime(2024, 4, 20, tzinfo=UTC)


def us(*day: int) -> int:
    return int(datetime(*day, tzinfo=UTC).timestamp()) * 1_000_000


async def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    return await database.run(lambda conn: conn.execute(query).fetchall())


@pytest.fixture
async def store(database: Database) -> Store:
    """A tick a day from 20 January to 20 April 2024, a trade on 1 January."""
    store = Store(database)
    ticks = [
        Published(TICKS, n, Tick("EURUSD", us(2024, 1, 20) + n * DAY_US, 1.0, 1.1)) for n in range(1, 92)
    ]
    await store.write([*ticks, Published(TRADES, 1, Trade("BTCUSDT", us(2024, 1, 1), 5.0, 1.0))])
    return store


async def test_nothing_is_dropped_unless_it_is_wanted(store: Store, database: Database) -> None:
    kept = await drop_old(database, 0, now=NOW)
    assert (kept.dropped, kept.busy) == ([], [])
    assert await rows(database, "select count(*) from ticks") == [(91,)]


async def test_what_is_old_as_a_whole_is_dropped(store: Store, database: Database, engine: Engine) -> None:
    candles = await rows(database, "select * from candles order by series_id, timeframe, time")
    kept = await drop_old(database, 45, now=NOW)  # up to 6 March
    assert kept.busy == []
    first = us(2024, 3, 1) if engine == "plain" else us(2024, 2, 29)  # a Thursday, where chunks begin
    left = 51 if engine == "plain" else 52
    assert sum(one.rows for one in kept.dropped) == 92 - left
    if engine == "plain":
        assert [one.name for one in kept.dropped] == ["ticks_y2024m01", "ticks_y2024m02", "trades_y2024m01"]
    ticks, trades = sorted(await store.series(), key=lambda info: info.symbol, reverse=True)
    assert (ticks.row_count, ticks.earliest_us, ticks.latest_us) == (left, first, us(2024, 4, 20))
    assert ticks.hist_v > 0
    assert (trades.row_count, trades.earliest_us, trades.latest_us, trades.last_seq) == (0, None, None, 1)
    assert await rows(database, "select count(*) from ticks") == [(left,)]
    # candles stay, and neither check nor refresh takes offence
    assert [
        finding
        for report in await check(database)
        for finding in report.findings
        if finding.kind != "missing_hours"
    ] == []
    assert sum(one.candles for one in await refresh(database)) == 0
    assert await rows(database, "select * from candles order by series_id, timeframe, time") == candles
    again = await drop_old(database, 45, now=NOW)
    assert again.dropped == []


async def test_an_old_record_may_come_after_all(store: Store, database: Database) -> None:
    """It is stored until the next round; the candle of the dropped rows is not replaced by it alone."""
    await drop_old(database, 45, now=NOW)
    candles = await rows(database, "select * from candles order by series_id, timeframe, time")
    old = Published(TICKS, 92, Tick("EURUSD", us(2024, 1, 25), 5.0, 5.1))
    written = await store.write([old, Published(TICKS, 93, Tick("EURUSD", us(2024, 4, 20), 1.0, 1.1))])
    assert (written.rows, written.rejected) == (2, [])
    after = await rows(database, "select * from candles order by series_id, timeframe, time")
    assert [row for row in after if row[0] < NOW] == [row for row in candles if row[0] < NOW]
    kept = await drop_old(database, 45, now=NOW)
    assert [one.rows for one in kept.dropped] == [1]


@pytest.mark.plain_only
async def test_what_is_read_is_dropped_another_time(
    store: Store, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOCK_WAIT", "100ms")
    with psycopg.connect(database_url) as reader:
        reader.execute("select * from ticks").fetchall()
        kept = await drop_old(database, 45, now=NOW)
        assert kept.busy == ["ticks_y2024m01"]
        assert [one.name for one in kept.dropped] == ["trades_y2024m01"]
    kept = await drop_old(database, 45, now=NOW)
    assert [one.name for one in kept.dropped] == ["ticks_y2024m01", "ticks_y2024m02"]
    assert kept.busy == []


@pytest.mark.plain_only
async def test_months_are_made_ahead(database: Database) -> None:
    await database.run(ensure_ahead)
    now = datetime.now(UTC)
    names = [
        name for (name,) in await rows(database, "select relname::text from pg_class where relispartition")
    ]
    assert f"ticks_y{now.year}m{now.month:02}" in names
    assert len([name for name in names if name.startswith("trades_y") and "pkey" not in name]) == 2


async def test_compression_follows_the_config(timescale_database: Database) -> None:
    policies = """select hypertable_name::text, (config ->> 'compress_after')::interval::text
        from timescaledb_information.jobs where proc_name = 'policy_compression' order by 1"""
    for days, text in ((7, "7 days"), (7, "7 days"), (30, "30 days")):
        await set_compression(timescale_database, days)
        assert await rows(timescale_database, policies) == [("ticks", text), ("trades", text)]
    await set_compression(timescale_database, 0)
    assert await rows(timescale_database, policies) == []


async def test_compressed_chunks_are_dropped(timescale_database: Database) -> None:
    store = Store(timescale_database)
    await store.write([Published(TICKS, 1, Tick("EURUSD", us(2024, 1, 20), 1.0, 1.1))])
    await rows(timescale_database, "select compress_chunk(c) from show_chunks('ticks') c")
    kept = await drop_old(timescale_database, 30, now=NOW)
    assert [one.rows for one in kept.dropped] == [1]
    assert (await store.series())[0].row_count == 0
