"""The table ``candles``: the one way to write computed candles into it. Candles that SQL folds from stored ones are
written by :mod:`.recompute_candles`."""

from __future__ import annotations

from typing import Any, Literal, LiteralString, TypeAlias

import numpy as np
import psycopg
from numpy.typing import ArrayLike

from ..candles import Candles, Ints
from ..model import US_PER_S
from .pg_binary import Float8Array, Int4Array, Int8Array, TimeArray, to_postgres_us

__all__ = ["REPLACE", "How", "delete_candles", "put_candles"]

How: TypeAlias = Literal["replace", "merge"]
"""What happens to a stored candle: the new one replaces it, or is merged into it as the part that came after it."""

REPLACE: LiteralString = """on conflict (series_id, timeframe, time) do update set
    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume, row_count = excluded.row_count"""

_MERGE: LiteralString = """on conflict (series_id, timeframe, time) do update set
    high = greatest(stored.high, excluded.high), low = least(stored.low, excluded.low),
    close = excluded.close, volume = stored.volume + excluded.volume,
    row_count = stored.row_count + excluded.row_count"""

_INSERT: LiteralString = """insert into candles as stored
    (series_id, timeframe, time, open, high, low, close, volume, row_count)
    select series_id, timeframe, time, open, high, low, close, whole + fraction * 0.00000001, row_count
    from unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        as new(series_id, timeframe, time, open, high, low, close, whole, fraction, row_count) """

_STATEMENTS: dict[How, LiteralString] = {"replace": _INSERT + REPLACE, "merge": _INSERT + _MERGE}

_DELETE: LiteralString = """delete from candles using unnest(%s, %s) as gone(timeframe, time)
    where series_id = %s and candles.timeframe = gone.timeframe and candles.time = gone.time"""


def put_candles(
    conn: psycopg.Connection[Any], series_id: int | Ints, levels: dict[int, Candles], how: How
) -> None:
    """Write the candles of each timeframe (in seconds) into the table, in one statement.

    ``series_id`` is the series of all candles, or the list of ids that ``Candles.series`` indexes. Blocking.
    """
    candles = Candles._make(np.concatenate(column) for column in zip(*levels.values(), strict=True))
    if not len(candles.time):
        return
    ids = np.full(len(candles.time), series_id) if isinstance(series_id, int) else series_id[candles.series]
    parameters = (
        Int4Array.of(ids),
        Int4Array.of(np.repeat(list(levels), [len(level.time) for level in levels.values()])),
        TimeArray.of(to_postgres_us(candles.time * US_PER_S)),
        *(Float8Array.of(column) for column in candles[2:6]),
        *(Int8Array.of(column) for column in candles[6:]),
    )
    conn.execute(_STATEMENTS[how], parameters, prepare=True)


def delete_candles(
    conn: psycopg.Connection[Any], series_id: int, timeframe_s: ArrayLike, open_us: ArrayLike
) -> None:
    """Delete the candles of a series with these timeframes and opens, pair by pair. Blocking."""
    conn.execute(_DELETE, (Int4Array.of(timeframe_s), TimeArray.of(to_postgres_us(open_us)), series_id))
