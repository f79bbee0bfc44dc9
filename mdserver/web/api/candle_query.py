"""Parse a request for candles: everything that is decided before the store is read. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import attrs
import msgspec

from ...model import US_PER_S, RecordType
from ...protocol.times import Times
from ...timeframes import Timeframe
from .caching import Span
from .params import number_up_to, one_of, symbols_of, time_range_us, timeframe_of, times_of, words_of
from .problem import Problem, invalid_parameter
from .series_choice import PRICES, Price, price_of

__all__ = [
    "DEFAULT_FIELDS",
    "FIELDS",
    "FILLS",
    "MAX_CANDLES",
    "QUERY",
    "SORTS",
    "CandleQuery",
    "Fill",
    "Sort",
    "cursor_at",
]

MAX_CANDLES = 1_000_000
"""How many candles one request may cover: nearly two years of minutes."""

QUERY = (
    *("symbol", "symbols", "timeframe", "from", "to", "broker", "price", "format"),
    *("align", "fill", "sort", "limit", "cursor", "fields", "times"),
)

Fill: TypeAlias = Literal["none", "previous", "null"]
FILLS: tuple[Fill, ...] = get_args(Fill)
Sort: TypeAlias = Literal["asc", "desc"]
SORTS: tuple[Sort, ...] = get_args(Sort)

DEFAULT_FIELDS = ("time", "open", "high", "low", "close", "volume")
FIELDS = (*DEFAULT_FIELDS, "count", "vwap", "broker", "complete")


@attrs.frozen
class CandleQuery:
    """Which candles are requested, and how they are shown.

    ``by_symbol``: the answer is an object by symbol. ``price`` None: the default of each source. ``limit`` None: all.
    ``timeframe`` and ``span`` are as asked for; a cursor has moved the one end of ``span``.
    """

    symbols: tuple[str, ...]
    by_symbol: bool
    timeframe: Timeframe
    span: Span
    broker: str | None
    price: Price | None
    fill: Fill
    sort: Sort
    limit: int | None
    fields: tuple[str, ...]
    times: Times

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> CandleQuery:
        """Return the query for checked parameters (:func:`params.query_of`). Raises :class:`Problem`."""
        symbols, timeframe = symbols_of(query), timeframe_of(query)
        from_us, to_us = time_range_us(query)
        sort = one_of(query, "sort", SORTS, "asc")
        after_us = _time_of(query, from_us, to_us)
        if after_us is not None:
            from_us, to_us = (after_us + 1, to_us) if sort == "asc" else (from_us, after_us - 1)
        limit = number_up_to(query, "limit", MAX_CANDLES, MAX_CANDLES) if "limit" in query else None
        return cls(
            symbols=symbols,
            by_symbol="symbols" in query,
            timeframe=timeframe,
            span=_span(from_us, to_us, timeframe, limited=limit is not None),
            broker=query.get("broker"),
            price=price_of(query),
            fill=one_of(query, "fill", FILLS, "none"),
            sort=sort,
            limit=limit,
            fields=words_of(query, "fields", FIELDS, DEFAULT_FIELDS),
            times=times_of(query),
        )

    @property
    def record_type(self) -> RecordType | None:
        """The type of records that the price is made from; None if the sources decide."""
        return None if self.price is None else PRICES[self.price]


def cursor_at(time_s: int) -> str:
    """Return the cursor of the page behind the candle with this open."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode([time_s])).rstrip(b"=").decode()


def _time_of(query: Mapping[str, str], from_us: int, to_us: int) -> int | None:
    """Return the open of the last candle of the page before, in microseconds."""
    text = query.get("cursor")
    if text is None:
        return None
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
        time_us = msgspec.msgpack.decode(packed, type=tuple[int])[0] * US_PER_S
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise invalid_parameter("cursor", text, "expected the X-Next-Cursor of the page before") from None
    if not from_us <= time_us <= to_us:
        detail = "the cursor belongs to another request; keep the other parameters from page to page"
        raise Problem(400, "invalid_parameter", detail, param="cursor")
    return time_us


def _span(from_us: int, to_us: int, timeframe: Timeframe, *, limited: bool) -> Span:
    """Return the buckets that open in [from, to]; queries for the same candles get equal spans."""
    first_s = timeframe.first_from(-(-from_us // US_PER_S))
    last_s = timeframe.open_of(to_us // US_PER_S)
    span = Span(first_s * US_PER_S, last_s * US_PER_S, timeframe.length_s * US_PER_S, timeframe)
    if span.buckets > MAX_CANDLES and not limited:
        detail = f"{span.buckets} candles of {timeframe.name} open from `from` to `to`; expected at most {MAX_CANDLES}"
        raise Problem(
            400,
            "range_too_large",
            f"{detail}: narrow the range, set a limit or take a longer timeframe",
            param="to",
        )
    return span
