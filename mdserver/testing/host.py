"""The server's side of a broker plugin, for tests: it keeps every call of the broker, and a test can wait for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import structlog
import trio

from ..errors import BadMessage
from ..feed.broker_host import Host, shown_record
from ..feed.demand import BrokerDemand
from ..metrics import Metrics
from ..model import Feed, Instrument, Record

__all__ = ["FakeDemand", "FakeHost"]


class FakeDemand:
    """Implements :class:`mdserver.plugin.Demand`; the test sets the wanted feeds. ``ever``: all feeds wanted so far."""

    def __init__(self, feeds: Iterable[Feed] = ()) -> None:
        self._feeds = self.ever = frozenset(feeds)
        self._changed = trio.Event()

    def set(self, feeds: Iterable[Feed]) -> None:
        """Replace the wanted feeds by ``feeds``."""
        self._feeds = frozenset(feeds)
        self.ever |= self._feeds
        self._changed.set()
        self._changed = trio.Event()

    def current(self) -> frozenset[Feed]:
        """See :meth:`mdserver.plugin.Demand.current`."""
        return self._feeds

    async def wait_changed(self, known: frozenset[Feed]) -> frozenset[Feed]:
        """See :meth:`mdserver.plugin.Demand.wait_changed`."""
        while self._feeds == known:
            await self._changed.wait()
        return self._feeds


class _CheckingHost(Host):
    """The server's own host; it fails the test where the server would count and skip a record."""

    expected_faults: Collection[str] = ()

    def _reject(self, record: Record, fault: str) -> None:
        if fault not in self.expected_faults:
            raise AssertionError(f"the server refuses {shown_record(record)}: {fault}")

    def _reject_unwanted(self, feed: Feed) -> None:
        if "unwanted" not in self.expected_faults:
            raise AssertionError(f"the server refuses records of {feed}, because it was never wanted")


class FakeHost:
    """Implements :class:`mdserver.plugin.BrokerHost`.

    Published records go through the server's checks: one that the server would refuse raises AssertionError, unless the
    reason is in ``expected_faults`` (the reasons of the metric ``records_rejected``, and ``unwanted``).

    ``batches`` holds the batch of each ``publish``, ``received_us`` the time given with it; ``refused`` the last reason
    for each feed; ``gaps`` the causes of gaps, ``gap_feeds`` the feeds of each (None: all). As in the server, a refused
    feed leaves the demand.
    """

    def __init__(
        self, feeds: Iterable[Feed] = (), *, name: str = "test", expected_faults: Collection[str] = ()
    ) -> None:
        self.name = name
        self.demand = FakeDemand(feeds)
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger()
        self.batches: list[list[Record]] = []
        self.received_us: list[int | None] = []
        self.confirmed: set[Feed] = set()
        self.refused: dict[Feed, str] = {}
        self.discarded: list[BadMessage] = []
        self.ignored_kinds: Counter[str] = Counter()
        self.alive_count = 0
        self.gaps: list[str] = []
        self.gap_feeds: list[frozenset[Feed] | None] = []
        self.gap_sizes: list[int | None] = []
        self.table: list[Instrument] | None = None
        self._told = trio.Event()
        self._server = _CheckingHost(
            name,
            BrokerDemand(),
            emit=lambda _: None,
            last_records={},
            metrics=Metrics(),
            log=self.log,
        )
        self._server.expected_faults = expected_faults

    @property
    def records(self) -> list[Record]:
        """All records published so far, in order."""
        return [record for batch in self.batches for record in batch]

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds; it is checked after every call of the broker.

        Set a timeout around this: it waits until cancelled if the condition never holds.
        """
        while not condition():
            await self._told.wait()

    async def wait_records(self, count: int) -> list[Record]:
        """Wait for at least ``count`` records and return all records so far."""
        have = 0
        seen = 0
        while True:
            have += sum(len(batch) for batch in self.batches[seen:])
            seen = len(self.batches)
            if have >= count:
                return self.records
            await self._told.wait()

    async def wait_confirmed(self, feeds: Iterable[Feed]) -> None:
        """Wait until all ``feeds`` were confirmed."""
        wanted = set(feeds)
        await self.wait_until(lambda: wanted <= self.confirmed)

    def publish(self, batch: Sequence[Record], *, received_us: int | None = None) -> None:
        """Keep the batch; raise AssertionError if the server would refuse any record of it.

        Records of a feed that is no longer wanted are not an error: the venue may have sent them before it knew.
        """
        for feed in self.demand.ever:
            if self._server.demand.status(feed) is None:
                self._server.demand.hold(feed)
        self._server.publish(batch, received_us=received_us)
        self.batches.append(list(batch))
        self.received_us.append(received_us)
        self._tell()

    def confirm(self, feeds: Iterable[Feed]) -> None:
        """Add to ``confirmed``."""
        self.confirmed.update(feeds)
        self._tell()

    def refuse(self, feeds: Iterable[Feed], reason: str) -> None:
        """Add the feeds to ``refused`` and remove them from the demand."""
        gone = dict.fromkeys(feeds, reason)
        self.refused.update(gone)
        self.confirmed -= gone.keys()
        self.demand.set(self.demand.current() - gone.keys())
        self._tell()

    def gap(self, cause: str, feeds: Iterable[Feed] | None = None, size: int | None = None) -> None:
        """Keep the cause, the feeds and the size."""
        self.gaps.append(cause)
        self.gap_feeds.append(None if feeds is None else frozenset(feeds))
        self.gap_sizes.append(size)
        self._tell()

    def alive(self) -> None:
        """Count it."""
        self.alive_count += 1
        self._tell()

    def discard(self, error: BadMessage, *, asked_again: bool = False) -> None:
        """Keep the error."""
        self.discarded.append(error)
        self._tell()

    def ignored(self, what: str) -> None:
        """Count it by kind."""
        self.ignored_kinds[what] += 1
        self._tell()

    def instruments(self, table: Iterable[Instrument]) -> None:
        """Keep the table."""
        self.table = list(table)
        self._tell()

    def _tell(self) -> None:
        self._told.set()
        self._told = trio.Event()
