"""Storing while streaming: what 10,000 ticks/s cost the daemon with and without the database, and its memory.

The database is mdserver's own (embedded); its processes are counted apart from the daemon. After the run the
rows that the database knows of are compared with what was streamed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import harness
from harness import Result, Server

SYMBOLS = 10
FLUSHED_S = 20.0
"""Longest wait, after the stream's end, for the last rows to be stored."""


def stored_ticks(server: Server) -> int:
    """Return how many ticks the database has, by the server's own metadata."""
    listing = json.loads(server.get("/api/metadata"))
    return sum(entry["tick_count"] for entry in listing["symbols"])


def wait_until_stored(server: Server) -> tuple[int, int]:
    """Return (published, stored) once they are equal, or as they are after a while."""
    deadline = time.monotonic() + FLUSHED_S
    while True:
        published, stored = int(server.counter("records_published")), stored_ticks(server)
        # no client is left, so nothing new is published
        if published == stored or time.monotonic() > deadline:
            return published, stored
        time.sleep(0.2)


def measure(store: bool, options: argparse.Namespace) -> Result:
    with harness.mdserver([harness.mock_broker(options.rate, options.burst)], store=store) as server:
        result = server.load(
            *("--clients", options.clients, "--symbols", SYMBOLS, "--universe", SYMBOLS, "--latency"),
            *(
                "--warm",
                options.warm,
                "--seconds",
                options.length_s,
                "--sample",
                max(1.0, options.length_s / 20),
            ),
            limit_s=options.length_s + 120,
            samples=True,
        )
        if store:
            result["published"], result["stored"] = wait_until_stored(server)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=10_000, help="ticks/s")
    parser.add_argument("--burst", type=int, default=10, help="ticks handed over at once")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--warm", type=float, default=3.0, help="seconds before counting")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of counting")
    parser.add_argument("--minutes", type=float, help="minutes of counting, instead")
    options = parser.parse_args()
    options.length_s = options.minutes * 60 if options.minutes else options.seconds
    harness.build_load_client()
    print(
        f"{harness.machine()}; {options.rate:,.0f} ticks/s, {options.clients} client(s), {options.length_s:g} s\n"
    )
    rows, results = [], {}
    for store in (False, True):
        result = results[store] = measure(store, options)
        wall, latency = result["seconds"], result["latency_us"]
        rows.append([
            "storing" if store else "not storing",
            f"{result['cpu_share']:.1%}",
            f"{result['descendants_cpu_s'] / wall:.1%}",
            f"{result['rss_kb'][0] / 1024:.1f}",
            f"{result['rss_kb'][1] / 1024:.1f}",
            f"{latency['p50']:,}",
            f"{latency['p99']:,}",
        ])  # fmt: skip
        print(f"  {rows[-1][0]}: done", file=sys.stderr, flush=True)
    head = ["run", "daemon CPU", "database CPU", "RSS MiB at start", "at end", "p50 us", "p99 us"]
    print(harness.table(head, rows))
    more = results[True]["cpu_share"] - results[False]["cpu_share"]
    print(f"\nStoring costs the daemon {more:.1%} of a core beyond the fan-out.")
    print("RSS in MiB over time: " + " ".join(f"{s['rss_kb'] / 1024:.1f}" for s in results[True]["samples"]))
    print(f"Published {results[True]['published']:,}, stored {results[True]['stored']:,}.")


if __name__ == "__main__":
    main()
