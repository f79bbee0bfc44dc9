"""Fetches past trades from the REST API, page by page.

A page has up to 1,000 trades from a given time on, and the time of its last one. Several trades may have equal times,
so a page may end among them. The next page is therefore requested from just before that time, and trades that it
repeats are recognised by their numbers. So no trade is missed, whether or not the venue includes the given time.

Times are doubles here and may differ by a microsecond from those of the stream; trades are identified by their numbers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import trio

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.model import Trade
from mdserver.net import HttpClient

from .codec import RestPage, decode_trades_page

__all__ = ["PAGE_ROWS", "TradePages", "fetch_trades"]

PAGE_ROWS = 1000
_PAUSE_S = 1.1  # the venue allows about one request a second for a pair
_ATTEMPTS = 5
_OFF_US = 1
_RATE = ("rate limit", "too many requests")
_FINAL = ("EQuery:", "EGeneral:Invalid", "EGeneral:Permission")


class TradePages:
    """Which page to ask for next, and what of a page is new. No I/O.

    Times are microseconds; both ends are included, and one microsecond more, because REST's times are off by that much.
    """

    def __init__(self, venue_symbol: str, from_us: int, to_us: int, *, rows: int = PAGE_ROWS) -> None:
        self.done = from_us > to_us
        self._venue_symbol = venue_symbol
        self._from_us = from_us - _OFF_US
        self._to_us = to_us + _OFF_US
        self._rows = rows
        self._since_ns = max(0, self._from_us * 1000 - 1)
        self._newest = -1

    def query(self) -> dict[str, str]:
        """Return the parameters of the next request."""
        return {"pair": self._venue_symbol, "since": str(self._since_ns), "count": str(self._rows)}

    def take(self, page: RestPage) -> list[Trade]:
        """Return the trades of a page that are new and within the time asked for.

        Raises BadMessage where more trades share one time than a page holds, so that no request leads on.
        """
        new = [row for row in page.rows if row.number > self._newest]
        if new:
            self._newest = max(row.number for row in new)
        beyond = any(row.trade.time_us > self._to_us for row in page.rows)
        if beyond or len(page.rows) < self._rows:
            self.done = True
        elif page.last_ns - 1 <= self._since_ns:
            raise BadMessage(
                f"Trades of {self._venue_symbol}: a page of {len(page.rows)} does not get beyond its time"
            )
        self._since_ns = max(self._since_ns, page.last_ns - 1)
        return [row.trade for row in new if self._from_us <= row.trade.time_us <= self._to_us]


async def fetch_trades(
    http: HttpClient,
    rest_url: str,
    symbol: str,
    pages: TradePages,
    *,
    pause_s: float = _PAUSE_S,
) -> AsyncGenerator[list[Trade], None]:
    """Yield all trades that ``pages`` asks for, oldest first, page by page.

    Waits ``pause_s`` between requests, longer each time the venue says that it is too often. Raises Unavailable,
    Rejected (the venue does not know the pair) or BadMessage; what was yielded before stays true.
    """
    url = f"{rest_url.rstrip('/')}/0/public/Trades"
    refusals = 0
    while not pages.done:
        page = decode_trades_page(await http.fetch(url, params=pages.query()), symbol)
        if isinstance(page, RestPage):
            refusals = 0
            if trades := pages.take(page):
                yield trades
        else:
            refusals += 1
            _judge(url, page, refusals, pause_s)
        if not pages.done:
            await trio.sleep(pause_s * 2**refusals)


def _judge(url: str, error: str, refusals: int, pause_s: float) -> None:
    """Return where asking again soon may help, else raise."""
    if error.startswith(_FINAL):
        raise Rejected(f"{url}: {error}")
    if not any(word in error.lower() for word in _RATE) or refusals >= _ATTEMPTS:
        raise Unavailable(f"{url}: {error}", retry_after_s=pause_s * 2**refusals)
