"""Databases that others use or administer: names that are taken, TimescaleDB in a schema or an edition of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import structlog
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs

from mdserver.errors import Rejected
from mdserver.model import Published, Tick, Topic
from mdserver.store.open_database import open_database
from mdserver.store.store import Store
from mdserver.store.upkeep.retention import drop_old, set_compression
from tests import timescaledb

LOG = structlog.get_logger()
TOPIC = Topic("mock", "EURUSD", "tick")
TICK = Published(TOPIC, 1, Tick("EURUSD", 1_710_918_000_000_000, 1.1, 1.2))

TAKEN = {
    "create table series (id int)": "the table series",
    "create view series as select 1 as id": "the view series",
    "create materialized view candles as select 1 as id": "the materialized view candles",
    """create foreign data wrapper w; create server s foreign data wrapper w;
       create foreign table series (id int) server s""": "the foreign table series",
    "create table ticks (id int); create view market_ticks as select 1 as id": "the view market_ticks, the table ticks",
    "create table schema_migrations (version text)": "schema_migrations .* belongs to another program",
}


@pytest.mark.parametrize("statements", TAKEN)
async def test_a_name_that_is_taken_is_named_with_the_way_out(
    empty_database_url: str, statements: str
) -> None:
    with psycopg.connect(empty_database_url) as conn:
        conn.execute(statements.encode())
    with pytest.raises(Rejected, match=TAKEN[statements]) as caught:
        async with open_database(empty_database_url, retry_for_s=0, log=LOG):
            pass
    assert "\n" not in str(caught.value)
    assert "options=-csearch_path%3Dmdserver" in str(caught.value)
    # and the way out is one
    apart = make_conninfo(empty_database_url, options="-csearch_path=mdserver")
    with pytest.raises(Rejected, match="names no schema that exists"):
        async with open_database(apart, retry_for_s=0, log=LOG):
            pass
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("create schema mdserver")
    async with open_database(apart, retry_for_s=0, log=LOG) as database:
        store = Store(database)
        assert (await store.write([TICK])).rows == 1
        await drop_old(database, 1)
        assert (await store.series())[0].row_count == 0


@pytest.fixture
def special_timescaledb(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        with timescaledb.running_timescaledb(**request.param) as url:
            yield url
    except timescaledb.Missing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no TimescaleDB: {error}")


async def _store_and_drop(url: str, check: Callable[[Any], None]) -> None:
    async with open_database(url, retry_for_s=0, log=LOG) as database:
        check(database)
        store = Store(database)
        assert (await store.write([TICK])).rows == 1
        await set_compression(database, 7)
        kept = await drop_old(database, 30)
        assert [one.rows for one in kept.dropped] == [1]


@pytest.mark.parametrize("special_timescaledb", [{"TIMESCALEDB_SCHEMA": "extensions"}], indirect=True)
async def test_timescaledb_in_a_schema_of_its_own(special_timescaledb: str) -> None:
    def check(database: Any) -> None:
        assert database.engine == "timescaledb"

    await _store_and_drop(special_timescaledb, check)


@pytest.mark.parametrize("special_timescaledb", [{"TIMESCALEDB_EDITION": "apache"}], indirect=True)
async def test_timescaledb_without_compression_is_told_once(special_timescaledb: str) -> None:
    def check(database: Any) -> None:
        assert database.engine == "plain"

    with capture_logs() as logs:
        await _store_and_drop(special_timescaledb, check)
    assert len([line for line in logs if "TimescaleDB" in line["event"]]) == 1
