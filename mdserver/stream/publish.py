"""Publish an accepted batch: to the journal first, then to the clients.

Streaming never stops for the disk: if the journal is at its bound or the disk refuses a write, the records are streamed
all the same; that they are not stored is counted and logged.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic

import structlog

from ..errors import JournalFull
from ..journal.journal import Journal
from ..log import RarelyLogged
from ..metrics import Metrics
from ..model import JOURNAL_FULL, Gap, Published, Topic
from ..os_errors import explain

__all__ = ["Publisher"]

NOT_STORING_S = 10.0
"""For this long after a refused record :meth:`Publisher.refusal` reports it."""

FEW = 100
"""So many waiting gaps are written with any batch; each try encodes all of them."""

AGAIN_S = 0.1
"""With more of them a journal that takes no writes is tried no more often than this."""

MAX_HOLES = 10_000
"""How many gaps wait for a journal that takes no writes; more are announced to clients, but not recorded."""

_log = structlog.get_logger("mdserver")


class Publisher:
    """An :data:`mdserver.feed.broker_host.Emit`; ``route`` sends a batch to its subscribers."""

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
        self._refused_s = -inf
        self._why = ""
        self._error: Exception | None = None
        self._tried_s = -inf
        self._rarely = RarelyLogged(_log)
        self._lost: dict[Topic, Published] = {}
        self._holes: list[Published] = []

    def refusal(self) -> str | None:
        """Return why records were not journalled a moment ago, or None."""
        return self._why if monotonic() - self._refused_s < NOT_STORING_S else None

    def __call__(self, batch: list[Published]) -> None:
        """Journal a batch and pass it on; never raises because of the disk."""
        waiting = len(self._lost) + len(self._holes)
        if waiting > FEW and self._error is not None and monotonic() < self._tried_s + AGAIN_S:
            self._note_refused(batch, self._error)
            self._route(batch)
            return
        try:
            if waiting:
                self._append([*self._holes, *self._lost.values(), *batch])
                self._lost, self._holes = {}, []
            else:
                self._append(batch)
        except (JournalFull, OSError) as error:
            self._tried_s, self._error = monotonic(), error.with_traceback(None)
            self._note_refused(batch, error)
        self._route(batch)

    def note_holes(self, *, after_s: float) -> None:
        """Journal the gaps of refused records, if it takes them now and has refused none for so many seconds.

        The next record brings them along, but it may come in hours.
        """
        if (self._lost or self._holes) and monotonic() - self._refused_s >= after_s:
            with suppress(JournalFull, OSError):  # they are kept for the next time
                self._append([*self._holes, *self._lost.values()])
                self._lost, self._holes = {}, []

    def _note_refused(self, batch: list[Published], error: Exception) -> None:
        self._refused.inc(len(batch))
        self._refused_s = monotonic()
        self._why = explain(error) if isinstance(error, OSError) else str(error)
        self._rarely.error(
            "records are streamed but not stored, because the journal cannot take them", error=self._why
        )
        self._note_lost(batch)
        try:
            self._cover(batch)
        except OSError as trouble:
            self._rarely.error(
                "the used sequence numbers cannot be saved: a server that restarted now would use some of them a "
                "second time, and clients would take its records for known ones",
                error=explain(trouble),
            )

    def _note_lost(self, batch: list[Published]) -> None:
        """Keep one gap per topic, with the number of lost records, until the journal can take it."""
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
            gap = Gap(topic, from_us, max(from_us, record.time_us), JOURNAL_FULL, size)
            self._lost[topic] = Published(topic, published.seq, gap)
