"""The data lake against a real database, a real S3 server and a folder: up once, back equal, retention waits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import duckdb
import numpy as np
import pytest
import structlog
import trio

from mdserver.commands.database_access import DatabaseAccess
from mdserver.commands.progress import show_progress
from mdserver.config import LakeConfig
from mdserver.market_hours import HOUR_US
from mdserver.model import Published, TickColumns, Topic, Trade
from mdserver.plugin import TickHour
from mdserver.store.connection.database import Database
from mdserver.store.lake.manifest import note_pushed, read_pushed
from mdserver.store.lake.restore import OTHER_NUMBERING
from mdserver.store.open_database import open_database
from mdserver.store.store import Store
from mdserver.store.upkeep.delete_rows import Range, delete_rows
from mdserver.store.upkeep.integrity import check
from mdserver.store.upkeep.retention import drop_old
from mdserver_lake.bucket import Bucket, open_bucket
from mdserver_lake.codec import decode_candles
from mdserver_lake.contents import list_places
from mdserver_lake.layout import DAY_US, Place, day_start_us
from mdserver_lake.predecessor import FOLDER, part_of
from mdserver_lake.pull import Puller
from mdserver_lake.pull_json import pull_parts
from mdserver_lake.push import plan_push, push
from mdserver_lake.selection import Report, Selection
from mdserver_lake.status import months_of
from mdserver_lake.verify import verify
from tests.conftest import TEMPLATE
from tests.integration.importing import TABLES
from tests.lakes import new_bucket

DAYS = [date(2024, 3, 29), date(2024, 4, 1), date(2024, 4, 2)]
"""Friday, Monday, Tuesday, over the end of a month."""

EVERYTHING = Selection()
LATER_US = day_start_us(date(2024, 6, 1))
TRADES = Topic("binance", "BTCUSDT", "trade")
QUOTES = Topic("binance", "BTCUSDT", "tick")

STREAMED = """select broker, symbol, time, seq, price, size, side, trade_id, received
    from trades join series on series.id = series_id order by 1, 2, 3, 4"""


def ticks_of(hour_us: int, count: int = 40, seed: int = 0) -> TickColumns:
    rng = np.random.default_rng([hour_us // HOUR_US, seed])
    time_us = hour_us + np.sort(rng.integers(0, 3_600_000, count)) * 1_000
    bid = np.round(1.1 + rng.integers(-50, 50, count) / 1e5, 5)
    sizes = [rng.integers(1, 900, count) / 100 for _ in range(2)]
    sizes[0][rng.random(count) < 0.2] = np.nan
    return TickColumns(time_us, bid, np.round(bid + 0.00003, 5), *sizes)


async def load_ticks(access: DatabaseAccess, days: list[date] = DAYS, seed: int = 0) -> None:
    hours = [day_start_us(day) + hour * HOUR_US for day in days for hour in (0, 7, 8, 20)]
    loaded = [
        TickHour(at, partial(ticks_of, at, seed=seed), f"sum-{at}-{seed}", "datafeed", f"file {at}")
        for at in hours
    ]
    if DAYS[0] in days:
        loaded.append(TickHour(day_start_us(DAYS[0]) + 9 * HOUR_US, None, "", "datafeed", "empty"))
    results = await access.load_hours("dukascopy", "EURUSD", loaded)
    assert "failed" not in " ".join(results.values())


async def stream(database: Database, days: list[date] = DAYS) -> None:
    """Trades as they are streamed: two in a microsecond, one without side and id, times of receipt."""
    batch, seq = [], 0
    for day in days:
        for n in range(50):
            seq += 1
            at = day_start_us(day) + n // 2 * 1_700_000_123
            trade = Trade(
                "BTCUSDT",
                at,
                67_000.5 + n,
                0.001 * (n + 1),
                (None, "buy", "sell")[n % 3],
                None if n % 7 == 0 else f"id-{seq}-é",
            )
            batch.append(Published(TRADES, seq, trade, at + 999 if n % 5 else None))
    await Store(database).write(batch)


async def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    return await database.run(lambda conn: conn.execute(query).fetchall())


async def tables(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    return {name: await rows(database, query) for name, query in {**TABLES, "trades": STREAMED}.items()}


async def push_all(access: DatabaseAccess, bucket: Bucket, selection: Selection = EVERYTHING) -> Report:
    report = Report("pushed")
    plan = plan_push(access, bucket.address, selection, report, now_us=LATER_US, write=True)
    tasks = [task async for task in plan]
    with show_progress("pushing", len(tasks)) as progress:
        await push(access, bucket, tasks, report, progress)
    return report


async def pull_all(access: DatabaseAccess, bucket: Bucket, *, replace: bool = False) -> Report:
    report = Report("pulled")
    places = await list_places(bucket, Selection())
    full = {place[1:] for place in places if place.kind != "candle"}
    with show_progress("pulling", len(places)) as progress:
        puller = Puller(access, bucket, report, progress, replace)
        await puller.find_known()
        wanted = [one for one in places if one.kind != "candle" or one[1:] not in full]
        missing = [one for one in wanted if not await puller.is_there(one)]
        report.known = len(wanted) - len(missing)
        await puller.run({place: places[place] for place in missing})
    return report


async def verify_all(access: DatabaseAccess, bucket: Bucket) -> Report:
    report = Report("verified")
    known = {Place.of(one): one for one in await access.pushed_days(bucket.address)}
    with show_progress("verifying", None) as progress:
        await verify(access, bucket, known, await list_places(bucket, Selection()), report, progress)
    return report


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> LakeConfig:
    if request.param == "folder":
        return LakeConfig(url=f"file://{tmp_path}/lake")
    return new_bucket(request.getfixturevalue("s3_address"))


@pytest.fixture
def folder(tmp_path: Path) -> LakeConfig:
    return LakeConfig(url=f"file://{tmp_path}/lake")


@pytest.fixture
async def other(make_database: Callable[[str | None], str], template_url: str) -> Any:
    """Another database: empty, with a numbering of its own."""
    async with open_database(make_database(TEMPLATE), retry_for_s=0, log=structlog.get_logger()) as opened:
        await opened.run(lambda conn: conn.execute("update numbering set epoch = 'another'"))
        opened.opened = attrs.evolve(opened.opened, epoch="another")
        yield opened


async def test_a_day_goes_up_once_and_comes_back_equal(
    lake: LakeConfig, database: Database, other: Database
) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(lake)
    await load_ticks(access)
    before = await tables(database)
    first = await push_all(access, bucket)
    assert (first.failed, first.done, first.rows) == ([], 3, 3 * 4 * 40)
    second = await push_all(access, bucket)
    assert (second.ok, second.done, second.known) == (True, 0, 3)
    assert (await verify_all(access, bucket)).done == 6  # ticks and candles
    pulled = await pull_all(DatabaseAccess(other, write=True), bucket)
    assert (pulled.ok, pulled.done, pulled.rows, pulled.failed) == (True, 3, 480, [])
    assert await tables(other) == before
    assert [one.findings for one in await check(other)] == [one.findings for one in await check(database)]
    again = await pull_all(DatabaseAccess(other, write=True), bucket)
    assert (again.done, again.known) == (0, 3)
    up = await push_all(DatabaseAccess(other, write=True), bucket)  # it knows what the lake has
    assert (up.done, up.known) == (0, 3)


async def test_in_the_same_numbering_records_keep_their_numbers(
    folder: LakeConfig, database: Database
) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await stream(database)
    before = await tables(database)
    assert (await push_all(access, bucket)).rows == 150
    await delete_rows(database, Range("binance"))
    assert await rows(database, "select count(*) from trades") == [(0,)]
    pulled = await pull_all(access, bucket)
    assert (pulled.ok, pulled.rows) == (True, 150)
    assert await tables(database) == before
    # and a replay by number finds them
    assert await rows(database, "select count(*) > 0 from seq_times") == [(True,)]


async def test_in_another_numbering_they_get_numbers_that_nobody_has(
    folder: LakeConfig, database: Database, other: Database
) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await stream(database)
    before = await tables(database)
    await push_all(access, bucket)
    # the other one streams already, with the same numbers
    live = [Published(TRADES, n, Trade("BTCUSDT", LATER_US + n, 70_000.0, 1.0)) for n in range(1, 6)]
    await Store(other).write(live)
    elsewhere = DatabaseAccess(other, write=True)
    assert (await pull_all(elsewhere, bucket)).ok
    found = [row for row in await rows(other, STREAMED) if row[3] < 0]
    assert [(*row[:3], row[3] - OTHER_NUMBERING, *row[4:]) for row in found] == before["trades"]
    old = f"where c.time < timestamptz 'epoch' + interval '{day_start_us(date(2024, 5, 1)) // 1_000_000} s'"
    candles = TABLES["candles"].replace("order by", old.replace("c.time", "candles.time") + " order by")
    assert await rows(other, candles) == before["candles"]
    ((last,),) = await rows(other, "select last_seq from series where type = 'trade'")
    assert last == 5
    # once more, also past what is known of the lake: nothing twice
    assert (await pull_all(elsewhere, bucket, replace=True)).ok
    assert await rows(other, "select count(*) from trades") == [(155,)]


async def test_what_comes_back_into_timescaledb_is_equal(
    folder: LakeConfig, database: Database, timescale_database: Database
) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await load_ticks(access)
    await stream(database)
    before = await tables(database)
    await push_all(access, bucket)
    elsewhere = DatabaseAccess(timescale_database, write=True)
    for done in (6, 0):  # once more: nothing twice
        pulled = await pull_all(elsewhere, bucket)
        assert (pulled.failed, pulled.done) == ([], done)
    after = await tables(timescale_database)
    trades = [(*row[:3], row[3] - OTHER_NUMBERING, *row[4:]) for row in after.pop("trades")]
    assert trades == before.pop("trades")
    assert after == before
    assert [one.findings for one in await check(timescale_database)] == [
        one.findings for one in await check(database)
    ]


async def test_a_revised_day_goes_up_again(folder: LakeConfig, database: Database) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await load_ticks(access)
    await stream(database)
    await push_all(access, bucket)
    await load_ticks(access, DAYS[1:2], seed=1)
    late = Trade("BTCUSDT", day_start_us(DAYS[0]) + 5, 67_000.0, 1.0)
    await Store(database).write([Published(TRADES, 151, late)])
    again = await push_all(access, bucket)
    assert (again.ok, again.done, again.known) == (True, 2, 4)
    assert (await verify_all(access, bucket)).ok
    assert (await push_all(access, bucket)).done == 0


async def test_a_day_that_turned_out_to_be_empty_has_no_candles(
    folder: LakeConfig, database: Database
) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    hour_us = day_start_us(DAYS[0])
    await access.load_hours(
        "dukascopy", "EURUSD", [TickHour(hour_us, partial(ticks_of, hour_us), "a", "", "")]
    )
    await push_all(access, bucket)
    await access.load_hours("dukascopy", "EURUSD", [TickHour(hour_us, None)])
    assert (await push_all(access, bucket)).done == 1
    (candles,) = [place for place in await list_places(bucket, Selection()) if place.kind == "candle"]
    assert decode_candles(await bucket.get(candles.key) or b"")[0] == []


async def test_records_that_are_stored_after_the_push_are_not_forgotten(
    folder: LakeConfig, database: Database
) -> None:
    """They came in order, so no history changed: the count tells."""
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await stream(database, DAYS[:1])
    assert (await push_all(access, bucket)).rows == 50
    after = Trade("BTCUSDT", day_start_us(DAYS[0]) + DAY_US - 1, 67_000.0, 1.0)
    await Store(database).write([Published(TRADES, 51, after)])
    assert (await push_all(access, bucket)).rows == 51


async def test_what_is_damaged_is_found_and_repaired(
    folder: LakeConfig, database: Database, tmp_path: Path
) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await load_ticks(access)
    await push_all(access, bucket)
    torn, gone, flipped = sorted((tmp_path / "lake").rglob("*.parquet"))[-3:]
    torn.write_bytes(torn.read_bytes()[:-100])
    gone.unlink()
    data = bytearray(flipped.read_bytes())
    data[200] ^= 1
    flipped.write_bytes(data)
    found = await verify_all(access, bucket)
    assert (found.ok, found.done, len(found.failed)) == (False, 3, 3)
    assert {one.why.partition(":")[0] for one in found.failed} == {
        "it is not what was pushed",
        "it was pushed, but is not there (404)",
    }
    pulled = await pull_all(access, bucket, replace=True)
    assert not pulled.ok
    assert (await push_all(access, bucket)).done == 3
    assert (await verify_all(access, bucket)).ok


async def test_retention_waits_for_the_lake(folder: LakeConfig, database: Database) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await load_ticks(access)
    await stream(database)
    before = await tables(database)
    now = datetime(2024, 6, 1, tzinfo=UTC)
    keeping = partial(drop_old, database, 20, lake=folder.address, now=now)
    kept = await keeping()
    assert kept.dropped == []
    assert kept.unpushed == {
        "ticks_y2024m03": ["dukascopy EURUSD tick 2024-03-29"],
        "trades_y2024m03": ["binance BTCUSDT trade 2024-03-29"],
    }
    await push_all(access, bucket, Selection(last=date(2024, 3, 31)))
    kept = await keeping()
    assert [one.name for one in kept.dropped] == ["ticks_y2024m03", "trades_y2024m03"]
    assert set(kept.unpushed) == {"ticks_y2024m04", "trades_y2024m04"}
    await push_all(access, bucket)
    await load_ticks(access, DAYS[2:], seed=3)  # revised after the push
    kept = await keeping()
    assert kept.unpushed == {"ticks_y2024m04": ["dukascopy EURUSD tick 2024-04-02"]}
    await load_ticks(access, DAYS[2:], seed=0)
    await push_all(access, bucket)
    assert [one.name for one in (await keeping()).dropped] == ["ticks_y2024m04"]
    assert await rows(database, "select count(*) from ticks") == [(0,)]
    assert (await push_all(access, bucket)).done == 0
    assert (await pull_all(access, bucket)).ok
    after = await tables(database)
    assert after.pop("ledger") == before.pop("ledger")
    assert after == before


async def test_candles_come_back_alone_where_the_records_are_nowhere(
    folder: LakeConfig, database: Database, other: Database
) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await stream(database)
    candles = await rows(database, TABLES["candles"])
    await drop_old(database, 20, now=datetime(2024, 6, 1, tzinfo=UTC))
    assert (await push_all(access, bucket)).rows == 0
    assert {place.kind for place in await list_places(bucket, Selection())} == {"candle"}
    assert (await pull_all(DatabaseAccess(other, write=True), bucket)).ok
    assert await rows(other, TABLES["candles"]) == candles


async def test_others_read_it_without_us(folder: LakeConfig, database: Database, tmp_path: Path) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await load_ticks(access)
    await stream(database)
    await push_all(access, bucket)

    def ask(kind: str, select: str) -> Any:
        files = f"read_parquet('{tmp_path}/lake/kind={kind}/**/*.parquet')"
        return duckdb.sql(f"select {select} from {files} group by all").fetchall()

    ours = await rows(
        database, "select 'dukascopy', 'EURUSD', count(*), count(bid_size), 3, sum(bid) from ticks"
    )
    (found,) = ask("tick", "broker, symbol, count(*), count(bid_size), count(distinct date), sum(bid)")
    assert found[:5] == ours[0][:5]
    assert found[5] == pytest.approx(ours[0][5])
    ours = await rows(
        database, "select count(*), sum(price), count(side), count(trade_id), max(seq) from trades"
    )
    assert ask("trade", "count(*), sum(price), count(side), count(trade_id), max(seq)") == ours
    ours = await rows(database, "select count(*), sum(row_count)::bigint, sum(volume) from candles")
    assert ask("candle", 'count(*), sum("count")::bigint, sum(volume)') == ours


async def test_status_lists_months_and_holes(folder: LakeConfig, database: Database) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await load_ticks(access, [date(2024, 3, 26), date(2024, 3, 29), date(2024, 4, 2)])
    await push_all(access, bucket)
    known = {Place.of(one): one for one in await access.pushed_days(bucket.address)}
    ticks = [one for one in months_of(await list_places(bucket, Selection()), known) if one.kind == "tick"]
    assert [(one.month, one.days, one.rows, one.holes) for one in ticks] == [
        ("2024-03", 2, 320, ("2024-03-27", "2024-03-28", "2024-03-31")),
        ("2024-04", 1, 160, ("2024-04-01",)),
    ]


async def test_what_the_predecessor_left(folder: LakeConfig, database: Database, tmp_path: Path) -> None:
    day = tmp_path / "lake/ticks/EUR_USD/2024/03/05"
    day.mkdir(parents=True)
    (day / "part-0000.json").write_text(
        '[{"timestamp": "2024-03-05T07:00:00.250Z", "bid": 1.08401, "ask": 1.08403},'
        ' {"timestamp": 1709625600.5, "bid": 1.084, "ask": 1.0841, "extra": 1}]'
    )
    (day / "part-0001.json").write_text('{"timestamp": 1709622000251, "bid": "1.08402", "ask": 1.08404}\n')
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    parts = [part for one in await bucket.objects(FOLDER) if (part := part_of(one.key))]
    for known in (0, 1):
        report = Report("pulled")
        with show_progress("", None) as progress:
            await pull_parts(access, bucket, "old", parts, report, progress)
        assert (report.ok, report.done, report.known) == (True, 1, known), report.failed
    found = await rows(
        database,
        "select symbol, (extract(epoch from time) * 1000)::bigint, seq, bid, ask from ticks, series order by 2",
    )
    assert found == [
        ("EURUSD", 1_709_622_000_250, 1, 1.08401, 1.08403),
        ("EURUSD", 1_709_622_000_251, 2, 1.08402, 1.08404),
        ("EURUSD", 1_709_625_600_500, 1, 1.084, 1.0841),
    ]


async def test_an_interrupted_push_is_continued(folder: LakeConfig, database: Database) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await load_ticks(access)
    with trio.CancelScope() as scope:

        class Cut(Bucket):
            async def get(self, key: str) -> bytes | None:
                scope.cancel()  # what was written is there, but not compared
                return await super().get(key)

        await push_all(access, Cut(bucket._store, bucket.address))
    assert scope.cancelled_caught
    assert await database.run(lambda conn: read_pushed(conn, bucket.address)) == []
    assert (await push_all(access, bucket)).done == 3
    assert (await verify_all(access, bucket)).ok


async def test_the_ledger_is_of_one_lake(folder: LakeConfig, database: Database) -> None:
    access, bucket = DatabaseAccess(database, write=True), open_bucket(folder)
    await load_ticks(access)
    await push_all(access, bucket)
    found = await access.pushed_days(bucket.address)
    assert await access.pushed_days("s3://elsewhere") == []
    await database.run(lambda conn: note_pushed(conn, "s3://elsewhere", found[0]))
    assert await access.pushed_days("s3://elsewhere") == found[:1]
