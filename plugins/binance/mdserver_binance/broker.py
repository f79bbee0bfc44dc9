"""The broker: sessions one after the other, and trades of the past."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack

import trio

from mdserver.errors import Rejected
from mdserver.model import Feed, Trade
from mdserver.net import WebSocketClosed, open_http
from mdserver.plugin import BrokerHost

from .config import BinanceConfig
from .history import trades_between
from .lane import Timing, only_ours
from .limits import ConnectLimit, WeightBudget
from .rest import HEADERS, Rest
from .session import Session
from .subscriptions import MAX_STREAMS, Ledger

__all__ = ["BinanceBroker", "Timing"]

_NORMAL_CLOSES = frozenset({1000, 1001})
_NO_REST = "a full order book needs the REST API: set `rest_url`"


class BinanceBroker:
    """Streams best bid/ask, trades and order books. See :class:`mdserver.plugin.Broker`.

    The 24 h close, should it come before our own replacement, ends a session normally. ``max_streams``: streams on
    one connection.
    """

    def __init__(
        self, config: BinanceConfig, timing: Timing | None = None, *, max_streams: int = MAX_STREAMS
    ) -> None:
        self._config = config
        self._timing = timing or Timing()
        self._max_streams = max_streams
        self._running: Session | None = None
        self._ledger = Ledger(no_full_books="" if config.rest_base else _NO_REST)
        self._budget = WeightBudget()
        self._connects = ConnectLimit(self._timing.connects, self._timing.connects_s)

    async def run(
        self, host: BrokerHost, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run one session. Raises Unavailable or Rejected; see :mod:`mdserver.errors`."""
        self._ledger.begin_session()
        try:
            await self._session(host, task_status)
        except BaseExceptionGroup as group:
            error = only_ours(group)
            if error is None:
                raise
        else:
            return
        if isinstance(error, WebSocketClosed) and error.code in _NORMAL_CLOSES:
            host.log.info("session ended by the venue", error=str(error))
            return
        raise error

    def renew_books(self, symbols: Collection[str]) -> None:
        """Have the next records of these full books be snapshots. See :class:`mdserver.plugin.BookRenewal`."""
        if self._running is not None:
            self._running.renew_books(symbols)

    async def backfill(self, feed: Feed, from_us: int, to_us: int) -> AsyncIterator[list[Trade]]:
        """Yield the trades of a feed between two times, both included, oldest first, in batches.

        Single trades or aggregates, as the feed has them live, with the venue's times and ids, each once. Stays below
        half of the weight that the venue allows in a minute. Raises Unavailable, Rejected (no trades, no such symbol,
        no REST API) or BadMessage; what was yielded before stays true.
        """
        base = self._config.rest_base
        if feed.type != "trade":
            raise Rejected(f"Binance has no history of {feed.type} records")
        if base is None:
            raise Rejected("the history of trades needs the REST API: set `rest_url`")
        async with open_http(headers=HEADERS, max_connections=1) as http:
            rest = Rest(base, http, self._budget)
            async for batch in trades_between(rest, feed.symbol, self._config.trades, from_us, to_us):
                yield batch  # noqa: ASYNC119 - whoever iterates closes it, as the hook asks for

    async def _session(self, host: BrokerHost, task_status: trio.TaskStatus[None]) -> None:
        base = self._config.rest_base
        async with AsyncExitStack() as stack:
            rest: Rest | None = None
            if base is not None:
                http = await stack.enter_async_context(open_http(headers=HEADERS))
                rest = Rest(base, http, self._budget)
            session = self._running = Session(
                host,
                self._config,
                self._timing,
                rest=rest,
                ledger=self._ledger,
                budget=self._budget,
                connects=self._connects,
                max_streams=self._max_streams,
            )
            await session.run(task_status)
