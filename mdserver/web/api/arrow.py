"""Write a table as Arrow: an IPC stream of record batches, what pyarrow, polars, pandas and DuckDB read at once.

numpy columns are taken over without a copy; the one copy there is makes the bytes of the answer. Needs pyarrow, the
extra ``mdserver[arrow]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from ...store.query.read_records import NO_TIME_US

__all__ = ["CONTENT_TYPE", "NOT_INSTALLED", "is_installed", "stream_of"]

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
NOT_INSTALLED = "this server writes no Arrow: pyarrow is not installed beside it; install mdserver[arrow]"

BATCH_ROWS = 65_536


def is_installed() -> bool:
    """Return whether Arrow can be written."""
    return find_spec("pyarrow") is not None


def stream_of(
    names: Sequence[str], columns: Sequence[tuple[str, Sequence[Any]]], piece_bytes: int
) -> Iterator[bytes]:
    """Yield the stream in pieces of ``piece_bytes``; a column is its form and its values. Blocking."""
    pa: Any = import_module("pyarrow")
    table = pa.record_batch([_array(pa, *column) for column in columns], names=list(names))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for start in range(0, table.num_rows, BATCH_ROWS):
            writer.write_batch(table.slice(start, BATCH_ROWS))
    data = memoryview(sink.getvalue())
    for start in range(0, len(data), piece_bytes):
        yield bytes(data[start : start + piece_bytes])


def _array(pa: Any, form: str, values: Sequence[Any]) -> Any:
    if form == "time_s":
        times = np.asarray(values, np.int64) * 1_000_000
        return pa.array(times).cast(pa.timestamp("us", "UTC"))
    if form == "time_us":
        stamp = pa.timestamp("us", "UTC")
        if isinstance(values, np.ndarray):
            unknown = values == NO_TIME_US
            return pa.array(values, mask=unknown if unknown.any() else None).cast(stamp)
        return pa.array(values, pa.int64()).cast(stamp)
    kinds = {"float": pa.float64(), "int": pa.int64(), "text": pa.string(), "bool": pa.bool_()}
    if form == "float" and isinstance(values, np.ndarray):
        unknown = np.isnan(values)
        return pa.array(values, mask=unknown if unknown.any() else None)
    return pa.array(values, kinds[form])
