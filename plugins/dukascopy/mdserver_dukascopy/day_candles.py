"""Which hours of a day had no ticks, by the service's candles of that day."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial

import structlog
import trio

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.market_hours import HOUR_US

from . import codec, jetta
from .codec import CandleColumns
from .config import Service
from .instruments import DukascopyInstrument
from .pool import Answer, PolitePool

__all__ = ["DayCandles"]

_DAY_US = 24 * HOUR_US
_DAYS_KEPT = 1_000


class DayCandles:
    """Asks for a day's minute candles, once a day and instrument; ``bases`` and ``pools`` are those of the services."""

    def __init__(
        self,
        bases: Mapping[Service, str],
        pools: Mapping[Service, PolitePool],
        threads: trio.CapacityLimiter,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._bases = bases
        self._pools = pools
        self._threads = threads
        self._log = log
        self._days: OrderedDict[tuple[str, int], frozenset[int] | None] = OrderedDict()

    async def is_quiet(self, row: DukascopyInstrument, hour_us: int) -> bool | None:
        """Return whether an hour had no ticks; None if the day's candles cannot be fetched, so nothing is known."""
        day_us = hour_us // _DAY_US * _DAY_US
        key = row.symbol, day_us
        if key not in self._days:
            self._days[key] = await self._ask(row, day_us)
            if len(self._days) > _DAYS_KEPT:
                self._days.popitem(last=False)
        busy = self._days[key]
        return None if busy is None else hour_us not in busy

    async def _ask(self, row: DukascopyInstrument, day_us: int) -> frozenset[int] | None:
        """Return the hours of a day that had ticks, by the first service that has its candles."""
        for service, pool in self._pools.items():
            url, decode = self._file(service, row, day_us)
            try:
                busy = await pool.get(url, partial(self._judge, decode), attempts=2)
            except (Unavailable, Rejected, BadMessage) as error:
                self._log.info("a denied hour is not confirmed by the day's candles", error=str(error))
                continue
            if busy is not None:
                return busy
        return None

    def _file(
        self, service: Service, row: DukascopyInstrument, day_us: int
    ) -> tuple[str, Callable[[bytes], CandleColumns]]:
        if service == "datafeed":
            url = self._bases[service] + codec.candles_path(row.code, "BID", "min_1", day_us)
            return url, lambda body: codec.decode_candles(body, url, day_us, "min_1", row.decimals)
        url = self._bases[service] + jetta.candles_path(row.jetta_code, "BID", "minute", day_us)
        return url, lambda body: jetta.decode_candles(body, url, day_us, "minute")

    async def _judge(self, decode: Callable[[bytes], CandleColumns], answer: Answer) -> frozenset[int] | None:
        if answer.status != 200 or not answer.body:
            return None

        def busy_hours() -> frozenset[int]:
            candles = decode(answer.body)
            return frozenset((candles.time_us[candles.volume > 0] // HOUR_US * HOUR_US).tolist())

        return await trio.to_thread.run_sync(busy_hours, limiter=self._threads)
