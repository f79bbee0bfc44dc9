"""Frames to events, by hand-made frames of every kind and by mutated ones of any."""

import json
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mdserver.errors import BadMessage
from mdserver.model import Instrument, Tick, Trade
from mdserver.orderbook import Book
from mdserver_kraken.codec import (
    BookChange,
    Books,
    Decoder,
    Heartbeat,
    Ignored,
    Instruments,
    Level,
    Reply,
    RestPage,
    Status,
    TradeRow,
    Trades,
    book_checksum,
    decode_trades_page,
    encode_request,
)

NOW_US = 1_790_000_000_000_000

TICKER = (
    '{"channel":"ticker","type":"update","data":[{"symbol":"MINA/GBP","bid":0.0286,"bid_qty":74198.19125726,'
    '"ask":0.0288,"ask_qty":32416,"last":0.0287,"volume":1947.83637005,"vwap":0.0287,"low":1,"high":2,'
    '"change":-0.0004,"change_pct":-0.38,"timestamp":"2026-07-08T05:24:41.204829Z"}]}'
)
TRADE = (
    '{"channel":"trade","type":"update","data":[{"symbol":"MINA/GBP","side":"buy","price":0.0286,"qty":12.5,'
    '"ord_type":"market","trade_id":41,"timestamp":"2026-07-08T05:24:41.204829Z"},{"symbol":"MINA/GBP",'
    '"side":"sell","price":0.0285,"qty":0.00005100,"ord_type":"limit","trade_id":42,'
    '"timestamp":"2026-07-08T05:24:41.204830Z"}]}'
)
BOOK = (
    '{"channel":"book","type":"snapshot","data":[{"symbol":"MINA/GBP","bids":[{"price":0.0286,"qty":0.00005100}],'
    '"asks":[{"price":0.0288,"qty":3.00000000},{"price":10,"qty":0}],"checksum":2244953247,'
    '"timestamp":"2026-07-08T05:24:41.204829Z"}]}'
)
INSTRUMENT = (
    '{"channel":"instrument","type":"snapshot","data":{"assets":[{"id":"USD"}],"pairs":[{"symbol":"BTC/USD",'
    '"base":"BTC","quote":"USD","status":"online","qty_increment":1e-08},{"symbol":"€/USD","base":"€",'
    '"quote":"USD","status":"online"}]}}'
)
STATUS = (
    '{"channel":"status","type":"update","data":[{"version":"2.0.10","system":"online","api_version":"v2",'
    '"connection_id":16174536464690282295}]}'
)
ACK = (
    '{"method":"subscribe","result":{"channel":"ticker","event_trigger":"bbo","snapshot":true,"symbol":"BTC/USD"},'
    '"success":true,"time_in":"2026-09-10T17:44:43.105193Z","time_out":"2026-09-10T17:44:43.105248Z","req_id":7}'
)
REFUSAL = (
    '{"error":"Currency pair not supported XBT/USDT","method":"subscribe","success":false,"symbol":"XBT/USDT",'
    '"time_in":"2026-09-10T17:44:44.609516Z","time_out":"2026-09-10T17:44:44.609555Z"}'
)
REST = (
    '{"error":[],"result":{"BTC/USD":[["83930.30000","0.00005100",1790359840.9392912,"s","l","",109118758],'
    '["83928.00000","0.00044682",1790359841.1382287,"b","m","",109118759],["83928.0","1",1790359842,"b","m","",'
    '109118760]],"last":"1790359842000000001"}}'
)
FRAMES = [TICKER, TRADE, BOOK, INSTRUMENT, STATUS, ACK, REFUSAL, '{"channel":"heartbeat"}', REST]
T0_US = 1_783_488_281_204_829


def decode(frame: str) -> object:
    return Decoder().decode(frame.encode(), NOW_US)


def test_ticker() -> None:
    assert decode(TICKER) == [Tick("MINAGBP", T0_US, 0.0286, 0.0288, 74198.19125726, 32416.0)]
    without_time = TICKER.replace(',"timestamp":"2026-07-08T05:24:41.204829Z"', "")
    assert decode(without_time) == [Tick("MINAGBP", NOW_US, 0.0286, 0.0288, 74198.19125726, 32416.0)]


def test_trades_of_one_frame() -> None:
    first = Trade("MINAGBP", T0_US, 0.0286, 12.5, "buy", "41")
    second = Trade("MINAGBP", T0_US + 1, 0.0285, 0.000051, "sell", "42")
    assert decode(TRADE) == Trades([TradeRow(41, first), TradeRow(42, second)], snapshot=False)


def test_book_levels_keep_their_digits() -> None:
    bids: list[Level] = [(0.0286, 0.000051, b"2865100")]
    asks: list[Level] = [(0.0288, 3.0, b"288300000000"), (10.0, 0.0, b"10")]
    change = BookChange("MINAGBP", True, bids, asks, 2244953247, T0_US)
    assert decode(BOOK) == Books([change])
    book: Book[Level] = Book(10, checksum=book_checksum)
    book.snapshot(bids, asks)
    assert book.checksum() == zlib.crc32(b"2883000000002865100") == change.checksum
    untimed = BOOK.replace(',"timestamp":"2026-07-08T05:24:41.204829Z"', "")
    assert decode(untimed) == Books([BookChange("MINAGBP", True, bids, asks, 2244953247, None)])


@pytest.mark.parametrize(
    ("number", "digits"),
    [
        ("0.00005100", b"5100"),
        ("62797.0", b"627970"),
        ("5.1e-05", b"51"),
        ("5.10E-5", b"510"),
        ("1e-08", b"1"),
        ("12e2", b"1200"),
        ("1.2345e2", b"12345"),
        ("1.5e1", b"15"),
        ("123.4e-2", b"1234"),
    ],
)
def test_digits_of_a_number_however_it_is_written(number: str, digits: bytes) -> None:
    """As they count for the checksum: those of the number written out, without the point and leading zeros."""
    books = decode(BOOK.replace("0.00005100", number))
    assert isinstance(books, Books)
    assert books.changes[0].bids == [(0.0286, float(number), b"286" + digits)]


def test_instruments_without_those_that_nobody_could_ask_for() -> None:
    btc = Instrument("BTCUSD", "BTC/USD", "BTC", "USD")
    assert decode(INSTRUMENT) == Instruments({btc: "online"}, snapshot=True)


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        (STATUS, Status("online")),
        ('{"channel":"heartbeat"}', Heartbeat()),
        (ACK, Reply("subscribe", 7, "ticker", "BTC/USD", None)),
        (REFUSAL, Reply("subscribe", None, None, "XBT/USDT", "Currency pair not supported XBT/USDT")),
        ('{"method":"x","success":false,"req_id":3}', Reply("x", 3, None, None, "refused without a reason")),
        ('{"error":"Malformed request","success":false}', Reply("", None, None, None, "Malformed request")),
        ('{"method":"pong","req_id":1}', Ignored("pong")),
        ('{"channel":"ohlc","type":"update","data":[]}', Ignored("ohlc")),
        (json.dumps({"channel": "x" * 100}), Ignored("x" * 40)),
    ],
)  # fmt: skip
def test_everything_else(frame: str, event: object) -> None:
    assert decode(frame) == event


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "[]",
        "{}",
        "not json",
        '{"method":"subscribe"}',
        '{"method":"subscribe","success":true}',
        '{"success":true,"result":{"channel":"book"}}',
        '{"channel":"status","type":"update","data":[]}',
        TICKER.replace("MINA/GBP", ""),
        TICKER.replace("MINA/GBP", "€/GBP"),
        TICKER.replace("0.0286", "-0.0286"),
        TICKER.replace("0.0286", "1e999"),
        TICKER.replace("0.0286", '"0.0286"'),
        TICKER.replace("0.0286", "NaN"),
        TICKER.replace("829Z", "829"),
        TICKER.replace("T05", "T25"),
        TICKER.replace('"update"', '"other"'),
        TRADE.replace('"buy"', '"both"'),
        TRADE.replace('"trade_id":41', '"trade_id":-1'),
        TRADE.replace(',"timestamp":"2026-07-08T05:24:41.204829Z"', ""),
        BOOK.replace("3.00000000", "-3.00000000"),
        BOOK.replace("3.00000000", "1e999"),
        BOOK.replace("3.00000000", "1e-31"),
        BOOK.replace("3.00000000", '"3.00000000"'),
        BOOK.replace("3.00000000", "null"),
        BOOK.replace("3.00000000", "[3]"),
        BOOK.replace("0.0288", "0.0000"),
        BOOK.replace("2244953247", "4294967296"),
        INSTRUMENT.replace('"pairs"', '"pears"'),
    ],
)
def test_what_the_protocol_does_not_allow(frame: str) -> None:
    with pytest.raises(BadMessage):
        decode(frame)


def test_a_long_frame_is_quoted_in_part() -> None:
    with pytest.raises(BadMessage) as caught:
        decode('{"channel":"ticker","type":"update","data":' + "[" * 500)
    assert len(str(caught.value)) < 400
    assert str(caught.value).endswith("'…")


@pytest.mark.parametrize(
    "frame", [BOOK.replace("0.0288", "[" * 100_000), '{"channel":"ohlc","data":' + "[" * 100_000]
)
def test_nesting_beyond_the_stack(frame: str) -> None:
    with pytest.raises(BadMessage):
        decode(frame)
    with pytest.raises(BadMessage):
        decode_trades_page(REST.replace('"last"', f'"x":{"[" * 100_000},"last"').encode(), "BTCUSD")


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(BadMessage):
        Decoder().decode(b'{"channel":"\xff\xfe"}', NOW_US)


def test_symbols_are_remembered_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdserver_kraken.codec._MAX_SYMBOLS", 1)
    decoder = Decoder()
    for pair in ("BTC/USD", "ETH/USD", "ETH/USD", "BTC/USD"):
        (tick,) = decoder.decode(TICKER.replace("MINA/GBP", pair).encode(), NOW_US)  # type: ignore[misc]
        assert tick.symbol == pair.replace("/", "")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    frame = bytearray(draw(st.sampled_from(FRAMES)).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(frame)))
        match draw(st.sampled_from(["cut", "insert", "set", "swap"])):
            case "cut":
                del frame[at : at + draw(st.integers(1, 30))]
            case "insert":
                frame[at:at] = draw(
                    st.binary(max_size=6) | st.sampled_from([b"null", b"1e400", b"-", b'"', b"[]", b"{}"])
                )
            case "set":
                frame[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case _:
                other = draw(st.sampled_from(FRAMES)).encode()
                frame[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(frame)


@given(frame=mutated() | st.binary(max_size=50))
@example(
    frame=b'{"channel":"book","type":"update","data":[{"symbol":"A/B","bids":[{}],"asks":[],"checksum":1}]}'
)
def test_whatever_comes_is_an_event_or_a_bad_message(frame: bytes) -> None:
    for decode_it in (
        lambda: Decoder().decode(frame, NOW_US),
        lambda: decode_trades_page(frame, "BTCUSD"),
    ):
        try:
            event = decode_it()
        except BadMessage:
            continue
        assert isinstance(
            event, list | Trades | Books | Instruments | Status | Heartbeat | Reply | Ignored | RestPage | str
        )


@given(price=st.integers(1, 10**9), size=st.integers(0, 10**12), digits=st.integers(0, 8))
def test_levels_are_what_the_venue_wrote(price: int, size: int, digits: int) -> None:
    price_text = f"{price // 10**digits}.{price % 10**digits:0{digits}}" if digits else f"{price}"
    size_text = f"{size // 10**8}.{size % 10**8:08}"
    books = decode(BOOK.replace("0.0286", price_text).replace("0.00005100", size_text))
    assert isinstance(books, Books)
    written = price_text.replace(".", "").lstrip("0") + size_text.replace(".", "").lstrip("0")
    assert books.changes[0].bids == [(float(price_text), float(size_text), written.encode())]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            encode_request("subscribe", "ticker", ["BTC/USD"], 1, depth=25),
            {"channel": "ticker", "symbol": ["BTC/USD"], "event_trigger": "bbo", "snapshot": True},
        ),
        (
            encode_request("subscribe", "trade", ["BTC/USD"], 1, depth=25),
            {"channel": "trade", "symbol": ["BTC/USD"], "snapshot": False},
        ),
        (
            encode_request("subscribe", "book", ["BTC/USD", "ETH/USD"], 1, depth=25),
            {"channel": "book", "symbol": ["BTC/USD", "ETH/USD"], "depth": 25, "snapshot": True},
        ),
        (
            encode_request("subscribe", "instrument", [], 1, depth=25),
            {"channel": "instrument", "snapshot": True},
        ),
    ],
)
def test_requests(request_: bytes, text: dict[str, object]) -> None:
    assert json.loads(request_) == {"method": "subscribe", "params": text, "req_id": 1}


def test_leaving_names_the_same_subscription() -> None:
    request = json.loads(encode_request("unsubscribe", "book", ["BTC/USD"], 2, depth=25))
    assert request == {
        "method": "unsubscribe",
        "params": {"channel": "book", "symbol": ["BTC/USD"], "depth": 25},
        "req_id": 2,
    }


def test_a_page_of_rest() -> None:
    page = decode_trades_page(REST.encode(), "BTCUSD")
    assert isinstance(page, RestPage)
    assert page.last_ns == 1790359842000000001
    assert [row.trade for row in page.rows] == [
        Trade("BTCUSD", 1790359840939291, 83930.3, 0.000051, "sell", "109118758"),
        Trade("BTCUSD", 1790359841138228, 83928.0, 0.00044682, "buy", "109118759"),
        Trade("BTCUSD", 1790359842000000, 83928.0, 1.0, "buy", "109118760"),
    ]
    assert [row.number for row in page.rows] == [109118758, 109118759, 109118760]


def test_errors_of_rest_come_with_status_200() -> None:
    assert (
        decode_trades_page(b'{"error":["EQuery:Unknown asset pair"],"result":null}', "X")
        == "EQuery:Unknown asset pair"
    )
    assert (
        decode_trades_page(b'{"error":["EGeneral:Too many requests","E:b"]}', "X")
        == "EGeneral:Too many requests; E:b"
    )


@pytest.mark.parametrize(
    "body",
    [
        "<html>",
        '{"error":[]}',
        '{"error":[],"result":{"last":"1"}}',
        '{"error":[],"result":{"BTC/USD":[]}}',
        '{"error":[],"result":{"A":[],"B":[],"last":"1"}}',
        REST.replace("1790359842,", '"1790359842",'),
        REST.replace("1790359842,", "1e3,"),
        REST.replace("1790359842,", "-5,"),
        REST.replace("1790359842,", "123456789012,"),
        REST.replace('"s"', '"x"'),
        REST.replace("83930.30000", "NaN"),
    ],
)
def test_what_is_no_page_of_trades(body: str) -> None:
    with pytest.raises(BadMessage):
        decode_trades_page(body.encode(), "BTCUSD")
