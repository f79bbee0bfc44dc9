"""Importing with TimescaleDB's direct compress, against `psql \\copy` of the same rows into a bare keyed hypertable.

Both get the same ticks. mdserver decodes bi5 files and makes all candles, in the mode of `mdserver run direct-compress
on`, with `--keyed` also without it; psql gets the rows in PostgreSQL's own binary format, a file a week, and makes no
candles. The start of each process counts. Each begins with a new TimescaleDB and empty tables.

The TimescaleDB is that of the tests (tests/timescaledb; needs Node and npm): PostgreSQL in WebAssembly, one session
and one thread for all connections, everything in memory, and a COPY begins when its last byte is there. So the
importer's two loads wait for each other, and its decoding is not hidden behind the server's work.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import harness
import psycopg
import yaml

from mdserver.store.pg_binary import COPY_END, COPY_START

sys.path.insert(0, str(harness.HERE.parent))
from tests import timescaledb

bare_import: Any = importlib.import_module("import")
"""The benchmark beside this one; a keyword is no name to import by."""

HYPERTABLE = bare_import.KEYED + (
    "; select create_hypertable('bare', by_range('time', interval '7 days'), create_default_indexes => false)"
)

ROW_BYTES = 82
"""One row of COPY data: all have all columns."""

WEEKS_A_MONTH = 4.4

STORED = """select (select count(*) from ticks), (select count(*) from candles),
    (select count(*) from timescaledb_information.chunks where hypertable_name = 'ticks' and is_compressed),
    (select count(*) from timescaledb_information.chunks where hypertable_name = 'ticks')"""


def split_rows(folder: Path, weeks: int) -> list[Path]:
    """Cut the COPY data into so many files; return them."""
    whole = folder / "keyed.copy"
    rows = memoryview(whole.read_bytes())[len(COPY_START) : -len(COPY_END)]
    step = -(-len(rows) // ROW_BYTES // weeks) * ROW_BYTES
    paths = []
    for number in range(weeks):
        paths.append(folder / f"week{number}.copy")
        part = rows[number * step : (number + 1) * step]
        paths[-1].write_bytes(b"".join((COPY_START, part, COPY_END)))
    whole.unlink()
    (folder / "customary.copy").unlink()
    return paths


def copy_with_psql(files: list[Path]) -> float:
    """Return the seconds of one psql that copies all files."""
    with timescaledb.running_timescaledb() as url:
        with psycopg.connect(url) as conn:
            conn.execute(HYPERTABLE)
        copies = [part for file in files for part in ("-c", f"\\copy bare from '{file}' (format binary)")]
        began = time.perf_counter()
        subprocess.run(["psql", "-qX", url, *copies], check=True, capture_output=True)
        return time.perf_counter() - began


def import_files(folder: Path, files: Path, months: int, *, direct: bool) -> tuple[float, tuple[int, ...]]:
    """Return the seconds of one import, and ticks, candles, compressed chunks and chunks."""
    with timescaledb.running_timescaledb() as url:
        given = psycopg.conninfo.conninfo_to_dict(url)
        address = "postgresql:///?" + "&".join(f"{key}={value}" for key, value in given.items())
        settings = {"data_dir": str(folder), "database": {"url": address}, "log": {"level": "error"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        options = ["--config", str(folder / "config.yaml")]

        def run(*arguments: str) -> None:
            command = [harness.mdserver_command(), "run", *arguments, *options]
            subprocess.run(command, check=True, capture_output=True)

        run("migrate")
        if direct:
            run("direct-compress", "on")
        dates = bare_import.dates(months)
        began = time.perf_counter()
        run("import", "--symbol", bare_import.SYMBOL, *dates, "--source-dir", str(files))
        seconds = time.perf_counter() - began
        with psycopg.connect(url) as conn:
            return seconds, conn.execute(STORED).fetchall()[0]


def measure(folder: Path, options: argparse.Namespace) -> tuple[dict[str, list[float]], tuple[int, ...]]:
    """Return the seconds of each way, by round, and what the compressing import stored."""
    files = bare_import.make_hours(folder, options.months, options.per_hour)["bi5"]
    weeks = split_rows(folder, round(options.months * WEEKS_A_MONTH))
    spent: dict[str, list[float]] = {way: [] for way in ("direct", "psql", "keyed")[: 2 + options.keyed]}
    stored: tuple[int, ...] = ()
    for number in range(options.rounds):
        ways = list(spent)
        turn = number % len(ways)  # each round starts with another one
        for way in ways[turn:] + ways[:turn]:
            if way == "psql":
                spent[way].append(copy_with_psql(weeks))
                continue
            seconds, counts = import_files(folder, files, options.months, direct=way == "direct")
            spent[way].append(seconds)
            stored = counts if way == "direct" else stored
        told = ", ".join(f"{way} {seconds[-1]:.2f} s" for way, seconds in spent.items())
        print(f"  round {number + 1}: {told}", file=sys.stderr, flush=True)
    return spent, stored


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-hour", type=int, default=5_700, help="ticks in an average hour")
    parser.add_argument("--months", type=int, choices=range(1, 4), default=2)
    parser.add_argument("--keyed", action="store_true", help="also import with the primary key")
    options = parser.parse_args()
    if shutil.which("psql") is None:
        sys.exit("psql is not installed")
    with harness.data_folder() as folder:
        spent, (ticks, candles, compressed, chunks) = measure(folder, options)
    print(
        f"{harness.machine()}\n{ticks:,} ticks, months: {options.months}, median of {options.rounds} (least-greatest)"
    )
    print(f"stored with direct compress: {candles:,} candles, {compressed} of {chunks} chunks compressed\n")
    rows = []
    for way, what in (
        ("direct", "mdserver run import, direct compress, bi5 to ticks and all candles"),
        ("psql", "psql \\copy binary, bare keyed hypertable"),
        ("keyed", "mdserver run import, with the primary key"),
    )[: len(spent)]:
        rates = [ticks / seconds for seconds in spent[way]]
        ratios = [seconds / own for seconds, own in zip(spent[way], spent["direct"], strict=True)]
        rows.append(
            [what, harness.spread(spent[way]), f"{harness.median(rates):,.0f}", harness.spread(ratios)]
        )
    print(harness.table(["way", "seconds", "ticks/s", "direct compress's rate / its rate"], rows))
    print("\nTimescaleDB in WebAssembly (tests/timescaledb): one thread and one session, in memory.")


if __name__ == "__main__":
    main()
