"""The database goes away under 10,000 records/s: is every record stored, has every client each, and did delivery pause?

    python outage.py [--seconds 60] [--rate 10000] [--clients 4] [--only stopped]

One server for each way to go away, with a PostgreSQL of its own behind a proxy. Half of the time it is away: stopped in
immediate mode and started, frozen (SIGSTOP), refusing connections, refusing them while the journal fills its disk.
The venue numbers its trades. Exit code 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path

import harness
import structlog
import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.clusters import reachable_folder
from tests.integration.crash_run import lay_out_plugin
from tests.integration.outage_run import WAYS, Run, run_outage

WARM_UP_S = 2.0
MOST_PAUSE_MS = 200.0
TOLD = ("available again", "garbage collection")
"""What is shown of the log besides warnings and errors."""


async def measure(way: str, options: argparse.Namespace) -> bool:
    """Run one way and print what came of it; return whether all was well."""
    gc.collect()
    gc.freeze()  # this program must not pause either
    with reachable_folder() as folder:
        os.environ["PYTHONPATH"] = str(lay_out_plugin(folder))
        run = await run_outage(
            folder,
            way,
            rate=options.rate,
            seconds=options.seconds,
            clients=options.clients,
            warm_up_s=WARM_UP_S,
        )
    show(way, run)
    return not run.wrong


def show(way: str, run: Run) -> None:
    print(f"\n### {way}\n")
    print(f"{run.sent:,} records sent, {run.stored:,} stored, {run.named:,} in a gap", end="")
    print(f" ({run.refused:,} not journalled); all stored {run.stored_after_s:.1f} s after the last one\n")
    head = ["phase", "longest pause ms", "oldest record ms", "this program late ms", "RSS MiB"]
    print(harness.table(head, _rows(run)))
    curve = [value for _, value in run.memory_mib]
    print("\nRSS over the run: " + " ".join(f"{value:.0f}" for value in curve[:: max(1, len(curve) // 16)]))
    print("/health/ready: " + " -> ".join(run.ready))
    for line in run.daemon.lines:
        if line.get("level") in ("warning", "error") or any(text in line.get("event", "") for text in TOLD):
            print("log: " + " ".join(f"{key}={value}" for key, value in line.items() if key != "timestamp"))
    pause = max(value for phase, value in run.longest("pauses_ms").items() if phase != "end")
    if pause > MOST_PAUSE_MS:
        print(f"**a pause of {pause:.0f} ms, above {MOST_PAUSE_MS:.0f}**")
    for what in run.wrong:
        print(f"**wrong: {what}**")
    sys.stdout.flush()


def _rows(run: Run) -> list[list[str]]:
    pauses, latency = run.longest("pauses_ms"), run.longest("latency_ms")
    rows = []
    for phase in ("before", "away", "back"):
        memory = [value for at, value in run.memory_mib if at == phase]
        figures = (pauses.get(phase, 0), latency.get(phase, 0), run.own_stall_ms.get(phase, 0))
        span = f"{min(memory):.0f}-{max(memory):.0f}" if memory else "-"
        rows.append([phase, *(f"{figure:.0f}" for figure in figures), span])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of streaming, half of it without database"
    )
    parser.add_argument("--rate", type=float, default=10_000, help="records/s")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--only", action="append", choices=list(WAYS))
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    print(
        f"{harness.machine()}; {options.rate:,.0f} records/s, {options.clients} clients, {options.seconds:g} s",
        flush=True,
    )
    well = [trio.run(measure, way, options) for way in options.only or WAYS]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
