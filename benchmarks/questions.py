"""Questions to history: derived timeframes, dealers' days of ten years, bid and ask candles, Arrow against JSON.

Ten years of synthetic ticks, the last month with a million of them, are loaded into an embedded PostgreSQL as the
importer does. A running `mdserver run` answers one client on one keep-alive connection. "First" is asked of a server
that has just started, and for bid candles of a database that has kept none.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import harness
import numpy as np
import psycopg
import pyarrow as pa
import structlog
import trio
from history import SYMBOL, Client, expect, load, reading_server, settle, timed
from year import END_US, make_hours

from mdserver.log import get_logger
from mdserver.model import US_PER_S
from mdserver.store.embedded.server import open_embedded

FIRST_US, MONTH_US = (int(np.datetime64(day, "us").astype(np.int64)) for day in ("2015-01-01", "2024-12-01"))
YEARS = FIRST_US // US_PER_S, END_US // US_PER_S - 1
MONTH = MONTH_US // US_PER_S, END_US // US_PER_S - 1

SPARSE = 620_000
"""Ticks of the years before the last month: about ten an hour."""

REPEATS = 40


def candles(span: tuple[int, int], **query: str) -> str:
    """Return the path of a request for candles."""
    return "/api/candles?" + urlencode({"symbol": SYMBOL, "from": span[0], "to": span[1], **query})


QUESTIONS = {
    "3m over a month": (candles(MONTH, timeframe="3m"), 30.0),
    "45m over a month": (candles(MONTH, timeframe="45m"), 30.0),
    "1d, ny17, over ten years": (candles(YEARS, timeframe="1d", align="ny17"), 30.0),
    "1w over ten years": (candles(YEARS, timeframe="1w"), 30.0),
    "1h over a month, bid": (candles(MONTH, timeframe="1h", price="bid"), 20.0),
    "1m over a month, ask": (candles(MONTH, timeframe="1m", price="ask"), None),
    "1h, the last 500 of ten years": (candles(YEARS, timeframe="1h", sort="desc", limit="500"), None),
}


def once(work: Callable[[], object]) -> float:
    """Return the milliseconds of one call."""
    return timed(1, work)[0]


def pages(client: Client, kind: str, limit: int) -> Callable[[], int]:
    """Return what reads all ticks of the month and returns their number; the last step is what any client does."""

    def read() -> int:
        query = {
            "symbol": SYMBOL,
            "from": str(MONTH[0]),
            "to": str(MONTH[1]),
            "limit": str(limit),
            "format": kind,
        }
        seen, cursor = 0, ""
        while True:
            status, headers, body = client.get(f"/api/ticks?{urlencode(query)}{cursor}")
            assert status == 200, body[:200]
            if kind == "arrow":
                seen += pa.ipc.open_stream(io.BytesIO(body)).read_all().num_rows
            else:
                seen += len(json.loads(body)["ticks"])
            if "x-next-cursor" not in headers:
                return seen
            cursor = f"&cursor={headers['x-next-cursor']}"

    return read


def measure(url: str, folder: Path, rounds: int) -> None:
    """Measure and print."""
    firsts: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    again: dict[str, list[np.ndarray]] = {name: [] for name in QUESTIONS}
    formats: dict[str, list[float]] = {"json": [], "arrow": []}
    ticks = 0
    for number in range(rounds):
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("truncate side_hours")
        with reading_server(url, folder / f"round{number}") as client:
            for name, (path, _) in QUESTIONS.items():
                client.reconnect()
                firsts[name].append(once(expect(client, 200, path)))
                again[name].append(np.array(timed(REPEATS, expect(client, 200, path))))
            expect(
                client, 200, candles(MONTH, timeframe="1d", format="arrow")
            )()  # the first one imports pyarrow
            for kind, limit in (("json", 10_000), ("arrow", 1_000_000)):
                client.reconnect()
                began = time.perf_counter()
                ticks = pages(client, kind, limit)()
                formats[kind].append(time.perf_counter() - began)
        print(f"  round {number + 1}: done", file=sys.stderr, flush=True)
    rows = []
    for name, (_, goal) in QUESTIONS.items():
        p50, p99 = (harness.spread([np.percentile(one, q) for one in again[name]]) for q in (50, 99))
        rows.append(
            [name, harness.spread(firsts[name]), p50, p99, "-" if goal is None else f"p50 < {goal:g}"]
        )
    print(harness.table(["GET /api/candles", "first, ms", "again, p50 ms", "p99 ms", "goal"], rows) + "\n")
    bid = [one / ticks * 1e6 / 1e3 for one in firsts["1h over a month, bid"]]
    ratio = [slow / quick for slow, quick in zip(formats["json"], formats["arrow"], strict=True)]
    rows = [
        ["bid candles, first: s per million ticks", harness.spread(bid), "< 0.4"],
        [f"JSON of {ticks:,} ticks, s", harness.spread(formats["json"]), "-"],
        ["Arrow of the same, s", harness.spread(formats["arrow"]), "-"],
        ["JSON / Arrow", harness.spread(ratio), ">= 5"],
    ]
    print(harness.table(["what", "median (least-greatest)", "goal"], rows))


async def run(options: argparse.Namespace, folder: Path) -> None:
    async with open_embedded(folder / "cluster", log=get_logger("benchmark")) as conninfo:
        hours = make_hours(SPARSE, FIRST_US, MONTH_US) + make_hours(options.ticks, MONTH_US, END_US)
        await load(conninfo, hours)
        await trio.to_thread.run_sync(settle, conninfo)
        await trio.to_thread.run_sync(measure, conninfo, folder, options.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ticks", type=int, default=1_000_000, help="ticks of the last month")
    parser.add_argument("--rounds", type=int, default=3, help="each with a server that has just started")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print(f"{harness.machine()}; {options.ticks:,} ticks in the month", flush=True)
    with harness.data_folder() as folder:
        trio.run(run, options, folder)


if __name__ == "__main__":
    main()
