"""What a broker talks to: checks, numbers and hands on its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import time

import structlog

from .demand import BrokerDemand
from .errors import BadMessage
from .metrics import Metrics
from .model import US_PER_S, Feed, Instrument, Published, Record, Tick, Topic
from .sanity import RecordCheck

__all__ = ["Emit", "Host"]

Emit = Callable[[list[Published]], None]
"""Takes an accepted batch: appends it to the journal, then fans it out."""

LOG_EVERY_S = 60.0


class _Line:
    """One topic of this broker: its number and its check."""

    __slots__ = ("check", "seq", "topic")

    def __init__(self, topic: Topic, seq: int) -> None:
        self.topic = topic
        self.seq = seq
        self.check = RecordCheck()


class Host:
    """Implements :class:`mdserver.plugin.BrokerHost` for one broker; lives as long as the server."""

    def __init__(
        self,
        name: str,
        demand: BrokerDemand,
        *,
        emit: Emit,
        last_seqs: Mapping[Topic, int],
        metrics: Metrics,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.name = name
        self.demand = demand
        self.log = log.bind(broker=name)
        self.last_event_s: float | None = None
        self._emit = emit
        self._last_seqs = last_seqs
        self._ticks: dict[str, _Line] = {}
        self._trades: dict[str, _Line] = {}
        self._metrics = metrics
        self._published = metrics.published.labels(name)
        self._quiet: dict[str, _Quiet] = {}

    def publish(self, batch: Sequence[Record]) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.publish`."""
        accepted: list[Published] = []
        now_s = time()
        now_us = int(now_s * US_PER_S)
        for record in batch:
            line = (self._ticks if type(record) is Tick else self._trades).get(record.symbol)
            if line is None:
                line = self._open_line(record)
            fault = line.check.fault(record, now_us)
            if fault is None:
                line.seq += 1
                accepted.append(Published(line.topic, line.seq, record))
            else:
                self._reject(record, fault)
        self.last_event_s = now_s
        if accepted:
            self._published.inc(len(accepted))
            self._emit(accepted)

    def confirm(self, feeds: Iterable[Feed]) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.confirm`."""
        self.demand.confirm(feeds)

    def refuse(self, feeds: Iterable[Feed], reason: str) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.refuse`."""
        feeds = tuple(feeds)
        self._metrics.refused_feeds.labels(self.name).inc(len(feeds))
        self.log.warning("feeds refused", feeds=[f"{f.symbol} {f.type}" for f in feeds], reason=reason)
        self.demand.refuse(feeds, reason)

    def alive(self) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.alive`."""
        self.last_event_s = time()

    def discard(self, error: BadMessage) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.discard`."""
        self.last_event_s = time()
        self._metrics.discarded.labels(self.name).inc()
        self._log_rarely("message discarded", error=str(error))

    def ignored(self, what: str) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.ignored`."""
        self.last_event_s = time()
        self._metrics.ignored.labels(self.name, what[:40]).inc()

    def instruments(self, table: Iterable[Instrument]) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.instruments`."""
        self.demand.set_instruments(table)

    def _open_line(self, record: Record) -> _Line:
        ticks = type(record) is Tick
        topic = Topic(self.name, record.symbol, "tick" if ticks else "trade")
        line = _Line(topic, self._last_seqs.get(topic, 0))
        (self._ticks if ticks else self._trades)[record.symbol] = line
        return line

    def _reject(self, record: Record, fault: str) -> None:
        self._metrics.rejected.labels(self.name, fault).inc()
        self._log_rarely("record rejected", reason=fault, record=str(record))

    def _log_rarely(self, event: str, **about: object) -> None:
        """Log at most once a minute per kind, with the number of those not logged."""
        quiet = self._quiet.setdefault(event, _Quiet())
        now = time()
        if now - quiet.since < LOG_EVERY_S:
            quiet.count += 1
            return
        self.log.warning(event, **about, not_logged=quiet.count)
        quiet.since, quiet.count = now, 0


class _Quiet:
    __slots__ = ("count", "since")

    def __init__(self) -> None:
        self.since = 0.0
        self.count = 0
