"""Records as clients see them.

A whole number is written without ``.0``: the server invents no digit that the venue did not send.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType
from msgspec.json import Encoder

from ..model import US_PER_S, Published, Side, Tick
from .server_frames import text_frame

__all__ = ["encode_record", "frame_record"]


class _WireTick(Struct, gc=False, tag_field="type", tag="tick"):
    broker: str
    symbol: str
    seq: int
    time: float
    bid: float
    ask: float
    bid_size: float | UnsetType
    ask_size: float | UnsetType
    conflated: int | UnsetType


class _WireTrade(Struct, gc=False, tag_field="type", tag="trade"):
    broker: str
    symbol: str
    seq: int
    time: float
    price: float
    size: float
    side: Side | UnsetType
    trade_id: str | UnsetType


_encode = Encoder().encode


def _number(value: float) -> float:
    whole = int(value)
    return whole if whole == value else value


def _size(value: float | None) -> float | UnsetType:
    return UNSET if value is None else _number(value)


def encode_record(published: Published, conflated: int = 0) -> bytes:
    """Return the JSON of a record; ``conflated`` older ticks of its topic were skipped for this client."""
    topic, record = published.topic, published.record
    if type(record) is Tick:
        return _encode(
            _WireTick(
                topic.broker,
                topic.symbol,
                published.seq,
                _number(record.time_us / US_PER_S),
                _number(record.bid),
                _number(record.ask),
                _size(record.bid_size),
                _size(record.ask_size),
                conflated or UNSET,
            )
        )
    return _encode(
        _WireTrade(
            topic.broker,
            topic.symbol,
            published.seq,
            _number(record.time_us / US_PER_S),
            _number(record.price),
            _number(record.size),
            record.side or UNSET,
            UNSET if record.trade_id is None else record.trade_id,
        )
    )


def frame_record(published: Published, conflated: int = 0) -> bytes:
    """Return a record as one WebSocket text frame."""
    return text_frame(encode_record(published, conflated))
