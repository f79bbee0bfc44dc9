"""The codec against payloads as documented, and against what should not be."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.errors import BadMessage
from mdserver.model import Feed, Instrument, OrderBook, Tick, Trade
from mdserver_binance.codec import (
    Decoder,
    DepthSnapshot,
    DepthUpdate,
    Ignored,
    Reply,
    ServerShutdown,
    decode_depth,
    decode_exchange_info,
    decode_trades,
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


PARTIAL = {"lastUpdateId": 160, "bids": [["0.0024", "10.5"]], "asks": [["0.0026", "100"], ["0.0027", "1"]]}
DEPTH = {
    "e": "depthUpdate",
    "E": 1672515782136,
    "s": "BNBBTC",
    "U": 157,
    "u": 160,
    "b": [["0.0024", "10"]],
    "a": [["0.0026", "0.00000000"]],
}


def test_a_partial_book_gets_its_symbol_from_its_stream() -> None:
    decoder = Decoder("trade")
    raw = frame("bnbbtc@depth20@100ms", PARTIAL)
    assert decoder.decode(raw, NOW_US) == Ignored("depth20@100ms")  # nobody asked for it
    decoder.symbols["bnbbtc"] = "BNBBTC"
    book = decoder.decode(raw, NOW_US)
    assert book == OrderBook(
        "BNBBTC", NOW_US, ((0.0024, 10.5),), ((0.0026, 100.0), (0.0027, 1.0)), "snapshot", "25"
    )
    assert decoder.venue_id == 160


def test_changes_of_a_book() -> None:
    decoder = Decoder("trade")
    changes = decoder.decode(frame("bnbbtc@depth@100ms", DEPTH), NOW_US)
    assert changes == DepthUpdate("BNBBTC", 1672515782136000, 157, 160, ((0.0024, 10.0),), ((0.0026, 0.0),))
    assert decoder.venue_id == 160
    assert decode(frame("bnbbtc@depth@100ms", {"e": "new"})) == Ignored("new")


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
    + [frame("x@trade", TRADE | {"m": bad}) for bad in ("maybe", None, 2)]
    + [frame("x@depth@100ms", {k: v for k, v in DEPTH.items() if k != gone}) for gone in "EsUuba"]
    + [frame("x@depth@100ms", DEPTH | {"U": 161})]
    + [
        frame("x@depth@100ms", DEPTH | {"b": bad})
        for bad in (None, {}, [["1"]], [["1", "1", "1"]], [["-1", "1"]], [["nan", "1"]], [[[], "1"]], "x")
    ],
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


@pytest.mark.parametrize(
    "bad", [{"lastUpdateId": -1}, {"bids": None}, {"bids": [["1"]]}, {"asks": [["x", "1"]]}]
)
def test_malformed_partial_books(bad: dict[str, object]) -> None:
    decoder = Decoder("trade")
    decoder.symbols["x"] = "X"
    with pytest.raises(BadMessage):
        decoder.decode(frame("x@depth20@100ms", PARTIAL | bad), NOW_US)


GOOD = [
    frame("bnbusdt@bookTicker", TICKER),
    frame("bnbbtc@trade", TRADE),
    frame("bnbbtc@aggTrade", AGG_TRADE),
    frame("x@depth20@100ms", PARTIAL),
    frame("x@depth@100ms", DEPTH),
    frame("币安人生usdt@trade", TRADE | {"s": "币安人生USDT"}),
    frame("!serverShutdown", {"e": "serverShutdown", "E": 1}),
    b'{"result":null,"id":1}',
    b'{"error":{"code":2,"msg":"Invalid request: invalid stream"},"id":1}',
]
BODIES = [
    json.dumps(PARTIAL).encode(),
    json.dumps(
        [{"a": 1, "p": "1", "q": "2", "f": 3, "l": 4, "T": 1672515782136, "m": True, "M": True}]
    ).encode(),
    json.dumps(
        [{"id": 1, "price": "1", "qty": "2", "quoteQty": "2", "time": 1672515782136, "isBuyerMaker": False}]
    ).encode(),
    b'{"symbols":[],"rateLimits":[{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":5}]}',
]


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A good message with some bytes changed, left out, put in or repeated."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        data[at : at + length] = draw(
            st.binary(max_size=4)
            | st.sampled_from([b'"', b"{", b"[", b"null", b"-", b"1e999", b"\\ud800", b"0" * 30])
        )
    return bytes(data)


@given(mutated(GOOD), st.sampled_from(["trade", "aggTrade"]))
def test_whatever_comes_is_an_event_or_a_bad_message(raw: bytes, trades: str) -> None:
    decoder = Decoder(trades)  # type: ignore[arg-type]
    decoder.symbols["x"] = "X"
    with contextlib.suppress(BadMessage):
        assert isinstance(
            decoder.decode(raw, NOW_US),
            Tick | Trade | OrderBook | DepthUpdate | Reply | ServerShutdown | Ignored,
        )


@given(mutated(BODIES))
def test_whatever_rest_answers_is_read_or_a_bad_message(raw: bytes) -> None:
    for read in (
        decode_depth,
        decode_exchange_info,
        lambda body: decode_trades(body, "X", "trade"),
        lambda body: decode_trades(body, "X", "aggTrade"),
    ):
        with contextlib.suppress(BadMessage):
            read(raw)


def test_a_whole_book_of_rest() -> None:
    assert decode_depth(BODIES[0]) == DepthSnapshot(160, ((0.0024, 10.5),), ((0.0026, 100.0), (0.0027, 1.0)))
    with pytest.raises(BadMessage, match="depth"):
        decode_depth(b'{"code":-1121,"msg":"Invalid symbol."}')


def test_trades_of_rest() -> None:
    assert decode_trades(BODIES[1], "X", "aggTrade") == [
        (1, 3, Trade("X", 1672515782136000, 1.0, 2.0, "sell", "1"))
    ]
    assert decode_trades(BODIES[2], "X", "trade") == [
        (1, 1, Trade("X", 1672515782136000, 1.0, 2.0, "buy", "1"))
    ]
    for trades in ("trade", "aggTrade"):
        with pytest.raises(BadMessage, match=f"{trades} history"):
            decode_trades(b"{}", "X", trades)  # type: ignore[arg-type]


def test_the_weight_of_a_minute() -> None:
    assert decode_exchange_info(BODIES[3]).weight_per_minute == 5


def test_requests() -> None:
    assert stream_name(Feed("BTCUSDT", "orderbook", "25"), "trade") == "btcusdt@depth20@100ms"
    assert stream_name(Feed("币安人生USDT", "orderbook", "full"), "trade") == "币安人生usdt@depth@100ms"
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
