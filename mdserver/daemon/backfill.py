"""Fills gaps in the background: one after the other, the oldest first, and only while streaming and storing keep up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from time import time
from typing import Any

import structlog
import trio

from ..backfill import FilledGap, GapFiller, gaps_to_fill, summary
from ..backoff import Backoff
from ..errors import Rejected, StoreUnavailable
from ..feed.supervisor import Supervisor
from ..metrics import Metrics
from ..model import OF_GARBAGE, UNSTORABLE, US_PER_S, Gap, Published
from ..plugin import BrokerHistory
from ..store.recurring_gaps import QUIET_S
from ..store.store import GapRow
from ..stream.live_candles import LiveCandles
from ..stream.router import Router
from .parts import Part
from .storage import DatabasePart, DrainPart

__all__ = ["BackfillPart"]

LOOK_EVERY_S = 30.0
SETTLED_S = 60.0
"""A gap is filled no sooner than this after its end, because venues publish their past with a delay."""
BATCHES_PER_MINUTE = 30
"""Batches a minute that the background requests from one venue; most batches are one request."""
PAUSES_S = (60.0, 3600.0)
"""First and longest pause before a gap is tried again after a failure."""
AT_A_TIME = 50
UNWANTED = ("unsubscribed", "refused", UNSTORABLE)
"""Causes of gaps without subscribers, and of records that the database refused; only the command fills these gaps."""

_LATE_S = 0.05
_LOOK_S = 0.1
_BUSY_PAUSE_S = 5.0

_log = structlog.get_logger("mdserver")


class BackfillPart(Part):
    """Fills the gaps of connected brokers. The command ``run backfill`` uses :meth:`fill_now`."""

    name = "backfill"
    needed = False

    def __init__(
        self,
        supervisor: Supervisor,
        router: Router,
        metrics: Metrics,
        database: DatabasePart,
        drain: DrainPart,
        candles: LiveCandles,
    ) -> None:
        self._supervisor = supervisor
        self._router = router
        self._metrics = metrics
        self._database = database
        self._drain = drain
        self._candles = candles
        self._at_work: set[str] = set()
        self._again: dict[int, tuple[float, Backoff]] = {}
        """Gaps that could not be filled, each with the time of the next attempt."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        task_status.started()
        self._at_work.clear()
        async with trio.open_nursery() as nursery:
            while True:
                for broker in tuple(self._supervisor.brokers.values()):
                    is_free = broker.state.is_up and broker.name not in self._at_work
                    if is_free and broker.history() is not None:
                        self._at_work.add(broker.name)
                        nursery.start_soon(self._fill_gaps_of, broker.name)
                await trio.sleep(LOOK_EVERY_S)

    async def _fill_gaps_of(self, name: str) -> None:
        """Fill the due gaps of one broker; each broker has a task of its own, because venues differ in speed."""
        filler = self._filler(self._at_leisure)
        try:
            for gap in await self._settled_gaps(name):
                due_s, backoff = self._again.get(gap.id, (0.0, None))
                if due_s > trio.current_time():
                    continue
                result = await filler.fill(gap)
                self._count(result)
                if result.state == "open":
                    backoff = backoff or Backoff(*PAUSES_S)
                    self._again[gap.id] = trio.current_time() + backoff.next_s(), backoff
                else:
                    self._again.pop(gap.id, None)
        except StoreUnavailable:
            pass  # another part logs it; the next round tries again
        finally:
            self._at_work.discard(name)

    async def _settled_gaps(self, name: str) -> list[GapRow]:
        """Return gaps of a broker to fill, the oldest first. One of a venue's garbage may still grow for a while."""
        limit = AT_A_TIME + len(self._again)
        found: list[GapRow] = []
        for settled_s, but in ((SETTLED_S, (*UNWANTED, *OF_GARBAGE)), (QUIET_S + SETTLED_S, UNWANTED)):
            until_us = int((time() - settled_s) * US_PER_S)
            gaps = await self._database.store.gaps(
                0, until_us, broker=name, state="open", but=but, limit=limit
            )
            found += [gap for gap in gaps if gap.to_us <= until_us and gap not in found]
        return sorted(found, key=lambda gap: gap.from_us)

    async def fill_now(self, request: Mapping[str, Any]) -> Any:
        """Fill the gaps of a command's ``broker`` and ``symbol`` (None: of all); return a summary with counts.

        With ``retry_permanent`` those that the venue refused are tried again too.
        """
        broker, symbol = request.get("broker"), request.get("symbol")
        if broker is not None and broker not in self._supervisor.brokers:
            known = ", ".join(self._supervisor.brokers) or "none"
            raise Rejected(f'found broker "{broker}", expected a running one: {known}')
        filler = self._filler(trio.lowlevel.checkpoint)
        gaps = await gaps_to_fill(
            self._database.store,
            broker,
            symbol,
            retry_permanent=request.get("retry_permanent") is True,
        )
        results = []
        for gap in gaps:
            results.append(await filler.fill(gap))
            self._count(results[-1])
            self._again.pop(gap.id, None)
        return summary(results)

    def _filler(self, pause: Callable[[], Awaitable[None]]) -> GapFiller:
        return GapFiller(
            self._database.store,
            self._history_of,
            pause=pause,
            on_stored=self._candles.stored,
            on_changed=self._tell,
            log=_log,
        )

    def _history_of(self, name: str) -> BrokerHistory | None:
        broker = self._supervisor.brokers.get(name)
        if broker is None:
            raise LookupError(f"the config has no broker {name}")
        return broker.history()

    def _tell(self, gap: Gap) -> None:
        """Send the new state of a gap to the topic's present subscribers, after the last record that they have."""
        last = self._router.last(gap.topic)
        self._router.publish([Published(gap.topic, 0 if last is None else last.seq, gap)])

    def _count(self, result: FilledGap) -> None:
        self._metrics.gaps_filled.labels(result.gap.broker, result.state).inc()
        self._metrics.backfilled.labels(result.gap.broker).inc(result.added)

    async def _at_leisure(self) -> None:
        """Wait until the next batch may be requested: within the rate, with a prompt event loop and working storage."""
        await trio.sleep(60 / BATCHES_PER_MINUTE)
        while True:
            began = trio.current_time()
            await trio.sleep(_LOOK_S)
            if trio.current_time() - began - _LOOK_S < _LATE_S and self._drain.away is None:
                return
            await trio.sleep(_BUSY_PAUSE_S)
