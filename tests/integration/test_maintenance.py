"""check, refresh and cleanup on planted faults, and on what is sound."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest
from msgspec import structs

from mdserver.model import Published, Tick, Topic, Trade
from mdserver.store import scan
from mdserver.store.connection.database import Database
from mdserver.store.connection.database_errors import DataRefused
from mdserver.store.store import Store
from mdserver.store.upkeep.integrity import SeriesReport, check
from mdserver.store.upkeep.primary_keys import clean_up
from mdserver.store.upkeep.rebuild_candles import refresh

pytestmark = pytest.mark.both_engines

START_US = 1_710_918_000_000_000
"""2024-03-20 07:00, a Wednesday."""
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
TICKS = Topic("mock", "EURUSD", "tick")
TRADES = Topic("mock", "BTCUSDT", "trade")

ALL = """select c.*, volume::text from candles c order by series_id, timeframe, time"""


async def run(database: Database, *statements: str) -> None:
    def work(conn: psycopg.Connection[Any]) -> None:
        for statement in statements:
            conn.execute(statement)

    await database.run(work)


async def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    return await database.run(lambda conn: conn.execute(query).fetchall())


@pytest.fixture
async def filled(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Two series without gaps: ticks around a month's end, trades over some hours, sizes of every kind."""
    monkeypatch.setattr(scan, "BLOCK_ROWS", 37)
    random_ = random.Random(7)  # noqa: S311
    store = Store(database)
    start = START_US + 9 * DAY_US  # Friday, 29 March
    batch = [
        Published(
            TICKS,
            n,
            Tick(
                "EURUSD",
                start + n * HOUR_US // 7,
                random_.uniform(1, 2),
                2.0,
                random_.choice([None, 0.1, 1e13]),
            ),
        )
        for n in range(1, 500)
    ]
    for first in range(0, 500, 90):
        await store.write(batch[first : first + 90])
    late = Tick("EURUSD", start + 5 * HOUR_US + 1, 1.25, 1.5, 0.3, 0.00000001)
    trades = [
        Published(TRADES, n, Trade("BTCUSDT", START_US + n * HOUR_US // 3, 5.0 + n, 0.1))
        for n in range(1, 30)
    ]
    await store.write([Published(TICKS, 500, late), *trades])
    return database


def kinds(reports: list[SeriesReport]) -> list[str]:
    return [finding.kind for report in reports for finding in report.findings]


async def test_sound_data_has_no_findings(filled: Database) -> None:
    reports = await check(filled)
    assert kinds(reports) == []
    ticks, trades = sorted(reports, key=lambda report: report.symbol, reverse=True)
    assert (ticks.market, ticks.rows, trades.market, trades.rows) == ("fx", 500, "crypto", 29)
    assert [month.month for month in ticks.months] == ["2024-03", "2024-04"]
    assert sum(month.rows for month in ticks.months) == 500
    assert ticks.months[0].late == 1
    assert [report.symbol for report in await check(filled, "BTCUSDT")] == ["BTCUSDT"]


async def test_refresh_of_sound_data_changes_nothing(filled: Database) -> None:
    before = await rows(filled, "select s.*, (select max(xmin::text) from candles) from series s order by id")
    assert [(one.candles, one.metadata) for one in await refresh(filled)] == [(0, False)] * 2
    assert (
        await rows(filled, "select s.*, (select max(xmin::text) from candles) from series s order by id")
        == before
    )


SERIES = "(select id from series where symbol = 'EURUSD')"


@pytest.mark.parametrize(
    "fault",
    [
        f"delete from candles where series_id = {SERIES}",
        f"update candles set close = close + 1e-15 where series_id = {SERIES} and timeframe = 60 and close > 1.5",
        f"update candles set volume = volume + 0.00000001 where series_id = {SERIES} and timeframe = 3600",
        f"update candles set row_count = 0 where series_id = {SERIES} and timeframe = 86400",
        f"""insert into candles (series_id, timeframe, time, open, high, low, close, volume, row_count)
            select {SERIES}, 60, '2024-03-30 00:01Z', 1, 1, 1, 1, 0, 1""",
    ],
)
async def test_wrong_candles_are_found_and_rebuilt_to_the_bit(filled: Database, fault: str) -> None:
    before = await rows(filled, ALL)
    await run(filled, fault)
    damaged = await rows(filled, ALL)
    assert damaged != before
    reports = await check(filled)
    assert set(kinds(reports)) == {"candles"}
    changed = {one.symbol: one.candles for one in await refresh(filled)}
    assert changed["BTCUSDT"] == 0
    assert changed["EURUSD"] == sum(finding.count for report in reports for finding in report.findings)
    assert await rows(filled, ALL) == before
    assert kinds(await check(filled)) == []
    assert await rows(filled, "select hist_v from series order by symbol desc") == [(2,), (0,)]


async def test_refresh_of_a_part(filled: Database) -> None:
    await run(filled, "delete from candles")
    await refresh(
        filled, "EURUSD", START_US // DAY_US * DAY_US + 10 * DAY_US, START_US // DAY_US * DAY_US + 11 * DAY_US
    )
    days = await rows(filled, "select distinct time::date::text from candles")
    assert days == [("2024-03-30",)]


async def test_wrong_metadata(filled: Database) -> None:
    truth = await rows(filled, "select row_count, earliest, latest from series order by id")
    await run(
        filled,
        "update series set row_count = row_count + 1, latest = latest + interval '1 s' where type = 'tick'",
    )
    assert kinds(await check(filled)) == ["metadata", "metadata"]
    await refresh(filled)
    assert await rows(filled, "select row_count, earliest, latest from series order by id") == truth
    assert kinds(await check(filled)) == []


async def test_missing_hours(filled: Database) -> None:
    """A hole on a trading day is found, the weekend is not."""
    await run(filled, "delete from ticks where time between '2024-04-01 03:00Z' and '2024-04-01 04:59:59Z'")
    await refresh(filled)
    (report,) = [one for one in await check(filled) if one.type == "tick"]
    (finding,) = report.findings
    assert (finding.kind, finding.month, finding.count) == ("missing_hours", "2024-04", 2)
    assert finding.at == ["2024-04-01T03:00:00Z", "2024-04-01T04:00:00Z"]
    assert report.months[1].missing_hours == 2


LEDGER = f"""insert into import_ledger (series_id, hour, outcome, row_count)
    select {SERIES}, date_trunc('hour', time), 'ok', count(*) from ticks group by 2"""


async def imported(database: Database) -> None:
    """Make the ticks look as if an import had written them: numbered within each hour."""
    await run(
        database,
        """update ticks set seq = numbered.n + 1000000 from
            (select time as t, seq as s,
                row_number() over (partition by date_trunc('hour', time) order by time, seq) as n
             from ticks) as numbered where time = numbered.t and seq = numbered.s""",
        "update ticks set seq = seq - 1000000",
        f"update series set last_seq = 0 where id = {SERIES}",
        LEDGER,
    )


async def test_an_import_that_is_sound(filled: Database) -> None:
    await imported(filled)
    assert kinds(await check(filled, "EURUSD")) == []


async def test_faults_of_an_import(filled: Database) -> None:
    await imported(filled)
    await run(
        filled,
        "update import_ledger set row_count = 3 where hour = '2024-04-01 01:00Z'",
        "update import_ledger set outcome = 'failed', row_count = 0 where hour = '2024-04-01 02:00Z'",
        "delete from import_ledger where hour = '2024-04-01 03:00Z'",
        "update ticks set seq = 10 - seq where time >= '2024-04-01 05:00Z' and time < '2024-04-01 06:00Z'",
        "delete from ticks where time >= '2024-04-01 04:00Z' and time < '2024-04-01 05:00Z'",
        "delete from import_ledger where hour = '2024-04-01 04:00Z'",
    )
    await refresh(filled)
    (report,) = await check(filled, "EURUSD")
    assert [(one.kind, one.count, one.at[0][11:13]) for one in report.findings] == [
        ("unsorted", 1, "05"),
        ("ledger", 1, "01"),
        ("failed_hours", 1, "02"),
        ("ledger", 1, "03"),
        ("missing_hours", 1, "04"),
    ]


async def test_hours_that_failed_on_days_without_any_row_are_found(filled: Database) -> None:
    await imported(filled)
    await run(
        filled,
        f"""insert into import_ledger (series_id, hour, outcome, settled, cause)
            select {SERIES}, '2024-05-07'::timestamptz + n * interval '1 hour', 'failed', false, 'gone'
            from generate_series(0, 23) as n""",
    )
    (report,) = await check(filled, "EURUSD")
    assert [(one.kind, one.count, one.month) for one in report.findings] == [("failed_hours", 24, "2024-05")]


async def test_duplicates_of_a_foreign_writer(filled: Database) -> None:
    before = await rows(filled, ALL)
    counts = await rows(filled, "select row_count, earliest, latest from series order by id")
    await run(
        filled,
        "alter table ticks drop constraint ticks_pkey",
        "insert into ticks select * from ticks where seq % 3 = 0",
        "insert into ticks select time, seq, 9, 9, null, null, series_id from ticks where seq = 5",
    )
    reports = await check(filled, "EURUSD")
    assert {"no_primary_key", "duplicates", "candles", "metadata"} == set(kinds(reports))
    duplicates = [one.count for report in reports for one in report.findings if one.kind == "duplicates"]
    assert sum(duplicates) == 166 + 1
    (cleaned,) = await clean_up(filled)
    assert (cleaned.table, cleaned.removed, cleaned.rebuilt) == ("ticks", 167, True)
    assert kinds(await check(filled)) == []
    assert await rows(filled, ALL) == before
    assert await rows(filled, "select row_count, earliest, latest from series order by id") == counts
    with pytest.raises(DataRefused):
        await run(filled, "insert into ticks select * from ticks limit 1")
    assert await clean_up(filled) == []


async def test_rows_that_nobody_knows(filled: Database) -> None:
    await run(
        filled,
        "insert into ticks select time, 1000, bid, ask, null, null, series_id from ticks where seq = 499",
    )
    found = kinds(await check(filled, "EURUSD"))
    assert "unknown_seq" in found


async def test_an_empty_database(database: Database) -> None:
    assert await check(database) == []
    assert await refresh(database) == []
    assert await clean_up(database) == []


async def test_check_of_a_series_without_rows(filled: Database) -> None:
    await run(filled, "delete from ticks", "delete from candles", "delete from trades")
    await refresh(filled)
    reports = await check(filled)
    assert [structs.asdict(report)["months"] for report in reports] == [[], []]
    assert kinds(reports) == []
