"""Where imported hours go: an interface, and the database as its first implementation. See :mod:`.lake_target` too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs
import structlog
import trio

from ...backoff import Backoff
from ...errors import StoreUnavailable
from ...model import US_PER_S
from ...store.store import FetchedHour, HourResult, SeriesInfo, Store
from .plan import Dates

__all__ = ["DatabaseTarget", "Target"]

STORE_BACKOFF_S = (0.5, 8.0)
"""The first and the longest pause between attempts to store a chunk while the database is unavailable."""

STORE_GIVE_UP_S = 15.0
"""After waiting so long for the database the import ends; the same command continues it."""


class Target(Protocol):
    """Where imported hours go."""

    async def open_symbol(self, symbol: str, dates: Dates, *, create: bool) -> Mapping[int, bool]:
        """Return the hours that need no other import, by their starts, and whether each is empty.

        Raises Rejected where records of another origin are stored under this name. ``create``: what is needed to load
        hours of the symbol is made.
        """
        ...

    def over_us(self, now_us: int) -> int:
        """Return the time before which hours can be loaded now."""
        ...

    async def load_hours(self, symbol: str, hours: Sequence[FetchedHour]) -> list[HourResult]:
        """Bring hours of a symbol up to date. Raises Unavailable if what they go to stays unavailable."""
        ...


@attrs.define(eq=False)
class DatabaseTarget:
    """The configured database; ``source`` is the name under which the ticks are stored."""

    store: Store
    source: str
    log: structlog.stdlib.BoundLogger
    _series: dict[str, SeriesInfo] = attrs.Factory(dict)

    async def open_symbol(self, symbol: str, dates: Dates, *, create: bool) -> Mapping[int, bool]:
        """See :meth:`Target.open_symbol`."""
        if create:
            series: SeriesInfo | None = await self.store.open_series(self.source, symbol)
        else:
            found = await self.store.series(symbol)
            series = next((one for one in found if one.broker == self.source and one.type == "tick"), None)
        if series is None:
            return {}
        self._series[symbol] = series
        return await self.store.settled_hours(series.id, dates.first_us, dates.end_us - US_PER_S)

    def over_us(self, now_us: int) -> int:
        """See :meth:`Target.over_us`."""
        return now_us

    async def load_hours(self, symbol: str, hours: Sequence[FetchedHour]) -> list[HourResult]:
        """See :meth:`Target.load_hours`."""
        backoff, waited_s = Backoff(*STORE_BACKOFF_S), 0.0
        while True:
            try:
                # repeating it after an unclear commit is safe: the ledger has the hours that are done
                return await self.store.load_hours(self._series[symbol], hours)
            except StoreUnavailable as error:
                if waited_s >= STORE_GIVE_UP_S:
                    raise StoreUnavailable(
                        f"the database stays unavailable: {error}; what is stored stays, "
                        "and the same command continues the import"
                    ) from error
                pause_s = backoff.next_s()
                waited_s += pause_s
                self.log.warning(
                    "the database is unavailable: the chunk is stored again after a pause",
                    error=str(error),
                    again_in_s=round(pause_s, 1),
                )
                await trio.sleep(pause_s)
