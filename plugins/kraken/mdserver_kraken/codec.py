"""Kraken's v2 messages, without I/O: bytes to records and events, requests to bytes.

A data frame is ``{"channel": …, "type": "snapshot" | "update", "data": …}`` and is decoded in one pass, by its channel.
The answer to a request has no channel but a ``method``, so it fails that pass and is read in a second one.

Prices and sizes are bare JSON numbers with all their digits, and a book's checksum is made of those digits: its levels
keep them beside the floats. Times are RFC3339 with six decimals, read without going through a float.
"""

from __future__ import annotations

import datetime
import zlib
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from mdserver.errors import BadMessage
from mdserver.model import Instrument, Tick, Trade
from mdserver.orderbook import Book
from mdserver.symbols import canonical

__all__ = [
    "BookChange",
    "Books",
    "Channel",
    "Decoder",
    "Event",
    "Heartbeat",
    "Ignored",
    "Instruments",
    "Level",
    "Reply",
    "RestPage",
    "Status",
    "TradeRow",
    "Trades",
    "book_checksum",
    "decode_trades_page",
    "encode_request",
]

Channel: TypeAlias = Literal["ticker", "trade", "book", "instrument"]

Level: TypeAlias = tuple[float, float, bytes]
"""Price, size, and the digits of both that the checksum is made of."""

CHECKSUM_LEVELS = 10

# Bad JSON or fields, bad UTF-8, values out of their range, more nesting than the interpreter's stack has room for.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError)

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MOST = 1.7976931348623157e308
_QUOTED_BYTES = 200
_QUOTED_KIND = 40
_MAX_EXPONENT = 30
_MAX_SYMBOLS = 10_000


class TradeRow(Struct, frozen=True, gc=False):
    """A trade and the venue's number of it: they rise by one within a symbol."""

    number: int
    trade: Trade


class Trades(Struct, frozen=True, gc=False):
    """Executions in the venue's order; a ``snapshot`` repeats old ones."""

    rows: list[TradeRow]
    snapshot: bool


class BookChange(Struct, frozen=True, gc=False):
    """Levels of one book, all of them (``snapshot``) or those that changed, and the checksum afterwards.

    ``time_us`` is None where the venue gave no time.
    """

    symbol: str
    snapshot: bool
    bids: list[Level]
    asks: list[Level]
    checksum: int
    time_us: int | None


class Books(Struct, frozen=True, gc=False):
    """What one frame says of books."""

    changes: list[BookChange]


class Instruments(Struct, frozen=True):
    """Listed instruments, all (``snapshot``) or changed ones, with the venue's status of each."""

    pairs: dict[Instrument, str]
    snapshot: bool


class Status(Struct, frozen=True):
    """The state of the exchange: ``online``, ``cancel_only``, ``maintenance``, ``post_only``."""

    system: str


class Heartbeat(Struct, frozen=True):
    """The socket is alive, which says nothing of any subscription."""


class Reply(Struct, frozen=True):
    """The venue's answer to a request, for one symbol.

    ``symbol`` is the venue's; None where the whole request is meant. ``error`` is None when it was accepted, and then
    ``channel`` is given.
    """

    method: str
    request_id: int | None
    channel: str | None
    symbol: str | None
    error: str | None


class Ignored(Struct, frozen=True):
    """A well-formed message of a kind that we do not use."""

    kind: str


Event: TypeAlias = list[Tick] | Trades | Books | Instruments | Status | Heartbeat | Reply | Ignored

# Not below 0, neither NaN (which fails the first) nor infinite. Whether a price makes sense is for the host.
_Number = Annotated[float, Meta(ge=0.0, le=_MOST)]
_Symbol = Annotated[str, Meta(min_length=3, max_length=64)]
_Time = Annotated[datetime.datetime, Meta(tz=True)]
_Kind: TypeAlias = Literal["snapshot", "update"]


class _TickerRow(Struct, gc=False):
    symbol: _Symbol
    bid: _Number
    bid_qty: _Number
    ask: _Number
    ask_qty: _Number
    timestamp: _Time | None = None


class _TradeRow(Struct, gc=False):
    symbol: _Symbol
    side: Literal["buy", "sell"]
    price: _Number
    qty: _Number
    trade_id: Annotated[int, Meta(ge=0)]
    timestamp: _Time


class _RawLevel(Struct, gc=False):
    price: Raw
    qty: Raw


class _BookRow(Struct, gc=False):
    symbol: _Symbol
    bids: list[_RawLevel]
    asks: list[_RawLevel]
    checksum: Annotated[int, Meta(ge=0, lt=2**32)]
    timestamp: _Time | None = None


class _PairRow(Struct, gc=False):
    symbol: _Symbol
    base: str
    quote: str
    status: str


class _Pairs(Struct, gc=False):
    pairs: list[_PairRow]


class _StatusRow(Struct, gc=False):
    system: str


class _Ticker(Struct, gc=False, tag_field="channel", tag="ticker"):
    type: _Kind
    data: list[_TickerRow]


class _Trade(Struct, gc=False, tag_field="channel", tag="trade"):
    type: _Kind
    data: list[_TradeRow]


class _Book(Struct, gc=False, tag_field="channel", tag="book"):
    type: _Kind
    data: list[_BookRow]


class _Instrument(Struct, gc=False, tag_field="channel", tag="instrument"):
    type: _Kind
    data: _Pairs


class _Status(Struct, gc=False, tag_field="channel", tag="status"):
    data: Annotated[list[_StatusRow], Meta(min_length=1)]


class _Heartbeat(Struct, gc=False, tag_field="channel", tag="heartbeat"):
    pass


_Data: TypeAlias = _Ticker | _Trade | _Book | _Instrument | _Status | _Heartbeat
_CHANNELS = frozenset({"ticker", "trade", "book", "instrument", "status", "heartbeat"})


class _Result(Struct, gc=False):
    channel: str = ""
    symbol: str | None = None


class _Other(Struct, gc=False):
    channel: str | None = None
    method: str | None = None
    success: bool | None = None
    error: str | None = None
    symbol: str | None = None
    req_id: int | None = None
    result: _Result | None = None


class _Page(Struct, gc=False):
    error: list[str]
    result: dict[str, Raw] | None = None


_RestRow: TypeAlias = tuple[_Number, _Number, Raw, Literal["b", "s"], str, str, Annotated[int, Meta(ge=0)]]

_decode_data = msgspec.json.Decoder(_Data).decode
_decode_other = msgspec.json.Decoder(_Other).decode
_decode_page = msgspec.json.Decoder(_Page).decode
# Not strict: numbers come as strings.
_decode_rows = msgspec.json.Decoder(list[_RestRow], strict=False).decode
_decode_last = msgspec.json.Decoder(Annotated[int, Meta(ge=0)], strict=False).decode


class _Symbols(dict[str, str]):
    """The venue's symbol to ours, each worked out once."""

    def __missing__(self, venue_symbol: str) -> str:
        symbol = canonical(venue_symbol)
        if len(self) < _MAX_SYMBOLS:
            self[venue_symbol] = symbol
        return symbol


class Decoder:
    """Decodes the frames of one connection."""

    def __init__(self) -> None:
        self._symbols = _Symbols()

    def decode(self, frame: bytes, received_us: int) -> Event:
        """Return what ``frame`` says. ``received_us`` becomes the time of a tick that has none.

        Raises BadMessage for what the venue's protocol does not allow.
        """
        try:
            try:
                data = _decode_data(frame)
            except msgspec.ValidationError:
                return _other(frame)
            if type(data) is _Ticker:
                return self._ticks(data, received_us)
            if type(data) is _Book:
                snapshot = data.type == "snapshot"
                return Books([self._book(row, snapshot) for row in data.data])
            if type(data) is _Trade:
                return self._trades(data)
            if type(data) is _Heartbeat:
                return Heartbeat()
            if type(data) is _Instrument:
                return self._instruments(data)
            return Status(data.data[0].system)
        except _UNREADABLE as error:
            raise BadMessage(f"{error}: {_quote(frame)}") from error

    def _ticks(self, ticker: _Ticker, received_us: int) -> list[Tick]:
        symbols = self._symbols
        return [
            Tick(
                symbols[row.symbol],
                received_us if row.timestamp is None else _us(row.timestamp),
                row.bid,
                row.ask,
                row.bid_qty,
                row.ask_qty,
            )
            for row in ticker.data
        ]

    def _trades(self, trade: _Trade) -> Trades:
        symbols = self._symbols
        return Trades(
            [
                TradeRow(
                    row.trade_id,
                    Trade(
                        symbols[row.symbol],
                        _us(row.timestamp),
                        row.price,
                        row.qty,
                        row.side,
                        str(row.trade_id),
                    ),
                )
                for row in trade.data
            ],
            trade.type == "snapshot",
        )

    def _book(self, row: _BookRow, snapshot: bool) -> BookChange:
        return BookChange(
            self._symbols[row.symbol],
            snapshot,
            _levels(row.bids),
            _levels(row.asks),
            row.checksum,
            None if row.timestamp is None else _us(row.timestamp),
        )

    def _instruments(self, message: _Instrument) -> Instruments:
        pairs: dict[Instrument, str] = {}
        for row in message.data.pairs:
            try:
                symbol = self._symbols[row.symbol]
            except ValueError:
                continue  # a name that no client could ask for
            pairs[Instrument(symbol, row.symbol, row.base, row.quote)] = row.status
        return Instruments(pairs, message.type == "snapshot")


def _us(time: datetime.datetime) -> int:
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _levels(raw_levels: list[_RawLevel]) -> list[Level]:
    levels = []
    for raw in raw_levels:
        # Raw holds one JSON value as it was written. Of all that it could be, float() takes numbers alone.
        price_text, size_text = bytes(raw.price), bytes(raw.qty)
        price, size = float(price_text), float(size_text)
        if not 0.0 < price <= _MOST or not 0.0 <= size <= _MOST:
            raise ValueError(f"a level of price {price!r} and size {size!r}")
        digits = (price_text.lstrip(b"0.") + size_text.lstrip(b"0.")).replace(b".", b"")
        if not digits.isdigit():  # there is an exponent
            written = (_written_out(text).lstrip(b"0.") for text in (price_text, size_text))
            digits = b"".join(written).replace(b".", b"")
        levels.append((price, size, digits))
    return levels


def _written_out(number: bytes) -> bytes:
    """Return a number without its exponent: the venue has none in books today, but has them elsewhere."""
    mantissa, _, exponent = number.lower().partition(b"e")
    shift = int(exponent or b"0")
    if abs(shift) > _MAX_EXPONENT:
        raise ValueError(f"an exponent of {shift}")
    whole, _, fraction = mantissa.partition(b".")
    if shift >= 0:
        fraction = fraction.ljust(shift, b"0")
        return whole + fraction[:shift] + b"." + fraction[shift:]
    whole = whole.rjust(1 - shift, b"0")
    return whole[:shift] + b"." + whole[shift:] + fraction


def book_checksum(book: Book[Level]) -> int:
    """Return the CRC32 of a book: digits of the ten best asks, then of the ten best bids."""
    bids, asks = book.top(CHECKSUM_LEVELS)
    return zlib.crc32(b"".join([level[2] for level in asks] + [level[2] for level in bids]))


def _other(frame: bytes) -> Event:
    """Read a frame that is no data of a channel that we know."""
    other = _decode_other(frame)
    channel, method = other.channel, other.method
    if channel is not None:
        if channel in _CHANNELS:
            _decode_data(frame)  # raises again, and now says why
        return Ignored(channel[:_QUOTED_KIND])
    if method == "pong":
        return Ignored("pong")
    if other.success is None:
        raise ValueError("neither a channel's message nor a reply")
    if not other.success:
        error = other.error or "refused without a reason"
        return Reply(method or "", other.req_id, None, other.symbol, error)
    if other.result is None or method is None:
        raise ValueError("a reply without its method or result")
    return Reply(method, other.req_id, other.result.channel, other.result.symbol, None)


def _quote(frame: bytes) -> str:
    text = bytes(frame[:_QUOTED_BYTES]).decode(errors="replace")
    return f"{text!r}…" if len(frame) > _QUOTED_BYTES else repr(text)


def encode_request(
    method: Literal["subscribe", "unsubscribe"],
    channel: Channel,
    venue_symbols: Sequence[str],
    request_id: int,
    *,
    depth: int,
) -> bytes:
    """Return the text of a request. ``depth`` counts for books alone."""
    params: dict[str, object] = {"channel": channel}
    if channel != "instrument":
        params["symbol"] = venue_symbols
    if channel == "ticker":
        params["event_trigger"] = "bbo"
    elif channel == "book":
        params["depth"] = depth
    if method == "subscribe":
        params["snapshot"] = channel != "trade"
    return msgspec.json.encode({"method": method, "params": params, "req_id": request_id})


class RestPage(Struct, frozen=True):
    """Trades of one answer of REST, and the time in nanoseconds from which the next page is to be asked for."""

    rows: list[TradeRow]
    last_ns: int


def decode_trades_page(body: bytes, symbol: str) -> RestPage | str:
    """Return the trades of an answer of ``/0/public/Trades``, or the error that the venue gave in place of them.

    ``symbol`` is ours. Raises BadMessage when it is no such answer.
    """
    try:
        page = _decode_page(body)
        if page.error:
            return "; ".join(page.error)
        result = page.result or {}
        last = _decode_last(result.pop("last", Raw(b"null")))
        if len(result) != 1:
            raise ValueError(f"{len(result)} pairs; expected one")
        (rows,) = result.values()
        return RestPage([_rest_trade(symbol, row) for row in _decode_rows(rows)], last)
    except _UNREADABLE as error:
        raise BadMessage(f"Trades: {error}: {_quote(body)}") from error


def _rest_trade(symbol: str, row: _RestRow) -> TradeRow:
    price, size, time, side, _, _, number = row
    seconds, _, fraction = bytes(time).decode().partition(".")
    if not seconds.isdecimal() or not (fraction + "0").isdecimal() or len(seconds) > 11:
        raise ValueError(f"{bytes(time)!r} is no time in seconds")
    time_us = int(seconds) * 1_000_000 + int(fraction[:6].ljust(6, "0"))
    return TradeRow(
        number, Trade(symbol, time_us, price, size, "buy" if side == "b" else "sell", str(number))
    )
