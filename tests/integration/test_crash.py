"""``kill -9`` at random moments under clients that resume: a short run; ``benchmarks/crash.py`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from .crash_run import lay_out_plugin, run_crashes


async def test_clients_that_resume_over_kills_have_each_record_once_or_a_gap(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, *, long: bool
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(lay_out_plugin(tmp_path)))
    kills = 20 if long else 3
    outcome = await run_crashes(tmp_path, database_url, kills=kills, clients=20, seed=15)
    assert outcome.wrong == []
    assert outcome.stored > 500
    assert sum(client.announced for client in outcome.clients) > 0
    assert all(client.connections > 1 and client.seen for client in outcome.clients)
