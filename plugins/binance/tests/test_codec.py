"""The codec against payloads as documented, and against what should not be."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.errors import BadMessage
from mdserver.model import Feed, Instrument, Tick, Trade
from mdserver_binance.codec import (
    Decoder,
    Ignored,
    Reply,
    ServerShutdown,
    decode_exchange_info,
    encode_request,
    stream_name,
)

NOW_US = 1_700_000_000_123_456
TICKER = {"u": 400900217, "s": "BNBUSDT", "b": "25.35190000", "B": "31.21", "a": "25.36520000", "A": "40.66"}
TRADE = {
    "e": "trade",
    "E": 1672515782136,
    "s": "BNBBTC",
    "t": 12345,
    "p": "0.001",
    "q": "100",
    "T": 1672515782136,
    "m": True,
    "M": True,
}
AGG_TRADE = TRADE | {"e": "aggTrade", "a": 77, "f": 100, "l": 105}


def frame(stream: str, data: object) -> bytes:
    return json.dumps({"stream": stream, "data": data}).encode()


def decode(raw: bytes, trades: str = "trade") -> object:
    return Decoder(trades).decode(raw, NOW_US)  # type: ignore[arg-type]


def test_book_ticker_is_a_tick_at_receipt_time() -> None:
    decoder = Decoder("trade")
    tick = decoder.decode(frame("bnbusdt@bookTicker", TICKER), NOW_US)
    assert tick == Tick("BNBUSDT", NOW_US, 25.3519, 25.3652, 31.21, 40.66)
    assert decoder.venue_id == 400900217


def test_the_stream_of_all_book_tickers() -> None:
    assert isinstance(decode(frame("!bookTicker", TICKER)), Tick)


def test_trade() -> None:
    trade = decode(frame("bnbbtc@trade", TRADE))
    assert trade == Trade("BNBBTC", 1672515782136000, 0.001, 100.0, "sell", "12345")


def test_old_trades_with_order_ids_decode_alike() -> None:
    assert decode(frame("bnbbtc@trade", TRADE | {"b": 88, "a": 50})) == decode(frame("bnbbtc@trade", TRADE))


def test_the_buyer_took() -> None:
    trade = decode(frame("bnbbtc@trade", TRADE | {"m": False}))
    assert isinstance(trade, Trade)
    assert trade.side == "buy"


def test_microseconds_are_told_by_magnitude() -> None:
    trade = decode(frame("bnbbtc@trade", TRADE | {"T": 1672515782136001}))
    assert isinstance(trade, Trade)
    assert trade.time_us == 1672515782136001


def test_aggregate_trades_only_where_configured() -> None:
    raw = frame("bnbbtc@aggTrade", AGG_TRADE)
    assert decode(raw, "aggTrade") == Trade("BNBBTC", 1672515782136000, 0.001, 100.0, "sell", "77")
    assert decode(raw, "trade") == Ignored("aggTrade")
    assert decode(frame("bnbbtc@trade", TRADE), "aggTrade") == Ignored("trade")


@given(st.decimals(0, 10**9, places=8, allow_nan=False), st.decimals(0, 10**9, places=8, allow_nan=False))
def test_prices_are_what_float_makes_of_the_text(bid: object, size: object) -> None:
    tick = decode(frame("x@bookTicker", TICKER | {"b": f"{bid:.8f}", "B": f"{size:.8f}"}))
    assert isinstance(tick, Tick)
    assert (tick.bid, tick.bid_size) == (float(f"{bid:.8f}"), float(f"{size:.8f}"))


@given(st.integers(10**11, 10**14 - 1))
def test_times_stay_exact(milliseconds: int) -> None:
    trade = decode(frame("x@trade", TRADE | {"T": milliseconds}))
    assert isinstance(trade, Trade)
    assert trade.time_us == milliseconds * 1000


@pytest.mark.parametrize(
    ("raw", "reply"),
    [
        ('{"result":null,"id":1}', Reply(1)),
        ('{"result":["btcusdt@aggTrade"],"id":"x"}', Reply("x")),
        ('{"code":0,"msg":"Unknown property","id":3}', Reply(3, "Unknown property (code 0)")),
        ('{"code":1,"msg":"Invalid value type"}', Reply(None, "Invalid value type (code 1)")),
        (
            '{"error":{"code":2,"msg":"Invalid request: invalid stream"},"id":1}',
            Reply(1, "Invalid request: invalid stream (code 2)"),
        ),
    ],
)
def test_replies_of_both_shapes(raw: str, reply: Reply) -> None:
    assert decode(raw.encode()) == reply


def test_server_shutdown_of_both_shapes() -> None:
    payload = {"e": "serverShutdown", "E": 1770123456789}
    assert decode(frame("!serverShutdown", payload)) == ServerShutdown()
    assert decode(json.dumps(payload).encode()) == ServerShutdown()


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (frame("x@depth@1000ms", {"e": "depthUpdate"}), "depthUpdate"),
        (frame("x@depth20", {"lastUpdateId": 1, "bids": [], "asks": []}), "depth20"),
        (frame("!miniTicker@arr", [{"e": "24hrMiniTicker"}]), "arr"),
        (frame("x@trade", {"e": "blockTrade"}), "blockTrade"),
        (b'{"e":"referencePrice"}', "referencePrice"),
        (frame("x@" + "k" * 1000, {}), "k" * 40),
    ],
)
def test_other_kinds_are_ignored_by_name(raw: bytes, kind: str) -> None:
    assert decode(raw) == Ignored(kind)


@pytest.mark.parametrize(
    "raw",
    [b"", b"x", b"[]", b"null", b"{}", b"1", b'{"stream":', b"\xff", b'{"stream":"x@trade"}', b"[" * 100_000]
    + [b'{"stream":"x@depth"}', b'{"stream":7,"data":{}}', frame("x@trade", {}), frame("x@trade", [])]
    + [frame("x@bookTicker", {k: v for k, v in TICKER.items() if k != gone}) for gone in TICKER]
    + [frame("x@trade", {k: v for k, v in TRADE.items() if k != gone}) for gone in "stpqTm"]
    + [
        frame("x@bookTicker", TICKER | {"b": bad})
        for bad in (
            "",
            "x",
            "nan",
            "NaN",
            "inf",
            "-Infinity",
            "1e999",
            "-1",
            "0x1",
            "1_0",
            " 1",
            None,
            [],
            {},
            True,
        )
    ]
    + [frame("x@trade", TRADE | {"T": bad}) for bad in (0, -1, 1672515782.5, 10**17, "x", None)]
    + [frame("x@trade", TRADE | {"s": bad}) for bad in ("", "X" * 65, 1, None)]
    + [frame("x@trade", TRADE | {"m": bad}) for bad in ("maybe", None, 2)],
)
def test_malformed(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(raw)


def test_nesting_beyond_the_interpreters_stack() -> None:
    deep = b"[" * 100_000
    for raw in (
        b'{"stream":"x@trade","data":' + deep,
        b'{"stream":"x@depth","data":{"a":' + deep,
        b'{"x":' + deep,
    ):
        with pytest.raises(BadMessage):
            decode(raw)


def test_the_error_quotes_the_start_of_the_frame() -> None:
    with pytest.raises(BadMessage, match=r"missing required field `b`.*BNBUSDT") as caught:
        decode(frame("x@bookTicker", {"s": "BNBUSDT", "u": 1, "x": "y" * 10_000}))
    assert len(str(caught.value)) < 400


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    with contextlib.suppress(BadMessage):
        decode(raw)


def test_requests() -> None:
    assert stream_name(Feed("BTCUSDT", "tick"), "trade") == "btcusdt@bookTicker"
    assert stream_name(Feed("BTCUSDT", "trade"), "aggTrade") == "btcusdt@aggTrade"
    assert json.loads(encode_request("SUBSCRIBE", ["a@trade"], 7)) == {
        "method": "SUBSCRIBE",
        "params": ["a@trade"],
        "id": 7,
    }


def test_exchange_info_tells_what_trades() -> None:
    row = {"symbol": "ETHBTC", "status": "TRADING", "baseAsset": "ETH", "quoteAsset": "BTC", "filters": []}
    body = json.dumps({"timezone": "UTC", "symbols": [row, row | {"symbol": "OLD", "status": "BREAK"}]})
    assert decode_exchange_info(body.encode()) == (
        {
            Instrument("ETHBTC", "ETHBTC", "ETH", "BTC"): True,
            Instrument("OLD", "OLD", "ETH", "BTC"): False,
        },
        None,
    )


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"symbols":[{}]}', b"\xff", b'{"x":' + b"[" * 100_000])
def test_not_an_exchange_info(body: bytes) -> None:
    with pytest.raises(BadMessage, match="exchangeInfo"):
        decode_exchange_info(body)
