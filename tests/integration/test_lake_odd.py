# ruff: noqa: F811 - fixtures
"""Odd but legal: what an operator's lake and database may hold besides the usual."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import trio

from mdserver.commands.database_access import DatabaseAccess
from mdserver.config import LakeConfig
from mdserver.model import Published, Tick, Topic
from mdserver.store.connection.database import Database
from mdserver.store.store import Store
from mdserver_lake.bucket import open_bucket
from mdserver_lake.contents import list_places
from mdserver_lake.layout import day_start_us
from mdserver_lake.selection import Selection
from mdserver_lake.status import months_of, status_lines
from tests.integration.test_lake import (
    STREAMED,
    lake,  # noqa: F401 - a fixture
    load_ticks,
    other,  # noqa: F401 - a fixture
    pull_all,
    push_all,
    rows,
    stream,
    verify_all,
)

ODD = Topic("my-broker.2", "ÄÖ币安USDT", "tick")
LEAP, SUMMER = date(2024, 2, 29), date(2024, 3, 31)

STORED = """select broker, symbol, time, seq, bid, ask, received from ticks join series on id = series_id
    order by 1, 2, 3, 4"""


async def test_names_days_and_prices(
    lake: LakeConfig,
    database: Database,
    other: Database,
    tmp_path: Path,
) -> None:
    """Letters of any script, a dash and a dot; a leap day, a day when clocks change; one tick; twelve digits."""
    access, bucket = DatabaseAccess(database, write=True), open_bucket(lake)
    times = [day_start_us(LEAP), day_start_us(SUMMER) + 3_600_000_000, day_start_us(SUMMER) + 86_399_999_999]
    await Store(database).write(
        [
            Published(ODD, seq, Tick(ODD.symbol, at, 0.123456789012 * seq, 1.23456789012 * seq), at + 1)
            for seq, at in enumerate(times, 1)
        ]
    )
    await bucket.put("kind=tick/broker=x/symbol=Y/date=2024-02-30/data.parquet", b"no such day")
    await bucket.put("kind=tick/notes.txt", b"a stranger's")
    await bucket.put("kind=tick/broker=x/symbol=Y/date=2024-02-29/data.parquet", b"not Parquet at all")
    pushed = await push_all(access, bucket)
    assert (pushed.failed, pushed.done, pushed.rows) == ([], 2, 3)
    listed = await list_places(bucket, Selection(symbols=(ODD.symbol,), broker=ODD.broker))
    assert {one.day for one in listed} == {LEAP, SUMMER}
    assert {one.symbol for one in listed} == {ODD.symbol}
    assert any(ODD.symbol in line for line in status_lines(months_of(listed, {})))
    found = await verify_all(access, bucket)
    assert [one.what for one in found.failed] == ["kind=tick/broker=x/symbol=Y/date=2024-02-29/data.parquet"]
    pulled = await pull_all(DatabaseAccess(other, write=True), bucket)
    assert len(pulled.failed) == 1
    assert pulled.rows == 3
    values = "select symbol, time, bid, ask, received from ticks join series on id = series_id order by 2"
    assert await rows(other, values) == await rows(database, values)


async def test_two_pushes_at_once_make_one_lake(
    lake: LakeConfig,
    database: Database,
) -> None:
    access = DatabaseAccess(database, write=True)
    await load_ticks(access)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(push_all, access, open_bucket(lake))
    assert (await push_all(access, open_bucket(lake))).done == 0
    assert (await verify_all(access, open_bucket(lake))).ok


async def test_streamed_records_that_were_pulled_go_into_another_lake_as_streamed_ones(
    database: Database,
    other: Database,
    tmp_path: Path,
) -> None:
    """They have no last number in a database that never streamed them, and are no import all the same."""
    first, second = (open_bucket(LakeConfig(url=f"file://{tmp_path}/{name}")) for name in ("first", "second"))
    await stream(database)
    at = day_start_us(LEAP)
    await Store(database).write([Published(ODD, 7, Tick(ODD.symbol, at, 1.1, 1.2), at + 1)])
    await push_all(DatabaseAccess(database, write=True), first)
    new = DatabaseAccess(other, write=True)
    assert (await pull_all(new, first)).ok
    pulled = {query: await rows(other, query) for query in (STREAMED, STORED)}
    assert (await push_all(new, second)).failed == []
    await other.run(
        lambda conn: conn.execute("truncate ticks, trades, candles, seq_times, pushed_days, series cascade")
    )
    assert (await pull_all(new, second)).failed == []
    assert {query: await rows(other, query) for query in (STREAMED, STORED)} == pulled
