"""Records that come into a day of which the lake has more than the database: joined there, dropped again, none lost."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from mdserver.commands.database_access import DatabaseAccess
from mdserver.config import LakeConfig
from mdserver.market_hours import HOUR_US
from mdserver.model import Published, Record, RecordColumns, Tick, Topic, Trade
from mdserver.plugin import TickHour
from mdserver.store.connection.database import Database
from mdserver.store.history.fill_gap import add_records
from mdserver.store.store import Store
from mdserver.store.upkeep.retention import KeptPartitions, drop_old
from mdserver_lake.bucket import Bucket, open_bucket
from mdserver_lake.codec import Header, decode_candles, decode_records
from mdserver_lake.layout import DAY_US, Place, day_start_us
from tests.integration.test_lake import (
    DAYS,
    QUOTES,
    TRADES,
    load_ticks,
    other,  # noqa: F401 - a fixture
    pull_all,
    push_all,
    rows,
    stream,
    ticks_of,
    verify_all,
)

DAY = DAYS[0]
START_US = day_start_us(DAY)
TRADED, QUOTED = Place("trade", *TRADES[:3], DAY), Place("tick", "dukascopy", "EURUSD", "tick", DAY)
NOW = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return open_bucket(LakeConfig(url=f"file://{tmp_path}/lake"))


@pytest.fixture
def access(database: Database) -> DatabaseAccess:
    return DatabaseAccess(database, write=True)


async def drop(database: Database, bucket: Bucket) -> KeptPartitions:
    return await drop_old(database, 20, lake=bucket.address, now=NOW)


async def in_lake(bucket: Bucket, place: Place) -> tuple[RecordColumns, Header]:
    return decode_records(await bucket.get(place.key) or b"")


async def candles_in_lake(bucket: Bucket, place: Place) -> int:
    """Return how many records the candle of the day counts."""
    data = await bucket.get(place._replace(kind="candle").key) or b""
    return next(one.row_count for one in decode_candles(data)[0] if one.timeframe_s == 86_400)


async def come_late(database: Database, how: str, seq: int = 51) -> None:
    """A trade of the day: out of a journal, between those that are there or behind them, or out of a gap."""
    at = START_US + (DAY_US - 1 if how == "journal, behind" else HOUR_US // 2)
    late = Trade("BTCUSDT", at, 66_000.0, 9.0, "buy", "late")
    if how == "gap":
        await database.run(lambda conn: add_records(conn, TRADES, [late]))
    else:
        await Store(database).write([Published(TRADES, seq, late, at + 5)])


@pytest.mark.parametrize("how", ["gap", "journal, behind", "journal, between"])
@pytest.mark.parametrize("dropped_first", [True, False])
async def test_a_late_record_reaches_the_lake_before_it_is_dropped(
    database: Database, access: DatabaseAccess, bucket: Bucket, how: str, *, dropped_first: bool
) -> None:
    await stream(database, DAYS[:1])
    assert (await push_all(access, bucket)).rows == 50
    if dropped_first:
        assert len((await drop(database, bucket)).dropped) == 1
    await come_late(database, how)
    kept = await drop(database, bucket)
    assert kept.dropped == []
    assert kept.unpushed == {"trades_y2024m03": [f"binance BTCUSDT trade {DAY}"]}
    pushed = await push_all(access, bucket)
    assert (pushed.failed, pushed.done, pushed.rows) == ([], 1, 51)
    records, _ = await in_lake(bucket, TRADED)
    assert sorted(records.values["trade_id"].tolist(), key=str).count("late") == 1
    assert await candles_in_lake(bucket, TRADED) == len(records.time_us) == 51
    assert len((await drop(database, bucket)).dropped) == 1
    assert await rows(database, "select count(*) from trades") == [(0,)]
    assert (await push_all(access, bucket)).done == 0
    assert (await verify_all(access, bucket)).ok
    assert (await pull_all(access, bucket)).rows == 51
    assert len((await drop(database, bucket)).dropped) == 1
    assert (await push_all(access, bucket)).rows == 0
    assert len((await in_lake(bucket, TRADED))[0].time_us) == 51


async def test_an_hour_that_is_imported_into_a_dropped_day_joins_its_hours(
    database: Database, access: DatabaseAccess, bucket: Bucket
) -> None:
    await load_ticks(access, DAYS[:1])
    await push_all(access, bucket)
    before, known = await in_lake(bucket, QUOTED)
    assert len((await drop(database, bucket)).dropped) == 1
    for hour, seed in ((7, 5), (12, 6)):  # one revised, one that was missing
        at = START_US + hour * HOUR_US
        load = TickHour(at, partial(ticks_of, at, count=30, seed=seed), f"sum-{hour}-{seed}", "s", "o")
        await access.load_hours("dukascopy", "EURUSD", [load])
    assert (await drop(database, bucket)).unpushed == {"ticks_y2024m03": [f"dukascopy EURUSD tick {DAY}"]}
    assert (await push_all(access, bucket)).rows == len(before.time_us) - 40 + 30 + 30
    after, header = await in_lake(bucket, QUOTED)
    for hour, count in ((0, 40), (7, 30), (8, 40), (12, 30), (20, 40)):
        at = START_US + hour * HOUR_US
        assert ((after.time_us >= at) & (after.time_us < at + HOUR_US)).sum() == count
        assert next(one for one in header.hours if one.hour_us == at).count == count
    assert len(header.hours) == len(known.hours) + 1
    assert await candles_in_lake(bucket, QUOTED) == len(after.time_us)
    assert len((await drop(database, bucket)).dropped) == 1
    assert (await pull_all(access, bucket)).failed == []
    assert await rows(database, "select count(*) from ticks") == [(len(after.time_us),)]


async def test_late_records_of_a_day_that_was_dropped_before_there_was_a_lake(
    database: Database, access: DatabaseAccess, bucket: Bucket
) -> None:
    """Also of a series of which nothing else was ever stored."""
    await stream(database, DAYS[:1])
    await drop_old(database, 20, now=NOW)
    await come_late(database, "gap")
    unknown = Topic("kraken", "ETHUSDT", "trade")
    new = Trade("ETHUSDT", START_US + 1, 3_000.0, 1.0)
    await database.run(lambda conn: add_records(conn, unknown, [new]))
    assert len((await drop(database, bucket)).unpushed["trades_y2024m03"]) == 2
    assert (await push_all(access, bucket)).rows == 2
    assert len((await in_lake(bucket, Place("trade", *unknown[:3], DAY)))[0].time_us) == 1
    assert len((await drop(database, bucket)).dropped) == 1


@pytest.mark.parametrize("what", ["gone", "damaged"])
async def test_a_late_record_does_not_take_the_place_of_a_day_that_cannot_be_read(
    database: Database, access: DatabaseAccess, bucket: Bucket, tmp_path: Path, what: str
) -> None:
    await stream(database, DAYS[:1])
    await push_all(access, bucket)
    await drop(database, bucket)
    await come_late(database, "gap")
    path = tmp_path / "lake" / TRADED.key
    whole = path.read_bytes()
    path.unlink()
    if what == "damaged":
        path.write_bytes(whole[:-50])
    report = await push_all(access, bucket)
    assert (len(report.failed), report.rows) == (1, 0)
    assert "bring back the object" in report.failed[0].why
    assert (await drop(database, bucket)).dropped == []
    path.write_bytes(whole)
    assert (await push_all(access, bucket)).rows == 51
    assert len((await drop(database, bucket)).dropped) == 1


async def test_a_new_database_does_not_push_its_half_over_the_day_of_the_old_one(
    database: Database,
    access: DatabaseAccess,
    bucket: Bucket,
    other: Database,  # noqa: F811
) -> None:
    """And pushing in turns stores no record twice."""

    def batch(first: int) -> list[Published]:
        records: list[Record] = [
            Tick("BTCUSDT", START_US + n * 3_000_000, 60_000.0 + n, 60_001.0 + n) for n in range(20)
        ]
        return [
            Published(QUOTES, seq, record, record.time_us + 7)
            for seq, record in enumerate(records[first : first + 10], 1)
        ]

    new = DatabaseAccess(other, write=True)
    await Store(database).write(batch(0))
    await Store(other).write(batch(10))
    place = Place("tick", *QUOTES[:3], DAY)
    assert (await push_all(access, bucket)).rows == 10
    assert (await push_all(new, bucket)).rows == 20
    for one in (access, new, access):
        await verify_all(one, bucket)  # which tells that another one has written it
        await push_all(one, bucket)
        records, _ = await in_lake(bucket, place)
        assert records.values["bid"].tolist() == [60_000.0 + n for n in range(20)]
        assert await candles_in_lake(bucket, place) == 20
    assert len((await drop(database, bucket)).dropped) == 1
