"""``mdserver run delete``: rows, candles, ledger and metadata go together, on both engines, also compressed ones."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from mdserver.model import Published, Tick, Topic, Trade
from mdserver.store.connection.database import Database, Engine
from mdserver.store.seq_times import BLOCK
from mdserver.store.store import Store
from mdserver.store.upkeep.delete_rows import Range, count_rows, delete_rows
from mdserver.store.upkeep.integrity import check
from mdserver.stream.stored_past import FromTime

from .test_load_hours import data, make_ticks
from .test_maintenance_commands import Run, run, url
from .test_retention import rows

__all__ = ["run", "url"]  # fixtures

DAY_US = 86_400_000_000
BAD, GOOD = Topic("bad", "EURUSD", "tick"), Topic("good", "EURUSD", "tick")
TRADES = Topic("bad", "BTCUSDT", "trade")


def us(*day: int) -> int:
    return int(datetime(*day, tzinfo=UTC).timestamp()) * 1_000_000


@pytest.fixture
async def store(database: Database) -> Store:
    """Twenty days of ticks of two brokers, a trade, and a tick of 1970."""
    store = Store(database)
    for topic in (BAD, GOOD):
        await store.write(
            [
                Published(topic, n, Tick("EURUSD", us(2024, 3, 20) + n * DAY_US // 10, 1.0, 1.1))
                for n in range(1, 201)
            ]
        )
    await store.write([Published(BAD, 201, Tick("EURUSD", 1_710_918_000_000, 1.0, 1.1))])
    await store.write([Published(TRADES, 1, Trade("BTCUSDT", us(2024, 3, 25), 5.0, 1.0))])
    return store


async def state(database: Database, broker: str) -> list[tuple[Any, ...]]:
    query = f"""select s.symbol, s.row_count, s.earliest, s.latest, s.last_seq,
        (select count(*) from ticks where series_id = s.id), (select count(*) from candles where series_id = s.id)
        from series s where broker = '{broker}' order by 1"""
    return await rows(database, query)


@pytest.mark.both_engines
@pytest.mark.parametrize("compressed", [False, True])
async def test_days_go_with_all_that_belongs_to_them(
    store: Store, database: Database, engine: Engine, compressed: bool
) -> None:
    if compressed and engine == "plain":
        return
    if compressed:
        await rows(database, "select compress_chunk(c) from show_chunks('ticks') c")
    others = await state(database, "good")
    before = {one.topic: one for one in await store.series()}
    what = Range("bad", "EURUSD", us(2024, 3, 25), us(2024, 3, 30))
    (there,) = await count_rows(database, what)
    seen: list[int] = []
    (gone,) = await delete_rows(database, what, advance=seen.append)
    assert gone == there
    assert (gone.rows, sum(seen), max(seen)) == (50, 50, 10)
    assert gone.candles > 50
    assert await state(database, "good") == others
    assert [report.findings for report in await check(database, "BTCUSDT")] == [[]]
    wrong = [f.kind for report in await check(database, "EURUSD") for f in report.findings]
    assert set(wrong) <= {"missing_hours"}
    after = {one.topic: one for one in await store.series()}
    assert (after[BAD].hist_v, after[BAD].live_v) > (before[BAD].hist_v, before[BAD].live_v)
    assert (after[GOOD], after[BAD].last_seq) == (before[GOOD], 201)
    assert await delete_rows(database, what) == []
    # what comes later is stored as ever
    assert (await store.write([Published(BAD, 202, Tick("EURUSD", us(2024, 3, 26), 1.0, 1.1))])).rows == 1


@pytest.mark.both_engines
async def test_what_the_stream_had_leaves_a_gap(store: Store, database: Database) -> None:
    """A day of it a gap: nobody takes a candle for whole, or goes on behind it, without learning that rows are gone."""
    day = us(2024, 3, 25)
    await delete_rows(database, Range("bad", "EURUSD", day, day + 2 * DAY_US))
    found = await store.gaps(0, us(2025, 1, 1), limit=9)
    assert [(one.cause, one.state, one.size, one.from_us, one.to_us) for one in found] == [
        ("deleted", "permanent", 10, at, at + 9 * DAY_US // 10) for at in (day, day + DAY_US)
    ]
    (series,) = [one for one in await store.series("EURUSD") if one.topic == BAD]
    page = await store.replay_page(series, 45, 100, received=False)
    texts = b"".join(page.pieces).decode(errors="ignore").split('"type":"')[1:]
    kinds = [text.partition('"')[0] for text in texts]
    assert kinds[:7] == ["tick"] * 4 + ["gap"] * 2 + ["tick"]
    for since in (day, day + DAY_US, day + 2 * DAY_US):
        (begin,) = (await store.replay_begins({BAD: FromTime(since)})).values()
        assert begin.after == 69
    # whatever was noted of the times of deleted rows, those behind them are found
    await delete_rows(database, Range("bad", "EURUSD", us(2024, 3, 30), us(2030, 1, 1)))
    await store.write(
        [Published(BAD, BLOCK + n, Tick("EURUSD", us(2024, 3, 30) + n, 1.0, 1.1)) for n in range(9)]
    )
    (begin,) = (await store.replay_begins({BAD: FromTime(us(2024, 3, 30))})).values()
    assert begin.after == BLOCK - 1


async def test_a_broker_as_a_whole_and_a_time_that_spoiled_the_earliest(
    store: Store, database: Database
) -> None:
    (gone,) = await delete_rows(database, Range("bad", "EURUSD", 0, us(1990, 1, 1)))
    assert gone.rows == 1
    ((_, _, earliest, *_),) = [row for row in await state(database, "bad") if row[0] == "EURUSD"]
    assert earliest >= datetime(2024, 3, 20, tzinfo=UTC)
    assert sum(one.rows for one in await delete_rows(database, Range("bad"))) == 201
    for _, row_count, earliest, latest, last_seq, ticks, candles in await state(database, "bad"):
        assert (row_count, earliest, latest, ticks, candles) == (0, None, None, 0, 0)
        assert last_seq > 0
    assert await count_rows(database, Range("bad")) == []


async def test_an_imported_range_can_be_imported_again(database: Database) -> None:
    store = Store(database)
    series = await store.open_series("dukascopy", "EURUSD")
    hours = [data(number, make_ticks(number, 0)) for number in range(48)]
    await store.load_hours(series, hours)
    first = hours[0].hour_us // DAY_US * DAY_US
    (gone,) = await delete_rows(database, Range("dukascopy", None, first, first + DAY_US))
    assert gone.hours > 0
    assert {result.status for result in await store.load_hours(series, hours)} == {"added", "unchanged"}
    assert [report.findings for report in await check(database)] == [[]]


async def test_what_was_interrupted_goes_on(store: Store, database: Database) -> None:
    with trio.CancelScope() as scope:
        await delete_rows(database, Range("bad"), advance=lambda rows: scope.cancel())
    assert scope.cancelled_caught
    left = sum(one.rows for one in await count_rows(database, Range("bad")))
    assert 0 < left < 202
    assert [r.findings for r in await check(database) if r.broker == "bad" and r.symbol == "BTCUSDT"] == [[]]
    assert sum(one.rows for one in await delete_rows(database, Range("bad"))) == left


def test_the_command(run: Run, url: str) -> None:
    assert run("delete", "--broker", "nobody", "--yes") == (1, "")  # a misspelt name is not done
    assert run("delete", "--broker", "mock", "--symbol", "EURUSDX", "--yes") == (1, "")
    code, found = run("delete", "--broker", "mock", "--dry-run", "--json")
    assert (code, found["done"], found["series"][0]["rows"]) == (0, False, 99)
    assert run("delete", "--broker", "mock")[0] == 2  # nobody to ask
    assert run("delete", "--broker", "mock", "--from", "2024-03-21", "--to", "2024-03-20", "--yes")[0] == 2
    code, text = run("delete", "--broker", "mock", "--from", "2024-03-21", "--yes")
    assert (code, text) == (0, "nothing is stored of mock in that range\n")
    code, done = run(
        "delete", "--broker", "mock", "--symbol", "eur/usd", "--to", "2024-03-20", "--yes", "--json"
    )
    assert (code, done["done"], done["series"][0]["rows"]) == (0, True, 99)
    with psycopg.connect(url) as conn:
        assert conn.execute("select count(*) from ticks").fetchone() == (0,)


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 99), ("y\n", 0, 0)])
def test_it_asks_first(run: Run, url: str, tmp_path: Path, answer: str, code: int, left: int) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "mdserver", "run", "delete", "--broker", "mock"]
    process = subprocess.Popen(
        [*command, "--config", str(tmp_path / "config.yaml")],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.write(master, answer.encode())
    _, shown = process.communicate(timeout=60)
    assert process.returncode == code, shown
    assert b"Permanently delete 99 rows?" in shown
    with psycopg.connect(url) as conn:
        assert conn.execute("select count(*) from ticks").fetchone() == (left,)
    for end in (master, slave):
        os.close(end)
