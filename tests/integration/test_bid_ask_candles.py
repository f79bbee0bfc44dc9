"""``price=bid`` and ``price=ask``: computed from the stored ticks, against a naive reference in Decimal."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from mdserver.model import TIMEFRAMES, US_PER_S, Published, Tick, Topic
from mdserver.store import scan
from mdserver.store.connection.database import Database
from mdserver.store.store import Store

pytestmark = pytest.mark.both_engines

T0 = 1_710_892_800
"""2024-03-20, midnight UTC."""

TOPIC = Topic("oanda", "EURUSD", "tick")
SPAN = (T0 - 86_400, T0 + 86_400)


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
async def stored(database: Database) -> tuple[Store, int, list[Tick]]:
    """A store with ticks written in several batches."""
    store, ticks = Store(database), drawn(2_000)
    batch = [Published(TOPIC, seq, tick) for seq, tick in enumerate(ticks, 1)]
    for start in range(0, len(batch), 501):
        await store.write(batch[start : start + 501])
    (series,) = await store.series("EURUSD")
    return store, series.id, ticks


@pytest.mark.parametrize("block_rows", [100_000, 150])
async def test_every_timeframe_equals_the_naive_reference(
    stored: tuple[Store, int, list[Tick]], block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of the blocks in which the ticks come."""
    monkeypatch.setattr(scan, "BLOCK_ROWS", block_rows)
    store, series_id, ticks = stored
    for timeframe_s in TIMEFRAMES.values():
        for side in ("bid", "ask"):
            found = await store.side_candles(series_id, timeframe_s, *SPAN, side)  # type: ignore[arg-type]
            assert rows(found) == naive(ticks, timeframe_s, side)


async def test_mid_computed_alike_is_what_is_stored_to_the_last_bit(
    stored: tuple[Store, int, list[Tick]],
) -> None:
    store, series_id, _ = stored
    for timeframe_s in TIMEFRAMES.values():
        kept = await store.candles(series_id, timeframe_s, *SPAN)
        assert rows(await store.side_candles(series_id, timeframe_s, *SPAN, "mid")) == rows(kept)


async def test_mid_lies_between_the_sides(stored: tuple[Store, int, list[Tick]]) -> None:
    store, series_id, ticks = stored
    mid = await store.candles(series_id, 3_600, *SPAN)
    bid = await store.side_candles(series_id, 3_600, *SPAN, "bid")
    ask = await store.side_candles(series_id, 3_600, *SPAN, "ask")
    assert (bid.time, bid.count) == (mid.time, mid.count) == (ask.time, ask.count)
    for name in ("open", "high", "low", "close"):
        columns = (getattr(bid, name), getattr(mid, name), getattr(ask, name))
        assert all(low <= middle <= high for low, middle, high in zip(*columns, strict=True))
    assert await store.count_ticks(series_id, 3_600, *SPAN) == len(ticks)


async def test_opens_on_both_ends_belong_to_the_range(stored: tuple[Store, int, list[Tick]]) -> None:
    store, series_id, ticks = stored
    asked = (T0, T0 + 7_200)
    found = rows(await store.side_candles(series_id, 3_600, *asked, "ask"))
    assert [row[0] for row in found] == [T0, T0 + 3_600, T0 + 7_200]
    assert found == [row for row in naive(ticks, 3_600, "ask") if T0 <= row[0] <= T0 + 7_200]
    assert await store.count_ticks(series_id, 3_600, *asked) == sum(row[-1] for row in found)
    assert rows(await store.side_candles(series_id, 3_600, 0, 3_600, "ask")) == []
    assert await store.count_ticks(series_id, 3_600, 0, 3_600) == 0


async def test_a_bucket_whose_ticks_were_dropped_in_part_is_left_out(
    stored: tuple[Store, int, list[Tick]], database: Database
) -> None:
    store, series_id, ticks = stored
    statement = "insert into retention values ('ticks', to_timestamp(%s))"
    await database.run(lambda conn: conn.execute(statement, [T0 + 1_800]) and None)
    found = rows(await store.side_candles(series_id, 3_600, *SPAN, "bid"))
    assert found == [row for row in naive(ticks, 3_600, "bid") if row[0] >= T0 + 3_600]
    assert await store.count_ticks(series_id, 3_600, *SPAN) == sum(row[-1] for row in found)
