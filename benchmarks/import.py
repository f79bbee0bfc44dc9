"""Importing: from bi5 files on disk to queryable ticks with all candles, against `psql \\copy` of the same rows.

The peers get the rows in PostgreSQL's own binary format, which costs the client nothing, and make no candles: a bare
copy of our keyed table, and the customary layout (text symbol, unique (symbol, time), four indexes). The three take
turns on one PostgreSQL, each in a new database, with a checkpoint before each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import harness
import numpy as np
import psycopg
import trio
import yaml

from mdserver.log import get_logger
from mdserver.market_hours import HOUR_US, open_hours
from mdserver.store.embedded.server import open_embedded
from mdserver.store.pg_binary import COPY_END, COPY_START, copy_rows, to_postgres_us
from mdserver.testing.bi5 import FakeTick, encode_ticks, ticks_path

SYMBOL = "EURUSD"
YEAR = 2024
TIME_MEASURED = ["/usr/bin/time", "-f", "%M"]

KEYED = """create table bare (time timestamptz not null, seq bigint not null, bid double precision not null,
    ask double precision not null, bid_size double precision, ask_size double precision, series_id integer not null,
    primary key (series_id, time, seq))"""

CUSTOMARY = """create table bare (time timestamptz not null, symbol text not null, bid double precision not null,
    ask double precision not null, bid_size double precision, ask_size double precision, unique (symbol, time));
    create index on bare (time); create index on bare (symbol, time); create index on bare using brin (time)"""


def us(day: date) -> int:
    return int(np.datetime64(day, "us").astype(np.int64))


def end_of(months: int) -> date:
    """The first day after the year's first months."""
    return date(YEAR + months // 12, months % 12 + 1, 1)


def dates(months: int) -> list[str]:
    """The importer's options for the year's first months."""
    return ["--from", f"{YEAR}-01-01", "--to", str(end_of(months) - timedelta(days=1))]


def make_hours(folder: Path, months: int, per_hour: int) -> dict[str, Path]:
    """Write the year's first months as bi5 files, and the rows as COPY data for both layouts; return the paths."""
    rng = np.random.default_rng(1)
    paths = {name: folder / name for name in ("bi5", "keyed.copy", "customary.copy")}
    with paths["keyed.copy"].open("wb") as keyed, paths["customary.copy"].open("wb") as customary:
        keyed.write(COPY_START)
        customary.write(COPY_START)
        for hour in open_hours("fx", us(date(YEAR, 1, 1)), us(end_of(months))):
            count = int(per_hour * rng.uniform(0.5, 1.5))
            # one tick a millisecond: the customary layout cannot hold two
            ms = np.sort(rng.choice(HOUR_US // 1000, count, replace=False))
            bid = 108_000 + np.cumsum(rng.integers(-2, 3, count))
            ask = bid + rng.integers(1, 6, count)
            sizes = rng.choice([0.75, 0.9, 1.0, 1.12, 1.5, 2.25, 3.75, 4.5], (2, count))
            rows = zip(ms.tolist(), ask.tolist(), bid.tolist(), *sizes.tolist(), strict=True)
            path = paths["bi5"] / ticks_path(SYMBOL, hour)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_ticks(FakeTick(*row) for row in rows))
            values = [bid / 1e5, ask / 1e5, sizes[1] * 1e6, sizes[0] * 1e6]
            at = to_postgres_us(ms * 1000 + hour)
            keyed.write(copy_rows([at, np.arange(1, count + 1), *values, np.ones(count, np.int32)], count))
            customary.write(copy_rows([at, np.full(count, SYMBOL.encode()), *values], count))
        keyed.write(COPY_END)
        customary.write(COPY_END)
    return paths


@contextmanager
def new_database(conninfo: str, name: str) -> Iterator[str]:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute(f"create database {name}")
        conn.execute("checkpoint")
        try:
            yield psycopg.conninfo.make_conninfo(conninfo, dbname=name)
        finally:
            conn.execute(f"drop database {name} with (force)")


def copy_with_psql(url: str, table: str, file: Path) -> tuple[float, float]:
    """Return seconds and MiB of psql's memory."""
    with psycopg.connect(url) as conn:
        conn.execute(table)
    command = f"\\copy bare from '{file}' (format binary)"
    began = time.perf_counter()
    done = subprocess.run(
        [*TIME_MEASURED, "psql", "-qX", url, "-c", command], check=True, capture_output=True, text=True
    )
    return time.perf_counter() - began, int(done.stderr.split()[-1]) / 1024


def import_files(url: str, folder: Path, files: Path, months: int) -> tuple[float, float, int]:
    """Return seconds, MiB and ticks; the whole process counts, its start included. Tables are made before."""
    given = psycopg.conninfo.conninfo_to_dict(url)
    address = "postgresql:///?" + "&".join(f"{key}={value}" for key, value in given.items())
    config = folder / "config.yaml"
    config.write_text(
        yaml.safe_dump({"data_dir": str(folder), "database": {"url": address}, "log": {"level": "error"}})
    )
    command = [harness.mdserver_command(), "run"]
    subprocess.run([*command, "migrate", "--config", str(config)], check=True, capture_output=True)
    options = ["--symbol", SYMBOL, *dates(months), "--source-dir", str(files), "--json"]
    began = time.perf_counter()
    done = subprocess.run(
        [*TIME_MEASURED, *command, "import", "--config", str(config), *options],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    summary = json.loads(done.stdout)
    return seconds, int(done.stderr.split()[-1]) / 1024, summary["symbols"][0]["ticks"]


def measure(
    conninfo: str, folder: Path, paths: dict[str, Path], options: argparse.Namespace
) -> dict[str, list[Any]]:
    seconds: dict[str, list[Any]] = {"mdserver": [], "keyed": [], "customary": [], "rss": [], "ticks": []}
    for number in range(options.rounds):
        with new_database(conninfo, "ours") as url:
            spent, rss, ticks = import_files(url, folder, paths["bi5"], options.months)
        seconds["mdserver"].append(spent)
        seconds["rss"].append(rss)
        seconds["ticks"].append(ticks)
        for name, table in (("keyed", KEYED), ("customary", CUSTOMARY)):
            with new_database(conninfo, name) as url:
                seconds[name].append(copy_with_psql(url, table, paths[f"{name}.copy"])[0])
        print(f"  round {number + 1}: done", file=sys.stderr, flush=True)
    return seconds


async def run(options: argparse.Namespace, folder: Path) -> dict[str, list[Any]]:
    paths = make_hours(folder, options.months, options.per_hour)
    async with open_embedded(folder / "data", log=get_logger("benchmark")) as conninfo:
        return await trio.to_thread.run_sync(measure, conninfo, folder, paths, options)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--months", type=int, default=1, choices=range(1, 13), metavar="N")
    parser.add_argument("--per-hour", type=int, default=6_000, help="ticks in an average hour")
    options = parser.parse_args()
    if shutil.which("psql") is None:
        sys.exit("psql is not installed")
    with harness.data_folder() as folder:
        result = trio.run(run, options, folder)
    ticks = result["ticks"][0]
    print(
        f"{harness.machine()}\n{ticks:,} ticks of {options.months} month(s), "
        f"median of {options.rounds} (least-greatest)\n"
    )
    rows = []
    for name, what in (
        ("mdserver", "mdserver run import, bi5 to ticks and all candles"),
        ("keyed", "psql \\copy binary, bare keyed table"),
        ("customary", "psql \\copy binary, customary layout"),
    ):
        rates = [ticks / spent for spent in result[name]]
        ours = [spent / own for spent, own in zip(result[name], result["mdserver"], strict=True)]
        rows.append(
            [what, harness.spread(result[name]), f"{harness.median(rates):,.0f}", harness.spread(ours)]
        )
    print(harness.table(["way", "seconds", "ticks/s", "mdserver's rate / its rate"], rows))
    print(f"\nPeak memory of the importer: {max(result['rss']):.0f} MiB.")


if __name__ == "__main__":
    main()
