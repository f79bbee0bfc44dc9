"""``price=bid`` and ``price=ask``: computed from the stored ticks, against a naive reference in Decimal."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from mdserver.candles import Candles
from mdserver.model import TIMEFRAMES, US_PER_S, Published, Tick, Topic
from mdserver.store import scan
from mdserver.store.connection.database import Database
from mdserver.store.query import bid_ask_candles
from mdserver.store.query.bid_ask_candles import Side
from mdserver.store.query.folded_candles import folded
from mdserver.store.store import Store, TooManyTicks
from mdserver.store.upkeep.delete_rows import Range, delete_rows
from mdserver.store.upkeep.rebuild_candles import refresh
from mdserver.timeframes import Align, parse_timeframe

from .test_load_hours import data, make_ticks

pytestmark = pytest.mark.both_engines

T0 = 1_710_892_800
"""2024-03-20, midnight UTC."""

TOPIC = Topic("oanda", "EURUSD", "tick")
SPAN = (T0 - 86_400, T0 + 86_400)
SIDES: tuple[Side, ...] = ("bid", "ask")


def drawn(count: int) -> list[Tick]:
    """Ticks over more than a day, some late, some in one microsecond, some without sizes."""
    chance = random.Random(7)  # noqa: S311 - not for secrets
    ticks = []
    for n in range(count):
        time_us = (T0 - 40_000) * US_PER_S + n // 2 * 90_000 * US_PER_S // count * 2
        if n % 50 == 49:
            time_us -= 4_000 * US_PER_S
        bid = chance.randint(108_000, 109_000)
        sizes = None if n % 7 == 0 else chance.randint(1, 10**11) / 1e8
        other = chance.randint(0, 10**9) / 1e8
        ticks.append(Tick("EURUSD", time_us, bid / 1e5, (bid + chance.randint(0, 9)) / 1e5, sizes, other))
    return ticks


def naive(ticks: list[Tick], timeframe_s: int, side: str) -> list[tuple[Any, ...]]:
    buckets: dict[int, list[Tick]] = {}
    for _, tick in sorted(enumerate(ticks), key=lambda pair: (pair[1].time_us, pair[0])):
        buckets.setdefault(tick.time_us // US_PER_S // timeframe_s * timeframe_s, []).append(tick)
    result = []
    for opens, members in sorted(buckets.items()):
        prices = [getattr(tick, side) for tick in members]
        sizes = [getattr(tick, f"{side}_size") for tick in members]
        volume = float(sum((Decimal(repr(size)) for size in sizes if size is not None), Decimal(0)))
        result.append((opens, prices[0], max(prices), min(prices), prices[-1], volume, len(members)))
    return result


def rows(columns: Any) -> list[tuple[Any, ...]]:
    names = ("time", "open", "high", "low", "close", "volume", "count")
    return list(zip(*(getattr(columns, name) for name in names), strict=True))


@pytest.fixture
async def stored(database: Database) -> tuple[Store, list[Tick]]:
    """A store with ticks written in several batches."""
    store, ticks = Store(database), drawn(2_000)
    batch = [Published(TOPIC, seq, tick) for seq, tick in enumerate(ticks, 1)]
    for start in range(0, len(batch), 501):
        await store.write(batch[start : start + 501])
    return store, ticks


async def asked(
    store: Store, timeframe: str, side: Side, span: tuple[int, int] = SPAN, align: Align = "utc"
) -> list[tuple[Any, ...]]:
    """Ask as a request does: the series is read first."""
    (series,) = await store.series("EURUSD")
    return rows(await store.candles_of(series, parse_timeframe(timeframe, align), *span, side))


async def kept(database: Database) -> int:
    return await database.run(lambda conn: conn.execute("select count(*) from side_hours").fetchone()[0])


@pytest.mark.parametrize("block_ticks", [100_000, 150])
async def test_every_timeframe_equals_the_naive_reference(
    stored: tuple[Store, list[Tick]], database: Database, block_ticks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of the blocks in which the ticks come; first computed, then kept, then from memory."""
    monkeypatch.setattr(bid_ask_candles, "BLOCK_TICKS", block_ticks)
    if block_ticks < 1_000:  # and in two halves
        monkeypatch.setattr("mdserver.store.store._TWO_READS_FROM", block_ticks)
    store, ticks = stored
    for store_ in (store, Store(database), store):
        for name, timeframe_s in {**TIMEFRAMES, "3m": 180, "2h": 7_200}.items():
            for side in SIDES:
                assert await asked(store_, name, side) == naive(ticks, timeframe_s, side), (name, side)
    assert await kept(database) == 2 * (
        len(naive(ticks, 3_600, "bid")) - 1
    )  # all but the hour that is forming


async def test_mid_computed_alike_is_what_is_stored_to_the_last_bit(
    stored: tuple[Store, list[Tick]], database: Database
) -> None:
    store, _ = stored
    (series,) = await store.series("EURUSD")
    first_s, last_s = SPAN

    def work(conn: Any) -> list[Candles]:
        blocks = scan.scan(conn, "ticks", series.id, first_s * US_PER_S, (last_s + 86_400) * US_PER_S)
        return [scan.candles_of(block) for block in blocks]

    minutes = scan.join_minutes(await database.run(work))
    for name, timeframe_s in TIMEFRAMES.items():
        stored_ones = await store.candles(series.id, timeframe_s, *SPAN)
        assert rows(folded([minutes], parse_timeframe(name), *SPAN)) == rows(stored_ones)


@pytest.mark.plain_only
async def test_mid_lies_between_the_sides(stored: tuple[Store, list[Tick]]) -> None:
    store, _ = stored
    (series,) = await store.series("EURUSD")
    mid = rows(await store.candles(series.id, 3_600, *SPAN))
    bid, ask = await asked(store, "1h", "bid"), await asked(store, "1h", "ask")
    assert [row[0] for row in bid] == [row[0] for row in mid] == [row[0] for row in ask]
    for low, middle, high in zip(bid, mid, ask, strict=True):
        assert all(low[n] <= middle[n] <= high[n] for n in range(1, 5))


@pytest.mark.plain_only
async def test_opens_on_both_ends_belong_to_the_range(stored: tuple[Store, list[Tick]]) -> None:
    store, ticks = stored
    found = await asked(store, "1h", "ask", (T0, T0 + 7_200))
    assert [row[0] for row in found] == [T0, T0 + 3_600, T0 + 7_200]
    assert found == [row for row in naive(ticks, 3_600, "ask") if T0 <= row[0] <= T0 + 7_200]
    assert await asked(store, "1h", "ask", (0, 3_600)) == []


async def test_a_bucket_whose_ticks_were_dropped_in_part_is_left_out(
    stored: tuple[Store, list[Tick]], database: Database
) -> None:
    store, ticks = stored
    await asked(store, "1h", "bid")  # kept in memory and in the table
    statement = "insert into retention values ('ticks', to_timestamp(%s))"
    await database.run(lambda conn: conn.execute(statement, [T0 + 1_800]) and None)
    for name, timeframe_s in (("1h", 3_600), ("4h", 14_400)):
        whole = [row for row in naive(ticks, timeframe_s, "bid") if row[0] >= T0 + 1_800]
        for one in (store, Store(database)):
            assert await asked(one, name, "bid") == whole


@pytest.mark.plain_only
async def test_more_ticks_than_a_request_may_read_are_counted_before_they_are_read(
    stored: tuple[Store, list[Tick]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ticks = stored
    monkeypatch.setattr("mdserver.store.store.MAX_TICKS", len(ticks) - 1)
    with pytest.raises(TooManyTicks, match=f"^{len(ticks)} ticks"):
        await asked(store, "1h", "bid")
    few = await asked(store, "1h", "bid", (T0, T0))
    assert len(few) == 1


@pytest.mark.plain_only
async def test_what_is_kept_costs_no_tick(
    stored: tuple[Store, list[Tick]], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = stored
    closed = (SPAN[0], T0 + 6 * 3_600)
    once = await asked(store, "1m", "bid", closed)

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("ticks were read again")

    monkeypatch.setattr(bid_ask_candles, "_compute", never)
    assert await asked(Store(database), "1m", "bid", closed) == once
    assert len(await asked(Store(database), "1h", "bid", closed)) > 10


def with_late(ticks: list[Tick], late: Tick) -> list[Tick]:
    return [*ticks, late]


async def test_a_late_tick_changes_what_was_kept(
    stored: tuple[Store, list[Tick]], database: Database
) -> None:
    store, ticks = stored
    for name in ("1m", "1h"):
        await asked(store, name, "ask")
    late = Tick("EURUSD", (T0 - 20_000) * US_PER_S, 0.5, 2.0, 1.0, 3.0)
    await store.write([Published(TOPIC, len(ticks) + 1, late)])
    for one in (store, Store(database)):
        assert await asked(one, "1h", "ask") == naive(with_late(ticks, late), 3_600, "ask")
        assert await asked(one, "1m", "ask") == naive(with_late(ticks, late), 60, "ask")


async def test_deleted_ticks_are_in_no_kept_candle(
    stored: tuple[Store, list[Tick]], database: Database
) -> None:
    store, ticks = stored
    await asked(store, "1h", "bid")
    midnight_us = T0 * US_PER_S
    await delete_rows(database, Range("oanda", "EURUSD", midnight_us, midnight_us + 86_400 * US_PER_S))
    left = [tick for tick in ticks if tick.time_us < midnight_us]
    for one in (store, Store(database)):
        assert await asked(one, "1h", "bid") == naive(left, 3_600, "bid")


@pytest.mark.plain_only
async def test_an_hour_that_is_imported_anew_is_computed_anew(database: Database) -> None:
    store = Store(database)
    series = await store.open_series("dukascopy", "EURUSD")
    for seed in (0, 1):
        columns = make_ticks(3, seed)
        await store.load_hours(series, [data(3, columns), data(4, make_ticks(4, 0))])
        first_s = int(columns.time_us[0]) // US_PER_S // 3_600 * 3_600
        for one in (store, Store(database)):
            (hour,) = await asked(one, "1h", "bid", (first_s, first_s))
            assert hour[1:5] == (
                columns.bid[0],
                columns.bid.max(),
                columns.bid.min(),
                columns.bid[-1],
            )
            assert hour[6] == len(columns.bid)


@pytest.mark.plain_only
async def test_rebuilt_candles_leave_what_is_kept_true(
    stored: tuple[Store, list[Tick]], database: Database
) -> None:
    """A row that a foreign writer changed shows after the rebuild, also where the mid candle stays as it was."""
    store, ticks = stored
    await asked(store, "1h", "bid")
    (series,) = await store.series("EURUSD")
    statement = "update ticks set bid = bid - 0.25, ask = ask + 0.25 where series_id = %s"
    await database.run(lambda conn: conn.execute(statement, [series.id]) and None)
    await refresh(database)
    wider = [Tick(t.symbol, t.time_us, t.bid - 0.25, t.ask + 0.25, t.bid_size, t.ask_size) for t in ticks]
    for one in (store, Store(database)):
        assert await asked(one, "1h", "bid") == naive(wider, 3_600, "bid")
