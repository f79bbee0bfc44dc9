"""TimescaleDB's direct-compress COPY: the same data as without it, in compressed chunks, and a way back."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from mdserver.cli import main
from mdserver.errors import Rejected
from mdserver.model import Published, Tick, TickColumns, Topic
from mdserver.store.connection.database import Database
from mdserver.store.connection.database_errors import DataRefused
from mdserver.store.store import Store
from mdserver.store.tables import compressed_loading as direct_compress
from mdserver.store.tables.compressed_loading import INDEX, status, switch_off, switch_on
from mdserver.store.tables.migrations import migrate
from mdserver.store.tables.secondary_indexes import drop_secondary
from mdserver.store.upkeep.integrity import check
from mdserver.store.upkeep.primary_keys import clean_up
from tests.conftest import TEMPLATE

from .test_load_hours import (
    CANDLES,
    SYMBOL,
    assert_stored,
    data,
    hour_us,
    make_ticks,
    opened,
    other,
    rows,
)

TOPIC = Topic("mock", "EURUSD", "tick")
LATER_US = hour_us(4)
"""A live record in the chunks that are imported into."""

TICKS = "select series_id, time, seq, bid, ask, bid_size, ask_size from ticks order by series_id, time, seq"

KEY = "select conname from pg_constraint where conrelid = 'ticks'::regclass and contype = 'p'"


@pytest.fixture
def database(timescale_database: Database) -> Database:
    return timescale_database


@pytest.fixture
async def direct(database: Database) -> Database:
    assert await switch_on(database)
    return database


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


async def run(database: Database, *statements: str) -> None:
    def work(conn: psycopg.Connection[Any]) -> None:
        for statement in statements:
            conn.execute(statement)

    await database.run(work)


async def count_compressed(database: Database) -> tuple[int, int]:
    """Return how many rows lie in compressed batches, and how many beside them."""

    def work(conn: psycopg.Connection[Any]) -> tuple[int, int]:
        pairs = conn.execute(
            """select c.schema_name, c.table_name, d.schema_name, d.table_name
            from _timescaledb_catalog.chunk c join _timescaledb_catalog.hypertable h on h.id = c.hypertable_id
            left join _timescaledb_catalog.chunk d on d.id = c.compressed_chunk_id where h.table_name = 'ticks'"""
        ).fetchall()
        batched = beside = 0
        for schema, name, batch_schema, batch_name in pairs:
            whole = sql.Identifier(schema, name)
            beside += conn.execute(sql.SQL("select count(*) from only {}").format(whole)).fetchall()[0][0]
            if batch_name:
                batches = sql.Identifier(batch_schema, batch_name)
                total = sql.SQL("select coalesce(sum(_ts_meta_count), 0)::int from {}").format(batches)
                batched += conn.execute(total).fetchall()[0][0]
        return batched, beside

    return await database.run(work)


async def test_rows_arrive_compressed_and_only_in_that_mode(store: Store, database: Database) -> None:
    series = await opened(store)
    await store.load_hours(series, [data(1, make_ticks(1, 0))])
    assert await count_compressed(database) == (0, 60)
    assert await switch_on(database)
    assert not await switch_on(database)
    await store.load_hours(series, [data(number, make_ticks(number, 0)) for number in (2, 3, 200)])
    assert await count_compressed(database) == (180, 60)
    assert await rows(database, "select current_setting('timescaledb.enable_direct_compress_copy')") == [
        ("off",)
    ]
    await assert_stored(store, database, {number: make_ticks(number, 0) for number in (1, 2, 3, 200)})
    found = await status(database)
    assert (found.on, found.problem, found.chunks, found.compressed_chunks) == (True, None, 2, 2)


async def load_at_random(store: Store, seed: int) -> dict[int, TickColumns]:
    """Load, replace and empty hours in a random order; return those that are left. Compress in between."""
    random_ = random.Random(seed)  # noqa: S311
    series = await opened(store)
    hours: dict[int, TickColumns] = {}
    for _ in range(8):
        batch = []
        for number in random_.sample(range(20, 60), random_.randint(1, 12)):
            if random_.random() < 0.25:
                hours.pop(number, None)
                batch.append(other(number, "empty"))
            else:
                hours[number] = make_ticks(number, random_.randint(0, 3), random_.randint(1, 60))
                batch.append(data(number, hours[number]))
        await store.load_hours(series, batch)
    return hours


@pytest.mark.parametrize("seed", range(3))
async def test_the_same_as_without_it(store: Store, database: Database, seed: int) -> None:
    await load_at_random(store, seed)
    queries = (TICKS, CANDLES, "select hour, outcome, checksum, row_count from import_ledger order by hour")
    normal = [await rows(database, query) for query in queries]
    metadata = await store.series()
    await run(database, "truncate ticks, candles, import_ledger")
    await run(database, "update series set row_count = 0, earliest = null, latest = null, hist_v = 0")
    await switch_on(database)
    hours = await load_at_random(store, seed)
    assert [await rows(database, query) for query in queries] == normal
    assert await store.series() == metadata
    await assert_stored(store, database, hours)
    assert (await count_compressed(database))[0] > 0
    (report,) = await check(database)
    assert [one.kind for one in report.findings if one.kind != "missing_hours"] == []


async def test_an_hour_between_two_comes_out_in_its_place(store: Store, direct: Database) -> None:
    """Batches of one COPY would span the gap, and overlap with what is stored in it later."""
    series = await opened(store)
    hours = {number: make_ticks(number, 0, 700) for number in range(30, 60)}
    for numbers in (range(30, 60, 2), range(31, 60, 2)):
        await store.load_hours(series, [data(number, hours[number]) for number in numbers])
    assert await count_compressed(direct) == (21_000, 0)
    times = await rows(direct, f"select time from ticks where series_id = {series.id} order by time, seq")
    assert times == sorted(times)
    await assert_stored(store, direct, hours)


async def test_batches_are_full(store: Store, direct: Database) -> None:
    """Hours that follow each other share batches: of 1,000 rows, but for the last one of a COPY."""
    series = await opened(store)
    hours = {number: make_ticks(number, 0, 110) for number in range(30, 60)}
    await store.load_hours(series, [data(number, ticks) for number, ticks in hours.items()])
    chunks = await rows(
        direct,
        """select d.schema_name, d.table_name from _timescaledb_catalog.chunk c
        join _timescaledb_catalog.chunk d on d.id = c.compressed_chunk_id""",
    )
    sizes = [
        size
        for schema, name in chunks
        for (size,) in await rows(direct, f"select _ts_meta_count from {schema}.{name}")
    ]
    assert sorted(sizes) == [300, 1000, 1000, 1000]


async def test_a_revised_hour_in_a_compressed_chunk(store: Store, direct: Database) -> None:
    series = await opened(store)
    hours = {number: make_ticks(number, 0, 100) for number in range(30, 40)}
    await store.load_hours(series, [data(number, ticks) for number, ticks in hours.items()])
    hours[33] = make_ticks(33, 1, 70)  # sizes that are not given: rows of several lengths
    (result,) = await store.load_hours(series, [data(33, hours[33])])
    assert (result.status, result.row_count) == ("replaced", 70)
    await assert_stored(store, direct, hours)
    await store.load_hours(series, [other(34, "empty")])
    del hours[34]
    await assert_stored(store, direct, hours)
    await run(direct, "select compress_chunk(c) from show_chunks('ticks') c")
    assert await count_compressed(direct) == (sum(len(ticks.time_us) for ticks in hours.values()), 0)
    await assert_stored(store, direct, hours)
    (result,) = await store.load_hours(series, [data(33, hours[33])])
    assert result.status == "unchanged"


async def test_a_revised_hour_decompresses_its_own_batches_only(store: Store, direct: Database) -> None:
    """TimescaleDB has a limit for each statement; a week that is replaced must not run into it."""
    series = await opened(store)
    hours = {number: make_ticks(number, 0, 700) for number in range(30, 42)}
    await store.load_hours(series, [data(number, ticks) for number, ticks in hours.items()])
    limit = "select set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '{}', false)"
    await run(direct, limit.format(3_000))
    try:
        hours = {number: make_ticks(number, 2, 700) for number in hours}
        results = await store.load_hours(series, [data(number, ticks) for number, ticks in hours.items()])
    finally:
        await run(direct, limit.format(100_000))
    assert {result.status for result in results} == {"replaced"}
    await assert_stored(store, direct, hours)


async def test_live_records_are_stored_once_without_the_key(store: Store, direct: Database) -> None:
    series = await opened(store)
    await store.load_hours(series, [data(number, make_ticks(number, 0)) for number in range(3, 6)])
    batch = [
        Published(TOPIC, n, Tick(SYMBOL, LATER_US + n * 30_000_000, 1 + n / 1000, 2.0)) for n in range(1, 101)
    ]
    assert (await store.write(batch[:60])).rows == 60
    # the answer to the commit was lost: the same again, with what came meanwhile
    again = await store.write(batch)
    assert (again.rows, again.skipped) == (40, 60)
    late = await store.write([Published(TOPIC, 101, Tick(SYMBOL, LATER_US, 0.5, 0.7))])
    assert (late.rows, (await store.write(batch)).rows) == (1, 0)
    live = next(one for one in await store.series() if one.broker == "mock")
    page = await store.records(live.id, "tick", LATER_US, hour_us(9), limit=1_000)
    assert (live.row_count, page.seq) == (101, [101, *range(1, 101)])
    assert [one.kind for report in await check(direct) for one in report.findings] == []


async def test_duplicates_are_found_removed_and_forbid_the_way_back(store: Store, direct: Database) -> None:
    series = await opened(store)
    hours = {number: make_ticks(number, 0) for number in (*range(30, 40), 200)}
    await store.load_hours(series, [data(number, ticks) for number, ticks in hours.items()])
    await run(direct, "insert into ticks select * from ticks where seq = 7 and time < '2024-03-02'")
    (report,) = await check(direct)
    found = {one.kind: one for one in report.findings}
    assert found.keys() >= {"duplicates", "ledger", "metadata"}
    assert (found["duplicates"].count, found["duplicates"].remedy) == (10, "mdserver run cleanup")
    with pytest.raises(Rejected, match="`mdserver run cleanup` removes them"):
        await switch_off(direct)
    assert (await status(direct)).on
    (cleaned,) = await clean_up(direct)
    assert (cleaned.table, cleaned.removed, cleaned.rebuilt) == ("ticks", 10, False)
    await assert_stored(store, direct, hours)
    assert (await count_compressed(direct)) == (60, 600)  # the chunk that had none stayed as it was
    assert (await status(direct)).on
    (cleaned,) = await clean_up(direct)
    assert cleaned.removed == 0
    assert await switch_off(direct)


async def test_the_way_back(store: Store, direct: Database) -> None:
    series = await opened(store)
    hours = {number: make_ticks(number, 0) for number in range(30, 40)}
    await store.load_hours(series, [data(number, ticks) for number, ticks in hours.items()])
    assert await switch_off(direct)
    assert not await switch_off(direct)
    assert await rows(direct, KEY) == [("ticks_pkey",)]
    assert await rows(direct, f"select to_regclass('{INDEX}')") == [(None,)]
    assert await count_compressed(direct) == (600, 0)
    with pytest.raises(DataRefused):
        await run(direct, "insert into ticks select * from ticks where seq = 7 limit 1")
    hours[33] = make_ticks(33, 1)
    await store.load_hours(series, [data(33, hours[33]), data(50, make_ticks(50, 0))])
    await assert_stored(store, direct, hours | {50: make_ticks(50, 0)})
    assert await check(direct)


async def test_the_stand_in_is_no_secondary_index(direct: Database) -> None:
    await run(direct, "create index by_bid on ticks (bid)")
    assert [index.name for index in await drop_secondary(direct)] == ["by_bid"]
    assert (await status(direct)).on


async def test_migrating_changes_nothing_about_it(direct: Database) -> None:
    assert await direct.run(migrate) == []
    assert await rows(direct, KEY) == []
    assert (await status(direct)).on


async def refused(database: Database, match: str) -> None:
    with pytest.raises(Rejected, match=match):
        await switch_on(database)
    found = await status(database)
    assert not found.on
    assert len(await rows(database, KEY)) == 1


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("create unique index mine on ticks (time, series_id, seq)", "the unique index mine"),
        (
            """create function nothing() returns trigger language plpgsql as 'begin return new; end';
            create trigger watched after insert on ticks for each row execute function nothing()""",
            "the trigger watched",
        ),
        (
            "alter table ticks set (timescaledb.compress_orderby = 'time desc')",
            "compress_segmentby and compress_orderby",
        ),
    ],
)
async def test_refused_where_timescaledb_would_not_compress(
    database: Database, statement: str, match: str
) -> None:
    await run(database, statement)
    try:
        await refused(database, match)
    finally:
        await run(database, "drop function if exists nothing cascade")


async def test_refused_by_a_version_without_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_compress, "_ENABLE", "timescaledb.of_the_future")
    await refused(database, r"TimescaleDB 2\.\S+ has no direct compress")


async def test_another_order_ends_the_compressing(store: Store, direct: Database) -> None:
    """Rows by time would be taken for rows in the operator's order."""
    await run(direct, "alter table ticks set (timescaledb.compress_orderby = 'time desc, seq desc')")
    series = await opened(store)
    await store.load_hours(series, [data(30, make_ticks(30, 0))])
    assert await count_compressed(direct) == (0, 60)
    found = await status(direct)
    assert found.on
    assert "compress_orderby" in (found.problem or "")


async def test_a_lost_key_is_not_replaced(database: Database) -> None:
    await run(database, "alter table ticks drop constraint ticks_pkey")
    with pytest.raises(Rejected, match="lost its primary key; `mdserver run cleanup` restores it"):
        await switch_on(database)


async def test_what_did_not_begin_is_not_half_done(
    direct: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that breaks after its rows leaves neither rows nor candles nor ledger."""
    series = await opened(store)
    await store.load_hours(series, [data(30, make_ticks(30, 0))])

    def broken(*_: object) -> None:
        raise RuntimeError("power")

    monkeypatch.setattr("mdserver.store.history.load_hours.write_hours", broken)
    with pytest.raises(RuntimeError):
        await store.load_hours(series, [data(30, make_ticks(30, 2)), data(31, make_ticks(31, 0))])
    await assert_stored(store, direct, {30: make_ticks(30, 0)})
    assert np.array_equal(
        [row[0] for row in await rows(direct, "select bid from ticks order by time, seq")],
        make_ticks(30, 0).bid,
    )


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command on a database; return the exit code, what it printed, and its last error."""

    def call(url: str, *arguments: str) -> tuple[int, str, str]:
        parts = psycopg.conninfo.conninfo_to_dict(url)
        target = "postgresql:///?" + "&".join(f"{key}={value}" for key, value in parts.items())
        config = tmp_path / "config.yaml"
        config.write_text(json.dumps({"database": {"url": target}, "data_dir": str(tmp_path)}))
        code = main(["run", "direct-compress", *arguments, "--config", str(config)])
        out, err = capsys.readouterr()
        return code, out, err.strip().splitlines()[-1] if err.strip() else ""

    return call


def test_the_command(timescale_database_url: str, command: Callable[..., tuple[int, str, str]]) -> None:
    url = timescale_database_url
    assert command(url, "status")[:2] == (
        0,
        "direct compress is off\ncompressed: 0 of 0 chunks of ticks\n",
    )
    code, out, _ = command(url, "on")
    assert code == 0
    assert "restores the primary key" in out
    assert command(url, "on")[:2] == (0, "direct compress was on already\n")
    status = json.loads(command(url, "status", "--json")[1])
    assert status == {"on": True, "problem": None, "chunks": 0, "compressed_chunks": 0}
    assert json.loads(command(url, "off", "--json")[1]) == {"on": False, "changed": True}
    assert command(url, "off")[:2] == (0, "direct compress was off already\n")


def test_plain_postgresql_is_refused(
    template_url: str,
    make_database: Callable[[str | None], str],
    command: Callable[..., tuple[int, str, str]],
) -> None:
    url = make_database(TEMPLATE)
    code, out, error = command(url, "on")
    assert (code, out) == (1, "")
    assert "direct compress needs TimescaleDB" in error
    assert json.loads(command(url, "status", "--json")[1])["problem"] in error
    assert json.loads(command(url, "off", "--json")[1]) == {"on": False, "changed": False}
    with psycopg.connect(url) as conn:
        assert len(conn.execute(KEY).fetchall()) == 1
