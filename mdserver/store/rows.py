"""Batches of records as columns: for COPY and for candles. No database here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from ..candles import MAX_SIZE, Ints, Prices, prices_of_ticks, prices_of_trades
from ..model import Published, Record, Side, Tick, Trade
from .pg_binary import COPY_END, COPY_START, Column, copy_rows, to_postgres_us

__all__ = ["MAX_TIME_US", "Keys", "Rows", "Table", "storage_fault", "tick_rows", "trade_rows"]

Table: TypeAlias = Literal["ticks", "trades"]

MAX_TIME_US = 7_258_118_400_000_000
"""2200-01-01: no record's true time; PostgreSQL could hold it, a partition per month could not."""


_SIDES: dict[Side | None, bytes] = {"buy": b"b", "sell": b"s", None: b""}

_Chosen: TypeAlias = NDArray[np.intp]


@attrs.frozen
class Keys:
    """What is known of records beside themselves: each one's place in the list of series, and its seq."""

    place: list[int] = attrs.Factory(list)
    seq: list[int] = attrs.Factory(list)


@attrs.frozen(eq=False)
class Rows:
    """Rows of one table, in the order of their arrival.

    ``prices`` are the same rows for candles, sorted; their ``series`` is the place as well.
    """

    table: Table
    place: Ints
    time_us: Ints
    seq: Ints
    prices: Prices
    copy_data: bytes

    def __len__(self) -> int:
        return len(self.place)


def storage_fault(published: Published) -> str | None:
    """Return why a record cannot be stored, or None.

    The sanity check at the door is stricter about prices; this one keeps a record that slipped through it from
    stopping all others behind it.
    """
    record = published.record
    if not 0 <= record.time_us < MAX_TIME_US:
        return f"time_us {record.time_us} is not between 1970 and 2200"
    if type(record) is Tick:
        if not (-1e300 < record.bid < 1e300 and -1e300 < record.ask < 1e300):
            return f"bid {record.bid} or ask {record.ask} is not a finite number"
        if record.bid_size is None and record.ask_size is None:
            return None
        if not (0 <= (record.bid_size or 0) <= MAX_SIZE and 0 <= (record.ask_size or 0) <= MAX_SIZE):
            return f"size {record.bid_size} or {record.ask_size} is not between 0 and {MAX_SIZE:g}"
        return None
    return _trade_fault(record)


def _trade_fault(trade: Trade) -> str | None:
    if not -1e300 < trade.price < 1e300:
        return f"price {trade.price} is not a finite number"
    if not 0 <= trade.size <= MAX_SIZE:
        return f"size {trade.size} is not between 0 and {MAX_SIZE:g}"
    if trade.trade_id is not None and "\0" in trade.trade_id:
        return "the trade id holds a NUL, which PostgreSQL cannot"
    return None


def tick_rows(keys: Keys, ticks: Sequence[Tick], ids: Sequence[int]) -> Rows:
    """Return ticks as rows; ``ids`` gives the series id at each place. A size not given is NULL."""
    place, time_us, seq = _key_columns(keys, ticks)
    bid = np.array([tick.bid for tick in ticks], np.float64)
    ask = np.array([tick.ask for tick in ticks], np.float64)
    bid_size = np.array([tick.bid_size for tick in ticks], np.float64)  # None becomes NaN
    ask_size = np.array([tick.ask_size for tick in ticks], np.float64)
    series_id = np.array(ids, np.int32)[place]

    def columns(shape: int, rows: _Chosen) -> list[Column]:
        return [
            *(column[rows] for column in (to_postgres_us(time_us), seq, bid, ask)),
            None if shape & 1 else bid_size[rows],
            None if shape & 2 else ask_size[rows],
            series_id[rows],
        ]

    data = _copy_data(np.isnan(bid_size) + 2 * np.isnan(ask_size), columns)
    prices = prices_of_ticks(place, time_us, seq, bid, ask, bid_size, ask_size)
    return Rows("ticks", place, time_us, seq, prices, data)


def trade_rows(keys: Keys, trades: Sequence[Trade], ids: Sequence[int]) -> Rows:
    """Return trades as rows; ``ids`` gives the series id at each place. An empty trade id is NULL."""
    place, time_us, seq = _key_columns(keys, trades)
    price = np.array([trade.price for trade in trades], np.float64)
    size = np.array([trade.size for trade in trades], np.float64)
    side = np.array([_SIDES[trade.side] for trade in trades], "S1")
    trade_ids = [(trade.trade_id or "").encode() for trade in trades]
    id_bytes = np.array([len(trade_id) for trade_id in trade_ids], np.int64)
    id_column = np.array(trade_ids, np.bytes_)
    series_id = np.array(ids, np.int32)[place]

    def columns(shape: int, rows: _Chosen) -> list[Column]:
        length = shape >> 1
        return [
            *(column[rows] for column in (to_postgres_us(time_us), seq, price, size, series_id)),
            None if shape & 1 else side[rows],
            id_column[rows].astype(f"S{length}") if length else None,
        ]

    data = _copy_data(id_bytes * 2 + (side == b""), columns)
    return Rows("trades", place, time_us, seq, prices_of_trades(place, time_us, seq, price, size), data)


def _key_columns(keys: Keys, records: Sequence[Record]) -> tuple[Ints, Ints, Ints]:
    time_us = np.array([record.time_us for record in records], np.int64)
    return np.array(keys.place, np.int64), time_us, np.array(keys.seq, np.int64)


def _copy_data(shapes: Ints, columns: Callable[[int, _Chosen], list[Column]]) -> bytes:
    """Return COPY data: one block of rows per shape (which values are NULL, how long texts are)."""
    blocks = []
    for shape in np.unique(shapes).tolist():
        rows = np.flatnonzero(shapes == shape)
        blocks.append(copy_rows(columns(shape, rows), len(rows)))
    return COPY_START + b"".join(blocks) + COPY_END
