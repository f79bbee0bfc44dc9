"""Choose the series that may answer a request, by broker and by price. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Literal, TypeAlias

from ...candles import QuotePrice
from ...kinds import BY_NAME
from ...model import RecordType
from ...store.store import SeriesInfo
from .dependencies import SourceInfo
from .problem import Problem, invalid_parameter, shortened, unknown_symbol

__all__ = [
    "PRICES",
    "Price",
    "candidates_of",
    "configured_series",
    "default_price",
    "price_of",
    "real_ones",
    "symbol_unknown",
    "types_there",
]

Price: TypeAlias = QuotePrice | Literal["trade"]

PRICES: dict[Price, RecordType] = {"mid": "tick", "bid": "tick", "ask": "tick", "trade": "trade"}
"""The prices that candles may show, and the type of records that each is made from."""

_DEFAULTS: dict[RecordType, Price] = {"tick": "mid", "trade": "trade"}
_NAMES_SHOWN = 20


def price_of(query: Mapping[str, str]) -> Price | None:
    """Return the parameter ``price``; None if the broker's default applies."""
    text = query.get("price")
    if text is None:
        return None
    for price in PRICES:
        if text == price:
            return price
    raise invalid_parameter("price", text, f"expected one of {', '.join(PRICES)}")


def default_price(series: SeriesInfo) -> Price:
    """Return the price that the candles of a series show by default."""
    return _DEFAULTS[series.type]


def candidates_of(
    known: Sequence[SeriesInfo],
    sources: Sequence[SourceInfo],
    symbol: str,
    *,
    broker: str | None,
    wanted: RecordType | None,
    param: str | None = "price",
) -> list[SeriesInfo]:
    """Return the series of ``symbol`` that may answer, one of each source, in order of preference.

    ``known`` are all series of the symbol. With ``broker``, only that broker's is returned. Without, the sources of the
    config come first, in its order, then others (which the config no longer has) by name. Made-up prices are left out
    if any other source has the symbol (see :func:`real_ones`), and are never joined. A series without rows counts only
    if there is no other.
    ``wanted`` is the record type; None means the preferred one of each source, else any. ``param`` names the parameter
    that chose ``wanted``; None means the route did, and then a symbol without such records counts as unknown.
    """
    candidates = _there(known, sources, symbol, broker)
    suitable = [series for series in candidates if wanted in (None, series.type)]
    if not suitable:
        raise _no_such_price(candidates, symbol, wanted, param)
    rank = {source.name: place for place, source in enumerate(sources)}
    preferred = {source.name: source.candles_from for source in sources}

    def by_preference(series: SeriesInfo) -> tuple[int, str, bool]:
        name = series.broker
        return rank.get(name, len(rank)), name, series.type != preferred.get(name, "tick")

    best: dict[str, SeriesInfo] = {}
    for series in sorted(suitable, key=by_preference):
        best.setdefault(series.broker, series)
    ordered = list(best.values())
    return ordered[:1] if ordered[0].broker in synthetic_names(sources) else ordered


def types_there(
    known: Sequence[SeriesInfo], sources: Sequence[SourceInfo], symbol: str, broker: str | None
) -> set[RecordType]:
    """Return the types of records for which :func:`candidates_of` finds a series."""
    return {series.type for series in _there(known, sources, symbol, broker)}


def _there(
    known: Sequence[SeriesInfo], sources: Sequence[SourceInfo], symbol: str, broker: str | None
) -> list[SeriesInfo]:
    there = _of_broker(known, broker, symbol) if broker is not None else real_ones(known, sources)
    return [series for series in there if series.row_count] or there


def real_ones(known: Sequence[SeriesInfo], sources: Sequence[SourceInfo]) -> list[SeriesInfo]:
    """Return the series whose prices are not made up; all series if there are none.

    An empty series of a source that the config does not stream, such as one of an import that fetched nothing, hides no
    made-up prices.
    """
    made_up = synthetic_names(sources)
    streamed = {(source.name, symbol) for source in sources for symbol in source.symbols}
    real = [series for series in known if series.broker not in made_up]
    if any(series.row_count or (series.broker, series.symbol) in streamed for series in real):
        return real
    return list(known)


def synthetic_names(sources: Iterable[SourceInfo]) -> set[str]:
    """Return the sources whose prices are made up."""
    return {source.name for source in sources if source.synthetic}


def configured_series(sources: Iterable[SourceInfo], symbol: str | None) -> Iterator[SeriesInfo]:
    """Yield an empty series for each topic that the config streams, of all symbols or one."""
    for source in sources:
        for name in source.symbols if symbol is None else {symbol}.intersection(source.symbols):
            for type_ in source.types:
                if BY_NAME[type_].stored is None:
                    continue
                yield SeriesInfo(0, source.name, name, type_, 0, 0, None, None, 0, 0)


def symbol_unknown(symbol: str, everything: Sequence[SeriesInfo], param: str = "symbol") -> Problem:
    """Return the problem of an unknown symbol, with similar names or else all names."""
    names = sorted({series.symbol for series in everything})
    close = get_close_matches(symbol, names, n=3, cutoff=0.75)
    if not names:
        hint = "nothing is stored yet"
    elif close:
        hint = f"did you mean {' or '.join(close)}?"
    else:
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        hint = f"known symbols: {', '.join(names[:_NAMES_SHOWN])}{more}"
    return unknown_symbol(param, f"no data of {symbol!r}; {hint}")


def _of_broker(stored: Sequence[SeriesInfo], broker: str, symbol: str) -> list[SeriesInfo]:
    found = [series for series in stored if series.broker == broker]
    if not found:
        names = ", ".join(sorted({series.broker for series in stored}))
        raise unknown_symbol(
            "broker", f"broker {shortened(broker)!r} has no data of {symbol}; these have: {names}"
        )
    return found


def _no_such_price(
    candidates: Sequence[SeriesInfo], symbol: str, wanted: RecordType | None, param: str | None
) -> Problem:
    there = ", ".join(f"{series.broker}: {default_price(series)}" for series in candidates)
    kind = "quotes (ticks)" if wanted == "tick" else "trades"
    detail = f"no {kind} of {symbol} are stored; available: {there}"
    if param is None:
        return unknown_symbol("symbol", detail)
    return Problem(400, "invalid_parameter", detail, param=param)
