"""Read records of any stored kind, a page at a time, by columns.

A page starts after a position (time, seq): the primary key finds it at once, however far into the series it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, TypeAlias, cast

import msgspec
import numpy as np
import psycopg
from psycopg import sql

from ...candles import Floats, Ints
from ...kinds import StoredAs, StoredColumn
from .candle_arrays import NO_TIME_US, floats, ints, times_us
from .read_candles import CandleColumns

__all__ = [
    "NO_TIME_US",
    "RecordArrays",
    "RecordPage",
    "RowPosition",
    "read_newest",
    "read_record_arrays",
    "read_records",
]

RowPosition: TypeAlias = tuple[int, int]
"""A position within a series: (time in microseconds, seq)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEFORE_ALL: RowPosition = (-1, 0)
_LAST_US = 7_258_118_400_000_000
"""2200-01-01: no record has a later time."""
_AT_ONE_TIME = 1_000
"""Records that are looked at behind the time of the newest one."""

# One row of arrays in binary is the cheapest result. The rows are sorted before they are aggregated.
_PAGE: LiteralString = """
select {columns} from (
    select {fields} from {table}
    where series_id = %(series)s and time between %(first)s and %(last)s
      and (time, seq) > (%(after)s, %(seq)s)
    order by time, seq
    limit %(limit)s
) page
"""
_US: LiteralString = "(extract(epoch from {column}) * 1000000)::bigint as {name}"


class RecordPage(msgspec.Struct, frozen=True):
    """Records by column, all of one length, ascending by (time, seq).

    ``columns`` are those of the kind's row in :mod:`mdserver.kinds`, by name. ``received_us`` is None for records that
    were imported, not received, and where times of receipt are not stored.
    """

    time_us: list[int]
    seq: list[int]
    received_us: list[int | None]
    columns: dict[str, list[Any]]


def read_newest(
    conn: psycopg.Connection[Any], stored: StoredAs, series_id: int, latest_us: int
) -> RecordPage:
    """Return the newest record of a series, whose time is known to be ``latest_us`` or later. Blocking."""
    page = read_records(conn, stored, series_id, latest_us, _LAST_US, limit=_AT_ONE_TIME)
    last = slice(len(page.seq) - 1, None) if page.seq else slice(0)
    columns = {name: values[last] for name, values in page.columns.items()}
    return RecordPage(page.time_us[last], page.seq[last], page.received_us[last], columns)


class RecordArrays(msgspec.Struct, frozen=True):
    """Records as :class:`RecordPage` has them; numbers are numpy arrays, in which :data:`NO_TIME_US` and NaN stand for
    None."""

    time_us: Ints
    seq: Ints
    received_us: Ints
    columns: dict[str, Floats | list[Any]]


def read_records(
    conn: psycopg.Connection[Any],
    stored: StoredAs,
    series_id: int,
    from_us: int,
    to_us: int,
    *,
    after: RowPosition | None = None,
    limit: int,
) -> RecordPage:
    """Return the first ``limit`` records in [from_us, to_us] that come after the position ``after``. Blocking."""
    names = [column.name for column in stored.columns]
    time_us, seq, received_us, *columns = _columns(
        conn, _page(stored), series_id, from_us, to_us, after, limit
    )
    return RecordPage(time_us, seq, received_us, dict(zip(names, columns, strict=True)))


def read_record_arrays(
    conn: psycopg.Connection[Any],
    stored: StoredAs,
    series_id: int,
    from_us: int,
    to_us: int,
    *,
    after: RowPosition | None = None,
    limit: int,
    received_is_null: bool = False,
) -> RecordArrays:
    """Do as :func:`read_records`, with numbers as numpy arrays: no Python object per value. Blocking.

    ``received_is_null``: no socket brought any of the records, so the column need not be read.
    """
    numbers = [column.name for column in stored.columns if column.form in ("price", "size")]
    others = [column.name for column in stored.columns if column.name not in numbers]
    packed: list[sql.Composable] = [
        sql.SQL("string_agg(timestamptz_send(time), '')"),
        sql.SQL("string_agg(int8send(seq), '')"),
        sql.SQL(
            "null"
            if received_is_null
            else "string_agg(timestamptz_send(coalesce(received, '-infinity')), '')"
        ),
    ]
    packed += [
        sql.SQL("string_agg(float8send(coalesce({}, 'NaN')), '')").format(sql.Identifier(name))
        for name in numbers
    ]
    packed += [sql.SQL("array_agg({})").format(sql.Identifier(name)) for name in others]
    statement = _page(stored, packed)
    with conn.cursor(binary=True) as cursor:
        values = _place(series_id, from_us, to_us, after, limit)
        row = cast("tuple[Any, ...]", cursor.execute(statement, values).fetchone())
    columns: dict[str, Any] = {name: floats(one) for name, one in zip(numbers, row[3:], strict=False)}
    columns |= {name: one or [] for name, one in zip(others, row[3 + len(numbers) :], strict=True)}
    time_us = times_us(row[0])
    received_us = np.full(len(time_us), NO_TIME_US) if received_is_null else times_us(row[2])
    return RecordArrays(time_us, ints(row[1]), received_us, columns)


def middle_of(hours: CandleColumns, most: int) -> int:
    """Return the hour, in Unix seconds, before which about half of the first ``most`` records of these hours lie."""
    ticks = 0
    half = min(most, sum(hours.count)) / 2
    for time, count in zip(hours.time, hours.count, strict=True):
        if ticks >= half:
            return time
        ticks += count
    return 0


def joined_arrays(one: RecordArrays, other: RecordArrays, limit: int) -> RecordArrays:
    """Return the first ``limit`` records of two consecutive reads."""
    columns: dict[str, Any] = {
        name: _joined(values, other.columns[name], limit) for name, values in one.columns.items()
    }
    return RecordArrays(
        _joined(one.time_us, other.time_us, limit),
        _joined(one.seq, other.seq, limit),
        _joined(one.received_us, other.received_us, limit),
        columns,
    )


def _joined(one: Any, other: Any, limit: int) -> Any:
    if isinstance(one, list):
        return (one + other)[:limit]
    return np.concatenate((one, other[: max(0, limit - len(one))]))[:limit]


def _page(stored: StoredAs, columns: Sequence[sql.Composable] | None = None) -> sql.Composed:
    """Return the query of a page; ``columns`` aggregate the table's own, by default those of a :class:`RecordPage`."""
    fields: list[sql.Composable] = [sql.Identifier(name) for name in ("time", "seq", "received")]
    if columns is None:
        fields = [
            sql.SQL(_US).format(column=sql.Identifier("time"), name=sql.Identifier("time_us")),
            sql.Identifier("seq"),
            sql.SQL(_US).format(column=sql.Identifier("received"), name=sql.Identifier("received_us")),
        ]
        names = ("time_us", "seq", "received_us", *(column.name for column in stored.columns))
        columns = [sql.SQL("array_agg({})").format(sql.Identifier(name)) for name in names]
    fields += map(_field, stored.columns)
    return sql.SQL(_PAGE).format(
        columns=sql.SQL(", ").join(columns),
        fields=sql.SQL(", ").join(fields),
        table=sql.Identifier(stored.table),
    )


def _field(column: StoredColumn) -> sql.Composable:
    name = sql.Identifier(column.name)
    if column.form != "code":
        return name
    cases = sql.SQL(" ").join(
        sql.SQL("when {} then {}").format(sql.Literal(code.decode()), sql.Literal(text))
        for text, code in column.codes.items()
    )
    return sql.SQL("case {name} {cases} end as {name}").format(name=name, cases=cases)


def _columns(
    conn: psycopg.Connection[Any],
    query: sql.Composed,
    series_id: int,
    from_us: int,
    to_us: int,
    after: RowPosition | None,
    limit: int,
) -> list[list[Any]]:
    with conn.cursor(binary=True) as cursor:
        values = _place(series_id, from_us, to_us, after, limit)
        row = cast("tuple[list[Any] | None, ...]", cursor.execute(query, values).fetchone())
    return [column or [] for column in row]


def _place(series_id: int, from_us: int, to_us: int, after: RowPosition | None, limit: int) -> dict[str, Any]:
    after_us, after_seq = _BEFORE_ALL if after is None else after
    return {
        "series": series_id,
        # the planner uses the key for "between"; with the row comparison alone it would start at the first row
        "first": _time(max(from_us, after_us)),
        "last": _time(to_us),
        "after": _time(after_us),
        "seq": after_seq,
        "limit": limit,
    }


def _time(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
