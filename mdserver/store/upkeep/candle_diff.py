"""Compare the stored candles of a series with those that its rows give, and the venue's where there are no rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, LiteralString, cast

import attrs
import numpy as np
import psycopg
from numpy.typing import NDArray

from ...candles import Candles, Ints, all_timeframes
from ...kinds import BY_NAME
from ...model import TIMEFRAMES, US_PER_S
from ..candle_table import delete_candles, put_candles
from ..history.venue_candles import read_candles_of_venue
from ..pg_binary import TimeArray, to_postgres_us
from ..rows import Table
from ..scan import Block, candles_of, join_minutes, scan

__all__ = ["Difference", "compare", "repair", "table_of"]

DAY_US = TIMEFRAMES["1d"] * US_PER_S

_STORED: LiteralString = """select (extract(epoch from time))::bigint, open, high, low, close, trunc(volume)::bigint,
    ((volume - trunc(volume)) * 100000000)::bigint, row_count
    from candles where series_id = %s and timeframe = %s and time >= (%s)[1] and time < (%s)[1] order by time"""


@attrs.frozen(eq=False)
class Difference:
    """How the stored candles of one timeframe differ from the rows.

    ``missing`` and ``wrong`` hold the candles as they should be, ``extra`` the open times (in seconds) of stored
    candles without any row.
    """

    timeframe_s: int
    missing: Candles
    wrong: Candles
    extra: Ints

    @property
    def count(self) -> int:
        """How many candles are missing, wrong or extra."""
        return len(self.missing.time) + len(self.wrong.time) + len(self.extra)

    @property
    def first_s(self) -> int:
        """The open time of the first one that is missing, wrong or extra."""
        return int(
            min(column[0] for column in (self.missing.time, self.wrong.time, self.extra) if len(column))
        )


def table_of(record_type: str) -> Table:
    """Return the table of a record type that has candles. Raises ValueError for any other."""
    stored = BY_NAME[record_type].stored
    if stored is None or stored.prices is None:
        raise ValueError(f"{record_type}: records of this kind have no candles")
    return cast("Table", stored.table)


def compare(
    conn: psycopg.Connection[Any],
    table: Table,
    series_id: int,
    first_us: int,
    end_us: int,
    on_block: Callable[[Block], None] = lambda block: None,
) -> list[Difference]:
    """Compare the candles whose opens are in ``[first_us, end_us)``, whole days, with the rows; empty if equal.

    ``on_block`` is called with each block of rows. Runs inside the caller's transaction, which must see one state of
    the database: either it holds the lock of the series, or it reads repeatably. Blocking.
    """
    parts = []
    for block in scan(conn, table, series_id, first_us, end_us):
        on_block(block)
        parts.append(candles_of(block))
        if len(parts) > 50:  # bounds the memory: candles of one minute in several blocks become one
            parts = [join_minutes(parts)]
    of_venue = read_candles_of_venue(conn, series_id, first_us, end_us)
    if of_venue is not None:
        minutes = join_minutes(parts) if parts else _NONE
        parts = [minutes, _pick(of_venue, ~np.isin(of_venue.time, minutes.time))]
    levels = all_timeframes(join_minutes(parts)) if parts else dict.fromkeys(TIMEFRAMES.values(), _NONE)
    bounds = TimeArray.of(to_postgres_us([first_us])), TimeArray.of(to_postgres_us([end_us]))
    differences = (
        _difference(timeframe_s, level, _stored(conn, series_id, timeframe_s, bounds))
        for timeframe_s, level in levels.items()
    )
    return [difference for difference in differences if difference.count]


def repair(conn: psycopg.Connection[Any], series_id: int, differences: list[Difference]) -> int:
    """Correct the candles that differ; return how many changed. Runs inside the caller's transaction."""
    for one in differences:
        if len(one.extra):
            timeframes = np.full(len(one.extra), one.timeframe_s)
            delete_candles(conn, series_id, timeframes, one.extra * US_PER_S)
        for new in (one.missing, one.wrong):
            put_candles(conn, series_id, {one.timeframe_s: new}, "replace")
    return sum(one.count for one in differences)


_INT, _FLOAT = np.zeros(0, np.int64), np.zeros(0, np.float64)
_NONE = Candles(_INT, _INT, _FLOAT, _FLOAT, _FLOAT, _FLOAT, _INT, _INT, _INT)


def _stored(
    conn: psycopg.Connection[Any], series_id: int, timeframe_s: int, bounds: tuple[TimeArray, TimeArray]
) -> Candles:
    rows = conn.execute(_STORED, (series_id, timeframe_s, *bounds)).fetchall()
    if not rows:
        return _NONE
    columns = list(zip(*rows, strict=True))
    time, whole, fraction, row_count = (np.array(columns[n], np.int64) for n in (0, 5, 6, 7))
    opens, high, low, close = (np.array(columns[n], np.float64) for n in range(1, 5))
    return Candles(np.zeros(len(rows), np.int64), time, opens, high, low, close, whole, fraction, row_count)


def _difference(timeframe_s: int, expected: Candles, stored: Candles) -> Difference:
    _, ours, theirs = np.intersect1d(expected.time, stored.time, assume_unique=True, return_indices=True)
    wrong = np.zeros(len(ours), np.bool_)
    for should, found in zip(expected[2:], stored[2:], strict=True):
        wrong |= should[ours] != found[theirs]
    missing = np.ones(len(expected.time), np.bool_)
    missing[ours] = False
    extra = np.ones(len(stored.time), np.bool_)
    extra[theirs] = False
    return Difference(timeframe_s, _pick(expected, missing), _pick(expected, ours[wrong]), stored.time[extra])


def _pick(candles: Candles, rows: NDArray[Any]) -> Candles:
    return Candles._make(column[rows] for column in candles)
