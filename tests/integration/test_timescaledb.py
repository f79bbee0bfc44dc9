"""What only TimescaleDB does: hypertables, chunks that are compressed while rows still come."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from mdserver.model import Published, Tick, Topic
from mdserver.store.connection.database import Database
from mdserver.store.store import Store
from mdserver.store.tables.migrations import applied_engine, load_migrations, migrate, pending
from tests import timescaledb

NAMES = [migration.name for migration in load_migrations("timescaledb")]
TOPIC = Topic("mock", "EURUSD", "tick")
START_US = 1_710_918_000_000_000
WEEK_US = 7 * 86_400_000_000


def tick(seq: int, time_us: int, bid: float = 1.1) -> Published:
    return Published(TOPIC, seq, Tick("EURUSD", time_us, bid, bid + 0.1, 0.5, None))


def compress(conn: psycopg.Connection[Any]) -> int:
    return len(conn.execute("select compress_chunk(c) from show_chunks('ticks') c").fetchall())


def test_every_file_once_in_order(timescale_url: str) -> None:
    with psycopg.connect(timescale_url) as conn:
        timescaledb.reset(conn)
        assert applied_engine(conn) is None
        assert migrate(conn) == NAMES
        assert migrate(conn) == pending(conn) == []
        assert applied_engine(conn) == "timescaledb"
        rows = conn.execute(
            "select hypertable_name::text from timescaledb_information.hypertables order by 1"
        )
        assert [name for (name,) in rows] == ["ticks", "trades"]


async def test_the_engine_is_found(timescale_database: Database) -> None:
    assert timescale_database.engine == "timescaledb"


async def test_rows_that_belong_into_compressed_chunks(timescale_database: Database) -> None:
    database, store = timescale_database, Store(timescale_database)
    await store.write([tick(n, START_US + n * 1_000_000, 1 + n / 1000) for n in range(1, 200)])
    await store.write([tick(200, START_US + WEEK_US)])
    assert await database.run(compress) == 2
    written = await store.write(
        [tick(201, START_US + 5_500_000, 9.0), tick(202, START_US + WEEK_US + 60_000_000)]
    )
    assert written.stored == {"tick": 2}
    again = await store.write([tick(201, START_US + 5_500_000), tick(202, START_US)])
    assert (again.stored, again.skipped) == ({}, 2)
    (info,) = await store.series()
    assert (info.row_count, info.hist_v) == (202, 1)
    first = START_US // 1_000_000
    candles = await store.candles(info.id, 60, first, first)
    assert (candles.high, candles.count) == ([pytest.approx(9.05)], [60])
    page = await store.records(info.id, "tick", START_US, START_US + 2 * WEEK_US, limit=1_000)
    assert len(page.time_us) == 202
    assert page.time_us == sorted(page.time_us)
    assert page.columns["bid"][5] == 9.0
