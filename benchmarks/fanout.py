"""Fan-out: mdserver against Node servers, the same clients, symbols and pace, interleaved.

Prints, per scenario, CPU-seconds of the server process per million records delivered, and each peer's divided
by mdserver's of the same round (above 1: mdserver is cheaper), as medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import harness
from harness import Result, Server

PEERS = ("naive", "encode-once", "framed")


@dataclass(frozen=True)
class Scenario:
    """A load, and mdserver's hand-over window for it. ``goals``: the ratio to reach against a peer."""

    name: str
    title: str
    load: tuple[object, ...]
    rate: float
    burst: int
    window_ms: float
    goals: dict[str, float]


FULL = ("--clients", 200, "--symbols", 10, "--universe", 10)
WIDE = ("--clients", 1000, "--symbols", 5, "--universe", 200)

SCENARIOS = (
    Scenario("bursts", "200 clients x 10 symbols, flat out in bursts of 10", FULL, 0, 10, 0,
             {"encode-once": 8, "naive": 10}),
    Scenario("ticks", "200 clients x 10 symbols, flat out tick by tick", FULL, 0, 1, 0,
             {"encode-once": 0.9, "naive": 1.7}),
    Scenario("wide", "1000 clients x 5 of 200 symbols at 2,000 ticks/s, no window", WIDE, 2000, 1, 0,
             {"encode-once": 1, "naive": 1.4}),
    Scenario("wide-5ms", "1000 clients x 5 of 200 symbols at 2,000 ticks/s, window 5 ms", WIDE, 2000, 1, 5,
             {"encode-once": 1.2}),
)  # fmt: skip


@contextmanager
def contestant(name: str, scenario: Scenario) -> Iterator[Server]:
    if name.startswith("mdserver"):
        broker = harness.mock_broker(scenario.rate, scenario.burst)
        with harness.mdserver([broker], store="storing" in name, window_ms=scenario.window_ms) as server:
            yield server
    else:
        # only the framed peer has a window; the library's own way of sending knows none
        window_ms = scenario.window_ms if name == "framed" else 0
        with harness.node_peer(name, rate=scenario.rate, burst=scenario.burst, window_ms=window_ms) as server:
            yield server


def measure(name: str, scenario: Scenario, options: argparse.Namespace) -> Result:
    with contestant(name, scenario) as server:
        times = ("--warm", options.warm, "--seconds", options.seconds)
        result = server.load(*scenario.load, *times, "--latency")
        if name.startswith("mdserver"):
            # over the whole connection, warm-up included: is what was delivered what was made?
            result["conflated"] = server.counter("records_conflated")
            result["published"] = server.counter("records_published")
    return result


def run(scenario: Scenario, names: list[str], options: argparse.Namespace) -> dict[str, list[Result]]:
    """Run every contestant once a round, each round starting with another one."""
    results: dict[str, list[Result]] = defaultdict(list)
    for round_ in range(options.rounds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            result = measure(name, scenario, options)
            results[name].append(result)
            latency = result["latency_us"]
            print(
                f"  {scenario.name} {round_ + 1}/{options.rounds} {name}: {result['cpu_s_per_million']:.3f} CPU-s/M, "
                f"{result['per_s']:,}/s, p50 {latency['p50']} us, p99 {latency['p99']} us"
                + (f", conflated {result['conflated']:,.0f}" if result.get("conflated") else ""),
                file=sys.stderr,
                flush=True,
            )
    return results


def ratios(name: str, costs: list[float], results: dict[str, list[Result]], own: str) -> str:
    """Format a peer's costs divided by those of ``own`` in the same round."""
    ours = [result["cpu_s_per_million"] for result in results.get(own, [])]
    if name == own:
        return "1"
    if not ours or name.startswith("mdserver"):
        return "-"
    return harness.spread([cost / our for cost, our in zip(costs, ours, strict=True)])


def show(scenario: Scenario, results: dict[str, list[Result]]) -> None:
    rows = []
    for name, runs in results.items():
        costs = [result["cpu_s_per_million"] for result in runs]
        goal = f"{scenario.goals[name]:g}" if name in scenario.goals else "-"
        rows.append([
            name,
            harness.spread(costs, 3),
            ratios(name, costs, results, "mdserver"),
            ratios(name, costs, results, "mdserver-storing"),
            goal,
            f"{harness.median([result['per_s'] for result in runs]):,.0f}",
            f"{harness.median([result['cpu_share'] for result in runs]):.0%}",
            f"{harness.median([result['client_cpu_share'] for result in runs]):.0%}",
            f"{harness.median([result['latency_us']['p50'] for result in runs]):,.0f}",
            f"{harness.median([result['latency_us']['p99'] for result in runs]):,.0f}",
            f"{harness.median([result['descendants_cpu_s'] / result['seconds'] for result in runs]):.0%}",
        ])  # fmt: skip
    head = ["server", "CPU-s per million", "peer / mdserver", "peer / storing", "goal", "deliveries/s", "CPU",
            "client's CPU", "p50 us", "p99 us", "database CPU"]  # fmt: skip
    print(f"\n### {scenario.title}\n\n{harness.table(head, rows)}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", type=float, default=1.0, help="seconds before counting")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of counting")
    parser.add_argument("--scenario", action="append", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--only", action="append", choices=["mdserver", "mdserver-storing", *PEERS])
    parser.add_argument(
        "--storing", action="store_true", help="also measure mdserver while it stores what it streams"
    )
    parser.add_argument("--json", type=Path, help="write all results there")
    options = parser.parse_args()
    names = options.only or ["mdserver", *(["mdserver-storing"] if options.storing else []), *PEERS]
    harness.build_load_client()
    if set(names) & set(PEERS):
        harness.install_peers()
    print(f"{harness.machine()}; {options.rounds} rounds of {options.seconds:g} s: median (least-greatest)")
    everything = {}
    for scenario in SCENARIOS:
        if not options.scenario or scenario.name in options.scenario:
            everything[scenario.name] = run(scenario, names, options)
            show(scenario, everything[scenario.name])
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
