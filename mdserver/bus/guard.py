"""Lets nothing pass of a leader whose lease may have run out."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from ..feed.broker_host import Emit
from ..metrics import Metrics
from ..model import Gap, LastRecord, Published, Topic

__all__ = ["Guard"]


class Guard:
    """Lets a leader's batches pass while its lease is known to last: a process that was stopped for a while must not
    publish what another leader has published meanwhile.
    """

    def __init__(self, emit: Emit, metrics: Metrics) -> None:
        self.until_s = -math.inf
        self.dropped: dict[Topic, LastRecord] = {}
        """What stands before the first record of each topic that nobody got to see, though it had a number."""
        self.lost: Callable[[], None] = lambda: None
        self._emit = emit
        self._metrics = metrics

    def __call__(self, batch: list[Published]) -> None:
        """Publish a batch, or drop it where the lease is in doubt."""
        if trio.current_time() > self.until_s:
            for one in batch:
                if type(one.record) is not Gap:
                    self.dropped.setdefault(one.topic, LastRecord(one.seq - 1, one.record.time_us - 1))
            self._metrics.unled.labels(batch[0].topic.broker).inc(len(batch))
            self.lost()
            return
        self._emit(batch)
