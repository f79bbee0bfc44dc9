"""``kill -9`` 50 times at random moments under 20 clients that resume: is each record there, once, or a gap told?

    python crash.py [KILLS [SEED]]

Exit code 1 where anything is wrong. A short form runs among the tests.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.clusters import running_postgres
from tests.integration.crash_run import lay_out_plugin, run_crashes


def main() -> int:
    """Run and report."""
    kills, seed = (int(text) for text in (*sys.argv[1:], *("50", "15")[len(sys.argv) - 1 :]))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, running_postgres("auto") as url:
        folder = Path(name)
        os.environ["PYTHONPATH"] = str(lay_out_plugin(folder))
        outcome = trio.run(partial(run_crashes, folder, url, kills=kills, clients=20, seed=seed))
    clients = outcome.clients
    print(f"kills {kills}, seed {seed}, {time.monotonic() - began:.0f} s")
    print(
        f"connections {sum(client.connections for client in clients)}, "
        f"records seen {sum(len(client.seen) for client in clients):,}, stored {outcome.stored:,}, "
        f"holes that a gap named {sum(client.announced for client in clients)}, "
        f"starts without the database {outcome.starts_away}"
    )
    print("\n".join(outcome.wrong[:50]) or "nothing wrong")
    return bool(outcome.wrong)


if __name__ == "__main__":
    sys.exit(main())
