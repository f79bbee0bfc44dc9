"""Turn batches of records into columns for COPY and for candles, as their kind's row in KINDS defines. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Literal, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from ..candles import MAX_SIZE, Ints, Prices
from ..kinds import KINDS, Kind, StoredAs, StoredColumn
from ..model import NOT_RECEIVED, Published, RecordColumns, Topic
from ..record_check import MAX_ID_BYTES, is_text
from ..symbols import MAX_LENGTH
from .pg_binary import COPY_END, COPY_START, Column, copy_rows, to_postgres_us

__all__ = [
    "MAX_TIME_US",
    "Rows",
    "Table",
    "columns_fault",
    "rows_of",
    "rows_of_columns",
    "storage_fault",
    "topic_fault",
]

Table: TypeAlias = Literal["ticks", "trades"]
"""The tables that candles are made from."""

MAX_TIME_US = 7_258_118_400_000_000
"""2200-01-01: no record has a time so late. PostgreSQL could hold it, but each such month would cost a partition."""

MAX_NAME_BYTES = 4 * MAX_LENGTH
"""The longest broker, symbol, type or variant, in bytes of UTF-8."""

_Chosen: TypeAlias = NDArray[np.intp]


@attrs.frozen(eq=False)
class Rows:
    """Rows of one kind, in the order of their arrival.

    ``place`` is the index of each row's series in the list of series. ``prices`` are the same rows for candles,
    sorted; their ``series`` is that index as well. ``prices`` is None for kinds without candles.
    """

    stored: StoredAs
    place: Ints
    time_us: Ints
    seq: Ints
    prices: Prices | None
    copy_data: bytes

    def __len__(self) -> int:
        return len(self.place)


def storage_fault(published: Published) -> str | None:
    """Return why a record cannot be stored, or None.

    The check of published records (:mod:`mdserver.record_check`) is stricter about prices. This one makes sure that a
    record which slipped through it does not block all records behind it.
    """
    record = published.record
    if not 0 <= record.time_us < MAX_TIME_US:
        return f"time_us {record.time_us} is not between 1970 and 2200"
    stored = KINDS[type(record)].stored
    if stored is None:
        return None
    for column in stored.columns:
        value = getattr(record, column.name)
        if column.form == "price":
            if value is None or not -1e300 < value < 1e300:
                return f"{column.name} {value} is not a finite number"
        elif value is None:
            continue
        elif column.form == "size":
            if not 0 <= value <= MAX_SIZE:
                return f"{column.name} {value} is not between 0 and {MAX_SIZE:g}"
        elif column.form == "text" and not is_text(value, MAX_ID_BYTES):
            return f"{column.name} is not a text of at most {MAX_ID_BYTES} bytes without NUL: {value[:20]!r}"
    return None


def topic_fault(topic: Topic) -> str | None:
    """Return why a topic cannot have a series, or None. An index of PostgreSQL takes no text of thousands of bytes."""
    for text in topic:
        if not is_text(text, MAX_NAME_BYTES):
            return f"a name is not a text of at most {MAX_NAME_BYTES} bytes without NUL: {text[:20]!r}"
    return None


def rows_of(
    kind: Kind, batch: Sequence[Published], place: Sequence[int], ids: Sequence[int], *, received: bool = True
) -> Rows:
    """Return records of one stored kind as rows; ``place`` indexes ``ids``, the list of series ids.

    A value that is not given (None, an empty text) becomes NULL; without ``received`` so do the times of receipt.
    """
    stored = kind.stored
    if stored is None:
        raise ValueError(f"{kind.name}: records of this kind are not stored")
    records = [published.record for published in batch]
    places = np.array(place, np.int64)
    time_us = np.array([record.time_us for record in records], np.int64)
    seq = np.array([published.seq for published in batch], np.int64)
    series_id = np.array(ids, np.int32)[places]
    encoded = [_encode(column, map(attrgetter(column.name), records)) for column in stored.columns]
    values = {column.name: one.values for column, one in zip(stored.columns, encoded, strict=True)}
    always = [_Values(to_postgres_us(time_us)), _Values(seq), _Values(series_id)]
    times = _encode_times([published.received_us if received else None for published in batch])
    data = _copy_data([*always, times, *encoded], len(records))
    prices = None
    if stored.prices is not None:
        prices = stored.prices(places, time_us, seq, *(values[name] for name in stored.candle_columns))
    return Rows(stored, places, time_us, seq, prices, data)


def columns_fault(stored: StoredAs, records: RecordColumns, first_us: int, end_us: int) -> str | None:
    """Return why columns cannot be stored as the records of ``[first_us, end_us)``, or None; the rules are those of
    :func:`storage_fault`.
    """
    time_us, seq = records.time_us, records.seq
    names = [column.name for column in stored.columns]
    if sorted(records.values) != sorted(names):
        return f"found the columns {', '.join(records.values)}, expected {', '.join(names)}"
    if len({len(column) for column in (*records[:3], *records.values.values())}) != 1:
        return "the columns differ in length"
    if not len(time_us):
        return None
    if time_us.min() < first_us or time_us.max() >= end_us or end_us > MAX_TIME_US:
        return "a record lies outside of its range of time"
    steps = np.diff(time_us)
    if ((steps < 0) | ((steps == 0) & (np.diff(seq) <= 0))).any():
        return "the records are not in the order of time and number, or one occurs twice"
    for column in stored.columns:
        values = records.values[column.name]
        if column.form == "price" and not (np.abs(values) < 1e300).all():
            return f"a {column.name} is not a finite number"
        if column.form == "size" and not (((values >= 0) & (values <= MAX_SIZE)) | np.isnan(values)).all():
            return f"a {column.name} is not between 0 and {MAX_SIZE:g}"
        if column.form == "code" and not set(values) <= {None, *column.codes}:
            return f"a {column.name} is none of {', '.join(column.codes)}"
        if column.form == "text" and not all(
            one is None or (isinstance(one, str) and is_text(one, MAX_ID_BYTES)) for one in values
        ):
            return f"a {column.name} is not a text of at most {MAX_ID_BYTES} bytes without NUL"
    return None


def rows_of_columns(stored: StoredAs, records: RecordColumns, series_id: int) -> Rows:
    """Return records of one series as rows; they passed :func:`columns_fault`."""
    time_us, seq, received_us, values = records
    places = np.zeros(len(time_us), np.int64)
    encoded = [_encode(column, iter(values[column.name].tolist())) for column in stored.columns]
    received = received_us != NOT_RECEIVED
    times = _Values(to_postgres_us(np.where(received, received_us, 0)), received.astype(np.int64))
    owner = _Values(np.full(len(time_us), series_id, np.int32))
    data = _copy_data([_Values(to_postgres_us(time_us)), _Values(seq), owner, times, *encoded], len(time_us))
    prices = None
    if stored.prices is not None:
        prices = stored.prices(places, time_us, seq, *(values[name] for name in stored.candle_columns))
    return Rows(stored, places, time_us, seq, prices, data)


@attrs.frozen(eq=False)
class _Values:
    """A column ready for COPY. ``lengths``: of texts, else 1, or 0 where NULL; None if no value is NULL."""

    values: NDArray[Any]
    lengths: Ints | None = None

    def at(self, rows: _Chosen, length: int) -> Column:
        if self.lengths is None:
            return self.values[rows]
        if not length:
            return None
        chosen = self.values[rows]
        return chosen.astype(f"S{length}") if self.values.dtype.kind == "O" else chosen


def _encode(column: StoredColumn, values: Iterator[Any]) -> _Values:
    if column.form == "price":
        return _Values(np.array(list(values), np.float64))
    if column.form == "size":
        sizes = np.array(list(values), np.float64)  # None becomes NaN
        return _Values(sizes, (~np.isnan(sizes)).astype(np.int64))
    if column.form == "code":
        return _texts([b"" if value is None else column.codes[value] for value in values])
    return _texts([(value or "").encode() for value in values])


def _texts(texts: list[bytes]) -> _Values:
    lengths = np.array([len(text) for text in texts], np.int64)
    # an array of objects: in a fixed-width one, each row would take as much memory as the longest text
    return _Values(np.array(texts, np.object_), lengths)


def _encode_times(times_us: Iterable[int | None]) -> _Values:
    times = np.array([-1 if time_us is None else time_us for time_us in times_us], np.int64)
    return _Values(to_postgres_us(times), (times >= 0).astype(np.int64))


def _copy_data(columns: Sequence[_Values], count: int) -> bytes:
    """Return COPY data: one block of rows per shape (which values are NULL, how long texts are)."""
    # A row's shape is one number with a digit per column, the value's length, in a base that fits the longest:
    # rows of equal numbers can be laid out as one numpy array.
    shapes = np.zeros(count, np.int64)
    pick: list[Callable[[int], int]] = []
    for column in columns:
        if column.lengths is None:
            pick.append(lambda _: 1)
            continue
        base = int(column.lengths.max(initial=0)) + 1
        step = int(shapes.max(initial=0)) + 1
        pick.append(lambda shape, step=step, base=base: shape // step % base)  # type: ignore[misc]
        shapes = shapes + column.lengths * step
    blocks = []
    for shape in np.unique(shapes).tolist():
        rows = np.flatnonzero(shapes == shape)
        at_shape = [column.at(rows, length(shape)) for column, length in zip(columns, pick, strict=True)]
        blocks.append(copy_rows(at_shape, len(rows)))
    return COPY_START + b"".join(blocks) + COPY_END
