"""Latency: one trade at a time from a venue's socket to a client's, against a Node relay in the same run.

Prints per contestant p50, p99 and the longest of all rounds, CPU per message, and p50 and p99 divided by the relay's of
the same round. Nothing is bound to a core: venue, server, client and, where mdserver stores, its database share them
all.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import harness
from harness import Result, Server

SYMBOL = "BTCUSDT"


@dataclass(frozen=True)
class Contestant:
    """``goals``: largest p50 and p99 in units of the relay's, and the longest pause in microseconds; 0 is no goal."""

    name: str
    goals: tuple[float, float, float] = (0, 0, 0)

    @contextmanager
    def run(self, venue_url: str) -> Iterator[Server]:
        if self.name == "relay":
            with harness.node_relay(venue_url) as server:
                yield server
        else:
            broker = {"name": "binance", "plugin": "binance", "url": venue_url}
            with harness.mdserver([broker], store=self.name == "storing", pinned=False) as server:
                yield server


CONTESTANTS = (
    Contestant("relay"),
    Contestant("mdserver", (1.25, 1.5, 5_000)),
    Contestant("storing", (1.6, 0, 15_000)),
)
SCENARIOS = ((1_000, 1), (5_000, 20))
"""Messages/s and clients."""


def measure(contestant: Contestant, rate: float, clients: int, options: argparse.Namespace) -> Result:
    with harness.trade_venue(rate) as venue_url, contestant.run(venue_url) as server:
        result = server.load(
            *("--trades", "--latency", "--names", SYMBOL, "--broker", "binance", "--clients", clients),
            *("--warm", options.warm, "--seconds", options.seconds),
            limit_s=options.seconds + 120,
        )
    result["us_per_message"] = result["cpu_s_per_million"] * clients
    return result


def run(rate: float, clients: int, options: argparse.Namespace) -> dict[str, list[Result]]:
    """Measure all contestants in turn, in rounds that start with another one each."""
    results: dict[str, list[Result]] = defaultdict(list)
    chosen = [one for one in CONTESTANTS if one.name in options.only.split(",")]
    for round_ in range(options.rounds):
        turn = round_ % len(chosen)
        for contestant in (*chosen[turn:], *chosen[:turn]):
            result = measure(contestant, rate, clients, options)
            results[contestant.name].append(result)
            latency = result["latency_us"]
            print(
                f"  {round_ + 1}/{options.rounds} {contestant.name}: p50 {latency['p50']} p99 {latency['p99']} longest "
                f"{latency['max']} us, {result['us_per_message']:.1f} us of CPU a message",
                file=sys.stderr,
                flush=True,
            )
    return results


def row(contestant: Contestant, results: dict[str, list[Result]]) -> list[str]:
    taken = results[contestant.name]
    mine = [result["latency_us"] for result in taken]
    database = harness.median([result["descendants_cpu_s"] / result["seconds"] for result in taken])
    ratios = {}
    for key in ("p50", "p99"):
        theirs = [result["latency_us"][key] for result in results.get("relay", [])]
        ratios[key] = [own[key] / other for own, other in zip(mine, theirs, strict=False)]
    goal_p50, goal_p99, goal_longest = (f"{goal:g}" if goal else "-" for goal in contestant.goals)
    return [
        contestant.name,
        harness.spread([latency["p50"] for latency in mine], 0),
        harness.spread(ratios["p50"]) if ratios["p50"] else "-",
        goal_p50,
        harness.spread([latency["p99"] for latency in mine], 0),
        harness.spread(ratios["p99"]) if ratios["p99"] else "-",
        goal_p99,
        f"{max(latency['max'] for latency in mine):,}",
        goal_longest,
        harness.spread([result["us_per_message"] for result in taken], 1),
        f"{database:.0%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=float, default=2.0, help="seconds before counting")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of counting")
    parser.add_argument(
        "--only",
        default=",".join(one.name for one in CONTESTANTS),
        help="contestants, separated by commas",
    )
    options = parser.parse_args()
    harness.build_load_client()
    harness.install_peers()
    print(f"{harness.machine()}; {options.rounds} rounds of {options.seconds:g} s: median (least-greatest)")
    head = ["server", "p50 us", "of the relay's", "goal", "p99 us", "of the relay's", "goal", "longest us", "goal",
            "CPU us a message", "database CPU"]  # fmt: skip
    for rate, clients in SCENARIOS:
        results = run(rate, clients, options)
        rows = [row(one, results) for one in CONTESTANTS if one.name in results]
        print(f"\n### {rate:,} messages/s to {clients} client(s)\n\n{harness.table(head, rows)}", flush=True)


if __name__ == "__main__":
    main()
