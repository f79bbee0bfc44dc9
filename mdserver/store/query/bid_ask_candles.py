"""Bid and ask candles: computed from the ticks, hour by hour, and kept.

The arithmetic is that of the mid candles (:mod:`mdserver.candles`). An hour is computed once: the table ``side_hours``
keeps it under the version of its mid candle, which every change of its ticks moves. What is kept and what is not is
read in one snapshot, so an hour is never made of old and new ticks.

An hour that opens before the time up to which retention has dropped ticks is neither computed nor read: the rest of its
ticks would make a wrong candle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, LiteralString, NamedTuple, TypeAlias

import numpy as np
import psycopg

from ...candles import Candles, Ints, Prices, candles_of_prices, fold, split_sizes
from ...model import US_PER_S
from .candle_arrays import NO_CANDLES, candles_from, floats, ints, joined, part, sent, times_us
from .read_candles import utc_time

__all__ = [
    "HOUR_S",
    "MINUTE_S",
    "NewHour",
    "Side",
    "SideCandles",
    "TooManyTicks",
    "keep_hours",
    "kept_from_s",
    "side_candles",
]

Side: TypeAlias = Literal["bid", "ask"]

MINUTE_S = 60
HOUR_S = 3_600

BLOCK_TICKS = 200_000
"""Ticks that are read at a time, give or take an hour."""

_KEPT_FROM = """select ceil(extract(epoch from dropped_before))::bigint from retention
    where table_name = 'ticks'"""

_HOURS: LiteralString = f"""select {
    sent(
        time="time",
        int_version="version",
        int_count="row_count",
        int_there="there",
        float_open="coalesce(open, 0)",
        float_high="coalesce(high, 0)",
        float_low="coalesce(low, 0)",
        float_close="coalesce(close, 0)",
        int_whole="coalesce(whole, 0)",
        int_fraction="coalesce(fraction, 0)",
    )
}, %(minutes)s
from (select mid.time, mid.version, mid.row_count, (kept.time is not null)::int::bigint as there,
             kept.open, kept.high, kept.low, kept.close, kept.whole, kept.fraction, kept.minutes
      from (select time, row_count, xmin::text::bigint as version from candles
            where series_id = %(series)s and timeframe = 3600 and time between %(first)s and %(last)s) as mid
      left join side_hours kept on kept.series_id = %(series)s and kept.side = %(side)s and kept.time = mid.time
          and kept.version = mid.version and kept.row_count = mid.row_count
      order by mid.time) as hours"""  # noqa: S608

_MINUTES: LiteralString = "string_agg(minutes, '' order by time)"

_IN_ORDER: LiteralString = "from ticks where series_id = %s and time >= %s and time < %s order by time, seq"
_BID: LiteralString = sent(time="time", float_price="bid", float_size="coalesce(bid_size, 'NaN')")
_ASK: LiteralString = sent(time="time", float_price="ask", float_size="coalesce(ask_size, 'NaN')")
_TICKS: dict[Side, LiteralString] = {
    "bid": f"select {_BID} from (select time, bid, bid_size {_IN_ORDER}) as chosen",  # noqa: S608 - texts of this module
    "ask": f"select {_ASK} from (select time, ask, ask_size {_IN_ORDER}) as chosen",  # noqa: S608 - texts of this module
}

_KEEP = """insert into side_hours
    (time, version, open, high, low, close, whole, fraction, row_count, series_id, side, minutes)
    values (to_timestamp(%s), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    on conflict (series_id, side, time) do update set version = excluded.version,
        open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
        whole = excluded.whole, fraction = excluded.fraction, row_count = excluded.row_count,
        minutes = excluded.minutes"""

_MINUTE = np.dtype(
    [("time", "<i8"), *((name, "<f8") for name in ("open", "high", "low", "close"))]
    + [(name, "<i8") for name in ("whole", "fraction", "row_count")]
)


class TooManyTicks(Exception):
    """More ticks would have to be read than one request may."""

    def __init__(self, ticks: int) -> None:
        super().__init__(f"{ticks} ticks are stored in the range")
        self.ticks = ticks


class NewHour(NamedTuple):
    """An hour that has just been computed: its candle, its minutes as they are kept, and the version it is of."""

    time: int
    version: int
    candle: Candles
    minutes: bytes


class SideCandles(NamedTuple):
    """Candles of a side, of one minute or one hour each, and the hours that were computed for them."""

    candles: Candles
    new: list[NewHour]


def kept_from_s(conn: psycopg.Connection[Any]) -> int | None:
    """Return the time from which on all ticks are there, None if none were ever dropped. Blocking."""
    row = conn.execute(_KEPT_FROM, prepare=True).fetchone()
    return None if row is None else int(row[0])


def side_candles(
    conn: psycopg.Connection[Any],
    series_id: int,
    length_s: int,
    from_s: int,
    to_s: int,
    side: Side,
    *,
    most_ticks: int,
) -> SideCandles:
    """Return the candles of one side of a series' ticks of the hours that open in ``[from_s, to_s]``.

    ``length_s`` is a minute or an hour, ``from_s`` the start of an hour. All statements of the transaction must see one
    snapshot. Raises :class:`TooManyTicks` if more than ``most_ticks`` have to be read. Blocking. Memory is bounded by a
    block of ticks and the candles.
    """
    dropped = kept_from_s(conn)
    first_s = from_s if dropped is None else max(from_s, -(-dropped // HOUR_S) * HOUR_S)
    if first_s > to_s:
        return SideCandles(NO_CANDLES, [])
    with conn.cursor(binary=True) as cursor:
        minutes = _MINUTES if length_s == MINUTE_S else "null::bytea"
        statement = _HOURS.replace("%(minutes)s", minutes)
        parameters = {"series": series_id, "side": side, "first": utc_time(first_s), "last": utc_time(to_s)}
        row = cursor.execute(statement, parameters, prepare=True).fetchone()
    if row is None or row[0] is None:
        return SideCandles(NO_CANDLES, [])
    hours = times_us(row[0]) // US_PER_S
    versions, counts, known = (ints(one) for one in row[1:4])
    there = known > 0
    if int(counts[~there].sum()) > most_ticks:
        raise TooManyTicks(int(counts[~there].sum()))
    if length_s == MINUTE_S:
        kept = _unpacked(row[10] or b"")
    else:
        kept = candles_from(
            hours[there],
            [floats(one)[there] for one in row[4:8]],
            [*(ints(one)[there] for one in row[8:10]), counts[there]],
        )
    computed = [_compute(conn, series_id, side, run) for run in _runs(hours[~there], counts[~there])]
    made = joined([NO_CANDLES, *computed])
    new = list(_new_hours(made, dict(zip(hours.tolist(), versions.tolist(), strict=True))))
    fresh = made if length_s == MINUTE_S else fold(made, HOUR_S)
    if not len(fresh.time):
        return SideCandles(kept, new)
    both = joined([kept, fresh])
    order = np.argsort(both.time, kind="stable")
    return SideCandles(Candles._make(column[order] for column in both), new)


def keep_hours(conn: psycopg.Connection[Any], series_id: int, side: Side, hours: Sequence[NewHour]) -> None:
    """Keep hours that were computed. Blocking.

    A change of the ticks since then does no harm: it has moved the version, so the row never counts.
    """
    rows = []
    for hour in hours:
        values = [column[0].item() for column in hour.candle[2:]]
        rows.append((hour.time, hour.version, *values, series_id, side, hour.minutes))
    with conn.cursor() as cursor:
        cursor.executemany(_KEEP, rows)


def _runs(hours: Ints, counts: Ints) -> Iterator[tuple[int, int]]:
    """Yield runs of consecutive hours with about ``BLOCK_TICKS``: (start of the first, end of the last)."""
    begin = ticks = 0
    for place, count in enumerate(counts.tolist()):
        ticks += count
        last = place + 1 == len(hours)
        if last or ticks >= BLOCK_TICKS or hours[place + 1] != hours[place] + HOUR_S:
            yield int(hours[begin]), int(hours[place]) + HOUR_S
            begin, ticks = place + 1, 0


def _compute(conn: psycopg.Connection[Any], series_id: int, side: Side, run: tuple[int, int]) -> Candles:
    """Return the 1m candles of the ticks in a span of time."""
    with conn.cursor(binary=True) as cursor:
        first_s, end_s = map(utc_time, run)
        row = cursor.execute(_TICKS[side], (series_id, first_s, end_s), prepare=True).fetchone()
    if row is None or row[0] is None:
        return NO_CANDLES
    time_us, price = times_us(row[0]), floats(row[1])
    series = np.zeros(len(time_us), np.int64)
    return candles_of_prices(Prices(series, time_us, price, *split_sizes(floats(row[2]))))


def _new_hours(minutes: Candles, versions: dict[int, int]) -> Iterator[NewHour]:
    for place, time in enumerate((hours := fold(minutes, HOUR_S)).time.tolist()):
        candle = Candles._make(column[place : place + 1] for column in hours)
        yield NewHour(time, versions[time], candle, _packed(part(minutes, time, time + HOUR_S - 1)))


def _packed(minutes: Candles) -> bytes:
    rows = np.empty(len(minutes.time), _MINUTE)
    for name in _MINUTE.names or ():
        rows[name] = getattr(minutes, name)
    return rows.tobytes()


def _unpacked(data: bytes) -> Candles:
    rows = np.frombuffer(data, _MINUTE)
    time, *values = (np.ascontiguousarray(rows[name]) for name in _MINUTE.names or ())
    return candles_from(time, values[:4], values[4:])
