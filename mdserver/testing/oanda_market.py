"""Made-up prices and candles for the fake OANDA, the same on every machine. No I/O."""

from __future__ import annotations

import calendar
import random
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import attrs

__all__ = ["FakeCandle", "FakeInstrument", "FakeQuote", "answer_candles", "default_instruments", "time_text"]

NS_PER_S = 1_000_000_000

MAX_CANDLES = 5000

GRANULARITIES = {
    **{f"S{n}": n for n in (5, 10, 15, 30)},
    **{f"M{n}": n * 60 for n in (1, 2, 4, 5, 10, 15, 30)},
    **{f"H{n}": n * 3600 for n in (1, 2, 3, 4, 6, 8, 12)},
}
"""The venue's names of intervals and their lengths in seconds; D, W and M, which follow New York, are not faked."""


@attrs.frozen
class FakeQuote:
    """A price: levels as (price, liquidity), in any order, possibly none. ``time_ns`` None: the time of sending.

    ``extra`` fields are added to the line.
    """

    bids: Sequence[tuple[str, int]] = (("1.10000", 1_000_000),)
    asks: Sequence[tuple[str, int]] = (("1.10010", 1_000_000),)
    tradeable: bool = True
    time_ns: int | None = None
    extra: dict[str, object] = attrs.Factory(dict)


@attrs.frozen
class FakeCandle:
    """A mid candle; bid and ask differ by a spread. Prices are in points of the instrument's precision."""

    time_ns: int
    complete: bool
    volume: int
    open: int
    high: int
    low: int
    close: int


@attrs.define
class FakeInstrument:
    """An instrument of the venue; ``price`` is the start of its random walk, ``digits`` its precision."""

    name: str
    type: str = "CURRENCY"
    price: float = 1.1
    digits: int = 5
    quote: FakeQuote = attrs.Factory(FakeQuote)
    _points: int = attrs.field(init=False, default=0)
    _chance: random.Random = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        self._chance = random.Random(self.name)  # noqa: S311 - made-up prices
        self._points = round(self.price * 10**self.digits)
        self.move()

    def move(self) -> FakeQuote:
        """Move the price by a random step of at least one point; return it with three levels a side."""
        self._points = max(100, self._points + self._chance.choice((-3, -2, -1, 1, 2, 3)))
        steps = ((0, 1_000_000), (1, 2_000_000), (3, 10_000_000))
        self.quote = FakeQuote(
            bids=[(self.text(self._points - step), size) for step, size in steps],
            asks=[(self.text(self._points + 12 + step), size) for step, size in steps],
        )
        return self.quote

    def text(self, points: int) -> str:
        """Return a price as the venue writes it."""
        return f"{points / 10**self.digits:.{self.digits}f}"

    def row(self) -> dict[str, object]:
        """Return its row in the list of instruments."""
        return {
            "name": self.name,
            "type": self.type,
            "displayName": self.name.replace("_", "/"),
            "pipLocation": 1 - self.digits,
            "displayPrecision": self.digits,
            "tradeUnitsPrecision": 0,
            "minimumTradeSize": "1",
            "marginRate": "0.05",
        }

    def candles(self, seconds: int, start_ns: int, end_ns: int, now_ns: int) -> list[FakeCandle]:
        """Return the candles that open in [start_ns, end_ns) and before now; every seventh period has none."""
        step_ns = seconds * NS_PER_S
        first = -(-start_ns // step_ns)
        last = -(-min(end_ns, now_ns) // step_ns)
        return [self._candle(n, step_ns, now_ns) for n in range(first, last) if n % 7]

    def _candle(self, number: int, step_ns: int, now_ns: int) -> FakeCandle:
        chance = random.Random(f"{self.name} {step_ns} {number}")  # noqa: S311 - made-up prices
        middle = round(self.price * 10**self.digits)
        open_, close = (middle + chance.randint(-50, 50) for _ in range(2))
        high, low = max(open_, close) + chance.randint(0, 9), min(open_, close) - chance.randint(0, 9)
        start_ns = number * step_ns
        return FakeCandle(
            start_ns, start_ns + step_ns <= now_ns, chance.randint(1, 500), open_, high, low, close
        )

    def candle_row(self, candle: FakeCandle, price: str) -> dict[str, object]:
        """Return a candle's row with the sides that ``price`` names (any of M, B, A)."""
        row: dict[str, object] = {"complete": candle.complete, "volume": candle.volume}
        for letter, side, shift in (("M", "mid", 0), ("B", "bid", -6), ("A", "ask", 6)):
            if letter in price:
                points = {"o": candle.open, "h": candle.high, "l": candle.low, "c": candle.close}
                row[side] = {key: self.text(value + shift) for key, value in points.items()}
        return row


def default_instruments() -> dict[str, FakeInstrument]:
    """Return seven instruments of all types by name."""
    rows = (
        FakeInstrument("EUR_USD"),
        FakeInstrument("GBP_USD", price=1.27),
        FakeInstrument("EUR_GBP", price=0.86),
        FakeInstrument("USD_JPY", price=151.2, digits=3),
        FakeInstrument("XAU_USD", "METAL", 2350.0, 3),
        FakeInstrument("SPX500_USD", "CFD", 5200.0, 1),
        FakeInstrument("DE30_EUR", "CFD", 18000.0, 1),
    )
    return {row.name: row for row in rows}


def time_text(time_ns: int, form: str) -> str:
    """Return a time as the venue writes it: ``RFC3339`` or ``UNIX``, nine decimals."""
    seconds, fraction = divmod(time_ns, NS_PER_S)
    if form == "UNIX":
        return f"{seconds}.{fraction:09}"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09}Z"


def answer_candles(
    instrument: FakeInstrument, query: Mapping[str, str], now_ns: int, form: str
) -> dict[str, object]:
    """Return the answer of the candles endpoint; raise ValueError with the venue's message if it refuses."""
    granularity, count = query.get("granularity", "S5"), int(query.get("count", "500"))
    if granularity not in GRANULARITIES:
        raise ValueError("Invalid value specified for 'granularity'")
    start_ns, end_ns = (_read_time(query[key]) if key in query else None for key in ("from", "to"))
    if end_ns is not None and end_ns > now_ns:
        raise ValueError("Invalid value specified for 'to'")
    seconds = GRANULARITIES[granularity]
    if start_ns is None:
        start_ns = (end_ns or now_ns) - 2 * count * seconds * NS_PER_S
    elif query.get("includeFirst", "true").lower() == "false":
        start_ns += 1
    else:
        start_ns -= start_ns % (seconds * NS_PER_S)  # the answer includes the candle that contains it
    if end_ns is None:
        end_ns = now_ns if "from" not in query else start_ns + 2 * count * seconds * NS_PER_S
    rows = instrument.candles(seconds, start_ns, end_ns, now_ns)
    if "from" not in query:
        rows = rows[-count:]
    elif "to" not in query:
        rows = rows[:count]
    if count > MAX_CANDLES or len(rows) > MAX_CANDLES:
        raise ValueError("Maximum value for 'count' exceeded")
    price = query.get("price", "M")
    candles = [{"time": time_text(row.time_ns, form), **instrument.candle_row(row, price)} for row in rows]
    return {"instrument": instrument.name, "granularity": granularity, "candles": candles}


def _read_time(text: str) -> int:
    """Read a parameter, RFC 3339 in UTC or seconds, as nanoseconds since the epoch."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) if "T" in whole else int(whole)
    return seconds * NS_PER_S + int(fraction[:9].ljust(9, "0"))
