"""Binance's spot stream messages, without I/O: bytes to records and replies, requests to bytes.

A frame of a combined stream is ``{"stream": NAME, "data": PAYLOAD}``; a reply to a request is bare. The outer
object is decoded with its payload left raw, then the payload by the type its stream name tells: 0.4 µs for
both. msgspec reads numbers out of the venue's strings, exactly, and checks their range on the way.

Times: a trade has the venue's (``T``), milliseconds or, on request, microseconds; told apart by magnitude.
A book ticker and a partial book have none, so their records carry the time at which we received them. A partial book
has no symbol either: that stands in the name of its stream alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from mdserver.errors import BadMessage
from mdserver.model import Feed, Instrument, Level, OrderBook, Tick, Trade

__all__ = [
    "BOOKS",
    "Decoder",
    "DepthSnapshot",
    "DepthUpdate",
    "Event",
    "ExchangeInfo",
    "Ignored",
    "Numbered",
    "Reply",
    "ServerShutdown",
    "TradeStream",
    "decode_depth",
    "decode_exchange_info",
    "decode_trades",
    "encode_request",
    "stream_name",
]

TradeStream: TypeAlias = Literal["trade", "aggTrade"]

BOOKS = {"25": "depth20@100ms", "full": "depth@100ms"}
"""The variants of order books and their streams: 20 levels are the venue's nearest to 25."""

_FIRST_US = 100_000_000_000_000  # as milliseconds this is the year 5138, as microseconds 1973
_QUOTED_BYTES = 200
_QUOTED_KIND = 40


class Reply(Struct, frozen=True):
    """The venue's answer to a request. ``error`` is None when it was accepted."""

    id: int | str | None
    error: str | None = None


class ServerShutdown(Struct, frozen=True):
    """The venue says that it will close this connection soon."""


class DepthUpdate(Struct, frozen=True, gc=False):
    """Changes of one book, those with the venue's numbers from ``first`` to ``last``; size 0 takes a price out."""

    symbol: str
    time_us: int
    first: int
    last: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


class DepthSnapshot(Struct, frozen=True):
    """A whole book as it was after the change with the number ``last``."""

    last: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


class Numbered(NamedTuple):
    """A trade of the past and the venue's number of it; ``first_trade`` is the number of an aggregate's first one."""

    number: int
    first_trade: int
    trade: Trade


class ExchangeInfo(NamedTuple):
    """The listed instruments, whether each is trading now, and the weight that an address may use in a minute."""

    instruments: dict[Instrument, bool]
    weight_per_minute: int | None


class Ignored(Struct, frozen=True):
    """A well-formed message of a kind that we do not use."""

    kind: str


Event: TypeAlias = Tick | Trade | OrderBook | DepthUpdate | Reply | ServerShutdown | Ignored

# Not below 0, neither NaN (which fails the first) nor infinite. Whether a price makes sense is for the host.
_Number = Annotated[float, Meta(ge=0.0, le=1.7976931348623157e308)]
_Time = Annotated[int, Meta(ge=100_000_000_000, le=10_000_000_000_000_000)]
_Symbol = Annotated[str, Meta(min_length=1, max_length=64)]
_Id = Annotated[int, Meta(ge=0)]
_Levels: TypeAlias = tuple[tuple[_Number, _Number], ...]


class _Error(Struct, gc=False):
    code: int | None = None
    msg: str = ""


class _Outer(Struct, gc=False):
    stream: str | None = None
    data: Raw = Raw()
    result: Raw = Raw()
    id: int | str | None = None
    code: int | None = None
    msg: str = ""
    error: _Error | None = None
    e: str | None = None


class _Kind(Struct, gc=False):
    e: str = ""


class _BookTicker(Struct, gc=False):
    u: _Id
    s: _Symbol
    b: _Number
    B: _Number
    a: _Number
    A: _Number


class _Trade(Struct, gc=False):
    e: Literal["trade"]
    s: _Symbol
    t: _Id
    p: _Number
    q: _Number
    T: _Time
    m: bool


class _AggTrade(Struct, gc=False):
    e: Literal["aggTrade"]
    s: _Symbol
    a: _Id
    p: _Number
    q: _Number
    T: _Time
    m: bool


class _Partial(Struct, gc=False):
    lastUpdateId: _Id  # noqa: N815 (the venue's name)
    bids: _Levels
    asks: _Levels


class _DepthUpdate(Struct, gc=False):
    e: Literal["depthUpdate"]
    E: _Time
    s: _Symbol
    U: _Id
    u: _Id
    b: _Levels
    a: _Levels


class _PastTrade(Struct, gc=False):
    id: _Id
    price: _Number
    qty: _Number
    time: _Time
    isBuyerMaker: bool  # noqa: N815


class _PastAggTrade(Struct, gc=False):
    a: _Id
    p: _Number
    q: _Number
    f: int
    T: _Time
    m: bool


class _Symbols(Struct, gc=False):
    class Limit(Struct, gc=False):
        rateLimitType: str = ""  # noqa: N815
        interval: str = ""
        intervalNum: int = 0  # noqa: N815
        limit: int = 0

    class Row(Struct, gc=False):
        symbol: _Symbol
        status: str
        baseAsset: str  # noqa: N815 (the venue's name)
        quoteAsset: str  # noqa: N815

    symbols: list[Row]
    rateLimits: list[Limit] = []  # noqa: N815


_decode_outer = msgspec.json.Decoder(_Outer).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode
# Not strict: numbers come as strings.
_decode_ticker = msgspec.json.Decoder(_BookTicker, strict=False).decode
_decode_trade = msgspec.json.Decoder(_Trade, strict=False).decode
_decode_agg_trade = msgspec.json.Decoder(_AggTrade, strict=False).decode
_decode_partial = msgspec.json.Decoder(_Partial, strict=False).decode
_decode_depth_update = msgspec.json.Decoder(_DepthUpdate, strict=False).decode
_decode_past_trades = msgspec.json.Decoder(list[_PastTrade], strict=False).decode
_decode_past_agg_trades = msgspec.json.Decoder(list[_PastAggTrade], strict=False).decode
_decode_symbols = msgspec.json.Decoder(_Symbols).decode

# What msgspec raises: bad JSON or fields, bad UTF-8, and more nesting than the interpreter's stack has room for.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Decoder:
    """Decodes the frames of one combined-stream connection.

    ``venue_id`` is the venue's own number of the newest record decoded: a trade's id, a book ticker's update
    id, the last one in a book. All rise within a feed. ``symbols``: the symbol of each stream that was asked for, by
    what stands before the ``@`` in its name; without it a partial book belongs to nobody.
    """

    def __init__(self, trades: TradeStream) -> None:
        self.venue_id = 0
        self.symbols: dict[str, str] = {}
        self._trades = trades

    def decode(self, frame: bytes, received_us: int) -> Event:
        """Return what ``frame`` says. ``received_us`` becomes the time of a tick.

        Raises BadMessage for what the venue's protocol does not allow.
        """
        try:
            outer = _decode_outer(frame)
            stream = outer.stream
            if stream is None:
                return _bare(outer)
            name, _, kind = stream.partition("@")
            if kind == "bookTicker" or stream == "!bookTicker":
                ticker = _decode_ticker(outer.data)
                self.venue_id = ticker.u
                return Tick(ticker.s, received_us, ticker.b, ticker.a, ticker.B, ticker.A)
            if kind == self._trades:
                return self._trade(outer.data)
            if kind == "depth@100ms":
                return self._depth_update(outer.data)
            if kind == "depth20@100ms" and name in self.symbols:
                book = _decode_partial(outer.data)
                self.venue_id = book.lastUpdateId
                return OrderBook(self.symbols[name], received_us, book.bids, book.asks, "snapshot", "25")
            return _other(kind, outer.data)
        except _UNREADABLE as error:
            raise BadMessage(f"{error}: {_quote(frame)}") from error

    def _trade(self, data: Raw) -> Trade | Ignored:
        trade: _Trade | _AggTrade
        try:
            if self._trades == "trade":
                trade = _decode_trade(data)
                number = trade.t
            else:
                trade = _decode_agg_trade(data)
                number = trade.a
        except msgspec.ValidationError as error:
            return _not(self._trades, data, error)
        self.venue_id = number
        return Trade(
            trade.s,
            _us(trade.T),
            trade.p,
            trade.q,
            "sell" if trade.m else "buy",  # m: the buyer was the maker, so the seller took
            str(number),
        )

    def _depth_update(self, data: Raw) -> DepthUpdate | Ignored:
        try:
            update = _decode_depth_update(data)
        except msgspec.ValidationError as error:
            return _not("depthUpdate", data, error)
        if update.u < update.U:
            raise msgspec.ValidationError(f"changes {update.U} to {update.u}")
        self.venue_id = update.u
        return DepthUpdate(update.s, _us(update.E), update.U, update.u, update.b, update.a)


def _us(time: int) -> int:
    return time if time >= _FIRST_US else time * 1000


def _not(expected: str, data: Raw, error: msgspec.ValidationError) -> Ignored:
    """Return what came in place of the expected kind; raise ``error`` if it is no other kind."""
    if (kind := _decode_kind(data).e) not in ("", expected):
        return Ignored(kind[:_QUOTED_KIND])
    raise error


def _bare(outer: _Outer) -> Event:
    """Read a frame without a stream name: the answer to a request, or an event of the raw protocol."""
    if outer.error is not None:
        return Reply(outer.id, f"{outer.error.msg} (code {outer.error.code})")
    if outer.code is not None:
        return Reply(outer.id, f"{outer.msg} (code {outer.code})")
    if bytes(outer.result):
        return Reply(outer.id)
    if outer.e is not None:
        return _named(outer.e)
    raise msgspec.ValidationError("neither a stream's message nor a reply")


def _other(kind: str, raw: Raw) -> Event:
    data = bytes(raw)
    if not data:
        raise msgspec.ValidationError("Object missing required field `data`")
    if not data.startswith(b"{"):
        return Ignored(kind[:_QUOTED_KIND])
    return _named(_decode_kind(data).e or kind)


def _named(kind: str) -> ServerShutdown | Ignored:
    return ServerShutdown() if kind == "serverShutdown" else Ignored(kind[:_QUOTED_KIND])


def _quote(frame: bytes) -> str:
    text = bytes(frame[:_QUOTED_BYTES]).decode(errors="replace")
    return f"{text!r}…" if len(frame) > _QUOTED_BYTES else repr(text)


def stream_name(feed: Feed, trades: TradeStream) -> str:
    """Return the name of the stream that carries ``feed``. The venue's symbol is our canonical one."""
    kind = "bookTicker" if feed.type == "tick" else trades if feed.type == "trade" else BOOKS[feed.variant]
    return f"{feed.symbol.lower()}@{kind}"


def encode_request(method: Literal["SUBSCRIBE", "UNSUBSCRIBE"], streams: Sequence[str], id_: int) -> bytes:
    """Return the text of a request."""
    return msgspec.json.encode({"method": method, "params": streams, "id": id_})


def decode_exchange_info(body: bytes) -> ExchangeInfo:
    """Return what the answer of ``/api/v3/exchangeInfo`` says. Raises BadMessage when it is not such an answer."""
    try:
        info = _decode_symbols(body)
    except _UNREADABLE as error:
        raise BadMessage(f"exchangeInfo: {error}: {_quote(body)}") from error
    instruments = {
        Instrument(row.symbol, row.symbol, row.baseAsset, row.quoteAsset): row.status == "TRADING"
        for row in info.symbols
    }
    limits = [
        limit.limit
        for limit in info.rateLimits
        if limit.rateLimitType == "REQUEST_WEIGHT" and limit.interval == "MINUTE" and limit.intervalNum == 1
    ]
    return ExchangeInfo(instruments, limits[0] if limits and limits[0] > 0 else None)


def decode_depth(body: bytes) -> DepthSnapshot:
    """Return the book in the answer of ``/api/v3/depth``. Raises BadMessage when it is not such an answer."""
    try:
        book = _decode_partial(body)
    except _UNREADABLE as error:
        raise BadMessage(f"depth: {error}: {_quote(body)}") from error
    return DepthSnapshot(book.lastUpdateId, book.bids, book.asks)


def decode_trades(body: bytes, symbol: str, trades: TradeStream) -> list[Numbered]:
    """Return the rows of an answer of ``/api/v3/aggTrades`` or, for ``trade``, of the two that list single trades.

    Raises BadMessage when it is not such an answer.
    """
    try:
        if trades == "aggTrade":
            return [
                _past(symbol, row.a, row.f, row.T, row.p, row.q, maker=row.m)
                for row in _decode_past_agg_trades(body)
            ]
        return [
            _past(symbol, row.id, row.id, row.time, row.price, row.qty, maker=row.isBuyerMaker)
            for row in _decode_past_trades(body)
        ]
    except _UNREADABLE as error:
        raise BadMessage(f"{trades} history: {error}: {_quote(body)}") from error


def _past(
    symbol: str, number: int, first: int, time: int, price: float, size: float, *, maker: bool
) -> Numbered:
    side: Literal["buy", "sell"] = "sell" if maker else "buy"
    return Numbered(number, first, Trade(symbol, _us(time), price, size, side, str(number)))
