"""The questions to history, the same for each kind of client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from . import _queries
from ._queries import Asking
from .records import BrokerState, Gap, StoredCandle, Tick, Time, Trade
from .tables import Table

__all__ = ["Questions"]

T = TypeVar("T")


class Questions:
    """Asks for what is stored; a client says how its questions reach the server."""

    async def _run(self, asking: Asking[T]) -> T:
        raise NotImplementedError

    async def candles(
        self,
        symbol: str,
        timeframe: str,
        start: Time,
        end: Time,
        *,
        broker: str | None = None,
        price: str | None = None,
        align: str | None = None,
        fill: str | None = None,
        fields: Sequence[str] | None = None,
    ) -> Table[StoredCandle]:
        """Return the candles whose opens lie in [start, end].

        Args:
            symbol: The symbol, in any spelling.
            timeframe: The length of a candle: ``1m``, ``1h``, ``1w`` …
            start: The first open.
            end: The last open.
            broker: Default: joined from all sources that have the symbol.
            price: ``mid``, ``bid``, ``ask`` or ``trade``; default: as the source prefers.
            align: ``ny17``: from two hours on, candles begin at 17:00 in New York; default ``utc``.
            fill: ``previous`` or ``null``: candles for buckets that certainly had no record; default: none.
            fields: The columns, also ``count``, ``vwap``, ``broker``, ``complete``; default: time, prices and volume.
        """
        listed = None if fields is None else ",".join(fields)
        options = {"broker": broker, "price": price, "align": align, "fill": fill, "fields": listed}
        return await self._run(_queries.candles(symbol, timeframe, start, end, options))

    async def ticks(
        self, symbol: str, start: Time, end: Time, *, broker: str | None = None, limit: int | None = None
    ) -> Table[Tick]:
        """Return the recorded quotes of [start, end], of all pages; at most ``limit``."""
        table: Table[Tick] = await self._run(_queries.records("tick", symbol, start, end, broker, limit))
        return table

    async def trades(
        self, symbol: str, start: Time, end: Time, *, broker: str | None = None, limit: int | None = None
    ) -> Table[Trade]:
        """Return the recorded trades of [start, end], of all pages; at most ``limit``."""
        table: Table[Trade] = await self._run(_queries.records("trade", symbol, start, end, broker, limit))
        return table

    async def symbols(
        self,
        query: str | None = None,
        *,
        type: str | None = None,
        broker: str | None = None,
        limit: int = _queries.MOST_SYMBOLS,
    ) -> list[dict[str, Any]]:
        """Return what there is, at most ``limit`` (1,000 at most). ``query``: part of a name."""
        options = {"query": query, "type": type, "broker": broker, "limit": limit}
        return await self._run(_queries.symbols(options))

    async def metadata(self, symbol: str | None = None) -> dict[str, Any]:
        """Return what is stored of a symbol, or of all."""
        return await self._run(_queries.metadata(symbol))

    async def gaps(
        self,
        symbol: str | None = None,
        start: Time | None = None,
        end: Time | None = None,
        *,
        broker: str | None = None,
        state: str | None = None,
    ) -> list[Gap]:
        """Return where records may be missing, the earliest first."""
        options = {"symbol": symbol, "broker": broker, "state": state}
        return await self._run(_queries.gaps(options, start, end))

    async def brokers(self) -> list[BrokerState]:
        """Return how each broker is doing."""
        return await self._run(_queries.brokers())
