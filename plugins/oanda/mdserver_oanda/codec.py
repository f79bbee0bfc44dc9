"""OANDA's v20 messages, without I/O: lines of the price stream and bodies of the REST API to frozen objects.

Times come as RFC 3339 with nanoseconds or as ``seconds.nanoseconds``, always as text; they are read as integers,
since a float would lose the last three digits. Prices are texts too; msgspec reads them exactly as float() does and
checks their range on the way.

A price line holds several levels of each side, not sorted: the best bid is the highest, the best ask the lowest. The
fields ``type`` and ``tradeable`` are missing from older lines and from the venue's own examples.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from mdserver.errors import BadMessage
from mdserver.model import Instrument
from mdserver.symbols import canonical

__all__ = [
    "Candle",
    "CandlePage",
    "Event",
    "Heartbeat",
    "Ignored",
    "Ohlc",
    "Price",
    "decode_candles",
    "decode_instruments",
    "decode_line",
    "encode_time",
    "error_text",
    "parse_time",
]

NS_PER_S = 1_000_000_000

_QUOTED_BYTES = 200
_QUOTED_KIND = 40
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - both ends of the difference are UTC without saying so
_MAX_SECONDS_DIGITS = 12


class Price(Struct, frozen=True, gc=False):
    """The best prices of an instrument, by the venue's name for it.

    ``bid`` or ``ask`` is None where that side is empty. ``tradeable`` is False for what cannot be dealt at, such as
    the last price before a weekend: it is no fresh quote, whatever its time.
    """

    instrument: str
    time_ns: int
    bid: float | None
    ask: float | None
    bid_size: float | None
    ask_size: float | None
    tradeable: bool


class Heartbeat(Struct, frozen=True, gc=False):
    """The venue is there, every five seconds, whether prices flow or not."""

    time_ns: int


class Ignored(Struct, frozen=True):
    """A well-formed line of a kind that we do not use."""

    kind: str


Event: TypeAlias = Price | Heartbeat | Ignored


class Ohlc(Struct, frozen=True, gc=False):
    """Open, high, low and close of one side, or of the mid, within an interval."""

    o: float
    h: float
    l: float  # noqa: E741 - the venue's name
    c: float


class Candle(Struct, frozen=True, gc=False):
    """One interval that had prices; ``time_ns`` is its start. Only a ``complete`` one is final.

    ``volume`` is the number of prices. ``mid``, ``bid`` and ``ask`` are None unless they were asked for.
    """

    time_ns: int
    complete: bool
    volume: int
    mid: Ohlc | None = None
    bid: Ohlc | None = None
    ask: Ohlc | None = None


class CandlePage(Struct, frozen=True):
    """An answer of the candles endpoint: intervals without prices are absent, times only rise."""

    instrument: str
    granularity: str
    candles: list[Candle]


# Not below 0, neither NaN (which fails the first) nor infinite. Whether a price makes sense is for the host.
_Number = Annotated[float, Meta(ge=0.0, le=1.7976931348623157e308)]
_Name = Annotated[str, Meta(min_length=1, max_length=64)]


class _Level(Struct, gc=False):
    price: _Number
    liquidity: _Number | None = None


class _Line(Struct, gc=False):
    type: str | None = None
    time: str | None = None
    instrument: _Name | None = None
    bids: list[_Level] | None = None
    asks: list[_Level] | None = None
    status: str | None = None
    tradeable: bool | None = None


class _Prices(Struct, gc=False):
    o: _Number
    h: _Number
    l: _Number  # noqa: E741 - the venue's name
    c: _Number


class _Candle(Struct, gc=False):
    time: str
    complete: bool
    volume: Annotated[int, Meta(ge=0)]
    mid: _Prices | None = None
    bid: _Prices | None = None
    ask: _Prices | None = None


class _CandlePage(Struct, gc=False):
    instrument: str
    granularity: str
    candles: list[_Candle]


class _Instrument(Struct, gc=False):
    name: _Name


class _Instruments(Struct, gc=False):
    instruments: list[_Instrument]


class _Error(Struct, gc=False):
    errorMessage: str = ""  # noqa: N815 (the venue's name)


# Not strict: numbers come as strings.
_decode_line = msgspec.json.Decoder(_Line, strict=False).decode
_decode_candles = msgspec.json.Decoder(_CandlePage, strict=False).decode
_decode_instruments = msgspec.json.Decoder(_Instruments).decode
_decode_error = msgspec.json.Decoder(_Error).decode

# What msgspec raises: bad JSON or fields, bad UTF-8, and more nesting than the interpreter's stack has room for.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_line(line: bytes) -> Event:
    """Return what a line of the price stream says. Raises BadMessage for what the venue's protocol does not allow."""
    try:
        row = _decode_line(line)
        kind = row.type
        if kind == "HEARTBEAT":
            return Heartbeat(_time_of(row.time))
        if kind == "PRICE" or (kind is None and row.instrument is not None):
            return _price(row)
        if kind is None:
            raise msgspec.ValidationError("neither a type nor an instrument")
        return Ignored(kind[:_QUOTED_KIND])
    except _UNREADABLE as error:
        raise BadMessage(f"{error}: {_quote(line)}") from error


def _price(row: _Line) -> Price:
    if row.instrument is None:
        raise msgspec.ValidationError("a price without an instrument")
    if row.bids is None and row.asks is None:
        raise msgspec.ValidationError("a price without bids and asks")
    bid = bid_size = ask = ask_size = None
    for level in row.bids or ():
        if bid is None or level.price > bid:
            bid, bid_size = level.price, level.liquidity
    for level in row.asks or ():
        if ask is None or level.price < ask:
            ask, ask_size = level.price, level.liquidity
    tradeable = row.tradeable is not False and row.status in (None, "tradeable")
    return Price(row.instrument, _time_of(row.time), bid, ask, bid_size, ask_size, tradeable)


def _time_of(text: str | None) -> int:
    if text is None:
        raise msgspec.ValidationError("Object missing required field `time`")
    return parse_time(text)


def parse_time(text: str) -> int:
    """Return nanoseconds since the epoch of ``2016-10-05T05:28:16.729643492Z`` or ``1514852541.189833163``.

    Digits beyond the ninth decimal are dropped. Raises msgspec.ValidationError, which names the text.
    """
    if text[10:11] == "T" and text[-1] == "Z":
        whole, fraction = text[:19], text[19:-1]
        if fraction == "" or (fraction[0] == "." and len(fraction) > 1):
            return _seconds(whole) * NS_PER_S + _fraction(fraction[1:], text)
    else:
        whole, dot, fraction = text.partition(".")
        if _are_digits(whole) and len(whole) <= _MAX_SECONDS_DIGITS and (fraction or not dot):
            return int(whole) * NS_PER_S + _fraction(fraction, text)
    raise _no_time(text)


@lru_cache(maxsize=16)
def _seconds(text: str) -> int:
    """Read ``2016-10-05T05:28:16``. Kept, since most lines are of the second of the line before."""
    # fromisoformat() takes more forms than RFC 3339 has.
    if text[4:5] + text[7:8] + text[13:14] + text[16:17] != "--::":
        raise _no_time(text)
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except ValueError:
        raise _no_time(text) from None
    if since.days < 0:
        raise _no_time(text)
    return since.days * 86_400 + since.seconds


def _fraction(digits: str, text: str) -> int:
    if not digits:
        return 0
    if not _are_digits(digits):
        raise _no_time(text)
    return int(digits[:9].ljust(9, "0"))


def _are_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _no_time(text: str) -> msgspec.ValidationError:
    expected = "expected 2016-10-05T05:28:16.729643492Z or 1514852541.189833163"
    return msgspec.ValidationError(f"time {text[:_QUOTED_KIND]!r}, {expected}")


def encode_time(time_ns: int) -> str:
    """Return nanoseconds since the epoch as the venue takes them: RFC 3339, nine decimals."""
    seconds, fraction = divmod(time_ns, NS_PER_S)
    days, seconds = divmod(seconds, 86_400)
    date = datetime.fromordinal(_EPOCH.toordinal() + days)
    minutes, second = divmod(seconds, 60)
    return f"{date:%Y-%m-%d}T{minutes // 60:02}:{minutes % 60:02}:{second:02}.{fraction:09}Z"


def decode_instruments(body: bytes) -> list[Instrument]:
    """Return the account's instruments; base and quote are the parts of the venue's name at its ``_``.

    A name that cannot be a symbol is left out: nobody could ask for it. Raises BadMessage for another answer.
    """
    try:
        rows = _decode_instruments(body).instruments
    except _UNREADABLE as error:
        raise BadMessage(f"instruments: {error}: {_quote(body)}") from error
    table = []
    for row in rows:
        base, separator, quote = row.name.rpartition("_")
        try:
            symbol = canonical(row.name)
        except ValueError:
            continue
        table.append(Instrument(symbol, row.name, base, quote) if separator else Instrument(symbol, row.name))
    return table


def decode_candles(body: bytes) -> CandlePage:
    """Return an answer of the candles endpoint. Raises BadMessage also for times that do not rise."""
    try:
        page = _decode_candles(body)
        candles: list[Candle] = []
        for row in page.candles:
            time_ns = parse_time(row.time)
            if candles and time_ns <= candles[-1].time_ns:
                raise msgspec.ValidationError(f"candle {row.time} does not follow the one before it")
            sides = (_ohlc(row.mid), _ohlc(row.bid), _ohlc(row.ask))
            candles.append(Candle(time_ns, row.complete, row.volume, *sides))
    except _UNREADABLE as error:
        raise BadMessage(f"candles: {error}: {_quote(body)}") from error
    return CandlePage(page.instrument, page.granularity, candles)


def _ohlc(prices: Any) -> Ohlc | None:
    return None if prices is None else Ohlc(prices.o, prices.h, prices.l, prices.c)


def error_text(body: str) -> str:
    """Return what the venue says in the body of an error, shortened; empty if it says nothing that can be read."""
    try:
        return _decode_error(body).errorMessage[:_QUOTED_BYTES]
    except (*_UNREADABLE, UnicodeEncodeError):
        return ""


def _quote(data: bytes) -> str:
    text = bytes(data[:_QUOTED_BYTES]).decode(errors="replace")
    return f"{text!r}…" if len(data) > _QUOTED_BYTES else repr(text)
