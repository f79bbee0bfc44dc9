"""Days as Parquet, and back. Pure: bytes in, columns out.

zstd; times and numbers as differences (DELTA_BINARY_PACKED); prices and sizes that repeat in a dictionary, others with
their bytes split (BYTE_STREAM_SPLIT): 5.7 bytes a tick of a recorded day. The footer has a header of ours: what the
object holds, how many rows, and a checksum over the values, so that an object is whole and right if it can be read and
its values have that checksum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdserver.errors import BadMessage
from mdserver.model import NOT_RECEIVED, CandleRow, ImportedHour, RecordColumns

__all__ = [
    "Header",
    "decode_candles",
    "decode_footer",
    "decode_header",
    "decode_page",
    "decode_records",
    "encode_candles",
    "encode_records",
    "footer_bytes",
]

FORMAT = 1
ZSTD_LEVEL = 3
"""From 1 to 3 a tick shrinks by a tenth for a third more time, from 3 to 9 by a twentieth for four times as much."""

SAMPLE_ROWS = 20_000

DICTIONARY_ENTRIES = 65_536
"""Half of what fits into a page of 1 MiB, as numbers."""

BATCH_ROWS = 65_536
"""Rows that are decoded at a time for a page."""

_HEADER_KEY = b"mdserver"
_MAGIC = b"PAR1"
_FOOTER_END = 8
"""The length of the footer, and the magic number."""

# The pool that pyarrow takes by default keeps what each of trio's threads has freed for that thread alone, which costs
# an import into the lake a quarter more memory.
pa.set_memory_pool(pa.system_memory_pool())

_EPOCH, _US = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_TIME = pa.timestamp("us", tz="UTC")
_VOLUME = pa.decimal128(38, 8)

_CANDLE_SCHEMA = pa.schema(
    [
        ("timeframe", pa.int32()),
        ("time", _TIME),
        *((name, pa.float64()) for name in ("open", "high", "low", "close")),
        ("volume", _VOLUME),
        ("count", pa.int64()),
    ]
)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What an object holds.

    ``kind`` is ``tick``, ``trade`` or ``candle``, ``type`` that of the records (or that the candles are made of).
    ``numbering`` names the numbering of ``seq``; "" where the records were imported: then ``seq`` counts from 1 in each
    hour, and ``hours`` is what the import ledger has of the day.
    """

    format: int = FORMAT
    broker: str
    symbol: str
    kind: str
    type: str
    day: date
    rows: int
    content_sha256: str
    numbering: str = ""
    hours: tuple[ImportedHour, ...] = ()


def encode_records(
    records: RecordColumns,
    *,
    broker: str,
    symbol: str,
    type_: str,
    day: date,
    numbering: str,
    hours: Sequence[ImportedHour],
) -> tuple[bytes, Header]:
    """Return a day of records as a Parquet file, and its header."""
    header = Header(
        broker=broker,
        symbol=symbol,
        kind=type_,
        type=type_,
        day=day,
        rows=len(records.time_us),
        content_sha256=_content(records),
        numbering=numbering,
        hours=tuple(hours),
    )
    received = records.received_us
    columns: dict[str, pa.Array] = {
        "time": pa.array(records.time_us, pa.int64()).cast(_TIME),
        "seq": pa.array(records.seq),
        **{name: _column(values) for name, values in records.values.items()},
        "received": pa.array(received, pa.int64(), mask=received == NOT_RECEIVED).cast(_TIME),
    }
    return _write(pa.table(columns), header), header


def encode_candles(
    candles: Sequence[CandleRow], *, broker: str, symbol: str, type_: str, day: date
) -> tuple[bytes, Header]:
    """Return the candles of a day as a Parquet file, and its header."""
    table = _candle_table(candles)
    header = Header(
        broker=broker,
        symbol=symbol,
        kind="candle",
        type=type_,
        day=day,
        rows=len(candles),
        content_sha256=_candle_content(candles),
    )
    return _write(table, header), header


def decode_header(data: bytes) -> Header:
    """Return the header of an object. Raises BadMessage for what is not whole, or not ours."""
    return _header(_open(data))


def footer_bytes(tail: bytes) -> int:
    """Return how many bytes at the end of an object are its footer. Raises BadMessage if it does not end as one."""
    if len(tail) < _FOOTER_END or tail[-len(_MAGIC) :] != _MAGIC:
        raise BadMessage("it does not end as a Parquet file does")
    return int.from_bytes(tail[-_FOOTER_END : -len(_MAGIC)], "little") + _FOOTER_END


def decode_footer(tail: bytes) -> Header:
    """Return the header of an object from its last :func:`footer_bytes`, or more of it. Raises BadMessage."""
    return _header(_open(_MAGIC + tail[-footer_bytes(tail) :]))


def decode_page(
    data: bytes, span: tuple[int, int], after: tuple[int, int] | None, limit: int
) -> tuple[RecordColumns, Header]:
    """Return at most ``limit`` records at times in ``span`` (inclusive) and behind the (time, seq) ``after``.

    Reads batch by batch, so that only the page is in memory besides the object. The values are not compared with their
    checksum: the caller has to know that the bytes are right. Raises BadMessage.
    """
    file = _open(data)
    header = _header(file)
    parts: list[RecordColumns] = []
    have = 0
    first_us, last_us = span if after is None else (max(span[0], after[0]), span[1])
    try:
        for batch in file.iter_batches(
            BATCH_ROWS, row_groups=_groups(file, first_us, last_us), use_threads=False
        ):
            time_us = _ints(pa.chunked_array([batch.column("time")]).cast(pa.int64()))
            inside = (time_us >= first_us) & (time_us <= last_us)
            if after is not None:
                seq = _ints(pa.chunked_array([batch.column("seq")]))
                inside &= (time_us > after[0]) | (seq > after[1])
            rows = np.flatnonzero(inside)[: limit - have]
            if len(rows):  # they are in order, so these are neighbours
                kept = batch.slice(int(rows[0]), len(rows))
                parts.append(_columns(pa.Table.from_batches([kept])))
                have += len(rows)
            if have >= limit or (len(time_us) and time_us[-1] > last_us):
                break
    except (pa.ArrowException, OSError) as error:
        raise BadMessage(f"a damaged Parquet file: {error}") from error
    return _joined(parts or [_columns(file.schema_arrow.empty_table())]), header


def _groups(file: pq.ParquetFile, first_us: int, last_us: int) -> list[int]:
    """Return the row groups that may have records at these times."""
    found = []
    for number in range(file.num_row_groups):
        times = file.metadata.row_group(number).column(0).statistics
        if times is not None and times.has_min_max:
            low, high = ((one - _EPOCH) // _US for one in (times.min, times.max))
            if high < first_us or low > last_us:
                continue
        found.append(number)
    return found


def _joined(parts: Sequence[RecordColumns]) -> RecordColumns:
    if len(parts) == 1:
        return parts[0]
    time_us, seq, received_us = (np.concatenate(column) for column in list(zip(*parts, strict=True))[:3])
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values}
    return RecordColumns(time_us, seq, received_us, values)


def decode_records(data: bytes) -> tuple[RecordColumns, Header]:
    """Return the records of an object. Raises BadMessage for anything but what :func:`encode_records` made."""
    file = _open(data)
    header = _header(file)
    table = _read(file)
    records = _columns(table)
    _check(header, len(records.time_us), _content(records))
    return records, header


def decode_candles(data: bytes) -> tuple[list[CandleRow], Header]:
    """Return the candles of an object. Raises BadMessage for anything but what :func:`encode_candles` made."""
    file = _open(data)
    header = _header(file)
    table = _read(file)
    if table.schema.remove_metadata() != _CANDLE_SCHEMA:
        raise BadMessage(f"found the columns {', '.join(table.column_names)}, expected those of candles")
    columns = [
        column.cast(pa.int64()).to_pylist() if name == "time" else column.to_pylist()
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    candles = [CandleRow(*row) for row in zip(*columns, strict=True)]
    _check(header, len(candles), _candle_content(candles))
    return candles, header


def _columns(table: pa.Table) -> RecordColumns:
    names = table.column_names
    if names[:2] != ["time", "seq"] or names[-1] != "received":
        raise BadMessage(f"found the columns {', '.join(names)}, expected time, seq, …, received")
    return RecordColumns(
        _ints(table["time"].cast(pa.int64())),
        _ints(table["seq"]),
        _ints(table["received"].cast(pa.int64()).fill_null(NOT_RECEIVED)),
        {name: _values(table[name]) for name in names[2:-1]},
    )


def _column(values: NDArray[Any]) -> pa.Array:
    if values.dtype.kind == "O":
        return pa.array(values, pa.string())
    return pa.array(values, pa.float64(), from_pandas=True)  # NaN is null: a size that nobody gave


def _candle_table(candles: Sequence[CandleRow]) -> pa.Table:
    columns = list(zip(*candles, strict=True)) or [()] * len(_CANDLE_SCHEMA)
    arrays = [
        pa.array(column, pa.int64()).cast(_TIME) if field.name == "time" else pa.array(column, field.type)
        for field, column in zip(_CANDLE_SCHEMA, columns, strict=True)
    ]
    return pa.table(arrays, schema=_CANDLE_SCHEMA)


def _write(table: pa.Table, header: Header) -> bytes:
    repeated = [
        field.name
        for field in table.schema
        if (field.type == pa.string() or pa.types.is_floating(field.type)) and _repeats(table[field.name])
    ]
    encodings: dict[str, str] = {}
    for field in table.schema:
        if field.name in repeated:
            continue
        if field.type == pa.string():
            encodings[field.name] = "DELTA_BYTE_ARRAY"
        elif pa.types.is_floating(field.type):
            encodings[field.name] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_integer(field.type) or pa.types.is_timestamp(field.type):
            encodings[field.name] = "DELTA_BINARY_PACKED"
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=repeated,
        column_encoding=encodings,
        write_statistics=["time"],
        store_schema=False,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_HEADER_KEY: msgspec.json.encode(header)})
    return cast("bytes", sink.getvalue().to_pybytes())


def _repeats(column: pa.ChunkedArray) -> bool:
    """Return whether few values occur again and again, as sizes do, and most prices: then a dictionary is smallest.

    One that outgrows its page is given up by the writer in the middle of a column, for the largest encoding there is.
    """
    sample = column.slice(0, SAMPLE_ROWS)
    if len(sample.unique()) * 4 > len(sample):
        return False
    return len(column) <= SAMPLE_ROWS or pc.count_distinct(column, mode="all").as_py() <= DICTIONARY_ENTRIES


def _open(data: bytes) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise BadMessage(f"not a whole Parquet file of {len(data)} bytes: {error}") from error


def _read(file: pq.ParquetFile) -> pa.Table:
    try:
        return file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise BadMessage(f"a damaged Parquet file: {error}") from error


def _header(file: pq.ParquetFile) -> Header:
    found: Mapping[bytes, bytes] = file.metadata.metadata or {}
    if _HEADER_KEY not in found:
        raise BadMessage("a Parquet file without our header")
    try:
        header = msgspec.json.decode(found[_HEADER_KEY], type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"a header that cannot be read: {error}") from error
    if header.format != FORMAT:
        raise BadMessage(f"found format {header.format}, expected {FORMAT}: install a version that reads it")
    return header


def _check(header: Header, rows: int, content: str) -> None:
    if rows != header.rows:
        raise BadMessage(f"found {rows} rows, expected {header.rows}")
    if content != header.content_sha256:
        raise BadMessage("its values do not have the checksum of its header")


def _ints(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.ascontiguousarray(column.to_numpy(), np.int64)


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    if column.type == pa.string():
        texts = np.empty(len(column), np.object_)
        texts[:] = column.to_pylist()
        return texts
    return np.ascontiguousarray(column.fill_null(np.nan).to_numpy(), np.float64)


def _content(records: RecordColumns) -> str:
    """Return the SHA-256 over the values, column by column; a text has its length before it, None is -1."""
    digest = hashlib.sha256()
    for column in (records.time_us, records.seq, records.received_us):
        digest.update(np.ascontiguousarray(column, "<i8").data)
    for name, values in sorted(records.values.items()):
        digest.update(name.encode())
        if values.dtype.kind == "O":
            texts = [None if value is None else value.encode() for value in values.tolist()]
            digest.update(np.array([-1 if text is None else len(text) for text in texts], "<i4").data)
            digest.update(b"".join(text for text in texts if text is not None))
        else:
            given = np.where(np.isnan(values), np.nan, values)  # one NaN, whatever its bits
            digest.update(np.ascontiguousarray(given, "<f8").data)
    return digest.hexdigest()


def _candle_content(candles: Sequence[CandleRow]) -> str:
    lines = (
        f"{c.timeframe_s} {c.time_us} {c.open!r} {c.high!r} {c.low!r} {c.close!r} {c.volume:.8f} {c.row_count}\n"
        for c in candles
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
