"""COPY ticks into the database, hour after hour, in the order of time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import numpy as np
import psycopg
from psycopg import sql

from ...candles import Ints
from ...market_hours import HOUR_US
from ...model import US_PER_S, TickColumns
from ..connection.database import Engine
from ..pg_binary import COPY_END, COPY_START, copy_rows, to_postgres_us
from ..tables.partitions import partition_name

__all__ = ["TickCopy", "copy_data"]


class TickCopy:
    """A COPY into the table, or straight into the month's partition, which saves the server the routing of each row.

    Other statements may run on the connection after :meth:`close`; the next hour begins another COPY. If
    ``compressing``, so does an hour that does not follow the last one: a compressed batch must never span an hour
    whose rows come later, since their batch would overlap with it.
    """

    def __init__(self, conn: psycopg.Connection[Any], engine: Engine, *, compressing: bool = False) -> None:
        self._conn = conn
        self._engine = engine
        self._compressing = compressing
        self._next_hour_us = 0
        self._table = ""
        self._copy: psycopg.Copy | None = None
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End a COPY that an error left open, so that the connection can be rolled back."""
        self._copy = None
        self._exits.__exit__(kind, error, trace)

    def write(self, hour_us: int, rows: bytes) -> None:
        """Add an hour's rows, made by :func:`copy_data`."""
        table = "ticks"
        if self._engine == "plain":
            # an hour lies within one month
            table = partition_name("ticks", datetime.fromtimestamp(hour_us / US_PER_S, UTC))
        apart = self._compressing and hour_us != self._next_hour_us
        self._next_hour_us = hour_us + HOUR_US
        if self._copy is None or table != self._table or apart:
            self.close()
            self._copy, self._table = self._open(table), table
        self._copy.write(rows)

    def close(self) -> None:
        """End the running COPY, if any. Raises psycopg's error if the server refuses its rows."""
        if self._copy is not None:
            self._copy.write(COPY_END)
            self._copy = None
            self._exits.close()

    def _open(self, table: str) -> psycopg.Copy:
        statement = sql.SQL(
            "copy {} (time, seq, bid, ask, bid_size, ask_size, series_id) from stdin (format binary)"
        ).format(sql.Identifier(table))
        cursor = self._exits.enter_context(self._conn.cursor())
        copy = self._exits.enter_context(cursor.copy(statement))
        copy.write(COPY_START)
        return copy


def copy_data(ticks: TickColumns, series_id: int) -> bytes:
    """Return an hour's rows as COPY data, in order; missing sizes are NULL, ``seq`` is the position from 1."""
    count = len(ticks.time_us)
    time, seq = to_postgres_us(ticks.time_us), np.arange(1, count + 1)
    # rows with different NULLs differ in length, so each shape is encoded as one block and then put back in order
    shapes = np.isnan(ticks.bid_size) + 2 * np.isnan(ticks.ask_size)
    owner = np.full(count, series_id, np.int32)
    blocks = []
    for shape in np.unique(shapes).tolist():
        rows = np.flatnonzero(shapes == shape)
        chosen = slice(None) if len(rows) == count else rows
        columns = [column[chosen] for column in (time, seq, ticks.bid, ticks.ask)]
        sizes = [
            None if shape & 1 else ticks.bid_size[chosen],
            None if shape & 2 else ticks.ask_size[chosen],
        ]
        blocks.append((rows, copy_rows([*columns, *sizes, owner[chosen]], len(rows))))
    return blocks[0][1] if len(blocks) == 1 else _in_order(blocks, count)


def _in_order(blocks: Sequence[tuple[Ints, bytes]], count: int) -> bytes:
    """Interleave blocks of rows of different lengths, so that each row gets to its place."""
    lengths = np.empty(count, np.int64)
    for rows, data in blocks:
        lengths[rows] = len(data) // len(rows)
    starts = np.cumsum(lengths) - lengths
    ordered = np.empty(lengths.sum(), np.uint8)
    for rows, data in blocks:
        block = np.frombuffer(data, np.uint8).reshape(len(rows), -1)
        ordered[starts[rows][:, None] + np.arange(block.shape[1])] = block
    return ordered.tobytes()
