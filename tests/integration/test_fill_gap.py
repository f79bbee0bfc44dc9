"""Records that a gap had swallowed: each once beside live ones, candles as if nothing had been missing."""

from __future__ import annotations

import random
from itertools import groupby

import pytest

from mdserver.model import Published, Tick, Trade
from mdserver.store.connection.database import Database
from mdserver.store.history.fill_gap import FIRST_SEQ
from mdserver.store.store import Store

from .test_write_batch import BTCUSDT, EURUSD, START_US, STORED, expected, rows

pytestmark = pytest.mark.both_engines

TRADES = """select (extract(epoch from time) * 1000000)::bigint, price, size, side::text, trade_id, seq
    from trades order by time, seq"""


def made_up(count: int, seed: int) -> list[Trade]:
    """Trades of some hours, several of them in one microsecond."""
    chance = random.Random(seed)  # noqa: S311
    time_us, trades = START_US, []
    for number in range(count):
        time_us += chance.choice([0, 0, 1, 1_000_000, 90_000_000])
        price = round(60_000 + chance.uniform(-50, 50), 2)
        size = chance.choice([0.5, 0.25, 1.0])
        trades.append(Trade("BTCUSDT", time_us, price, size, chance.choice(["buy", "sell"]), str(number)))
    return trades


@pytest.mark.parametrize("seed", range(3))
async def test_what_was_missed_comes_once_and_makes_the_candles_that_it_would_have_made(
    database: Database, seed: int
) -> None:
    store, chance = Store(database), random.Random(seed)  # noqa: S311
    trades = made_up(400, seed)
    live = [*trades[:100], *trades[300:]]
    await store.write([Published(BTCUSDT, n + 1, trade) for n, trade in enumerate(live)])
    missed = trades[95:305]  # also some that are there
    added = 0
    while missed:
        size = chance.randint(1, 60)
        batch, missed = missed[:size], missed[size:]
        times = await store.add_missed(BTCUSDT, batch)
        added += len(times)
        assert await store.add_missed(BTCUSDT, batch) == []
    assert added == 200
    found = await rows(database, TRADES)
    assert sorted(row[:5] for row in found) == sorted(
        (t.time_us, t.price, t.size, t.side and t.side[0], t.trade_id) for t in trades
    )
    assert len({row[5] for row in found if row[5] > 0}) == 200
    for _, same in groupby(found, key=lambda row: row[0]):  # in the order of the venue
        ids = [int(row[4]) for row in same if row[5] < 0]
        assert ids == sorted(ids)
    assert min(row[5] for row in found) == FIRST_SEQ
    assert await rows(database, STORED) == expected([Published(BTCUSDT, n, t) for n, t in enumerate(trades)])
    (series,) = await store.series("BTCUSDT")
    assert (series.row_count, series.last_seq) == (400, 200)
    assert (series.earliest_us, series.latest_us) == (trades[0].time_us, trades[-1].time_us)


async def test_live_records_go_on_behind_what_was_added(database: Database) -> None:
    store = Store(database)
    trades = made_up(30, 7)
    await store.write([Published(BTCUSDT, n + 1, trade) for n, trade in enumerate(trades[:10])])
    await store.add_missed(BTCUSDT, trades[10:20])
    written = await store.write([Published(BTCUSDT, n + 11, trade) for n, trade in enumerate(trades[20:])])
    assert written.rows == 10
    assert await rows(database, STORED) == expected([Published(BTCUSDT, n, t) for n, t in enumerate(trades)])


async def test_a_trade_of_nearly_the_same_time_is_known_by_its_id(database: Database) -> None:
    store = Store(database)
    await store.write([Published(BTCUSDT, 1, Trade("BTCUSDT", START_US + 1, 5.0, 1.0, "buy", "77"))])
    assert await store.add_missed(BTCUSDT, [Trade("BTCUSDT", START_US, 5.0, 1.0, "buy", "77")]) == []
    assert await store.add_missed(BTCUSDT, [Trade("BTCUSDT", START_US, 5.0, 1.0, "buy", "78")]) == [START_US]


async def test_ticks_are_known_by_time_and_prices(database: Database) -> None:
    store = Store(database)
    ticks = [Tick("EURUSD", START_US + n, 1.1 + n / 1e4, 1.2 + n / 1e4) for n in range(3)]
    await store.write([Published(EURUSD, 1, ticks[0])])
    assert await store.add_missed(EURUSD, ticks) == [START_US + 1, START_US + 2]
    assert await store.add_missed(EURUSD, ticks) == []
    assert await rows(database, STORED) == expected([Published(EURUSD, n, t) for n, t in enumerate(ticks)])


async def test_a_record_that_cannot_be_stored_is_refused_with_all_of_its_batch(database: Database) -> None:
    store = Store(database)
    batch = [Trade("BTCUSDT", START_US, 5.0, 1.0), Trade("BTCUSDT", START_US, float("nan"), 1.0)]
    with pytest.raises(ValueError, match="price nan is not a finite number"):
        await store.add_missed(BTCUSDT, batch)
    assert await rows(database, TRADES) == []
