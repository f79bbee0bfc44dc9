"""``mdserver run import --manage-indexes``: an operator's own indexes are there again, or he is told."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from mdserver.store.connection.database import Database
from mdserver.store.tables.secondary_indexes import drop_secondary
from mdserver.testing.dukascopy import FakeDukascopy, Fault
from tests.integration.daemon import clean_environment
from tests.integration.importing import (
    DEADLINE_S,
    HOURS,
    Importer,
    flat,
    make_importer,
    until_a_lock_is_awaited,
)

NAMES = ["by_price", "by_time"]
HINT = "still dropped: by_price, by_time; `mdserver run indexes recreate` builds them again"

INDEXES = """select c.relname::text, pg_get_indexdef(c.oid), x.indisvalid
    from pg_index x join pg_class c on c.oid = x.indexrelid
    where x.indrelid = 'ticks'::regclass and not x.indisprimary order by 1"""
INVALID = "select count(*) from pg_index where not indisvalid"
PARTS = """select count(*) from pg_inherits i join pg_class c on c.oid = i.inhparent
    where c.relname = any(array['by_price', 'by_time'])"""


def rows(importer: Importer, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(importer.url) as conn:
        return conn.execute(query).fetchall()


@pytest.fixture
def importer(tmp_path: Path, database_url: str, feed: FakeDukascopy) -> Importer:
    """An importer that waits for long where the feed does not answer."""
    return make_importer(tmp_path, database_url, feed, timeout_s=DEADLINE_S)


@pytest.fixture
def before(importer: Importer) -> list[tuple[Any, ...]]:
    """An operator's indexes, which are there and valid."""
    with psycopg.connect(importer.url) as conn:
        conn.execute("create index by_time on ticks using brin (time) with (pages_per_range = 16)")
        conn.execute("create index by_price on ticks (bid, ask desc) where bid > 1")
    found = rows(importer, INDEXES)
    assert [(name, valid) for name, _, valid in found] == [(name, True) for name in NAMES]
    return found


def assert_as_before(importer: Importer, before: Sequence[tuple[Any, ...]]) -> None:
    assert rows(importer, INDEXES) == before
    assert rows(importer, INVALID) == [(0,)]
    assert rows(importer, "select count(*) from dropped_indexes") == [(0,)]
    partitions = rows(importer, "select count(*) from pg_inherits where inhparent = 'ticks'::regclass")
    assert rows(importer, PARTS) == [(len(NAMES) * partitions[0][0],)]


async def test_they_are_gone_meanwhile_and_there_again_after_it(
    importer: Importer, before: Sequence[tuple[Any, ...]], feed: FakeDukascopy, database: Database
) -> None:
    with psycopg.connect(importer.url) as holder:
        holder.execute("lock table import_ledger in exclusive mode")
        async with importer.running("--manage-indexes") as run:
            await run.wait_said("dropped the index by_time of ticks")
            with trio.fail_after(DEADLINE_S):
                await feed.wait_requests(1)
            assert rows(importer, INDEXES) == []
            holder.rollback()
            assert await run.end() == 0
    for name in NAMES:
        assert f"index {name} of ticks: recreated in" in run.said
    assert "still dropped" not in run.said
    assert flat(run.stdout)["added"] == len(HOURS)
    assert_as_before(importer, before)

    await drop_secondary(database)  # as a run leaves it that was killed before its end
    done = await importer.finish("--manage-indexes")
    assert (done.returncode, flat(done.stdout)["skipped"]) == (0, len(HOURS))
    assert_as_before(importer, before)


async def test_interrupted_it_says_so(
    importer: Importer, before: Sequence[tuple[Any, ...]], feed: FakeDukascopy
) -> None:
    feed.fail(Fault("hang"))
    async with importer.running("--manage-indexes") as run:
        with trio.fail_after(DEADLINE_S):
            await feed.wait_requests(1)
        assert await run.end(signal.SIGINT) == 130
    assert HINT in run.said
    assert rows(importer, INDEXES) == []
    feed.heal()
    assert (await importer.run("--manage-indexes"))["added"] == len(HOURS)
    assert_as_before(importer, before)


async def test_interrupted_while_it_recreates_them(
    importer: Importer, before: Sequence[tuple[Any, ...]], database: Database
) -> None:
    await importer.run()
    await drop_secondary(database)
    for at_once in (True, False):
        with psycopg.connect(importer.url) as writer:
            writer.execute("lock table ticks in row exclusive mode")  # an index waits for those who write
            async with importer.running("--manage-indexes") as run:
                await until_a_lock_is_awaited(importer.url)
                run.process.send_signal(signal.SIGINT)
                await run.wait_said("press Ctrl-C again to stop at once")
                if not at_once:
                    writer.rollback()
                assert await run.end(signal.SIGINT if at_once else None) == 130
        assert (HINT in run.said) == at_once
    assert_as_before(importer, before)


async def test_killed_it_is_repaired_by_the_command_for_indexes(
    importer: Importer, before: Sequence[tuple[Any, ...]], feed: FakeDukascopy
) -> None:
    feed.fail(Fault("hang"), path="/11/23h_ticks")
    async with importer.running("--manage-indexes") as run:
        await run.wait_said("EURUSD 2024-03-08")  # a day is stored
        assert await run.end(signal.SIGKILL) == -signal.SIGKILL
    assert rows(importer, INDEXES) == []
    command = [
        sys.executable,
        "-m",
        "mdserver",
        "run",
        "indexes",
        "recreate",
        "--config",
        str(importer.config),
    ]
    with trio.fail_after(DEADLINE_S):
        done = await trio.run_process(command, capture_stdout=True, env=clean_environment())
    assert b"all indexes are in place again" in done.stdout
    assert_as_before(importer, before)


async def test_without_its_source_it_recreates_them(
    importer: Importer, before: Sequence[tuple[Any, ...]], feed: FakeDukascopy
) -> None:
    feed.fail(Fault("status", status=503))
    done = await importer.finish("--manage-indexes")
    assert done.returncode == 1
    assert "in a row could not be fetched" in flat(done.stdout)["stopped"]
    assert "dropped the index by_price" in done.stderr
    assert_as_before(importer, before)
