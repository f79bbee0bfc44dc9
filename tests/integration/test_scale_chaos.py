"""Kills, stops and partitions of every part of a cluster. ``benchmarks/scale_chaos.py`` runs more of them.

What they found has small tests of its own. The few faults of the short form need the machine for their quarter of a
minute, so it is serial; the long form runs with ``--long`` alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .chaos_run import Fault, planned, run_chaos
from .crash_run import lay_out_plugin
from .redis import running_redis

FEW = [
    Fault(0.0, "silence redis", ("x",), 1.5),
    Fault(0.5, "freeze", ("a",), 3.0),
    Fault(4.0, "kill", ("b",), 0.2),
    Fault(5.0, "empty redis", (), 0.0),
    Fault(5.5, "end", ("y",), 0.1),
]
"""Whoever of a and b leads, the other one takes over, and gives it back."""


@pytest.mark.slow
@pytest.mark.serial  # eight processes and 15 s
@pytest.mark.parametrize("faults", [0, 20])
async def test_each_client_has_each_record_once_or_a_gap_and_so_has_the_database(
    folder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, faults: int, *, long: bool
) -> None:
    if faults and not long:
        pytest.skip("only with --long: it takes minutes")
    monkeypatch.setenv("PYTHONPATH", str(lay_out_plugin(folder)))
    plan = planned(18, faults, 100) or FEW
    with running_redis(folder) as redis:
        outcome = await run_chaos(
            folder, database_url, redis, plan, clients=8, seed=18, lease_s=4 if faults else 2, calm_s=3
        )
    assert outcome.wrong == []
    assert len(outcome.stored.trades) > 300
    assert {cause for gaps in outcome.stored.gaps.values() for _, _, cause in gaps} >= {"failover"}
    assert all(client.seen for client in outcome.clients)
    assert sum(client.connections > 1 for client in outcome.clients) >= 2  # some never leave by themselves
