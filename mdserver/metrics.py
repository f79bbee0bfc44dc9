"""All Prometheus metrics: each drop, conflation, gap, retry and refusal is counted.

There is one :class:`Metrics` per server, passed to its parts; nothing is registered globally. An ``inc`` costs about
half a microsecond, so the streaming path counts once per batch or pass, never per record.
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
    """A counter for the streaming path without a lock, because only the event loop increments it.

    prometheus_client's own takes a lock and half a microsecond, and a batch of one record is counted twice.
    """

    def __init__(self, name: str, text: str, registry: CollectorRegistry, label: str | None = None) -> None:
        self._about = (name, text)
        self._label = label
        self._counted: dict[str, Count] = {} if label else {"": Count()}
        registry.register(self)

    def labels(self, value: str = "") -> Count:
        """Return the count of a label's value, or the only count of a counter without a label."""
        return self._counted.setdefault(value, Count())

    def collect(self) -> Iterable[Metric]:
        """Yield the metric with all its values, for a scrape."""
        family = CounterMetricFamily(*self._about, labels=[self._label] if self._label else [])
        for value, count in self._counted.items():
            family.add_metric([value] if self._label else [], count.value)
        yield family


class Count:
    """A number that only increases."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Metrics:
    """Counters and gauges of one server."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # `_created` doubles the lines of each counter
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
            "Records skipped because a field has the wrong type or an impossible time, price or text",
            "broker",
            "reason",
        )
        self.unwanted = counter(
            "records_unwanted", "Records skipped because nobody subscribes to their feed", "broker"
        )
        self.discarded = counter("messages_discarded", "Venue messages that could not be decoded", "broker")
        self.ignored = counter("messages_ignored", "Venue messages of an unused kind", "broker", "kind")
        self.sessions = counter("broker_sessions", "Ended broker sessions, by outcome", "broker", "outcome")
        self.broker_up = gauge("broker_up", "1 while the broker is connected", "broker")
        self.broker_state = gauge("broker_state", "1 for the current state of the broker", "broker", "state")
        self.broker_state_changes = counter(
            "broker_state_changes", "Changes of a broker's state, by the new state", "broker", "state"
        )
        self.refused_feeds = counter("feeds_refused", "Feeds refused by the venue", "broker")
        self.own_sessions = gauge("own_sessions", "Open broker sessions with credentials of a client")
        self.gaps_filled = counter(
            "gaps_filled", "Gaps that a backfill has processed, by their new state", "broker", "state"
        )
        self.backfilled = counter("records_backfilled", "Records of gaps stored by a backfill", "broker")
        self.gaps = counter("gaps", "Gaps announced, by cause", "broker", "cause")
        # clients
        self.clients = gauge("clients", "Connected WebSocket clients")
        self.connections = counter("client_connections", "WebSocket clients accepted")
        self.disconnects = counter(
            "client_disconnects", "WebSocket clients disconnected, by close code", "code"
        )
        self.client_errors = counter("client_errors", "Error messages sent to clients", "code")
        self.delivered = LoopCounter("mdserver_records_delivered", "Records queued for clients", registry)
        self.conflated = counter(
            "records_conflated", "Ticks replaced by a newer one in the queue of a slow client"
        )
        self.replays = gauge("replays", "Running replays of stored records to clients")
        self.replayed = counter("records_replayed", "Stored records read for replays to clients")
        self.connections_refused = counter(
            "connections_refused", "Connections refused because a limit was reached, by limit", "bound"
        )
        self.access_refused = counter(
            "access_refused", "Requests and WebSocket clients refused by access control, by reason", "reason"
        )
        self.violations = counter(
            "client_violations",
            "Clients disconnected for breaking the WebSocket protocol, by close code",
            "code",
        )
        self.dropped_connections = counter(
            "connections_dropped",
            "Connections cut: the client does not read, or an unexpected error on the connection",
        )
        # bus
        self.shipped = LoopCounter(
            "mdserver_bus_records_shipped", "Records appended to the bus", registry, "broker"
        )
        self.unshipped = counter(
            "bus_records_dropped", "Records that waited too long for the bus and were dropped", "broker"
        )
        self.unled = counter(
            "bus_records_unled", "Records dropped because the lease of their broker was in doubt", "broker"
        )
        self.followed = LoopCounter(
            "mdserver_bus_records_followed", "Records taken from the bus", registry, "broker"
        )
        self.fetched = counter(
            "bus_records_fetched", "Records missing on the bus and read from the database", "broker"
        )
        self.frames_refused = counter(
            "bus_frames_refused", "Entries of the bus that are damaged or of another version", "broker"
        )
        self.bus_leads = gauge("bus_leads", "1 where this process leads a broker", "broker")
        self.bus_fence = gauge("bus_fence", "Fence under which a broker is led; 0: nobody leads it", "broker")
        self.bus_lag = gauge(
            "bus_lag_seconds",
            "Age of the newest record from the bus when it came; 0 for the leader",
            "broker",
        )
        self.bus_stream_bytes = gauge(
            "bus_stream_bytes", "About what the stream of a broker that this process leads needs", "broker"
        )
        self.bus_waiting = gauge("bus_waiting_bytes", "Bytes of records that wait for the bus")
        # storage
        self.journal_bytes = gauge("journal_bytes", "Size of the journal on disk")
        self.journal_refused = counter(
            "journal_refused", "Records not stored because the journal could not take them"
        )
        self.stored = counter("records_stored", "Records committed to the database", "type")
        self.skipped = counter(
            "records_stored_before", "Records skipped because the database had their numbers already"
        )
        self.store_retries = counter("store_retries", "Database writes tried again", "cause")
        self.housekeeping_failures = counter(
            "housekeeping_failures", "Failed upkeep of the tables, tried again after an hour", "step"
        )
        self.store_lag_s = gauge("store_lag_seconds", "Age of the oldest record that is not stored yet")
        self.flush_seconds = Histogram(
            "mdserver_flush_seconds",
            "Duration of one write transaction",
            registry=registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
        )
        # the server itself
        self.part_failures = counter("part_failures", "Failures of a part of the server", "part")
        self.loop_held = counter(
            "loop_held", "Times that the event loop was blocked for more than 250 ms, by culprit", "by"
        )
        # HTTP
        self.http_requests = counter("http_requests", "HTTP requests answered", "route", "status")

    def render(self) -> bytes:
        """Return the Prometheus text exposition."""
        return generate_latest(self.registry)
