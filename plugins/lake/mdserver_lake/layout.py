"""Where things lie in the lake: folders of the form ``key=value``, one object for each day. Pure.

``kind=tick/broker=dukascopy/symbol=EURUSD/date=2024-03-05/data.parquet``: a name follows from what it holds, so that a
day is found without listing, and a revised day takes the place of the old one. Within a kind all objects have the same
folders and columns, so DuckDB, polars and pandas read ``kind=tick/**/*.parquet`` as one table.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

from mdserver.model import TIMEFRAMES, US_PER_S, PushedDay

__all__ = ["DAY_US", "KINDS", "Kind", "Place", "day_of", "day_start_us", "days_between", "place_of"]

Kind: TypeAlias = Literal["tick", "trade", "candle"]
KINDS: tuple[Kind, ...] = ("tick", "trade", "candle")

DAY_US = TIMEFRAMES["1d"] * US_PER_S

_FILE = "data.parquet"
_OF = {"tick": "quotes", "trade": "trades"}
"""What candles are made of, by the type of the records; the folder of candles is not found by who looks for ticks."""
_TYPE = {of: type_ for type_, of in _OF.items()}

_KEY = re.compile(
    r"kind=(?P<kind>tick|trade|candle)/(?:of=(?P<of>quotes|trades)/)?broker=(?P<broker>[^/=]+)/"
    rf"symbol=(?P<symbol>[^/=]+)/date=(?P<day>\d{{4}}-\d\d-\d\d)/{re.escape(_FILE)}"
)

_EPOCH = date(1970, 1, 1)


class Place(NamedTuple):
    """A day of one series in the lake; ``type`` is that of the records, also where ``kind`` is ``candle``."""

    kind: Kind
    broker: str
    symbol: str
    type: str
    day: date

    @property
    def key(self) -> str:
        """The object's name below the lake's address."""
        return f"{prefix(self.kind, self.type, self.broker, self.symbol)}date={self.day.isoformat()}/{_FILE}"

    @classmethod
    def of(cls, pushed: PushedDay) -> Place:
        """Return the place of what the ledger has."""
        kind: Kind = "candle" if pushed.what == "candles" else "trade" if pushed.type == "trade" else "tick"
        return cls(kind, pushed.broker, pushed.symbol, pushed.type, pushed.day)


def prefix(kind: Kind, type_: str, broker: str | None = None, symbol: str | None = None) -> str:
    """Return the folder of a kind, of a broker, or of a symbol, with a slash at its end."""
    text = f"kind=candle/of={_OF[type_]}/" if kind == "candle" else f"kind={kind}/"
    if broker is not None:
        text += f"broker={broker}/"
        if symbol is not None:
            text += f"symbol={symbol}/"
    return text


def place_of(key: str) -> Place | None:
    """Return what an object holds by its name; None for one that is not ours."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    kind: Kind = match["kind"]  # type: ignore[assignment]  # the pattern has these only
    type_ = kind if match["of"] is None else _TYPE[match["of"]]
    if (kind == "candle") != (match["of"] is not None):
        return None
    try:
        day = date.fromisoformat(match["day"])
    except ValueError:
        return None
    return Place(kind, match["broker"], match["symbol"], type_, day)


def day_start_us(day: date) -> int:
    """Return midnight UTC in microseconds."""
    return (day - _EPOCH).days * DAY_US


def day_of(time_us: int) -> date:
    """Return the day of a time, UTC."""
    return datetime.fromtimestamp(time_us // US_PER_S, UTC).date()


def days_between(first: date, last: date) -> list[date]:
    """Return the days from ``first`` to ``last``, both included."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]
