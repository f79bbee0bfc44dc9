"""Files of the datafeed: everything that the format allows comes back, everything else is refused by name."""

from __future__ import annotations

import datetime
import lzma
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.errors import BadMessage
from mdserver.testing import bi5
from mdserver.testing.bi5 import FakeCandle, FakeTick
from mdserver_dukascopy import codec

HOUR_US = 1_549_238_400_000_000  # 2019-02-04 00:00 UTC
ORIGIN = "http://feed/EURUSD/2019/01/04/00h_ticks.bi5"
DAY_US = HOUR_US

volumes = st.floats(0, 2**40, width=32)


@st.composite
def hours(draw: st.DrawFn) -> list[FakeTick]:
    times = sorted(draw(st.lists(st.integers(0, 3_599_999), max_size=40)))
    rows = []
    for ms in times:
        bid = draw(st.integers(1, 2**32 - 1))
        rows.append(FakeTick(ms, draw(st.integers(bid, 2**32 - 1)), bid, draw(volumes), draw(volumes)))
    return rows


@given(hours(), st.integers(0, 6))
def test_each_tick_comes_back_in_order_and_exact(rows: list[FakeTick], decimals: int) -> None:
    ticks = codec.decode_ticks(bi5.encode_ticks(rows), ORIGIN, HOUR_US, decimals)
    assert ticks.time_us.tolist() == [HOUR_US + row.ms * 1_000 for row in rows]
    assert ticks.ask.tolist() == [float(f"{row.ask}e-{decimals}") for row in rows]
    assert ticks.bid.tolist() == [float(f"{row.bid}e-{decimals}") for row in rows]
    for sizes, given_ in ((ticks.ask_size, 3), (ticks.bid_size, 4)):
        millions = np.array([row[given_] for row in rows], np.float32)
        tiny = millions < 1e-6  # less than a unit: kept to a hundred-millionth
        assert ((sizes / 1e6).astype(np.float32) == millions)[~tiny].all()
        assert np.allclose(sizes[tiny], millions[tiny].astype(float) * 1e6, rtol=0, atol=1e-8)
    assert all(column.dtype == np.float64 for column in ticks[1:])


@given(st.lists(st.integers(0, 7_999_999), min_size=1, max_size=30), st.integers(0, 6))
def test_a_volume_is_the_decimal_that_its_float32_stands_for(counts: list[int], decimals: int) -> None:
    millions = np.array([count / 10**decimals for count in counts], np.float32)
    assert codec.units(millions, ORIGIN).tolist() == [float(count * 10 ** (6 - decimals)) for count in counts]


def test_a_volume_next_to_a_huge_one_keeps_its_own_decimals() -> None:
    sizes = codec.units(np.array([7.54, 123.45, 90_000.0, 1.3e-05], np.float32), ORIGIN)
    assert sizes.tolist() == [7_540_000, 123_450_000, 90_000_000_000, 13]


def test_two_ticks_in_one_millisecond_are_both_kept_in_order() -> None:
    rows = [FakeTick(5, 12, 10), FakeTick(5, 11, 9), FakeTick(5, 12, 10)]
    ticks = codec.decode_ticks(bi5.encode_ticks(rows), ORIGIN, HOUR_US, 0)
    assert ticks.bid.tolist() == [10, 9, 10]


def test_zero_bytes_are_an_empty_hour() -> None:
    assert not codec.check(b"", ORIGIN)
    ticks = codec.decode_ticks(b"", ORIGIN, HOUR_US, 5)
    assert [len(column) for column in ticks] == [0] * 5


GOOD = bi5.encode_ticks([FakeTick(ms, 12, 10) for ms in range(0, 90_000, 7)])


def packed(*records: tuple[float, ...]) -> bytes:
    return bi5.compress(b"".join(struct.pack(">IIIff", *record) for record in records))


def longer(body: bytes, by: int) -> bytes:
    """The same stream under a header that says that it has ``by`` more bytes."""
    return body[:5] + struct.pack("<Q", struct.unpack_from("<Q", body, 5)[0] + by) + body[13:]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(GOOD[: len(GOOD) // 2], "truncated", id="half of the file"),
        pytest.param(GOOD[:13], "truncated", id="only a header"),
        pytest.param(GOOD[:12], "too short for a header", id="half of a header"),
        pytest.param(GOOD + b"x", "1 bytes after the end", id="a byte too many"),
        pytest.param(GOOD + GOOD, "after the end", id="twice the file"),
        pytest.param(longer(GOOD, 20), "LZMA|truncated", id="one record less than the header says"),
        pytest.param(longer(GOOD, -20), "LZMA|truncated", id="one record more than the header says"),
        pytest.param(longer(GOOD, 2**40), "expected at most", id="a bomb"),
        pytest.param(
            GOOD[:40] + bytes(40) + GOOD[80:], "damaged|truncated|back|ask|bid|volume|ms|after", id="damage"
        ),
        pytest.param(b"<html><body>blocked</body></html>", "begins with b'<html>", id="a page"),
        pytest.param(b"\x5d\x00\x00" + bytes(30), "LZMA|truncated", id="zeros"),
        pytest.param(bi5.compress(bytes(19)), "19 bytes, expected records of 20", id="19 bytes"),
        pytest.param(bi5.compress(bytes(24)), "24 bytes, expected records of 20", id="a candle"),
        pytest.param(packed((3_600_000, 12, 10, 1, 1)), "a tick at 3600000 ms", id="the next hour"),
        pytest.param(
            packed((7, 12, 10, 1, 1), (6, 12, 10, 1, 1)), "from 7 to 6 ms at tick 1", id="time goes back"
        ),
        pytest.param(
            packed((7, 12, 10, 1, 1), (8, 9, 10, 1, 1)),
            "the ask 9 is below the bid 10 at tick 1",
            id="ask<bid",
        ),
        pytest.param(packed((7, 12, 0, 1, 1)), "a bid of 0", id="bid 0"),
        pytest.param(packed((7, 0, 0, 1, 1)), "a bid of 0", id="both 0"),
        pytest.param(packed((7, 12, 10, -1, 1)), "volume", id="negative volume"),
        pytest.param(packed((7, 12, 10, 1, float("nan"))), "volume", id="no number"),
        pytest.param(packed((7, 12, 10, float("inf"), 1)), "volume", id="infinite"),
    ],
)
def test_anything_else_is_an_error_with_the_address_never_empty(body: bytes, says: str) -> None:
    with pytest.raises(BadMessage, match=says) as caught:
        codec.decode_ticks(body, ORIGIN, HOUR_US, 5)
    assert str(caught.value).startswith(ORIGIN)
    with pytest.raises(BadMessage, match=says):
        codec.check(body, ORIGIN)


@given(st.binary(min_size=1, max_size=200))
def test_noise_is_refused(body: bytes) -> None:
    for noise in (body, b"\x5d\x00\x00\x40\x00" + body):
        with pytest.raises(BadMessage):
            codec.check(noise, ORIGIN)


@given(st.integers(1, len(GOOD) - 7))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(BadMessage):
        codec.check(GOOD[:length], ORIGIN)


@given(st.lists(st.tuples(st.integers(0, 7), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4))
def test_rows_of_any_bytes_are_ticks_or_refused(changes: list[tuple[int, bytes]]) -> None:
    rows = bytearray(lzma.decompress(GOOD))
    for at, data in changes:
        rows[at * 5 : at * 5 + len(data)] = data
    try:
        ticks = codec.decode_ticks(
            lzma.compress(bytes(rows), lzma.FORMAT_ALONE, preset=0), ORIGIN, HOUR_US, 5
        )
    except BadMessage:
        return
    assert all(np.isfinite(column).all() for column in ticks)
    assert (ticks.ask >= ticks.bid).all()


def test_candles_come_in_the_usual_order_and_with_their_fillers() -> None:
    rows = [FakeCandle(60 * i, 100 + i % 20, 104, 90, 120, 2.5 if i % 2 else 0) for i in range(1_440)]
    candles = codec.decode_candles(bi5.encode_candles(rows), ORIGIN, DAY_US, "min_1", 1)
    assert [column[1] for column in candles] == [DAY_US + 60_000_000, 10.1, 12.0, 9.0, 10.4, 2_500_000]
    assert np.count_nonzero(candles.volume == 0) == 720


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([FakeCandle(60, 5, 5, 5, 5)], "no complete grid of 60 s"),
        ([FakeCandle(0, 5, 5, 5, 5), FakeCandle(120, 5, 5, 5, 5)], "no complete grid"),
        ([FakeCandle(0, 5, 5, 6, 7)], "outside of its low and high"),
        ([FakeCandle(0, 5, 8, 5, 7)], "outside of its low and high"),
        ([FakeCandle(0, 5, 5, 0, 5)], "a price is 0"),
    ],
)
def test_impossible_candles_are_refused(rows: list[FakeCandle], says: str) -> None:
    with pytest.raises(BadMessage, match=says):
        codec.decode_candles(bi5.encode_candles(rows), ORIGIN, DAY_US, "min_1", 1)


def test_months_in_paths_count_from_zero() -> None:
    assert codec.ticks_path("EURUSD", HOUR_US) == "EURUSD/2019/01/04/00h_ticks.bi5"
    assert codec.candles_path("EURUSD", "BID", "min_1", HOUR_US) == "EURUSD/2019/01/04/BID_candles_min_1.bi5"
    january = round(datetime.datetime(2023, 1, 1, tzinfo=datetime.UTC).timestamp()) * 1_000_000
    assert codec.ticks_path("BTCUSD", january + 23 * 3_600_000_000) == "BTCUSD/2023/00/01/23h_ticks.bi5"
    assert codec.candles_path("BTCUSD", "ASK", "hour_1", january) == "BTCUSD/2023/00/ASK_candles_hour_1.bi5"
    assert codec.candles_path("BTCUSD", "ASK", "day_1", january) == "BTCUSD/2023/ASK_candles_day_1.bi5"


@given(st.integers(0, 400_000))
def test_the_fake_has_the_same_paths(hour: int) -> None:
    assert codec.ticks_path("EURUSD", hour * 3_600_000_000) == bi5.ticks_path("EURUSD", hour * 3_600_000_000)


def test_a_time_within_an_hour_has_no_path() -> None:
    with pytest.raises(ValueError, match="not the start of an hour"):
        codec.ticks_path("EURUSD", HOUR_US + 1)
