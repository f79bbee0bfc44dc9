"""Encoders for tests: hours of ticks and candles as Dukascopy's two services write them."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec

__all__ = [
    "FakeCandle",
    "FakeTick",
    "compress",
    "encode_candles",
    "encode_ticks",
    "encode_ticks_json",
    "json_path",
    "ticks_path",
]

_FILTERS = [{"id": lzma.FILTER_LZMA1, "dict_size": 4 * 1024 * 1024, "lc": 3, "lp": 0, "pb": 2}]
_TICK = struct.Struct(">IIIff")
_CANDLE = struct.Struct(">IIIIIf")
_UNITS = 1_000_000


class FakeTick(NamedTuple):
    """A tick: milliseconds since the hour, prices as integers of the instrument's scale, volumes in millions."""

    ms: int
    ask: int
    bid: int
    ask_volume: float = 1.0
    bid_volume: float = 1.0


class FakeCandle(NamedTuple):
    """A candle in the order of the file: seconds since its start, integer prices, volume in millions."""

    second: int
    open: int
    close: int
    low: int
    high: int
    volume: float = 1.0


def ticks_path(code: str, hour_us: int) -> str:
    """Return the datafeed's path of an hour: the month counts from 00."""
    hour = datetime.fromtimestamp(hour_us / 1_000_000, UTC)
    return f"{code}/{hour:%Y}/{hour.month - 1:02}/{hour:%d}/{hour:%H}h_ticks.bi5"


def json_path(jetta_code: str, hour_us: int) -> str:
    """Return the JSON API's path of an hour: the month counts from 1, nothing is padded."""
    hour = datetime.fromtimestamp(hour_us / 1_000_000, UTC)
    return f"ticks/{jetta_code}/{hour.year}/{hour.month}/{hour.day}/{hour.hour}"


def compress(content: bytes) -> bytes:
    """Return ``content`` as an LZMA "alone" stream with its length in the header.

    Unlike Dukascopy's files it also has an end marker, which liblzma always writes and decoders accept.
    """
    stream = lzma.compress(content, format=lzma.FORMAT_ALONE, filters=_FILTERS)
    return stream[:5] + struct.pack("<Q", len(content)) + stream[13:]


def encode_ticks(rows: Iterable[FakeTick]) -> bytes:
    """Return the file of an hour; without rows an empty one, which means an hour without ticks."""
    content = b"".join(_TICK.pack(*row) for row in rows)
    return compress(content) if content else b""


def encode_candles(rows: Iterable[FakeCandle]) -> bytes:
    """Return a file of candles."""
    return compress(b"".join(_CANDLE.pack(*row) for row in rows))


def encode_ticks_json(rows: Sequence[FakeTick], hour_us: int, decimals: int) -> bytes:
    """Return an hour in the JSON API's form: delta-encoded, volumes in units."""
    unit = Decimal(1).scaleb(-decimals)
    first = rows[0] if rows else None
    answer = {
        "timestamp": hour_us // 1_000,
        "multiplier": float(unit),
        "ask": float(first.ask * unit) if first else None,
        "bid": float(first.bid * unit) if first else None,
        "times": _deltas([row.ms for row in rows], 0),
        "asks": _deltas([row.ask for row in rows], first.ask if first else 0),
        "bids": _deltas([row.bid for row in rows], first.bid if first else 0),
        "askVolumes": [float(Decimal(str(row.ask_volume)) * _UNITS) for row in rows],
        "bidVolumes": [float(Decimal(str(row.bid_volume)) * _UNITS) for row in rows],
    }
    return msgspec.json.encode(answer)


def _deltas(values: list[int], start: int) -> list[int]:
    return [value - before for value, before in zip(values, [start, *values], strict=False)]
