"""Instruments as TradingView shows them, and which of them a request names.

A symbol is ``EURUSD``, joined from all sources that have it, or ``oanda:EURUSD``, of one source. Its ticker, by which
the client asks for bars, is that name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from ...store.store import SeriesInfo
from ...symbols import canonical
from ..api.instruments import InstrumentInfo, instruments_of, with_digits
from ..api.params import required
from ..api.problem import Problem
from ..api.read_context import Reading
from ..api.series_choice import candidates_of
from .resolution import INTRADAY, RESOLUTIONS

__all__ = ["Named", "group_document", "named", "named_by", "resolve", "search_item", "symbol_document"]

_EXPECTED = "a symbol, like EURUSD or oanda:EURUSD"


@attrs.frozen
class Named:
    """What a request names: an instrument, and the one source if it names one."""

    instrument: InstrumentInfo
    broker: str | None
    candidates: Sequence[SeriesInfo]

    @property
    def ticker(self) -> str:
        """The name by which it is asked for."""
        symbol = self.instrument.symbol
        return symbol if self.broker is None else f"{self.broker}:{symbol}"

    @property
    def exchange(self) -> str:
        """The source that counts first."""
        return self.broker or self.candidates[0].broker


async def named(query: Mapping[str, str], reading: Reading) -> Named:
    """Return what the parameter ``symbol`` names. Raises :class:`Problem`."""
    return await resolve(required(query, "symbol", _EXPECTED), reading)


async def resolve(text: str, reading: Reading) -> Named:
    """Return what a name stands for: the source of ``oanda:EURUSD`` may be written in any case."""
    prefix, colon, rest = text.partition(":")
    known = {source.name for source in reading.seen_sources()}
    known |= {one.broker for one in await reading.stored_series(_canonical(rest))} if colon else set()
    broker = (
        next((name for name in known if name.casefold() == prefix.strip().casefold()), None)
        if colon
        else None
    )
    symbol = _canonical(text if broker is None else rest)
    series = await reading.series_of(symbol)
    candidates = candidates_of(series, reading.services.sources(), symbol, broker=broker, wanted=None)
    counted = series if broker is None else [one for one in series if one.broker == broker]
    (instrument,) = instruments_of(counted, reading)
    return Named(instrument, broker, candidates)


async def named_by(named: Named, reading: Reading) -> Named:
    """Return it with the digits of its price."""
    (instrument,) = await with_digits([named.instrument], reading)
    return attrs.evolve(named, instrument=instrument)


def _canonical(text: str) -> str:
    try:
        return canonical(text)
    except ValueError as error:
        raise Problem(400, "invalid_parameter", f"symbol: {error}", param="symbol") from None


def symbol_document(named: Named) -> dict[str, Any]:
    """Return what ``/symbols`` answers."""
    instrument = named.instrument
    session, timezone = instrument.session
    return {
        "name": instrument.symbol,
        "ticker": named.ticker,
        "full_name": f"{named.exchange}:{instrument.symbol}",
        "description": instrument.display,
        "type": instrument.kind,
        "exchange": named.exchange,
        "listed_exchange": named.exchange,
        "timezone": timezone,
        "session": session,
        "minmov": 1,
        "pricescale": 10**instrument.digits,
        "minmove2": 0,
        "has_intraday": True,
        "intraday_multipliers": list(INTRADAY),
        "has_seconds": False,
        "has_ticks": False,
        "has_daily": True,
        "has_weekly_and_monthly": True,
        "supported_resolutions": list(RESOLUTIONS),
        "visible_plots_set": "ohlcv",
        "volume_precision": 8,
        "data_status": "streaming",
        "format": "price",
        **({"currency_code": instrument.quote} if instrument.quote else {}),
    }


def search_item(instrument: InstrumentInfo, broker: str | None) -> dict[str, Any]:
    """Return an entry of what ``/search`` answers."""
    exchange = broker or (instrument.series[0].broker if instrument.series else instrument.brokers[0])
    return {
        "symbol": instrument.symbol,
        "full_name": f"{exchange}:{instrument.symbol}",
        "description": instrument.display,
        "exchange": exchange,
        "ticker": instrument.symbol if broker is None else f"{broker}:{instrument.symbol}",
        "type": instrument.kind,
    }


def group_document(instruments: Iterable[InstrumentInfo], broker: str | None) -> dict[str, Any]:
    """Return what ``/symbol_info`` answers: a column for each field."""
    rows = [(search_item(one, broker), one) for one in instruments]
    return {
        "symbol": [item["symbol"] for item, _ in rows],
        "ticker": [item["ticker"] for item, _ in rows],
        "description": [item["description"] for item, _ in rows],
        "exchange-listed": [item["exchange"] for item, _ in rows],
        "exchange-traded": [item["exchange"] for item, _ in rows],
        "type": [item["type"] for item, _ in rows],
        "timezone": [one.session[1] for _, one in rows],
        "session-regular": [one.session[0] for _, one in rows],
        "minmovement": 1,
        "minmovement2": 0,
        "pricescale": [10**one.digits for _, one in rows],
        "has-intraday": True,
        "has-no-volume": False,
        "intraday-multipliers": [list(INTRADAY)] * len(rows),
        "has-daily": True,
        "has-weekly-and-monthly": True,
        "supported-resolutions": [list(RESOLUTIONS)] * len(rows),
    }
