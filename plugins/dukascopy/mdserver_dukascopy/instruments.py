"""The table of instruments: names, price scales, markets and starts of history. No network."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import NamedTuple, cast

from mdserver.errors import Rejected
from mdserver.market_hours import Market
from mdserver.model import US_PER_S

from .config import ExtraInstrument

__all__ = ["DukascopyInstrument", "Instruments", "of_config", "table"]


class DukascopyInstrument(NamedTuple):
    """An instrument. A price in a file is an integer of ``10 ** -decimals``.

    ``code`` is the name in the datafeed's paths, ``jetta_code`` the one in the JSON API. ``start_us`` is the
    first hour with ticks, None where it is not known.
    """

    symbol: str
    code: str
    jetta_code: str
    decimals: int
    market: Market
    start_us: int | None


class Instruments:
    """The table, and the instruments that the config adds to it."""

    def __init__(self, more: Iterable[DukascopyInstrument] = ()) -> None:
        self._more = {row.symbol: row for row in more}

    def find(self, symbol: str) -> DukascopyInstrument:
        """Return the instrument of a canonical symbol; raises Rejected, naming similar ones, where there is none."""
        row = self._more.get(symbol) or table().get(symbol)
        if row is None:
            raise Rejected(f"Dukascopy has no instrument {symbol!r}{_hint(symbol)}")
        return row


def of_config(extra: ExtraInstrument) -> DukascopyInstrument:
    """Return an instrument of the config as a row of the table."""
    return DukascopyInstrument(
        extra.symbol,
        extra.code or extra.symbol,
        extra.jetta_code or extra.symbol,
        extra.decimals,
        extra.market,
        None,
    )


@cache
def table() -> dict[str, DukascopyInstrument]:
    """Return all instruments by canonical symbol."""
    text = resources.files(__package__).joinpath("instruments.tsv").read_text(encoding="utf-8")
    rows = (_parse(line) for line in text.splitlines() if not line.startswith("#"))
    return {row.symbol: row for row in rows}


def _parse(line: str) -> DukascopyInstrument:
    symbol, jetta_code, decimals, market, start, *code = line.split("\t")
    start_us = None if start == "-" else _hour_us(start)
    return DukascopyInstrument(
        symbol, code[0] if code else symbol, jetta_code, int(decimals), cast("Market", market), start_us
    )


def _hour_us(text: str) -> int:
    return round(datetime.strptime(text, "%Y-%m-%dT%H").replace(tzinfo=UTC).timestamp()) * US_PER_S


def _hint(symbol: str) -> str:
    """Name what the symbol may have meant: another broker's short name first, then similar spellings."""
    known = table()
    longer = [name for name in known if len(symbol) >= 3 and name.startswith(symbol)]
    near = longer[:3] or difflib.get_close_matches(symbol, known, n=3, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return ": one that is new or delisted can be named in the config (`instruments` of the source)"
