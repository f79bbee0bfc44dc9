"""The ledger of gaps: through the journal into its table, and out again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mdserver.model import JOURNAL_FULL, Gap, LastRecord, Published, Tick, Topic
from mdserver.store.connection.database import Database
from mdserver.store.store import GapRow, Store

pytestmark = pytest.mark.both_engines

START_US = 1_710_918_000_000_001
EURUSD = Topic("a", "EURUSD", "tick")
GBPUSD = Topic("b", "GBPUSD", "tick")
BOOK = Topic("b", "GBPUSD", "orderbook", "10")


def gap(
    topic: Topic, from_us: int, to_us: int | None, cause: str = "disconnected", size: int | None = None
) -> Published:
    end = None if to_us is None else START_US + to_us
    return Published(topic, 1, Gap(topic, START_US + from_us, end, cause, size))


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
    assert await found(0, 99, brokers=["b"], limit=1) == [
        ("GBPUSD", 5)
    ]  # what a client may see, before the limit
    assert await found(0, 99, symbols=["GBPUSD", "USDJPY"], limit=1) == [("GBPUSD", 5)]
    assert await found(0, 99, symbols=["GBPUSD"], brokers=["a"]) == []


async def test_what_is_missing_of_a_series(database: Database) -> None:
    """What was filled is there; a gap that lasts, or one that cannot be filled, is missing like any other."""
    store = Store(database)
    await store.write(
        [tick(1, 0), gap(EURUSD, 0, 10), gap(EURUSD, 20, 30), gap(EURUSD, 40, 50), gap(GBPUSD, 5, 6)]
    )
    series = next(one for one in await store.series() if one.topic == EURUSD)
    rows = [row for row in await everything(store) if row.broker == "a"]
    await store.mark_gap(rows[0].id, "filled")
    await store.mark_gap(rows[1].id, "permanent")

    async def missing(first: int, last: int, limit: int = 9) -> list[tuple[int, int | None]]:
        found = await store.missing_times(series.id, START_US + first, START_US + last, limit=limit)
        return [(one - START_US, None if end is None else end - START_US) for one, end in found]

    assert await missing(0, 99) == [(20, 30), (40, 50)]
    before = next(one for one in await store.series() if one.topic == EURUSD).hist_v
    await store.write([gap(EURUSD, 60, None)])
    assert next(one for one in await store.series() if one.topic == EURUSD).hist_v > before, (
        "answers may change"
    )
    assert await missing(0, 99) == [(20, 30), (40, 50), (60, None)]
    assert await missing(31, 59) == [(40, 50)]
    assert await missing(0, 99, limit=1) == [(20, 30), (40, None)], (
        "nothing is known of what is behind the limit"
    )


async def test_where_a_topic_ended_is_known_though_its_records_are_dropped(database: Database) -> None:
    """By retention, of a symbol that is quiet for longer than its records are kept: its candles are still there."""
    store = Store(database)
    await store.write([tick(1, 0), tick(2, 90_000_000)])

    def drop(conn: Any) -> None:
        conn.execute("delete from ticks")
        conn.execute("update series set latest = null, earliest = null, row_count = 0")

    await database.run(drop)
    (last,) = (await store.last_records()).values()
    minute_us = 60_000_000
    assert last == LastRecord(2, (START_US + 90_000_000) // minute_us * minute_us), (
        "rather too early than unknown"
    )


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


async def test_a_gap_that_lasts_is_known_until_it_ends(database: Database) -> None:
    store = Store(database)

    async def lasting() -> list[tuple[object, ...]]:
        found = await store.lasting_gaps(2 * START_US, limit=9)
        return [(one.broker, one.type, one.from_us - START_US, one.cause, one.size) for one in found]

    await store.write([tick(1, 0), gap(EURUSD, 0, None, size=3), gap(BOOK, 4, None, "unsubscribed")])
    assert await lasting() == [
        ("a", "tick", 0, "disconnected", 3),
        ("b", "orderbook", 4, "unsubscribed", None),
    ]
    for seen in ({"brokers": ["b"]}, {"symbols": ["GBPUSD"]}):
        (one,) = await store.lasting_gaps(2 * START_US, limit=1, **seen)
        assert one.broker == "b"
    assert await everything(store) == []
    known = await store.last_records()
    assert known[EURUSD] == LastRecord(1, START_US, Gap(EURUSD, START_US, None, "disconnected", 3))
    assert (
        known[BOOK].time_us == START_US + 4
    )  # of a kind that is not stored, or else its next hole would be lost
    await store.write([gap(EURUSD, 0, None, "restart")])  # the same, by a server that does not know this one
    await store.write([gap(EURUSD, 0, 0, JOURNAL_FULL, 1)])
    assert (await lasting())[0] == ("a", "tick", 0, "disconnected", 3)
    batch = [gap(EURUSD, 0, 9), tick(2, 9)]
    await store.write(batch)
    assert [one[0] for one in await lasting()] == ["b"]
    assert (await store.last_records())[EURUSD] == LastRecord(2, START_US + 9)
    await store.write([gap(EURUSD, 0, None), *batch, gap(EURUSD, 9, None, "silence")])  # a journal read again
    assert (await lasting())[1] == ("a", "tick", 9, "silence", None)
    assert await store.lasting_gaps(START_US + 5, symbol="EURUSD", limit=9) == []
    assert [one[:5] for one in shown(await everything(store))] == [
        ("a", "tick", 0, 0, JOURNAL_FULL),
        ("a", "tick", 0, 9, "disconnected"),
    ]


def rejected(seq: int, from_s: int, to_s: int, size: int | None = 1, cause: str = "rejected") -> Published:
    return Published(
        EURUSD, seq, Gap(EURUSD, START_US + from_s * 1_000_000, START_US + to_s * 1_000_000, cause, size)
    )


async def test_beyond_the_first_few_gaps_of_garbage_share_rows_and_each_counts_once(
    database: Database,
) -> None:
    store = Store(database)
    journal = [
        rejected(1, 0, 1),
        rejected(3, 2, 4, 2),
        rejected(4, 5, 6, None, "discarded"),
        rejected(5, 7, 8),
        rejected(6, 10, 11),
        rejected(8, 12, 13, 3),
        rejected(9, 9_000, 9_001, 4),
    ]
    for begin, end in (
        (0, 1),
        (0, 3),
        (1, 4),
        (3, 5),
        (2, 6),
        (0, 7),
        (0, 7),
    ):  # read again from an earlier place
        await store.write(journal[begin:end])
    rows = shown(await everything(store))
    assert [(int(str(row[2])) // 1_000_000, int(str(row[3])) // 1_000_000, *row[4:]) for row in rows] == [
        (0, 1, "rejected", 1, "open"),
        (2, 4, "rejected", 2, "open"),
        (5, 6, "discarded", None, "open"),
        (7, 13, "rejected", 5, "open"),
        (9_000, 9_001, "rejected", 4, "open"),
    ]


async def test_a_gap_that_has_grown_is_not_marked(database: Database) -> None:
    store = Store(database)
    await store.write([rejected(number, number, number + 1) for number in (1, 3, 5)])
    *_, row = await everything(store)
    await store.write([rejected(7, 7, 8)])
    assert not await store.mark_gap(row.id, "filled", to_us=row.to_us)
    assert [one.state for one in await everything(store)] == ["open"] * 3
    *_, row = await everything(store)
    assert await store.mark_gap(row.id, "filled", to_us=row.to_us)
    await store.write([rejected(9, 9, 10)])
    assert [(one.state, one.size) for one in await everything(store)][2:] == [("filled", 2), ("open", 1)]


async def test_a_day_of_constant_garbage_is_some_tens_of_rows(database: Database) -> None:
    store = Store(database)
    day = [rejected(number + 1, 30 * number, 30 * number + 1) for number in range(2_880)]
    for begin in range(0, len(day), 100):
        await store.write(day[begin : begin + 100])
    rows = [row for row in await everything(store) if row.cause == "rejected"]
    assert 24 <= len(rows) <= 72
    assert sum(row.size or 0 for row in rows) == 2_880
    missing = await store.missing_times(rows[0].series_id, 0, 2 * START_US, limit=100)
    assert all(
        any(first <= one.record.from_us and one.record.time_us <= (last or 0) for first, last in missing)
        for one in day
        if isinstance(one.record, Gap)
    )
