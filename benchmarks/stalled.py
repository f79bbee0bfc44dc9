"""A reader that stalls: what the others and the server's memory notice of it.

Fifty clients read 20,000 ticks/s of ten symbols; then the same with one more that subscribes and never reads.
"""

from __future__ import annotations

import argparse
import sys

import harness
from harness import Result


def measure(stalled: int, options: argparse.Namespace) -> Result:
    with harness.mdserver([harness.mock_broker(options.rate, 10)]) as server:
        result = server.load(
            *(
                "--clients",
                options.clients + stalled,
                "--stalled",
                stalled,
                "--symbols",
                10,
                "--universe",
                10,
            ),
            *(
                "--warm",
                options.warm,
                "--seconds",
                options.seconds,
                "--sample",
                options.seconds / 10,
                "--latency",
            ),
            limit_s=options.seconds + 120,
            samples=True,
        )
        result["conflated"] = server.counter("records_conflated")
        result["disconnects"] = server.counter("client_disconnects")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=50, help="clients that read")
    parser.add_argument("--stalled", type=int, default=1, help="clients that do not")
    parser.add_argument("--rate", type=float, default=20_000, help="ticks/s")
    parser.add_argument("--warm", type=float, default=2.0, help="seconds before counting")
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="seconds of counting, for each of the two runs"
    )
    options = parser.parse_args()
    harness.build_load_client()
    print(f"{harness.machine()}\n")
    rows, samples = [], []
    for stalled in (0, options.stalled):
        result = measure(stalled, options)
        latency, wall = result["latency_us"], result["seconds"]
        rows.append([
            f"{stalled} stalled",
            f"{result['per_s'] / options.clients:,.0f}",
            f"{result['least'] / wall:,.0f}",
            f"{result['cpu_share']:.0%}",
            f"{latency['p50']:,}",
            f"{latency['p99']:,}",
            f"{result['rss_kb'][0] / 1024:.1f}",
            f"{result['rss_kb'][1] / 1024:.1f}",
            f"{result['conflated']:,.0f}",
            f"{result['closed']}",
        ])  # fmt: skip
        samples.append((stalled, result["samples"]))
        print(f"  {stalled} stalled: done", file=sys.stderr, flush=True)
    head = ["run", "ticks/s a reader", "slowest reader", "CPU", "p50 us", "p99 us", "RSS MiB at start", "at end",
            "conflated", "readers cut"]  # fmt: skip
    print(harness.table(head, rows))
    for stalled, taken in samples:
        print(
            f"\nRSS in MiB over time, {stalled} stalled: "
            + " ".join(f"{s['rss_kb'] / 1024:.1f}" for s in taken)
        )


if __name__ == "__main__":
    main()
