"""The ledger of gaps: through the journal into its table, and out again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mdserver.model import Gap, Published, Tick, Topic
from mdserver.store.connection.database import Database
from mdserver.store.store import GapRow, Store

pytestmark = pytest.mark.both_engines

START_US = 1_710_918_000_000_001
EURUSD = Topic("a", "EURUSD", "tick")
GBPUSD = Topic("b", "GBPUSD", "tick")
BOOK = Topic("b", "GBPUSD", "orderbook", "10")


def gap(
    topic: Topic, from_us: int, to_us: int, cause: str = "disconnected", size: int | None = None
) -> Published:
    return Published(topic, 1, Gap(topic, START_US + from_us, START_US + to_us, cause, size))


def tick(seq: int, at_us: int) -> Published:
    return Published(EURUSD, seq, Tick("EURUSD", START_US + at_us, 1.0, 1.1))


def shown(rows: Sequence[GapRow]) -> list[tuple[object, ...]]:
    return [
        (row.broker, row.type, row.from_us - START_US, row.to_us - START_US, row.cause, row.size, row.state)
        for row in rows
    ]


async def everything(store: Store) -> list[GapRow]:
    return await store.gaps(0, 2 * START_US, limit=100)


async def test_gaps_are_stored_with_their_records_and_each_once(database: Database) -> None:
    store = Store(database)
    batch = [tick(1, 0), gap(EURUSD, 0, 9), tick(2, 9), gap(BOOK, 3, 5, "missed", 12), gap(GBPUSD, 1, 2)]
    written = await store.write(batch)
    assert (written.rows, written.skipped, written.rejected) == (2, 0, [])
    again = await store.write(batch)  # after a commit whose answer was lost
    assert (again.rows, again.skipped, again.rejected) == (0, 2, [])
    assert shown(await everything(store)) == [
        ("a", "tick", 0, 9, "disconnected", None, "open"),
        ("b", "tick", 1, 2, "disconnected", None, "open"),
        ("b", "orderbook", 3, 5, "missed", 12, "open"),
    ]
    (series,) = [one for one in await store.series() if one.topic == EURUSD]
    assert (series.last_seq, series.row_count, series.hist_v) == (2, 2, 2)


async def test_gaps_are_found_by_what_they_are_of_and_where_they_lie(database: Database) -> None:
    store = Store(database)
    await store.write([gap(EURUSD, 0, 10), gap(EURUSD, 20, 30), gap(GBPUSD, 5, 6)])

    async def found(first: int, last: int, **chosen: object) -> list[tuple[object, object]]:
        rows = await store.gaps(START_US + first, START_US + last, limit=chosen.pop("limit", 9), **chosen)  # type: ignore[arg-type]
        return [(row.symbol, row.from_us - START_US) for row in rows]

    assert await found(10, 20) == [("EURUSD", 0), ("EURUSD", 20)]
    assert await found(11, 19) == []
    assert await found(0, 99, symbol="GBPUSD") == [("GBPUSD", 5)]
    assert await found(0, 99, broker="a", limit=1) == [("EURUSD", 0)]
    assert await found(0, 99, state="filled") == []


async def test_a_gap_is_marked(database: Database) -> None:
    store = Store(database)
    await store.write([gap(EURUSD, 0, 10)])
    (row,) = await everything(store)
    before = (await store.series())[0].hist_v
    assert await store.mark_gap(row.id, "filled")
    assert [one.state for one in await everything(store)] == ["filled"]
    assert (await store.series())[0].hist_v == before + 1
    assert not await store.mark_gap(row.id + 1, "permanent")
    await store.write([gap(EURUSD, 0, 10)])  # a journal that is read again opens it no more
    assert [one.state for one in await everything(store)] == ["filled"]
