"""Ingest: a venue's socket, the binance plugin, journal, router, one client; messages per server CPU-second."""

from __future__ import annotations

import argparse
import sys
import time

import harness

NAMES = (
    "ADAUSDT",
    "BNBUSDT",
    "BTCUSDT",
    "DOTUSDT",
    "ETHUSDT",
    "LTCUSDT",
    "SOLUSDT",
    "TRXUSDT",
    "UNIUSDT",
    "XRPUSDT",
)


def measure(options: argparse.Namespace) -> harness.Result:
    with harness.data_folder() as folder:
        port = harness.free_port()
        command = [
            sys.executable,
            str(harness.HERE / "venue.py"),
            str(port),
            str(options.rate),
            str(options.per_write),
        ]
        with harness.process(command, log=folder / "venue.log", stop_s=2, core=harness.CLIENT_CORE):
            time.sleep(0.5)
            broker = {"name": "binance", "plugin": "binance", "url": f"ws://127.0.0.1:{port}"}
            with harness.mdserver([broker], store=options.storing) as server:
                times = ("--warm", options.warm, "--seconds", options.seconds)
                names = ("--names", ",".join(NAMES), "--broker", "binance")
                result = server.load("--clients", 1, *names, *times, "--latency")
                result["conflated"] = server.counter("records_conflated")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", type=float, default=1.0, help="seconds before counting")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of counting")
    parser.add_argument(
        "--rate", type=float, default=0, help="messages/s of the venue; 0: as fast as they are taken"
    )
    parser.add_argument("--per-write", type=int, default=500, help="messages the venue sends with one write")
    parser.add_argument("--storing", action="store_true", help="store what comes in")
    options = parser.parse_args()
    harness.build_load_client()
    print(f"{harness.machine()}; {options.rounds} rounds of {options.seconds:g} s: median (least-greatest)\n")
    results = []
    for round_ in range(options.rounds):
        result = measure(options)
        results.append(result)
        print(
            f"  {round_ + 1}/{options.rounds}: {result['per_s']:,}/s at {result['cpu_share']:.0%} of a core, "
            f"conflated {result['conflated']:,.0f}, errors {result['errors']}",
            file=sys.stderr,
            flush=True,
        )
    per_core = [result["per_s"] / result["cpu_share"] for result in results]
    row = [
        harness.spread([result["per_s"] for result in results], 0),
        harness.spread([result["cpu_share"] for result in results]),
        harness.spread(per_core, 0),
        harness.spread([1e6 / value for value in per_core], 1),
        f"{harness.median([result['latency_us']['p50'] for result in results]):,.0f}",
        f"{harness.median([result['latency_us']['p99'] for result in results]):,.0f}",
    ]
    head = ["messages/s", "cores", "messages per CPU-second", "us per message", "p50 us", "p99 us"]
    print(harness.table(head, [row]))


if __name__ == "__main__":
    main()
