"""Lines and bodies of the venue, and everything else that bytes can be."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.errors import BadMessage
from mdserver.model import Instrument
from mdserver_oanda.codec import (
    Candle,
    Heartbeat,
    Ignored,
    Ohlc,
    Price,
    decode_candles,
    decode_instruments,
    decode_line,
    encode_time,
    error_text,
    parse_time,
)

LINE = (
    b'{"type":"PRICE","time":"2024-03-05T14:07:09.123456789Z","bids":[{"price":"1.08501","liquidity":1000000},'
    b'{"price":"1.08503","liquidity":500000}],"asks":[{"price":"1.08521","liquidity":1000000},{"price":"1.08519",'
    b'"liquidity":500000}],"closeoutBid":"1.08480","closeoutAsk":"1.08540","status":"tradeable","tradeable":true,'
    b'"instrument":"EUR_USD"}'
)
HEARTBEAT = b'{"type":"HEARTBEAT","time":"2024-03-05T14:07:10.000000001Z"}'
TIME_NS = int(datetime(2024, 3, 5, 14, 7, 9, tzinfo=UTC).timestamp()) * 10**9 + 123_456_789
CANDLES = json.dumps(
    {
        "instrument": "EUR_USD",
        "granularity": "M1",
        "candles": [
            {
                "time": "2024-03-05T14:07:00.000000001Z",
                "complete": True,
                "volume": 7,
                "mid": {"o": "1.1", "h": "1.3", "l": "1.0", "c": "1.2"},
            },
            {
                "time": "1709647680.000000000",
                "complete": False,
                "volume": 1,
                "bid": dict.fromkeys("ohlc", "1"),
            },
        ],
    }
).encode()


def line(**changes: object) -> bytes:
    """Return LINE with other fields; None takes one out."""
    fields = {**json.loads(LINE), **changes}
    return json.dumps({key: value for key, value in fields.items() if value is not None}).encode()


def test_the_best_price_is_not_the_first() -> None:
    assert decode_line(LINE) == Price("EUR_USD", TIME_NS, 1.08503, 1.08519, 500_000, 500_000, True)


@pytest.mark.parametrize("order", [1, -1])
def test_levels_come_in_any_order(order: int) -> None:
    levels = [{"price": price} for price in ("1.1", "1.2", "1.3")][::order]
    price = decode_line(line(bids=levels, asks=levels))
    assert isinstance(price, Price)
    assert (price.bid, price.ask) == (1.3, 1.1)


def test_a_heartbeat() -> None:
    assert decode_line(HEARTBEAT) == Heartbeat(TIME_NS // 10**9 * 10**9 + 10**9 + 1)


def test_a_line_of_2016_has_neither_type_nor_tradeable() -> None:
    assert decode_line(line(type=None, tradeable=None)) == decode_line(LINE)
    assert decode_line(line(type=None, tradeable=None, status=None)) == decode_line(LINE)


@pytest.mark.parametrize(
    ("status", "tradeable", "expected"),
    [
        ("tradeable", True, True),
        ("tradeable", None, True),
        (None, True, True),
        ("non-tradeable", False, False),
        ("non-tradeable", None, False),
        (None, False, False),
        ("tradeable", False, False),
        ("invalid", True, False),
    ],
)
def test_either_field_can_say_that_it_is_no_quote(
    status: str | None, tradeable: bool | None, expected: bool
) -> None:
    price = decode_line(line(status=status, tradeable=tradeable))
    assert isinstance(price, Price)
    assert price.tradeable is expected


def test_empty_and_missing_sides_and_sizes() -> None:
    levels = [{"price": "1.5"}]
    price = decode_line(line(bids=[], asks=levels))
    assert price == Price("EUR_USD", TIME_NS, None, 1.5, None, None, True)
    assert decode_line(line(bids=None, asks=levels)) == price
    price = decode_line(line(bids=[{"price": 1.25, "liquidity": "7"}], asks=[]))
    assert price == Price("EUR_USD", TIME_NS, 1.25, None, 7.0, None, True)


def test_other_types_are_ignored() -> None:
    assert decode_line(b'{"type":"' + b"x" * 100 + b'"}') == Ignored("x" * 40)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"time":"2024-03-05T14:07:09Z"}',
        b'{"errorMessage":"no"}',
        b'{"type":"HEARTBEAT"}',
        b'{"type":"HEARTBEAT","time":"now"}',
        b'{"type":7}',
        line(instrument=None),
        line(instrument=""),
        line(bids=None, asks=None),
        line(time=None),
        line(time="2024-03-05"),
        line(bids=[{"price": "NaN"}]),
        line(bids=[{"price": "-1"}]),
        line(bids=[{"price": "Infinity"}]),
        line(bids=[{"price": "1", "liquidity": "x"}]),
        line(bids=[{"liquidity": 1}]),
        line(bids={}),
        LINE + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"type":"\\ud800"}',
    ],
    ids=lambda bad: bad[:30],
)
def test_what_the_protocol_does_not_allow(bad: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        decode_line(bad)
    assert len(str(caught.value)) < 1000


@given(st.integers(0, 253_402_300_799_999_999_999))
def test_times_keep_their_nanoseconds_in_both_forms(time_ns: int) -> None:
    assert parse_time(encode_time(time_ns)) == time_ns
    assert parse_time(f"{time_ns // 10**9}.{time_ns % 10**9:09}") == time_ns


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2016-02-29T23:59:59.999999999Z", 1_456_790_399_999_999_999),
        ("2016-02-29T23:59:59.9999999999Z", 1_456_790_399_999_999_999),
        ("12", 12_000_000_000),
        ("12.000000001", 12_000_000_001),
        ("1514852541.189833163", 1_514_852_541_189_833_163),
    ],
)
def test_times(text: str, time_ns: int) -> None:
    assert parse_time(text) == time_ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Z",
        ".",
        "1.",
        "-1",
        "+1",
        "1e9",
        "1.5e3",
        "1234567890123",
        "１２",
        "2016-02-30T00:00:00Z",
        "2016-02-29T24:00:01Z",
        "2016-02-29T23:59:59",
        "2016-02-29T23:59:59+01:00",
        "2016-02-29T23:59:59.Z",
        "2016-02-29T23:59:59,5Z",
        "2016-02-29T23:59:59.x5Z",
        "2016-W09-1T23:59:59Z",
        "2016-02-29T23:59+01Z",
        "2016-02-29T235959.123Z",
        "1969-12-31T23:59:59Z",
    ],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="expected 2016-10-05T05"):
        parse_time(text)


def test_instruments_are_split_at_the_underscore() -> None:
    rows = [{"name": name} for name in ("EUR_USD", "DE30_EUR", "A_B_C", "GOLD", "€_USD")]
    assert decode_instruments(json.dumps({"instruments": rows}).encode()) == [
        Instrument("EURUSD", "EUR_USD", "EUR", "USD"),
        Instrument("DE30EUR", "DE30_EUR", "DE30", "EUR"),
        Instrument("ABC", "A_B_C", "A_B", "C"),
        Instrument("GOLD", "GOLD"),
    ]


def test_candles() -> None:
    page = decode_candles(CANDLES)
    assert (page.instrument, page.granularity) == ("EUR_USD", "M1")
    minute_ns = TIME_NS // (60 * 10**9) * 60 * 10**9
    assert page.candles == [
        Candle(minute_ns + 1, True, 7, Ohlc(1.1, 1.3, 1.0, 1.2)),
        Candle(minute_ns + 60 * 10**9, False, 1, None, Ohlc(1.0, 1.0, 1.0, 1.0)),
    ]


def test_candles_that_do_not_rise() -> None:
    rows = [{"time": f"{n}", "complete": True, "volume": 1} for n in (2, 2)]
    body = json.dumps({"instrument": "X", "granularity": "S5", "candles": rows}).encode()
    with pytest.raises(BadMessage, match="candle 2 does not follow the one before"):
        decode_candles(body)


@pytest.mark.parametrize("decode", [decode_candles, decode_instruments])
@pytest.mark.parametrize(
    "bad", [b"", b"{}", b"<html>", b"\xff", b'{"candles":[{}],"instruments":[{}]}', b"[" * 100_000]
)
def test_bodies_that_are_none(decode: object, bad: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(bad)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"errorMessage":"Insufficient authorization."}', "Insufficient authorization."),
        ('{"errorMessage":"' + "x" * 1000 + '"}', "x" * 200),
        ("{}", ""),
        ("<html>", ""),
        ('{"errorMessage":7}', ""),
        ("[" * 100_000, ""),
    ],
    ids=["said", "long", "nothing", "page", "number", "deep"],
)
def test_what_an_error_says(body: str, text: str) -> None:
    assert error_text(body) == text


# -- whatever comes: an event or BadMessage, nothing else --

MATERIAL = [LINE, HEARTBEAT, line(type=None, tradeable=None, time="1709647629.123456789"), line(bids=[])]
PIECES = [
    *(bytes([byte]) for byte in b'"{}[],:-0\xff'),
    *(b"null", b"NaN", b"1e999", b"\xe2\x82", b"\\u", b"\\ud800"),
]


@st.composite
def mutated(draw: st.DrawFn, material: list[bytes]) -> bytes:
    """A message with bytes taken out, replaced and put in."""
    data = bytearray(draw(st.sampled_from(material)))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, 12)))
        data[begin:end] = draw(st.sampled_from(PIECES) | st.binary(max_size=4))
    return bytes(data)


def check(event: object) -> None:
    if isinstance(event, Price):
        assert event.instrument
        assert event.time_ns >= 0
        for number in (event.bid, event.ask, event.bid_size, event.ask_size):
            assert number is None or 0 <= number < float("inf")
    else:
        assert isinstance(event, Heartbeat | Ignored)


@given(mutated(MATERIAL) | st.binary(max_size=40))
def test_a_mutated_line_is_an_event_or_a_bad_message(data: bytes) -> None:
    try:
        check(decode_line(data))
    except BadMessage as error:
        assert str(error)  # noqa: PT017 - either outcome is right, no third one is


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(json.loads(LINE))), JSON)
def test_any_value_in_any_field_is_an_event_or_a_bad_message(field: str, value: object) -> None:
    data = json.dumps({**json.loads(LINE), field: value}).encode()
    try:
        check(decode_line(data))
    except BadMessage as error:
        assert str(error)  # noqa: PT017 - either outcome is right, no third one is


@given(mutated([CANDLES, b'{"instruments":[{"name":"EUR_USD"},{"name":"A"}]}']))
def test_a_mutated_body_is_an_answer_or_a_bad_message(data: bytes) -> None:
    for decode in (decode_candles, decode_instruments):
        try:
            decode(data)
        except BadMessage as error:
            assert str(error)  # noqa: PT017 - either outcome is right, no third one is
    error_text(data.decode(errors="replace"))
