"""Read candles as numpy arrays: what other candles are folded from.

PostgreSQL strings the values of each column together, in binary, and numpy reads them where they lie: no Python object
per value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, TypeAlias

import numpy as np
import psycopg
from numpy.typing import NDArray

from ...candles import FRACTIONS, Candles, Floats, Ints
from ...model import US_PER_S
from ..pg_binary import to_postgres_us
from .read_candles import CandleColumns, utc_time

__all__ = [
    "NO_CANDLES",
    "NO_TIME_US",
    "as_columns",
    "candles_from",
    "floats",
    "ints",
    "joined",
    "part",
    "read_arrays",
    "sent",
    "times_us",
]

Packed: TypeAlias = bytes | None

NO_TIME_US = -(2**63) + 1
"""In a column of times: there is none."""

_MINUS_INFINITY = -(2**63)
"""``-infinity`` as PostgreSQL sends it."""

POSTGRES_EPOCH_US = -int(to_postgres_us(0))

_EXACT = 2**53 // FRACTIONS
"""Volumes below are whole numbers of hundred-millionths that a float holds exactly."""


_SEND: dict[str, LiteralString] = {"time": "timestamptz_send", "int": "int8send", "float": "float8send"}


def sent(**columns: LiteralString) -> LiteralString:
    """Return the select list that packs columns in this order; none may be NULL.

    The name of a column begins with its type: ``time``, ``int`` or ``float``.
    """
    packed: list[LiteralString] = []
    for name, column in columns.items():
        packed.append("string_agg(" + _SEND[name.partition("_")[0]] + "(" + column + "), '')")
    return ", ".join(packed)


_READ: LiteralString = f"""select {
    sent(
        time="time",
        float_open="open",
        float_high="high",
        float_low="low",
        float_close="close",
        int_whole="trunc(volume)::bigint",
        int_fraction="((volume - trunc(volume)) * 100000000)::bigint",
        int_count="row_count",
    )
} from (select * from candles
    where series_id = %s and timeframe = %s and time between %s and %s order by time) as chosen"""  # noqa: S608


def read_arrays(
    conn: psycopg.Connection[Any], series_id: int, timeframe_s: int, from_s: int, to_s: int
) -> Candles:
    """Return the stored candles of a series whose opens are in ``[from_s, to_s]``, ascending. Blocking."""
    with conn.cursor(binary=True) as cursor:
        parameters = (series_id, timeframe_s, utc_time(from_s), utc_time(to_s))
        row = cursor.execute(_READ, parameters, prepare=True).fetchone()
    if row is None or row[0] is None:
        return NO_CANDLES
    return candles_from(
        times_us(row[0]) // US_PER_S, [floats(one) for one in row[1:5]], [ints(one) for one in row[5:]]
    )


def candles_from(time: Ints, prices: Sequence[Floats], sizes: Sequence[Ints]) -> Candles:
    """Return candles of one series: open, high, low, close; whole, fraction, number of rows."""
    opened, high, low, close = prices
    whole, fraction, row_count = sizes
    series = np.zeros(len(time), np.int64)
    return Candles(series, time, opened, high, low, close, whole, fraction, row_count)


def ints(packed: Packed) -> Ints:
    """Return a packed column of bigint."""
    return _values(packed, ">i8").astype(np.int64)


def times_us(packed: Packed) -> Ints:
    """Return a packed column of timestamps in microseconds since 1970; ``-infinity`` as :data:`NO_TIME_US`."""
    sent_us = ints(packed)
    return np.where(sent_us == _MINUS_INFINITY, NO_TIME_US, sent_us + POSTGRES_EPOCH_US)


def floats(packed: Packed) -> Floats:
    """Return a packed column of double precision."""
    return _values(packed, ">f8").astype(np.float64)


def _values(packed: Packed, form: str) -> NDArray[Any]:
    return np.frombuffer(packed or b"", form)


def _empty() -> Candles:
    whole, real = np.zeros(0, np.int64), np.zeros(0, np.float64)
    return Candles(whole, whole, real, real, real, real, whole, whole, whole)


NO_CANDLES = _empty()


def joined(parts: Sequence[Candles]) -> Candles:
    """Return consecutive candles as one."""
    if len(parts) == 1:
        return parts[0]
    return Candles._make(np.concatenate(column) for column in zip(NO_CANDLES, *parts, strict=True))


def part(candles: Candles, from_s: int, to_s: int) -> Candles:
    """Return the candles with opens in ``[from_s, to_s]``."""
    first = int(np.searchsorted(candles.time, from_s))
    end = int(np.searchsorted(candles.time, to_s, side="right"))
    return Candles._make(column[first:end] for column in candles)


def as_columns(candles: Candles) -> CandleColumns:
    """Return candles with each volume as the float nearest to it, as PostgreSQL converts from numeric."""
    whole, fraction = candles.whole, candles.fraction
    if not len(whole) or whole.max() < _EXACT:
        # one division of whole numbers that are held exactly rounds once
        volume = ((whole * FRACTIONS + fraction) / FRACTIONS).tolist()
    else:
        pairs = zip(whole.tolist(), fraction.tolist(), strict=True)
        volume = [(units * FRACTIONS + rest) / FRACTIONS for units, rest in pairs]
    return CandleColumns(
        time=candles.time.tolist(),
        open=candles.open.tolist(),
        high=candles.high.tolist(),
        low=candles.low.tolist(),
        close=candles.close.tolist(),
        volume=volume,
        count=candles.row_count.tolist(),
    )
