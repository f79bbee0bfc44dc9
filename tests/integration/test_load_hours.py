"""Whole hours of ticks: rows, candles, ledger and metadata, in any order, against a real PostgreSQL."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import trio

from mdserver import candles
from mdserver.errors import BadMessage, Rejected
from mdserver.market_hours import HOUR_US
from mdserver.model import Published, Tick, TickColumns, Topic
from mdserver.store.connection.database import Database
from mdserver.store.connection.database_errors import DataRefused
from mdserver.store.recompute_candles import recompute
from mdserver.store.series import SeriesInfo
from mdserver.store.store import FetchedHour, Store
from mdserver.store.tables.partitions import ensure_partitions

pytestmark = pytest.mark.both_engines

START_US = 1_709_164_800_000_000
"""2024-02-29: hours from here cross the end of a month."""

SOURCE, SYMBOL = "dukascopy", "EURUSD"

CANDLES = """select timeframe, extract(epoch from time)::bigint, open, high, low, close, volume, row_count
    from candles order by 1, 2"""


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


async def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    return await database.run(lambda conn: conn.execute(query).fetchall())


def hour_us(number: int) -> int:
    return START_US + number * HOUR_US


def make_ticks(number: int, seed: int, count: int = 60) -> TickColumns:
    """Random ticks of an hour: some in one millisecond, minutes without any, sizes of every kind."""
    rng = np.random.default_rng([number, seed])
    ms = np.sort(rng.choice(np.arange(0, 3_600_000, 30_000), count)) + rng.integers(0, 2, count) * 0
    bid = 1.1 + rng.integers(-500, 500, count) / 1e5
    sizes = [rng.integers(0, 10_000_000, count) / 1e3 for _ in range(2)]
    for size in sizes:
        size[rng.random(count) < seed % 2 * 0.2] = np.nan
    return TickColumns(ms * 1000 + hour_us(number), np.round(bid, 5), np.round(bid + 0.00002, 5), *sizes)


def data(number: int, ticks: TickColumns, **fields: Any) -> FetchedHour:
    body = b"".join(column.tobytes() for column in ticks)
    checksum = hashlib.sha256(body).hexdigest()
    return FetchedHour(hour_us(number), "data", lambda: ticks, checksum, "fake", f"file {number}", **fields)


def other(number: int, kind: Any, **fields: Any) -> FetchedHour:
    def unread() -> TickColumns:
        raise AssertionError("nothing to decode")

    return FetchedHour(hour_us(number), kind, unread, **fields)


def expected(hours: Mapping[int, TickColumns]) -> list[tuple[Any, ...]]:
    """The candles of these hours' ticks, all at once, by the tested numpy code."""
    parts = [
        (np.arange(len(ticks.time_us)), *ticks) for _, ticks in sorted(hours.items()) if len(ticks.time_us)
    ]
    if not parts:
        return []
    seq, time_us, *rest = (np.concatenate(column) for column in zip(*parts, strict=True))
    prices = candles.prices_of_ticks(np.zeros(len(seq), np.int64), time_us, seq, *rest)
    return [
        (timeframe, *row[:5], Decimal(row[5]) + Decimal(row[6]) / candles.FRACTIONS, row[7])
        for timeframe, table in candles.all_timeframes(candles.candles_of_prices(prices)).items()
        for row in zip(*(values.tolist() for values in table[1:]), strict=True)
    ]


async def assert_stored(store: Store, database: Database, hours: Mapping[int, TickColumns]) -> None:
    """Everything that is stored is that of these hours, and of no others."""
    stored = await rows(
        database, "select time, seq, bid, ask, bid_size, ask_size from ticks order by time, seq"
    )
    count = sum(len(ticks.time_us) for ticks in hours.values())
    assert len(stored) == count
    times = [time for ticks in hours.values() for time in ticks.time_us.tolist()]
    (info,) = await store.series(SYMBOL)
    ends = (min(times), max(times)) if times else (None, None)
    assert (info.row_count, info.earliest_us, info.latest_us) == (count, *ends)
    assert await rows(database, CANDLES) == expected(hours)
    bids = [bid for _, ticks in sorted(hours.items()) for bid in ticks.bid.tolist()]
    assert [row[2] for row in stored] == bids
    ledger = await rows(
        database, "select extract(epoch from hour)::bigint, row_count from import_ledger where outcome = 'ok'"
    )
    assert sorted(ledger) == [
        (hour_us(number) // 1_000_000, len(ticks.time_us))
        for number, ticks in sorted(hours.items())
        if len(ticks.time_us)
    ]


async def opened(store: Store) -> SeriesInfo:
    return await store.open_series(SOURCE, SYMBOL)


async def test_hours_in_any_order_replaced_and_emptied(store: Store, database: Database) -> None:
    series = await opened(store)
    for seed in range(6):
        random_ = random.Random(seed)  # noqa: S311
        hours: dict[int, TickColumns] = {}
        await database.run(lambda conn: conn.execute("truncate ticks, candles, import_ledger"))
        await database.run(
            lambda conn: conn.execute("update series set row_count = 0, earliest = null, latest = null")
        )
        for _ in range(8):
            chosen = random_.sample(range(20, 60), random_.randint(1, 6))  # across the end of a month
            batch = []
            for number in chosen:
                if random_.random() < 0.25:
                    hours.pop(number, None)
                    batch.append(other(number, "empty"))
                else:
                    hours[number] = make_ticks(number, random_.randint(0, 3), random_.randint(1, 60))
                    batch.append(data(number, hours[number]))
            random_.shuffle(batch)
            await store.load_hours(series, batch)
        await assert_stored(store, database, hours)


async def test_recomputing_in_sql_changes_nothing(store: Store, database: Database) -> None:
    series = await opened(store)
    await store.load_hours(series, [data(number, make_ticks(number, 1)) for number in (3, 4, 9)])
    before = await rows(database, CANDLES)
    times = np.array([hour_us(number) + minute * 60_000_000 for number in (3, 4, 9) for minute in range(60)])
    known = {row[1] for row in before if row[0] == 60}
    times = times[np.isin(times // 1_000_000, list(known))]
    await database.run(lambda conn: recompute(conn, "ticks", np.full(len(times), series.id), times))
    assert await rows(database, CANDLES) == before


async def test_the_same_again_changes_nothing_and_reads_nothing(store: Store, database: Database) -> None:
    series = await opened(store)
    ticks = make_ticks(1, 2)
    await store.load_hours(series, [data(1, ticks), other(2, "empty")])
    (before,) = await store.series()
    ledger = await rows(database, "select * from import_ledger order by hour")
    unread = FetchedHour(hour_us(1), "data", other(1, "data").decode, data(1, ticks).checksum)
    results = await store.load_hours(series, [unread, other(2, "empty")])
    assert [result.status for result in results] == ["unchanged", "unchanged"]
    assert (await store.series())[0] == before
    assert await rows(database, "select * from import_ledger order by hour") == ledger


async def test_a_revision_counts_and_moves_the_ends(store: Store, database: Database) -> None:
    series = await opened(store)
    await store.load_hours(series, [data(number, make_ticks(number, 0)) for number in (5, 6, 7)])
    (before,) = await store.series()
    new = make_ticks(7, 2, 3)
    (result,) = await store.load_hours(series, [data(7, new)])
    assert (result.status, result.row_count) == ("replaced", 3)
    (after,) = await store.series()
    assert after.hist_v > before.hist_v
    await assert_stored(store, database, {5: make_ticks(5, 0), 6: make_ticks(6, 0), 7: new})
    await store.load_hours(series, [other(5, "empty")])
    await assert_stored(store, database, {6: make_ticks(6, 0), 7: new})
    await store.load_hours(series, [other(6, "empty"), other(7, "empty")])
    await assert_stored(store, database, {})


async def test_failed_is_not_empty_and_keeps_what_is_good(store: Store, database: Database) -> None:
    series = await opened(store)

    def damaged() -> TickColumns:
        raise BadMessage("file 2: truncated\0")

    bad = FetchedHour(hour_us(2), "data", damaged, "aa", "fake", "file 2")
    for _ in range(2):
        results = await store.load_hours(
            series, [data(1, make_ticks(1, 0)), bad, other(3, "failed", cause="HTTP 503")]
        )
        assert [result.status for result in results][1:] == ["failed", "failed"]
    query = "select outcome, attempts, cause from import_ledger order by hour"
    assert await rows(database, query) == [
        ("ok", 1, ""),
        ("failed", 2, "file 2: truncated"),
        ("failed", 2, "HTTP 503"),
    ]
    await store.load_hours(series, [data(2, make_ticks(2, 0)), other(3, "empty")])
    results = await store.load_hours(series, [bad, other(1, "failed", cause="gone")])
    assert [(result.status, result.row_count) for result in results] == [("failed", 60), ("failed", 60)]
    assert [row[0] for row in await rows(database, query)] == ["ok", "ok", "empty"]
    await assert_stored(store, database, {1: make_ticks(1, 0), 2: make_ticks(2, 0)})
    assert await store.settled_hours(series.id, hour_us(0), hour_us(9)) == {
        hour_us(1): False,
        hour_us(2): False,
        hour_us(3): True,
    }


async def test_a_denied_hour_is_neither_empty_nor_does_it_touch_what_is_stored(
    store: Store, database: Database
) -> None:
    series = await opened(store)
    (result,) = await store.load_hours(series, [other(1, "missing")])
    assert result.status == "failed"
    assert "neither this hour nor any other" in result.cause
    results = await store.load_hours(series, [other(1, "missing"), data(2, make_ticks(2, 0))])
    assert [result.status for result in results] == ["denied", "added"]
    assert list(await store.settled_hours(series.id, hour_us(0), hour_us(9))) == [hour_us(2)]
    (result,) = await store.load_hours(series, [other(2, "missing")])
    assert (result.status, result.row_count) == ("denied", 60)
    await assert_stored(store, database, {2: make_ticks(2, 0)})
    results = await store.load_hours(series, [other(1, "accepted"), other(2, "accepted")])
    assert [result.status for result in results] == ["empty", "denied"]
    await assert_stored(store, database, {2: make_ticks(2, 0)})
    assert (await store.settled_hours(series.id, hour_us(0), hour_us(9)))[hour_us(1)]
    (result,) = await store.load_hours(series, [other(3, "missing", settled=False, cause="no such file")])
    assert (result.status, result.cause) == ("failed", "no such file")


async def test_what_is_not_settled_is_asked_again(store: Store, database: Database) -> None:
    series = await opened(store)
    await store.load_hours(series, [data(1, make_ticks(1, 0), settled=False)])
    assert await store.settled_hours(series.id, hour_us(0), hour_us(9)) == {}
    (result,) = await store.load_hours(series, [data(1, make_ticks(1, 0))])
    assert result.status == "unchanged"
    assert await store.settled_hours(series.id, hour_us(1), hour_us(1)) == {hour_us(1): False}
    await assert_stored(store, database, {1: make_ticks(1, 0)})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ticks: ticks._replace(time_us=ticks.time_us + HOUR_US),
        lambda ticks: ticks._replace(time_us=ticks.time_us[::-1]),
        lambda ticks: ticks._replace(bid=ticks.bid * 0),
        lambda ticks: ticks._replace(ask=ticks.ask * np.nan),
        lambda ticks: ticks._replace(ask_size=ticks.ask_size * 1e12),
        lambda ticks: ticks._replace(bid_size=-ticks.bid_size - 1),
        lambda ticks: ticks._replace(bid=ticks.bid[1:]),
        lambda ticks: ticks._replace(ask=np.append(ticks.ask[1:], 5.6)),
    ],
)
async def test_what_cannot_be_true_is_a_failed_hour(
    store: Store, database: Database, spoil: Callable[[TickColumns], TickColumns]
) -> None:
    series = await opened(store)
    results = await store.load_hours(series, [data(1, spoil(make_ticks(1, 0))), data(2, make_ticks(2, 0))])
    assert [result.status for result in results] == ["failed", "added"]
    await assert_stored(store, database, {2: make_ticks(2, 0)})


async def test_a_wrong_scale_is_a_failed_hour_also_where_it_would_replace_one(
    store: Store, database: Database
) -> None:
    def scaled(number: int, factor: float) -> FetchedHour:
        ticks = make_ticks(number, 0)
        return data(number, ticks._replace(bid=ticks.bid * factor, ask=ticks.ask * factor))

    async def load(*hours: FetchedHour) -> list[str]:
        return [result.status for result in await store.load_hours(series, hours)]

    series = await opened(store)
    assert await load(scaled(1, 1), scaled(2, 100), scaled(3, 1)) == ["added", "failed", "added"]
    assert await load(scaled(4, 0.01)) == ["failed"]
    assert await load(scaled(5, 49), scaled(6, 1)) == ["added", "added"]  # a split of a share
    # each is compared with what is stored shortly before it, whatever else is loaded
    assert await load(scaled(2, 100), scaled(7 * 24 + 6, 100)) == ["failed", "failed"]
    assert await load(scaled(7 * 24 + 8, 100)) == ["added"]  # too long after
    # a revision is compared with what it would replace
    assert await load(*(scaled(number, 100) for number in (1, 2, 3))) == ["failed", "failed", "failed"]
    assert await load(scaled(1, 2), scaled(3, 0.5)) == ["replaced", "replaced"]
    factors = {1: 2.0, 3: 0.5, 5: 49.0, 6: 1.0, 7 * 24 + 8: 100.0}
    hours = {}
    for number, factor in factors.items():
        ticks = make_ticks(number, 0)
        hours[number] = ticks._replace(bid=ticks.bid * factor, ask=ticks.ask * factor)
    await assert_stored(store, database, hours)


async def test_two_at_once_on_the_same_and_on_other_days(store: Store, database: Database) -> None:
    series = await opened(store)
    hours = {number: make_ticks(number, 1) for number in range(96)}

    async def load(numbers: Sequence[int]) -> None:
        await store.load_hours(series, [data(number, hours[number]) for number in numbers])

    async with trio.open_nursery() as nursery:
        for part in (range(48), range(48, 96), range(24, 72), range(0, 96, 2)):
            nursery.start_soon(load, part)
    await assert_stored(store, database, hours)


@pytest.mark.plain_only
async def test_a_new_month_is_a_partition_like_any_other(store: Store, database: Database) -> None:
    """It has the key and the operator's own index, whether a load made it or ensure_partitions."""
    await database.run(lambda conn: conn.execute("create index own on ticks (bid)"))
    await database.run(lambda conn: ensure_partitions(conn, "ticks", hour_us(-24), hour_us(-24)))
    series = await opened(store)
    hours = {number: make_ticks(number, 1) for number in (20, 30)}
    await store.load_hours(series, [data(*item) for item in hours.items()])
    indexes = await rows(
        database,
        """select c.relname, pg_get_indexdef(indexrelid), i.inhparent::regclass::text from pg_index
           join pg_class c on c.oid = indrelid left join pg_inherits i on i.inhrelid = indexrelid
           where c.relname like 'ticks_y2024%' order by 1, 3""",
    )
    prepared, made = (
        [(definition.replace(name, ""), parent) for name, definition, parent in indexes if name == wanted]
        for wanted in ("ticks_y2024m02", "ticks_y2024m03")
    )
    assert made == prepared
    assert [parent for _, parent in made] == ["own", "ticks_pkey"]


@pytest.mark.plain_only
async def test_a_load_that_fails_leaves_no_month_behind(store: Store, database: Database) -> None:
    series = await opened(store)
    bad = make_ticks(1, 1)
    await database.run(lambda conn: conn.execute("alter table candles add constraint never check (open < 0)"))
    with pytest.raises(DataRefused):
        await store.load_hours(series, [data(1, bad)])
    await database.run(lambda conn: conn.execute("alter table candles drop constraint never"))
    assert await rows(database, "select 1 from pg_class where relname like 'ticks_y2024%'") == []
    await store.load_hours(series, [data(1, bad)])
    await assert_stored(store, database, {1: bad})


@pytest.mark.plain_only
async def test_loads_of_several_series_make_the_same_months_at_once(store: Store, database: Database) -> None:
    """Whoever comes second waits for the first one's month, and then adds to it."""
    symbols = ["AUDUSD", "EURUSD", "GBPUSD", "USDJPY"]
    batch = [data(number, make_ticks(number, 2)) for number in range(0, 60, 5)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for symbol in symbols:
                nursery.start_soon(store.load_hours, await store.open_series(SOURCE, symbol), batch)
    counts = await rows(database, "select series_id, count(*), sum(seq) from ticks group by 1")
    assert len(counts) == len(symbols)
    assert len({row[1:] for row in counts}) == 1


async def test_rows_that_the_ledger_does_not_know_are_replaced(store: Store, database: Database) -> None:
    series = await opened(store)
    await store.load_hours(series, [data(1, make_ticks(1, 0)), data(2, make_ticks(2, 0))])
    await database.run(lambda conn: conn.execute("delete from import_ledger"))
    results = await store.load_hours(series, [data(1, make_ticks(1, 1)), data(2, make_ticks(2, 0))])
    assert [result.status for result in results] == ["replaced", "replaced"]
    await assert_stored(store, database, {1: make_ticks(1, 1), 2: make_ticks(2, 0)})


async def test_a_live_series_is_not_imported_into(store: Store) -> None:
    topic = Topic(SOURCE, SYMBOL, "tick")
    await store.write([Published(topic, 1, Tick(SYMBOL, START_US, 1.1, 1.2))])
    with pytest.raises(Rejected, match="live records"):
        await opened(store)


async def test_compressed_hours_are_replaced_however_many_ticks_they_have(
    timescale_database: Database,
) -> None:
    limit = "timescaledb.max_tuples_decompressed_per_dml_transaction"
    store = Store(timescale_database)
    series = await opened(store)
    await store.load_hours(series, [data(1, make_ticks(1, 0))])
    await rows(timescale_database, "select compress_chunk(c) from show_chunks('ticks') c")
    await rows(
        timescale_database, f"select set_config('{limit}', '5', false)"
    )  # of the one session of these tests
    try:
        (result,) = await store.load_hours(series, [data(1, make_ticks(1, 1))])
        assert result.status == "replaced"
    finally:
        await rows(timescale_database, f"select set_config('{limit}', '100000', false)")
