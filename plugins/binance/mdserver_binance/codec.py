"""Binance's spot stream messages, without I/O: bytes to records and replies, requests to bytes.

A frame of a combined stream is ``{"stream": NAME, "data": PAYLOAD}``; a reply to a request is bare. The outer
object is decoded with its payload left raw, then the payload by the type its stream name tells: 0.4 µs for
both. msgspec reads numbers out of the venue's strings, exactly, and checks their range on the way.

Times: a trade has the venue's (``T``), milliseconds or, on request, microseconds; told apart by magnitude.
A book ticker has none, so its tick carries the time at which we received it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from mdserver.errors import BadMessage
from mdserver.model import Feed, Instrument, Tick, Trade

__all__ = [
    "Decoder",
    "Event",
    "Ignored",
    "Reply",
    "ServerShutdown",
    "TradeStream",
    "decode_exchange_info",
    "encode_request",
    "stream_name",
]

TradeStream: TypeAlias = Literal["trade", "aggTrade"]

_FIRST_US = 100_000_000_000_000  # as milliseconds this is the year 5138, as microseconds 1973
_QUOTED_BYTES = 200
_QUOTED_KIND = 40


class Reply(Struct, frozen=True):
    """The venue's answer to a request. ``error`` is None when it was accepted."""

    id: int | str | None
    error: str | None = None


class ServerShutdown(Struct, frozen=True):
    """The venue says that it will close this connection soon."""


class Ignored(Struct, frozen=True):
    """A well-formed message of a kind that we do not use."""

    kind: str


Event: TypeAlias = Tick | Trade | Reply | ServerShutdown | Ignored

# Not below 0, neither NaN (which fails the first) nor infinite. Whether a price makes sense is for the host.
_Number = Annotated[float, Meta(ge=0.0, le=1.7976931348623157e308)]
_Time = Annotated[int, Meta(ge=100_000_000_000, le=10_000_000_000_000_000)]
_Symbol = Annotated[str, Meta(min_length=1, max_length=64)]
_Id = Annotated[int, Meta(ge=0)]


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


class _Symbols(Struct, gc=False):
    class Row(Struct, gc=False):
        symbol: _Symbol
        status: str
        baseAsset: str  # noqa: N815 (the venue's name)
        quoteAsset: str  # noqa: N815

    symbols: list[Row]


_decode_outer = msgspec.json.Decoder(_Outer).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode
# Not strict: numbers come as strings.
_decode_ticker = msgspec.json.Decoder(_BookTicker, strict=False).decode
_decode_trade = msgspec.json.Decoder(_Trade, strict=False).decode
_decode_agg_trade = msgspec.json.Decoder(_AggTrade, strict=False).decode
_decode_symbols = msgspec.json.Decoder(_Symbols).decode

# What msgspec raises: bad JSON or fields, bad UTF-8, and more nesting than the interpreter's stack has room for.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Decoder:
    """Decodes the frames of one combined-stream connection.

    ``venue_id`` is the venue's own number of the newest record decoded: a trade's id, a book ticker's update
    id. Both rise within a feed.
    """

    def __init__(self, trades: TradeStream) -> None:
        self.venue_id = 0
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
            kind = stream.partition("@")[2]
            if kind == "bookTicker" or stream == "!bookTicker":
                ticker = _decode_ticker(outer.data)
                self.venue_id = ticker.u
                return Tick(ticker.s, received_us, ticker.b, ticker.a, ticker.B, ticker.A)
            if kind == self._trades:
                return self._trade(outer.data)
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
        except msgspec.ValidationError:
            if (kind := _decode_kind(data).e) not in ("", self._trades):
                return Ignored(kind[:_QUOTED_KIND])
            raise
        self.venue_id = number
        time = trade.T
        return Trade(
            trade.s,
            time if time >= _FIRST_US else time * 1000,
            trade.p,
            trade.q,
            "sell" if trade.m else "buy",  # m: the buyer was the maker, so the seller took
            str(number),
        )


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
    return f"{feed.symbol.lower()}@{'bookTicker' if feed.type == 'tick' else trades}"


def encode_request(method: Literal["SUBSCRIBE", "UNSUBSCRIBE"], streams: Sequence[str], id_: int) -> bytes:
    """Return the text of a request."""
    return msgspec.json.encode({"method": method, "params": streams, "id": id_})


def decode_exchange_info(body: bytes) -> dict[Instrument, bool]:
    """Return the instruments of the answer of ``/api/v3/exchangeInfo``, and whether each is trading now.

    Raises BadMessage when it is not such an answer.
    """
    try:
        rows = _decode_symbols(body).symbols
    except _UNREADABLE as error:
        raise BadMessage(f"exchangeInfo: {error}: {_quote(body)}") from error
    return {
        Instrument(row.symbol, row.symbol, row.baseAsset, row.quoteAsset): row.status == "TRADING"
        for row in rows
    }
