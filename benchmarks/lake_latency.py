"""What the server's own daily push into the data lake does to the latency of its streams.

A server stores and streams 1,000 trades/s from a venue's socket. Its database has a closed day of 100 more symbols.
Each round measures the latency without a push, then during one at the priority that the server gives it, into a new
folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import trio
import yaml

from mdserver.commands.database_access import DatabaseAccess
from mdserver.config import load_config
from mdserver.daemon.lake_push import give_way
from mdserver.log import get_logger
from mdserver.market_hours import HOUR_US
from mdserver.model import TickColumns
from mdserver.plugin import TickHour
from mdserver.registry import load_brokers
from mdserver.store.open_database import open_configured

SYMBOL = "BTCUSDT"
RATE = 1_000
GOAL = 2.0
DAY_S = 86_400


def ticks_of(hour_us: int, count: int) -> TickColumns:
    rng = np.random.default_rng(hour_us // HOUR_US)
    bid = np.round((108_000 + np.cumsum(rng.integers(-2, 3, count))) / 1e5, 5)
    sizes = rng.choice([0.75, 0.9, 1.0, 1.12, 1.5, 2.25], (2, count))
    time_us = hour_us + np.sort(rng.integers(0, HOUR_US // 1_000, count)) * 1_000
    return TickColumns(time_us, bid, np.round(bid + 3e-5, 5), *sizes)


async def fill(config_file: Path, symbols: int, ticks: int) -> None:
    """Store a day of ticks of each symbol, two days ago: closed, whatever the hour."""
    plugins = load_brokers()[0]
    config = load_config(
        config_file, environ={}, brokers={name: plugin.config for name, plugin in plugins.items()}
    )
    today_us = int(datetime.now(UTC).timestamp()) // DAY_S * DAY_S * 1_000_000
    hours = [today_us - 2 * DAY_S * 1_000_000 + n * HOUR_US for n in range(24)]
    async with open_configured(
        config.database, config.data_dir, statement_timeout_s=0, log=get_logger("benchmark")
    ) as database:
        access = DatabaseAccess(database, write=True)
        for number in range(symbols):
            await access.load_hours(
                "archive",
                f"SYM{number:03}",
                [TickHour(hour, partial(ticks_of, hour, ticks // 24), f"{hour}") for hour in hours],
            )


def load(server: harness.Server, options: argparse.Namespace) -> dict[str, Any]:
    result = server.load(
        *("--trades", "--latency", "--names", SYMBOL, "--broker", "binance", "--clients", 1),
        *("--warm", 1, "--seconds", options.seconds),
        limit_s=options.seconds + 120,
    )
    found: dict[str, Any] = result["latency_us"]
    return found


def push(config_file: Path, folder: Path) -> subprocess.Popen[bytes]:
    config = yaml.safe_load(config_file.read_text())
    config["lake"] = {"url": f"file://{folder}"}
    path = config_file.with_name(f"{folder.name}.yaml")
    path.write_text(yaml.safe_dump(config))
    command = [harness.mdserver_command(), "run", "lake", "push", "--json", "--config", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    give_way(process.pid)
    return process


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rounds = []
    with harness.trade_venue(RATE) as venue_url:
        broker = {"name": "binance", "plugin": "binance", "url": venue_url}
        with harness.mdserver([broker], store=True, pinned=False) as server:
            assert server.config is not None
            trio.run(fill, server.config, options.symbols, options.ticks)
            for number in range(options.rounds):
                without = load(server, options)
                began = time.monotonic()
                pushing = push(server.config, folder / f"lake{number}")
                during = load(server, options)
                outlived = pushing.poll() is None
                out, _ = pushing.communicate(timeout=600)
                report = json.loads(out)
                assert report["ok"], report
                seconds = time.monotonic() - began
                rounds.append({"without": without, "during": during})
                print(
                    f"  {number + 1}/{options.rounds}: {report['rows']:,} records of {report['done']} days in "
                    f"{seconds:.0f} s{'' if outlived else '; it ended before the measurement: take more --ticks'}",
                    file=sys.stderr,
                    flush=True,
                )
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--symbols", type=int, default=100)
    parser.add_argument("--ticks", type=int, default=48_000, help="of each symbol")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of each measurement")
    options = parser.parse_args()
    harness.build_load_client()
    with tempfile.TemporaryDirectory(prefix="mdserver-lake-") as folder:
        rounds = measure(options, Path(folder))
    rows = [
        [
            name,
            *(harness.spread([one[name][key] for one in rounds], 0) for key in ("p50", "p99")),
            f"{max(one[name]['max'] for one in rounds):,}",
        ]
        for name in ("without", "during")
    ]
    print(f"{harness.machine()}\n")
    print(harness.table(["push", "p50 us", "p99 us", "longest us"], rows))
    ratios = [one["during"]["p99"] / one["without"]["p99"] for one in rounds]
    print(f"\np99 during a push / without: {harness.spread(ratios)}; goal: at most {GOAL:g}.")


if __name__ == "__main__":
    main()
