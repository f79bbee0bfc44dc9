"""What is known of an instrument: names, kind, currencies, digits of its price, sessions, sources.

Base and quote are the venue's, from its list; only of pairs of currencies are they read from the symbol. Digits are
those of the newest stored prices, which no venue writes with more than it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import groupby
from typing import Any, Literal, TypeAlias, get_args

import attrs

from ...market_hours import Market, market_of
from ...model import Instrument
from ...protocol.times import TIMES, Times
from ...store.store import SeriesInfo
from ...timeframes import Align
from .dependencies import SourceInfo
from .guard import current_grant
from .read_context import Reading
from .series_choice import real_ones

__all__ = ["KINDS", "InstrumentInfo", "InstrumentKind", "instruments_of", "search", "with_digits"]

InstrumentKind: TypeAlias = Literal["forex", "crypto", "commodity", "cfd"]
KINDS: tuple[InstrumentKind, ...] = get_args(InstrumentKind)

_METALS = ("XAU", "XAG", "XPT", "XPD")
_FOREX_DIGITS = 5
_YEN_DIGITS = 3
_OTHER_DIGITS = 2


@attrs.frozen
class InstrumentInfo:
    """One symbol. ``series`` are those that count for it, without made-up ones if there are others, by preference.

    ``venue_symbols`` has the venue's own name by broker. ``price_digits`` None: nothing is stored to take them from.
    """

    symbol: str
    series: Sequence[SeriesInfo]
    brokers: tuple[str, ...]
    venue_symbols: dict[str, str]
    base: str | None
    quote: str | None
    price_digits: int | None = None

    @property
    def market(self) -> Market:
        """When it is traded, guessed from its symbol."""
        return market_of(self.symbol, self.series[0].type if self.series else "tick")

    @property
    def kind(self) -> InstrumentKind:
        """What it is, guessed from its symbol and how it is traded."""
        if self.symbol.startswith(_METALS):
            return "commodity"
        kinds: dict[Market, InstrumentKind] = {"fx": "forex", "crypto": "crypto", "session": "cfd"}
        return kinds[self.market]

    @property
    def display(self) -> str:
        """The name for people: ``EUR/USD`` where the parts are known."""
        return f"{self.base}/{self.quote}" if self.base and self.quote else self.symbol

    @property
    def session(self) -> tuple[str, str]:
        """When it trades, as TradingView writes it, and the time zone of that."""
        return ("24x7", "Etc/UTC") if self.market == "crypto" else ("1700-1700", "America/New_York")

    @property
    def align(self) -> Align:
        """Where its days begin."""
        return "utc" if self.market == "crypto" else "ny17"

    @property
    def digits(self) -> int:
        """The digits of its price; the usual ones until something is stored."""
        if self.price_digits is not None:
            return self.price_digits
        if self.market != "fx":
            return _OTHER_DIGITS
        return _YEN_DIGITS if self.symbol.endswith("JPY") else _FOREX_DIGITS

    def document(self, times: Times) -> dict[str, Any]:
        """Return it as ``/api/symbols`` shows it."""
        show = TIMES[times]
        earliest = [one.earliest_us for one in self.series if one.earliest_us is not None]
        latest = [one.latest_us for one in self.series if one.latest_us is not None]
        session, timezone = self.session
        return {
            "symbol": self.symbol,
            "display": self.display,
            "type": self.kind,
            "base": self.base,
            "quote": self.quote,
            "price_digits": self.price_digits,
            "session": session,
            "timezone": timezone,
            "brokers": [
                {"broker": broker, "venue_symbol": self.venue_symbols.get(broker)} for broker in self.brokers
            ],
            "earliest": show(min(earliest)) if earliest else None,
            "latest": show(max(latest)) if latest else None,
        }


def instruments_of(
    known: Iterable[SeriesInfo], reading: Reading, *, listed: Sequence[str] = ()
) -> Iterator[InstrumentInfo]:
    """Yield the instruments of these series by symbol, without digits; then what ``listed`` brokers list besides."""
    order: Sequence[SourceInfo] = reading.services.sources()
    rank = {source.name: place for place, source in enumerate(order)}
    seen = set()
    for symbol, group in groupby(sorted(known, key=lambda one: one.symbol), key=lambda one: one.symbol):
        series = sorted(group, key=lambda one: (rank.get(one.broker, len(rank)), one.broker, one.id))
        seen.add(symbol)
        counted = real_ones(series, order)
        yield _made(symbol, counted, dict.fromkeys(one.broker for one in series), reading)
    others: dict[str, dict[str, None]] = {}
    for broker in listed:
        for symbol in reading.services.listed(broker):
            if symbol not in seen and current_grant().may_see(broker, symbol):
                others.setdefault(symbol, {})[broker] = None
    for symbol in sorted(others):
        yield _made(symbol, (), others[symbol], reading)


def _made(
    symbol: str, series: Sequence[SeriesInfo], brokers: Iterable[str], reading: Reading
) -> InstrumentInfo:
    names = tuple(brokers)
    found: dict[str, Instrument] = {}
    for broker in names:
        instrument = reading.services.listed(broker).get(symbol)
        if instrument is not None:
            found[broker] = instrument
    first = next((one for one in found.values() if one.base and one.quote), None)
    base: str | None = None
    quote: str | None = None
    if first is not None:
        base, quote = first.base, first.quote
    elif market_of(symbol, "tick") == "fx":
        base, quote = symbol[:3], symbol[3:]
    venue_symbols = {broker: one.venue_symbol for broker, one in found.items()}
    return InstrumentInfo(symbol, series, names, venue_symbols, base, quote)


async def with_digits(instruments: Sequence[InstrumentInfo], reading: Reading) -> list[InstrumentInfo]:
    """Return the instruments with the digits of their prices."""
    series = [one for instrument in instruments for one in instrument.series]
    prices = await reading.store.newest_prices(series) if series else {}

    def of(instrument: InstrumentInfo) -> InstrumentInfo:
        values = [price for one in instrument.series for price in prices.get(one.id, ())]
        return attrs.evolve(instrument, price_digits=max(map(_digits, values))) if values else instrument

    return [of(instrument) for instrument in instruments]


def search(instruments: Iterable[InstrumentInfo], text: str) -> list[InstrumentInfo]:
    """Return those whose names hold ``text`` (of any case, with or without separators): best match first."""
    wanted = _plain(text)
    found = []
    for place, one in enumerate(instruments):
        names = [_plain(one.symbol), _plain(one.display), *map(_plain, one.venue_symbols.values())]
        rank = min((_rank(name, wanted) for name in names), default=9)
        if rank < 9:
            found.append((rank, place, one))
    return [one for _, _, one in sorted(found, key=lambda entry: entry[:2])]


def _rank(name: str, wanted: str) -> int:
    if name == wanted:
        return 0
    return 1 if name.startswith(wanted) else 2 if wanted in name else 9


def _plain(text: str) -> str:
    return text.upper().translate(str.maketrans("", "", "/_- "))


def _digits(price: float) -> int:
    """Return the digits behind the point of a price as it is written."""
    exponent = Decimal(repr(price)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0
