"""Reading recorded ticks and trades, a page at a time, by columns.

A page starts behind a position (time, seq): the primary key finds it at once, however deep the page lies.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, TypeAlias, cast

import msgspec
import psycopg

from ...model import Side

__all__ = ["RowPosition", "TickPage", "TradePage", "read_ticks", "read_trades"]

RowPosition: TypeAlias = tuple[int, int]
"""A place within a series: (time in microseconds, seq)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEFORE_ALL: RowPosition = (-1, 0)

# One row of arrays in binary is the cheapest way out. The rows are put in order before they are aggregated.
_PAGE: LiteralString = """
select {columns} from (
    select (extract(epoch from time) * 1000000)::bigint as time_us, {fields}
    from {table}
    where series_id = %(series)s and time between %(first)s and %(last)s
      and (time, seq) > (%(after)s, %(seq)s)
    order by time, seq
    limit %(limit)s
) page
"""
_TICKS: LiteralString = _PAGE.format(
    columns="array_agg(time_us), array_agg(seq), array_agg(bid), array_agg(ask), array_agg(bid_size), "
    "array_agg(ask_size)",
    fields="seq, bid, ask, bid_size, ask_size",
    table="ticks",
)
_TRADES: LiteralString = _PAGE.format(
    columns="array_agg(time_us), array_agg(seq), array_agg(price), array_agg(size), array_agg(side), "
    "array_agg(trade_id)",
    fields="seq, price, size, case side when 'b' then 'buy' when 's' then 'sell' end as side, trade_id",
    table="trades",
)


class TickPage(msgspec.Struct, frozen=True):
    """Ticks by column, all of one length, ascending by (time, seq)."""

    time_us: list[int]
    seq: list[int]
    bid: list[float]
    ask: list[float]
    bid_size: list[float | None]
    ask_size: list[float | None]


class TradePage(msgspec.Struct, frozen=True):
    """Trades by column, all of one length, ascending by (time, seq)."""

    time_us: list[int]
    seq: list[int]
    price: list[float]
    size: list[float]
    side: list[Side | None]
    trade_id: list[str | None]


def read_ticks(
    conn: psycopg.Connection[Any],
    series_id: int,
    from_us: int,
    to_us: int,
    *,
    after: RowPosition | None = None,
    limit: int,
) -> TickPage:
    """Return the first ``limit`` ticks in [from_us, to_us] that come behind ``after``. Blocking."""
    return TickPage(*_columns(conn, _TICKS, series_id, from_us, to_us, after, limit))


def read_trades(
    conn: psycopg.Connection[Any],
    series_id: int,
    from_us: int,
    to_us: int,
    *,
    after: RowPosition | None = None,
    limit: int,
) -> TradePage:
    """Return the first ``limit`` trades in [from_us, to_us] that come behind ``after``. Blocking."""
    return TradePage(*_columns(conn, _TRADES, series_id, from_us, to_us, after, limit))


def _columns(
    conn: psycopg.Connection[Any],
    query: LiteralString,
    series_id: int,
    from_us: int,
    to_us: int,
    after: RowPosition | None,
    limit: int,
) -> list[list[Any]]:
    after_us, after_seq = _BEFORE_ALL if after is None else after
    # the planner uses the key for "between"; the row comparison alone would start at the series' first row
    first_us = max(from_us, after_us)
    values = {
        "series": series_id,
        "first": _time(first_us),
        "last": _time(to_us),
        "after": _time(after_us),
        "seq": after_seq,
        "limit": limit,
    }
    with conn.cursor(binary=True) as cursor:
        row = cast("tuple[list[Any] | None, ...]", cursor.execute(query, values).fetchone())
    return [column or [] for column in row]


def _time(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
