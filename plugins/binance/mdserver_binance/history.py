"""Fetches past trades from the REST API, by their numbers.

Trades are requested from a number on, inclusive. The list of aggregates gives the first number at a time. Single trades
are in ``historicalTrades``, which the hosts for market data only do not have: there only the newest 1,000 are
available. Aggregates are in ``aggTrades``, at a sixth of the weight.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from mdserver.errors import Rejected
from mdserver.model import Trade
from mdserver.net import HttpRefused

from .codec import Numbered, TradeStream, decode_trades
from .rest import Rest

__all__ = ["PAGE_ROWS", "PastTrades", "trades_between"]

PAGE_ROWS = 1000
_AGG_WEIGHT = 4
_TRADES_WEIGHT = 25
_SHARE = 0.5
"""Of the weight of a minute; the rest is for lists and books, and for others at this address."""

_NOT_THERE = frozenset({401, 404, 410})


class PastTrades:
    """Which page to ask for next, and what of a page is new. No I/O.

    ``first`` is the number to begin with; both times, in microseconds, are included.
    """

    def __init__(self, first: int, from_us: int, to_us: int, *, rows: int = PAGE_ROWS) -> None:
        self.done = from_us > to_us
        self.next_number = first
        self._from_us = from_us
        self._to_us = to_us
        self._rows = rows

    def take(self, page: list[Numbered]) -> list[Trade]:
        """Return the trades of a page that are new and within the times asked for, in the order of their numbers."""
        # Pages may overlap, and a venue that counts differently may begin one before the number asked for.
        new = {row.number: row.trade for row in page if row.number >= self.next_number}
        if not new or len(page) < self._rows or any(trade.time_us > self._to_us for trade in new.values()):
            self.done = True
        if new:
            self.next_number = max(new) + 1
        return [new[number] for number in sorted(new) if self._from_us <= new[number].time_us <= self._to_us]


async def trades_between(
    rest: Rest, symbol: str, trades: TradeStream, from_us: int, to_us: int
) -> AsyncIterator[list[Trade]]:
    """Yield the trades of a symbol between two times, oldest first, page by page.

    Raises Unavailable, Rejected or BadMessage.
    """
    # The venue takes whole milliseconds everywhere; a trade before from_us is left out afterwards.
    query = {"symbol": symbol, "startTime": str(from_us // 1000), "limit": "1"}
    path = "/api/v3/aggTrades"
    found = decode_trades(await rest.get(path, query, weight=_AGG_WEIGHT, share=_SHARE), symbol, "aggTrade")
    if not found or from_us > to_us:
        return
    weight = _AGG_WEIGHT
    pages = PastTrades(found[0].number, from_us, to_us)
    if trades == "trade":
        path, weight = "/api/v3/historicalTrades", _TRADES_WEIGHT
        pages = PastTrades(found[0].first_trade, from_us, to_us)
    while not pages.done:
        query = {"symbol": symbol, "fromId": str(pages.next_number), "limit": str(PAGE_ROWS)}
        try:
            body = await rest.get(path, query, weight=weight, share=_SHARE)
        except HttpRefused as error:
            if trades != "trade" or error.status not in _NOT_THERE:
                raise
            body = await _newest(rest, symbol, pages.next_number, error)
            pages.done = True  # there is no second page of these
        if batch := pages.take(decode_trades(body, symbol, trades)):
            yield batch


async def _newest(rest: Rest, symbol: str, first: int, refused: HttpRefused) -> bytes:
    """Return the newest trades if they reach back to number ``first``; Rejected if they do not."""
    query = {"symbol": symbol, "limit": str(PAGE_ROWS)}
    body = await rest.get("/api/v3/trades", query, weight=_TRADES_WEIGHT, share=_SHARE)
    rows = decode_trades(body, symbol, "trade")
    if rows and min(row.number for row in rows) > first:
        raise Rejected(
            f"{refused}; of its {len(rows):,} newest trades the first is {min(row.number for row in rows)}, and"
            f" {first} is wanted: `trades: aggTrade` can be had for any time"
        ) from refused
    return body
