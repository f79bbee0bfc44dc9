"""Ticks as the predecessor left them: ``ticks/{SYMBOL}/{YYYY}/{MM}/{DD}/part-*.json`` with timestamp, bid and ask.

A part is a JSON array of objects, or one object a line. A timestamp is ISO 8601 (UTC where it names no zone) or a
number of seconds, milliseconds or microseconds since 1970, told apart by its size.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial

import msgspec
import numpy as np

from mdserver.errors import BadMessage
from mdserver.market_hours import HOUR_US
from mdserver.model import TickColumns
from mdserver.plugin import TickHour
from mdserver.symbols import canonical

from .layout import DAY_US, day_start_us

__all__ = ["FOLDER", "Part", "hours_of_day", "part_of"]

FOLDER = "ticks/"
SERVICE = "predecessor"

_KEY = re.compile(
    r"ticks/(?P<symbol>[^/]+)/(?P<year>\d{4})/(?P<month>\d{1,2})/(?P<day>\d{1,2})/part-[^/]*\.json"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS_FROM, _US_FROM = 1e11, 1e14
"""A number of seconds stays below the first until the year 5138, one of milliseconds below the second likewise."""


class Part(msgspec.Struct, frozen=True):
    """An object of the predecessor's."""

    key: str
    symbol: str
    day: date


class _Tick(msgspec.Struct, frozen=True):
    timestamp: str | int | float
    bid: float
    ask: float


_ARRAY = msgspec.json.Decoder(list[_Tick], strict=False)
_LINE = msgspec.json.Decoder(_Tick, strict=False)


def part_of(key: str) -> Part | None:
    """Return what an object is by its name; None for one of another name."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    try:
        day = date(int(match["year"]), int(match["month"]), int(match["day"]))
        return Part(key, canonical(match["symbol"]), day)
    except ValueError:
        return None


def hours_of_day(day: date, parts: Sequence[tuple[str, bytes]]) -> list[TickHour]:
    """Return the hours that have ticks, from the parts of a day. Raises BadMessage with the name of the part."""
    times: list[int] = []
    prices: list[tuple[float, float]] = []
    for key, data in sorted(parts):
        for tick in _ticks_of(key, data):
            times.append(_time_us(key, tick.timestamp))
            prices.append((tick.bid, tick.ask))
    time_us = np.array(times, np.int64)
    bid, ask = np.array(prices, np.float64).reshape(-1, 2).T
    start_us = day_start_us(day)
    if len(time_us) and (time_us.min() < start_us or time_us.max() >= start_us + DAY_US):
        raise BadMessage(f"{parts[0][0]}: a tick is not of {day}, the day of its folder")
    order = np.argsort(time_us, kind="stable")
    nothing = np.full(len(time_us), np.nan)
    ticks = TickColumns(time_us[order], bid[order], ask[order], nothing, nothing)
    origin = parts[0][0].rpartition("/")[0] if parts else ""
    return [_hour(ticks, hour_us, origin) for hour_us in np.unique(time_us // HOUR_US * HOUR_US).tolist()]


def _hour(ticks: TickColumns, hour_us: int, origin: str) -> TickHour:
    first, end = np.searchsorted(ticks.time_us, (hour_us, hour_us + HOUR_US)).tolist()
    own = TickColumns(
        ticks.time_us[first:end],
        ticks.bid[first:end],
        ticks.ask[first:end],
        ticks.bid_size[first:end],
        ticks.ask_size[first:end],
    )
    checksum = hashlib.sha256(own.time_us.tobytes() + own.bid.tobytes() + own.ask.tobytes()).hexdigest()
    return TickHour(hour_us, partial(_same, own), checksum, SERVICE, origin)


def _same(ticks: TickColumns) -> TickColumns:
    return ticks


def _ticks_of(key: str, data: bytes) -> list[_Tick]:
    try:
        if data.lstrip()[:1] == b"[":
            return _ARRAY.decode(data)
        return [_LINE.decode(line) for line in data.splitlines() if line.strip()]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"{key}: found {error}, expected objects with timestamp, bid and ask") from error


def _time_us(key: str, value: str | float) -> int:
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            raise BadMessage(f"{key}: found the timestamp {value[:40]!r}, expected ISO 8601") from None
        when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        return (when - _EPOCH) // timedelta(microseconds=1)
    scale = 1_000_000 if value < _MS_FROM else 1_000 if value < _US_FROM else 1
    return round(value * scale)
