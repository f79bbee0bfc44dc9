"""What a broker talks to: checks, numbers and hands on its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import time
from typing import TypeAlias

import structlog

from ..errors import BadMessage
from ..kinds import BY_NAME, KINDS, Check, Kind
from ..log import RarelyLogged
from ..metrics import Metrics
from ..model import US_PER_S, Feed, Gap, Instrument, LastRecord, Published, Record, Topic
from ..record_check import is_text
from ..redact import redact
from .demand import BrokerDemand, FeedChange

__all__ = ["Announce", "Emit", "Host", "clean_text"]

Emit = Callable[[list[Published]], None]
"""Takes an accepted batch: appends it to the journal, then fans it out."""

Announce = Callable[[Gap], None]
"""Tells a topic's subscribers of a hole, before the record that ends it."""

_Key: TypeAlias = str | tuple[str, str]
"""The symbol, with the variant where the kind has any: so that the symbol alone never finds those."""


class _Line:
    """One topic of this broker: its number, its check, and where its last record stood.

    ``broken_off`` is why records may be missing behind that one, or None. ``served``: the venue is known to serve it.
    ``interrupted`` is why it was not served for a while, or None: what is still on its way then does not end the hole,
    which lasts until the venue serves it again.
    """

    __slots__ = ("broken_off", "fault", "interrupted", "last_us", "seq", "served", "topic")

    def __init__(self, topic: Topic, check: Check, last: LastRecord | None) -> None:
        self.topic = topic
        self.fault = check.fault
        self.seq, self.last_us = last or (0, 0)
        self.served = False
        self.interrupted: str | None = None
        self.broken_off: str | None = None
        self.break_off("restart")

    def break_off(self, cause: str) -> None:
        """Note that records may be missing behind the last one, if there was one."""
        self.served = False
        if self.last_us and self.broken_off is None:
            self.broken_off = self.interrupted or cause

    def interrupt(self, cause: str) -> None:
        """Note that the venue is not asked for it any more."""
        self.served = False
        self.interrupted = self.interrupted or cause

    def resume(self) -> None:
        """Note that the venue serves it (again)."""
        if self.interrupted is not None:
            self.break_off(self.interrupted)
            self.interrupted = None
        self.served = True


class Host:
    """Implements :class:`mdserver.plugin.BrokerHost` for one broker; lives as long as the server."""

    def __init__(
        self,
        name: str,
        demand: BrokerDemand,
        *,
        emit: Emit,
        announce: Announce,
        last_records: Mapping[Topic, LastRecord],
        metrics: Metrics,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.name = name
        self.demand = demand
        self.log = log.bind(broker=name)
        self.last_event_s: float | None = None
        self._emit = emit
        self._announce = announce
        self._last_records = last_records
        self._lines: dict[type, dict[_Key, _Line]] = {kind.struct: {} for kind in KINDS.values()}
        self._metrics = metrics
        self._published = metrics.published.labels(name)
        self._rarely = RarelyLogged(self.log)
        demand.watch(self._feeds_changed)

    def publish(self, batch: Sequence[Record], *, received_us: int | None = None) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.publish`."""
        accepted: list[Published] = []
        now_s = time()
        now_us = int(now_s * US_PER_S)
        if received_us is None:
            received_us = now_us
        by_type = self._lines
        for record in batch:
            lines = by_type.get(type(record))
            line = None if lines is None else lines.get(record.symbol)
            if line is None:
                line = self._find_line(record)
                if line is None:
                    self._reject(record, "type")
                    continue
            if not line.served:
                self._note_served(line)
            fault = line.fault(record, now_us)
            if fault is None:
                if line.broken_off is not None:
                    self._close_gap(line, record)
                line.seq += 1
                line.last_us = record.time_us
                accepted.append(Published(line.topic, line.seq, record, received_us))
            else:
                self._reject(record, fault)
        self.last_event_s = now_s
        if accepted:
            self._published.value += len(accepted)
            self._emit(accepted)

    def gap(self, cause: str, feeds: Iterable[Feed] | None = None) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.gap`."""
        chosen = None if feeds is None else frozenset(feeds)
        for line in self._all_lines():
            if chosen is None or Feed(*line.topic[1:]) in chosen:
                line.break_off(cause)

    def last_records(self) -> dict[Topic, LastRecord]:
        """Return where each topic that it has published stands: where a host in its place goes on."""
        return {line.topic: LastRecord(line.seq, line.last_us) for line in self._all_lines()}

    def _all_lines(self) -> Iterator[_Line]:
        for lines in self._lines.values():
            yield from lines.values()

    def _note_served(self, line: _Line) -> None:
        """A record says as much as a confirmation; of a feed that is not wanted it was still on its way."""
        feed = Feed(*line.topic[1:])
        if self.demand.status(feed) in ("pending", "active"):
            self.demand.confirm([feed])
            line.resume()

    def _feeds_changed(self, changes: Sequence[FeedChange]) -> None:
        for feed, status, _ in changes:
            kind = BY_NAME.get(feed.type)
            line = (
                None if kind is None else self._lines[kind.struct].get(_key(kind, feed.symbol, feed.variant))
            )
            if line is None:
                continue
            if status == "active":
                line.resume()
            else:
                line.interrupt("unsubscribed" if status == "unwanted" else "refused")

    def confirm(self, feeds: Iterable[Feed]) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.confirm`."""
        self.demand.confirm(feeds)

    def refuse(self, feeds: Iterable[Feed], reason: str) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.refuse`."""
        feeds, reason = tuple(feeds), clean_text(reason)
        self._note_refused(dict.fromkeys(feeds, reason))
        self.demand.refuse(feeds, reason)

    def alive(self) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.alive`."""
        self.last_event_s = time()

    def discard(self, error: BadMessage) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.discard`."""
        self.last_event_s = time()
        self._metrics.discarded.labels(self.name).inc()
        self._rarely.warning("message discarded", error=clean_text(str(error)))

    def ignored(self, what: str) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.ignored`."""
        self.last_event_s = time()
        self._metrics.ignored.labels(self.name, clean_text(what[:40])).inc()

    def instruments(self, table: Iterable[Instrument]) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.instruments`."""
        self._note_refused(self.demand.set_instruments(table))

    def _note_refused(self, reasons: Mapping[Feed, str]) -> None:
        by_reason: dict[str, list[str]] = {}
        for feed, reason in reasons.items():
            by_reason.setdefault(reason, []).append(f"{feed.symbol} {feed.type} {feed.variant}".rstrip())
        self._metrics.refused_feeds.labels(self.name).inc(len(reasons))
        for reason, feeds in by_reason.items():
            self.log.warning("feeds refused", feeds=feeds, reason=reason)

    def _find_line(self, record: Record) -> _Line | None:
        """Return the line of a record: of a kind with variants, or of a new topic; None for what is no record."""
        kind = KINDS.get(type(record))
        if kind is None or not is_text(record.symbol):
            return None
        variant = "" if kind.variant is None else kind.variant(record)
        if not is_text(variant):
            return None
        lines = self._lines[kind.struct]
        key = _key(kind, record.symbol, variant)
        line = lines.get(key)
        if line is None:
            topic = Topic(self.name, record.symbol, kind.name, variant)
            line = lines[key] = _Line(topic, kind.check(), self._last_records.get(topic))
        return line

    def _close_gap(self, line: _Line, record: Record) -> None:
        """A topic goes on after a session ended: say between which records others may be missing."""
        gap = Gap(line.topic, line.last_us, record.time_us, line.broken_off or "")
        line.broken_off = None
        self._metrics.gaps.labels(self.name, gap.cause).inc()
        self._announce(gap)

    def _reject(self, record: Record, fault: str) -> None:
        self._metrics.rejected.labels(self.name, fault).inc()
        self._rarely.warning("record rejected", reason=fault, record=str(record))


def _key(kind: Kind, symbol: str, variant: str) -> _Key:
    return symbol if kind.variant is None else (symbol, variant)


def clean_text(text: str) -> str:
    """Return a text that a plugin gave as it may be shown: without secrets, and without what cannot be written."""
    return redact(text.encode(errors="replace").decode())
