"""Kills, stops and partitions of every part of a cluster: is each record at each client once, or in a gap told?

    python scale_chaos.py [--seed 1] [--faults 50] [--clients 20] [--minutes 4]

Two ingests, two edges, a Redis and a PostgreSQL on loopback; the faults are those of the seed. Exit code 1 where
anything is wrong. Kills its own children only.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.clusters import reachable_folder, running_postgres
from tests.integration.chaos_run import planned, run_chaos
from tests.integration.crash_run import lay_out_plugin
from tests.integration.redis import running_redis


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=100.0, help="trades a second, of all symbols together")
    parser.add_argument("--keep", type=Path, help="a folder to keep configs and logs in")
    options = parser.parse_args()
    plan = planned(options.seed, options.faults, 60 * options.minutes)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f}] {text}", flush=True)

    with reachable_folder() as own, running_postgres("auto") as url:
        folder = options.keep or own
        folder.mkdir(exist_ok=True)
        os.environ["PYTHONPATH"] = str(lay_out_plugin(folder))
        with running_redis(folder) as redis:
            outcome = trio.run(
                partial(
                    run_chaos,
                    folder,
                    url,
                    redis,
                    plan,
                    clients=options.clients,
                    seed=options.seed,
                    rate=options.rate,
                    say=say,
                )
            )
    clients = outcome.clients
    print(f"faults {len(plan)}, seed {options.seed}, {time.monotonic() - began:.0f} s")
    print(
        f"records of the venue {sum(map(len, outcome.times_us.values())):,}, stored {len(outcome.stored.trades):,}, "
        f"gaps {dict(Counter(cause for gaps in outcome.stored.gaps.values() for _, _, cause in gaps))}\n"
        f"connections {sum(client.connections for client in clients)}, "
        f"records seen {sum(len(client.seen) for client in clients):,}, "
        f"holes that a gap named {sum(client.announced for client in clients)}, "
        f"closed live candles {outcome.candles}"
    )
    for server in outcome.servers:
        leads = server.events["this process leads the broker"]
        print(
            f"{server.name}: started {server.starts} times, took over {leads} times, {server.most_mb:.0f} MB at most, "
            f"stopped by its last resort {server.last_resorts} times"
        )
    print("\n".join(outcome.wrong[:50]) or "nothing wrong")
    return bool(outcome.wrong)


if __name__ == "__main__":
    sys.exit(main())
