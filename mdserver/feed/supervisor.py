"""Keeps every broker running: sessions, backoff, watchdog, state.

One broker's failure never reaches another: a session's errors end here. Named failures are handled by
name; anything else is a bug of the plugin, logged whole and tried again a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import time
from typing import Literal, TypeAlias

import trio
from msgspec import Struct

from ..backoff import Backoff
from ..errors import ConfigError, Rejected, Unavailable, leaves
from ..metrics import Metrics
from ..plugin import Broker, BrokerPlugin
from .broker_host import Host, clean_text
from .demand import BrokerDemand

__all__ = ["BrokerState", "StateName", "SupervisedBroker", "Supervisor"]

StateName: TypeAlias = Literal["starting", "live", "degraded", "backoff", "failed", "stopped"]

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
STABLE_S = 60.0
"""A session that was live this long resets the backoff."""
MAX_CRASHES = 5
"""Unknown exceptions in a row after which a broker is given up."""
START_TIMEOUT_S = 60.0
"""A session must be connected within this time."""
STOP_TIMEOUT_S = 3.0
"""A cancelled session may clean up this long."""

StateListener: TypeAlias = Callable[["SupervisedBroker", StateName, str], None]
"""Called with the broker, its new state, and a text for people."""


class BrokerState(Struct, frozen=True):
    """A broker as operators see it. Times are Unix seconds.

    ``feeds`` counts what is wanted now, ``active`` what the venue confirmed of it.
    """

    name: str
    plugin: str
    state: StateName
    since: float
    attempt: int
    last_error: str | None
    last_event: float | None
    feeds: int
    active: int
    refused: dict[str, str]


class SupervisedBroker:
    """One broker: its plugin, its demand, its host and its state."""

    def __init__(
        self,
        plugin: BrokerPlugin,
        make: Callable[[], Broker],
        demand: BrokerDemand,
        host: Host,
        metrics: Metrics,
    ) -> None:
        self.name = host.name
        self.plugin = plugin
        self.demand = demand
        self.host = host
        self.state: StateName = "starting"
        self.since_s = time()
        self.attempt = 0
        self.last_error: str | None = None
        self.listeners: list[StateListener] = []
        self._make = make
        self._metrics = metrics
        self._crashes = 0
        self._backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)

    def snapshot(self) -> BrokerState:
        """Return the state now."""
        refused = {f"{feed.symbol} {feed.type}": why for feed, why in self.demand.refused().items()}
        state: StateName = "degraded" if self.state == "live" and refused else self.state
        return BrokerState(
            self.name,
            self.plugin.name,
            state,
            self.since_s,
            self.attempt,
            self.last_error,
            self.host.last_event_s,
            len(self.demand.current()),
            self.demand.count(),
            refused,
        )

    async def run(self) -> None:
        """Run sessions until cancelled, or until the broker is given up (state ``failed``)."""
        log = self.host.log
        try:
            while True:
                wait_s = await self._one_session()
                if wait_s is None:
                    log.error("broker given up", error=self.last_error)
                    self._enter("failed", self.last_error or "")
                    # who waits for an answer gets it, or the next broker's
                    self.demand.refuse(self.demand.current(), f"{self.name} has failed: {self.last_error}")
                    return
                log.info("broker backs off", seconds=round(wait_s, 1), attempt=self.attempt)
                self._enter("backoff", f"next attempt in {wait_s:.0f} s: {self.last_error}")
                await trio.sleep(wait_s)
        except trio.Cancelled:
            self._enter("stopped", "the server stops")
            raise

    async def _one_session(self) -> float | None:
        """Run one session; return how long to wait before the next, or None to give up."""
        self.attempt += 1
        self.demand.begin_session()
        self._enter("starting", "connecting")
        live_since: float | None = None
        error: BaseException

        def went_live() -> None:
            nonlocal live_since
            live_since = trio.current_time()
            self._enter("live", "connected")

        outcome, error, final = "", Unavailable(""), False
        try:
            await self._session(went_live)
        except* (Rejected, ConfigError) as group:
            outcome, error, final = "rejected", next(leaves(group)), True
        except* (Unavailable, OSError, trio.TooSlowError, trio.BrokenResourceError) as group:
            outcome, error = "unavailable", next(leaves(group))
        except* Exception as group:  # a plugin's bug must not stop the server; logged whole
            self.host.log.exception("broker crashed", exc_info=group)
            self._crashes += 1
            outcome, error = "crashed", next(leaves(group))
        self.demand.end_session()
        if live_since is not None:
            self.host.gap("disconnected")
        if live_since is not None and trio.current_time() - live_since >= STABLE_S:
            self.attempt = self._crashes = 0
            self._backoff.reset()
        return self._note(outcome, error, give_up=final or self._crashes >= MAX_CRASHES)

    async def _session(self, went_live: Callable[[], None]) -> None:
        broker = self._make()
        async with trio.open_nursery() as nursery:
            with trio.fail_after(START_TIMEOUT_S):
                await nursery.start(self._pump, broker)
            went_live()
            if self.plugin.silence_s is not None:
                await self._watch(self.plugin.silence_s, nursery)

    async def _pump(self, broker: Broker, *, task_status: trio.TaskStatus[None]) -> None:
        await broker.run(self.host, task_status=task_status)
        raise Unavailable("the venue ended the session")

    async def _watch(self, silence_s: float, nursery: trio.Nursery) -> None:
        """End a session that gave neither records nor heartbeats for ``silence_s`` though feeds are wanted."""
        seen, since = self.host.last_event_s, trio.current_time()
        while True:
            await trio.sleep(silence_s / 10)
            now = trio.current_time()
            if self.host.last_event_s != seen or not self.demand.current():
                seen, since = self.host.last_event_s, now
            elif now - since > silence_s:
                raise Unavailable(f"nothing from the venue for {now - since:.0f} s")

    def _note(self, outcome: str, error: BaseException, *, give_up: bool) -> float | None:
        """Count a session's end; return the pause before the next one, None to give up."""
        self.last_error = clean_text(str(error)) or type(error).__name__
        self._metrics.sessions.labels(self.name, outcome).inc()
        self.host.log.warning("broker session over", outcome=outcome, error=self.last_error)
        if give_up:
            return None
        return self._backoff.next_s(error.retry_after_s if isinstance(error, Unavailable) else None)

    def _enter(self, state: StateName, message: str) -> None:
        if state == self.state and state != "starting":
            return
        self.state, self.since_s = state, time()
        self._metrics.broker_up.labels(self.name).set(state == "live")
        self.host.log.info("broker state", state=state, message=message)
        for listener in tuple(self.listeners):
            listener(self, state, message)


class Supervisor:
    """All brokers, in config order."""

    def __init__(self, brokers: Iterable[SupervisedBroker]) -> None:
        self.brokers = {broker.name: broker for broker in brokers}

    def states(self) -> list[BrokerState]:
        """Return every broker's state, in config order."""
        return [broker.snapshot() for broker in self.brokers.values()]

    async def run(self) -> None:
        """Run all brokers until cancelled."""
        async with trio.open_nursery() as nursery:
            for broker in self.brokers.values():
                nursery.start_soon(broker.run)
            await trio.sleep_forever()
