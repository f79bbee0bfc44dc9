"""The database goes away while records stream: a short run; ``benchmarks/outage.py`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from .crash_run import lay_out_plugin
from .outage_run import WAYS, run_outage


async def test_a_database_that_goes_away_costs_no_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, long: bool
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(lay_out_plugin(folder)))
    for way in WAYS if long else ["stopped"]:
        (folder / way).mkdir(mode=0o711)
        run = await run_outage(folder / way, way, rate=2_000, seconds=12 if long else 3, clients=2)
        assert run.wrong == []
        assert run.stored + run.named == run.sent > 4_000
        assert (run.named > 0) == (way == "disk full")
        if long:
            assert any(line.startswith("503") for line in run.ready)
