"""The host that a broker uses: checks, numbers and passes on its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import monotonic, time
from typing import Protocol, TypeAlias, cast

import structlog
from msgspec import Struct

from ..errors import BadMessage
from ..kinds import BY_NAME, KINDS, Kind
from ..log import RarelyLogged
from ..metrics import Metrics
from ..model import DISCARDED, US_PER_S, Feed, Gap, Instrument, LastRecord, Published, Record, Topic
from ..record_check import MAX_AHEAD_US, is_text, time_fault
from ..redact import redact
from ..symbols import canonical
from .demand import BrokerDemand, FeedChange
from .line import Line

__all__ = ["Emit", "Host", "clean_text", "restart_gaps", "shown_record"]

Emit = Callable[[list[Published]], None]
"""Publishes an accepted batch: appends it to the journal, then sends it to clients."""

MAX_LABELS = 100
"""The most kinds of messages, and causes of gaps, that are counted by name: a venue's texts must not make the metrics
grow without a bound."""

MAX_CAUSE = 40
"""The most characters of the cause of a gap."""

MAX_SIZE = 1 << 63
"""No gap has so many records: the database holds no such number."""

MAX_VARIANT_BYTES = 16
"""The longest name of an interval or a depth."""

MAX_SHOWN = 20
"""The most feeds of clients that one line of the log names."""

RENEW_EVERY_S = 10.0
"""How often a broker is asked for a whole order book."""

_SHOWN = 80  # characters of a field of a rejected record in the log

_Key: TypeAlias = str | tuple[str, str]
"""The symbol, or the symbol and the variant for a kind with variants; the symbol alone never finds such a line."""


class Elsewhere(Protocol):
    """What is known of a broker whose sessions run in another process."""

    def last_seq(self, topic: Topic) -> int | None:
        """Return the number of a topic's newest record; 0 if there was none, None if that is not known."""
        ...

    def hole(self, topic: Topic) -> Gap | None:
        """Return the gap that a topic is in now."""
        ...


class Host:
    """Implements :class:`mdserver.plugin.BrokerHost` for one broker; lives as long as the server."""

    def __init__(
        self,
        name: str,
        demand: BrokerDemand,
        *,
        emit: Emit,
        last_records: Mapping[Topic, LastRecord],
        metrics: Metrics,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.name = name
        self.demand = demand
        self.log = log.bind(broker=name)
        self.last_event_s: float | None = None
        self.elsewhere: Elsewhere | None = None
        """Set while another process runs the broker's sessions."""
        self.renew_books: Callable[[Sequence[str]], None] = lambda symbols: None
        """Has the broker get full order books anew."""
        self.has_heartbeats = False
        """Whether the broker has ever reported a heartbeat: from then on its silence is a fault at any time."""
        self._emit = emit
        self._last_records = {
            topic: last for topic, last in last_records.items() if topic.broker == name and last.seq
        }
        self._lines: dict[type, dict[_Key, Line]] = {kind.struct: {} for kind in BY_NAME.values()}
        self._metrics = metrics
        self._published = metrics.published.labels(name)
        self._unwanted = metrics.unwanted.labels(name)
        self._ignored_kinds: set[str] = set()
        self._causes: set[str] = set()
        self._rarely = RarelyLogged(self.log)
        demand.watch(self._feeds_changed)
        self._note_restart()

    def publish(self, batch: Sequence[Record], *, received_us: int | None = None) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.publish`."""
        accepted: list[Published] = []
        gaps = 0
        missed: dict[Line, None] = {}
        now_s = time()
        now_us = int(now_s * US_PER_S)
        latest_us = now_us + MAX_AHEAD_US
        if received_us is None:
            received_us = now_us
        by_type = self._lines
        try:
            for record in batch:
                lines = by_type.get(type(record))
                try:
                    line = None if lines is None else lines.get(record.symbol)
                except TypeError:  # an unhashable value is not a symbol
                    line = None
                if line is None:
                    line = self._find_line(record)
                    if line is None:
                        continue
                if (line.whole_due or not line.served) and not self._may_follow(line, record):
                    continue
                time_us = record.time_us
                if type(time_us) is int and line.earliest_us <= time_us <= latest_us:
                    fault = line.fault(record)
                else:
                    fault = time_fault(time_us, now_us, line.earliest_us)
                if fault is None:
                    if line.broken_off is not None:
                        accepted.append(self._end_hole(line, time_us))
                        gaps += 1
                    line.whole_due = False
                    line.seq += 1
                    line.last_us = time_us
                    accepted.append(Published(line.topic, line.seq, record, received_us))
                else:
                    self._reject(record, fault)
                    line.miss_rejected()
                    missed[line] = None
        finally:  # even if a batch fails midway, each numbered record must be published
            self.last_event_s = now_s
            if accepted:
                self._published.value += len(accepted) - gaps
                self._emit(accepted)
            if missed:
                self._announce(missed)

    def gap(self, cause: str, feeds: Iterable[Feed] | None = None, size: int | None = None) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.gap`."""
        chosen = None if feeds is None else frozenset(feeds)
        cause = clean_text(cause[:MAX_CAUSE])
        if size is not None and not (type(size) is int and 0 <= size < MAX_SIZE):
            self._rarely.warning(
                "the size of a gap is no number of records: it counts as unknown", size=repr(size)[:40]
            )
            size = None
        for line in self._all_lines():
            if chosen is None or Feed(*line.topic[1:]) in chosen:
                line.break_off(cause, size)

    def announce_holes(self) -> None:
        """Publish the lasting gaps that were not published yet, so that the ledger has them, whatever happens next."""
        self._announce(self._all_lines())

    def _announce(self, lines: Iterable[Line]) -> None:
        begun = []
        for line in lines:
            if not line.announced and (hole := line.hole(None)) is not None:
                line.announced = True
                begun.append(Published(line.topic, line.seq, hole))
        if begun:
            self._emit(begun)

    def _note_restart(self) -> None:
        """Publish a gap after each last record without one: nothing was received while there was no host."""
        begun = restart_gaps(self._last_records)
        for published in begun:
            last = self._last_records[published.topic]
            self._last_records[published.topic] = last._replace(hole=cast("Gap", published.record))
        if begun:
            self._emit(begun)

    def continue_behind(self, last_records: Mapping[Topic, LastRecord]) -> None:
        """Number each topic on behind these, as if the host was new: another process published them, or this one."""
        for lines in self._lines.values():
            lines.clear()
        self._last_records = dict(last_records)
        begun = [Published(topic, last.seq, last.hole) for topic, last in last_records.items() if last.hole]
        if begun:
            self._emit(begun)

    def hole(self, feed: Feed) -> Gap | None:
        """Return the gap that a feed is in now: no record has arrived since it began. None if there is none."""
        if self.elsewhere is not None:
            return self.elsewhere.hole(Topic(self.name, *feed))
        kind = BY_NAME.get(feed.type)
        line = None if kind is None else self._lines[kind.struct].get(_key(kind, feed.symbol, feed.variant))
        if line is not None:
            return line.hole(None)
        last = self._last_records.get(Topic(self.name, *feed))
        return None if last is None else last.hole

    def last_seq(self, feed: Feed) -> int | None:
        """Return the number of the newest record of a feed; 0 where there was none, None where that is not known."""
        if self.elsewhere is not None:
            return self.elsewhere.last_seq(Topic(self.name, *feed))
        kind = BY_NAME.get(feed.type)
        line = None if kind is None else self._lines[kind.struct].get(_key(kind, feed.symbol, feed.variant))
        if line is not None:
            return line.seq
        last = self._last_records.get(Topic(self.name, *feed))
        return 0 if last is None else last.seq

    def last_records(self) -> dict[Topic, LastRecord]:
        """Return the last record of each published topic: a host that replaces this one continues from there."""
        return {line.topic: LastRecord(line.seq, line.last_us, line.hole(None)) for line in self._all_lines()}

    def _all_lines(self) -> Iterator[Line]:
        for lines in self._lines.values():
            yield from lines.values()

    def _note_served(self, line: Line) -> bool:
        """Return whether a record's feed is wanted; if so, the record confirms the feed.

        Otherwise the venue sent it before the last holder let go, or before it refused the feed.
        """
        feed = Feed(*line.topic[1:])
        if self.demand.status(feed) not in ("pending", "active"):
            self._unwanted.inc()
            return False
        self.demand.confirm([feed])
        line.resume()
        return True

    def _feeds_changed(self, changes: Sequence[FeedChange]) -> None:
        interrupted = []
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
                interrupted.append(line)
        self._announce(interrupted)

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
        self.has_heartbeats = True
        self.last_event_s = time()

    def discard(self, error: BadMessage, *, asked_again: bool = False) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.discard`."""
        if not asked_again:
            self.last_event_s = time()
            self.gap(DISCARDED, [Feed(*line.topic[1:]) for line in self._all_lines() if line.served])
        self._metrics.discarded.labels(self.name).inc()
        self._rarely.warning("invalid message from the venue discarded", error=clean_text(str(error)))

    def ignored(self, what: str) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.ignored`."""
        self.last_event_s = time()
        self._metrics.ignored.labels(self.name, _label(what, self._ignored_kinds)).inc()

    def instruments(self, table: Iterable[Instrument]) -> None:
        """See :meth:`mdserver.plugin.BrokerHost.instruments`."""
        self._note_refused(self.demand.set_instruments(table))

    def _note_refused(self, reasons: Mapping[Feed, str]) -> None:
        """Count and log refused feeds: those of the config each time, those of clients alone rarely.

        Otherwise a client that asks for what there is not could fill the log.
        """
        self._metrics.refused_feeds.labels(self.name).inc(len(reasons))
        by_reason: dict[tuple[bool, str], list[str]] = {}
        for feed, reason in reasons.items():
            names = by_reason.setdefault((self.demand.is_pinned(feed), reason), [])
            names.append(f"{feed.symbol} {feed.type} {feed.variant}".rstrip())
        for (pinned, reason), feeds in by_reason.items():
            if pinned:
                self.log.warning("feeds refused", feeds=feeds, reason=reason)
            else:
                self._rarely.warning("feeds of clients refused", feeds=feeds[:MAX_SHOWN], reason=reason)

    def _find_line(self, record: Record) -> Line | None:
        """Return the line of a record with a variant or a new topic, or None if the record is refused."""
        kind = KINDS.get(type(record))
        if kind is None or kind.name not in BY_NAME or type(record.symbol) is not str:
            self._reject(record, "type")
            return None
        variant = "" if kind.variant is None else kind.variant(record)
        if not is_text(variant, MAX_VARIANT_BYTES):
            self._reject(record, "type")
            return None
        lines = self._lines[kind.struct]
        key = _key(kind, record.symbol, variant)
        line = lines.get(key)
        if line is not None:
            return line
        if not _is_canonical(record.symbol):
            self._reject(record, "symbol")
            return None
        feed = Feed(record.symbol, kind.name, variant)
        if self.demand.status(feed) is None:
            self._reject_unwanted(feed)
            return None
        topic = Topic(self.name, *feed)
        line = lines[key] = Line(topic, kind, self._last_records.get(topic))
        return line

    def _end_hole(self, line: Line, time_us: int) -> Published:
        """Return the gap that a record at ``time_us`` ends; it precedes that record and goes to the ledger."""
        gap = line.hole(time_us)
        assert gap is not None  # noqa: S101 - it was broken off
        line.broken_off = line.lost = None
        line.announced = False
        self._metrics.gaps.labels(self.name, _label(gap.cause, self._causes)).inc()
        return Published(line.topic, line.seq, gap)

    def _may_follow(self, line: Line, record: Record) -> bool:
        """Return whether a record of a line that is not served, or lacks records, is wanted and stands for itself.

        If it changes what is not known, the broker is asked for the whole, now and then.
        """
        if not line.served and not self._note_served(line):
            return False
        if not line.whole_due or line.needs_before is None or not line.needs_before(record):
            return True
        self._metrics.rejected.labels(self.name, "no_snapshot").inc()
        if (now_s := monotonic()) >= line.asked_s + RENEW_EVERY_S:
            line.asked_s = now_s
            self.renew_books([line.topic.symbol])
        return False

    def _reject(self, record: Record, fault: str) -> None:
        self._metrics.rejected.labels(self.name, fault).inc()
        self._rarely.warning("record rejected", reason=fault, record=shown_record(record))

    def _reject_unwanted(self, feed: Feed) -> None:
        """Count a record of a feed that was never wanted since the server started."""
        self._unwanted.inc()
        self._rarely.warning("records of a feed without subscribers discarded", feed=" ".join(feed).rstrip())


def restart_gaps(last_records: Mapping[Topic, LastRecord]) -> list[Published]:
    """Return a gap that lasts behind the last record of each topic that no gap is known to follow."""
    return [
        Published(topic, last.seq, Gap(topic, last.time_us, None, "restart"))
        for topic, last in last_records.items()
        if last.seq and last.time_us and last.hole is None
    ]


def _label(text: str, known: set[str]) -> str:
    """Return a text as a metric's label: the text itself for the first so many, then ``other``."""
    label = clean_text(text[:MAX_CAUSE])
    if label not in known:
        if len(known) >= MAX_LABELS:
            return "other"
        known.add(label)
    return label


def _key(kind: Kind, symbol: str, variant: str) -> _Key:
    return symbol if kind.variant is None else (symbol, variant)


def _is_canonical(symbol: str) -> bool:
    try:
        return canonical(symbol) == symbol
    except ValueError:
        return False


def shown_record(record: object) -> str:
    """Return a record as text for the log; a long field is cut before it is formatted, since it may be megabytes."""
    if not isinstance(record, Struct):
        return type(record).__name__
    fields = (_cut(getattr(record, name)) for name in record.__struct_fields__)
    return clean_text(f"{type(record).__name__}({', '.join(fields)})")


def _cut(value: object) -> str:
    if isinstance(value, str | bytes | tuple | list):
        return repr(value[:_SHOWN])[:_SHOWN] + ("…" if len(value) > _SHOWN else "")
    return repr(value)[:_SHOWN]


def clean_text(text: str) -> str:
    """Return a plugin's text without secrets and without characters that cannot be written or stored."""
    return redact(text.encode(errors="replace").decode().replace("\0", "?"))
