"""numpy columns in PostgreSQL's binary formats: array parameters and COPY rows (pure).

The layouts are those of ``array_send`` and of ``COPY … (FORMAT binary)``: big-endian, each value preceded by its
length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import pack
from typing import Any, ClassVar, Self, TypeAlias

import attrs
import numpy as np
import psycopg
from numpy.typing import ArrayLike, NDArray
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from ..candles import Ints

__all__ = [
    "COPY_END",
    "COPY_START",
    "Column",
    "Float8Array",
    "Int4Array",
    "Int8Array",
    "TimeArray",
    "copy_rows",
    "to_postgres_us",
]

Column: TypeAlias = "NDArray[Any] | None"
"""A column of fixed-size values, or None if all are NULL."""

COPY_START = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"

_POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970: the epoch of a timestamptz."""


def to_postgres_us(time_us: ArrayLike) -> Ints:
    """Return times in microseconds since 1970 as the microseconds that a timestamptz holds."""
    return np.asarray(time_us, np.int64) - _POSTGRES_EPOCH_US


@attrs.frozen
class _BinaryArray:
    """A one-dimensional array without NULLs, ready as a query parameter."""

    data: bytes

    element_oid: ClassVar[int]
    array_oid: ClassVar[int]
    element: ClassVar[str]

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """Encode the values."""
        column = np.asarray(values)
        items = np.empty(len(column), [("length", ">i4"), ("value", cls.element)])
        items["length"] = items.dtype["value"].itemsize
        items["value"] = column
        return cls(pack(">iiiii", 1, 0, cls.element_oid, len(column), 1) + items.tobytes())


class Int4Array(_BinaryArray):
    """An ``int4[]``."""

    element_oid, array_oid, element = 23, 1007, ">i4"


class Int8Array(_BinaryArray):
    """An ``int8[]``."""

    element_oid, array_oid, element = 20, 1016, ">i8"


class Float8Array(_BinaryArray):
    """A ``float8[]``."""

    element_oid, array_oid, element = 701, 1022, ">f8"


class TimeArray(_BinaryArray):
    """A ``timestamptz[]``; takes what :func:`to_postgres_us` returns."""

    element_oid, array_oid, element = 1184, 1185, ">i8"


def _register(kind: type[_BinaryArray]) -> None:
    class ArrayDumper(Dumper):
        format = Format.BINARY
        oid = kind.array_oid

        def dump(self, obj: _BinaryArray) -> Buffer:
            return obj.data

    psycopg.adapters.register_dumper(kind, ArrayDumper)


for _kind in (Int4Array, Int8Array, Float8Array, TimeArray):
    _register(_kind)


def copy_rows(columns: Sequence[Column], count: int) -> bytes:
    """Return ``count`` rows of COPY data, without :data:`COPY_START` and :data:`COPY_END`.

    All rows must have the same columns NULL and, per column, the same length in bytes. Rows of different shapes go
    into one COPY as one block after another.
    """
    rows = np.empty(count, list(_row_fields(columns)))
    rows["fields"] = len(columns)
    for number, column in enumerate(columns):
        if column is None:
            rows[f"length{number}"] = -1
        else:
            rows[f"length{number}"] = rows.dtype[f"value{number}"].itemsize
            rows[f"value{number}"] = column
    return rows.tobytes()


def _row_fields(columns: Iterable[Column]) -> Iterator[tuple[str, str]]:
    yield "fields", ">i2"
    for number, column in enumerate(columns):
        yield f"length{number}", ">i4"
        if column is not None:
            yield f"value{number}", column.dtype.newbyteorder(">").str
