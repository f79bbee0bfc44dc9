"""Stream the stored rows of one series, ordered by (time, seq), as numpy columns: memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from ..candles import (
    Candles,
    Ints,
    Prices,
    QuotePrice,
    candles_of_prices,
    merge,
    prices_of_ticks,
    prices_of_trades,
)
from ..model import TIMEFRAMES
from .pg_binary import COPY_END, COPY_START, to_postgres_us
from .rows import Table

__all__ = ["Block", "candles_of", "join_minutes", "scan", "timestamp"]

BLOCK_ROWS = 100_000
MINUTE_S = TIMEFRAMES["1m"]

_COLUMNS: dict[Table, tuple[LiteralString, ...]] = {
    "ticks": ("time", "seq", "bid", "ask", "coalesce(bid_size, 'NaN')", "coalesce(ask_size, 'NaN')"),
    "trades": ("time", "seq", "price", "size"),
}

_COPY: LiteralString = """copy (select {columns} from {table}
    where series_id = {series_id} and time >= {first} and time < {end} order by time, seq)
    to stdout (format binary)"""

_POSTGRES_EPOCH_US = -int(to_postgres_us(0))


class Block(NamedTuple):
    """Consecutive rows: their times, their numbers, and their prices and sizes for candles."""

    time_us: Ints
    seq: Ints
    prices: Prices


def scan(
    conn: psycopg.Connection[Any],
    table: Table,
    series_id: int,
    first_us: int,
    end_us: int,
    price: QuotePrice = "mid",
) -> Iterator[Block]:
    """Yield the rows of a series in ``[first_us, end_us)``, about ``BLOCK_ROWS`` at a time. Blocking.

    ``price`` says which price of a tick to use. The connection is busy until the last block is read.
    """
    columns = _COLUMNS[table]
    statement = sql.SQL(_COPY).format(
        columns=sql.SQL(", ").join(sql.SQL(column) for column in columns),
        table=sql.Identifier(table),
        series_id=sql.Literal(series_id),
        first=timestamp(first_us),
        end=timestamp(end_us),
    )
    dtype = _row_type(len(columns))
    rest = b""
    skip = len(COPY_START)
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        pieces: list[bytes] = []
        size = 0
        for piece in copy:
            data = bytes(piece)
            if skip:
                data, skip = data[skip:], max(0, skip - len(data))
            pieces.append(data)
            size += len(data)
            if size >= BLOCK_ROWS * dtype.itemsize:
                # psycopg's pieces need not end with a row: the torn last one waits for its rest
                joined = rest + b"".join(pieces)
                whole = len(joined) // dtype.itemsize * dtype.itemsize
                yield _block(table, joined[:whole], dtype, price)
                rest, pieces, size = joined[whole:], [], 0
    joined = (rest + b"".join(pieces)).removesuffix(COPY_END)
    if joined:
        yield _block(table, joined, dtype, price)


def candles_of(block: Block) -> Candles:
    """Return the 1m candles of the rows; the first and the last may continue in the neighbouring blocks."""
    return candles_of_prices(block.prices)


def join_minutes(parts: list[Candles]) -> Candles:
    """Join the 1m candles of consecutive blocks."""
    return merge(parts, MINUTE_S) if len(parts) > 1 else parts[0]


def timestamp(time_us: int) -> sql.Composed:
    """Return a time as SQL, exact to the microsecond."""
    return sql.SQL("('epoch'::timestamptz + {} * interval '1 microsecond')").format(sql.Literal(time_us))


def _row_type(columns: int) -> np.dtype[Any]:
    """The layout of a row of 8-byte values in COPY's binary format."""
    fields: list[tuple[str, str]] = [("count", ">i2")]
    for number in range(columns):
        fields += [(f"length{number}", ">i4"), (f"value{number}", ">i8" if number < 2 else ">f8")]
    return np.dtype(fields)


def _block(table: Table, data: bytes, dtype: np.dtype[Any], price: QuotePrice) -> Block:
    rows = np.frombuffer(data, dtype)
    time_us = rows["value0"].astype(np.int64) + _POSTGRES_EPOCH_US
    seq = rows["value1"].astype(np.int64)
    series = np.zeros(len(rows), np.int64)

    def column(number: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = rows[f"value{number}"].astype(np.float64)
        return values

    if table == "ticks":
        bid, ask, bid_size, ask_size = (column(number) for number in range(2, 6))
        prices = prices_of_ticks(series, time_us, seq, bid, ask, bid_size, ask_size, price)
    else:
        prices = prices_of_trades(series, time_us, seq, column(2), column(3))
    return Block(time_us, seq, prices)
