"""The data lake: push from the database into a folder, pull into an empty one, against the import of the same ticks.

Whole processes count, their start included, each round in new databases. CPU is that of the process alone, without
PostgreSQL's. With --recorded FOLDER also the bytes a tick of a recorded day (bi5 files of 24 hours).
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import harness
import psycopg
import trio
import yaml

from mdserver.log import get_logger
from mdserver.store.embedded.server import open_embedded

bench_import = importlib.import_module("import")

TIME_MEASURED = ["/usr/bin/time", "-f", "%M %U %S"]


def write_config(folder: Path, url: str, lake: Path) -> Path:
    given = psycopg.conninfo.conninfo_to_dict(url)
    address = "postgresql:///?" + "&".join(f"{key}={value}" for key, value in given.items())
    config = folder / "config.yaml"
    sections: dict[str, Any] = {
        "data_dir": str(folder),
        "database": {"url": address},
        "log": {"level": "error"},
        "lake": {"url": f"file://{lake}"},
    }
    config.write_text(yaml.safe_dump(sections))
    subprocess.run(
        [harness.mdserver_command(), "run", "migrate", "--config", str(config)],
        check=True,
        capture_output=True,
    )
    return config


def timed(config: Path, *arguments: str) -> dict[str, Any]:
    command = [harness.mdserver_command(), "run", *arguments, "--config", str(config), "--json"]
    began = time.perf_counter()
    done = subprocess.run([*TIME_MEASURED, *command], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    peak, user, system = done.stderr.splitlines()[-1].split()
    return {
        "seconds": seconds,
        "mib": int(peak) / 1024,
        "cpu": float(user) + float(system),
        "report": json.loads(done.stdout),
    }


async def until_socket(url: str) -> float:
    """Read and encode all days as a push does, without sending them; return the CPU seconds of this process."""
    from mdserver.commands.database_access import DatabaseAccess
    from mdserver.store.open_database import open_database
    from mdserver_lake.codec import encode_records
    from mdserver_lake.layout import DAY_US, day_start_us

    async with open_database(url, retry_for_s=0, log=get_logger("benchmark")) as database:
        access = DatabaseAccess(database, write=False)
        (series,) = await access.series()
        began = time.process_time()
        for one in await access.days(series):
            first_us = day_start_us(one.day)
            await access.day_marks(series, [one.day])
            records = await access.read_records(series, first_us, first_us + DAY_US)
            hours = await access.imported_hours(series, first_us, first_us + DAY_US)
            encode_records(
                records,
                broker=series.broker,
                symbol=series.symbol,
                type_=series.type,
                day=one.day,
                numbering="",
                hours=hours,
            )
        return time.process_time() - began


def measure(conninfo: str, folder: Path, files: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    rounds = []
    dates = bench_import.dates(options.months)
    for number in range(options.rounds):
        lake = folder / f"lake{number}"
        with bench_import.new_database(conninfo, "first") as url:
            config = write_config(folder, url, lake)
            imported = timed(config, "import", "--symbol", "EURUSD", *dates, "--source-dir", str(files))
            socket_s = trio.run(until_socket, url)
            pushed = timed(config, "lake", "push")
            idle = timed(config, "lake", "push")
        with bench_import.new_database(conninfo, "second") as url:
            pulled = timed(write_config(folder, url, lake), "lake", "pull")
        rounds.append(
            {"import": imported, "push": pushed, "idle": idle, "pull": pulled, "socket_s": socket_s}
        )
        print(f"  round {number + 1}: done", file=sys.stderr, flush=True)
    return rounds


async def run(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    paths = bench_import.make_hours(folder, options.months, options.per_hour)
    async with open_embedded(folder / "data", log=get_logger("benchmark")) as conninfo:
        return await trio.to_thread.run_sync(measure, conninfo, folder, paths["bi5"], options)


def recorded_bytes(folder: Path) -> str:
    """Encode a recorded day, 24 files 00h_ticks.bi5 … 23h_ticks.bi5 of a pair with five decimals."""
    import numpy as np

    from mdserver.market_hours import HOUR_US
    from mdserver.model import NOT_RECEIVED, RecordColumns
    from mdserver_dukascopy.codec import decode_ticks
    from mdserver_lake.codec import encode_records

    hours = [
        decode_ticks(path.read_bytes(), str(path), number * HOUR_US, 5)
        for number in range(24)
        if (path := folder / f"{number:02}h_ticks.bi5").exists() and path.stat().st_size
    ]
    columns = [np.concatenate(column) for column in zip(*hours, strict=True)]
    seq = np.concatenate([np.arange(1, len(hour.time_us) + 1) for hour in hours])
    values = dict(zip(("bid", "ask", "bid_size", "ask_size"), columns[1:], strict=True))
    records = RecordColumns(columns[0], seq, np.full(len(seq), NOT_RECEIVED), values)
    day = np.datetime64("1970-01-01").astype(object)
    spent = []
    for _ in range(5):
        began = time.process_time()
        data, _ = encode_records(
            records, broker="dukascopy", symbol="EURUSD", type_="tick", day=day, numbering="", hours=()
        )
        spent.append((time.process_time() - began) / len(seq) * 1e6)
    return (
        f"{folder}: {len(seq):,} ticks, {len(data) / len(seq):.2f} bytes a tick, "
        f"{min(spent):.2f} CPU seconds a million to encode"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--months", type=int, default=1, choices=range(1, 13), metavar="N")
    parser.add_argument("--per-hour", type=int, default=6_000, help="ticks in an average hour")
    parser.add_argument("--recorded", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if options.recorded is not None:
        print(recorded_bytes(options.recorded))
        if not options.rounds:
            return
    with harness.data_folder() as folder:
        rounds = trio.run(run, options, folder)
    ticks = rounds[0]["import"]["report"]["symbols"][0]["ticks"]
    assert all(one["pull"]["report"]["rows"] == ticks for one in rounds)
    print(f"{harness.machine()}\n{ticks:,} ticks of {options.months} month(s)\n")
    rows = []
    for name in ("import", "push", "idle", "pull"):
        seconds = [one[name]["seconds"] for one in rounds]
        ratio = [one["import"]["seconds"] / one[name]["seconds"] for one in rounds]
        rows.append(
            [
                {"idle": "push again, nothing to do"}.get(name, name),
                harness.spread(seconds),
                harness.spread([one[name]["cpu"] for one in rounds]),
                harness.spread(ratio),
                f"{max(one[name]['mib'] for one in rounds):.0f}",
            ]
        )
    print(
        harness.table(["step", "seconds", "CPU seconds of ours", "its rate / the import's", "peak MiB"], rows)
    )
    rates = [ticks / one["socket_s"] for one in rounds]
    print(f"\nUp to the socket {harness.median(rates):,.0f} ticks a CPU second.")
    size = rounds[0]["push"]["report"]["size_bytes"]
    print(f"\n{size / ticks:.2f} bytes a tick, candles included.")


if __name__ == "__main__":
    main()
