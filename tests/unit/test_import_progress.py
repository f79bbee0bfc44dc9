"""What an import shows while it runs."""

from __future__ import annotations

import pytest

from mdserver.commands.importing.progress import ImportProgress


def test_hours_that_fail_are_counted_and_no_time_left_is_made_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    progress = ImportProgress(clock=lambda: now[0])
    progress.start(100)
    now[0] = 10
    progress.advance("EURUSD", "a to b", 20, 0, failed=20)
    assert capsys.readouterr().err == "EURUSD a to b: 0 ticks in 20 hours; 20 of 100 hours, 20 failed\n"
    now[0] = 20
    progress.advance("EURUSD", "b to c", 20, 4_000)
    text = "EURUSD b to c: 4,000 ticks in 20 hours; 40 of 100 hours, 20 failed, 200 ticks/s, 0:01:00 left\n"
    assert capsys.readouterr().err == text
