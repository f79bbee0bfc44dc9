"""The newer JSON API ("Jetta"): paths, ticks and candles from bytes. No I/O.

Times and prices are delta coded: row i is the base plus the sum of the deltas up to i, times the multiplier.
Sums are taken over integers, so prices equal those of the datafeed bit for bit. Sizes of ticks are in units,
volumes of candles in millions.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mdserver.errors import BadMessage
from mdserver.model import TickColumns

from .codec import MS_PER_HOUR, US_PER_MS, CandleColumns, hour_of

__all__ = ["candles_path", "check", "decode_candles", "decode_ticks", "ticks_path"]

MAX_DECIMALS = 12

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PERIODS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_CENTS_PER_MILLION = 1e8
_MAX_VOLUME = 1e15


class _Ticks(msgspec.Struct, rename="camel"):
    timestamp: int
    multiplier: Decimal
    ask: Decimal | None
    bid: Decimal | None
    times: list[int]
    asks: list[int]
    bids: list[int]
    ask_volumes: list[float]
    bid_volumes: list[float]


class _Candles(msgspec.Struct):
    timestamp: int
    multiplier: Decimal
    open: Decimal | None
    high: Decimal | None
    low: Decimal | None
    close: Decimal | None
    shift: int
    times: list[int]
    opens: list[int]
    highs: list[int]
    lows: list[int]
    closes: list[int]
    volumes: list[float]


_T = TypeVar("_T", _Ticks, _Candles)


def ticks_path(jetta_code: str, hour_us: int) -> str:
    """Return the path of an hour of ticks below the API's base; months count from 1."""
    hour = hour_of(hour_us)
    return f"ticks/{jetta_code}/{hour.year}/{hour.month}/{hour.day}/{hour.hour}"


def candles_path(jetta_code: str, side: str, period: str, start_us: int) -> str:
    """Return the path of candles: ``minute`` of a day, ``hour`` of a month, ``day`` of a year."""
    start = hour_of(start_us)
    folder = {
        "minute": f"{start.year}/{start.month}/{start.day}",
        "hour": f"{start.year}/{start.month}",
        "day": f"{start.year}",
    }[period]
    return f"candles/{period}/{jetta_code}/{side}/{folder}"


def decode_ticks(body: bytes, origin: str, hour_us: int) -> TickColumns:
    """Return the ticks of an hour; none where the API says that there are none.

    Raises BadMessage with ``origin`` for another hour than asked, another shape, times out of the hour or going
    back, an ask below the bid, and a price that is not positive.
    """
    answer = _parse(body, origin, _Ticks)
    if answer.timestamp * US_PER_MS != hour_us:
        expected = hour_us // US_PER_MS
        raise BadMessage(f"{origin}: the answer is for {answer.timestamp} ms, expected {expected}")
    columns = (answer.times, answer.asks, answer.bids, answer.ask_volumes, answer.bid_volumes)
    _same_length(columns, origin)
    ms = _times(answer.times, origin)
    if len(ms) and ms[-1] >= MS_PER_HOUR:
        raise BadMessage(f"{origin}: a tick at {ms[-1]} ms, expected less than {MS_PER_HOUR}")
    decimals = _decimals(answer.multiplier, origin)
    ask = _prices(answer.ask, answer.asks, decimals, origin)
    bid = _prices(answer.bid, answer.bids, decimals, origin)
    if (ask < bid).any():
        row = int(np.argmax(ask < bid))
        raise BadMessage(f"{origin}: the ask {ask[row]} is below the bid {bid[row]} at tick {row}")
    return TickColumns(
        ms * US_PER_MS + hour_us,
        bid,
        ask,
        _volumes(answer.bid_volumes, origin),
        _volumes(answer.ask_volumes, origin),
    )


def check(body: bytes, origin: str, hour_us: int) -> bool:
    """Return whether the answer has ticks; raise BadMessage as :func:`decode_ticks` does."""
    return bool(len(decode_ticks(body, origin, hour_us).time_us))


def decode_candles(body: bytes, origin: str, start_us: int, period: str) -> CandleColumns:
    """Return the candles of a period; candles of closed hours are absent where the datafeed has fillers.

    Raises BadMessage as :func:`decode_ticks` does.
    """
    answer = _parse(body, origin, _Candles)
    if answer.timestamp * US_PER_MS != start_us:
        expected = start_us // US_PER_MS
        raise BadMessage(f"{origin}: the answer is for {answer.timestamp} ms, expected {expected}")
    if answer.shift != _PERIODS[period]:
        raise BadMessage(f"{origin}: a shift of {answer.shift} ms, expected {_PERIODS[period]}")
    deltas = (answer.opens, answer.highs, answer.lows, answer.closes)
    _same_length((answer.times, answer.volumes, *deltas), origin)
    decimals = _decimals(answer.multiplier, origin)
    bases = (answer.open, answer.high, answer.low, answer.close)
    first, high, low, last = (
        _prices(base, delta, decimals, origin) for base, delta in zip(bases, deltas, strict=True)
    )
    if (low > np.minimum(first, last)).any() or (high < np.maximum(first, last)).any():
        raise BadMessage(f"{origin}: a candle's open or close is outside of its low and high")
    steps = _times(answer.times, origin)
    volumes = np.rint(_volumes(answer.volumes, origin) * _CENTS_PER_MILLION) / 100
    return CandleColumns(steps * answer.shift * US_PER_MS + start_us, first, high, low, last, volumes)


def _parse(body: bytes, origin: str, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"{origin}: {error}: {body[:40]!r}") from error


def _same_length(columns: Sequence[Sequence[object]], origin: str) -> None:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) != 1:
        raise BadMessage(f"{origin}: columns of different lengths: {lengths}")


def _decimals(multiplier: Decimal, origin: str) -> int:
    """Return n of a multiplier of ``10 ** -n``, however it is written (0.00001, 1.0E-5)."""
    if multiplier.is_finite():
        for decimals in range(MAX_DECIMALS + 1):
            if multiplier == Decimal(1).scaleb(-decimals):
                return decimals
    raise BadMessage(f"{origin}: a multiplier of {multiplier}, expected 1, 0.1, 0.01 and so on")


def _prices(base: Decimal | None, deltas: list[int], decimals: int, origin: str) -> Floats:
    if base is None:
        if deltas:
            raise BadMessage(f"{origin}: {len(deltas)} prices without a first one")
        return np.empty(0)
    # Decimals of any size are JSON: arithmetic with them raises, comparisons of finite ones do not.
    if not base.is_finite() or base.copy_abs() > 2**53 or not _is_whole(scaled := base.scaleb(decimals)):
        raise BadMessage(
            f"{origin}: a price of {base}, expected a multiple of {Decimal(1).scaleb(-decimals)}"
        )
    prices: Ints = np.cumsum(_integers(deltas, origin)) + int(scaled)
    if (prices <= 0).any():
        raise BadMessage(f"{origin}: a price that is not positive at row {int(np.argmax(prices <= 0))}")
    return prices / float(10**decimals)


def _is_whole(scaled: Decimal) -> bool:
    return scaled == scaled.to_integral_value() and scaled.copy_abs() <= 2**53


def _times(deltas: list[int], origin: str) -> Ints:
    steps = _integers(deltas, origin)
    if (steps < 0).any():
        raise BadMessage(f"{origin}: time goes back by {-steps.min()} at row {int(np.argmax(steps < 0))}")
    return np.cumsum(steps)


def _integers(values: list[int], origin: str) -> Ints:
    """Return an array; a number so large that a sum could overflow is refused."""
    try:
        array = np.array(values, np.int64)
    except OverflowError as error:
        raise BadMessage(f"{origin}: a number beyond 64 bits") from error
    if (np.abs(array) > 2**40).any():
        raise BadMessage(f"{origin}: a difference of {array[np.abs(array).argmax()]}")
    return array


def _volumes(values: list[float], origin: str) -> Floats:
    array = np.array(values, np.float64)
    if not ((array >= 0) & (array <= _MAX_VOLUME)).all():
        raise BadMessage(f"{origin}: a volume is negative, not finite or above {_MAX_VOLUME:g}")
    return array
