"""Imports that are killed, interrupted, cut off from the database or moved to another service half-way."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import termios
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import trio

from mdserver.market_hours import Market, open_hours
from mdserver.testing.dukascopy import FakeDukascopy, Fault, open_fake_dukascopy
from tests.integration.daemon import clean_environment, open_daemon, write_config
from tests.integration.importing import (
    DEADLINE_S,
    HOURS,
    Importer,
    flat,
    made_up,
    make_importer,
    source_settings,
    until_a_lock_is_awaited,
    us,
)

IMPATIENT = """import sys
from mdserver.commands.importing import target
assert target.STORE_GIVE_UP_S == 15.0
target.STORE_GIVE_UP_S = 1.0
from mdserver.__main__ import main
sys.exit(main())"""
"""The command line with a short patience for a database that is away."""


# -- killed ------------------------------------------------------------------------------------------------


def recorded_day(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Return a datafeed's folder with EURUSD of 2019-02-04, and what is known of each of its hours."""
    index = msgspec.json.decode((folder.parent / "index.json").read_bytes())
    day = "Leo4815162342+dukascopy-node/EURUSD/2019/01/04/"
    facts = [entry["facts"] for entry in index if day in entry["file"] and "h_ticks" in entry["file"]]
    return folder / "Leo4815162342+dukascopy-node", facts


HOUR_SUMS = """select count(*), sum(round(ask * 100000)), sum(round(bid * 100000)),
        sum(extract(epoch from time - date_trunc('hour', time)) * 1000)
    from ticks group by date_trunc('hour', time) order by date_trunc('hour', time)"""


@pytest.mark.recorded
async def test_a_recorded_day_under_fire(
    tmp_path: Path, database_url: str, recorded_data: Path, long: bool
) -> None:
    folder, facts = recorded_day(recorded_data)
    assert len(facts) == 24
    day = ("--from", "2019-02-04", "--to", "2019-02-04")
    random_ = random.Random(11)  # noqa: S311
    codes = []
    async with open_fake_dukascopy(folder) as feed:
        clean = make_importer(tmp_path / "clean", database_url, feed)
        assert (await clean.run(*day))["added"] == 24
        expected = clean.tables()
        clean.empty()
        feed.requests.clear()
        fired = make_importer(
            tmp_path / "fired", database_url, feed, attempts=20, concurrency=2, pause_s=0.02
        )

        feed.fail(Fault("hang"), path="23h_ticks")  # so that no run gets to its end
        feed.fail(Fault("status", status=503), times=6)
        feed.fail(Fault("cut"), times=4)
        feed.fail(Fault("hang"), times=2)
        feed.fail(Fault("broken off"), times=2)
        for _ in range(7 if long else 2):  # while it fetches
            until = len(feed.requests) + random_.randint(1, 5)
            async with fired.running(*day) as run:
                with trio.fail_after(DEADLINE_S):
                    await feed.wait_requests(until)
                await trio.sleep(random_.uniform(0, 0.1))
                codes.append(await run.end(signal.SIGKILL))
        feed.heal()
        feed.fail(Fault("status", status=503), times=3)
        feed.fail(Fault("cut"), times=2)
        for table in ("ticks", "candles", "import_ledger"):  # within its transaction, here and there
            with psycopg.connect(database_url) as holder:
                holder.execute(f"lock table {table} in exclusive mode")
                async with fired.running(*day) as run:
                    await until_a_lock_is_awaited(database_url)
                    await trio.sleep(random_.uniform(0, 0.1))
                    codes.append(await run.end(signal.SIGKILL))
                holder.rollback()
        assert codes == [-signal.SIGKILL] * (10 if long else 5)
        assert fired.tables()["ticks"] == []

        assert (await fired.run(*day))["added"] == 24
        met = {request.fault.kind for request in feed.requests if request.fault is not None}
        assert met >= {"status", "cut"}
        assert not long or met == {"hang", "status", "cut", "broken off"}
        assert (await fired.run(*day))["skipped"] == 24
    assert fired.tables() == expected
    with psycopg.connect(database_url) as conn:
        found = conn.execute(HOUR_SUMS).fetchall()
    assert [tuple(map(int, row)) for row in found] == [
        (fact["count"], fact["sum_ask"], fact["sum_bid"], fact["sum_ms"]) for fact in facts
    ]


# -- interrupted, cut off ----------------------------------------------------------------------------------


async def test_a_second_interrupt_ends_at_once(importer: Importer) -> None:
    with psycopg.connect(importer.url) as holder:
        holder.execute("lock table candles in exclusive mode")
        async with importer.running() as run:
            await until_a_lock_is_awaited(importer.url)
            run.process.send_signal(signal.SIGINT)
            await run.wait_said("press Ctrl-C again to stop at once")
            await trio.sleep(0.2)
            assert run.process.returncode is None  # it waits for its transaction, and we hold that up
            assert await run.end(signal.SIGINT) == 130
    assert "Traceback" not in run.said
    assert (flat(run.stdout)["stopped"], importer.tables()["ticks"]) == ("interrupted", [])
    assert (await importer.run())["added"] == len(HOURS)
    assert len(importer.tables()["ticks"]) == sum(len(made_up(hour)) for hour in HOURS)


async def test_the_server_whose_database_it_uses_stops(folder: Path, feed: FakeDukascopy) -> None:
    config = write_config(folder, history=[source_settings(feed)], brokers=[])
    importer = Importer(config)
    command = importer.command("--manage-indexes")
    command[1:3] = ["-c", IMPATIENT]
    async with open_daemon(config) as daemon:
        (pid_file,) = daemon.folder.glob("data/postgres/cluster/postmaster.pid")
        url = f"host={pid_file.read_text().splitlines()[4]} port=5432 user=mdserver dbname=mdserver"
        holder = psycopg.connect(url)
        holder.execute("create index by_bid on ticks (bid)")
        holder.commit()
        holder.execute("lock table import_ledger in exclusive mode")
        async with importer.running(command=command) as run:
            await run.wait_said("dropped the index by_bid")
            await until_a_lock_is_awaited(url)
            assert await daemon.stop() == 0
            assert await run.end() == 1
        holder.close()
    assert "Traceback" not in run.said
    assert "mdserver: the database stays unavailable: " in run.said
    assert "the same command continues the import" in run.said
    assert "still dropped: by_bid" in run.said
    done = await importer.finish("--manage-indexes")
    assert (done.returncode, flat(done.stdout)["added"]) == (0, len(HOURS)), done.stderr
    assert "index by_bid of ticks: recreated" in done.stderr


# -- the source's other service, several symbols, another database -----------------------------------------


async def test_the_json_api_gives_the_same(importer: Importer, feed: FakeDukascopy, tmp_path: Path) -> None:
    await importer.run()
    expected = importer.tables()
    importer.empty()
    feed.requests.clear()
    done = await make_importer(tmp_path / "jetta", importer.url, feed, services=["jetta"]).run()
    assert (done["added"], done["ticks"]) == (len(HOURS), len(expected["ticks"]))
    assert {request.service for request in feed.requests} == {"jetta"}
    found = importer.tables()
    assert {row[6] for row in found.pop("ledger")} == {"jetta"}
    assert found == {name: rows for name, rows in expected.items() if name != "ledger"}


@pytest.mark.parametrize("services", [["datafeed", "jetta"], ["jetta", "datafeed"]], ids="-".join)
async def test_one_service_stands_in_for_the_other(
    feed: FakeDukascopy, tmp_path: Path, database_url: str, services: list[str]
) -> None:
    importer = make_importer(tmp_path, database_url, feed, services=services, attempts=1, down_s=0)
    bases = {"datafeed": feed.url, "jetta": feed.jetta_url}
    first, other = (bases[name] for name in services)
    path = first.partition("127.0.0.1")[2].partition("/")[2]
    feed.fail(Fault("status", status=503), path=f"/{path}")
    done = await importer.finish("--to", "2024-03-08")
    assert done.returncode == 0, done.stderr
    assert re.search(f"{first} does not serve us: .*HTTP 503.*; going on with {other}", done.stderr)
    assert {row[6] for row in importer.tables()["ledger"]} == {services[1]}
    feed.heal()
    feed.fail(Fault("status", status=503), times=3, path=f"/{path}")
    done = await importer.finish()
    assert done.returncode == 0, done.stderr
    assert f"{first} answers again" in done.stderr
    found = importer.tables()
    assert {row[6] for row in found["ledger"]} == set(services)
    assert len(found["ticks"]) == sum(len(made_up(hour)) for hour in HOURS)


async def test_several_symbols(importer: Importer, feed: FakeDukascopy) -> None:
    others: list[tuple[str, str, str, Market]] = [
        ("USD/JPY", "USDJPY", "USD-JPY", "fx"),
        ("XAU/USD", "XAUUSD", "XAU-USD", "session"),
    ]
    ticks = {"EURUSD": sum(len(made_up(hour)) for hour in HOURS)}
    for seed, (_, code, jetta_code, market) in enumerate(others, 1):
        hours = open_hours(market, us("2024-03-08"), us("2024-03-12"))
        for hour in hours:
            feed.put_hour(code, jetta_code, hour, made_up(hour, seed, 150_000 * seed), decimals=3)
        ticks[code] = sum(len(made_up(hour, seed, 150_000 * seed)) for hour in hours)
    done = await importer.finish(symbols=("EUR/USD", "USD/JPY", "XAU/USD"))
    assert done.returncode == 0, done.stderr
    assert {one["symbol"]: one["ticks"] for one in json.loads(done.stdout)["symbols"]} == ticks
    found = importer.tables()
    assert {(row[1], row[3]) for row in found["series"]} == set(ticks.items())
    ranges = {"EURUSD": (1.14, 1.15006), "USDJPY": (150, 151.006), "XAUUSD": (300, 301.006)}
    for symbol, (low, high) in ranges.items():
        rows = [row for row in found["ticks"] if row[1] == symbol]
        assert len(rows) == ticks[symbol]
        assert all(low <= row[4] <= row[5] <= high for row in rows)
        candles = [row for row in found["candles"] if row[1] == symbol and row[2] == 86_400]
        assert sum(row[9] for row in candles) == ticks[symbol]


async def test_a_symbol_that_the_source_lacks_comes_before_all_else(
    importer: Importer, feed: FakeDukascopy
) -> None:
    done = await importer.finish(symbols=("EUR/USD", "EUR/XYZ"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "Dukascopy has no instrument 'EURXYZ'" in done.stderr
    assert (feed.requests, importer.tables()["series"]) == ([], [])


async def test_timescaledb_ends_in_the_same_tables(
    importer: Importer, feed: FakeDukascopy, tmp_path: Path, timescale_database_url: str
) -> None:
    await importer.run()
    other = make_importer(tmp_path / "timescaledb", timescale_database_url, feed)
    assert (await other.run())["added"] == len(HOURS)
    assert other.tables() == importer.tables()
    assert (await other.run())["skipped"] == len(HOURS)


# -- what it shows -----------------------------------------------------------------------------------------

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


async def test_a_bar_on_a_terminal(importer: Importer) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    environment = clean_environment() | {"TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(name, None)
    written = b""

    def read() -> bytes:
        try:
            return os.read(ours, 65_536)
        except OSError:  # the last one has closed the terminal
            return b""

    try:
        process = await trio.lowlevel.open_process(
            importer.command(), stdout=theirs, stderr=theirs, env=environment
        )
    finally:
        os.close(theirs)
    try:
        with trio.fail_after(DEADLINE_S):
            while part := await trio.to_thread.run_sync(read, abandon_on_cancel=True):
                written += part
            assert await process.wait() == 0
    finally:
        os.close(ours)
        if process.returncode is None:
            process.kill()
    text = written.decode()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is there again
    shown = ESCAPES.sub("", text).replace("\r", "\n").splitlines()
    total = len(HOURS)
    begun = next(line for line in shown if "━" in line)
    assert re.fullmatch(rf"importing ━+ 0 of {total} hours *", begun)
    bars = [line for line in shown if "ticks/s" in line]
    assert bars
    for line in bars:
        assert re.fullmatch(
            rf"EURUSD [━╸╺]+ +\d+ of {total} hours, [\d,]+ ticks/s, \d+:\d\d:\d\d left *", line
        )
    assert bars[-1].rstrip().endswith("0:00:00 left")
    assert flat([line for line in shown if line][-1])["added"] == total


async def test_lines_where_there_is_no_terminal(importer: Importer) -> None:
    done = await importer.finish()
    lines = [line for line in done.stderr.splitlines() if "ticks/s" in line]
    hour = r"2024-03-\d\dT\d\d:00Z"
    pattern = (
        rf"EURUSD {hour} to {hour}: [\d,]+ ticks in \d+ hours; "
        rf"\d+ of {len(HOURS)} hours, [\d,]+ ticks/s, \d:\d\d:\d\d left"
    )
    assert len(lines) == 3  # no market on Saturday
    assert all(re.fullmatch(pattern, line) for line in lines), lines
    assert "\x1b" not in done.stderr
