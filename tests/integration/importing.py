"""A real ``mdserver run import`` as a process of its own, and made-up hours for a fake datafeed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import psycopg
import trio
import yaml

from mdserver.market_hours import open_hours
from mdserver.testing.bi5 import FakeTick
from mdserver.testing.dukascopy import FakeDukascopy
from tests.integration.daemon import clean_environment
from tests.mdserver_process import MdserverProcess, open_mdserver, run_mdserver

DEADLINE_S = 60.0
FIRST, LAST = "2024-03-08", "2024-03-11"
"""Friday to Monday over the change to summer time: the market closes at 22:00 and opens at 21:00 UTC."""

TABLES = {
    "ticks": """select broker, symbol, time, seq, bid, ask, bid_size, ask_size
        from ticks join series on series.id = series_id order by 1, 2, 3, 4""",
    "candles": """select broker, symbol, timeframe, time, open, high, low, close, volume, candles.row_count
        from candles join series on series.id = series_id order by 1, 2, 3, 4""",
    "series": "select broker, symbol, type, row_count, earliest, latest from series order by 1, 2, 3",
    "ledger": """select broker, symbol, hour, outcome, l.row_count, checksum, service, cause, settled
        from import_ledger l join series on series.id = series_id order by 1, 2, 3""",
}
"""All that an import leaves, without when it did, how often, and whether a file came from the cache."""


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


HOURS = open_hours("fx", us(FIRST), us("2024-03-12"))
CODE, JETTA_CODE = "EURUSD", "EUR-USD"


def made_up(hour_us: int, seed: int = 0, level: int = 114_000) -> list[FakeTick]:
    random_ = random.Random(hour_us + seed)  # noqa: S311
    ms = sorted(random_.randrange(3_600_000) for _ in range(random_.randint(1, 80)))
    bids = [random_.randint(level, level + 1_000) for _ in ms]
    return [
        FakeTick(
            at, bid + random_.randint(0, 5), bid, random_.randint(1, 900) / 100, random_.randint(1, 900) / 100
        )
        for at, bid in zip(ms, bids, strict=True)
    ]


def source_settings(feed: FakeDukascopy, **settings: Any) -> dict[str, Any]:
    """Return an entry of the config's ``history`` that gives up soon."""
    return {
        "name": "dukascopy",
        "url": feed.url,
        "jetta_url": feed.jetta_url,
        "services": ["datafeed"],
        "pause_s": 0,
        "backoff_s": 0.01,
        "attempts": 2,
        "timeout_s": 0.5,
        **settings,
    }


@attrs.define
class Running:
    """An import under way: ``said`` is what it has written to standard error so far."""

    process: MdserverProcess | trio.Process
    said: str = ""
    stdout: str = ""
    _closed: trio.Event = attrs.Factory(trio.Event)

    async def wait_said(self, text: str) -> None:
        with trio.fail_after(DEADLINE_S):
            while text not in self.said:
                assert not self._closed.is_set(), f"it ended without {text!r}: {self.said}"
                await trio.sleep(0.01)

    async def end(self, number: int | None = None) -> int:
        """Send a signal, if one is given, and wait for the end and all output; return the exit code."""
        if number is not None:
            self.process.send_signal(number)
        with trio.fail_after(DEADLINE_S):
            await self._closed.wait()
            return await self.process.wait()


class Importer:
    """Runs the command with a config; ``url`` is the database that :meth:`tables` looks into."""

    def __init__(self, config: Path, url: str = "") -> None:
        self.config = config
        self.url = url

    def command(self, *options: str, symbols: Sequence[str] = ("EUR/USD",)) -> list[str]:
        chosen = [part for symbol in symbols for part in ("--symbol", symbol)]
        chosen += ["--config", str(self.config), "--from", FIRST, "--chunk", "1", *options]
        if all(options[place + 1] == "lake" for place, option in enumerate(options) if option == "--to"):
            chosen += ["--to", LAST]  # it is taken once besides --to lake
        return [sys.executable, "-m", "mdserver", "run", "import", "--json", *chosen]

    def arguments(self, *options: str, symbols: Sequence[str] = ("EUR/USD",)) -> list[str]:
        """Return what follows mdserver in the command."""
        return self.command(*options, symbols=symbols)[3:]

    async def finish(
        self, *options: str, symbols: Sequence[str] = ("EUR/USD",)
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        with trio.fail_after(DEADLINE_S):
            done = await run_mdserver(self.arguments(*options, symbols=symbols), clean_environment())
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    async def run(self, *options: str, code: int = 0) -> dict[str, Any]:
        """Run to the end and return the hours by what became of them, and the rest of the summary."""
        done = await self.finish(*options)
        assert done.returncode == code, done.stderr
        return flat(done.stdout)

    async def check(self) -> dict[str, Any]:
        """Run the check and return what it found."""
        command = ["run", "check", "--json", "--config", str(self.config)]
        done = await run_mdserver(command, clean_environment())
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @asynccontextmanager
    async def running(self, *options: str, command: Sequence[str] | None = None) -> AsyncIterator[Running]:
        """Run it, or another ``command``, beside the block; at its end it is killed if it still runs."""
        process: MdserverProcess | trio.Process
        if command is None:
            process = await open_mdserver(self.arguments(*options), clean_environment())
        else:
            process = await trio.lowlevel.open_process(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
            )
        running = Running(process)

        async def read_stdout() -> None:
            assert process.stdout is not None
            async for part in process.stdout:
                running.stdout += part.decode()

        async def read_both() -> None:
            assert process.stderr is not None
            async with trio.open_nursery() as reading:
                reading.start_soon(read_stdout)
                async for part in process.stderr:
                    running.said += part.decode()
            running._closed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_both)
            try:
                yield running
            finally:
                with trio.CancelScope(shield=True):
                    if process.returncode is None:
                        process.kill()
                    await process.wait()
                nursery.cancel_scope.cancel()

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        with psycopg.connect(self.url) as conn:
            return {name: conn.execute(query).fetchall() for name, query in TABLES.items()}  # type: ignore[call-overload]

    def empty(self) -> None:
        """Forget all that was imported."""
        with psycopg.connect(self.url) as conn:
            conn.execute("truncate ticks, candles, import_ledger, gaps, seq_times, series cascade")


def make_importer(folder: Path, url: str, feed: FakeDukascopy, **settings: Any) -> Importer:
    """Return an importer from ``feed`` into the database at ``url``, its config and cache in ``folder``."""
    folder.mkdir(exist_ok=True)
    config = {
        "data_dir": str(folder / "data"),
        "history": [source_settings(feed, **settings)],
        "database": {"url": as_url(url), "connect_for_s": 0},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return Importer(path, url)


def flat(stdout: str) -> dict[str, Any]:
    """Return the JSON summary of an import of one symbol on one level."""
    summary = json.loads(stdout)
    (symbol,) = summary["symbols"]
    return {**summary, **symbol, **symbol["hours"], "causes": symbol["failed"]}


def as_url(conninfo: str) -> str:
    given = psycopg.conninfo.conninfo_to_dict(conninfo)
    return "postgresql:///?" + "&".join(f"{key}={value}" for key, value in given.items())


async def until_a_lock_is_awaited(url: str) -> None:
    """Wait until a session hangs at a lock of another one: a transaction is under way and stays so."""
    query = """select count(*) from pg_locks l join pg_database d on d.oid = l.database
        where not granted and datname = current_database()"""
    with psycopg.connect(url, autocommit=True) as conn, trio.fail_after(DEADLINE_S):
        while conn.execute(query).fetchone() == (0,):
            await trio.sleep(0.01)
