"""A session with Kraken: one connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection

import trio

from mdserver.errors import MdserverError, Rejected, Unavailable, leaves
from mdserver.model import Feed, Trade
from mdserver.net import HttpRefused, HttpUnavailable, open_http, open_websocket
from mdserver.plugin import BrokerHost

from .config import KrakenConfig
from .history import TradePages, fetch_trades
from .instruments import InstrumentTable
from .link import Link, Timing
from .refusals import KRAKEN_RETRY_STATUSES, explained

__all__ = ["KrakenBroker"]


class KrakenBroker:
    """Streams best bid/ask, trades and order books. See :class:`mdserver.plugin.Broker`."""

    def __init__(self, config: KrakenConfig, timing: Timing | None = None) -> None:
        self._config = config
        self._timing = timing or Timing()
        self._table = InstrumentTable()
        self._link: Link | None = None

    async def run(
        self, host: BrokerHost, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run one session, live once the venue's list of instruments is there. Raises Unavailable or Rejected."""
        try:
            await self._session(host, task_status)
        except (HttpRefused, HttpUnavailable) as error:
            raise explained(error) from error
        except BaseExceptionGroup as group:
            errors = list(leaves(group))
            ours = [error for error in errors if isinstance(error, MdserverError)]
            if len(ours) < len(errors):
                raise  # a bug, or a cancellation: nothing of it may get lost
            raise explained(ours[0]) from group

    async def _session(self, host: BrokerHost, task_status: trio.TaskStatus[None]) -> None:
        async with open_websocket(
            self._config.url, silence_s=self._config.silence_s, retry_statuses=KRAKEN_RETRY_STATUSES
        ) as websocket:
            link = self._link = Link(websocket, host, self._config, self._table, self._timing)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                await link.listed.wait()
                task_status.started()

    def renew_books(self, symbols: Collection[str]) -> None:
        """Have the next records of these full books be snapshots. See :class:`mdserver.plugin.BookRenewal`."""
        if self._link is not None:
            self._link.renew_books(symbols)

    async def backfill(self, feed: Feed, from_us: int, to_us: int) -> AsyncGenerator[list[Trade], None]:
        """Yield the trades of a feed between two times, both included, oldest first, a page at a time.

        Raises Unavailable, Rejected or BadMessage. Needs the list of instruments that a session gets.
        """
        if feed.type != "trade":
            raise Rejected(f"Kraken has no history of {feed.type} records")
        if not self._table.names:
            raise Unavailable("Kraken's list of instruments has not been received yet")
        venue_symbol = self._table.names.get(feed.symbol)
        if venue_symbol is None:
            raise Rejected(f"Kraken lists no {feed.symbol}")
        pages = TradePages(venue_symbol, from_us, to_us)
        async with open_http() as http:
            try:
                async for page in fetch_trades(http, self._config.rest_url, feed.symbol, pages):
                    yield page  # noqa: ASYNC119 - whoever iterates closes it, as the hook asks for
            except (HttpRefused, HttpUnavailable) as error:
                raise explained(error) from error
