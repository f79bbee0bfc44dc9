"""Candles of timeframes that are not stored, from memory and anew, after every kind of change; records as arrays."""

from __future__ import annotations

import lzma
import math
import random
import struct
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdserver.candles import mid
from mdserver.model import US_PER_S, Published, Tick, TickColumns, Topic, Trade
from mdserver.store.connection.database import Database
from mdserver.store.query.read_records import NO_TIME_US
from mdserver.store.store import FetchedHour, Store
from mdserver.store.upkeep.delete_rows import Range, delete_rows
from mdserver.store.upkeep.rebuild_candles import refresh
from mdserver.timeframes import Align, parse_timeframe

from .test_bid_ask_candles import rows
from .test_load_hours import data, hour_us, make_ticks

pytestmark = pytest.mark.both_engines

T0 = 1_710_000_000 // 86_400 * 86_400
"""2024-03-09, the day before New York's clocks go forward."""

DAYS = 5
SPAN = (T0, T0 + DAYS * 86_400)
TRADES = Topic("kraken", "BTCUSD", "trade")
ASKED: list[tuple[str, Align]] = [
    *(("3m", "utc"), ("45m", "utc"), ("2h", "utc"), ("1w", "utc"), ("1M", "utc")),
    *(("2h", "ny17"), ("1d", "ny17"), ("1w", "ny17"), ("160m", "ny17")),
]


def drawn(count: int) -> list[Trade]:
    chance = random.Random(3)  # noqa: S311 - not for secrets
    times = sorted(chance.randrange(SPAN[0] * US_PER_S, SPAN[1] * US_PER_S) for _ in range(count))
    return [
        Trade(
            "BTCUSD", time_us, chance.randrange(6_000_000, 6_100_000) / 100, chance.randrange(1, 10**9) / 1e8
        )
        for time_us in times
    ]


def naive(trades: Sequence[Trade], name: str, align: Align) -> list[tuple[Any, ...]]:
    timeframe = parse_timeframe(name, align)
    buckets: dict[int, list[Trade]] = {}
    for trade in sorted(trades, key=lambda one: one.time_us):
        buckets.setdefault(timeframe.open_of(trade.time_us // US_PER_S), []).append(trade)
    return [
        (
            opens,
            members[0].price,
            max(one.price for one in members),
            min(one.price for one in members),
            members[-1].price,
            float(sum((Decimal(repr(one.size)) for one in members), Decimal(0))),
            len(members),
        )
        for opens, members in sorted(buckets.items())
    ]


@pytest.fixture
async def stored(database: Database) -> tuple[Store, list[Trade]]:
    store, trades = Store(database), drawn(1_500)
    batch = [Published(TRADES, seq, trade) for seq, trade in enumerate(trades, 1)]
    await store.write(batch[:700])
    await store.write(batch[700:])
    return store, trades


async def asked(store: Store, name: str, align: Align, span: tuple[int, int] = SPAN) -> list[tuple[Any, ...]]:
    (series,) = await store.series()
    timeframe = parse_timeframe(name, align)
    return rows(
        await store.candles_of(series, timeframe, timeframe.open_of(span[0]), timeframe.open_of(span[1]))
    )


async def all_are(store: Store, trades: Sequence[Trade]) -> None:
    """What a store that has been asked before answers, and one that has not, is right."""
    for one in (store, Store(store._database)):
        for name, align in ASKED:
            assert await asked(one, name, align) == naive(trades, name, align), (name, align)


async def test_every_timeframe_equals_the_naive_reference(stored: tuple[Store, list[Trade]]) -> None:
    await all_are(*stored)
    await all_are(*stored)


@pytest.mark.plain_only
async def test_what_is_in_memory_is_not_read_again(stored: tuple[Store, list[Trade]]) -> None:
    store, trades = stored
    closed = (T0, T0 + 86_400)  # whole blocks of minutes need more, so the second day is read too
    await asked(store, "3m", "utc")
    known = dict(store._blocks._known)
    assert known
    assert await asked(store, "3m", "utc", closed) == [
        one for one in naive(trades, "3m", "utc") if T0 <= one[0] <= T0 + 86_400
    ]
    assert all(store._blocks._known[key] is value for key, value in known.items())


@pytest.mark.plain_only
async def test_memory_is_bounded(stored: tuple[Store, list[Trade]]) -> None:
    store, trades = stored
    store._blocks.most_candles = 600
    await all_are(store, trades)
    assert store._blocks._candles <= 600
    assert store._blocks._candles == sum(len(one.time) + 16 for _, one in store._blocks._known.values())


@pytest.mark.plain_only
async def test_live_and_late_records_show_at_once(stored: tuple[Store, list[Trade]]) -> None:
    store, trades = stored
    await all_are(store, trades)
    seq = len(trades)
    for time_s in (
        SPAN[1] + 5,
        T0 + 86_400 + 7,
        SPAN[1] + 100_000,
        T0 - 500_000,
    ):  # new, late, new, before the first
        seq += 1
        trades.append(Trade("BTCUSD", time_s * US_PER_S, 59_000.0 + seq / 100, 0.1))
        await store.write([Published(TRADES, seq, trades[-1])])
        for one in (store, Store(store._database)):
            for name, align in ASKED:
                span = (T0 - 600_000, SPAN[1] + 200_000)
                assert await asked(one, name, align, span) == naive(trades, name, align), (
                    name,
                    align,
                    time_s,
                )


async def test_deleted_days_are_gone(stored: tuple[Store, list[Trade]], database: Database) -> None:
    store, trades = stored
    await all_are(store, trades)
    day = (T0 + 86_400) * US_PER_S
    await delete_rows(database, Range("kraken", "BTCUSD", day, day + 86_400 * US_PER_S))
    await all_are(store, [one for one in trades if not day <= one.time_us < day + 86_400 * US_PER_S])


@pytest.mark.plain_only
async def test_rebuilt_candles_show(stored: tuple[Store, list[Trade]], database: Database) -> None:
    store, trades = stored
    await all_are(store, trades)
    await database.run(lambda conn: conn.execute("update trades set price = price + 1") and None)
    await refresh(database)
    await all_are(store, [Trade(one.symbol, one.time_us, one.price + 1, one.size) for one in trades])


@pytest.mark.plain_only
async def test_an_hour_that_is_imported_anew_shows(database: Database) -> None:
    store = Store(database)
    series = await store.open_series("dukascopy", "EURUSD")
    for seed in (0, 1):
        hours = {number: make_ticks(number, seed) for number in range(6)}
        await store.load_hours(series, [data(number, ticks) for number, ticks in hours.items()])
        span = hour_us(0) // US_PER_S, hour_us(5) // US_PER_S
        prices = [mid(ticks.bid, ticks.ask) for ticks in hours.values()]
        expected = [
            (max(a.max(), b.max()), min(a.min(), b.min()))
            for a, b in zip(prices[::2], prices[1::2], strict=True)
        ]
        for one in (store, Store(database)):
            assert [(row[2], row[3]) for row in await asked(one, "2h", "utc", span)] == expected


async def test_weighted_prices(stored: tuple[Store, list[Trade]]) -> None:
    store, trades = stored
    (series,) = await store.series()
    for name, align in (("2h", "utc"), ("1d", "ny17"), ("1m", "utc")):
        timeframe = parse_timeframe(name, align)  # type: ignore[arg-type]
        first_s, last_s = timeframe.open_of(SPAN[0]), timeframe.open_of(SPAN[1])
        found = await store.weighted_prices(series, timeframe, first_s, last_s, "mid")
        sums: dict[int, list[float]] = {}
        for trade in trades:
            both = sums.setdefault(timeframe.open_of(trade.time_us // US_PER_S), [0.0, 0.0])
            both[0] += trade.price * trade.size
            both[1] += trade.size
        assert found.keys() == sums.keys()
        assert all(
            math.isclose(found[time], money / size, rel_tol=1e-11) for time, (money, size) in sums.items()
        )


@pytest.mark.plain_only
async def test_no_weighted_price_of_a_candle_whose_records_were_dropped_in_part(
    stored: tuple[Store, list[Trade]], database: Database
) -> None:
    store, _ = stored
    (series,) = await store.series()
    statement = "insert into retention values ('trades', to_timestamp(%s))"
    await database.run(lambda conn: conn.execute(statement, [T0 + 86_400 + 1_800]) and None)
    found = await store.weighted_prices(series, parse_timeframe("2h"), *SPAN, "mid")
    assert min(found) == T0 + 86_400 + 7_200


@pytest.mark.plain_only
async def test_first_and_last_day(stored: tuple[Store, list[Trade]]) -> None:
    store, _ = stored
    (series,) = await store.series()
    assert await store.candle_days([series.id, 999]) == (T0, T0 + (DAYS - 1) * 86_400)
    assert await store.candle_days([999]) is None


def moment(us: int, hours: int) -> int:
    return (T0 + 3_600 * hours) * US_PER_S + us


@pytest.mark.parametrize("two_reads_from", [1, 100_000])
async def test_arrays_of_records_are_those_of_lists(
    database: Database, two_reads_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a page is read in two halves: some records lie in the hours that follow."""
    monkeypatch.setattr("mdserver.store.store._TWO_READS_FROM", two_reads_from)
    store = Store(database)
    ticks = [
        Tick(
            "EURUSD",
            T0 * US_PER_S + n // 2 + n // 8 * 3_600 * US_PER_S,
            1 + n / 100,
            2.0,
            None if n % 3 else n,
            float(n),
        )
        for n in range(20)
    ]
    trades = [
        Trade(
            "EURUSD",
            T0 * US_PER_S + n + n // 4 * 3_600 * US_PER_S,
            5.0,
            n,
            "buy" if n % 2 else None,
            f"é{n}" if n % 3 else None,
        )
        for n in range(9)
    ]
    for kind, records in (("tick", ticks), ("trade", trades)):
        topic = Topic("oanda", "EURUSD", kind)
        await store.write(
            [Published(topic, n, one, n * 7 if n % 2 else None) for n, one in enumerate(records, 1)]  # type: ignore[arg-type]
        )
    for series in await store.series():
        for after, limit in (
            (None, 100),
            (None, 11),
            ((T0 * US_PER_S + 3, 4), 3),
            ((T0 * US_PER_S + 99, 0), 9),
        ):
            place = (series.id, series.type, T0 * US_PER_S, (T0 + 9 * 3_600) * US_PER_S)
            lists = await store.records(*place, after=after, limit=limit)
            arrays = await store.record_arrays(series, *place[2:], after=after, limit=limit)
            assert arrays.time_us.tolist() == lists.time_us
            assert arrays.seq.tolist() == lists.seq
            assert [
                None if us == NO_TIME_US else us for us in arrays.received_us.tolist()
            ] == lists.received_us
            for name, values in lists.columns.items():
                column = arrays.columns[name]
                if isinstance(column, np.ndarray):
                    column = [None if math.isnan(value) else value for value in column.tolist()]
                assert column == values


RECORDED_FROM = 1_549_238_400
"""2019-02-04, midnight UTC: 19:00 of the evening before in New York."""


def recorded_hour(file: Path, hour_s: int) -> FetchedHour:
    rows = np.array(list(struct.iter_unpack(">IIIff", lzma.decompress(file.read_bytes()))))
    sizes = rows[:, 4] * 1e6, rows[:, 3] * 1e6
    ticks = TickColumns(
        (hour_s * 1_000 + rows[:, 0].astype(np.int64)) * 1_000, rows[:, 2] / 1e5, rows[:, 1] / 1e5, *sizes
    )
    return FetchedHour(hour_s * US_PER_S, "data", lambda: ticks, file.name, "recorded", file.name)


@pytest.mark.recorded
@pytest.mark.plain_only
async def test_dealers_candles_of_recorded_ticks_are_those_of_the_recorded_hours(
    database: Database, recorded_data: Path
) -> None:
    """A day's ticks of one archive, and the ask candles by the hour that the same venue publishes of them."""
    folder = recorded_data / "Leo4815162342+dukascopy-node" / "EURUSD" / "2019" / "01" / "04"
    published = recorded_data / "theorycraft-trading+dukascopy_ex" / "EURUSD" / "2019" / "01"
    store = Store(database)
    series = await store.open_series("dukascopy", "EURUSD")
    hours = [recorded_hour(folder / f"{n:02}h_ticks.bi5", RECORDED_FROM + n * 3_600) for n in range(24)]
    assert {one.status for one in await store.load_hours(series, hours)} == {"added"}
    (series,) = await store.series("EURUSD")
    rows_of_hours = struct.iter_unpack(
        ">IIIIIf", lzma.decompress((published / "ASK_candles_hour_1.bi5").read_bytes())
    )
    month_s = RECORDED_FROM - 3 * 86_400
    by_hour = {month_s + second: values for second, *values in rows_of_hours}
    for name, opens in (
        ("12h", [RECORDED_FROM + 10 * 3_600]),  # from 5:00 to 17:00 in New York
        ("4h", [RECORDED_FROM + n * 3_600 for n in (2, 6, 10, 14, 18)]),
        ("2h", [RECORDED_FROM + n * 3_600 for n in range(0, 24, 2)]),
    ):
        timeframe = parse_timeframe(name, "ny17")
        found = {
            row[0]: row for row in rows(await store.candles_of(series, timeframe, opens[0], opens[-1], "ask"))
        }
        assert list(found) == opens
        for open_s, (_, opened, high, low, closed, *_) in found.items():
            members = [by_hour[hour] for hour in range(open_s, open_s + timeframe.length_s, 3_600)]
            expected = (members[0][0], max(m[3] for m in members), min(m[2] for m in members), members[-1][1])
            assert tuple(round(price * 1e5) for price in (opened, high, low, closed)) == expected


async def test_newest_prices_and_record(stored: tuple[Store, list[Trade]]) -> None:
    """Of each kind: an old price is not looked at, and of records at one time the last one counts."""
    store, trades = stored
    ticks = [Tick("EURUSD", moment(0, hour), 1 + hour / 1_000, 2.0, None, 5.0) for hour in (0, 100, 101, 101)]
    topic = Topic("oanda", "EURUSD", "tick")
    await store.write([Published(topic, n, one) for n, one in enumerate(ticks, 1)])
    series = {one.type: one for one in await store.series()}
    prices = await store.newest_prices(list(series.values()))
    assert prices[series["tick"].id] == [1.101, 1.101, 1.1]
    newest = sorted(trades, key=lambda one: -one.time_us)[:40]
    assert prices[series["trade"].id] == [one.price for one in newest]
    record = await store.newest_record(series["tick"])
    assert (record.time_us, record.seq) == ([moment(0, 101)], [4])
    assert record.columns == {"bid": [1.101], "ask": [2.0], "bid_size": [None], "ask_size": [5.0]}
    assert (await store.newest_record(series["trade"])).columns["price"] == [newest[0].price]
