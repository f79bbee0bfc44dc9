"""The server's side of a broker in the suite: the real host, demand and supervisor, and a record of what happens."""

from __future__ import annotations

import json
import logging
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio

from ...backoff import Backoff
from ...config import load_config
from ...config.constraints import is_secret
from ...errors import BadMessage, ConfigError
from ...feed.broker_host import Host
from ...feed.broker_state import State
from ...feed.demand import BrokerDemand
from ...feed.supervised_broker import SupervisedBroker
from ...metrics import Metrics
from ...model import Feed, Gap, Instrument, Published, Record
from ...plugin import BrokerPlugin, HistoryPlugin
from .cases import BrokerCase
from .scorecard import Failed, quoted
from .watch import SessionWatch, mark_session, until

__all__ = ["SuiteHost", "SuiteServer", "captured_log", "load_settings", "open_server", "secrets_of"]

STOP_S = 3.0
"""The time that a cancelled session has for its cleanup; the real server waits as long."""


class SuiteHost(Host):
    """The server's host. ``rejected`` are the records that it refused, ``pause_s`` is how long each batch takes it."""

    def __init__(self, name: str, log: structlog.stdlib.BoundLogger, watch: SessionWatch) -> None:
        self.published: list[Published] = []
        self.gaps: list[Gap] = []
        self.rejected: list[str] = []
        self.discarded: list[BadMessage] = []
        self.listed: list[Instrument] | None = None
        self.events = 0
        self.pause_s = 0.0
        self.metrics = Metrics()
        self._watch = watch
        demand = BrokerDemand()
        super().__init__(
            name,
            demand,
            emit=self._keep,
            last_records={},
            metrics=self.metrics,
            log=log,
        )
        self.has_heartbeats = True  # silence is a fault, on whatever day the suite runs

    def _keep(self, batch: Iterable[Published]) -> None:
        for one in batch:
            if isinstance(one.record, Gap):
                self.gaps.append(one.record)
            else:
                self.published.append(one)

    def publish(self, batch: Sequence[Record], *, received_us: int | None = None) -> None:
        """Publish and keep the records that the server accepts."""
        began = time.perf_counter()
        if self.pause_s:
            time.sleep(self.pause_s)  # a slow host holds the loop, as the real one would
        super().publish(batch, received_us=received_us)
        self._watch.excused_s += time.perf_counter() - began

    def discard(self, error: BadMessage, *, asked_again: bool = False) -> None:
        """Keep the error."""
        if not isinstance(error, BadMessage):
            raise TypeError(f"discard() got {type(error).__name__}, expected BadMessage")
        self.discarded.append(error)
        super().discard(error, asked_again=asked_again)

    def instruments(self, table: Iterable[Instrument]) -> None:
        """Keep the table."""
        self.listed = list(table)
        super().instruments(self.listed)

    def of(self, feed: Feed) -> list[Published]:
        """Return the records of a feed so far."""
        return [one for one in self.published if Feed(*one.topic[1:]) == feed]

    def _reject(self, record: Record, fault: str) -> None:
        self.rejected.append(f"{fault}: {str(record)[:200]}")
        super()._reject(record, fault)


class SuiteServer:
    """A broker that runs as in the server, for one check."""

    def __init__(
        self,
        case: BrokerCase[Any],
        venue: Any,
        watch: SessionWatch,
        log: structlog.stdlib.BoundLogger,
        entries: list[str],
        silence_s: float | None,
    ) -> None:
        self.case = case
        self.venue = venue
        self.watch = watch
        self.log_lines = entries
        self.states: list[tuple[State, str]] = []
        self.config = load_settings(case.plugin, case.settings(venue))
        self.host = SuiteHost(case.plugin.name, log, watch)
        self.demand = self.host.demand
        self.broker = SupervisedBroker(
            attrs.evolve(case.plugin, silence_s=silence_s),
            lambda: case.make_broker(self.config),
            self.demand,
            self.host,
            self.host.metrics,
            backoff=Backoff(0.05, 0.2),
        )
        self.broker.listeners.append(lambda _, state, message: self.states.append((state, message)))

    def want(self, feeds: Iterable[Feed]) -> None:
        """Subscribe to ``feeds``, as a client would."""
        for feed in feeds:
            self.demand.hold(feed)

    def let_go(self, feeds: Iterable[Feed]) -> None:
        """Unsubscribe from ``feeds``."""
        for feed in feeds:
            self.demand.release(feed)

    async def until(self, condition: Callable[[], Any], what: str, within_s: float | None = None) -> None:
        """Return once ``condition`` holds; raise Failed with ``what`` was expected after ``within_s`` or patience_s."""

        def holds() -> Any:
            self._verify_records()
            return condition()

        discarded = len(self.host.discarded)
        try:
            await until(holds, what, self.case.patience_s if within_s is None else within_s)
        except Failed as error:
            raise Failed(f"{error}{self._told_of(discarded)}") from None

    async def wait_state(self, state: str, within_s: float | None = None) -> None:
        """Wait until the broker is in a state."""

        def there() -> bool:
            if self.broker.state == "failed" != state:
                raise Failed(f"the broker has failed: {self.broker.last_error}")
            return self.broker.state == state

        await self.until(
            there, f"state {state}, found {self.broker.state} ({self.broker.last_error})", within_s
        )

    async def wait_served(self, feeds: Iterable[Feed], within_s: float | None = None) -> None:
        """Wait until all ``feeds`` are confirmed and the venue serves them."""
        feeds = frozenset(feeds)
        symbols = {feed.symbol for feed in feeds}

        def served() -> bool:
            for feed in feeds:
                if reason := self.demand.refused().get(feed):
                    raise Failed(f"{feed.symbol} {feed.type} was refused: {reason}")
            at_venue = self.case.served(self.venue)
            return all(self.demand.status(f) == "active" for f in feeds) and (
                at_venue is None or symbols <= set(at_venue)
            )

        waiting = ", ".join(sorted(symbols))
        await self.until(served, f"{waiting} confirmed to the host and served by the venue", within_s)

    async def wait_unserved(self, symbols: Collection[str]) -> None:
        """Wait until the venue serves none of ``symbols`` to any client."""
        await self.until(
            lambda: not set(self.case.served(self.venue) or ()) & set(symbols),
            f"the venue no longer serves {', '.join(sorted(symbols))}",
        )

    async def check_quiet(self, feeds: Collection[Feed]) -> None:
        """Raise Failed if records of feeds without subscribers keep arriving."""

        def count() -> int:
            return sum(len(self.host.of(feed)) for feed in feeds)

        deadline = trio.current_time() + self.case.patience_s
        before = -1
        while before != (before := count()):
            if trio.current_time() > deadline:
                raise Failed("records of a feed keep arriving after its last subscriber has left")
            await trio.sleep(0.1)

    async def wait_record(self, feed: Feed, within_s: float | None = None) -> Published:
        """Make the venue send a record, and wait for it."""
        count = len(self.host.of(feed))
        price = await self.case.send(self.venue, feed)

        def came() -> Published | None:
            return next((one for one in self.host.of(feed)[count:] if is_priced(one.record, price)), None)

        found = "" if price is None else f" at {price!r}"
        await self.until(came, f"the {feed.type} of {feed.symbol} that the venue sent{found}", within_s)
        record = came()
        assert record is not None  # noqa: S101 - just waited for
        return record

    async def wait_priced(self, feed: Feed, price: float | None) -> None:
        """Wait until there is a record at this price."""
        records = self.host.of(feed)
        last = str(records[-1].record)[:120] if records else "none"
        await self.until(
            lambda: any(is_priced(one.record, price) for one in self.host.of(feed)),
            f"a {feed.type} of {feed.symbol} at {price!r}; the previous one was {last}",
        )

    async def wait_tried(self) -> None:
        """Wait until the broker has tried twice more, or has failed for good."""
        tried = self.broker.attempt + 2
        await self.until(
            lambda: self.broker.attempt >= tried or self.broker.state == "failed",
            "another attempt at the venue that refuses, or the state failed",
        )

    async def wait_records(self, feeds: Iterable[Feed]) -> None:
        """Make the venue send a record of each feed, and wait for it."""
        for feed in sorted(feeds):
            await self.wait_record(feed)

    async def wait_records_again(self, feeds: Iterable[Feed]) -> None:
        """Wait until records of all feeds arrive again, even if sessions end and begin in the meantime."""
        for feed in sorted(feeds):
            count, discarded = len(self.host.of(feed)), len(self.host.discarded)
            deadline = trio.current_time() + self.case.patience_s
            while len(self.host.of(feed)) == count:
                if self.broker.state == "failed":
                    raise Failed(f"the broker has failed: {self.broker.last_error}")
                if trio.current_time() > deadline:
                    raise Failed(
                        f"no {feed.type} of {feed.symbol} within {self.case.patience_s:g} s: the broker does not "
                        f"recover (state {self.broker.state}, {self.broker.last_error}){self._told_of(discarded)}"
                    )
                await self.case.send(self.venue, feed)
                await self._pause(0.2, feed, count)

    async def _pause(self, at_most_s: float, feed: Feed, count: int) -> None:
        """Wait up to ``at_most_s``, or until there are more than ``count`` records of the feed."""
        deadline = trio.current_time() + at_most_s
        while len(self.host.of(feed)) == count and trio.current_time() < deadline:  # noqa: ASYNC110 - until() fails
            await trio.sleep(0.005)

    def _told_of(self, discarded: int) -> str:
        """Return what the plugin could not decode since a number of discarded messages, as the rest of a sentence."""
        new = self.host.discarded[discarded:]
        return (
            f"; the plugin discarded {len(new)} meanwhile, the last one: {quoted(str(new[-1]), 200)}"
            if new
            else ""
        )

    def verify(self) -> None:
        """Raise Failed for anything that must not happen in any check."""
        self._verify_records()
        if crash := next((line for line in self.log_lines if "broker crashed" in line), None):
            raise Failed(
                f"the session raised an error that is neither Unavailable nor Rejected: {crash[-400:]}"
            )

    def _verify_records(self) -> None:
        if self.host.rejected:
            raise Failed(f"the server refuses this record ({self.host.rejected[0]})")


def is_priced(record: Record | Gap, price: float | None) -> bool:
    """Return whether a record has this price; None matches every record."""
    if price is None:
        return True
    for name in ("bid", "price", "close"):
        if (found := getattr(record, name, None)) is not None:
            return bool(found == price)
    bids: tuple[Any, ...] = getattr(record, "bids", ())
    return bool(bids) and bool(bids[0][0] == price)


@asynccontextmanager
async def open_server(
    case: BrokerCase[Any], venue: Any, watch: SessionWatch, *, silence_s: float | None = None
) -> AsyncIterator[SuiteServer]:
    """Run the broker under the server's supervisor for the length of the block; Failed if it does not stop."""
    with captured_log() as (log, entries):
        server = SuiteServer(case, venue, watch, log, entries, silence_s)
        over = trio.Event()

        async def run() -> None:
            mark_session()
            try:
                await server.broker.run()
            finally:
                over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield server
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        if (took_s := trio.current_time() - began) > STOP_S:
            raise Failed(f"a cancelled session took {took_s:.1f} s to end, expected {STOP_S:g} s at most")
        server.verify()


def load_settings(plugin: BrokerPlugin | HistoryPlugin, settings: Mapping[str, object]) -> Any:
    """Return the plugin's config object, made as from a config file. Raises Failed with all problems."""
    section = "brokers" if isinstance(plugin, BrokerPlugin) else "history"
    entry = {"name": "suite", "plugin": plugin.name, **settings}
    classes: dict[str, type | None] = {plugin.name: plugin.config}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps({section: [entry]}), encoding="utf-8")  # JSON is YAML too
        try:
            config = load_config(
                path,
                environ={},
                brokers=classes if section == "brokers" else {},
                history=classes if section == "history" else {},
            )
        except ConfigError as error:
            raise Failed(f"the case's settings are no good config: {error}") from None
    return getattr(config, section)[0].settings


def secrets_of(config: Any) -> list[str]:
    """Return the values of a config object that must never be shown."""
    values = (getattr(config, field.name) for field in attrs.fields(type(config)) if is_secret(field))
    return [value for value in values if isinstance(value, str) and value]


@contextmanager
def captured_log() -> Any:
    """Give a log and the list of its lines, unredacted; lines of the standard library's loggers are among them."""
    lines: list[str] = []

    def keep(_: object, level: str, event: Any) -> Any:
        error = event.pop("exc_info", None)
        if isinstance(error, BaseException):
            event["exception"] = "".join(traceback.format_exception(error))
        lines.append(f"{level} {dict(event)}")
        raise structlog.DropEvent

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname} {record.getMessage()}")

    log = structlog.wrap_logger(
        logging.getLogger("mdserver.conformance"),
        processors=[keep],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = Handler(level=logging.DEBUG)
    logging.getLogger().addHandler(handler)
    try:
        yield log, lines
    finally:
        logging.getLogger().removeHandler(handler)
