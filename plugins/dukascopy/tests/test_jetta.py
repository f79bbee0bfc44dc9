"""The JSON API: the same ticks as the datafeed's, and every other shape refused."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mdserver.errors import BadMessage
from mdserver.testing import bi5
from mdserver.testing.bi5 import FakeTick
from mdserver_dukascopy import codec, jetta

HOUR_US = 1_549_238_400_000_000
ORIGIN = "http://feed/v1/ticks/EUR-USD/2019/2/4/0"


@st.composite
def hours(draw: st.DrawFn) -> list[FakeTick]:
    times = sorted(draw(st.lists(st.integers(0, 3_599_999), max_size=40)))
    sizes = st.integers(0, 7_999_999).map(lambda units: units / 1e6)
    rows = []
    for ms in times:
        bid = draw(st.integers(1, 2**31))
        rows.append(FakeTick(ms, draw(st.integers(bid, 2**32 - 1)), bid, draw(sizes), draw(sizes)))
    return rows


@given(hours(), st.integers(0, 6))
def test_both_services_give_the_same_ticks_bit_for_bit(rows: list[FakeTick], decimals: int) -> None:
    ours = jetta.decode_ticks(bi5.encode_ticks_json(rows, HOUR_US, decimals), ORIGIN, HOUR_US)
    theirs = codec.decode_ticks(bi5.encode_ticks(rows), ORIGIN, HOUR_US, decimals)
    for mine, other in zip(ours, theirs, strict=True):
        assert np.array_equal(mine, other)
        assert mine.dtype == other.dtype


TICKS: dict[str, Any] = {
    "timestamp": HOUR_US // 1_000,
    "multiplier": 1e-05,
    "ask": 1.14545,
    "bid": 1.14543,
    "times": [994, 0, 6],
    "asks": [0, 1, -1],
    "bids": [0, 0, 1],
    "askVolumes": [1000000.0, 1.48, 0],
    "bidVolumes": [2060000, 1.0, 1.0],
}


def encoded(**changes: object) -> bytes:
    return msgspec.json.encode(
        {name: value for name, value in {**TICKS, **changes}.items() if value is not ...}
    )


def test_deltas_are_summed_as_integers() -> None:
    ticks = jetta.decode_ticks(encoded(), ORIGIN, HOUR_US)
    assert (ticks.time_us - HOUR_US).tolist() == [994_000, 994_000, 1_000_000]
    assert ticks.ask.tolist() == [1.14545, 1.14546, 1.14545]
    assert ticks.bid.tolist() == [1.14543, 1.14543, 1.14544]
    assert ticks.ask_size.tolist() == [1_000_000, 1.48, 0]


@pytest.mark.parametrize("text", ["0.00001", "1.0E-5", "1e-05", "0.000010"])
def test_the_multiplier_may_be_written_in_any_way(text: str) -> None:
    body = encoded(multiplier=msgspec.Raw(text.encode()))
    assert jetta.decode_ticks(body, ORIGIN, HOUR_US).ask[0] == 1.14545


EMPTY: dict[str, Any] = {name: [] if isinstance(value, list) else value for name, value in TICKS.items()} | {
    "ask": None,
    "bid": None,
}


def test_nulls_and_empty_lists_are_an_empty_hour() -> None:
    assert not jetta.check(encoded(**EMPTY), ORIGIN, HOUR_US)
    assert [len(column) for column in jetta.decode_ticks(encoded(**EMPTY), ORIGIN, HOUR_US)] == [0] * 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"timestamp": HOUR_US // 1_000 + 3_600_000},
            "the answer is for 1549242000000 ms, expected 1549238400000",
        ),
        ({"times": [994, 0]}, "different lengths"),
        ({"times": [994, 0, -1]}, "time goes back by 1 at row 2"),
        ({"times": [3_599_999, 0, 1]}, "a tick at 3600000 ms"),
        ({"times": [-1, 0, 1]}, "time goes back"),
        ({"asks": [0, -3, 3]}, "the ask 1.14542 is below the bid 1.14543 at tick 1"),
        ({"ask": None}, "3 prices without a first one"),
        ({"bid": 1.145435}, "expected a multiple of 0.00001"),
        ({"bids": [-114543, 0, 0]}, "not positive"),
        ({"multiplier": 0.00002}, "a multiplier of 0.00002"),
        ({"multiplier": 0}, "a multiplier of 0"),
        ({"askVolumes": [1, 2, -3]}, "volume"),
        ({"bids": [0, 0, 2**50]}, "a difference of"),
        ({"bids": [0, 0, 2**70]}, "64 bits|out of range|Expected"),
        ({"bids": ...}, "missing required field `bids`"),
        ({"times": None}, "Expected `array`"),
        ({"asks": [0, 1.5, 0]}, "Expected `int`"),
    ],
)
def test_another_shape_is_an_error_with_the_address(changes: dict[str, object], says: str) -> None:
    with pytest.raises(BadMessage, match=says) as caught:
        jetta.decode_ticks(encoded(**changes), ORIGIN, HOUR_US)
    assert str(caught.value).startswith(ORIGIN)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b"<html>", encoded()[:-1], b"\xff" + encoded()),
        *(b'{"x":' + b"[" * 100_000, b'{"\xff":1}', b'{"timestamp":"\xff"}'),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_anything_but_its_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadMessage):
        jetta.check(body, ORIGIN, HOUR_US)


def test_months_in_paths_count_from_one_without_zeros() -> None:
    assert jetta.ticks_path("EUR-USD", HOUR_US) == "ticks/EUR-USD/2019/2/4/0"
    assert jetta.candles_path("EUR-USD", "BID", "minute", HOUR_US) == "candles/minute/EUR-USD/BID/2019/2/4"
    assert jetta.candles_path("EUR-USD", "BID", "hour", HOUR_US) == "candles/hour/EUR-USD/BID/2019/2"
    assert jetta.candles_path("EUR-USD", "BID", "day", HOUR_US) == "candles/day/EUR-USD/BID/2019"


CANDLES: dict[str, Any] = {
    "timestamp": HOUR_US // 1_000,
    "multiplier": 0.1,
    "open": 10.0,
    "high": 12.0,
    "low": 9.0,
    "close": 10.4,
    "shift": 60_000,
    "times": [0, 3],
    "opens": [0, 1],
    "highs": [0, 0],
    "lows": [0, 0],
    "closes": [0, -1],
    "volumes": [293.76, 1.5e-05],
}


def test_candles_of_closed_minutes_are_absent() -> None:
    candles = jetta.decode_candles(msgspec.json.encode(CANDLES), ORIGIN, HOUR_US, "minute")
    assert [column[1] for column in candles] == [HOUR_US + 180_000_000, 10.1, 12.0, 9.0, 10.3, 15]
    assert candles.volume[0] == 293_760_000


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"timestamp": 0}, "the answer is for 0 ms"),
        ({"shift": 3_600_000}, "a shift of 3600000 ms, expected 60000"),
        ({"volumes": [1]}, "different lengths"),
        ({"highs": [0, -20]}, "outside of its low and high"),
        ({"times": [0, -1]}, "time goes back"),
    ],
)
def test_impossible_candles_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(BadMessage, match=says):
        jetta.decode_candles(msgspec.json.encode(CANDLES | changes), ORIGIN, HOUR_US, "minute")


ODD = (
    b"null",
    b"1e308",
    b"1e999999",
    b"-1",
    b'"NaN"',
    b'"sNaN"',
    b'"Infinity"',
    b"9" * 30,
    b"[]",
    b"{}",
    b"-",
    b"\xff",
)
ENCODED = (encoded(), encoded(**EMPTY), msgspec.json.encode(CANDLES))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An answer in which values are replaced and bytes cut, put in and changed."""
    body = draw(st.sampled_from(ENCODED))
    for _ in range(draw(st.integers(1, 3))):
        values = [match.span() for match in re.finditer(rb"(?<=[:,\[])[^:,\[\]{}]+", body)]
        if values and draw(st.booleans()):
            first, last = draw(st.sampled_from(values))
        else:
            first = draw(st.integers(0, len(body)))
            last = first + draw(st.integers(0, 20))
        body = body[:first] + draw(st.sampled_from(ODD) | st.binary(max_size=4)) + body[last:]
    return body


@given(mutated())
@example(encoded(ask="sNaN"))
@example(encoded(bid="NaN"))
@example(encoded(multiplier="Infinity"))
@example(encoded(ask=msgspec.Raw(b"1e999999")))
@example(msgspec.json.encode(CANDLES | {"volumes": [1e308, 1.0]}))
def test_a_mutated_answer_is_columns_of_finite_numbers_or_a_bad_message(body: bytes) -> None:
    for decode in (
        lambda: jetta.decode_ticks(body, ORIGIN, HOUR_US),
        lambda: jetta.decode_candles(body, ORIGIN, HOUR_US, "minute"),
    ):
        try:
            columns = decode()
        except BadMessage:
            continue
        assert len({len(column) for column in columns}) == 1
        assert all(np.isfinite(column).all() for column in columns)
