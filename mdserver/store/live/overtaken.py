"""Records that were overtaken: another leader has stored higher numbers before they were stored.

Where processes lead a broker in turn, the journal of one that was killed, or was cut off, may hold records that nobody
else has. They are stored with their own numbers, which lie in the run that the next leader has left out. But a leader
that was cut off from everything may have gone on beside the next one: what it received once that one had records is
stored already, under the other's numbers, and would be there twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from ...kinds import BY_NAME
from ...model import Published, Topic
from ..scan import timestamp

__all__ = ["overtaken"]

_STORED: LiteralString = """select seq from {table}
    where series_id = {series} and time >= {first} and time <= {last} and seq >= {least} and seq <= {most}"""

_NEXT: LiteralString = """select (extract(epoch from time) * 1000000)::bigint from {table}
    where series_id = {series} and time >= {first} and seq > {most} order by time limit 1"""


def overtaken(
    conn: psycopg.Connection[Any], passed: Sequence[Published], series_ids: Mapping[Topic, int]
) -> list[Published]:
    """Return those of the records, whose numbers the database has passed, that are to be stored. Blocking."""
    found: list[Published] = []
    for run in _runs(passed):
        stored_as = BY_NAME[run[0].topic.type].stored
        if stored_as is None:
            continue
        times = [published.record.time_us for published in run]
        names = {
            "table": sql.Identifier(stored_as.table),
            "series": sql.Literal(series_ids[run[0].topic]),
            "first": timestamp(min(times)),
            "last": timestamp(max(times)),
            "least": sql.Literal(run[0].seq),
            "most": sql.Literal(run[-1].seq),
        }
        stored = conn.execute(sql.SQL(_STORED).format(**names)).fetchall()
        # A leader stores in order: what is missing before one that is stored was taken away on purpose.
        newest = max((seq for (seq,) in stored), default=0)
        missing = [published for published in run if published.seq > newest]
        if missing:
            row = conn.execute(sql.SQL(_NEXT).format(**names)).fetchone()
            found += [one for one in missing if row is None or one.record.time_us < row[0]]
    return found


def _runs(passed: Sequence[Published]) -> Iterator[list[Published]]:
    """Return the records by topic and by unbroken run of numbers: each run is one leader's."""
    by_topic: dict[Topic, list[Published]] = {}
    for published in passed:
        by_topic.setdefault(published.topic, []).append(published)
    for batch in by_topic.values():
        run: list[Published] = []
        for published in batch:
            if run and published.seq != run[-1].seq + 1:
                yield run
                run = []
            run.append(published)
        yield run
