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
from ..model import Published

__all__ = ["Publisher"]

NOT_STORING_S = 10.0
"""For so long after a refused record :meth:`Publisher.refusal` tells of it."""

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

    def refusal(self) -> str | None:
        """Return why records were not stored just now, or None."""
        return self._why if time() - self._refused_s < NOT_STORING_S else None

    def __call__(self, batch: list[Published]) -> None:
        """Journal a batch and hand it on; never raises for the disk."""
        try:
            self._append(batch)
        except (JournalFull, OSError) as error:
            self._note_refused(batch, error)
        self._route(batch)

    def _note_refused(self, batch: list[Published], error: Exception) -> None:
        self._refused.inc(len(batch))
        self._refused_s, self._why = time(), str(error)
        self._rarely.error("records are not stored", error=str(error))
        try:
            self._cover(batch)
        except OSError as trouble:
            self._rarely.error("a restart now would use sequence numbers a second time", error=str(trouble))
