"""What is stored of each day: from the candles of an hour and the import ledger."""

from __future__ import annotations

import psycopg
import pytest

from mdserver.model import Published, Tick, Topic
from mdserver.store.connection.database import Database
from mdserver.store.history.import_ledger import LedgerHour, write_hours
from mdserver.store.store import CoverageDay, Store

pytestmark = pytest.mark.both_engines

DAY = 86_400
MIDNIGHT = 1_710_892_800
HOUR_US = 3_600_000_000


def ticks(*times_s: int) -> list[Published]:
    topic = Topic("a", "EURUSD", "tick")
    return [
        Published(topic, seq, Tick("EURUSD", time_s * 1_000_000, 1.0, 1.1))
        for seq, time_s in enumerate(times_s, 1)
    ]


async def test_hours_with_records_and_the_outcomes_of_imports_are_counted_by_day(
    database: Database, database_url: str
) -> None:
    store = Store(database)
    await store.write(ticks(MIDNIGHT, MIDNIGHT + 1, MIDNIGHT + 3_600, MIDNIGHT + DAY - 1, MIDNIGHT + DAY))
    (series,) = await store.series()
    outcomes = ["ok", "empty", "empty", "failed", "denied"]
    with psycopg.connect(database_url) as conn:
        hours = [
            LedgerHour((MIDNIGHT - DAY) * 1_000_000 + place * HOUR_US, outcome)  # type: ignore[arg-type]
            for place, outcome in enumerate(outcomes)
        ]
        write_hours(conn, series.id, hours)
    assert await store.coverage([series.id], MIDNIGHT - DAY, MIDNIGHT + 2 * DAY) == [
        CoverageDay(series.id, MIDNIGHT - DAY, 0, 0, 2, 2),
        CoverageDay(series.id, MIDNIGHT, 3, 4, 0, 0),
        CoverageDay(series.id, MIDNIGHT + DAY, 1, 1, 0, 0),
    ]
    assert await store.coverage([series.id], MIDNIGHT + DAY, MIDNIGHT + 2 * DAY) == [
        CoverageDay(series.id, MIDNIGHT + DAY, 1, 1, 0, 0)
    ]
    assert await store.coverage([], MIDNIGHT, MIDNIGHT + DAY) == []
