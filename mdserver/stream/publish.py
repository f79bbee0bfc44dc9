"""The way of an accepted batch: to the journal first, then to the clients.

Streaming never stops for the disk: when the journal is at its bound or the disk refuses, the records go out all the
same, and that they are not stored is counted and said.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time

import structlog

from ..errors import JournalFull
from ..journal.journal import Journal
from ..log import RarelyLogged
from ..metrics import Metrics
from ..model import Gap, Published, Topic

__all__ = ["Publisher"]

NOT_STORING_S = 10.0
"""For so long after a refused record :meth:`Publisher.refusal` tells of it."""

MAX_HOLES = 10_000
"""Holes that wait for a journal that takes nothing: beyond it they are announced to clients and not recorded."""

_log = structlog.get_logger("mdserver")


class Publisher:
    """An :data:`mdserver.feed.broker_host.Emit`; ``route`` hands a batch to its subscribers."""

    def __init__(
        self,
        journal: Journal,
        route: Callable[[list[Published]], None],
        metrics: Metrics,
    ) -> None:
        self._append = journal.append
        self._cover = journal.floor.cover
        self._route = route
        self._refused = metrics.journal_refused
        self._refused_s = 0.0
        self._why = ""
        self._rarely = RarelyLogged(_log)
        self._lost: dict[Topic, Published] = {}
        self._holes: list[Published] = []

    def refusal(self) -> str | None:
        """Return why records were not stored just now, or None."""
        return self._why if time() - self._refused_s < NOT_STORING_S else None

    def __call__(self, batch: list[Published]) -> None:
        """Journal a batch and hand it on; never raises for the disk."""
        try:
            if self._lost or self._holes:
                self._append([*self._holes, *self._lost.values(), *batch])
                self._lost, self._holes = {}, []
            else:
                self._append(batch)
        except (JournalFull, OSError) as error:
            self._note_refused(batch, error)
        self._route(batch)

    def _note_refused(self, batch: list[Published], error: Exception) -> None:
        self._refused.inc(len(batch))
        self._refused_s, self._why = time(), str(error)
        self._rarely.error("records are not stored", error=str(error))
        self._note_lost(batch)
        try:
            self._cover(batch)
        except OSError as trouble:
            self._rarely.error("a restart now would use sequence numbers a second time", error=str(trouble))

    def _note_lost(self, batch: list[Published]) -> None:
        """Keep for the ledger, until the journal takes it, what was streamed and is not stored, and how much it is."""
        for published in batch:
            topic, record = published.topic, published.record
            if type(record) is Gap:
                if len(self._holes) < MAX_HOLES:
                    self._holes.append(published)
                continue
            known = self._lost.get(topic)
            from_us, size = record.time_us, 1
            if known is not None and type(known.record) is Gap:
                from_us, size = known.record.from_us, (known.record.size or 0) + 1
            gap = Gap(topic, from_us, max(from_us, record.time_us), "journal_full", size)
            self._lost[topic] = Published(topic, published.seq, gap)
