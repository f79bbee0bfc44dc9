"""How each kind of record looks to clients: the struct that is encoded, and how it is made (pure).

A whole number is written without ``.0``: the server invents no digit that the venue did not send. ``received`` is in
Unix seconds, and there only for clients that asked for it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from .model import US_PER_S, Candle, Gap, GapState, Level, OrderBook, Published, Side, Tick, Trade

__all__ = [
    "FULL_BOOK",
    "Received",
    "best_levels",
    "candle_wire",
    "gap_wire",
    "order_book_wire",
    "seconds",
    "tick_wire",
    "trade_wire",
    "whole",
]

FULL_BOOK = "full"
"""The depth of a book with all levels: a snapshot and then its changes. Books of other depths stand for themselves."""

Received: TypeAlias = float | UnsetType
"""When the socket had a record, in Unix seconds; unset for clients that did not ask."""


class _Tick(Struct, gc=False, tag_field="type", tag="tick"):
    broker: str
    symbol: str
    seq: int
    time: float
    bid: float
    ask: float
    bid_size: float | UnsetType
    ask_size: float | UnsetType
    received: Received


class _Trade(Struct, gc=False, tag_field="type", tag="trade"):
    broker: str
    symbol: str
    seq: int
    time: float
    price: float
    size: float
    side: Side | UnsetType
    trade_id: str | UnsetType
    received: Received


class _OrderBook(Struct, gc=False, tag_field="type", tag="orderbook"):
    broker: str
    symbol: str
    seq: int
    time: float
    depth: int | str | UnsetType
    bids: list[Level]
    asks: list[Level]
    snapshot: Literal[True] | UnsetType
    received: Received


class _Candle(Struct, gc=False, tag_field="type", tag="candle"):
    broker: str
    symbol: str
    interval: str
    seq: int | UnsetType
    time: float
    open: float
    high: float
    low: float
    close: float
    volume: float
    count: int
    closed: bool
    revised: Literal[True] | UnsetType
    received: Received


class _Gap(Struct, gc=False, tag_field="type", tag="gap", rename={"from_s": "from", "to_s": "to"}):
    broker: str
    symbol: str
    record_type: str
    from_s: float
    to_s: float | UnsetType
    cause: str
    size: int | UnsetType
    state: GapState


def whole(value: float) -> float:
    """Return a whole number as an int, any other as it is."""
    number = int(value)
    return number if number == value else value


def seconds(time_us: int) -> float:
    """Return a time in Unix seconds: exact to the microsecond."""
    return time_us // US_PER_S if time_us % US_PER_S == 0 else time_us / US_PER_S


def tick_wire(published: Published, tick: Tick, received: Received) -> Struct:
    """Return a tick as it is encoded."""
    topic, time_us = published.topic, tick.time_us
    bid, ask, bid_size, ask_size = tick.bid, tick.ask, tick.bid_size, tick.ask_size
    return _Tick(  # whole() and seconds() written out: five calls would cost a third of this function
        topic.broker,
        topic.symbol,
        published.seq,
        time_us / US_PER_S if time_us % US_PER_S else time_us // US_PER_S,
        number if (number := int(bid)) == bid else bid,
        number if (number := int(ask)) == ask else ask,
        UNSET if bid_size is None else number if (number := int(bid_size)) == bid_size else bid_size,
        UNSET if ask_size is None else number if (number := int(ask_size)) == ask_size else ask_size,
        received,
    )


def trade_wire(published: Published, trade: Trade, received: Received) -> Struct:
    """Return a trade as it is encoded."""
    topic, time_us, price, size = published.topic, trade.time_us, trade.price, trade.size
    return _Trade(
        topic.broker,
        topic.symbol,
        published.seq,
        time_us / US_PER_S if time_us % US_PER_S else time_us // US_PER_S,
        number if (number := int(price)) == price else price,
        number if (number := int(size)) == size else size,
        trade.side or UNSET,
        UNSET if trade.trade_id is None else trade.trade_id,
        received,
    )


def best_levels(book: OrderBook, levels: int) -> OrderBook:
    """Return the best levels of a book that stands for itself."""
    return OrderBook(
        book.symbol, book.time_us, book.bids[:levels], book.asks[:levels], book.action, str(levels)
    )


def order_book_wire(published: Published, book: OrderBook, received: Received) -> Struct:
    """Return an order book as it is encoded.

    ``snapshot`` marks the records that begin anew where others are changes: in a full book. A book of some levels
    stands for itself each time.
    """
    topic, depth = published.topic, book.depth
    return _OrderBook(
        topic.broker,
        topic.symbol,
        published.seq,
        seconds(book.time_us),
        (int(depth) if depth.isdecimal() else depth) if depth else UNSET,
        [(whole(price), whole(size)) for price, size in book.bids],
        [(whole(price), whole(size)) for price, size in book.asks],
        True if depth == FULL_BOOK and book.action == "snapshot" else UNSET,
        received,
    )


def candle_wire(published: Published, candle: Candle, received: Received) -> Struct:
    """Return a candle as it is encoded."""
    topic = published.topic
    return _Candle(
        topic.broker,
        topic.symbol,
        candle.interval,
        published.seq or UNSET,  # one that the server made has no number: it is sent again and again
        seconds(candle.time_us),
        whole(candle.open),
        whole(candle.high),
        whole(candle.low),
        whole(candle.close),
        whole(candle.volume),
        candle.count,
        candle.closed,
        True if candle.revised else UNSET,
        received,
    )


def gap_wire(published: Published, gap: Gap, received: Received) -> Struct:
    """Return a gap as it is encoded; one that lasts has no end.

    The record that ends it may be older than the one before it, in a venue's stream or after a step of the clock: then
    it is a gap of no length, as in the ledger.
    """
    topic = published.topic
    return _Gap(
        topic.broker,
        topic.symbol,
        topic.type,
        seconds(gap.from_us),
        UNSET if gap.to_us is None else seconds(max(gap.from_us, gap.to_us)),
        gap.cause,
        UNSET if gap.size is None else gap.size,
        gap.state,
    )
