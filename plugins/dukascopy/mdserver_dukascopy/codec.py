"""The datafeed's files: paths, ticks and candles from bytes. No I/O.

A bi5 file is one LZMA stream in the old "alone" format with its length in the header. Records are big-endian:
a tick is milliseconds since the hour, ask, bid (integers of ``10 ** -decimals``), ask and bid volume (float32,
in millions); a candle is seconds since the start of the file's period, open, close, low, high, volume.
All times are UTC and months in paths count from 00. Verified against 84 recorded files.
"""

from __future__ import annotations

import lzma
import struct
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdserver.errors import BadMessage
from mdserver.model import US_PER_S, TickColumns

__all__ = [
    "CandleColumns",
    "candles_path",
    "check",
    "decode_candles",
    "decode_content",
    "decode_ticks",
    "decompress",
    "hour_of",
    "ticks_path",
    "units",
]

MS_PER_HOUR = 3_600_000
US_PER_MS = 1_000

HEADER = struct.Struct("<BIQ")
"""Properties, dictionary size, length of the content."""

MAX_CONTENT = 256 * 1024 * 1024
"""Bytes in the largest content that is believed: 13 million ticks; the busiest real hours have 10^5."""

_TICK_WORDS, _CANDLE_WORDS, _WORD = 5, 6, 4

_EXACT = 8_000_000
"""Below so many units of its last decimal, a float32 stands for one decimal number only (2^-24 of it is less
than half a unit)."""

_MAX_DECIMALS = 14
"""Of a million: a hundred-millionth of a unit, the resolution of volumes in candles."""

_MILLION_DECIMALS = 6

_PERIODS_S = {"min_1": 60, "hour_1": 3_600, "day_1": 86_400}

Floats = NDArray[np.float64]


class CandleColumns(NamedTuple):
    """Candles of one side, one array per column. ``volume`` in units; 0 marks a filler of closed hours."""

    time_us: NDArray[np.int64]
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats


def hour_of(hour_us: int) -> datetime:
    """Return the hour as a date; ValueError where it is not the start of one."""
    if hour_us % (MS_PER_HOUR * US_PER_MS):
        raise ValueError(f"{hour_us} µs is not the start of an hour")
    return datetime.fromtimestamp(hour_us / US_PER_S, UTC)


def ticks_path(code: str, hour_us: int) -> str:
    """Return the path of an hour of ticks below the datafeed's base."""
    hour = hour_of(hour_us)
    return f"{code}/{hour.year:04}/{hour.month - 1:02}/{hour.day:02}/{hour.hour:02}h_ticks.bi5"


def candles_path(code: str, side: str, period: str, start_us: int) -> str:
    """Return the path of a file of candles: ``min_1`` of a day, ``hour_1`` of a month, ``day_1`` of a year."""
    start = hour_of(start_us)
    folder = {
        "min_1": f"{start.year:04}/{start.month - 1:02}/{start.day:02}",
        "hour_1": f"{start.year:04}/{start.month - 1:02}",
        "day_1": f"{start.year:04}",
    }[period]
    return f"{code}/{folder}/{side}_candles_{period}.bi5"


def decode_ticks(body: bytes, origin: str, hour_us: int, decimals: int) -> TickColumns:
    """Return the ticks of an hour's file, sizes in units of the base. An empty body is an hour without ticks.

    Raises BadMessage with ``origin`` for anything that the format does not allow, for an ask below the bid and
    for a price of zero.
    """
    content = decompress(body, origin) if body else b""
    return decode_content(content, origin, hour_us, decimals)


def decode_content(content: bytes, origin: str, hour_us: int, decimals: int) -> TickColumns:
    """Return the ticks of an hour's file that is decompressed already; as :func:`decode_ticks` otherwise."""
    words = _tick_words(content, origin)
    ms = words[:, 0].astype(np.int64)
    scale = float(10**decimals)  # a power of ten: the quotient is the float nearest to the decimal
    volumes = words[:, 3:].view(np.float32)
    return TickColumns(
        ms * US_PER_MS + hour_us,
        words[:, 2] / scale,
        words[:, 1] / scale,
        units(volumes[:, 1], origin),
        units(volumes[:, 0], origin),
    )


def check(body: bytes, origin: str) -> bytes:
    """Return the body's content, nothing if it has no ticks; raise BadMessage as :func:`decode_ticks` does."""
    content = decompress(body, origin) if body else b""
    words = _tick_words(content, origin)
    units(words[:, 3:].view(np.float32).ravel(), origin)
    return content


def decode_candles(body: bytes, origin: str, start_us: int, period: str, decimals: int) -> CandleColumns:
    """Return the candles of a file that begins at ``start_us``, fillers of closed hours included.

    ``period`` as in :func:`candles_path`. Raises BadMessage as :func:`decode_ticks` does.
    """
    words = _words(decompress(body, origin), origin, _CANDLE_WORDS)
    seconds = words[:, 0].astype(np.int64)
    if not np.array_equal(seconds, np.arange(len(seconds)) * _PERIODS_S[period]):
        raise BadMessage(f"{origin}: the times are no complete grid of {_PERIODS_S[period]} s from 0")
    first, last, low, high = (words[:, column] for column in range(1, 5))
    if not words[:, 1:5].all():
        raise BadMessage(f"{origin}: a price is 0")
    if (low > np.minimum(first, last)).any() or (high < np.maximum(first, last)).any():
        raise BadMessage(f"{origin}: a candle's open or close is outside of its low and high")
    scale = float(10**decimals)
    return CandleColumns(
        seconds * US_PER_S + start_us,
        first / scale,
        high / scale,
        low / scale,
        last / scale,
        units(words[:, 5].view(np.float32), origin),
    )


def decompress(body: bytes, origin: str) -> bytes:
    """Return the content of an LZMA stream that must be complete, with nothing after it."""
    if len(body) < HEADER.size:
        raise BadMessage(f"{origin}: {len(body)} bytes are too short for a header of {HEADER.size}")
    if not body.startswith(b"\x5d\x00\x00"):
        raise BadMessage(f"{origin}: begins with {body[:16]!r}, expected an LZMA header (5d 00 00)")
    length = HEADER.unpack_from(body)[2]
    if length > MAX_CONTENT:
        raise BadMessage(f"{origin}: the header says {length} bytes, expected at most {MAX_CONTENT}")
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_ALONE)
    try:
        content = decompressor.decompress(body)
    except lzma.LZMAError as error:
        raise BadMessage(f"{origin}: damaged LZMA data: {error}") from error
    # A stream that breaks off gives what it has and no error.
    if not decompressor.eof or len(content) != length:
        raise BadMessage(f"{origin}: truncated: {len(content)} of {length} bytes after decompression")
    if decompressor.unused_data:
        raise BadMessage(f"{origin}: {len(decompressor.unused_data)} bytes after the end of the LZMA stream")
    return content


def units(millions: NDArray[np.float32], origin: str) -> Floats:
    """Return volumes in units: the shortest decimal that the float32 stands for, times a million.

    So 7.54 (as float32 7.539999961853027) is 7 540 000 and not 7 539 999.96, which is also what the JSON API says.
    Raises BadMessage for a volume that is negative, infinite or no number.
    """
    wide = millions.astype(np.float64)
    if not wide.size:
        return wide
    largest = float(wide.max())
    if not (wide.min() >= 0 and np.isfinite(largest)):  # a NaN makes both comparisons false
        raise BadMessage(f"{origin}: a volume is negative or no finite number")
    decimals = _MAX_DECIMALS
    while decimals and largest * 10.0**decimals >= _EXACT:
        decimals -= 1
    result, exact = _rounded(wide, millions, decimals)
    # The rest has more decimals than all its values can be unique with: one more decimal until it fits.
    while not exact.all() and decimals < _MAX_DECIMALS:
        decimals += 1
        rest = np.flatnonzero(~exact)
        result[rest], exact[rest] = _rounded(wide[rest], millions[rest], decimals)
    return result


def _rounded(wide: Floats, narrow: NDArray[np.float32], decimals: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Return volumes in units, rounded to decimals of a million, and where that is the same float32."""
    count = np.rint(wide * 10.0**decimals)
    exact = (count / 10.0**decimals).astype(np.float32) == narrow
    shift = _MILLION_DECIMALS - decimals
    return (count * 10.0**shift if shift >= 0 else count / 10.0**-shift), exact


def _tick_words(content: bytes, origin: str) -> NDArray[np.uint32]:
    """Return the checked records of an hour of ticks as rows of five native words."""
    words = _words(content, origin, _TICK_WORDS)
    if not len(words):
        return words
    ms, ask, bid = words[:, 0], words[:, 1], words[:, 2]
    if ms.max() >= MS_PER_HOUR:
        raise BadMessage(f"{origin}: a tick at {ms.max()} ms, expected less than {MS_PER_HOUR}")
    if (ms[1:] < ms[:-1]).any():
        row = int(np.argmax(ms[1:] < ms[:-1])) + 1
        raise BadMessage(f"{origin}: time goes back from {ms[row - 1]} to {ms[row]} ms at tick {row}")
    if not bid.all():
        raise BadMessage(f"{origin}: a bid of 0 at tick {int(np.argmin(bid))}")
    if (ask < bid).any():
        row = int(np.argmax(ask < bid))
        raise BadMessage(f"{origin}: the ask {ask[row]} is below the bid {bid[row]} at tick {row}")
    return words


def _words(content: bytes, origin: str, width: int) -> NDArray[np.uint32]:
    if len(content) % (width * _WORD):
        raise BadMessage(f"{origin}: {len(content)} bytes, expected records of {width * _WORD}")
    words: NDArray[Any] = np.frombuffer(content, ">u4")
    return words.astype(np.uint32).reshape(-1, width)
