"""Days as Parquet: what comes back is what went in, bit for bit; nothing damaged is taken for whole."""

from datetime import date
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.errors import BadMessage
from mdserver.model import NOT_RECEIVED, CandleRow, ImportedHour, RecordColumns
from mdserver_lake import codec

DAY = date(2024, 3, 5)
START = 1_709_596_800_000_000
NAMES = {"broker": "b", "symbol": "币安人生USDT", "day": DAY}


def ticks(count: int, seed: int = 0) -> RecordColumns:
    rng = np.random.default_rng(seed)
    sizes = [rng.choice([np.nan, 0.0, 1.5, 1e6 / 3], count) for _ in range(2)]
    bid = 1.1 + rng.integers(-500, 500, count) / 1e5
    received = np.where(rng.random(count) < 0.5, NOT_RECEIVED, START + rng.integers(0, 10**9, count))
    values = {"bid": bid, "ask": bid + 1e-5, "bid_size": sizes[0], "ask_size": sizes[1]}
    time_us = START + np.sort(rng.integers(0, 86_400_000_000, count))
    return RecordColumns(time_us, np.arange(1, count + 1), received, values)


def trades(rows: list[tuple[float, str | None, str | None]]) -> RecordColumns:
    count = len(rows)
    side, trade_id = np.empty(count, object), np.empty(count, object)
    side[:], trade_id[:] = [row[1] for row in rows], [row[2] for row in rows]
    price = np.array([row[0] for row in rows], np.float64)
    values = {"price": price, "size": price / 7, "side": side, "trade_id": trade_id}
    return RecordColumns(
        START + np.arange(count), np.arange(count) - 2**62, np.full(count, NOT_RECEIVED), values
    )


def same(one: RecordColumns, other: RecordColumns) -> bool:
    columns = zip((*one[:3], *one.values.values()), (*other[:3], *other.values.values()), strict=True)
    return list(one.values) == list(other.values) and all(
        a.dtype == b.dtype and (a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes())
        for a, b in columns
    )


def encode(records: RecordColumns, type_: str = "tick") -> bytes:
    return codec.encode_records(records, type_=type_, numbering="n", hours=(), **NAMES)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 5_000])
def test_ticks_come_back_bit_for_bit(count: int) -> None:
    records = ticks(count)
    hours = (ImportedHour(START, "ok", count, "sum", "datafeed", "file", settled=True),)
    data, header = codec.encode_records(
        records, broker="b", symbol="EURUSD", type_="tick", day=DAY, numbering="", hours=hours
    )
    back, found = codec.decode_records(data)
    assert same(back, records)
    assert found == header == codec.decode_header(data)
    assert (found.rows, found.hours) == (count, hours)


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.sampled_from([None, "buy", "sell"]),
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
        ),
        max_size=30,
    )
)
def test_trades_come_back_bit_for_bit(rows: list[tuple[float, str | None, str | None]]) -> None:
    records = trades(rows)
    assert same(codec.decode_records(encode(records, "trade"))[0], records)


def test_candles_come_back_equal() -> None:
    candles = [
        CandleRow(60, START, 1.1, 1.2, 1.0, 1.15, Decimal("0.00000000"), 1),
        CandleRow(
            86_400, START, 0.1 + 0.2, 1e9 / 3, 1e-9, 1.0, Decimal("12345678901234567890.12345678"), 2**40
        ),
    ]
    data, header = codec.encode_candles(candles, type_="tick", **NAMES)  # type: ignore[arg-type]
    assert codec.decode_candles(data) == (candles, header)


@pytest.mark.parametrize("cut", [0, 4, 100, -1, -8, -500])
def test_what_was_cut_short_is_not_taken_for_whole(cut: int) -> None:
    data = encode(ticks(1_000))
    with pytest.raises(BadMessage):
        codec.decode_records(data[:cut])


def test_no_flipped_bit_gets_through() -> None:
    data = encode(ticks(300))
    whole, _ = codec.decode_records(data)
    for place in range(4, len(data) - 4, 97):
        changed = bytearray(data)
        changed[place] ^= 0x10
        try:
            back, header = codec.decode_records(bytes(changed))
        except BadMessage:
            continue
        assert same(back, whole)  # a byte that says nothing about the values, such as a statistic
        assert header.rows == 300


def test_another_file_is_refused() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"time": [1]}), sink)
    with pytest.raises(BadMessage, match="without our header"):
        codec.decode_records(sink.getvalue().to_pybytes())
    with pytest.raises(BadMessage, match="expected those of candles"):
        codec.decode_candles(encode(ticks(3)))


def test_times_are_differences_and_prices_are_split() -> None:
    file = pq.ParquetFile(pa.BufferReader(encode(ticks(1_000))))
    group = file.metadata.row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert all("DELTA_BINARY_PACKED" in columns[name].encodings for name in ("time", "seq", "received"))
    assert all("BYTE_STREAM_SPLIT" in columns[name].encodings for name in ("bid", "ask"))
