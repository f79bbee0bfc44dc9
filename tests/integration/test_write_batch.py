"""Writing batches: rows, candles and metadata, exactly once, against a real PostgreSQL."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pytest

from mdserver import candles
from mdserver.errors import StoreUnavailable
from mdserver.model import TIMEFRAMES, Gap, LastRecord, Published, Record, Tick, Topic, Trade
from mdserver.store.connection.database import Database
from mdserver.store.store import Store

pytestmark = pytest.mark.both_engines

START_US = 1_710_918_000_000_000
MINUTE_US = 60_000_000
EURUSD = Topic("mock", "EURUSD", "tick")
BTCUSDT = Topic("mock", "BTCUSDT", "trade")


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def tick(seq: int, time_us: int, bid: float = 1.1, topic: Topic = EURUSD, **sizes: float) -> Published:
    return Published(topic, seq, Tick(topic.symbol, time_us, bid, bid + 0.1, **sizes))


def trade(seq: int, time_us: int, price: float = 5.0, size: float = 0.5, **rest: Any) -> Published:
    return Published(BTCUSDT, seq, Trade("BTCUSDT", time_us, price, size, **rest))


async def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    return await database.run(lambda conn: conn.execute(query).fetchall())


STORED = """select s.broker, s.symbol, s.type, c.timeframe, extract(epoch from c.time)::bigint, c.open, c.high,
    c.low, c.close, c.volume, c.row_count
    from candles c join series s on s.id = c.series_id order by 1, 2, 3, 4, 5"""


def expected(records: Sequence[Published]) -> list[tuple[Any, ...]]:
    """The candles of records, all at once, by the tested numpy code."""
    result = []
    for topic in {published.topic for published in records}:
        mine = [published for published in records if published.topic == topic]
        result += [(*topic[:3], *candle) for candle in _candles_of(mine)]
    return sorted(result)


def _candles_of(mine: Sequence[Published]) -> list[tuple[Any, ...]]:
    def column(*names: str) -> list[candles.Floats]:
        return [np.array([getattr(one.record, name) for one in mine], np.float64) for name in names]

    keys = (
        np.ones(len(mine), np.int64),
        np.array([one.record.time_us for one in mine]),
        np.array([one.seq for one in mine]),
    )
    if mine[0].topic.type == "tick":
        prices = candles.prices_of_ticks(*keys, *column("bid", "ask", "bid_size", "ask_size"))
    else:
        prices = candles.prices_of_trades(*keys, *column("price", "size"))
    return [
        (timeframe, *row[:5], Decimal(row[5]) + Decimal(row[6]) / candles.FRACTIONS, row[7])
        for timeframe, table in candles.all_timeframes(candles.candles_of_prices(prices)).items()
        for row in zip(*(values.tolist() for values in table[1:]), strict=True)
    ]


async def test_ticks_are_stored_as_given(store: Store, database: Database) -> None:
    batch = [
        tick(1, START_US, 1.1, bid_size=3.0, ask_size=4.5),
        tick(2, START_US, 1.2, bid_size=0.0),
        tick(3, START_US + 1, 1.3, ask_size=1e-8),
        tick(4, START_US + 2, 1.4),
    ]
    written = await store.write(batch)
    assert (written.stored, written.skipped, written.rejected) == ({"tick": 4}, 0, [])
    assert await rows(database, "select seq, bid, ask, bid_size, ask_size from ticks order by seq") == [
        (1, 1.1, 1.1 + 0.1, 3.0, 4.5),
        (2, 1.2, 1.2 + 0.1, 0.0, None),
        (3, 1.3, 1.3 + 0.1, None, 1e-8),
        (4, 1.4, 1.4 + 0.1, None, None),
    ]
    (info,) = await store.series()
    assert (info.topic, info.last_seq, info.row_count) == (EURUSD, 4, 4)
    assert (info.earliest_us, info.latest_us, info.hist_v, info.live_v) == (START_US, START_US + 2, 0, 1)
    page = await store.records(info.id, "tick", START_US, START_US + 2, limit=3)
    assert page.time_us == [START_US, START_US, START_US + 1]
    assert page.columns["bid_size"] == [3.0, 0.0, None]


async def test_trades_are_stored_as_given(store: Store, database: Database) -> None:
    batch = [
        trade(1, START_US, side="buy", trade_id="7"),
        trade(2, START_US, side="sell", trade_id="a-longer-ïd"),
        trade(3, START_US, trade_id=""),
        trade(4, START_US, side="buy"),
    ]
    assert (await store.write(batch)).stored == {"trade": 4}
    assert await rows(database, "select seq, price, size, side, trade_id from trades order by seq") == [
        (1, 5.0, 0.5, "b", "7"),
        (2, 5.0, 0.5, "s", "a-longer-ïd"),
        (3, 5.0, 0.5, None, None),
        (4, 5.0, 0.5, "b", None),
    ]
    assert await rows(database, STORED) == expected(batch)


async def test_what_is_stored_is_skipped(store: Store, database: Database) -> None:
    batch = [tick(seq, START_US + seq) for seq in range(1, 11)]
    await store.write(batch[:6])
    written = await store.write([*batch, tick(10, START_US + 10)])
    assert (written.rows, written.skipped) == (4, 7)
    again = await store.write(batch)
    assert (again.rows, again.skipped) == (0, 10)
    assert await rows(database, STORED) == expected(batch)
    (info,) = await store.series("EURUSD")
    assert (info.row_count, info.last_seq, info.live_v, info.hist_v) == (10, 10, 2, 0)
    assert await store.series("NONE") == []
    assert await store.last_records() == {EURUSD: LastRecord(10, START_US + 10)}


async def test_what_a_later_leader_has_overtaken_is_stored_and_nothing_twice(database: Database) -> None:
    store = Store(database, shared=True)
    old = [trade(seq, START_US + seq, seq / 2, trade_id=str(seq)) for seq in range(1, 9)]
    new = [trade(1_000_000 + n, START_US + n, n / 2, trade_id=str(n)) for n in range(7, 12)]
    await store.write(old[:3])
    await store.write(new[:4])
    written = await store.write([*old[1:], *new[2:]])  # 7 and 8 were received beside the later leader
    assert (written.rows, written.skipped) == (3 + 1, 2 + 2 + 2)
    stored = [*old[:6], *new]
    assert await rows(database, "select seq, trade_id from trades order by seq") == [
        (one.seq, one.record.trade_id) for one in stored if isinstance(one.record, Trade)
    ]
    assert await rows(database, STORED) == expected(stored)
    (info,) = await store.series()
    assert (info.row_count, info.last_seq) == (11, 1_000_011)
    again = await store.write([*old, *new])
    assert (again.rows, again.skipped) == (0, 13)


async def test_overtaken_records_alone_are_counted_too(database: Database) -> None:
    store = Store(database, shared=True)
    await store.write([trade(1_000_000, START_US + MINUTE_US)])
    assert (await store.write([trade(1, START_US), trade(2, START_US + 1)])).rows == 2
    (info,) = await store.series()
    assert (info.row_count, info.last_seq, info.earliest_us, info.hist_v) == (3, 1_000_000, START_US, 1)


async def test_a_gap_that_a_later_leader_has_ended_does_not_last(database: Database) -> None:
    store = Store(database, shared=True)
    await store.write([trade(1, START_US), trade(1_000_000, START_US + MINUTE_US)])
    await store.write([Published(BTCUSDT, 1, Gap(BTCUSDT, START_US, None, "disconnected"))])
    assert await store.lasting_gaps(2 * START_US, limit=9) == []
    await store.write([Published(BTCUSDT, 1_000_000, Gap(BTCUSDT, START_US + MINUTE_US, None, "restart"))])
    assert [gap.cause for gap in await store.lasting_gaps(2 * START_US, limit=9)] == ["restart"]


def walk(seed: int, count: int, disorder_us: int) -> list[Published]:
    """Ticks and trades of three topics over some hours, partly out of order, with every kind of size."""
    random_ = random.Random(seed)  # noqa: S311
    last = {EURUSD: 0, BTCUSDT: 0, Topic("other", "EURUSD", "tick"): 0}
    result = []
    time_us = START_US
    for _ in range(count):
        time_us += random_.choice([0, 1, 999_999, 17_000_000, 90_000_000])
        topic = random_.choice(list(last))
        last[topic] += 1
        at = time_us - random_.choice([0, 0, 0, random_.randrange(disorder_us + 1)])
        price, size = (
            random_.uniform(0.9, 70_000),
            random_.choice([random_.random() * 10, 12345678.12345678, 1e13]),
        )
        record: Record
        if topic.type == "tick":
            sizes = random_.choice([(None, None), (size, None), (size, random_.random())])
            record = Tick(topic.symbol, at, price, price + 0.01, *sizes)
        else:
            record = Trade(
                topic.symbol, at, price, size, random_.choice(["buy", "sell", None]), str(last[topic])
            )
        result.append(Published(topic, last[topic], record))
    return result


@pytest.mark.parametrize("disorder_us", [0, 20_000_000, 7_200_000_000])
async def test_candles_equal_those_of_all_records_at_once(
    store: Store, database: Database, disorder_us: int
) -> None:
    records = walk(disorder_us, 400, disorder_us)
    random_ = random.Random(1)  # noqa: S311
    rest = list(records)
    while rest:
        size = random_.randrange(1, 60)
        assert (await store.write(rest[:size])).rows == len(rest[:size])
        rest = rest[size:]
    assert await rows(database, STORED) == expected(records)
    infos = {info.topic: info for info in await store.series()}
    for topic, info in infos.items():
        times = [one.record.time_us for one in records if one.topic == topic]
        assert (info.earliest_us, info.latest_us, info.row_count) == (min(times), max(times), len(times))
        if disorder_us in (0, 7_200_000_000):
            assert (info.hist_v > 0) == (disorder_us > 0)


async def test_history_changes_only_when_a_closed_candle_does(store: Store) -> None:
    async def hist_v() -> int:
        (info,) = await store.series()
        return info.hist_v

    await store.write([tick(1, START_US + 30_000_000)])
    await store.write([tick(2, START_US + 20_000_000)])  # late, within the forming minute
    assert await hist_v() == 0
    await store.write(
        [tick(3, START_US + MINUTE_US), tick(4, START_US + 59_000_000)]
    )  # was never seen closed
    assert await hist_v() == 0
    await store.write([tick(5, START_US + MINUTE_US - 1)])
    assert await hist_v() == 1


async def test_a_taken_key_costs_only_its_own_row(store: Store, database: Database) -> None:
    first = [tick(1, START_US, 1.5), tick(2, START_US + 1, 1.6)]
    await store.write(first)

    def forget(conn: psycopg.Connection[Any]) -> None:  # as if an import had taken the keys of 1 and 2
        conn.execute("update series set last_seq = 0")

    await database.run(forget)
    new = [tick(3, START_US + 2, 1.7), trade(1, START_US)]
    written = await store.write([*first, *new])
    assert written.stored == {"tick": 1, "trade": 1}
    assert await rows(database, STORED) == expected([*first, *new])
    (trades, ticks) = sorted(await store.series(), key=lambda info: info.symbol)
    assert (ticks.row_count, ticks.last_seq, trades.row_count) == (3, 3, 1)


@pytest.mark.plain_only
async def test_a_partition_that_was_dropped_is_made_again(store: Store, database: Database) -> None:
    for seq in (1, 2):  # it is known once it was found
        await store.write([tick(seq, START_US)])
    await database.run(lambda conn: conn.execute("drop table ticks_y2024m03"))
    with pytest.raises(StoreUnavailable, match="a partition was dropped"):
        await store.write([tick(3, START_US + 1)])
    written = await store.write([tick(3, START_US + 1)])
    assert (written.rows, written.rejected) == (1, [])
    assert await rows(database, "select seq from ticks") == [(3,)]


@pytest.mark.plain_only
async def test_months_get_their_partitions(store: Store, database: Database) -> None:
    await store.write([tick(1, 0), tick(2, START_US), tick(3, START_US + 40 * 86_400_000_000)])
    partitions = await rows(database, "select distinct tableoid::regclass::text from ticks order by 1")
    assert partitions == [("ticks_y1970m01",), ("ticks_y2024m03",), ("ticks_y2024m04",)]


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (tick(2, -1), "time_us -1"),
        (tick(2, 1 << 62), "time_us"),
        (tick(2, START_US, float("nan")), "bid nan"),
        (tick(2, START_US, bid_size=-1.0), "size -1"),
        (tick(2, START_US, ask_size=1e14), "ask_size 100000000000000.0 is not"),
        (tick(2, START_US, ask_size=float("nan")), "nan is not"),
        (Published(BTCUSDT, 1, Trade("BTCUSDT", START_US, float("inf"), 1.0)), "price inf"),
        (Published(BTCUSDT, 1, Trade("BTCUSDT", START_US, 1.0, -2.0)), "size -2"),
        (trade(1, START_US, trade_id="a\0b"), "NUL"),
        (tick(2, START_US, topic=Topic("mock", "A\0B", "tick")), "NUL"),
    ],
)
async def test_what_cannot_be_stored_holds_nothing_up(store: Store, bad: Published, cause: str) -> None:
    good = [tick(1, START_US), tick(3, START_US + 5), tick(4, START_US + 6)]
    written = await store.write([good[0], bad, *good[1:]])
    assert written.stored == {"tick": 3}
    ((rejected, why),) = written.rejected
    assert rejected is bad
    assert cause in why
    (info,) = [info for info in await store.series() if info.topic == EURUSD]
    assert (info.row_count, info.last_seq) == (3, 4)


async def test_a_record_that_only_the_database_refuses_is_found(store: Store, database: Database) -> None:
    await store.write([tick(1, START_US)])

    def forbid(conn: psycopg.Connection[Any]) -> None:
        conn.execute("alter table ticks add check (bid <> 13)")

    await database.run(forbid)
    batch = [tick(seq, START_US + seq, 13.0 if seq in (5, 9) else 1.0) for seq in range(2, 20)]
    written = await store.write(batch)
    assert written.stored == {"tick": 16}
    assert [published.seq for published, _ in written.rejected] == [5, 9]


async def test_a_fault_of_the_operator_is_worth_another_try(store: Store, database: Database) -> None:
    def rename(conn: psycopg.Connection[Any]) -> None:
        conn.execute("alter table candles rename to elsewhere")

    await database.run(rename)
    with pytest.raises(StoreUnavailable, match="candles"):
        await store.write([tick(1, START_US)])


DIE_AT_COMMIT = """
create function die() returns trigger language plpgsql as
    'begin perform pg_terminate_backend(pg_backend_pid()); return null; end';
create constraint trigger die after update on series deferrable initially deferred
    for each row execute function die()"""


@pytest.mark.plain_only
async def test_a_connection_that_breaks_at_commit_writes_nothing_twice(
    store: Store, database: Database
) -> None:
    batch = [tick(seq, START_US + seq) for seq in range(1, 11)]
    await store.write(batch[:5])
    await database.run(lambda conn: conn.execute(DIE_AT_COMMIT) and None)
    with pytest.raises(StoreUnavailable):
        await store.write(batch)
    await database.run(lambda conn: conn.execute("drop trigger die on series") and None)
    assert (await store.write(batch)).rows == 5
    assert await rows(database, STORED) == expected(batch)


class LosesTheAnswer:
    """A database whose connection breaks after the commit, before the answer arrives."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def run(self, work: Callable[[psycopg.Connection[Any]], Any], *, live: bool = False) -> Any:
        await self.database.run(work)
        raise StoreUnavailable("the connection broke")


async def test_a_commit_whose_answer_is_lost_is_not_repeated(store: Store, database: Database) -> None:
    batch = [tick(seq, START_US + seq) for seq in range(1, 11)]
    with pytest.raises(StoreUnavailable):
        await Store(LosesTheAnswer(database)).write(batch)  # type: ignore[arg-type]
    written = await store.write([*batch, tick(11, START_US + 11)])
    assert (written.rows, written.skipped) == (1, 10)
    assert await rows(database, STORED) == expected([*batch, tick(11, START_US + 11)])


async def test_candles_are_read_by_column(store: Store) -> None:
    batch = [tick(n + 1, START_US + n * MINUTE_US, 1.0 + n, bid_size=0.1, ask_size=0.2) for n in range(5)]
    await store.write(batch)
    (info,) = await store.series()
    first = START_US // 1_000_000
    columns = await store.candles(info.id, 60, first + 60, first + 180)
    assert columns.time == [first + 60, first + 120, first + 180]
    assert columns.open == columns.close == [2.05, 3.05, 4.05]
    assert columns.volume == [0.3] * 3
    assert columns.count == [1, 1, 1]
    assert (await store.candles(info.id, 60, first + 61, first + 62)).time == []
    assert len((await store.candles(info.id, TIMEFRAMES["1d"], -(1 << 62), 1 << 62)).time) == 1


@pytest.mark.parametrize(
    "record",
    [
        Trade("BTCUSDT", START_US + 1, 5.0, 0.5, "buy", "7" * 2_000_000),
        Trade("BTCUSDT", START_US + 1, 5.0, 0.5, "buy", "a\0b"),
    ],
)
async def test_a_journalled_text_beyond_its_bound_costs_its_own_record(store: Store, record: Trade) -> None:
    """A journal of a version without the bound may still hold it."""
    batch = [trade(1, START_US), Published(BTCUSDT, 2, record), trade(3, START_US + 2, trade_id="x" * 64)]
    written = await store.write(batch)
    assert (written.rows, [published.seq for published, _ in written.rejected]) == (2, [2])
    (series,) = await store.series("BTCUSDT")
    assert (series.last_seq, series.row_count) == (3, 2)


async def test_a_journalled_symbol_beyond_its_bound_costs_its_own_records(store: Store) -> None:
    long = Topic("mock", "A" * 5_000, "tick")
    batch = [tick(1, START_US), tick(1, START_US, topic=long), tick(2, START_US + 1)]
    written = await store.write(batch)
    assert (written.rows, [published.topic for published, _ in written.rejected]) == (2, [long])
    assert [series.symbol for series in await store.series()] == ["EURUSD"]
