"""The Prometheus metrics, all in one place: each drop, conflation, gap, retry and refusal has its counter.

One :class:`Metrics` per server, made by the runtime and handed down; nothing registers globally. An ``inc``
costs about half a microsecond, so the streaming path counts once per batch or pass, never per record.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["LoopCounter", "Metrics"]


class LoopCounter(Collector):
    """A counter for the streaming path, counted by the event loop alone: no lock, no layers.

    prometheus_client's own takes a lock and half a microsecond, and a record that comes by itself counts twice.
    """

    def __init__(self, name: str, text: str, registry: CollectorRegistry, label: str | None = None) -> None:
        self._about = (name, text)
        self._label = label
        self._counted: dict[str, Count] = {} if label else {"": Count()}
        registry.register(self)

    def labels(self, value: str = "") -> Count:
        """Return the count under a label's value, or of a counter without a label."""
        return self._counted.setdefault(value, Count())

    def collect(self) -> Iterable[Metric]:
        """Yield the family, for a scrape."""
        family = CounterMetricFamily(*self._about, labels=[self._label] if self._label else [])
        for value, count in self._counted.items():
            family.add_metric([value] if self._label else [], count.value)
        yield family


class Count:
    """One number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Metrics:
    """Counters and gauges of one server."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a line more for each counter, which nobody reads
        self.registry = registry = CollectorRegistry(auto_describe=True)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mdserver_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"mdserver_{name}", text, labels, registry=registry)

        # brokers
        self.published = LoopCounter(
            "mdserver_records_published", "Records accepted from a broker", registry, "broker"
        )
        self.rejected = counter(
            "records_rejected",
            "Records skipped: fields of the wrong type, impossible times, prices, texts",
            "broker",
            "reason",
        )
        self.unwanted = counter(
            "records_unwanted", "Records of feeds that nobody wants, or no longer: not taken", "broker"
        )
        self.discarded = counter("messages_discarded", "Venue messages that could not be decoded", "broker")
        self.ignored = counter("messages_ignored", "Venue messages of a kind not used", "broker", "kind")
        self.sessions = counter("broker_sessions", "Sessions ended, by outcome", "broker", "outcome")
        self.broker_up = gauge("broker_up", "1 while the broker is connected", "broker")
        self.broker_state = gauge("broker_state", "1 for the state that the broker is in", "broker", "state")
        self.broker_state_changes = counter(
            "broker_state_changes", "States that a broker entered", "broker", "state"
        )
        self.refused_feeds = counter("feeds_refused", "Feeds that a venue refused", "broker")
        self.own_sessions = gauge(
            "own_sessions", "Broker sessions that clients opened with their own credentials"
        )
        self.gaps_filled = counter("gaps_filled", "Gaps taken up, by what came of them", "broker", "state")
        self.backfilled = counter("records_backfilled", "Records stored that a gap had swallowed", "broker")
        self.gaps = counter("gaps", "Known holes in a feed", "broker", "cause")
        # clients
        self.clients = gauge("clients", "Connected WebSocket clients")
        self.connections = counter("client_connections", "WebSocket clients accepted")
        self.disconnects = counter("client_disconnects", "WebSocket clients gone, by close code", "code")
        self.client_errors = counter("client_errors", "Error messages sent to clients", "code")
        self.delivered = LoopCounter("mdserver_records_delivered", "Records handed to clients", registry)
        self.conflated = counter("records_conflated", "Ticks replaced by a newer one for a slow client")
        self.replays = gauge("replays", "Replays of stored records to clients under way")
        self.replayed = counter("records_replayed", "Stored records read for the replays of clients")
        self.connections_refused = counter(
            "connections_refused", "Connections over a bound, by bound", "bound"
        )
        self.access_refused = counter(
            "access_refused", "Requests and clients that were not let in, by reason", "reason"
        )
        self.violations = counter("client_violations", "Clients that broke the WebSocket protocol", "code")
        self.dropped_connections = counter("connections_dropped", "Connections cut after a fault of theirs")
        # storage
        self.journal_bytes = gauge("journal_bytes", "Bytes of the journal on disk")
        self.journal_refused = counter("journal_refused", "Records not stored: journal at its bound")
        self.stored = counter("records_stored", "Records committed to the database", "type")
        self.skipped = counter("records_stored_before", "Records not stored: the database had their numbers")
        self.store_retries = counter("store_retries", "Writes tried again", "cause")
        self.housekeeping_failures = counter(
            "housekeeping_failures", "Upkeep of the tables that failed and is tried again in an hour", "step"
        )
        self.store_lag_s = gauge("store_lag_seconds", "Age of the oldest record not yet committed")
        self.flush_seconds = Histogram(
            "mdserver_flush_seconds",
            "Time of one write transaction",
            registry=registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
        )
        # the server itself
        self.part_failures = counter("part_failures", "Failures of parts of the server", "part")
        self.loop_held = counter("loop_held", "Times that the event loop was held for too long", "by")
        # HTTP
        self.http_requests = counter("http_requests", "HTTP answers", "route", "status")

    def render(self) -> bytes:
        """Return the Prometheus text exposition."""
        return generate_latest(self.registry)
